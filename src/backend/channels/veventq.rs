// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A vEVENTQ of the kernel's iommufd: event records of a vIOMMU that are not faults to be answered.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Mutex,
};

use rustix::{
    fs::{fcntl_getfl, fcntl_setfl, fstat, FileType, OFlags},
    io::Errno,
};

use crate::{lock::lock, wire::EVENT_RECORD_SIZE};

/// `struct iommufd_vevent_header`: flags, sequence.
const HEADER_SIZE: usize = 8;
const ENTRY_SIZE: usize = HEADER_SIZE + EVENT_RECORD_SIZE;
/// `IOMMU_VEVENTQ_FLAG_LOST_EVENTS`
const FLAG_LOST_EVENTS: u32 = 1 << 0;
/// Sequence numbers go from 0 to this one, and on from 0.
const SEQUENCE_MAX: u32 = 0x7fff_ffff;
/// Entries read by one system call.
const READ_BATCH: usize = 64;

/// What the queue says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Events that the kernel lost before this record.
    pub lost: u32,
    /// The record; `None` if only the loss is reported.
    pub record: Option<[u8; EVENT_RECORD_SIZE]>,
}

/// A vEVENTQ.
pub struct EventQueue {
    fd: OwnedFd,
    /// Sequence number of the last entry.
    last: Mutex<Option<u32>>,
}

impl EventQueue {
    /// Takes over `fd`.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // An anonymous inode has no type.
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::Unknown {
            let text = "it is no event file of iommufd";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // A file of iommufd never blocks; whatever else this may be must not either.
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        Ok(EventQueue {
            fd,
            last: Mutex::new(None),
        })
    }

    /// Reads at most `room` entries and hands them to `take`. Returns whether there may be more.
    pub fn read(&self, room: usize, take: impl FnMut(Entry)) -> io::Result<bool> {
        self.read_by(|buf| rustix::io::read(&self.fd, buf), room, take)
    }

    fn read_by(
        &self,
        mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
        room: usize,
        mut take: impl FnMut(Entry),
    ) -> io::Result<bool> {
        let mut last = lock(&self.last);
        let mut buf = [0; READ_BATCH * ENTRY_SIZE];
        let want = room.min(READ_BATCH) * ENTRY_SIZE;
        if want == 0 {
            return Ok(true);
        }
        let got = loop {
            match read(&mut buf[..want]) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                result => break result?,
            }
        };
        let mut rest = &buf[..got];
        while !rest.is_empty() {
            let (entry, sequence, tail) = parse(rest, *last)?;
            *last = Some(sequence);
            rest = tail;
            take(entry);
        }
        Ok(got > 0)
    }
}

impl AsFd for EventQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The first entry, its sequence number, and what follows it.
fn parse(bytes: &[u8], last: Option<u32>) -> io::Result<(Entry, u32, &[u8])> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not an SMMUv3 event entry");
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(bytes))
    };
    let (flags, sequence) = word(0).zip(word(4)).ok_or_else(invalid)?;
    let step = last.map_or(1, |last| sequence.wrapping_sub(last) & SEQUENCE_MAX);
    if flags & FLAG_LOST_EVENTS != 0 {
        // This number belongs to an event that was lost. A second reader sees the last one again.
        let lost = if last.is_none() { 1 } else { step };
        return Ok((
            Entry { lost, record: None },
            sequence,
            &bytes[HEADER_SIZE..],
        ));
    }
    let record = bytes
        .get(HEADER_SIZE..ENTRY_SIZE)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(invalid)?;
    let entry = Entry {
        lost: step.saturating_sub(1),
        record: Some(record),
    };
    Ok((entry, sequence, &bytes[ENTRY_SIZE..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: u32, byte: u8) -> Vec<u8> {
        let mut bytes = 0_u32.to_ne_bytes().to_vec();
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([byte; EVENT_RECORD_SIZE]);
        bytes
    }

    fn lost_header(sequence: u32) -> Vec<u8> {
        let mut bytes = FLAG_LOST_EVENTS.to_ne_bytes().to_vec();
        bytes.extend(sequence.to_ne_bytes());
        bytes
    }

    fn parse_all(bytes: &[u8], mut last: Option<u32>) -> Vec<(u32, Option<u8>)> {
        let mut rest = bytes;
        let mut entries = Vec::new();
        while !rest.is_empty() {
            let (entry, sequence, tail) = parse(rest, last).unwrap();
            last = Some(sequence);
            rest = tail;
            entries.push((entry.lost, entry.record.map(|record| record[0])));
        }
        entries
    }

    #[test]
    fn test_parse_records_in_sequence_loses_nothing() {
        let bytes = [entry(3, 1), entry(4, 2)].concat();

        assert_eq!(parse_all(&bytes, None), [(0, Some(1)), (0, Some(2))]);
    }

    #[test]
    fn test_parse_gap_counts_the_events_between() {
        let bytes = [entry(3, 1), entry(6, 2)].concat();

        assert_eq!(parse_all(&bytes, None), [(0, Some(1)), (2, Some(2))]);
    }

    #[test]
    fn test_parse_lost_header_counts_once() {
        let bytes = [entry(6, 1), lost_header(9), entry(10, 2)].concat();

        let expected = [(0, Some(1)), (3, None), (0, Some(2))];
        assert_eq!(parse_all(&bytes, None), expected);
    }

    #[test]
    fn test_parse_sequence_wraps_without_gap() {
        let bytes = [entry(SEQUENCE_MAX, 1), entry(0, 2), entry(2, 3)].concat();

        let expected = [(0, Some(1)), (0, Some(2)), (1, Some(3))];
        assert_eq!(parse_all(&bytes, None), expected);
    }

    fn queue() -> EventQueue {
        let flags = rustix::event::EventfdFlags::CLOEXEC;
        EventQueue::new(rustix::event::eventfd(0, flags).unwrap()).unwrap()
    }

    #[test]
    fn test_read_interrupted_by_a_signal_is_made_again() {
        let mut results = [Err(Errno::INTR), Err(Errno::INTR), Ok(entry(3, 7))].into_iter();
        let mut taken = Vec::new();
        let read = |buf: &mut [u8]| {
            let bytes = results.next().expect("a read")?;
            buf[..bytes.len()].copy_from_slice(&bytes);
            Ok(bytes.len())
        };

        let more = queue().read_by(read, 2, |entry| taken.push(entry));

        assert!(more.unwrap());
        let records: Vec<_> = taken.iter().map(|entry| entry.record).collect();
        assert_eq!(records, [Some([7; EVENT_RECORD_SIZE])]);
    }

    #[test]
    fn test_read_asks_for_no_more_than_there_is_room_for() {
        let mut asked = Vec::new();
        for room in [0, 1, READ_BATCH, READ_BATCH + 1] {
            let read = |buf: &mut [u8]| {
                asked.push(buf.len() / ENTRY_SIZE);
                Ok(0)
            };
            let more = queue().read_by(read, room, |entry| panic!("{entry:?}"));
            assert_eq!(more.unwrap(), room == 0);
        }

        assert_eq!(asked, [1, READ_BATCH, READ_BATCH]);
    }

    #[test]
    fn test_read_error_is_told() {
        let error = queue().read_by(|_| Err(Errno::NOMEM), 1, |entry| panic!("{entry:?}"));

        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }

    #[test]
    fn test_read_of_a_queue_that_would_block_finds_nothing() {
        assert!(!queue().read(1, |entry| panic!("{entry:?}")).unwrap());
    }

    #[test]
    fn test_file_that_is_no_anonymous_inode_is_no_queue() {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();

        for fd in [OwnedFd::from(socket), null.into()] {
            let error = EventQueue::new(fd).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn test_read_of_an_empty_queue_that_does_not_block_finds_nothing() {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let queue = EventQueue::new(rustix::event::eventfd(0, flags).unwrap()).unwrap();

        let more = queue.read(1, |entry| panic!("{entry:?}"));

        assert!(!more.unwrap());
    }

    #[test]
    fn test_parse_short_entry_is_refused() {
        for len in [4, HEADER_SIZE, ENTRY_SIZE - 1] {
            let error = parse(&entry(0, 1)[..len], None).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
