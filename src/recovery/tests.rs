// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process ends at any store, and what it has written may be anything.

use std::{
    collections::BTreeMap,
    panic::{catch_unwind, AssertUnwindSafe},
    sync::Arc,
};

use vm_memory::{MmapRegion, VolatileMemory};

use super::{
    area::Area,
    error::AreaError,
    fail::LEFT,
    image::{Copied, Image},
    journal::Journal,
    layout::{head, Layout},
    owner::Owner,
};
use crate::{
    core::{Attachment, Core, Limits, SavedFault, SavedGroup, Saver},
    wire::{
        AttachReply, EventRecord, PageResponse, PgFault, ResponseCode, ATTACH_TEXT_SIZE,
        PGFAULT_LAST_PAGE, U32, U64,
    },
};

const LIMITS: Limits = Limits {
    max_devices: 2,
    max_pending: 4,
    max_faults: 4,
    max_device_faults: 0,
};

/// Memory that outlives its process, and another mapping's copy of it.
struct Memory(Arc<MmapRegion>);

impl Memory {
    fn new() -> Self {
        let size = usize::try_from(layout().room()).unwrap();
        Memory(Arc::new(MmapRegion::new(size).unwrap()))
    }

    fn area(&self) -> Area {
        let room = self.0.size() as u64;
        Area::new(self.0.clone(), (0, room), &layout()).unwrap()
    }

    fn journal(&self) -> Journal {
        Journal::create(&self.area(), layout(), 7, 0)
    }

    fn image(&self) -> Result<Image, AreaError> {
        Image::try_from(Copied::of(&self.area(), &layout())?)
    }

    fn byte(&self, at: usize) -> u8 {
        let mut byte = [0];
        self.0.get_slice(at, 1).unwrap().copy_to(&mut byte);
        byte[0]
    }

    fn set_byte(&self, at: usize, byte: u8) {
        self.0.get_slice(at, 1).unwrap().copy_from(&[byte]);
    }
}

fn layout() -> Layout {
    Layout::new(&LIMITS)
}

/// What a core might say.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    groups: BTreeMap<u32, SavedGroup>,
    faults: BTreeMap<u32, SavedFault>,
    counters: [u64; head::COUNTERS_LEN],
    portal: u64,
    taken: usize,
}

impl State {
    fn of(image: &Image) -> Self {
        Self {
            groups: image.groups.iter().copied().collect(),
            faults: image.faults.iter().copied().collect(),
            counters: image.counters,
            portal: image.portal_taken,
            taken: image.channels[0].taken / 40,
        }
    }

    /// The same after the events of all faults have been sent.
    fn all_sent(&self) -> Self {
        let mut after = self.clone();
        for fault in after.faults.values_mut() {
            fault.event_number.get_or_insert(7);
        }
        after
    }

    fn commit(&self, before: &Self, journal: &mut Journal) {
        for index in 0..u32::try_from(layout().groups_len).unwrap() {
            journal.group(index, self.groups.get(&index));
        }
        for index in 0..LIMITS.max_faults {
            let (was, is) = (before.faults.get(&index), self.faults.get(&index));
            match is.and_then(|is| is.event_number) {
                Some(number) if was.is_some_and(|was| only_sent(was, is, number)) => {
                    journal.sent(index, number);
                }
                _ => journal.fault(index, is),
            }
        }
        journal.counters(self.counters);
        if self.taken != before.taken {
            journal.taken(0, before.taken, self.taken);
        }
        journal.commit(self.portal);
    }
}

/// Whether nothing has happened to a fault but that its event was sent.
fn only_sent(was: &SavedFault, is: Option<&SavedFault>, number: u64) -> bool {
    let sent = SavedFault {
        event_number: Some(number),
        ..*was
    };
    is == Some(&sent)
}

/// Numbers that are as good as random, and the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % most
    }

    fn state(&mut self) -> State {
        let mut state = State::default();
        for index in 0..4 {
            if self.below(2) == 0 {
                continue;
            }
            let group = SavedGroup {
                channel: 5,
                cookie: 100 + index,
                dev_id: 1,
                records: 4,
                code: if self.below(2) == 0 {
                    ResponseCode::Success
                } else {
                    ResponseCode::Invalid
                },
                open: false,
                refused: self.below(2) == 0,
                page_request: self.below(2) == 0,
                order: self.below(1 << 20),
            };
            state.groups.insert(index, group);
            if self.below(3) > 0 {
                let fault = SavedFault {
                    group: index,
                    grpid: index,
                    event: EventRecord {
                        sid: 0,
                        ssid: (self.below(2) == 0).then_some(3),
                        stag: u16::try_from(index).unwrap(),
                        write: self.below(2) == 0,
                        exec: false,
                        privileged: self.below(2) == 0,
                        addr: self.below(1 << 30),
                    },
                    read_ns: self.below(1 << 30),
                    order: self.below(1 << 20),
                    event_number: (self.below(2) == 0).then_some(self.below(9)),
                };
                state.faults.insert(index, fault);
            }
        }
        state.counters[0] = self.below(1000);
        state.portal = self.below(3);
        state.taken = usize::try_from(self.below(4)).unwrap();
        state
    }
}

/// Makes `f` end at its n-th place. Returns whether it has come to its end.
fn killed_at(place: u64, f: impl FnOnce()) -> bool {
    LEFT.set(Some(place));
    let ended = catch_unwind(AssertUnwindSafe(f)).is_ok();
    LEFT.set(None);
    ended
}

#[test]
fn test_step_that_ends_at_any_store_is_done_or_has_not_been() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut numbers = Numbers(3);
    let (mut undone, mut done) = (0, 0);
    for round in 0..16 {
        let before = numbers.state();
        let mut after = match round {
            0..12 => numbers.state(),
            _ => before.all_sent(),
        };
        after.portal = before.portal + numbers.below(2);
        for place in 0.. {
            let memory = Memory::new();
            let mut journal = memory.journal();
            journal.open_inbox(5, true).unwrap();
            before.commit(&State::default(), &mut journal);
            let ended = killed_at(place, || after.commit(&before, &mut journal));
            let found = State::of(&memory.image().unwrap());
            if ended {
                assert_eq!(found, after);
                break;
            }
            assert!(
                found == before || found == after,
                "place {place}: {found:?}"
            );
            // The front end believes what it reads, so that must be of the same step.
            undone += u32::from(found == before);
            done += u32::from(found == after);
            if place % 7 > 0 {
                continue;
            }
            // Whoever goes on ends there as well.
            for again in 0.. {
                let mut image = memory.image().unwrap();
                image.recovered(&layout(), u64::MAX, 0);
                let owner = Owner::take(&memory.area(), 8);
                let adopt = || drop(Journal::adopt(owner, layout(), &image));
                let ended = killed_at(again, adopt);
                assert_eq!(State::of(&memory.image().unwrap()), found);
                if ended {
                    break;
                }
            }
        }
    }
    let _ = std::panic::take_hook();
    assert!(undone > 300 && done >= 10, "{undone} {done}");
}

/// A core whose process has ended: faults that wait, one that was answered, a page request, records
/// that were not taken.
fn used() -> Memory {
    let memory = Memory::new();
    let mut journal = memory.journal();
    let inbox = journal.open_inbox(0, true).unwrap();
    let mut core = Core::new(LIMITS, ()).unwrap();
    core.start_saving(0, 0);
    core.attach(&attachment(), 1).unwrap();
    for cookie in 1..=3 {
        core.fault(0, &record(cookie), 1).unwrap();
    }
    core.emit(1, |_| Ok::<(), ()>(())).unwrap();
    core.detach(0, 2).unwrap();
    core.attach(&attachment(), 2).unwrap();
    core.fault(0, &record(4), 3).unwrap();
    core.emit(3, |_| Ok::<(), ()>(())).unwrap();
    let mut buf = [0; 80];
    inbox
        .fill(0, &mut buf, |bytes| {
            bytes.copy_from(zerocopy::IntoBytes::as_bytes(&[record(4), record(5)]));
            Ok(80)
        })
        .unwrap();
    journal.taken(0, 0, 1);
    let portal = core.save(&mut journal);
    journal.commit(portal);
    memory
}

fn attachment() -> Attachment {
    Attachment {
        device: 0,
        vsid: 8,
        dev_id: 1,
        channel: 0,
        max_outstanding: LIMITS.max_faults,
        pri: false,
    }
}

fn record(cookie: u32) -> PgFault {
    PgFault {
        flags: U32::new(PGFAULT_LAST_PAGE),
        dev_id: U32::new(1),
        pasid: U32::ZERO,
        grpid: U32::ZERO,
        perm: U32::new(1),
        reserved: U32::ZERO,
        addr: U64::new(u64::from(cookie) << 12),
        length: U32::ZERO,
        cookie: U32::new(cookie),
    }
}

/// Goes on with what was found, up to the last answer. Returns how many answers there were.
fn go_on(mut image: Image) -> usize {
    let mut core = Core::new(LIMITS, ()).unwrap();
    core.recover(image.recovered(&layout(), 1, 0));
    core.attach(&attachment(), 5).unwrap();
    core.set_kernel_channel(0);
    core.claim(0);
    core.finish_recovery(6);
    while core.emit(7, |_| Ok::<(), ()>(())).unwrap() {}
    core.detach(0, 8).unwrap();
    let mut answers = [PageResponse {
        cookie: U32::ZERO,
        code: U32::ZERO,
    }; 16];
    let count = core.answers(0, &mut answers);
    core.answers_written(0, count, 9);
    assert_eq!(core.outstanding(), 0);
    count
}

#[test]
fn test_every_byte_flipped_is_refused_or_harmless() {
    let memory = used();
    assert_eq!(go_on(memory.image().unwrap()), 4);
    let layout = layout();
    let (mut refused, mut taken) = (0, 0);
    let tables = 0..layout.inboxes * 8;
    for at in tables.chain(layout.inbox(0)..layout.inbox(0) + 120) {
        let byte = memory.byte(at);
        for flip in [0xff, 0x01, 0x80] {
            memory.set_byte(at, byte ^ flip);
            match memory.image() {
                Ok(image) => {
                    taken += 1;
                    go_on(image);
                }
                Err(_) => refused += 1,
            }
        }
        memory.set_byte(at, byte);
    }
    assert!(refused > 300 && taken > 300, "{refused} {taken}");
}

#[test]
fn test_area_of_another_version_or_other_limits_or_too_small_is_refused() {
    let memory = used();
    let error = |memory: &Memory| memory.image().unwrap_err().to_string();
    memory.set_byte(head::VERSION * 8, 9);
    let version = error(&memory);
    memory.set_byte(head::VERSION * 8, 1);
    memory.set_byte(head::LIMITS * 8 + 4, 5);
    let limits = error(&memory);
    memory.set_byte(0, 0);
    let magic = error(&memory);
    let room = layout().room();
    let small = Area::new(memory.0.clone(), (0, room - 1), &layout()).err();
    let beyond = Area::new(memory.0.clone(), (4096, room), &layout()).err();

    assert_eq!(version, "area: layout version 9, not 1");
    assert_eq!(limits, "area: made with --max-faults=5");
    assert_eq!(magic, "area: magic 0x5643455241565300");
    let needed = AreaError::Room {
        found: room - 1,
        needed: room,
    };
    assert_eq!(small, Some(needed));
    assert_eq!(beyond, Some(AreaError::Place(4096)));
}

#[test]
fn test_text_of_every_refusal_fits_into_a_reply() {
    type E = AreaError;
    let index = u32::MAX;
    let contradictions = [
        "undo list",
        "undo entry",
        "device",
        "channel",
        "inbox",
        "channel twice",
        "group",
        "group twice",
        "fault",
        "group of fault",
    ];
    let mut errors = vec![
        E::Place(u64::MAX),
        E::Room {
            found: 1 << 30,
            needed: 1 << 30,
        },
        E::Magic(u64::MAX),
        E::Version(u32::MAX),
        E::Limit {
            name: "max-devices",
            found: u32::MAX,
        },
        E::PortalBase,
        E::InUse,
        E::GivenUp,
    ];
    errors.extend(contradictions.map(|what| E::Contradiction { what, index }));
    for error in errors {
        let text = error.to_string();
        assert!(text.len() <= ATTACH_TEXT_SIZE, "{text}");
        assert_eq!(AttachReply::new(1, &text).text(), text);
    }
}

#[test]
fn test_layout_of_the_largest_limits_fits_into_the_largest_memory() {
    let largest = Limits {
        max_devices: Limits::DEVICES_MAX,
        max_faults: Limits::FAULTS_MAX,
        ..LIMITS
    };

    let layout = Layout::new(&largest);

    assert!(layout.room() < crate::wire::MEMORY_SIZE_MAX - 4096);
    assert!(u64::from(layout.room_units()) << 16 >= layout.room());
}

#[test]
fn test_process_that_was_replaced_reads_nothing_and_stores_nothing() {
    std::panic::set_hook(Box::new(|_| {}));
    let memory = Memory::new();
    let mut journal = memory.journal();
    let inbox = journal.open_inbox(0, true).unwrap();
    let mut image = memory.image().unwrap();
    image.recovered(&layout(), 0, 0);
    let owner = Owner::take(&memory.area(), 8);
    let mut next = Journal::adopt(owner, layout(), &image);
    next.counters([5; head::COUNTERS_LEN]);
    next.commit(0);

    let ends = |f: &mut dyn FnMut()| {
        let ended = catch_unwind(AssertUnwindSafe(f)).unwrap_err();
        ended.downcast_ref::<super::owner::GaveWay>().unwrap().0
    };
    let reads = ends(&mut || {
        let _ = inbox.fill(0, &mut [0; 40], |_| panic!("it must not read"));
    });
    let steps = ends(&mut || {
        journal.counters([6; head::COUNTERS_LEN]);
        journal.commit(1);
    });
    let _ = std::panic::take_hook();

    assert_eq!((reads, steps), (0, 0));
    let image = memory.image().unwrap();
    assert_eq!((image.instance, image.portal_taken), (8, 0));
    assert_eq!(image.counters, [5; head::COUNTERS_LEN]);
}

#[test]
fn test_process_that_is_replaced_while_it_reads_says_how_many_records_it_has_read() {
    std::panic::set_hook(Box::new(|_| {}));
    let memory = Memory::new();
    let inbox = memory.journal().open_inbox(0, true).unwrap();

    let ended = catch_unwind(AssertUnwindSafe(|| {
        inbox.fill(0, &mut [0; 80], |bytes| {
            Owner::take(&memory.area(), 8);
            bytes.copy_from(zerocopy::IntoBytes::as_bytes(&[record(1), record(2)]));
            Ok(80)
        })
    }));
    let _ = std::panic::take_hook();

    let ended = ended.unwrap_err();
    assert_eq!(ended.downcast_ref(), Some(&super::owner::GaveWay(2)));
    // And they are in the inbox.
    assert_eq!(memory.image().unwrap().channels[0].inbox.len(), 80);
}
