// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest kernel keeps in its memory for the SMMU (Arm IHI 0070): a linear table of context
//! descriptors and the stage-1 page tables they point to.

use std::{collections::HashMap, io};

use crate::memory::Shared;

/// Where the guest's memory is in its physical address space; keeps off the window of the interrupt
/// controller.
pub const GUEST_BASE: u64 = 0x4000_0000;
pub const PAGE: u64 = 4096;

/// log2 of the number of context descriptors, the SSIDs that a device can use.
pub const SSID_BITS: u32 = 8;
const CD_SIZE: u64 = 64;

const STE_VALID: u64 = 1 << 0;
const STE_CONFIG_S1: u64 = 5 << 1;
const STE_S1CDMAX_SHIFT: u32 = 59;
/// S1DSS = 2: without an SSID, the descriptor of SSID 0 is used; the table is inner shareable and
/// cacheable.
const STE_WORD1: u64 = 2 | (1 << 2) | (1 << 4) | (3 << 6);
const STE_S1STALLD: u64 = 1 << 27;

const CD_T0SZ_48_BITS: u64 = 16;
const CD_CACHEABLE: u64 = (1 << 8) | (1 << 10) | (3 << 12);
const CD_TTB1_DISABLED: u64 = 1 << 30;
const CD_VALID: u64 = 1 << 31;
const CD_IPS_44_BITS: u64 = 4 << 32;
const CD_AARCH64: u64 = 1 << 41;
const CD_STALL: u64 = 1 << 44;
const CD_RECORD_ABORT: u64 = (1 << 45) | (1 << 46);
const CD_PRIVATE_ASIDS: u64 = 1 << 47;
const CD_ASID_SHIFT: u32 = 48;
const MAIR_NORMAL: u64 = 0xff;

const DESCRIPTOR_TABLE_OR_PAGE: u64 = 3;
const PTE_USER: u64 = 1 << 6;
const PTE_READ_ONLY: u64 = 1 << 7;
const PTE_INNER_SHAREABLE: u64 = 3 << 8;
const PTE_ACCESSED: u64 = 1 << 10;
const PTE_NOT_GLOBAL: u64 = 1 << 11;
const OUTPUT_ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// The guest's memory, with its tables in it.
pub struct GuestMemory {
    memory: Shared,
    next_page: u64,
    descriptors: u64,
    roots: HashMap<u32, u64>,
    stalls: bool,
}

impl GuestMemory {
    /// `stalls`: faults stall (CD.S), else they terminate.
    pub fn new(size: usize, stalls: bool) -> io::Result<Self> {
        let mut guest = GuestMemory {
            memory: Shared::anonymous(size)?,
            next_page: GUEST_BASE,
            descriptors: 0,
            roots: HashMap::new(),
            stalls,
        };
        let pages = (CD_SIZE << SSID_BITS) / PAGE;
        guest.descriptors = guest.allocate()?;
        for _ in 1..pages {
            guest.allocate()?;
        }
        Ok(guest)
    }

    pub fn memory(&self) -> &Shared {
        &self.memory
    }

    /// The words 0 and 1 of the stream table entry.
    pub fn stream_table_entry(&self, s1stalld: bool) -> [u64; 2] {
        [
            STE_VALID
                | STE_CONFIG_S1
                | self.descriptors
                | (u64::from(SSID_BITS) << STE_S1CDMAX_SHIFT),
            STE_WORD1 | if s1stalld { STE_S1STALLD } else { 0 },
        ]
    }

    /// A zeroed page of guest memory; its guest-physical address.
    pub fn allocate(&mut self) -> io::Result<u64> {
        let page = self.next_page;
        if page + PAGE > GUEST_BASE + self.memory.len() as u64 {
            return Err(io::Error::new(
                io::ErrorKind::OutOfMemory,
                "the guest's memory is used up",
            ));
        }
        self.next_page += PAGE;
        Ok(page)
    }

    fn offset(address: u64) -> usize {
        usize::try_from(address - GUEST_BASE).expect("64-bit")
    }

    pub fn read32(&self, address: u64) -> u32 {
        self.memory.read32(Self::offset(address))
    }

    pub fn read64(&self, address: u64) -> u64 {
        self.memory.read64(Self::offset(address))
    }

    pub fn write64(&self, address: u64, value: u64) {
        self.memory.write64(Self::offset(address), value);
    }

    /// Makes `page` the translation of the page of `va` in the address space of `ssid`.
    pub fn map(&mut self, ssid: u32, va: u64, page: u64, writable: bool) -> io::Result<()> {
        let entry = self.leaf(ssid, va)?;
        let access = if writable { 0 } else { PTE_READ_ONLY };
        self.write64(
            entry,
            page | DESCRIPTOR_TABLE_OR_PAGE
                | PTE_USER
                | access
                | PTE_INNER_SHAREABLE
                | PTE_ACCESSED
                | PTE_NOT_GLOBAL,
        );
        Ok(())
    }

    /// Guest-physical address of what `va` is translated to.
    pub fn translate(&mut self, ssid: u32, va: u64) -> io::Result<Option<u64>> {
        let entry = self.leaf(ssid, va)?;
        let value = self.read64(entry);
        Ok((value & 1 == 1).then_some((value & OUTPUT_ADDRESS) | (va & (PAGE - 1))))
    }

    /// Makes sure that the address space of `ssid` exists.
    pub fn address_space(&mut self, ssid: u32) -> io::Result<u64> {
        if let Some(root) = self.roots.get(&ssid) {
            return Ok(*root);
        }
        assert!(ssid < 1 << SSID_BITS, "SSID {ssid} is beyond the table");
        let root = self.allocate()?;
        self.roots.insert(ssid, root);
        let descriptor = self.descriptors + u64::from(ssid) * CD_SIZE;
        self.write64(descriptor + 8, root);
        self.write64(descriptor + 24, MAIR_NORMAL);
        self.write64(
            descriptor,
            CD_T0SZ_48_BITS
                | CD_CACHEABLE
                | CD_TTB1_DISABLED
                | CD_VALID
                | CD_IPS_44_BITS
                | CD_AARCH64
                | if self.stalls { CD_STALL } else { 0 }
                | CD_RECORD_ABORT
                | CD_PRIVATE_ASIDS
                | (u64::from(ssid) << CD_ASID_SHIFT),
        );
        Ok(root)
    }

    /// Address of the last-level entry of `va`; makes the tables above it.
    fn leaf(&mut self, ssid: u32, va: u64) -> io::Result<u64> {
        let mut table = self.address_space(ssid)?;
        for shift in [39, 30, 21] {
            let entry = table + ((va >> shift) & 0x1ff) * 8;
            let value = self.read64(entry);
            table = if value & 1 == 1 {
                value & OUTPUT_ADDRESS
            } else {
                let next = self.allocate()?;
                self.write64(entry, next | DESCRIPTOR_TABLE_OR_PAGE);
                next
            };
        }
        Ok(table + ((va >> 12) & 0x1ff) * 8)
    }
}

/// CMD_TLBI_NH_ALL
pub const TLBI_NH_ALL: [u64; 2] = [0x10, 0];
