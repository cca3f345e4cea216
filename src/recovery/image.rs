// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The area is read by a process that goes on from it, and believes nothing of it.

use std::collections::{BTreeMap, BTreeSet};

use zerocopy::FromBytes;

use super::{
    area::Area,
    error::AreaError,
    inbox::contents,
    layout::{
        flag, head, unpack, Layout, ALWAYS, EVENT_UNSENT, FAULT_EVENT, FAULT_WORDS_USED,
        INBOX_RECORDS, VERSION,
    },
};
use crate::{
    core::{Recovered, SavedFault, SavedGroup},
    wire::{EventRecord, PgFault, ResponseCode, PGFAULT_SIZE, RECOVERY_MAGIC, SSID_MAX},
};

/// A copy of an area. It is the only one that is looked at, as others can write to the area.
pub struct Copied {
    layout: Layout,
    /// Up to the undo list.
    words: Box<[u64]>,
    undo: Vec<(u64, u64)>,
    /// By slot, of the channels that say that they are used.
    inboxes: BTreeMap<usize, Vec<u8>>,
}

/// What is in an area.
#[derive(Debug)]
pub struct Image {
    /// The process that wrote it.
    pub instance: u64,
    /// Number of the last message of the portal ring that has taken effect.
    pub portal_taken: u64,
    /// The channels.
    pub channels: Vec<SavedChannel>,
    /// The groups and their places.
    pub groups: Vec<(u32, SavedGroup)>,
    /// The faults and their STAGs.
    pub faults: Vec<(u32, SavedFault)>,
    /// Devices that were held.
    pub held: Vec<u32>,
    /// In the order of the config space.
    pub counters: [u64; head::COUNTERS_LEN],
    /// Words that an incomplete step has changed, and what they were.
    pub(super) undo: Vec<(usize, u64)>,
    /// Words of faults whose event is not to be taken for sent.
    pub(super) unsent: Vec<usize>,
    pub(super) words: Box<[u64]>,
}

/// A channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedChannel {
    /// Its inbox.
    pub slot: usize,
    /// Its number.
    pub number: u32,
    /// Whether it is a fault file of the kernel.
    pub kernel: bool,
    /// Bytes of the inbox that have been taken.
    pub taken: usize,
    /// What is in the inbox.
    pub inbox: Vec<u8>,
    /// End of what is there, with what is none.
    pub end: usize,
    /// Records of its vEVENTQ have been lost.
    pub records_lost: bool,
    /// Number of the message by which the last of them was sent.
    records: u64,
}

/// Whose an area is, if it is one of this layout.
pub fn instance_of(area: &Area, layout: &Layout) -> Result<u64, AreaError> {
    check_head(area, layout).map(|()| area.load(head::INSTANCE))
}

fn check_head(area: &Area, layout: &Layout) -> Result<(), AreaError> {
    let magic = area.load(head::MAGIC);
    if magic != RECOVERY_MAGIC {
        return Err(AreaError::Magic(magic));
    }
    let (version, _) = unpack(area.load(head::VERSION));
    if version != VERSION {
        return Err(AreaError::Version(version));
    }
    let (found, wanted) = (
        unpack(area.load(head::LIMITS)),
        unpack(layout.limits_word()),
    );
    let limits = [
        ("max-devices", found.0, wanted.0),
        ("max-faults", found.1, wanted.1),
    ];
    if let Some((name, found, _)) = limits.into_iter().find(|(_, found, here)| found != here) {
        return Err(AreaError::Limit { name, found });
    }
    Ok(())
}

impl Copied {
    /// Copies an area, if it is one of this layout.
    pub fn of(area: &Area, layout: &Layout) -> Result<Self, AreaError> {
        check_head(area, layout)?;
        let words: Box<[u64]> = (0..layout.undo).map(|word| area.load(word)).collect();
        let undo_len = usize::try_from(words[head::UNDO]).unwrap_or(usize::MAX);
        if undo_len > layout.undo_len {
            return Err(contradiction("undo list", 0));
        }
        let undo = (0..undo_len).map(|entry| {
            let word = layout.undo + 2 * entry;
            (area.load(word), area.load(word + 1))
        });
        let undo = undo.collect();
        let inboxes = (0..layout.channels_len)
            // Nothing undoes the state of a channel.
            .filter(|slot| words[layout.channel(*slot)] != 0)
            .map(|slot| (slot, contents(area, layout, slot)))
            .collect();
        Ok(Self {
            layout: *layout,
            words,
            undo,
            inboxes,
        })
    }
}

fn contradiction(what: &'static str, index: usize) -> AreaError {
    AreaError::Contradiction {
        what,
        index: u32::try_from(index).unwrap_or(u32::MAX),
    }
}

impl TryFrom<Copied> for Image {
    type Error = AreaError;

    fn try_from(mut copied: Copied) -> Result<Self, AreaError> {
        let undo = copied.put_back()?;
        let channels = copied.channels()?;
        let groups = copied.groups(&channels)?;
        let faults = copied.faults(&groups)?;
        let held = copied.held()?;
        let words = copied.words;
        let mut counters = [0; head::COUNTERS_LEN];
        counters.copy_from_slice(&words[head::COUNTERS..head::COUNTERS + head::COUNTERS_LEN]);
        Ok(Self {
            instance: words[head::INSTANCE],
            portal_taken: words[head::PORTAL_TAKEN],
            channels,
            groups,
            faults,
            held,
            counters,
            undo,
            unsent: Vec::new(),
            words,
        })
    }
}

impl Copied {
    /// Puts back what an incomplete step has changed.
    fn put_back(&mut self) -> Result<Vec<(usize, u64)>, AreaError> {
        let unless = self.words[head::UNDO_UNLESS];
        if unless != ALWAYS && unless == self.words[head::PORTAL_TAKEN] {
            self.words[head::UNDO] = 0;
            return Ok(Vec::new());
        }
        let mut undo = Vec::with_capacity(self.undo.len());
        for (entry, (word, value)) in self.undo.iter().enumerate() {
            let word = usize::try_from(*word).unwrap_or(usize::MAX);
            if !(head::COUNTERS..self.layout.undo).contains(&word) {
                return Err(contradiction("undo entry", entry));
            }
            self.words[word] = *value;
            undo.push((word, *value));
        }
        self.words[head::UNDO] = 0;
        Ok(undo)
    }

    fn held(&self) -> Result<Vec<u32>, AreaError> {
        let mut held = Vec::new();
        for (at, number) in (0..self.layout.devices_len).zip(0_u32..) {
            match self.words[self.layout.devices + at] {
                0 => {}
                1 => held.push(number),
                _ => return Err(contradiction("device", at)),
            }
        }
        Ok(held)
    }

    fn channels(&self) -> Result<Vec<SavedChannel>, AreaError> {
        let mut channels = Vec::new();
        let mut numbers = BTreeSet::new();
        for slot in 0..self.layout.channels_len {
            let at = self.layout.channel(slot);
            let (flags, number) = unpack(self.words[at]);
            if self.words[at] == 0 {
                continue;
            }
            let known = flags & !(flag::USED | flag::KERNEL) == 0 && flags & flag::USED != 0;
            let Some(inbox) = self.inboxes.get(&slot).filter(|_| known) else {
                return Err(contradiction("channel", slot));
            };
            let taken = usize::try_from(self.words[at + 1]).unwrap_or(usize::MAX);
            if taken > INBOX_RECORDS {
                return Err(contradiction("inbox", slot));
            }
            if !numbers.insert(number) {
                return Err(contradiction("channel twice", slot));
            }
            let kernel = flags & flag::KERNEL != 0;
            channels.push(SavedChannel {
                slot,
                number,
                kernel,
                taken: taken * PGFAULT_SIZE,
                inbox: whole(inbox, taken * PGFAULT_SIZE, kernel),
                end: inbox.len(),
                records_lost: false,
                records: self.words[at + 2],
            });
        }
        Ok(channels)
    }

    fn groups(&self, channels: &[SavedChannel]) -> Result<Vec<(u32, SavedGroup)>, AreaError> {
        let mut groups = Vec::new();
        let mut cookies = BTreeSet::new();
        let mut open = BTreeSet::new();
        let numbers: BTreeSet<u32> = channels.iter().map(|channel| channel.number).collect();
        for (at, index) in (0..self.layout.groups_len).zip(0_u32..) {
            let word = self.layout.group(at);
            let entry = &self.words[word..];
            if entry[0] == 0 {
                continue;
            }
            let (flags, channel) = unpack(entry[0]);
            let (cookie, dev_id) = unpack(entry[1]);
            let known =
                flag::USED | flag::OPEN | flag::REFUSED | flag::INVALID | flag::PAGE_REQUEST;
            let records = u32::try_from(entry[2]).unwrap_or(0);
            let group = SavedGroup {
                channel,
                cookie,
                dev_id,
                records,
                code: if flags & flag::INVALID != 0 {
                    ResponseCode::Invalid
                } else {
                    ResponseCode::Success
                },
                open: flags & flag::OPEN != 0,
                refused: flags & flag::REFUSED != 0,
                page_request: flags & flag::PAGE_REQUEST != 0,
                order: entry[3],
            };
            let flags_fit = flags & !known == 0 && flags & flag::USED != 0;
            if !flags_fit || records == 0 || !numbers.contains(&channel) {
                return Err(contradiction("group", at));
            }
            if !cookies.insert((channel, cookie)) || (group.open && !open.insert(channel)) {
                return Err(contradiction("group twice", at));
            }
            groups.push((index, group));
        }
        Ok(groups)
    }

    fn faults(&self, groups: &[(u32, SavedGroup)]) -> Result<Vec<(u32, SavedFault)>, AreaError> {
        let mut left: BTreeMap<u32, u32> = groups
            .iter()
            .map(|(at, group)| (*at, group.records))
            .collect();
        let mut faults = Vec::new();
        for (at, index) in (0..self.layout.faults_len).zip(0_u32..) {
            let word = self.layout.fault(at);
            let entry = &self.words[word..word + FAULT_WORDS_USED];
            if entry[0] == 0 {
                continue;
            }
            let (flags, group) = unpack(entry[0]);
            let (ssid, grpid) = unpack(entry[1]);
            let known = flag::USED | flag::WRITE | flag::EXEC | flag::PRIVILEGED | flag::SSID;
            let flags_fit = flags & !known == 0 && flags & flag::USED != 0;
            let stag = u16::try_from(index)
                .ok()
                .filter(|_| flags_fit && ssid <= SSID_MAX);
            let stag = stag.ok_or(contradiction("fault", at))?;
            // Not more than records of its group were read.
            let room = left.get_mut(&group).filter(|left| **left > 0);
            *room.ok_or(contradiction("group of fault", at))? -= 1;
            faults.push((
                index,
                SavedFault {
                    group,
                    grpid,
                    event: EventRecord {
                        sid: 0,
                        ssid: (flags & flag::SSID != 0).then_some(ssid),
                        stag,
                        write: flags & flag::WRITE != 0,
                        exec: flags & flag::EXEC != 0,
                        privileged: flags & flag::PRIVILEGED != 0,
                        addr: entry[2],
                    },
                    read_ns: entry[3],
                    order: entry[4],
                    event_number: (entry[5] != EVENT_UNSENT).then_some(entry[5]),
                },
            ));
        }
        Ok(faults)
    }
}

/// What an inbox has; of a kernel's without what follows the last complete group, as the kernel
/// keeps a group that it could not hand out whole.
fn whole(inbox: &[u8], taken: usize, kernel: bool) -> Vec<u8> {
    let mut end = inbox.len();
    if kernel {
        let records = inbox.get(taken..).unwrap_or_default();
        let last = records.chunks_exact(PGFAULT_SIZE).rposition(|record| {
            // The cookie comes last.
            let complete = |record: PgFault| record.is_last() && record.cookie.get() != 0;
            PgFault::read_from_bytes(record).is_ok_and(complete)
        });
        end = taken + last.map_or(0, |at| (at + 1) * PGFAULT_SIZE);
    }
    inbox.get(..end).unwrap_or(inbox).to_vec()
}

impl Image {
    /// What the core goes on with, if the front end has taken the messages up to `event_base`.
    pub fn recovered(&mut self, layout: &Layout, event_base: u64, next_ticket: u64) -> Recovered {
        for (at, fault) in &mut self.faults {
            if fault.event_number.is_some_and(|number| number > event_base) {
                fault.event_number = None;
                let word = layout.fault(*at as usize) + FAULT_EVENT;
                self.words[word] = EVENT_UNSENT;
                self.unsent.push(word);
            }
        }
        for channel in &mut self.channels {
            channel.records_lost = channel.records > event_base;
        }
        let waiting: BTreeSet<u32> = self.faults.iter().map(|(_, fault)| fault.group).collect();
        let mut again = BTreeSet::new();
        for channel in self.channels.iter().filter(|channel| channel.kernel) {
            let records = channel.inbox.get(channel.taken..).unwrap_or_default();
            for record in records.chunks_exact(PGFAULT_SIZE) {
                if let Ok(record) = PgFault::read_from_bytes(record) {
                    again.insert((channel.number, record.cookie.get()));
                }
            }
        }
        // The kernel gives a cookie again only when it has taken the answer.
        let written = self.groups.iter().filter(|(at, group)| {
            !group.open && !waiting.contains(at) && again.contains(&(group.channel, group.cookie))
        });
        Recovered {
            written: written.map(|(at, _)| *at).collect(),
            groups: self.groups.clone(),
            faults: self.faults.clone(),
            held: self.held.clone(),
            counters: self.counters,
            event_base,
            portal_base: self.portal_taken,
            next_ticket,
        }
    }
}
