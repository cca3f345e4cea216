// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Replays the traces of several QEMUs, and what their back-ends have logged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::lanes::{check_events, check_portal, Connection};
use super::machine::{Machine, SavedState, Suspect};
use super::qemu::{self, Event, Step, VmStep};
use super::{events, Place, TraceError};
use crate::front_end::{violation, Violation};

/// The log of a back-end, and the QEMU that was connected to it.
#[derive(Clone, Debug)]
pub struct BackEndLog {
    /// The event log.
    pub events: PathBuf,
    /// The trace of the QEMU. For several of them name both files again, in the order of their
    /// connections.
    pub trace: PathBuf,
    /// The id of its vhost-user-vsva device, if it has more than one.
    pub id: Option<String>,
}

/// What is replayed.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// QEMU's trace logs.
    pub traces: Vec<PathBuf>,
    /// Back-ends of some of them.
    pub back_ends: Vec<BackEndLog>,
    /// The VMs may be stopped undrained (`x-unsafe-no-drain`).
    pub without_drain: bool,
}

/// What was replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Steps of the front ends.
    pub steps: usize,
    /// Messages that the back-ends have logged.
    pub messages: usize,
}

/// One QEMU.
struct Trace<'a> {
    path: &'a Path,
    text: &'a str,
    /// The next line, from 0.
    next: usize,
    machines: BTreeMap<String, Machine>,
    /// The VM's run state, as its last change has it.
    run_state: Option<String>,
    /// The run states since somebody was notified of one.
    not_notified: Vec<String>,
    steps: usize,
    drains: bool,
}

fn read(path: &Path) -> Result<String, TraceError> {
    let bytes = fs::read(path).map_err(|source| TraceError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn unreadable(path: &Path, place: Place, what: String) -> TraceError {
    TraceError::Unreadable {
        path: path.to_owned(),
        line: place.line,
        what,
        text: place.text.to_owned(),
    }
}

/// Lines from 1. The last one may have been cut when the program was killed.
fn lines(text: &str) -> impl Iterator<Item = Place<'_>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let numbered = whole.lines().enumerate();
    numbered.map(|(index, text)| Place {
        line: index + 1,
        text,
    })
}

fn illegal(path: &Path, place: Place, violation: Violation, state: String) -> TraceError {
    TraceError::Illegal {
        path: path.to_owned(),
        line: place.line,
        violation,
        state,
        text: place.text.to_owned(),
    }
}

/// The line of this number, from 1.
fn line_of(text: &str, line: usize) -> Place<'_> {
    let found = line.checked_sub(1).and_then(|skip| text.lines().nth(skip));
    Place {
        line,
        text: found.unwrap_or_default(),
    }
}

impl<'a> Trace<'a> {
    fn new(path: &'a Path, text: &'a str, drains: bool) -> Self {
        Self {
            path,
            text,
            next: 0,
            machines: BTreeMap::new(),
            run_state: None,
            not_notified: Vec::new(),
            steps: 0,
            drains,
        }
    }

    /// Goes on to the end, or to a state that nobody has saved so far; then this line is returned.
    fn run(&mut self, saved: &mut Vec<SavedState>) -> Result<Option<Place<'a>>, TraceError> {
        for place in lines(self.text).skip(self.next) {
            let event = qemu::parse(place).map_err(|what| unreadable(self.path, place, what))?;
            let goes_on = match event {
                None => true,
                Some((_, Event::Vm(step))) => {
                    self.vm_step(place, &step)?;
                    true
                }
                Some((time, Event::Device { id, step })) => {
                    self.device_step(place, time, &id, &step, saved)?
                }
            };
            if !goes_on {
                return Ok(Some(place));
            }
            self.next += 1;
        }
        Ok(None)
    }

    fn vm_step(&mut self, place: Place, step: &VmStep) -> Result<(), TraceError> {
        let known = match step {
            VmStep::RunState { from, to } => {
                self.not_notified.push(to.clone());
                let was = self.run_state.replace(to.clone());
                was.is_none_or(|was| was == *from)
            }
            // Who stops a VM lets go of the BQL while vCPUs stop; a migration can then set its own.
            VmStep::Notify { state, .. } => {
                let since = std::mem::take(&mut self.not_notified);
                since.contains(state) || self.run_state.as_ref() == Some(state)
            }
            _ => true,
        };
        if !known {
            let what = String::from("the run state before it is another one");
            return Err(unreadable(self.path, place, what));
        }
        for machine in self.machines.values_mut() {
            if let Err(violation) = machine.vm_step(step) {
                return Err(illegal(self.path, place, violation, machine.state()));
            }
        }
        Ok(())
    }

    /// Returns false if somebody else must come first.
    fn device_step(
        &mut self,
        place: Place,
        time: &str,
        id: &str,
        step: &Step,
        saved: &mut Vec<SavedState>,
    ) -> Result<bool, TraceError> {
        if let Step::Connected {
            max_pending,
            features,
            drain,
        } = *step
        {
            let can = features & 1 != 0;
            let machine = Machine::new(max_pending, drain.unwrap_or(can && self.drains));
            let wrong = match drain {
                Some(true) if !can => Some("drains are on, with a back-end that has none"),
                Some(false) if can && self.drains => Some("drains are off, as nobody has asked"),
                _ => None,
            };
            if let Some(what) = wrong {
                return violation("F2", what)
                    .map_err(|wrong| illegal(self.path, place, wrong, machine.state()));
            }
            self.machines.insert(id.to_owned(), machine);
        }
        let Some(machine) = self.machines.get_mut(id) else {
            // A start that has failed.
            return match step {
                Step::BackendGone => Ok(true),
                _ => Err(unreadable(
                    self.path,
                    place,
                    format!("no vsva_connected of {id}"),
                )),
            };
        };
        let (path, text) = (self.path, self.text);
        let suspect = |at: Suspect| {
            let place = line_of(text, at.line);
            illegal(path, place, at.violation, at.state)
        };
        machine.step(place.line, step).map_err(suspect)?;
        match step {
            Step::Saved { .. } => saved.push(machine.saved(id, time)),
            Step::Loaded(loaded) => {
                let fits = |state: &&SavedState| state.fits(id, loaded, time);
                let state = saved.iter().rev().find(fits);
                if state.is_none() && loaded.backend {
                    return Ok(false);
                }
                let before = machine.state();
                machine
                    .load(loaded, state)
                    .map_err(|violation| illegal(path, place, violation, before))?;
            }
            _ => {}
        }
        self.steps += 1;
        Ok(true)
    }
}

/// The connections of a back-end on which a front end has begun anew, and how many messages they
/// had.
fn connections(path: &Path, text: &str) -> Result<Vec<Connection>, TraceError> {
    let mut all = Vec::new();
    for place in lines(text) {
        let event = events::parse(place.text).map_err(|what| unreadable(path, place, what))?;
        let last: Option<&mut Connection> = all.last_mut();
        match (event, last) {
            (Some(events::Event::Overflow), _) => break,
            // What is left of the connection before belongs to nobody.
            (Some(events::Event::Reset), _) => all.push(Connection::default()),
            (Some(events::Event::Disconnected), Some(last)) => last.whole = true,
            (Some(events::Event::Taken(taken)), Some(last)) => last.taken.push((place.line, taken)),
            (Some(events::Event::Sent(sent)), Some(last)) => last.sent.push((place.line, sent)),
            _ => {}
        }
    }
    Ok(all)
}

fn check_back_ends(inputs: &Inputs, traces: &mut [Trace]) -> Result<usize, TraceError> {
    let mut messages = 0;
    let mut used: BTreeMap<&Path, usize> = BTreeMap::new();
    for log in &inputs.back_ends {
        let text = read(&log.events)?;
        let all = connections(&log.events, &text)?;
        let Some(trace) = traces.iter_mut().find(|trace| trace.path == log.trace) else {
            let what = format!("{} is not among the traces", log.trace.display());
            return Err(TraceError::Inputs(what));
        };
        let machine = match &log.id {
            Some(id) => trace.machines.get_mut(id),
            None if trace.machines.len() > 1 => {
                let what = format!("{} has several devices: which?", log.trace.display());
                return Err(TraceError::Inputs(what));
            }
            None => trace.machines.values_mut().next(),
        };
        // A start that has failed.
        let Some(machine) = machine else { continue };
        let index = used.entry(&log.events).or_default();
        let Some(connection) = all.get(*index) else {
            let what = format!(
                "{} has not seen {}",
                log.events.display(),
                log.trace.display()
            );
            return Err(TraceError::Inputs(what));
        };
        *index += 1;
        let all_taken = check_portal(&machine.posted, connection)
            .and_then(|()| check_events(&machine.posted, connection))
            .map_err(|(line, violation)| {
                let place = line_of(&text, line);
                illegal(&log.events, place, violation, machine.state())
            })?;
        // It has said no more: QEMU has ended before it could say that the back-end had gone.
        if all_taken {
            machine.unsaid_loss = None;
        }
        messages += connection.taken.len() + connection.sent.len();
    }
    Ok(messages)
}

/// Replays all of it.
pub fn replay(inputs: &Inputs) -> Result<Summary, TraceError> {
    let texts = inputs
        .traces
        .iter()
        .map(|path| read(path))
        .collect::<Result<Vec<_>, _>>()?;
    let mut traces = Vec::new();
    for (path, text) in inputs.traces.iter().zip(&texts) {
        traces.push(Trace::new(path, text, !inputs.without_drain));
    }
    let mut saved = Vec::new();
    loop {
        let before = traces.iter().map(|trace| trace.next).sum::<usize>();
        let mut waits = None;
        for (index, trace) in traces.iter_mut().enumerate() {
            if let Some(place) = trace.run(&mut saved)? {
                waits = waits.or(Some((index, place)));
            }
        }
        let Some((index, place)) = waits else { break };
        if before == traces.iter().map(|trace| trace.next).sum::<usize>() {
            let what = "the state that is loaded was saved by none of these QEMUs";
            let wrong = violation::<()>("F9", what).err();
            let state = String::from("nothing loaded");
            let Some(violation) = wrong else { break };
            return Err(illegal(traces[index].path, place, violation, state));
        }
    }
    let messages = check_back_ends(inputs, &mut traces)?;
    for trace in &traces {
        for machine in trace.machines.values() {
            if let Some(at) = machine.unsaid_loss.clone() {
                let place = line_of(trace.text, at.line);
                return Err(illegal(trace.path, place, at.violation, at.state));
            }
        }
    }
    Ok(Summary {
        steps: traces.iter().map(|trace| trace.steps).sum(),
        messages,
    })
}
