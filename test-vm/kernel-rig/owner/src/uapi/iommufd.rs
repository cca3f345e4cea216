// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `include/uapi/linux/iommufd.h`

const TYPE: u32 = b';' as u32;

const fn request(number: u32) -> u32 {
    (TYPE << 8) | number
}

pub const IOAS_ALLOC: u32 = request(0x81);
pub const IOAS_MAP: u32 = request(0x85);
pub const HWPT_ALLOC: u32 = request(0x89);
pub const HWPT_INVALIDATE: u32 = request(0x8d);
pub const FAULT_QUEUE_ALLOC: u32 = request(0x8e);
pub const VIOMMU_ALLOC: u32 = request(0x90);
pub const VDEVICE_ALLOC: u32 = request(0x91);
pub const VEVENTQ_ALLOC: u32 = request(0x93);
pub const TEST_CMD: u32 = request(0xa0);

pub const IOAS_MAP_FIXED_IOVA: u32 = 1 << 0;
pub const IOAS_MAP_WRITEABLE: u32 = 1 << 1;
pub const IOAS_MAP_READABLE: u32 = 1 << 2;

pub const HWPT_ALLOC_NEST_PARENT: u32 = 1 << 0;
pub const HWPT_FAULT_ID_VALID: u32 = 1 << 2;

pub const HWPT_DATA_ARM_SMMUV3: u32 = 2;
pub const VIOMMU_TYPE_ARM_SMMUV3: u32 = 1;
pub const VEVENTQ_TYPE_ARM_SMMUV3: u32 = 1;
pub const VIOMMU_INVALIDATE_DATA_ARM_SMMUV3: u32 = 1;

#[repr(C)]
#[derive(Debug, Default)]
pub struct IoasAlloc {
    pub size: u32,
    pub flags: u32,
    pub out_ioas_id: u32,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct IoasMap {
    pub size: u32,
    pub flags: u32,
    pub ioas_id: u32,
    pub reserved: u32,
    pub user_va: u64,
    pub length: u64,
    pub iova: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct HwptAlloc {
    pub size: u32,
    pub flags: u32,
    pub dev_id: u32,
    pub pt_id: u32,
    pub out_hwpt_id: u32,
    pub reserved: u32,
    pub data_type: u32,
    pub data_len: u32,
    pub data_uptr: u64,
    pub fault_id: u32,
    pub reserved2: u32,
}

/// `struct iommu_hwpt_arm_smmuv3`: the first two words of the guest's STE.
#[repr(C)]
#[derive(Debug, Default)]
pub struct HwptArmSmmuv3 {
    pub ste: [u64; 2],
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct HwptInvalidate {
    pub size: u32,
    pub hwpt_id: u32,
    pub data_uptr: u64,
    pub data_type: u32,
    pub entry_len: u32,
    pub entry_num: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct FaultAlloc {
    pub size: u32,
    pub flags: u32,
    pub out_fault_id: u32,
    pub out_fault_fd: u32,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct ViommuAlloc {
    pub size: u32,
    pub flags: u32,
    pub kind: u32,
    pub dev_id: u32,
    pub hwpt_id: u32,
    pub out_viommu_id: u32,
    pub data_len: u32,
    pub reserved: u32,
    pub data_uptr: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct VdeviceAlloc {
    pub size: u32,
    pub viommu_id: u32,
    pub dev_id: u32,
    pub out_vdevice_id: u32,
    pub virt_id: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct VeventqAlloc {
    pub size: u32,
    pub flags: u32,
    pub viommu_id: u32,
    pub kind: u32,
    pub depth: u32,
    pub out_veventq_id: u32,
    pub out_veventq_fd: u32,
    pub reserved: u32,
}
