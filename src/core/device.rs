// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Attached devices.

/// A device to attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceDesc {
    /// Number chosen by the front end, below `max_devices`.
    pub device: u32,
    /// SID as the guest knows it.
    pub vsid: u32,
    /// `dev_id` in the records of the fault channel.
    pub dev_id: u32,
    /// The fault channel, a number chosen by the front end.
    pub channel: u32,
    /// Limit of outstanding faults, 0 for none but the table's.
    pub max_outstanding: u32,
    /// Whether the device is answered by CMD_PRI_RESP.
    pub pri: bool,
}
