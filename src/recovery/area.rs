// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes of the area.

use std::sync::{
    atomic::{fence, AtomicU64, Ordering},
    Arc,
};

use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use super::{error::AreaError, layout::Layout};
use crate::sys;

/// An area in mapped memory.
#[derive(Clone)]
pub struct Area {
    memory: Arc<MmapRegion>,
    offset: usize,
    room: usize,
}

/// The words of an area, looked up once for many of them.
#[derive(Clone, Copy)]
pub struct Words<'a>(&'a [AtomicU64]);

impl Words<'_> {
    /// A word; 0 if there is none.
    #[inline]
    pub fn load(&self, index: usize) -> u64 {
        let word = self.0.get(index);
        u64::from_le(word.map_or(0, |word| word.load(Ordering::Acquire)))
    }

    /// Stores a word, whoever has the right to; see [`super::owner::Owner::store`].
    #[inline]
    pub fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.0.get(index) {
            put(word, value);
        }
    }

    /// Those from one on.
    #[inline]
    pub fn from(&self, first: usize) -> &[AtomicU64] {
        self.0.get(first..).unwrap_or_default()
    }
}

/// Stores a word, whoever has the right to.
#[inline]
pub fn put(word: &AtomicU64, value: u64) {
    word.store(value.to_le(), Ordering::Relaxed);
}

impl Area {
    /// The area that begins at `offset` of `memory` and has so many bytes. There must be as many as
    /// `layout` says.
    pub fn new(
        memory: Arc<MmapRegion>,
        (offset, room): (u64, u64),
        layout: &Layout,
    ) -> Result<Self, AreaError> {
        let place = AreaError::Place(offset);
        let end = offset.checked_add(room).ok_or(place)?;
        if offset % crate::wire::RECOVERY_ALIGN != 0 || end > memory.size() as u64 {
            return Err(place);
        }
        if room < layout.room() {
            return Err(AreaError::Room {
                found: room,
                needed: layout.room(),
            });
        }
        let offset = usize::try_from(offset).map_err(|_| place)?;
        let room = usize::try_from(room).map_err(|_| place)?;
        Ok(Self {
            memory,
            offset,
            room,
        })
    }

    /// Its words; none if they are not in the memory.
    #[inline]
    pub fn words(&self) -> Words<'_> {
        let all = self.memory.get_slice(self.offset, self.room);
        Words(all.map_or(&[], |all| sys::words(&all)))
    }

    /// A word; 0 if there is none.
    pub fn load(&self, index: usize) -> u64 {
        self.words().load(index)
    }

    /// Stores a word, whoever has the right to; see [`super::owner::Owner::store`].
    pub fn store(&self, index: usize, value: u64) {
        self.words().store(index, value);
    }

    /// What has been stored is in the memory before what is stored from now on.
    ///
    /// The process can end in between, and the memory is looked at when it has ended.
    pub fn barrier(&self) {
        fence(Ordering::Release);
    }

    /// A range of bytes.
    pub fn bytes(&self, offset: usize, len: usize) -> Option<VolatileSlice<'_>> {
        self.memory.get_slice(self.offset + offset, len).ok()
    }
}
