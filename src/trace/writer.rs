// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Writes packets: announces tracks, and puts slices, notes and counts on them.
//!
//! Slices of one track have to nest, so what can overlap has as many tracks of one name as there
//! are at a time (lanes).

use std::collections::{HashMap, HashSet};

use super::{
    moment::NO_SSID,
    proto::Message,
    schema::{
        ANNOTATION, BEGIN, COUNT, COUNTER, COUNTER_VALUE, END, EVENT_NAME, FLOW, INSTANT, KEY,
        LAST_FLOW, NAME, PACKET, PARENT, PID, POINTER, PROCESS, PROCESS_NAME, SEQUENCE_FLAGS,
        SEQUENCE_ID, STATE_CLEARED, TEXT, TIMESTAMP, TRACK, TRACK_DESCRIPTOR, TRACK_EVENT, TYPE,
        UUID, VALUE,
    },
};

/// Tracks that are told apart; what comes after them is on one for all others.
const TRACKS_MAX: usize = 1024;
/// Tracks in all; more slices than that at a time overlap.
const LANES_MAX: usize = 65_536;
/// Devices that have a track of their own.
const DEVICES_MAX: u32 = 256;

/// A track that is announced when it is first used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
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
pub struct Lane {
    pub name: Name,
    number: u32,
}

/// The lanes of a name.
#[derive(Default)]
struct Lanes {
    free: Vec<u32>,
    count: u32,
}

/// Makes packets.
pub struct Writer {
    name: String,
    pid: u32,
    base: u64,
    tracks: HashMap<Lane, u64>,
    lanes: HashMap<Name, Lanes>,
    /// Tracks of one slice at a time that have one now.
    open: HashSet<Name>,
    sids: HashMap<u32, u32>,
    flows: u64,
    out: Message,
}

impl Writer {
    /// Of a process; `base` is another number for each trace.
    pub fn new(name: &str, pid: u32, base: u64) -> Self {
        let mut writer = Writer {
            name: name.to_owned(),
            pid,
            // So that traces that are put together keep their tracks apart.
            base: base.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(pid),
            tracks: HashMap::new(),
            lanes: HashMap::new(),
            open: HashSet::new(),
            sids: HashMap::new(),
            flows: 0,
            out: Message::default(),
        };
        // A trace without events is one, too.
        writer.track(Self::only(Name::Process));
        writer
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
        self.lanes.clear();
    }

    /// A number that no other flow of any trace has.
    pub fn flow(&mut self) -> u64 {
        self.flows += 1;
        self.base.wrapping_add(1 << 32).wrapping_add(self.flows)
    }

    pub fn name_device(&mut self, device: u32, sid: u32) {
        if self.sids.len() < TRACKS_MAX {
            self.sids.entry(device).or_insert(sid);
        }
    }

    pub fn process(&self, device: u32, ssid: u32) -> Name {
        let name = Name::Ssid(device, ssid);
        if self.lanes.len() < TRACKS_MAX || self.lanes.contains_key(&name) {
            name
        } else {
            Name::Others(device.min(DEVICES_MAX))
        }
    }

    /// A free place on the tracks of a name.
    pub fn lane(&mut self, name: Name) -> Lane {
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

    pub fn slice(&mut self, t_ns: u64, lane: Lane, name: &str, notes: &[Note], flow: u64) {
        let mut event = event(BEGIN, self.track(lane));
        event.text(EVENT_NAME, name);
        annotate(&mut event, notes);
        event.fixed(FLOW, flow);
        self.packet(t_ns, TRACK_EVENT, &event);
    }

    /// The last that is told of a flow: within its slice, so that it is the end of the flow.
    pub fn end_flow(&mut self, t_ns: u64, lane: Lane, words: &str, flow: u64) {
        let mut event = event(INSTANT, self.track(lane));
        event.text(EVENT_NAME, words).fixed(LAST_FLOW, flow);
        self.packet(t_ns, TRACK_EVENT, &event);
    }

    pub fn end_slice(&mut self, t_ns: u64, lane: Lane) {
        let event = event(END, self.track(lane));
        self.packet(t_ns, TRACK_EVENT, &event);
        if let Some(lanes) = self.lanes.get_mut(&lane.name) {
            lanes.free.push(lane.number);
        }
    }

    /// On a track that has one slice at a time: the one that is there ends.
    pub fn begin(&mut self, t_ns: u64, name: Name, words: &str, notes: &[Note]) {
        self.end(t_ns, name);
        self.open.insert(name);
        let mut event = event(BEGIN, self.track(Self::only(name)));
        event.text(EVENT_NAME, words);
        annotate(&mut event, notes);
        self.packet(t_ns, TRACK_EVENT, &event);
    }

    pub fn end(&mut self, t_ns: u64, name: Name) -> bool {
        let open = self.open.remove(&name);
        if open {
            let event = event(END, self.track(Self::only(name)));
            self.packet(t_ns, TRACK_EVENT, &event);
        }
        open
    }

    pub fn instant(&mut self, t_ns: u64, name: Name, words: &str) {
        self.note(t_ns, name, words, &[]);
    }

    pub fn note(&mut self, t_ns: u64, name: Name, words: &str, notes: &[Note]) {
        let name = match name {
            Name::Device(device) => Name::Device(device.min(DEVICES_MAX)),
            name => name,
        };
        let mut event = event(INSTANT, self.track(Self::only(name)));
        event.text(EVENT_NAME, words);
        annotate(&mut event, notes);
        self.packet(t_ns, TRACK_EVENT, &event);
    }

    pub fn count(&mut self, t_ns: u64, name: Name, value: u64) {
        let mut event = event(COUNT, self.track(Self::only(name)));
        event.number(COUNTER_VALUE, value);
        self.packet(t_ns, TRACK_EVENT, &event);
    }
}

#[derive(Clone, Copy)]
pub enum Value {
    Number(u64),
    Pointer(u64),
    Text(&'static str),
}

pub type Note = (&'static str, Value);

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
