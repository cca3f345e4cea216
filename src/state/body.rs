// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes of a state stream after its header, as they come in.

use std::io::{ErrorKind, Read};

use zerocopy::{FromBytes, IntoBytes};

use super::format::section_name;
use super::DecodeError;

/// Memory that may be there before the bytes for it have come.
const AHEAD: usize = 1 << 18;

/// What comes after the header. Its records are read to where they stay: memory grows with what
/// arrives, by [`AHEAD`] at a time.
pub(super) struct Body<R> {
    stream: R,
    length: u64,
    left: u64,
    crc: u32,
}

impl<R: Read> Body<R> {
    pub(super) fn new(stream: R, length: u64) -> Self {
        Self {
            stream,
            length,
            left: length,
            crc: crc32c::crc32c(&[]),
        }
    }

    /// Bytes that have not been read.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Bytes that have been read.
    pub(super) fn offset(&self) -> usize {
        usize::try_from(self.length - self.left).unwrap_or(usize::MAX)
    }

    /// Reads `bytes`, which must not be more than there are left.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) -> Result<(), DecodeError> {
        let mut rest = &mut *bytes;
        while !rest.is_empty() {
            match self.stream.read(rest) {
                Ok(0) => {
                    return Err(DecodeError::Truncated {
                        found: self.length - self.left,
                        expected: self.length,
                    });
                }
                Ok(count) => {
                    let (read, after) = rest.split_at_mut(count);
                    self.crc = crc32c::crc32c_append(self.crc, read);
                    self.left -= count as u64;
                    rest = after;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(DecodeError::Read(e)),
            }
        }
        Ok(())
    }

    /// Reads a section's records, which have `length` bytes.
    pub(super) fn records<T>(&mut self, section: u32, length: u64) -> Result<Vec<T>, DecodeError>
    where
        T: FromBytes + IntoBytes + Clone,
    {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length % size_of::<T>() != 0 {
            return Err(wrong_length(section, length));
        }
        let count = length / size_of::<T>();
        let mut records = Vec::new();
        while records.len() < count {
            let read = records.len();
            let more = (count - read).min(AHEAD / size_of::<T>());
            records.resize_with(read + more, T::new_zeroed);
            self.fill(records[read..].as_mut_bytes())?;
        }
        Ok(records)
    }

    /// Reads bytes that nobody wants.
    pub(super) fn skip(&mut self, mut length: u64) -> Result<(), DecodeError> {
        let mut bytes = [0; 4096];
        while length > 0 {
            let part = usize::try_from(length).map_or(bytes.len(), |some| some.min(bytes.len()));
            self.fill(&mut bytes[..part])?;
            length -= part as u64;
        }
        Ok(())
    }

    /// Reads to the end of the stream, and says what the checksum of the body is.
    pub(super) fn finish(mut self) -> Result<u32, DecodeError> {
        self.skip(self.left)?;
        let mut rest = Vec::new();
        self.stream
            .take(1)
            .read_to_end(&mut rest)
            .map_err(DecodeError::Read)?;
        if !rest.is_empty() {
            return Err(DecodeError::TrailingBytes {
                length: self.length,
            });
        }
        Ok(self.crc)
    }
}

pub(super) fn wrong_length(section: u32, length: usize) -> DecodeError {
    DecodeError::SectionLength {
        name: section_name(section),
        length,
    }
}
