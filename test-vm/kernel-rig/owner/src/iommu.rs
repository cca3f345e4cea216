// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! An iommufd context and its objects.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use crate::{
    ioctl::call,
    memory::Shared,
    uapi::iommufd::{self as abi, *},
};

/// `/dev/iommu`
pub struct Iommufd(File);

/// A fault queue: its object and its descriptor.
pub struct FaultQueue {
    pub id: u32,
    pub fd: OwnedFd,
}

/// An id of an object in an [`Iommufd`].
pub type ObjectId = u32;

impl Iommufd {
    pub fn open() -> io::Result<Self> {
        Ok(Iommufd(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/iommu")?,
        ))
    }

    pub fn ioas(&self) -> io::Result<ObjectId> {
        let mut arg = IoasAlloc::default();
        call(self, "IOMMU_IOAS_ALLOC", IOAS_ALLOC, &mut arg)?;
        Ok(arg.out_ioas_id)
    }

    /// Makes `memory` the stage-2 translation of `iova`.
    pub fn map(&self, ioas: ObjectId, memory: &Shared, iova: u64) -> io::Result<()> {
        let mut arg = IoasMap {
            flags: IOAS_MAP_FIXED_IOVA | IOAS_MAP_READABLE | IOAS_MAP_WRITEABLE,
            ioas_id: ioas,
            user_va: memory.address(),
            length: memory.len() as u64,
            iova,
            ..Default::default()
        };
        call(self, "IOMMU_IOAS_MAP", IOAS_MAP, &mut arg)
    }

    /// The stage-2 page table below nested ones.
    pub fn parent(&self, device: ObjectId, ioas: ObjectId) -> io::Result<ObjectId> {
        self.hwpt(HwptAlloc {
            flags: HWPT_ALLOC_NEST_PARENT,
            dev_id: device,
            pt_id: ioas,
            ..Default::default()
        })
    }

    /// A page table whose stage 1 is described by `data`, with or without a fault queue.
    pub fn nested<T>(
        &self,
        device: ObjectId,
        parent: ObjectId,
        faults: Option<&FaultQueue>,
        data_type: u32,
        data: &T,
    ) -> io::Result<ObjectId> {
        let pointer: *const T = data;
        self.hwpt(HwptAlloc {
            flags: if faults.is_some() {
                HWPT_FAULT_ID_VALID
            } else {
                0
            },
            dev_id: device,
            pt_id: parent,
            data_type,
            data_len: u32::try_from(size_of::<T>()).expect("ABI structures are small"),
            data_uptr: pointer as u64,
            fault_id: faults.map_or(0, |queue| queue.id),
            ..Default::default()
        })
    }

    fn hwpt(&self, mut arg: HwptAlloc) -> io::Result<ObjectId> {
        call(self, "IOMMU_HWPT_ALLOC", abi::HWPT_ALLOC, &mut arg)?;
        Ok(arg.out_hwpt_id)
    }

    pub fn fault_queue(&self) -> io::Result<FaultQueue> {
        let mut arg = FaultAlloc::default();
        call(self, "IOMMU_FAULT_QUEUE_ALLOC", FAULT_QUEUE_ALLOC, &mut arg)?;
        Ok(FaultQueue {
            id: arg.out_fault_id,
            fd: new_fd(arg.out_fault_fd)?,
        })
    }

    pub fn viommu(&self, device: ObjectId, parent: ObjectId) -> io::Result<ObjectId> {
        let mut arg = ViommuAlloc {
            kind: VIOMMU_TYPE_ARM_SMMUV3,
            dev_id: device,
            hwpt_id: parent,
            ..Default::default()
        };
        call(self, "IOMMU_VIOMMU_ALLOC", VIOMMU_ALLOC, &mut arg)?;
        Ok(arg.out_viommu_id)
    }

    pub fn vdevice(&self, viommu: ObjectId, device: ObjectId, vsid: u32) -> io::Result<ObjectId> {
        let mut arg = VdeviceAlloc {
            viommu_id: viommu,
            dev_id: device,
            virt_id: vsid.into(),
            ..Default::default()
        };
        call(self, "IOMMU_VDEVICE_ALLOC", VDEVICE_ALLOC, &mut arg)?;
        Ok(arg.out_vdevice_id)
    }

    pub fn veventq(&self, viommu: ObjectId, depth: u32) -> io::Result<OwnedFd> {
        let mut arg = VeventqAlloc {
            viommu_id: viommu,
            kind: VEVENTQ_TYPE_ARM_SMMUV3,
            depth,
            ..Default::default()
        };
        call(self, "IOMMU_VEVENTQ_ALLOC", VEVENTQ_ALLOC, &mut arg)?;
        new_fd(arg.out_veventq_fd)
    }

    /// Hands invalidation commands of the guest to the hardware.
    pub fn invalidate(&self, viommu: ObjectId, commands: &[[u64; 2]]) -> io::Result<()> {
        let mut arg = HwptInvalidate {
            hwpt_id: viommu,
            data_uptr: commands.as_ptr() as u64,
            data_type: VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
            entry_len: 16,
            entry_num: u32::try_from(commands.len()).map_err(io::Error::other)?,
            ..Default::default()
        };
        call(self, "IOMMU_HWPT_INVALIDATE", HWPT_INVALIDATE, &mut arg)
    }
}

impl AsFd for Iommufd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn new_fd(number: u32) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it in answer to our request, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
