// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Status documents for people, as a table of VMs and a block of lines for each.

use std::fmt::{self, Display, Write};

use super::{
    document::{Document, Fault, LastDrain, Outcome},
    estimate,
};
use crate::{core::Phase, wire::DrainFailedReason};

/// A back-end in a table.
pub struct Row {
    /// The VM's.
    pub name: String,
    /// What it says, or why it says nothing.
    pub status: Result<Document, String>,
}

/// The screen.
pub fn screen(rows: &[Row]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_table(&mut out, rows);
    for row in rows {
        let _ = match &row.status {
            Ok(document) => write_details(&mut out, &row.name, document),
            Err(e) => write!(out, "\n{}\n  {e}\n", row.name),
        };
    }
    out
}

fn write_table(out: &mut String, rows: &[Row]) -> fmt::Result {
    let width = rows
        .iter()
        .map(|row| row.name.len())
        .max()
        .unwrap_or(0)
        .max(2);
    writeln!(
        out,
        "{:width$} {:9} {:>7} {:>11} {:>7} {:>8} {:>8} {:>8} {:>8} {:>9}",
        "VM",
        "PHASE",
        "DEVICES",
        "OUTSTANDING",
        "PENDING",
        "FAULTS/S",
        "P50",
        "P99",
        "MAX",
        "OLDEST"
    )?;
    for row in rows {
        let Ok(document) = &row.status else {
            writeln!(out, "{:width$} no answer", row.name)?;
            continue;
        };
        let faults = &document.faults;
        let whole = &faults.times.whole;
        let oldest = faults.oldest.map_or("-".to_owned(), |fault| {
            Span(fault.age_ms.saturating_mul(1_000_000)).to_string()
        });
        writeln!(
            out,
            "{:width$} {:9} {:>7} {:>11} {:>7} {:>8.1} {:>8} {:>8} {:>8} {:>9}",
            row.name,
            phase(document.phase),
            document.devices.len(),
            faults.outstanding,
            document.submissions.pending,
            faults.per_second,
            Span(whole.p50_ns).to_string(),
            Span(whole.p99_ns).to_string(),
            Span(whole.max_ns).to_string(),
            oldest,
        )?;
    }
    Ok(())
}

fn write_details(out: &mut String, name: &str, document: &Document) -> fmt::Result {
    let faults = &document.faults;
    let front_end = if document.connected {
        "connected"
    } else {
        "not connected"
    };
    writeln!(
        out,
        "\n{name}: {}, generation {}, front end {front_end}",
        phase(document.phase),
        document.generation
    )?;
    writeln!(
        out,
        "  faults: {} of {} outstanding, share of a device {}; {} events wait, {} channels blocked",
        faults.outstanding, faults.max, faults.share, faults.backlog, faults.blocked
    )?;
    for (step, times) in faults.times.all() {
        writeln!(
            out,
            "  {:18} {:>10} times, p50 {:>8}, p99 {:>8}, max {:>8}",
            step.replace('_', " "),
            times.count,
            Span(times.p50_ns).to_string(),
            Span(times.p99_ns).to_string(),
            Span(times.max_ns).to_string()
        )?;
    }
    if let Some(fault) = faults.oldest {
        writeln!(out, "  oldest fault: {}", Named(fault))?;
    }
    for device in &document.devices {
        writeln!(
            out,
            "  device {}: SID {:#x}, {} of {} faults outstanding ({}), {} of {} submissions \
             pending; {} faults and {} submissions in all{}{}",
            device.device,
            device.sid,
            device.unanswered,
            device.fault_limit,
            match device.max_outstanding {
                0 => "its share",
                _ => "its own limit",
            },
            device.pending,
            device.pending_limit,
            device.faults_read,
            device.submissions,
            if device.held { ", held" } else { "" },
            if device.lost { ", LOST" } else { "" },
        )?;
    }
    writeln!(
        out,
        "  submissions: {} of {} pending, {} replayed",
        document.submissions.pending, document.submissions.max, document.submissions.replayed
    )?;
    let drains = &document.drains;
    write!(out, "  drains: {}, {} failed", drains.begun, drains.failed)?;
    match &drains.last {
        Some(last) => writeln!(out, "; the last: {}", DrainText(last))?,
        None => writeln!(out)?,
    }
    let estimate = &drains.estimate;
    writeln!(
        out,
        "  a drain of the last {} s: {} to {}, at worst {} to {}{}",
        estimate.moments,
        Span(estimate.at_least.p50_ns),
        Span(estimate.at_most.p50_ns),
        Span(estimate.at_least.max_ns),
        Span(estimate.at_most.max_ns),
        open(&estimate.at_least),
    )
}

fn open(duration: &estimate::Duration) -> &'static str {
    if duration.open > 0 {
        ", and not over"
    } else {
        ""
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Running => "RUNNING",
        Phase::Draining => "DRAINING",
        Phase::Drained => "DRAINED",
        Phase::Failed => "FAILED",
        Phase::Loaded => "LOADED",
        Phase::Releasing => "RELEASING",
    }
}

/// A duration in three digits and its unit.
pub struct Span(pub u64);

impl Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            0 => return f.write_str("0"),
            ns @ 1..1_000 => (ns as f64, "ns"),
            ns @ 1_000..1_000_000 => (ns as f64 / 1e3, "us"),
            ns @ 1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
            ns => (ns as f64 / 1e9, "s"),
        };
        let digits = if value < 9.995 {
            2
        } else {
            usize::from(value < 99.95)
        };
        write!(f, "{value:.digits$}{unit}")
    }
}

struct Named(Fault);

impl Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault {
            sid,
            ssid,
            addr,
            age_ms,
        } = self.0;
        write!(f, "SID {sid:#x}, ")?;
        if let Some(ssid) = ssid {
            write!(f, "SSID {ssid:#x}, ")?;
        }
        write!(f, "address {addr:#x}, {age_ms} ms old")
    }
}

/// Why a drain has failed, for people.
pub fn why(reason: DrainFailedReason) -> &'static str {
    match reason {
        DrainFailedReason::Deadline => "not drained at its deadline",
        DrainFailedReason::FaultTableFull => "no room for more faults",
        DrainFailedReason::FaultChannel => "a fault channel has broken",
        DrainFailedReason::Busy => "it could not start",
    }
}

struct DrainText<'a>(&'a LastDrain);

impl Display for DrainText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let drain = self.0;
        let took = Span(drain.duration_ns);
        match &drain.outcome {
            Outcome::Draining => write!(f, "under way for {took} of {} ms", drain.timeout_ms),
            Outcome::Drained { answered } => write!(f, "took {took}, {answered} faults answered"),
            Outcome::GivenUp => write!(f, "given up after {took}"),
            Outcome::Failed {
                reason,
                outstanding,
                untaken,
                untaken_device,
                oldest,
            } => {
                let why = why(*reason);
                write!(
                    f,
                    "FAILED after {took}: {why}, {outstanding} faults outstanding"
                )?;
                if let Some(oldest) = oldest {
                    write!(f, "; the oldest: {}", Named(*oldest))?;
                }
                match untaken_device {
                    Some(device) if *untaken > 0 => {
                        write!(f, "; device {device} does not take {untaken} answers")
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_span_has_three_digits_and_a_unit() {
        for (ns, text) in [
            (0, "0"),
            (999, "999ns"),
            (1_500, "1.50us"),
            (99_960, "100us"),
            (12_340_000, "12.3ms"),
            (7_000_000_000, "7.00s"),
        ] {
            assert_eq!(Span(ns).to_string(), text);
        }
    }
}
