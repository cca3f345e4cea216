// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! SMMUv3 command and event records (Arm IHI 0070).

use super::{PgFault, ResponseCode, PERM_EXEC, PERM_PRIV, PERM_WRITE};

/// Size of an SMMUv3 command.
pub const SMMU_COMMAND_SIZE: usize = 16;
/// Size of an SMMUv3 event record.
pub const EVENT_RECORD_SIZE: usize = 32;
/// Largest SSID that the records can hold.
pub const SSID_MAX: u32 = (1 << 20) - 1;

const CMD_PRI_RESP: u64 = 0x41;
const CMD_RESUME: u64 = 0x44;
const CMD_STALL_TERM: u64 = 0x45;
const PRI_RESP_SUCCESS: u64 = 2;

const F_TRANSLATION: u64 = 0x10;
const CLASS_IN: u64 = 2;

/// A command of the guest, as far as it answers faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmmuCommand {
    /// CMD_RESUME.
    Resume {
        /// Stream of the stalled transaction.
        sid: u32,
        /// The stalled transaction.
        stag: u16,
        /// Retry or abort.
        code: ResponseCode,
    },
    /// CMD_STALL_TERM.
    StallTerm {
        /// Stream whose stalled transactions are aborted.
        sid: u32,
    },
    /// CMD_PRI_RESP.
    PriResp {
        /// Stream of the page request.
        sid: u32,
        /// Substream of the page request, if it had one.
        ssid: Option<u32>,
        /// PRGIndex of the page request.
        group: u32,
        /// Success or not.
        code: ResponseCode,
    },
    /// Any other command: has no effect here.
    Other {
        /// The command's opcode.
        opcode: u8,
    },
}

impl SmmuCommand {
    /// Reads a command as it lies in the guest's queue.
    pub fn decode(bytes: &[u8; SMMU_COMMAND_SIZE]) -> Self {
        let (dw0, dw1) = bytes.split_at(8);
        let dw0 = read_u64(dw0);
        let dw1 = read_u64(dw1);
        let sid = high_word(dw0);
        match field(dw0, 0, 8) {
            CMD_RESUME => {
                // Ac alone decides on the retry; Ab only tells how to terminate.
                Self::Resume {
                    sid,
                    stag: low_half_word(dw1),
                    code: code_if(field(dw0, 12, 1) == 1),
                }
            }
            CMD_STALL_TERM => Self::StallTerm { sid },
            CMD_PRI_RESP => Self::PriResp {
                sid,
                ssid: (field(dw0, 11, 1) == 1).then(|| low_word(field(dw0, 12, 20))),
                group: low_word(field(dw1, 0, 9)),
                code: code_if(field(dw1, 12, 2) == PRI_RESP_SUCCESS),
            },
            opcode => Self::Other {
                opcode: opcode.to_le_bytes()[0],
            },
        }
    }

    /// Writes the command as a guest would, for tests and front ends.
    pub fn encode(&self) -> [u8; SMMU_COMMAND_SIZE] {
        let (dw0, dw1) = match *self {
            Self::Resume { sid, stag, code } => {
                let retry = u64::from(code == ResponseCode::Success);
                let abort = u64::from(code == ResponseCode::Invalid);
                (
                    CMD_RESUME | (retry << 12) | (abort << 13) | (u64::from(sid) << 32),
                    u64::from(stag),
                )
            }
            Self::StallTerm { sid } => (CMD_STALL_TERM | (u64::from(sid) << 32), 0),
            Self::PriResp {
                sid,
                ssid,
                group,
                code,
            } => {
                let resp = if code == ResponseCode::Success {
                    PRI_RESP_SUCCESS
                } else {
                    0
                };
                (
                    CMD_PRI_RESP | ssid_fields(ssid) | (u64::from(sid) << 32),
                    field(u64::from(group), 0, 9) | (resp << 12),
                )
            }
            Self::Other { opcode } => (u64::from(opcode), 0),
        };
        let mut bytes = [0; SMMU_COMMAND_SIZE];
        bytes[..8].copy_from_slice(&dw0.to_le_bytes());
        bytes[8..].copy_from_slice(&dw1.to_le_bytes());
        bytes
    }
}

/// An event record with the fields that a fault has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventRecord {
    /// Stream of the device as the guest knows it.
    pub sid: u32,
    /// Substream, if the transaction had one.
    pub ssid: Option<u32>,
    /// Names the stalled transaction in CMD_RESUME.
    pub stag: u16,
    /// The transaction was a write.
    pub write: bool,
    /// The transaction was an instruction fetch.
    pub exec: bool,
    /// The transaction was privileged.
    pub privileged: bool,
    /// Faulting input address.
    pub addr: u64,
}

impl EventRecord {
    /// The event that tells the guest of `fault`.
    pub fn from_fault(fault: &PgFault, sid: u32, stag: u16) -> Self {
        let perm = fault.perm.get();
        Self {
            sid,
            ssid: fault.pasid(),
            stag,
            write: perm & PERM_WRITE != 0,
            exec: perm & PERM_EXEC != 0,
            privileged: perm & PERM_PRIV != 0,
            addr: fault.addr.get(),
        }
    }

    /// Writes the record as it lies in the guest's event queue.
    pub fn encode(&self) -> [u8; EVENT_RECORD_SIZE] {
        let dw0 = F_TRANSLATION | ssid_fields(self.ssid) | (u64::from(self.sid) << 32);
        let dw1 = u64::from(self.stag)
            | (1 << 31)
            | (u64::from(self.privileged) << 33)
            | (u64::from(self.exec) << 34)
            | (u64::from(!self.write) << 35)
            | (CLASS_IN << 40);
        let mut bytes = [0; EVENT_RECORD_SIZE];
        bytes[0..8].copy_from_slice(&dw0.to_le_bytes());
        bytes[8..16].copy_from_slice(&dw1.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.addr.to_le_bytes());
        bytes
    }

    /// Reads a stall event; `None` if it is another kind of record.
    pub fn decode(bytes: &[u8; EVENT_RECORD_SIZE]) -> Option<Self> {
        let dw0 = read_u64(&bytes[0..8]);
        let dw1 = read_u64(&bytes[8..16]);
        (field(dw0, 0, 8) == F_TRANSLATION && field(dw1, 31, 1) == 1).then(|| Self {
            sid: high_word(dw0),
            ssid: (field(dw0, 11, 1) == 1).then(|| low_word(field(dw0, 12, 20))),
            stag: low_half_word(dw1),
            write: field(dw1, 35, 1) == 0,
            exec: field(dw1, 34, 1) == 1,
            privileged: field(dw1, 33, 1) == 1,
            addr: read_u64(&bytes[16..24]),
        })
    }
}

/// What every event record has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventHeader {
    /// Event number.
    pub kind: u8,
    /// Stream of the device.
    pub sid: u32,
    /// The transaction is stalled.
    pub stall: bool,
}

impl EventHeader {
    /// Reads the header of any record.
    pub fn decode(bytes: &[u8; EVENT_RECORD_SIZE]) -> Self {
        let dw0 = read_u64(&bytes[0..8]);
        let dw1 = read_u64(&bytes[8..16]);
        Self {
            kind: bytes[0],
            sid: high_word(dw0),
            stall: field(dw1, 31, 1) == 1,
        }
    }
}

fn ssid_fields(ssid: Option<u32>) -> u64 {
    ssid.map_or(0, |ssid| (1 << 11) | (u64::from(ssid & SSID_MAX) << 12))
}

fn code_if(success: bool) -> ResponseCode {
    if success {
        ResponseCode::Success
    } else {
        ResponseCode::Invalid
    }
}

fn field(word: u64, shift: u32, width: u32) -> u64 {
    (word >> shift) & ((1 << width) - 1)
}

fn high_word(word: u64) -> u32 {
    low_word(word >> 32)
}

fn low_word(word: u64) -> u32 {
    let b = word.to_le_bytes();
    u32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

fn low_half_word(word: u64) -> u16 {
    let b = word.to_le_bytes();
    u16::from_le_bytes([b[0], b[1]])
}

fn read_u64(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(words: [u32; 4]) -> [u8; SMMU_COMMAND_SIZE] {
        let mut bytes = [0; SMMU_COMMAND_SIZE];
        for (slot, word) in bytes.chunks_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn test_decode_resume_retry_is_success() {
        for ac_ab in [0x1000, 0x3000] {
            let decoded = SmmuCommand::decode(&command([0x44 | ac_ab, 8, 7, 0]));
            assert_eq!(
                decoded,
                SmmuCommand::Resume {
                    sid: 8,
                    stag: 7,
                    code: ResponseCode::Success
                }
            );
        }
    }

    #[test]
    fn test_decode_resume_other_responses_are_invalid() {
        for ac_ab in [0x0000, 0x2000] {
            let decoded = SmmuCommand::decode(&command([0x44 | ac_ab, 8, 0xffff, 0]));
            assert_eq!(
                decoded,
                SmmuCommand::Resume {
                    sid: 8,
                    stag: 0xffff,
                    code: ResponseCode::Invalid
                }
            );
        }
    }

    #[test]
    fn test_decode_stall_term_has_sid() {
        let decoded = SmmuCommand::decode(&command([0x45, 0x1_0008, 9, 9]));

        assert_eq!(decoded, SmmuCommand::StallTerm { sid: 0x1_0008 });
    }

    #[test]
    fn test_decode_pri_resp_with_ssid_has_all_fields() {
        let decoded = SmmuCommand::decode(&command([
            0x41 | (1 << 11) | (5 << 12),
            8,
            0x1ff | (2 << 12),
            0,
        ]));

        assert_eq!(
            decoded,
            SmmuCommand::PriResp {
                sid: 8,
                ssid: Some(5),
                group: 0x1ff,
                code: ResponseCode::Success
            }
        );
    }

    #[test]
    fn test_decode_pri_resp_failure_without_ssv_ignores_ssid() {
        let decoded = SmmuCommand::decode(&command([0x41 | (5 << 12), 8, 3 | (1 << 12), 0]));

        assert_eq!(
            decoded,
            SmmuCommand::PriResp {
                sid: 8,
                ssid: None,
                group: 3,
                code: ResponseCode::Invalid
            }
        );
    }

    #[test]
    fn test_decode_other_opcode_keeps_it() {
        let decoded = SmmuCommand::decode(&command([0x46, 1, 2, 3]));

        assert_eq!(decoded, SmmuCommand::Other { opcode: 0x46 });
    }

    #[test]
    fn test_encode_decode_command_is_identity() {
        for command in [
            SmmuCommand::Resume {
                sid: 0xffff_ffff,
                stag: 0x8001,
                code: ResponseCode::Success,
            },
            SmmuCommand::Resume {
                sid: 0,
                stag: 0,
                code: ResponseCode::Invalid,
            },
            SmmuCommand::StallTerm { sid: 7 },
            SmmuCommand::PriResp {
                sid: 1,
                ssid: Some(SSID_MAX),
                group: 511,
                code: ResponseCode::Success,
            },
            SmmuCommand::Other { opcode: 4 },
        ] {
            assert_eq!(SmmuCommand::decode(&command.encode()), command);
        }
    }

    #[test]
    fn test_event_record_layout_matches_specification() {
        let event = EventRecord {
            sid: 0x10,
            ssid: Some(1),
            stag: 7,
            write: false,
            exec: false,
            privileged: false,
            addr: 0xaaaa_bbbb_c000,
        };

        let bytes = event.encode();

        assert_eq!(
            read_u64(&bytes[0..8]),
            (0x10 << 32) | (1 << 12) | (1 << 11) | 0x10
        );
        assert_eq!(
            read_u64(&bytes[8..16]),
            (2 << 40) | (1 << 35) | (1 << 31) | 7
        );
        assert_eq!(read_u64(&bytes[16..24]), 0xaaaa_bbbb_c000);
        assert_eq!(read_u64(&bytes[24..32]), 0);
    }

    #[test]
    fn test_event_record_of_fault_follows_permissions() {
        let mut fault = <PgFault as zerocopy::FromZeros>::new_zeroed();
        fault.perm.set(PERM_WRITE | PERM_EXEC | PERM_PRIV);
        fault.addr.set(0x1000);

        let event = EventRecord::from_fault(&fault, 3, 4);

        let dw1 = read_u64(&event.encode()[8..16]);
        assert_eq!(dw1, (2 << 40) | (1 << 34) | (1 << 33) | (1 << 31) | 4);
        assert_eq!(event.ssid, None);
        assert_eq!(EventRecord::decode(&event.encode()), Some(event));
    }

    #[test]
    fn test_event_header_of_any_record_is_read() {
        let mut record = [0; EVENT_RECORD_SIZE];
        record[..8].copy_from_slice(&((0x1234_u64 << 32) | 0x0a).to_le_bytes());
        let expected = EventHeader {
            kind: 0x0a,
            sid: 0x1234,
            stall: false,
        };
        assert_eq!(EventHeader::decode(&record), expected);

        record[11] = 0x80;
        assert!(EventHeader::decode(&record).stall);
    }

    #[test]
    fn test_event_record_decode_of_other_event_is_none() {
        assert_eq!(EventRecord::decode(&[0; EVENT_RECORD_SIZE]), None);
    }
}
