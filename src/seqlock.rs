// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The status block in memory that two processes share, under a sequence lock (docs/protocol.md,
//! section 9.2).

use std::sync::{
    atomic::{fence, AtomicU32, AtomicU64, Ordering},
    Arc,
};

use vm_memory::{MmapRegion, VolatileMemory};
use zerocopy::IntoBytes;

use crate::wire::{StatusBlock, STATUS_SIZE};

const BYTES: usize = size_of::<StatusBlock>();
const WORD: usize = size_of::<u64>();
/// The first word is `seq` and `size`, the others are the fields.
const WORDS: usize = BYTES / WORD;
#[cfg(any(feature = "frontend", test))]
/// How often a reader begins anew, while a writer that lives needs well under a microsecond.
const ATTEMPTS: u32 = 1000;

/// A place for a status block.
pub struct StatusCell {
    memory: Arc<MmapRegion>,
    offset: usize,
}

impl StatusCell {
    /// The block that begins at `offset` of `memory`; `None` if it is not within, or not aligned.
    pub fn new(memory: Arc<MmapRegion>, offset: usize) -> Option<Self> {
        let cell = StatusCell { memory, offset };
        let fits = (0..WORDS).all(|index| cell.word(index).is_some());
        fits.then_some(cell)
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        let offset = self.offset.checked_add(index * WORD)?;
        self.memory.get_atomic_ref(offset).ok()
    }

    fn half(&self, index: usize) -> Option<&AtomicU32> {
        let offset = self.offset.checked_add(index * size_of::<u32>())?;
        self.memory.get_atomic_ref(offset).ok()
    }
}

#[cfg(any(feature = "frontend", test))]
impl StatusCell {
    /// What a reader finds; `None` if it has found the block being written each time, as when its
    /// writer has ended.
    pub fn load(&self) -> Option<StatusBlock> {
        (0..ATTEMPTS).find_map(|_| {
            let block = self.try_load();
            if block.is_none() {
                // The writer may have been put to sleep midway.
                std::thread::yield_now();
            }
            block
        })
    }

    fn try_load(&self) -> Option<StatusBlock> {
        let seq = self.half(0)?;
        let before = seq.load(Ordering::Acquire);
        if u32::from_le(before) % 2 == 1 {
            return None;
        }
        let mut bytes = [0; BYTES];
        for (index, bytes) in bytes.chunks_exact_mut(WORD).enumerate() {
            bytes.copy_from_slice(&self.word(index)?.load(Ordering::Relaxed).to_ne_bytes());
        }
        fence(Ordering::Acquire);
        (seq.load(Ordering::Relaxed) == before).then(|| zerocopy::transmute!(bytes))
    }
}

/// The only one who writes a status block.
pub struct StatusWriter {
    cell: StatusCell,
    /// Even. What the memory says is not asked again.
    seq: u32,
    /// What the fields are, so that those that stay the same are not written.
    words: [u64; WORDS],
}

impl StatusWriter {
    /// Writes to `cell`, going on where a former writer has stopped.
    pub fn new(cell: StatusCell) -> Self {
        let seq = cell.half(0).map_or(0, |seq| seq.load(Ordering::Acquire));
        let seq = u32::from_le(seq);
        let mut words = [0; WORDS];
        for (index, word) in words.iter_mut().enumerate() {
            *word = cell.word(index).map_or(0, |w| w.load(Ordering::Relaxed));
        }
        StatusWriter {
            cell,
            seq: seq.wrapping_add(seq % 2),
            words,
        }
    }

    /// Writes `block`, whose own `seq` and `size` do not count. No system call, no allocation.
    pub fn store(&mut self, block: &StatusBlock) {
        let (Some(seq), Some(size)) = (self.cell.half(0), self.cell.half(1)) else {
            return;
        };
        seq.store(self.seq.wrapping_add(1).to_le(), Ordering::Relaxed);
        fence(Ordering::Release);
        let block = block.as_bytes().chunks_exact(WORD).enumerate().skip(1);
        for (index, bytes) in block {
            // A chunk has as many bytes as a word.
            let word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
            if self.words[index] != word {
                self.words[index] = word;
                if let Some(place) = self.cell.word(index) {
                    place.store(word, Ordering::Relaxed);
                }
            }
        }
        size.store(STATUS_SIZE.to_le(), Ordering::Relaxed);
        self.seq = self.seq.wrapping_add(2);
        seq.store(self.seq.to_le(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        sync::atomic::{AtomicBool, AtomicUsize},
        thread,
    };

    use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
    use vm_memory::FileOffset;
    use zerocopy::FromZeros;

    use super::*;
    use crate::wire::U64;

    const OFFSET: usize = 64;

    /// Two mappings of the same memory.
    fn cells() -> [StatusCell; 2] {
        let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        let file = Arc::new(File::from(file));
        [(); 2].map(|()| {
            let file = FileOffset::from_arc(file.clone(), 0);
            let memory = MmapRegion::from_file(file, 4096).unwrap();
            StatusCell::new(Arc::new(memory), OFFSET).unwrap()
        })
    }

    /// A block all of whose fields say the same.
    fn block(number: u32) -> StatusBlock {
        let mut block = StatusBlock::new_zeroed();
        for field in block.as_mut_bytes().chunks_exact_mut(4) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        block
    }

    fn fields(block: &StatusBlock) -> Vec<u32> {
        let fields = block.as_bytes().chunks_exact(4).skip(2);
        fields
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            .collect()
    }

    #[test]
    fn test_load_while_blocks_are_written_never_sees_two_of_them() {
        const LOADS: usize = 20_000;
        let [ours, theirs] = cells();
        let mut writer = StatusWriter::new(ours);
        writer.store(&block(0));
        let (done, loads) = (AtomicBool::new(false), AtomicUsize::new(0));

        thread::scope(|scope| {
            scope.spawn(|| {
                let mut number = 0;
                while !done.load(Ordering::Relaxed) {
                    number += 1;
                    writer.store(&block(number));
                }
            });
            let mut last = 0;
            while loads.load(Ordering::Relaxed) < LOADS {
                let Some(block) = theirs.load() else { continue };
                let fields = fields(&block);
                let torn = fields.iter().any(|field| *field != fields[0]);
                if torn || fields[0] < last {
                    done.store(true, Ordering::Relaxed);
                    panic!("{fields:?} after {last}");
                }
                last = fields[0];
                loads.fetch_add(1, Ordering::Relaxed);
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn test_load_of_a_block_whose_writer_has_ended_midway_is_nothing() {
        let [ours, theirs] = cells();
        let mut writer = StatusWriter::new(ours);
        writer.store(&block(1));
        let seq = theirs.half(0).unwrap();
        seq.store(3_u32.to_le(), Ordering::Relaxed);

        assert_eq!(theirs.load(), None);
    }

    #[test]
    fn test_writer_after_another_that_ended_midway_goes_on_with_the_next_even_number() {
        let [ours, theirs] = cells();
        ours.half(0)
            .unwrap()
            .store(7_u32.to_le(), Ordering::Relaxed);
        let mut writer = StatusWriter::new(ours);
        let mut next = block(5);
        next.heartbeat_ns = U64::new(99);

        writer.store(&next);

        let seen = theirs.load().unwrap();
        assert_eq!(seen.seq.get(), 10);
        assert_eq!(seen.size.get(), STATUS_SIZE);
        assert_eq!(seen.heartbeat_ns.get(), 99);
    }

    #[test]
    fn test_cell_beyond_the_memory_or_not_aligned_is_refused() {
        for offset in [4096 - BYTES + 8, 4096, usize::MAX - 3, 68] {
            let file = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
            ftruncate(&file, 4096).unwrap();
            let file = FileOffset::new(File::from(file), 0);
            let memory = MmapRegion::from_file(file, 4096).unwrap();

            assert!(
                StatusCell::new(Arc::new(memory), offset).is_none(),
                "{offset}"
            );
        }
    }
}
