// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `drivers/iommu/iommufd/iommufd_test.h`: the mock driver of CONFIG_IOMMUFD_TEST.

pub const OP_MOCK_DOMAIN: u32 = 2;
pub const OP_MOCK_DOMAIN_REPLACE: u32 = 10;
pub const OP_TRIGGER_IOPF: u32 = 15;

pub const HWPT_DATA_SELFTEST: u32 = 0xdead;

/// `struct iommu_test_cmd`; the words are the union from its offset 16 on, `last` and padding.
#[repr(C, align(8))]
#[derive(Debug, Default)]
pub struct TestCmd {
    pub size: u32,
    pub op: u32,
    pub id: u32,
    pub reserved: u32,
    pub args: [u32; 14],
}

const _: () = assert!(size_of::<TestCmd>() == 72);

/// `struct iommu_hwpt_selftest`
#[repr(C)]
#[derive(Debug, Default)]
pub struct HwptSelftest {
    pub iotlb: u32,
    pub pagetable_type: u32,
}
