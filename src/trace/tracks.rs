// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Moments become packets of a trace. What is known of the past is bounded.
//!
//! A fault is a slice on a track of its device and SSID, and its steps are slices on the tracks of
//! those who take them; a flow leads from one to the next. Slices of one track have to nest, so what
//! can overlap has as many tracks of one name as there are at a time.

use std::collections::HashMap;

use super::{
    moment::{Moment, What, NO_SSID},
    proto::Message,
};

/// Faults that are followed, as many as can be outstanding.
const FAULTS_MAX: usize = 65_536;
/// Tracks that are told apart; what comes after them is on one for all others.
const TRACKS_MAX: usize = 1024;

/// Tracks in all; more slices than that at a time overlap.
const LANES_MAX: usize = 65_536;

// Of Trace.
const PACKET: u32 = 1;
// Of TracePacket.
const TIMESTAMP: u32 = 8;
const SEQUENCE_ID: u32 = 10;
const TRACK_EVENT: u32 = 11;
const SEQUENCE_FLAGS: u32 = 13;
const TRACK_DESCRIPTOR: u32 = 60;
const STATE_CLEARED: u32 = 1;
// Of TrackDescriptor.
const UUID: u32 = 1;
const NAME: u32 = 2;
const PROCESS: u32 = 3;
const PARENT: u32 = 5;
const COUNTER: u32 = 8;
// Of ProcessDescriptor.
const PID: u32 = 1;
const PROCESS_NAME: u32 = 6;
// Of TrackEvent.
const ANNOTATION: u32 = 4;
const TYPE: u32 = 9;
const TRACK: u32 = 11;
const EVENT_NAME: u32 = 23;
const COUNTER_VALUE: u32 = 30;
const FLOW: u32 = 47;
const LAST_FLOW: u32 = 48;
const BEGIN: u32 = 1;
const END: u32 = 2;
const INSTANT: u32 = 3;
const COUNT: u32 = 4;
// Of DebugAnnotation.
const VALUE: u32 = 3;
const TEXT: u32 = 6;
const POINTER: u32 = 7;
const KEY: u32 = 10;

/// A track that is announced when it is first used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Name {
    Process,
    FrontEnd,
    Backend,
    Guest,
    Drain,
    Save,
    Load,
    Replay,
    Submissions,
    Outstanding,
    Pending,
    Device(u32),
    Ssid(u32, u32),
    Others(u32),
}

/// One of several tracks of a name: a place for one slice at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Lane {
    name: Name,
    number: u32,
}

/// The lanes of a name.
#[derive(Default)]
struct Lanes {
    free: Vec<u32>,
    count: u32,
}

#[derive(Clone, Copy)]
struct Fault {
    flow: u64,
    device: u32,
    stag: u16,
    /// The slice of the whole, and that of the step that it is in.
    whole: Lane,
    step: Lane,
}

/// Makes packets.
pub struct Tracer {
    name: String,
    pid: u32,
    base: u64,
    tracks: HashMap<Lane, u64>,
    lanes: HashMap<Name, Lanes>,
    /// By channel and cookie.
    groups: HashMap<(u32, u32), Vec<Fault>>,
    by_stag: HashMap<u16, (u32, u32)>,
    faults: u64,
    flows: u64,
    /// Slices on tracks that have one at a time.
    open: HashMap<Name, ()>,
    sids: HashMap<u32, u32>,
    out: Message,
}

impl Tracer {
    /// Of a process; `base` is another number for each trace.
    pub fn new(name: &str, pid: u32, base: u64) -> Self {
        let mut tracer = Tracer {
            name: name.to_owned(),
            pid,
            // So that traces that are put together keep their tracks apart.
            base: base.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(pid),
            tracks: HashMap::new(),
            lanes: HashMap::new(),
            groups: HashMap::new(),
            by_stag: HashMap::new(),
            faults: 0,
            flows: 0,
            open: HashMap::new(),
            sids: HashMap::new(),
            out: Message::default(),
        };
        // A trace without events is one, too.
        tracer.track(Self::only(Name::Process));
        tracer
    }

    /// The packets since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out).finish()
    }

    /// What it has made has been lost: all tracks are announced again, and what was open is not
    /// known any more.
    pub fn forget(&mut self) {
        self.base = self.base.wrapping_add(1 << 48);
        self.tracks.clear();
        self.open.clear();
        self.clear_faults();
    }

    /// Takes what has happened.
    pub fn add(&mut self, moment: &Moment) {
        let Some(what) = moment.what() else {
            return;
        };
        match what {
            What::Read => self.read(moment),
            What::Emitted => self.emitted(moment),
            What::Answered => self.answered(moment),
            What::Written => self.written(moment),
            What::Aborted => self.aborted(moment),
            What::Connected => self.instant(moment, Name::FrontEnd, "connected"),
            What::Disconnected => self.instant(moment, Name::FrontEnd, "disconnected"),
            What::Lost => {
                let number = [("events", Value::Number(moment.first))];
                self.note(moment, Name::FrontEnd, "events are missing", &number);
            }
            What::Attached => {
                self.name_device(moment);
                self.instant(moment, Name::Device(moment.device), "attached");
            }
            What::Detached => {
                self.instant(moment, Name::Device(moment.device), "detached");
                self.end_faults(moment, |_, fault| fault.device == moment.device);
            }
            What::DeviceReset => self.instant(moment, Name::Device(moment.device), "reset"),
            What::ChannelLost => {
                let number = [("channel", Value::Number(moment.channel.into()))];
                self.note(moment, Name::Backend, "fault channel lost", &number);
                self.end_faults(moment, |key, _| key.0 == moment.channel);
            }
            What::Submitted => self.submitted(moment),
            _ => self.migration(what, moment),
        }
    }

    /// Drains, transfers of the state, replays.
    fn migration(&mut self, what: What, moment: &Moment) {
        let generation = ("generation", Value::Number(moment.first));
        let bytes = ("bytes", Value::Number(moment.first));
        let submissions = ("submissions", Value::Number(moment.second));
        let faults = |name| (name, Value::Number(moment.second));
        match what {
            What::DrainBegun => self.begin(moment, Name::Drain, "drain", &[generation]),
            What::DrainResumed => self.begin(moment, Name::Drain, "drain goes on", &[generation]),
            What::Quiesced => {
                let device = ("device", Value::Number(moment.device.into()));
                self.note(moment, Name::Drain, "device at rest", &[generation, device]);
            }
            What::DrainComplete => {
                self.end(moment, Name::Drain);
                let notes = [generation, faults("answered")];
                self.note(moment, Name::Drain, "drained", &notes);
            }
            What::DrainFailed => {
                self.end(moment, Name::Drain);
                let why = match moment.detail {
                    1 => "deadline",
                    2 => "fault table full",
                    3 => "fault channel",
                    _ => "busy",
                };
                let notes = [
                    generation,
                    faults("outstanding"),
                    ("reason", Value::Text(why)),
                ];
                self.note(moment, Name::Drain, "DRAIN FAILED", &notes);
            }
            What::ReleaseBegun => {
                if self.end(moment, Name::Drain) {
                    self.note(moment, Name::Drain, "given up", &[generation]);
                }
                self.begin(moment, Name::Replay, "replay", &[generation, submissions]);
            }
            What::Replayed => {
                let notes = [
                    ("ticket", Value::Number(moment.second)),
                    ("device", Value::Number(moment.device.into())),
                ];
                self.note(moment, Name::Submissions, "replayed", &notes);
            }
            What::Released => {
                self.end(moment, Name::Replay);
                self.count(moment, Name::Pending, 0);
            }
            What::Reset => {
                self.end(moment, Name::Drain);
                self.end(moment, Name::Replay);
                self.instant(moment, Name::FrontEnd, "begins anew");
                self.end_faults(moment, |_, _| true);
            }
            What::Save => self.begin(moment, Name::Save, "save", &[bytes, submissions]),
            What::Saved => {
                self.end(moment, Name::Save);
            }
            What::SaveFailed => {
                self.end(moment, Name::Save);
                self.instant(moment, Name::Save, "SAVE FAILED");
            }
            What::LoadBegun => self.begin(moment, Name::Load, "load", &[]),
            What::Loaded => {
                self.end(moment, Name::Load);
                self.note(moment, Name::Load, "loaded", &[bytes, submissions]);
                self.count(moment, Name::Pending, moment.second);
            }
            What::LoadFailed => {
                self.end(moment, Name::Load);
                self.instant(moment, Name::Load, "LOAD FAILED");
            }
            _ => {}
        }
    }

    fn submitted(&mut self, moment: &Moment) {
        let notes = [
            ("ticket", Value::Number(moment.second)),
            ("device", Value::Number(moment.device.into())),
        ];
        self.note(moment, Name::Submissions, "queued", &notes);
        self.count(moment, Name::Pending, moment.first);
    }

    // Faults.

    fn read(&mut self, moment: &Moment) {
        if self.faults >= FAULTS_MAX as u64 {
            return;
        }
        self.faults += 1;
        self.flows += 1;
        self.name_device(moment);
        let whole = self.lane(self.process(moment.device, moment.ssid));
        let step = self.lane(Name::Backend);
        let fault = Fault {
            flow: self.base.wrapping_add(1 << 32).wrapping_add(self.flows),
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
        self.slice(moment, whole, &format!("1: {name}"), &notes, fault.flow);
        self.slice(moment, step, "2: read, event made", &[], fault.flow);
        let key = (moment.channel, moment.cookie);
        self.by_stag.insert(moment.stag, key);
        self.groups.entry(key).or_default().push(fault);
        self.count(moment, Name::Outstanding, self.faults);
    }

    /// Its step ends, and another one begins.
    fn next_step(&mut self, moment: &Moment, name: Name, words: &str) {
        let Some(fault) = self.by_stag.get(&moment.stag).and_then(|key| {
            let group = self.groups.get(key)?;
            group.iter().find(|fault| fault.stag == moment.stag)
        }) else {
            return;
        };
        let (flow, before) = (fault.flow, fault.step);
        self.end_slice(moment, before);
        let step = self.lane(name);
        self.slice(moment, step, words, &[], flow);
        let group = self.by_stag.get(&moment.stag);
        let group = group.and_then(|key| self.groups.get_mut(key));
        for fault in group.into_iter().flatten() {
            if fault.flow == flow {
                fault.step = step;
            }
        }
    }

    fn emitted(&mut self, moment: &Moment) {
        self.next_step(moment, Name::Guest, "3, 4, 5: event queue to CMD_RESUME");
    }

    fn answered(&mut self, moment: &Moment) {
        self.next_step(moment, Name::Backend, "6, 7: answer to page response");
        self.by_stag.remove(&moment.stag);
    }

    fn aborted(&mut self, moment: &Moment) {
        self.next_step(moment, Name::Backend, "aborted: answered INVALID");
        self.by_stag.remove(&moment.stag);
    }

    fn written(&mut self, moment: &Moment) {
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
            self.end_fault(moment, fault, words);
        }
        self.count(moment, Name::Outstanding, self.faults);
    }

    fn end_fault(&mut self, moment: &Moment, fault: Fault, words: &str) {
        self.faults -= 1;
        if self.by_stag.get(&fault.stag) == Some(&(moment.channel, moment.cookie)) {
            self.by_stag.remove(&fault.stag);
        }
        self.end_slice(moment, fault.step);
        // Within the whole, so that it is the end of the flow.
        let mut event = event(INSTANT, self.track(fault.whole));
        event.text(EVENT_NAME, words).fixed(LAST_FLOW, fault.flow);
        self.packet(moment.t_ns, TRACK_EVENT, &event);
        self.end_slice(moment, fault.whole);
    }

    /// No answer to these is written any more.
    fn end_faults(&mut self, moment: &Moment, gone: impl Fn(&(u32, u32), &Fault) -> bool) {
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
            self.end_fault(moment, fault, "dropped");
        }
        self.count(moment, Name::Outstanding, self.faults);
    }

    fn clear_faults(&mut self) {
        self.groups.clear();
        self.by_stag.clear();
        self.lanes.clear();
        self.faults = 0;
    }

    fn name_device(&mut self, moment: &Moment) {
        if self.sids.len() < TRACKS_MAX {
            self.sids.entry(moment.device).or_insert(moment.sid);
        }
    }

    fn process(&self, device: u32, ssid: u32) -> Name {
        let name = Name::Ssid(device, ssid);
        if self.lanes.len() < TRACKS_MAX || self.lanes.contains_key(&name) {
            name
        } else {
            Name::Others(device.min(256))
        }
    }

    // Tracks.

    fn lane(&mut self, name: Name) -> Lane {
        let full = self.tracks.len() >= LANES_MAX;
        let lanes = self.lanes.entry(name).or_default();
        let number = lanes.free.pop().unwrap_or_else(|| {
            if full {
                return 0;
            }
            lanes.count += 1;
            lanes.count - 1
        });
        Lane { name, number }
    }

    fn only(name: Name) -> Lane {
        Lane { name, number: 0 }
    }

    /// Its number; it is announced before its first use.
    fn track(&mut self, lane: Lane) -> u64 {
        if let Some(uuid) = self.tracks.get(&lane) {
            return *uuid;
        }
        let parent = match lane.name {
            Name::Process => None,
            Name::Ssid(device, _) | Name::Others(device) => Some(Name::Device(device)),
            _ => Some(Name::Process),
        };
        let parent = parent.map(|name| self.track(Self::only(name)));
        let uuid = self.base.wrapping_add(self.tracks.len() as u64 + 1);
        self.tracks.insert(lane, uuid);
        let mut descriptor = Message::default();
        descriptor.number(UUID, uuid);
        if let Some(parent) = parent {
            descriptor.number(PARENT, parent);
        }
        match lane.name {
            Name::Process => {
                let mut process = Message::default();
                process.number(PID, self.pid).text(PROCESS_NAME, &self.name);
                descriptor.message(PROCESS, &process);
            }
            Name::Outstanding | Name::Pending => {
                descriptor.text(NAME, &self.title(lane.name));
                descriptor.message(COUNTER, &Message::default());
            }
            name => {
                descriptor.text(NAME, &self.title(name));
            }
        }
        self.packet(0, TRACK_DESCRIPTOR, &descriptor);
        uuid
    }

    fn title(&self, name: Name) -> String {
        match name {
            Name::Process => self.name.clone(),
            Name::FrontEnd => "front end".to_owned(),
            Name::Backend => "back-end".to_owned(),
            Name::Guest => "vSMMU and guest".to_owned(),
            Name::Drain => "drain".to_owned(),
            Name::Save => "save".to_owned(),
            Name::Load => "load".to_owned(),
            Name::Replay => "replay".to_owned(),
            Name::Submissions => "submissions".to_owned(),
            Name::Outstanding => "faults outstanding".to_owned(),
            Name::Pending => "submissions pending".to_owned(),
            Name::Device(device) => match self.sids.get(&device) {
                Some(sid) => format!("device {device} (SID {sid:#x})"),
                None => format!("device {device}"),
            },
            Name::Ssid(_, NO_SSID) => "no SSID".to_owned(),
            Name::Ssid(_, ssid) => format!("SSID {ssid:#x}"),
            Name::Others(_) => "other SSIDs".to_owned(),
        }
    }

    // Packets.

    fn packet(&mut self, t_ns: u64, field: u32, content: &Message) {
        let mut packet = Message::default();
        if t_ns != 0 {
            packet.number(TIMESTAMP, t_ns);
        }
        let id = self.base.to_le_bytes();
        let id = u32::from_le_bytes([id[0], id[1], id[2], id[3]]) | 1;
        packet.number(SEQUENCE_ID, id);
        if self.tracks.len() <= 1 {
            packet.number(SEQUENCE_FLAGS, STATE_CLEARED);
        }
        packet.message(field, content);
        self.out.message(PACKET, &packet);
    }

    fn slice(&mut self, moment: &Moment, lane: Lane, name: &str, notes: &[Note], flow: u64) {
        let mut event = event(BEGIN, self.track(lane));
        event.text(EVENT_NAME, name);
        annotate(&mut event, notes);
        event.fixed(FLOW, flow);
        self.packet(moment.t_ns, TRACK_EVENT, &event);
    }

    fn end_slice(&mut self, moment: &Moment, lane: Lane) {
        let event = event(END, self.track(lane));
        self.packet(moment.t_ns, TRACK_EVENT, &event);
        if let Some(lanes) = self.lanes.get_mut(&lane.name) {
            lanes.free.push(lane.number);
        }
    }

    /// On a track that has one slice at a time: the one that is there ends.
    fn begin(&mut self, moment: &Moment, name: Name, words: &str, notes: &[Note]) {
        self.end(moment, name);
        self.open.insert(name, ());
        let mut event = event(BEGIN, self.track(Self::only(name)));
        event.text(EVENT_NAME, words);
        annotate(&mut event, notes);
        self.packet(moment.t_ns, TRACK_EVENT, &event);
    }

    fn end(&mut self, moment: &Moment, name: Name) -> bool {
        let open = self.open.remove(&name).is_some();
        if open {
            let event = event(END, self.track(Self::only(name)));
            self.packet(moment.t_ns, TRACK_EVENT, &event);
        }
        open
    }

    fn instant(&mut self, moment: &Moment, name: Name, words: &str) {
        self.note(moment, name, words, &[]);
    }

    fn note(&mut self, moment: &Moment, name: Name, words: &str, notes: &[Note]) {
        let name = match name {
            Name::Device(device) => Name::Device(device.min(256)),
            name => name,
        };
        let mut event = event(INSTANT, self.track(Self::only(name)));
        event.text(EVENT_NAME, words);
        annotate(&mut event, notes);
        self.packet(moment.t_ns, TRACK_EVENT, &event);
    }

    fn count(&mut self, moment: &Moment, name: Name, value: u64) {
        let mut event = event(COUNT, self.track(Self::only(name)));
        event.number(COUNTER_VALUE, value);
        self.packet(moment.t_ns, TRACK_EVENT, &event);
    }
}

#[derive(Clone, Copy)]
enum Value {
    Number(u64),
    Pointer(u64),
    Text(&'static str),
}

type Note = (&'static str, Value);

fn event(kind: u32, track: u64) -> Message {
    let mut event = Message::default();
    event.number(TYPE, kind).number(TRACK, track);
    event
}

fn annotate(event: &mut Message, notes: &[Note]) {
    for (name, value) in notes {
        let mut note = Message::default();
        note.text(KEY, name);
        match *value {
            Value::Number(number) => note.number(VALUE, number),
            Value::Pointer(address) => note.number(POINTER, address),
            Value::Text(text) => note.text(TEXT, text),
        };
        event.message(ANNOTATION, &note);
    }
}
