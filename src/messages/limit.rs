// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! How often one place in the program may speak.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::lock::lock;

/// Messages of one place in a row.
const BURST: u32 = 100;
/// Then one for each of these.
const INTERVAL: Duration = Duration::from_millis(100);
/// A place that has not been heard of for so long may not speak again: what was suppressed of it is
/// told then.
pub const QUIET: Duration = Duration::from_secs(1);

/// A place in the program: file and line.
pub type Site = (&'static str, Option<u32>);

/// Knows how much each place has said.
#[derive(Default)]
pub struct Limit(Mutex<HashMap<Site, Said>>);

struct Said {
    /// How many more may come at once.
    left: u32,
    /// Since when that is right.
    since: Instant,
    suppressed: u64,
    /// The first of them, and when the last one came.
    first: String,
    last: Instant,
}

/// What was suppressed of a place.
#[derive(Debug, PartialEq)]
pub struct Suppressed {
    pub count: u64,
    /// The first of them.
    pub first: String,
}

impl Limit {
    /// Whether `site` may speak now; if so, how many messages of it were suppressed since it last
    /// did. `text` is what it has to say.
    pub fn admit(&self, site: Site, now: Instant, text: impl FnOnce() -> String) -> Option<u64> {
        let mut sites = lock(&self.0);
        let said = sites.entry(site).or_insert(Said {
            left: BURST,
            since: now,
            suppressed: 0,
            first: String::new(),
            last: now,
        });
        let intervals =
            now.saturating_duration_since(said.since).as_millis() / INTERVAL.as_millis();
        let intervals = u32::try_from(intervals).unwrap_or(u32::MAX);
        if said.left == BURST || intervals >= BURST {
            said.since = now;
            said.left = BURST;
        } else {
            said.since += INTERVAL * intervals;
            said.left = BURST.min(said.left + intervals);
        }
        if said.left == 0 {
            if said.suppressed == 0 {
                said.first = text();
            }
            said.suppressed += 1;
            said.last = now;
            return None;
        }
        said.left -= 1;
        Some(std::mem::take(&mut said.suppressed))
    }

    /// What was suppressed of places that have been quiet for so long.
    pub fn quiet(&self, now: Instant, least: Duration) -> Vec<Suppressed> {
        lock(&self.0)
            .values_mut()
            .filter(|said| said.suppressed > 0)
            .filter(|said| now.saturating_duration_since(said.last) >= least)
            .map(|said| Suppressed {
                count: std::mem::take(&mut said.suppressed),
                first: std::mem::take(&mut said.first),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Site = ("here", Some(1));

    fn admit(limit: &Limit, site: Site, now: Instant) -> Option<u64> {
        limit.admit(site, now, || "what it says".to_owned())
    }

    #[test]
    fn test_site_that_repeats_itself_is_suppressed_and_counted() {
        let (limit, start) = (Limit::default(), Instant::now());
        let admitted = |count| {
            (0..count)
                .filter(|_| admit(&limit, HERE, start).is_some())
                .count()
        };
        assert_eq!(admitted(5000), BURST as usize);
        assert_eq!(admit(&limit, HERE, start + INTERVAL), Some(4900));
        assert_eq!(admit(&limit, HERE, start + INTERVAL), None);
        assert_eq!(admit(&limit, HERE, start + 2 * INTERVAL), Some(1));
    }

    #[test]
    fn test_site_that_has_been_quiet_may_say_as_much_as_at_first() {
        let (limit, start) = (Limit::default(), Instant::now());
        while admit(&limit, HERE, start).is_some() {}
        let later = start + INTERVAL * BURST;
        let admitted = (0..200).filter(|_| admit(&limit, HERE, later).is_some());
        assert_eq!(admitted.count(), BURST as usize);
    }

    #[test]
    fn test_other_site_is_not_suppressed() {
        let (limit, start) = (Limit::default(), Instant::now());
        while admit(&limit, HERE, start).is_some() {}
        assert_eq!(admit(&limit, ("here", Some(2)), start), Some(0));
    }

    #[test]
    fn test_site_that_does_not_speak_again_is_told_once_it_has_been_quiet() {
        let (limit, start) = (Limit::default(), Instant::now());
        for n in 0..BURST + 3 {
            limit.admit(HERE, start, || format!("request {n}"));
        }

        assert_eq!(limit.quiet(start, QUIET), []);
        let told = limit.quiet(start + QUIET, QUIET);

        let first = format!("request {BURST}");
        assert_eq!(told, [Suppressed { count: 3, first }]);
        assert_eq!(limit.quiet(start + QUIET, Duration::ZERO), []);
    }
}
