// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Times at which something has happened often, in bounded memory.

const RUNS_MAX: usize = 256;

/// Times at which something has happened often, as a few runs.
#[derive(Clone, Debug)]
pub struct Runs {
    /// First and last time of each.
    pub runs: Vec<(u64, u64)>,
    /// How often in all.
    pub count: u64,
    gap_us: u64,
}

impl Default for Runs {
    fn default() -> Self {
        Runs {
            runs: Vec::new(),
            count: 0,
            gap_us: 2000,
        }
    }
}

impl Runs {
    /// It has happened.
    pub fn add(&mut self, t_us: u64) {
        self.count += 1;
        match self.runs.last_mut() {
            Some(last) if t_us <= last.1.saturating_add(self.gap_us) => last.1 = last.1.max(t_us),
            _ => self.runs.push((t_us, t_us)),
        }
        while self.runs.len() > RUNS_MAX {
            self.gap_us = self.gap_us.saturating_mul(2);
            let gap_us = self.gap_us;
            self.runs.dedup_by(|next, last| {
                let joined = next.0 <= last.1.saturating_add(gap_us);
                if joined {
                    last.1 = last.1.max(next.1);
                }
                joined
            });
        }
    }

    /// When it began.
    pub fn first(&self) -> Option<u64> {
        self.runs.first().map(|run| run.0)
    }
}
