// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Follows the faults: a fault is a slice on a track of its device and SSID, and its steps are
//! slices on the tracks of those who take them; a flow leads from one to the next.

use std::collections::HashMap;

use super::{
    moment::Moment,
    writer::{Lane, Name, Value, Writer},
};

/// Faults that are followed, as many as can be outstanding.
const FAULTS_MAX: u64 = 65_536;

#[derive(Clone, Copy)]
pub struct Fault {
    flow: u64,
    pub device: u32,
    stag: u16,
    /// The slice of the whole, and that of the step that it is in.
    whole: Lane,
    step: Lane,
}

/// The faults that are not over.
#[derive(Default)]
pub struct Faults {
    /// By channel and cookie.
    groups: HashMap<(u32, u32), Vec<Fault>>,
    by_stag: HashMap<u16, (u32, u32)>,
    count: u64,
}

impl Faults {
    /// A fault has been read: its whole and its first step begin.
    pub fn read(&mut self, writer: &mut Writer, moment: &Moment) {
        if self.count >= FAULTS_MAX {
            return;
        }
        self.count += 1;
        writer.name_device(moment.device, moment.sid);
        let process = writer.process(moment.device, moment.ssid);
        let whole = writer.lane(process);
        let step = writer.lane(Name::Backend);
        let fault = Fault {
            flow: writer.flow(),
            device: moment.device,
            stag: moment.stag,
            whole,
            step,
        };
        let name = format!("fault {:#x}", moment.first);
        let access = if moment.detail == 0 { "read" } else { "write" };
        let notes = [
            ("address", Value::Pointer(moment.first)),
            ("access", Value::Text(access)),
            ("sid", Value::Number(moment.sid.into())),
            ("stag", Value::Number(moment.stag.into())),
            ("channel", Value::Number(moment.channel.into())),
            ("cookie", Value::Number(moment.cookie.into())),
        ];
        writer.slice(
            moment.t_ns,
            whole,
            &format!("1: {name}"),
            &notes,
            fault.flow,
        );
        writer.slice(moment.t_ns, step, "2: read, event made", &[], fault.flow);
        let key = (moment.channel, moment.cookie);
        self.by_stag.insert(moment.stag, key);
        self.groups.entry(key).or_default().push(fault);
        writer.count(moment.t_ns, Name::Outstanding, self.count);
    }

    /// Its step ends, and another one begins.
    fn next_step(&mut self, writer: &mut Writer, moment: &Moment, name: Name, words: &str) {
        let Some(fault) = self.by_stag.get(&moment.stag).and_then(|key| {
            let group = self.groups.get(key)?;
            group.iter().find(|fault| fault.stag == moment.stag)
        }) else {
            return;
        };
        let (flow, before) = (fault.flow, fault.step);
        writer.end_slice(moment.t_ns, before);
        let step = writer.lane(name);
        writer.slice(moment.t_ns, step, words, &[], flow);
        let group = self.by_stag.get(&moment.stag);
        let group = group.and_then(|key| self.groups.get_mut(key));
        for fault in group.into_iter().flatten() {
            if fault.flow == flow {
                fault.step = step;
            }
        }
    }

    pub fn emitted(&mut self, writer: &mut Writer, moment: &Moment) {
        self.next_step(
            writer,
            moment,
            Name::Guest,
            "3, 4, 5: event queue to CMD_RESUME",
        );
    }

    pub fn answered(&mut self, writer: &mut Writer, moment: &Moment) {
        self.next_step(
            writer,
            moment,
            Name::Backend,
            "6, 7: answer to page response",
        );
        self.by_stag.remove(&moment.stag);
    }

    pub fn aborted(&mut self, writer: &mut Writer, moment: &Moment) {
        self.next_step(writer, moment, Name::Backend, "aborted: answered INVALID");
        self.by_stag.remove(&moment.stag);
    }

    pub fn written(&mut self, writer: &mut Writer, moment: &Moment) {
        let key = (moment.channel, moment.cookie);
        let Some(group) = self.groups.remove(&key) else {
            return;
        };
        let words = match moment.detail {
            0 => "8: the DMA goes on",
            1 => "8: the DMA is aborted",
            _ => "the kernel had aborted it",
        };
        for fault in group {
            self.end_fault(writer, moment, fault, words);
        }
        writer.count(moment.t_ns, Name::Outstanding, self.count);
    }

    fn end_fault(&mut self, writer: &mut Writer, moment: &Moment, fault: Fault, words: &str) {
        self.count -= 1;
        if self.by_stag.get(&fault.stag) == Some(&(moment.channel, moment.cookie)) {
            self.by_stag.remove(&fault.stag);
        }
        writer.end_slice(moment.t_ns, fault.step);
        writer.end_flow(moment.t_ns, fault.whole, words, fault.flow);
        writer.end_slice(moment.t_ns, fault.whole);
    }

    /// No answer to these is written any more.
    pub fn end_all(
        &mut self,
        writer: &mut Writer,
        moment: &Moment,
        gone: impl Fn(&(u32, u32), &Fault) -> bool,
    ) {
        let mut ended = Vec::new();
        self.groups.retain(|key, group| {
            group.retain(|fault| {
                let gone = gone(key, fault);
                if gone {
                    ended.push(*fault);
                }
                !gone
            });
            !group.is_empty()
        });
        let groups = &self.groups;
        self.by_stag.retain(|_, key| groups.contains_key(key));
        if ended.is_empty() {
            return;
        }
        for fault in ended {
            self.end_fault(writer, moment, fault, "dropped");
        }
        writer.count(moment.t_ns, Name::Outstanding, self.count);
    }

    /// None of them is known any more.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}
