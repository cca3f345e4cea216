// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What most checks begin with, and what they do over and over.

use vhost_user_vsva::wire::{EventRecord, ResponseCode, SmmuCommand};

use super::{nested, Platform};
use crate::{
    hardware::{Access, AccessId, Hardware, Nested, VA},
    session::Session,
    smmu::PAGE,
};

/// Devices on one fault queue, which a back-end serves.
pub fn served(platform: Platform, devices: usize) -> (Box<dyn Hardware>, Session) {
    let hardware = platform.hardware(devices);
    let session = serve_all(&*hardware, devices);
    (hardware, session)
}

/// The same with test devices behind arm-smmu-v3.
pub fn served_nested(devices: usize) -> (Nested, Session) {
    let hardware = nested(devices);
    let session = serve_all(&hardware, devices);
    (hardware, session)
}

fn serve_all(hardware: &dyn Hardware, devices: usize) -> Session {
    let mut session = Session::start();
    session.attach(hardware, 0);
    for device in 1..devices {
        session.attach_to_same_queue(hardware, device);
    }
    session
}

/// Address of a page that the checks use.
pub fn page(number: u64) -> u64 {
    VA + number * PAGE
}

/// Lets the first device read a page with SSID 1.
pub fn raise(hardware: &mut dyn Hardware, number: u64) -> AccessId {
    raise_on(hardware, 0, number)
}

/// The same for another device.
pub fn raise_on(hardware: &mut dyn Hardware, device: usize, number: u64) -> AccessId {
    hardware
        .access(device, &Access::read(page(number)).ssid(1))
        .expect("access")
}

/// A fault from beginning to end.
pub fn serve_one(hardware: &mut dyn Hardware, session: &mut Session, number: u64) {
    let id = raise(hardware, number);
    serve_next(hardware, session, id);
}

/// The rest of it, for a fault that has been raised.
pub fn serve_next(hardware: &mut dyn Hardware, session: &mut Session, id: AccessId) {
    let event = session.event();
    session.handle(hardware, &event);
    session.expect_done(hardware, id);
}

/// CMD_RESUME for the fault.
pub fn resume(event: &EventRecord, code: ResponseCode) -> SmmuCommand {
    SmmuCommand::Resume {
        sid: event.sid,
        stag: event.stag,
        code,
    }
}
