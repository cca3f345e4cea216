// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Test devices behind the kernel's arm-smmu-v3 driver: real accesses, real stalls, a nested page
//! table.

use std::{
    collections::HashSet,
    io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{vsid, Access, AccessId, Attachment, Hardware};
use crate::{
    iommu::{FaultQueue, Iommufd, ObjectId},
    smmu::{GuestMemory, GUEST_BASE, PAGE, TLBI_NH_ALL},
    testdev::{self, Operation, Outcome, Request, TestDevice, RECORD_SIZE},
    uapi::iommufd::{HwptArmSmmuv3, HWPT_DATA_ARM_SMMUV3},
    vfio,
};

/// Virtual address of the completion records, the same in every address space.
const RECORDS_VA: u64 = 0x10_0000_0000;
const RECORD_PAGES: u64 = 64;
const RECORDS: u64 = RECORD_PAGES * PAGE / RECORD_SIZE;
const GUEST_MEMORY: usize = 64 << 20;
/// Bytes that an access moves.
pub const ACCESS_LEN: u32 = 8;

/// What becomes of a fault of stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faults {
    /// It stalls.
    Stall,
    /// It terminates the access, and its event comes through the vEVENTQ (STE.S1STALLD).
    Terminate,
}

/// Two devices at most, in one nested configuration.
pub struct Nested {
    // Dropped in this order: the devices before the objects they are attached to.
    devices: Vec<TestDevice>,
    records: Vec<u64>,
    submitted: Vec<u64>,
    spaces: HashSet<u32>,
    shared_page: Option<u64>,
    guest: GuestMemory,
    page_tables: [ObjectId; 2],
    viommu: ObjectId,
    queue: FaultQueue,
    iommufd: Iommufd,
}

impl Nested {
    /// Takes some of the machine's devices and builds everything up to the attachment to the first
    /// page table.
    pub fn new(which: Range<usize>, faults: Faults) -> io::Result<Self> {
        let functions = vfio::find_functions(testdev::VENDOR, testdev::DEVICE)?;
        let count = which.len();
        let Some(functions) = functions.get(which) else {
            return Err(io::Error::other(format!(
                "only {} test devices",
                functions.len()
            )));
        };
        let iommufd = Iommufd::open()?;
        let devices = functions
            .iter()
            .map(|function| TestDevice::open(function, &iommufd))
            .collect::<io::Result<Vec<_>>>()?;
        let stalls = faults == Faults::Stall;
        let guest = GuestMemory::new(GUEST_MEMORY, stalls)?;
        let ioas = iommufd.ioas()?;
        iommufd.map(ioas, guest.memory(), GUEST_BASE)?;
        let first = devices[0].id();
        let parent = iommufd.parent(first, ioas)?;
        let viommu = iommufd.viommu(first, parent)?;
        let queue = iommufd.fault_queue()?;
        let ste = HwptArmSmmuv3 {
            ste: guest.stream_table_entry(!stalls),
        };
        let nested = || iommufd.nested(first, viommu, Some(&queue), HWPT_DATA_ARM_SMMUV3, &ste);
        let page_tables = [nested()?, nested()?];
        let mut nested = Nested {
            records: Vec::new(),
            submitted: vec![0; count],
            spaces: HashSet::new(),
            shared_page: None,
            devices,
            guest,
            page_tables,
            viommu,
            queue,
            iommufd,
        };
        for _ in 0..RECORD_PAGES * count as u64 {
            let page = nested.guest.allocate()?;
            nested.records.push(page);
        }
        for device in 0..count {
            nested
                .iommufd
                .vdevice(viommu, nested.devices[device].id(), vsid(device))?;
            nested.attach(device, Attachment::First)?;
        }
        Ok(nested)
    }

    /// The vEVENTQ of the devices' vIOMMU.
    pub fn veventq(&self, depth: u32) -> io::Result<OwnedFd> {
        self.iommufd.veventq(self.viommu, depth)
    }

    pub fn guest(&mut self) -> &mut GuestMemory {
        &mut self.guest
    }

    /// A guest-physical address that the VMM has not mapped.
    pub fn unmapped_page() -> u64 {
        GUEST_BASE + GUEST_MEMORY as u64
    }

    /// Makes the hardware forget all translations, as the guest's TLBI does.
    pub fn invalidate(&self) -> io::Result<()> {
        self.iommufd.invalidate(self.viommu, &[TLBI_NH_ALL])
    }

    /// Fills in the translation of `addr` with a page that is in use already.
    pub fn resolve_to(
        &mut self,
        ssid: Option<u32>,
        addr: u64,
        page: u64,
        writable: bool,
    ) -> io::Result<()> {
        self.guest
            .map(ssid.unwrap_or(0), addr & !(PAGE - 1), page, writable)
    }

    /// The checksum that reading `addr` must give once [`Hardware::resolve`] has been called for
    /// it.
    pub fn expected_crc(addr: u64) -> u32 {
        crc32c::crc32c(&pattern(addr & !7).to_le_bytes())
    }

    /// Makes the completion records visible in the address space of `ssid`.
    fn prepare(&mut self, ssid: u32) -> io::Result<()> {
        if self.spaces.insert(ssid) {
            for (index, page) in self.records.clone().into_iter().enumerate() {
                self.guest
                    .map(ssid, RECORDS_VA + index as u64 * PAGE, page, true)?;
            }
        }
        Ok(())
    }

    fn record(&self, id: AccessId) -> u64 {
        let index = id.number % RECORDS + id.device as u64 * RECORDS;
        let offset = index * RECORD_SIZE;
        self.records[usize::try_from(offset / PAGE).expect("bounded")] + offset % PAGE
    }
}

/// What memory contains before anybody writes to it.
fn pattern(addr: u64) -> u64 {
    addr.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

impl Hardware for Nested {
    fn fault_fd(&self) -> BorrowedFd<'_> {
        self.queue.fd.as_fd()
    }

    fn device_id(&self, device: usize) -> u32 {
        self.devices[device].id()
    }

    fn access(&mut self, device: usize, access: &Access) -> io::Result<AccessId> {
        self.prepare(access.ssid.unwrap_or(0))?;
        let id = AccessId {
            device,
            number: self.submitted[device],
        };
        self.submitted[device] += 1;
        let record = self.record(id);
        for offset in (0..RECORD_SIZE).step_by(8) {
            self.guest.write64(record + offset, 0);
        }
        let index = id.number % RECORDS + device as u64 * RECORDS;
        self.devices[device].submit(&Request {
            operation: if access.write {
                Operation::Fill { dst: access.addr }
            } else {
                Operation::Checksum { src: access.addr }
            },
            len: ACCESS_LEN,
            ssid: access.ssid,
            exec: access.exec,
            privileged: access.privileged,
            record: RECORDS_VA + index * RECORD_SIZE,
            tag: id.number,
        });
        Ok(id)
    }

    fn resolve(&mut self, access: &Access) -> io::Result<()> {
        let page = self.guest.allocate()?;
        let base = access.addr & !(PAGE - 1);
        for offset in (0..PAGE).step_by(8) {
            self.guest.write64(page + offset, pattern(base + offset));
        }
        self.resolve_to(access.ssid, access.addr, page, true)
    }

    fn resolve_shared(&mut self, access: &Access) -> io::Result<()> {
        let page = match self.shared_page {
            Some(page) => page,
            None => *self.shared_page.insert(self.guest.allocate()?),
        };
        self.resolve_to(access.ssid, access.addr, page, true)
    }

    fn outcome(&mut self, id: AccessId) -> Option<Outcome> {
        testdev::outcome(self.record(id), |address| self.guest.read32(address))
    }

    fn tells_outcomes(&self) -> bool {
        true
    }

    fn completed(&self, device: usize) -> Option<u64> {
        Some(self.devices[device].counters().completed)
    }

    fn aborts(&self, device: usize) -> Option<u64> {
        Some(self.devices[device].counters().aborted)
    }

    fn is_quiet(&self, device: usize) -> bool {
        self.devices[device].enable(false);
        self.devices[device].is_idle()
    }

    fn attach(&mut self, device: usize, to: Attachment) -> io::Result<()> {
        let vfio = self.devices[device].vfio();
        match to {
            Attachment::First => vfio.attach(self.page_tables[0]),
            Attachment::Second => vfio.attach(self.page_tables[1]),
            Attachment::Detached => vfio.detach(),
        }
    }
}
