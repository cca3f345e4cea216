// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The core does not allocate while it serves faults and submissions.

mod counting_alloc;

use std::sync::Arc;

use counting_alloc::of_this_thread;
use vhost_user_vsva::core::{Attachment, Core, FaultError, Limits};
use vhost_user_vsva::recovery::{area::Area, journal::Journal, layout::Layout};
use vhost_user_vsva::wire::{
    DrainRequest, EventRecord, GenerationPayload, Message, MessageType, PageResponse, Payload,
    PgFault, ResponseCode, SmmuCommand, Submission, DEVICE_NONE, PGFAULT_LAST_PAGE, U32, U64,
};
use vm_memory::MmapRegion;
use zerocopy::FromZeros;

struct Driver {
    core: Core,
    /// Where each step is saved.
    journal: Option<Journal>,
    seq: u64,
    ticket: u64,
}

impl Driver {
    fn portal<P: Payload>(&mut self, kind: MessageType, payload: &P) {
        self.seq += 1;
        let mut message = Message::new(kind, DEVICE_NONE, payload);
        message.seq = U64::new(self.seq);
        if kind == MessageType::Submit {
            message.device = U32::ZERO;
        }
        self.core.portal(&message, 0).unwrap();
        self.save();
    }

    /// A step is over.
    fn save(&mut self) {
        if let Some(journal) = &mut self.journal {
            let taken = self.core.save(journal);
            journal.commit(taken);
        }
    }

    fn generation(&mut self, kind: MessageType, generation: u64) {
        let generation = U64::new(generation);
        self.portal(kind, &GenerationPayload { generation });
    }

    fn submit(&mut self) {
        let mut submission = Submission::new_zeroed();
        submission.size = U32::new(8);
        submission.ticket = U64::new(self.ticket);
        self.ticket += 1;
        self.portal(MessageType::Submit, &submission);
    }

    /// Raises faults until the table is full, has the guest answer them, and the one that found no
    /// room as well.
    fn faults(&mut self) -> u32 {
        let mut record = PgFault::new_zeroed();
        record.flags = U32::new(PGFAULT_LAST_PAGE);
        for cookie in 1.. {
            record.cookie = U32::new(cookie);
            match self.core.fault(0, &record, 0) {
                Ok(()) => self.save(),
                Err(FaultError::NoRoom { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
        let answered = self.answer_all();
        self.core.fault(0, &record, 0).unwrap();
        answered + self.answer_all()
    }

    fn answer_all(&mut self) -> u32 {
        let mut answered = 0;
        while let Some(message) = self.next_event() {
            if message.message_type() == Some(MessageType::SmmuEvent) {
                let event = EventRecord::decode(&message.payload()).unwrap();
                let command = SmmuCommand::Resume {
                    sid: event.sid,
                    stag: event.stag,
                    code: ResponseCode::Success,
                };
                self.portal(MessageType::SmmuCmd, &command.encode());
                answered += 1;
            }
        }
        let mut answers = [PageResponse::new_zeroed(); 64];
        loop {
            let count = self.core.answers(0, &mut answers);
            if count == 0 {
                return answered;
            }
            self.core.answers_written(0, count, 0);
            self.save();
        }
    }

    fn next_event(&mut self) -> Option<Message> {
        let mut event = None;
        let take = |message: &Message| {
            event = Some(*message);
            Ok::<(), ()>(())
        };
        self.core.emit(0, take).unwrap();
        self.save();
        event
    }
}

const LIMITS: Limits = Limits {
    max_faults: 256,
    max_device_faults: 256,
    max_pending: 256,
    max_devices: 2,
};

#[test]
fn test_core_in_operation_does_not_allocate() {
    assert_no_allocations(None);
}

#[test]
fn test_core_that_is_saved_in_operation_does_not_allocate() {
    let layout = Layout::new(&LIMITS);
    let room = layout.room();
    let memory = Arc::new(MmapRegion::new(usize::try_from(room).unwrap()).unwrap());
    let area = Area::new(memory, (0, room), &layout).unwrap();
    assert_no_allocations(Some(Journal::create(&area, layout, 1, 0)));
}

fn assert_no_allocations(journal: Option<Journal>) {
    let limits = LIMITS;
    let before_new = of_this_thread();
    let mut driver = Driver {
        core: Core::new(limits, ()).unwrap(),
        journal,
        seq: 0,
        ticket: 0,
    };
    if driver.journal.is_some() {
        driver.core.start_saving(0, 0);
    }
    let desc = Attachment {
        device: 0,
        vsid: 8,
        dev_id: 0,
        channel: 0,
        max_outstanding: 0,
        pri: false,
    };
    let before = of_this_thread();
    driver.core.attach(&desc, 0).unwrap();
    let mut faults = 0;
    let mut replays = 0;

    for generation in 1..=4 {
        faults += driver.faults();
        driver.portal(
            MessageType::Drain,
            &DrainRequest {
                generation: U64::new(generation),
                timeout_ms: U32::new(100),
                reserved: U32::ZERO,
            },
        );
        for _ in 0..limits.max_pending {
            driver.submit();
        }
        faults += driver.faults();
        driver.generation(MessageType::DeviceQuiesced, generation);
        while let Some(channel) = driver.core.next_probe() {
            driver.core.channel_empty(channel, 0);
        }
        driver.next_event().unwrap();
        driver.generation(MessageType::Release, generation);
        while let Some(message) = driver.next_event() {
            replays += u32::from(message.message_type() == Some(MessageType::Replay));
        }
        driver.core.rings_reset();
        driver.seq = 0;
    }
    driver.core.reset(0);

    assert_eq!(of_this_thread() - before, 0);
    assert!(before > before_new);
    assert_eq!((faults, replays), (8 * 257, 4 * 256));
}
