// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The report as text.

use std::fmt::{self, Display, Write};

use super::{
    faults::Fault,
    log::Told,
    part::{Outcome, Part},
    story::{Story, NOTES_MAX},
};
use crate::status::{
    histogram::Histogram,
    table::{why, Span},
};

/// A time of day in UTC.
struct Date(u64);

impl Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1_000_000;
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Days since 0000-03-01, in eras of 400 years.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year + u64::from(month <= 2);
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:03}",
            second / 3600,
            second / 60 % 60,
            second % 60,
            self.0 / 1000 % 1000
        )
    }
}

struct Named(Fault);

impl Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fault = &self.0;
        write!(f, "SID {:#x}", fault.sid)?;
        if let Some(ssid) = fault.ssid {
            write!(f, ", SSID {ssid:#x}")?;
        }
        write!(f, ", address {:#x}", fault.addr)
    }
}

/// The lines about the logs and all that is in them.
pub fn text(logs: &[(String, Told)], story: &Story) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, logs, story);
    out
}

fn write(out: &mut String, logs: &[(String, Told)], story: &Story) -> fmt::Result {
    for (name, told) in logs {
        log(out, name, told)?;
    }
    let figures = &story.figures;
    writeln!(
        out,
        "faults: {} read, {} answered, {} refused, {} aborted, {} unanswered at the end; \
         {} unknown answers",
        figures.read,
        figures.answered,
        figures.refused,
        figures.aborted,
        story.unanswered,
        figures.unknown_answers
    )?;
    times(out, "read to event", &figures.read_to_event)?;
    times(out, "event to answer", &figures.event_to_answer)?;
    times(out, "answer to written", &figures.answer_to_written)?;
    times(out, "whole", &figures.whole)?;
    writeln!(
        out,
        "submissions: {} queued, {} replayed",
        figures.submitted, figures.replayed
    )?;
    let drains = &story.drains;
    writeln!(
        out,
        "drains: {} begun, {} drained, {} failed, {} given up",
        drains.begun, drains.drained, drains.failed, drains.given_up
    )?;
    if drains.drained > 0 {
        times(out, "drained in", &drains.times)?;
    }
    if story.left_out > 0 {
        writeln!(
            out,
            "{} marks and spans are not drawn: they are before the first section or drain, or one \
             has more than {NOTES_MAX}",
            story.left_out
        )?;
    }
    story.parts.iter().try_for_each(|one| part(out, one))
}

fn log(out: &mut String, name: &str, told: &Told) -> fmt::Result {
    writeln!(
        out,
        "{name}: {} events, {} to {} UTC",
        told.events,
        Date(told.first_us),
        Date(told.last_us)
    )?;
    if told.lost > 0 {
        writeln!(
            out,
            "  {} events are missing, as they came faster than they could be written",
            told.lost
        )?;
    }
    if told.backwards > 0 {
        writeln!(
            out,
            "  line {} is earlier than the one before; {} such lines in all: a clock was set back, \
             or lines were put in",
            told.last_backwards, told.backwards
        )?;
    }
    if told.torn > 0 {
        writeln!(
            out,
            "  line {} is torn and left out; {} such lines in all",
            told.last_torn, told.torn
        )?;
    }
    if told.unknown > 0 {
        writeln!(
            out,
            "  {} lines are of events that this release does not know",
            told.unknown
        )?;
    }
    Ok(())
}

fn times(out: &mut String, name: &str, histogram: &Histogram) -> fmt::Result {
    let durations = histogram.durations();
    writeln!(
        out,
        "  {name:18} {:>10} times, p50 {:>8}, p99 {:>8}, max {:>8}",
        durations.count,
        Span(durations.p50_ns).to_string(),
        Span(durations.p99_ns).to_string(),
        Span(durations.max_ns).to_string()
    )
}

fn part(out: &mut String, part: &Part) -> fmt::Result {
    let Some(drain) = &part.drain else {
        return Ok(());
    };
    let end_us = drain.end_us.unwrap_or(drain.begin_us);
    let took = Span(end_us.saturating_sub(drain.begin_us).saturating_mul(1000));
    write!(
        out,
        "  {}, generation {}, {} UTC: ",
        part.title,
        drain.generation,
        Date(drain.begin_us)
    )?;
    match drain.outcome {
        Outcome::Open => write!(out, "the log ends before it")?,
        Outcome::Drained { answered } => {
            write!(out, "drained in {took}, {answered} faults answered")?;
        }
        Outcome::GivenUp => write!(out, "given up after {took}")?,
        Outcome::Failed {
            reason,
            outstanding,
            untaken_device,
        } => {
            let why = why(reason);
            let limit = drain.timeout_ms;
            write!(
                out,
                "FAILED after {took} of {limit} ms: {why}, {outstanding} outstanding"
            )?;
            if let Some(device) = untaken_device {
                write!(out, "; device {device} does not take its answers")?;
            }
        }
    }
    writeln!(out, "; {} submissions queued", part.queued.count)?;
    if let Some(fault) = part.fault {
        let end_us = fault.written_us.or(drain.end_us).unwrap_or(fault.read_us);
        let lasted = Span(end_us.saturating_sub(fault.read_us).saturating_mul(1000));
        let until = match fault.written_us {
            Some(_) => "answered after",
            None => "NOT ANSWERED for",
        };
        writeln!(
            out,
            "    its longest fault: {}, {until} {lasted}",
            Named(fault)
        )?;
    }
    if let Some(save) = part.save {
        writeln!(
            out,
            "    state saved: {} B, {} submissions",
            save.bytes, save.pending
        )?;
    }
    arrival(out, part)
}

fn arrival(out: &mut String, part: &Part) -> fmt::Result {
    let (Some(save), Some(arrival)) = (part.save, &part.arrival) else {
        return Ok(());
    };
    if let Some(load_us) = arrival.load_us {
        let ns = |us: u64| Span(us.saturating_mul(1000));
        match load_us.checked_sub(save.t_us) {
            Some(us) => writeln!(out, "    loaded {} later at the destination", ns(us))?,
            None => writeln!(
                out,
                "    loaded {} EARLIER at the destination: the clocks of the hosts differ by \
                 more than that",
                ns(save.t_us - load_us)
            )?,
        }
    }
    let order = if arrival.in_order {
        "in order"
    } else {
        "OUT OF ORDER"
    };
    write!(out, "    {} replayed {order}", arrival.replayed.count)?;
    match (arrival.release_us, arrival.released_us) {
        (Some(begin), Some(end)) => {
            let took = Span(end.saturating_sub(begin).saturating_mul(1000));
            writeln!(out, " in {took}")
        }
        (Some(_), None) => writeln!(out, "; the log ends before all were"),
        _ => writeln!(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_date_is_that_of_the_calendar() {
        for (us, text) in [
            (0, "1970-01-01 00:00:00.000"),
            (951_782_400_000_000, "2000-02-29 00:00:00.000"),
            (1_795_737_599_123_000, "2026-11-26 23:59:59.123"),
        ] {
            assert_eq!(Date(us).to_string(), text);
        }
        // Whatever a log says.
        assert!(!Date(u64::MAX).to_string().is_empty());
    }
}
