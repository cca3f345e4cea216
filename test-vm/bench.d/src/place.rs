// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Which core runs what.

use std::{fmt, io};

use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

/// How many cores the front end and the back-end have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// Both on one: what something costs.
    One,
    /// One each: what waking another core costs besides.
    Two,
}

/// The cores that there are.
pub struct Place {
    cores: Vec<usize>,
    /// The threads run with SCHED_FIFO.
    pub real_time: bool,
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cores::One => "one core",
            Cores::Two => "two cores",
        })
    }
}

impl Place {
    /// Looks at the machine and at how this process was started.
    pub fn new() -> io::Result<Self> {
        let set = sched_getaffinity(None)?;
        let cores = (0..CpuSet::MAX_CPU)
            .filter(|cpu| set.is_set(*cpu))
            .collect();
        // The second field is in parentheses and may have spaces; the policy is the 41st.
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let after = stat.rsplit(')').next().unwrap_or_default();
        Ok(Place {
            cores,
            real_time: after.split_whitespace().nth(38) == Some("1"),
        })
    }

    /// Whether it can be had.
    pub fn has(&self, cores: Cores) -> bool {
        cores == Cores::One || self.cores.len() > 1
    }

    /// Runs `start`, which starts the other side, there; this thread goes on on its own core.
    pub fn apart<T>(&self, cores: Cores, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let (first, last) = (self.cores[0], self.cores[self.cores.len() - 1]);
        pin(last)?;
        let result = start();
        pin(match cores {
            Cores::One => last,
            Cores::Two => first,
        })?;
        result
    }

    /// This thread may run everywhere again.
    pub fn anywhere(&self) -> io::Result<()> {
        let mut set = CpuSet::new();
        self.cores.iter().for_each(|cpu| set.set(*cpu));
        Ok(sched_setaffinity(None, &set)?)
    }

    /// For the results.
    pub fn describe(&self, cores: Cores) -> String {
        let class = if self.real_time {
            "SCHED_FIFO"
        } else {
            "SCHED_OTHER"
        };
        format!("{cores}, {class}")
    }
}

fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}
