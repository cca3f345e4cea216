// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `include/uapi/linux/vfio.h`

const TYPE: u32 = b';' as u32;

const fn request(number: u32) -> u32 {
    (TYPE << 8) | (100 + number)
}

pub const GET_REGION_INFO: u32 = request(8);
pub const BIND_IOMMUFD: u32 = request(18);
pub const ATTACH_IOMMUFD_PT: u32 = request(19);
pub const DETACH_IOMMUFD_PT: u32 = request(20);

pub const PCI_BAR0_REGION: u32 = 0;
pub const PCI_BAR2_REGION: u32 = 2;
pub const PCI_CONFIG_REGION: u32 = 7;

#[repr(C)]
#[derive(Debug, Default)]
pub struct RegionInfo {
    pub argsz: u32,
    pub flags: u32,
    pub index: u32,
    pub cap_offset: u32,
    pub size: u64,
    pub offset: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct BindIommufd {
    pub argsz: u32,
    pub flags: u32,
    pub iommufd: i32,
    pub out_devid: u32,
    pub token_uuid_ptr: u64,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct AttachIommufdPt {
    pub argsz: u32,
    pub flags: u32,
    pub pt_id: u32,
    pub pasid: u32,
}

#[repr(C)]
#[derive(Debug, Default)]
pub struct DetachIommufdPt {
    pub argsz: u32,
    pub flags: u32,
    pub pasid: u32,
}
