// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's ABI as far as the rig uses it (Linux 7.2: `include/uapi/linux/iommufd.h`, `vfio.h`,
//! and `drivers/iommu/iommufd/iommufd_test.h`).

pub mod iommufd;
pub mod selftest;
pub mod vfio;
