// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What is shown of each device is what the state machine has of it, whatever has changed it.

use std::sync::Arc;

use super::{
    board::Board,
    document::{Device, Document, Fault, LastDrain, Outcome},
    meter::Meter,
    table::{screen, Row},
};
use crate::{
    core::{Attachment, Core, Limits, Recovered, SavedFault, SavedGroup},
    wire::{
        DrainFailedReason, EventRecord, LostReason, Message, MessageType, PgFault, ResponseCode,
        SmmuCommand, Submission, DEVICE_NONE, PGFAULT_LAST_PAGE, U32, U64,
    },
};

const NOW: u64 = 1_000_000_000;
const LIMITS: Limits = Limits {
    max_devices: 256,
    max_pending: 8,
    max_faults: 9,
    max_device_faults: 0,
};

struct Watched {
    board: Arc<Board>,
    core: Core<Meter>,
    seq: u64,
}

impl Watched {
    /// With device 0 and the last one.
    fn new() -> Self {
        let mut watched = Self::without_devices();
        watched.attach(0, 0);
        watched.attach(255, 2);
        watched
    }

    fn without_devices() -> Self {
        let board = Arc::new(Board::new(LIMITS, NOW));
        let core = Core::new(LIMITS, Meter::new(board.clone())).unwrap();
        Watched {
            board,
            core,
            seq: 0,
        }
    }

    fn attach(&mut self, device: u32, max_outstanding: u32) {
        let attachment = Attachment {
            device,
            vsid: device,
            dev_id: device,
            channel: device,
            max_outstanding,
            pri: false,
        };
        self.core.attach(&attachment, NOW).unwrap();
    }

    fn fault(&mut self, device: u32, cookie: u32) {
        let record = PgFault {
            flags: U32::new(PGFAULT_LAST_PAGE),
            dev_id: U32::new(device),
            pasid: U32::ZERO,
            grpid: U32::new(cookie),
            perm: U32::ZERO,
            reserved: U32::ZERO,
            addr: U64::ZERO,
            length: U32::ZERO,
            cookie: U32::new(cookie),
        };
        self.core.fault(device, &record, NOW).unwrap();
    }

    fn portal<P: crate::wire::Payload>(&mut self, kind: MessageType, device: u32, payload: &P) {
        self.seq += 1;
        let mut message = Message::new(kind, device, payload);
        message.seq.set(self.seq);
        self.core.portal(&message, NOW).unwrap();
    }

    fn submit(&mut self, device: u32, ticket: u64) {
        let submission = Submission {
            region: U32::ZERO,
            size: U32::new(8),
            offset: U64::ZERO,
            ticket: U64::new(ticket),
            data: [0; 16],
            reserved: [0; 8],
        };
        self.portal(MessageType::Submit, device, &submission);
    }

    fn devices(&self) -> Vec<Device> {
        let status = self.core.status(NOW);
        self.board
            .publish(&status, |device| self.core.device_figures(device));
        Document::new(&self.board, NOW).unwrap().devices
    }

    /// Of each device: faults that are unanswered and how many may be, submissions that are
    /// pending and how many may be.
    fn figures(&self) -> Vec<(u32, u32, u32, u32)> {
        let of = |d: &Device| (d.unanswered, d.fault_limit, d.pending, d.pending_limit);
        self.devices().iter().map(of).collect()
    }
}

#[test]
fn test_device_shows_its_share_or_the_limit_of_its_own() {
    let mut watched = Watched::new();
    assert_eq!(watched.figures(), [(0, 3, 0, 8), (0, 2, 0, 8)]);
    let own: Vec<u32> = watched
        .devices()
        .iter()
        .map(|d| d.max_outstanding)
        .collect();
    assert_eq!(own, [0, 2]);

    watched.attach(7, 0);
    let shares: Vec<u32> = watched.figures().iter().map(|of| of.1).collect();
    assert_eq!(shares, [2, 2, 2]);
    watched.core.detach(7, NOW).unwrap();
    watched.core.detach(255, NOW).unwrap();

    assert_eq!(watched.figures(), [(0, 4, 0, 8)]);
}

#[test]
fn test_device_shows_its_own_faults_and_submissions_until_they_are_done() {
    let mut watched = Watched::new();
    watched.fault(0, 1);
    watched.fault(0, 2);
    watched.fault(255, 1);
    watched.submit(0, 0);
    watched.submit(255, 1);
    watched.submit(255, 2);
    assert_eq!(watched.figures(), [(2, 3, 1, 8), (1, 2, 2, 8)]);

    watched.portal(
        MessageType::SmmuCmd,
        DEVICE_NONE,
        &SmmuCommand::StallTerm { sid: 0 }.encode(),
    );
    while watched.core.emit::<()>(NOW, |_| Ok(())).unwrap() {}

    assert_eq!(watched.figures(), [(0, 3, 0, 8), (1, 2, 0, 8)]);
}

#[test]
fn test_device_that_was_reset_has_nothing() {
    let mut watched = Watched::new();
    watched.fault(255, 1);
    watched.submit(255, 0);
    watched.portal(MessageType::Reset, 255, &[0_u8; 0]);

    assert_eq!(watched.figures(), [(0, 3, 0, 8), (0, 2, 0, 8)]);
}

#[test]
fn test_device_whose_channel_is_lost_keeps_its_submissions_only() {
    let mut watched = Watched::new();
    watched.fault(255, 1);
    watched.submit(255, 0);
    watched.core.channel_lost(255, LostReason::Ended, NOW);

    assert_eq!(watched.figures(), [(0, 3, 0, 8), (0, 2, 1, 8)]);
}

#[test]
fn test_device_shows_the_faults_that_another_process_has_left() {
    let mut watched = Watched::without_devices();
    let group = SavedGroup {
        channel: 0,
        cookie: 1,
        dev_id: 0,
        records: 1,
        code: ResponseCode::Success,
        open: false,
        refused: false,
        page_request: false,
        order: 1,
    };
    let event = EventRecord {
        sid: 0,
        ssid: None,
        stag: 0,
        write: false,
        exec: false,
        privileged: false,
        addr: 0,
    };
    let fault = SavedFault {
        group: 0,
        grpid: 1,
        event,
        read_ns: NOW,
        order: 1,
        event_number: None,
    };
    watched.core.recover(Recovered {
        groups: vec![(0, group)],
        faults: vec![(0, fault)],
        ..Recovered::default()
    });
    watched.attach(0, 0);
    assert_eq!(watched.figures(), [(0, 4, 0, 8)]);
    watched.core.claim(0);
    watched.core.finish_recovery(NOW);

    assert_eq!(watched.figures(), [(1, 4, 0, 8)]);
}

/// The names of all members, of whatever depth.
fn members(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(object) => {
            for (name, value) in object {
                found.push(name.clone());
                members(value, found);
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| members(value, found)),
        _ => {}
    }
}

/// The document with everything that it can have.
fn full_document() -> Document {
    let mut watched = Watched::new();
    watched.fault(0, 1);
    watched.devices();
    let mut document = Document::new(&watched.board, NOW).unwrap();
    let fault = Fault {
        sid: 0,
        ssid: None,
        addr: 0,
        age_ms: 0,
    };
    document.faults.oldest = Some(fault);
    document.drains.last = Some(LastDrain {
        generation: 1,
        timeout_ms: 1,
        duration_ns: 1,
        ended_s_ago: 0.0,
        outcome: Outcome::Failed {
            reason: DrainFailedReason::Deadline,
            outstanding: 1,
            untaken: 1,
            untaken_device: Some(1),
            oldest: Some(fault),
        },
    });
    document
}

#[test]
fn test_members_of_the_document_and_columns_of_the_screen_are_documented() {
    let text = include_str!("../../docs/status.md");
    let document = full_document();
    let mut names = Vec::new();
    members(&serde_json::to_value(&document).unwrap(), &mut names);
    assert!(names.iter().any(|name| name == "untaken_device"));
    let row = Row {
        name: "vm1".to_owned(),
        status: Ok(document),
    };
    let screen = screen(&[row]);
    names.extend(
        screen
            .lines()
            .next()
            .unwrap()
            .split_whitespace()
            .map(str::to_owned),
    );
    let is_told = |name: &str| {
        ["`", "."]
            .iter()
            .any(|it| text.contains(&format!("{it}{name}`")))
    };
    names.retain(|name| !is_told(name));
    assert_eq!(names, [""; 0], "not in docs/status.md");
}
