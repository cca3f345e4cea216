// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The emulated DMA engine that stands for hardware (`docs/specs/vsva-testdev.rst` in the QEMU
//! series).

use std::{io, path::Path};

use crate::{
    iommu::{Iommufd, ObjectId},
    memory::Shared,
    uapi::vfio::{PCI_BAR0_REGION, PCI_BAR2_REGION},
    vfio::VfioDevice,
};

pub const VENDOR: u16 = 0x19e5;
pub const DEVICE: u16 = 0xa250;

const ID: usize = 0x00;
const CTRL: usize = 0x08;
const STATUS: usize = 0x0c;
const COMPLETED: usize = 0x28;
const ABORTED: usize = 0x30;
const STALLS: usize = 0x38;
const RETRIED: usize = 0x40;
const BAD_DESCRIPTORS: usize = 0x58;

const ID_VALUE: u32 = 0x7653_5641;
const CTRL_ENABLE: u32 = 1 << 0;
const CTRL_RESET: u32 = 1 << 1;
const STATUS_IDLE: u32 = 1 << 0;

const SLOT_SIZE: usize = 64;
const SLOTS: u64 = 65536;
const SSID_VALID: u32 = 1 << 31;
const FLAG_EXEC: u32 = 1 << 0;
const FLAG_PRIVILEGED: u32 = 1 << 1;
pub const RECORD_SIZE: u64 = 32;
const RECORD_STATUS: u64 = 0x08;
const RECORD_CRC: u64 = 0x0c;
const RECORD_COUNT: u64 = 0x10;

/// What a request does.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Reads from here.
    Checksum { src: u64 },
    /// Writes the low byte of the tag here.
    Fill { dst: u64 },
}

/// A request to the engine.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub operation: Operation,
    pub len: u32,
    pub ssid: Option<u32>,
    pub exec: bool,
    pub privileged: bool,
    /// Virtual address of the completion record.
    pub record: u64,
    pub tag: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, once; the checksum of the data.
    Done { crc: u32 },
    /// A translation was refused.
    Aborted,
}

/// What the device counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub completed: u64,
    pub aborted: u64,
    pub stalls: u64,
    pub retried: u64,
    pub bad_descriptors: u64,
}

/// The device and its BARs.
pub struct TestDevice {
    registers: Shared,
    portal: Shared,
    vfio: VfioDevice,
    next: u64,
}

impl TestDevice {
    /// Opens the function and resets the engine.
    pub fn open(function: &Path, iommufd: &Iommufd) -> io::Result<Self> {
        let vfio = VfioDevice::open(function, iommufd)?;
        let registers = vfio.map_bar(PCI_BAR0_REGION)?;
        let portal = vfio.map_bar(PCI_BAR2_REGION)?;
        let id = registers.read32(ID);
        if id != ID_VALUE {
            return Err(io::Error::other(format!(
                "register 0 is {id:#x}, this is not the test device"
            )));
        }
        registers.write32(CTRL, CTRL_RESET);
        registers.write32(CTRL, CTRL_ENABLE);
        Ok(TestDevice {
            registers,
            portal,
            vfio,
            next: 0,
        })
    }

    pub fn vfio(&self) -> &VfioDevice {
        &self.vfio
    }

    pub fn id(&self) -> ObjectId {
        self.vfio.id
    }

    /// Lets the engine take new requests, or not.
    pub fn enable(&self, on: bool) {
        self.registers
            .write32(CTRL, if on { CTRL_ENABLE } else { 0 });
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.registers.read32(STATUS) & STATUS_IDLE != 0
    }

    pub fn counters(&self) -> Counters {
        Counters {
            completed: self.counter(COMPLETED),
            aborted: self.counter(ABORTED),
            stalls: self.counter(STALLS),
            retried: self.counter(RETRIED),
            bad_descriptors: self.counter(BAD_DESCRIPTORS),
        }
    }

    fn counter(&self, offset: usize) -> u64 {
        loop {
            let high = self.registers.read32(offset + 4);
            let low = self.registers.read32(offset);
            if self.registers.read32(offset + 4) == high {
                return (u64::from(high) << 32) | u64::from(low);
            }
        }
    }

    /// Writes the request into the portal's next slot, the valid word last.
    pub fn submit(&mut self, request: &Request) {
        let (opcode, src, dst) = match request.operation {
            Operation::Checksum { src } => (2, src, 0),
            Operation::Fill { dst } => (3, 0, dst),
        };
        let pasid = request.ssid.map_or(0, |ssid| ssid | SSID_VALID);
        let flags = if request.exec { FLAG_EXEC } else { 0 }
            | if request.privileged {
                FLAG_PRIVILEGED
            } else {
                0
            };
        let words = [
            src,
            dst,
            u64::from(request.len) | (u64::from(pasid) << 32),
            request.record,
            opcode | (u64::from(flags) << 32),
            request.tag,
            0,
        ];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let valid = u32::try_from((self.next + 1) & 0xffff_ffff).expect("masked");
        let slot = usize::try_from(self.next % SLOTS).expect("bounded") * SLOT_SIZE;
        for (index, word) in words.iter().enumerate() {
            self.portal.write64(slot + index * 8, *word);
        }
        self.portal.write64(
            slot + 56,
            u64::from(crc32c::crc32c(&bytes)) | (u64::from(valid) << 32),
        );
        self.next += 1;
    }
}

/// Reads a completion record with `read32`; `None` while the request is under way.
pub fn outcome(record: u64, read32: impl Fn(u64) -> u32) -> Option<Outcome> {
    match read32(record + RECORD_STATUS) {
        0 => None,
        1 => {
            assert_eq!(
                read32(record + RECORD_COUNT),
                1,
                "the request was executed more than once"
            );
            Some(Outcome::Done {
                crc: read32(record + RECORD_CRC),
            })
        }
        2 => Some(Outcome::Aborted),
        other => panic!("status {other} in a completion record"),
    }
}
