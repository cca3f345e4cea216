// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Many faults, and what the back-end adds to each.

use std::time::{Duration, Instant};

use rustix::io::{read, write};
use vhost_user_vsva::{
    frontend::Event,
    wire::{EventRecord, PageResponse, PgFault, ResponseCode, PGFAULT_SIZE, U32},
};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    common::{raise, resume},
    Platform,
};
use crate::{
    hardware::{Access, Hardware},
    session::{access, Session},
    tally,
    wait::{readable, until, LIMIT},
};

const FAULTS: u64 = 100_000;
/// Of the loop without a back-end.
const BARE: u64 = 20_000;
/// Outstanding at a time.
const DEPTH: u64 = 64;
/// Faults measured one at a time.
const SINGLE: u64 = 1000;
/// First page of each part; no page is used twice, so that nothing must be invalidated.
const PARTS: [u64; 4] = [0, 1 << 20, 2 << 20, 3 << 20];

/// Where faults come from and answers go to.
trait Server {
    /// Waits for faults and answers all that there are, each with a page. Returns how many.
    fn serve(&mut self, hardware: &mut dyn Hardware) -> u64;
}

/// The fault file itself.
struct Bare;

impl Server for Bare {
    fn serve(&mut self, hardware: &mut dyn Hardware) -> u64 {
        assert!(readable(hardware.fault_fd(), LIMIT), "no fault came");
        let mut bytes = [0; 128 * PGFAULT_SIZE];
        let got = read(hardware.fault_fd(), &mut bytes).expect("read");
        let mut answers = Vec::new();
        for record in bytes[..got].chunks(PGFAULT_SIZE) {
            let fault = PgFault::read_from_bytes(record).expect("40 bytes");
            let ssid = fault.pasid();
            hardware
                .resolve_shared(&Access {
                    ssid,
                    ..Access::read(fault.addr.get())
                })
                .expect("page");
            answers.push(PageResponse {
                cookie: fault.cookie,
                code: U32::new(ResponseCode::Success as u32),
            });
        }
        let bytes = answers.as_bytes();
        assert_eq!(write(hardware.fault_fd(), bytes), Ok(bytes.len()));
        answers.len() as u64
    }
}

impl Server for Session {
    fn serve(&mut self, hardware: &mut dyn Hardware) -> u64 {
        let mut next = Some(self.front_end.wait_event().expect("an event"));
        let mut served = 0;
        while let Some(event) = next {
            let Event::Smmu { record, .. } = event else {
                panic!("{event:?} where a record was expected")
            };
            let event = EventRecord::decode(&record).expect("a stall event");
            hardware.resolve_shared(&access(&event)).expect("page");
            let answer = resume(&event, ResponseCode::Success).encode();
            self.front_end.command(&answer).expect("portal ring");
            served += 1;
            next = self.front_end.next_event().expect("event ring");
        }
        served
    }
}

/// Keeps `depth` faults outstanding until `count` have been answered. Returns how long it took.
fn load(
    hardware: &mut dyn Hardware,
    server: &mut impl Server,
    part: u64,
    count: u64,
    depth: u64,
) -> Duration {
    let started = Instant::now();
    let (mut raised, mut served) = (0, 0);
    while served < count {
        while raised < count && raised - served < depth {
            raise(hardware, part + raised);
            raised += 1;
        }
        served += server.serve(hardware);
    }
    tally::retried(count);
    started.elapsed()
}

/// Median time of a fault from the access to its answer, in microseconds.
fn single(hardware: &mut dyn Hardware, server: &mut impl Server, part: u64) -> f64 {
    let mut times: Vec<_> = (0..SINGLE)
        .map(|page| load(hardware, server, part + page, 1, 1).as_secs_f64())
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2] * 1e6
}

fn figure(name: &str, value: f64) {
    println!("vsva-rig: figure {name}={value:.2}");
}

pub fn test_100000_faults_under_load_are_answered_once_each(platform: Platform) {
    let mut hardware = platform.hardware(1);
    let bare_single = single(&mut *hardware, &mut Bare, PARTS[0]);
    let bare = load(&mut *hardware, &mut Bare, PARTS[1], BARE, DEPTH);
    let mut session = Session::start();
    session.attach(&*hardware, 0);
    let backend_single = single(&mut *hardware, &mut session, PARTS[2]);

    let backend = load(&mut *hardware, &mut session, PARTS[3], FAULTS, DEPTH);

    session.front_end.wait_completed().expect("portal ring");
    let done = SINGLE + BARE + SINGLE + FAULTS;
    if hardware.tells_outcomes() {
        until("the end of every access", || {
            hardware.is_quiet(0).then_some(())
        });
        assert_eq!(hardware.completed(0), Some(done));
        assert_eq!(hardware.aborts(0), Some(0));
    }
    let rate = |count: u64, time: Duration| count as f64 / time.as_secs_f64();
    let (bare, backend) = (rate(BARE, bare), rate(FAULTS, backend));
    figure("bare_faults_per_second", bare);
    figure("backend_faults_per_second", backend);
    figure("rate_of_bare", backend / bare);
    figure("bare_p50_us", bare_single);
    figure("backend_p50_us", backend_single);
    figure("p50_of_bare", backend_single / bare_single);
    session.finish(SINGLE + FAULTS);
}
