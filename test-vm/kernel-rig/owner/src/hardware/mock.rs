// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The mock driver of CONFIG_IOMMUFD_TEST: faults by ioctl, answers that go nowhere.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use vhost_user_vsva::wire::{PERM_EXEC, PERM_PRIV, PERM_READ, PERM_WRITE};

use super::{Access, AccessId, Attachment, Hardware};
use crate::{
    ioctl::call,
    iommu::{FaultQueue, Iommufd, ObjectId},
    testdev::Outcome,
    uapi::{
        iommufd::TEST_CMD,
        selftest::{
            HwptSelftest, TestCmd, HWPT_DATA_SELFTEST, OP_MOCK_DOMAIN, OP_MOCK_DOMAIN_REPLACE,
            OP_TRIGGER_IOPF,
        },
    },
};

struct MockDevice {
    /// The mock device itself.
    object: ObjectId,
    /// The device as iommufd numbers it.
    id: ObjectId,
}

/// Mock devices on one fault queue.
pub struct Mock {
    devices: Vec<MockDevice>,
    ioas: ObjectId,
    page_tables: [ObjectId; 2],
    queue: FaultQueue,
    iommufd: Iommufd,
    raised: u64,
}

impl Mock {
    /// Makes `count` devices and attaches them.
    pub fn new(count: usize) -> io::Result<Self> {
        let iommufd = Iommufd::open()?;
        let ioas = iommufd.ioas()?;
        let mut devices = Vec::new();
        for _ in 0..count {
            let mut cmd = TestCmd {
                op: OP_MOCK_DOMAIN,
                id: ioas,
                ..Default::default()
            };
            call(&iommufd, "IOMMU_TEST_OP_MOCK_DOMAIN", TEST_CMD, &mut cmd)?;
            devices.push(MockDevice {
                object: cmd.args[0],
                id: cmd.args[2],
            });
        }
        let queue = iommufd.fault_queue()?;
        let parent = iommufd.parent(devices[0].id, ioas)?;
        let data = HwptSelftest {
            iotlb: 1,
            pagetable_type: 0,
        };
        let nested = || {
            iommufd.nested(
                devices[0].id,
                parent,
                Some(&queue),
                HWPT_DATA_SELFTEST,
                &data,
            )
        };
        let page_tables = [nested()?, nested()?];
        let mut mock = Mock {
            devices,
            ioas,
            page_tables,
            queue,
            iommufd,
            raised: 0,
        };
        for device in 0..count {
            mock.attach(device, Attachment::First)?;
        }
        Ok(mock)
    }
}

impl Hardware for Mock {
    fn fault_fd(&self) -> BorrowedFd<'_> {
        self.queue.fd.as_fd()
    }

    fn device_id(&self, device: usize) -> u32 {
        self.devices[device].id
    }

    fn access(&mut self, device: usize, access: &Access) -> io::Result<AccessId> {
        let perm = if access.write { PERM_WRITE } else { PERM_READ }
            | if access.exec { PERM_EXEC } else { 0 }
            | if access.privileged { PERM_PRIV } else { 0 };
        let number = self.raised;
        self.raised += 1;
        let low = |value: u64| u32::try_from(value & 0xffff_ffff).expect("masked");
        let group = low(number & 0xffff);
        let mut cmd = TestCmd {
            op: OP_TRIGGER_IOPF,
            ..Default::default()
        };
        cmd.args[..6].copy_from_slice(&[
            self.devices[device].id,
            access.ssid.unwrap_or(0),
            group,
            perm,
            low(access.addr),
            low(access.addr >> 32),
        ]);
        call(
            &self.iommufd,
            "IOMMU_TEST_OP_TRIGGER_IOPF",
            TEST_CMD,
            &mut cmd,
        )?;
        Ok(AccessId { device, number })
    }

    fn resolve(&mut self, _: &Access) -> io::Result<()> {
        Ok(())
    }

    fn resolve_shared(&mut self, _: &Access) -> io::Result<()> {
        Ok(())
    }

    fn outcome(&mut self, _: AccessId) -> Option<Outcome> {
        None
    }

    fn tells_outcomes(&self) -> bool {
        false
    }

    fn completed(&self, _: usize) -> Option<u64> {
        None
    }

    fn aborts(&self, _: usize) -> Option<u64> {
        None
    }

    fn is_quiet(&self, _: usize) -> bool {
        true
    }

    fn attach(&mut self, device: usize, to: Attachment) -> io::Result<()> {
        let page_table = match to {
            Attachment::First => self.page_tables[0],
            Attachment::Second => self.page_tables[1],
            // A mock device is always attached; this page table has no fault queue.
            Attachment::Detached => self.ioas,
        };
        let mut cmd = TestCmd {
            op: OP_MOCK_DOMAIN_REPLACE,
            id: self.devices[device].object,
            ..Default::default()
        };
        cmd.args[0] = page_table;
        call(
            &self.iommufd,
            "IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE",
            TEST_CMD,
            &mut cmd,
        )
    }
}
