// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records of a fault channel: the kernel's `struct iommu_hwpt_pgfault` and `struct
//! iommu_hwpt_page_response`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{U32, U64};

/// Size of a [`PgFault`].
pub const PGFAULT_SIZE: usize = 40;
/// Size of a [`PageResponse`].
pub const PAGE_RESPONSE_SIZE: usize = 8;

/// [`PgFault::flags`]: `pasid` is valid.
pub const PGFAULT_PASID_VALID: u32 = 1 << 0;
/// [`PgFault::flags`]: the last record of its group.
pub const PGFAULT_LAST_PAGE: u32 = 1 << 1;

/// [`PgFault::perm`]: read.
pub const PERM_READ: u32 = 1 << 0;
/// [`PgFault::perm`]: write.
pub const PERM_WRITE: u32 = 1 << 1;
/// [`PgFault::perm`]: instruction fetch.
pub const PERM_EXEC: u32 = 1 << 2;
/// [`PgFault::perm`]: privileged.
pub const PERM_PRIV: u32 = 1 << 3;

/// One fault, as read from a fault channel.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct PgFault {
    /// [`PGFAULT_PASID_VALID`], [`PGFAULT_LAST_PAGE`]; other bits have no meaning here.
    pub flags: U32,
    /// The iommufd device object.
    pub dev_id: U32,
    /// PASID (the SMMU's SSID).
    pub pasid: U32,
    /// Page request group index.
    pub grpid: U32,
    /// [`PERM_READ`], [`PERM_WRITE`], [`PERM_EXEC`], [`PERM_PRIV`].
    pub perm: U32,
    /// Reserved.
    pub reserved: U32,
    /// Faulting input address.
    pub addr: U64,
    /// Hint; the kernel writes 0.
    pub length: U32,
    /// Names the group in the answer.
    pub cookie: U32,
}

const _: () = assert!(size_of::<PgFault>() == PGFAULT_SIZE);

impl PgFault {
    /// The PASID, if the fault has one.
    pub fn pasid(&self) -> Option<u32> {
        (self.flags.get() & PGFAULT_PASID_VALID != 0).then(|| self.pasid.get())
    }

    /// Whether this record ends its group.
    pub fn is_last(&self) -> bool {
        self.flags.get() & PGFAULT_LAST_PAGE != 0
    }
}

/// The answer to a group of faults, as written to a fault channel.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct PageResponse {
    /// Cookie of the group.
    pub cookie: U32,
    /// A [`ResponseCode`].
    pub code: U32,
}

const _: () = assert!(size_of::<PageResponse>() == PAGE_RESPONSE_SIZE);

/// Code of a [`PageResponse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u32)]
pub enum ResponseCode {
    /// The access is retried.
    Success = 0,
    /// The access is aborted.
    Invalid = 1,
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn test_pgfault_layout_matches_kernel() {
        let fault = PgFault {
            flags: U32::new(3),
            dev_id: U32::new(4),
            pasid: U32::new(5),
            grpid: U32::new(6),
            perm: U32::new(7),
            reserved: U32::new(0),
            addr: U64::new(0x1122_3344_5566_7788),
            length: U32::new(9),
            cookie: U32::new(10),
        };

        let words: Vec<u32> = fault
            .as_bytes()
            .chunks(4)
            .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
            .collect();

        assert_eq!(words, [3, 4, 5, 6, 7, 0, 0x5566_7788, 0x1122_3344, 9, 10]);
    }

    #[test]
    fn test_pgfault_pasid_without_flag_is_none() {
        let mut fault = PgFault::new_zeroed();
        fault.pasid = U32::new(5);
        assert_eq!(fault.pasid(), None);
        assert!(!fault.is_last());

        fault.flags = U32::new(PGFAULT_PASID_VALID | PGFAULT_LAST_PAGE);
        assert_eq!(fault.pasid(), Some(5));
        assert!(fault.is_last());
    }

    #[test]
    fn test_page_response_layout_matches_kernel() {
        let response = PageResponse {
            cookie: U32::new(0x01020304),
            code: U32::new(ResponseCode::Invalid as u32),
        };

        assert_eq!(response.as_bytes(), [4, 3, 2, 1, 1, 0, 0, 0]);
    }
}
