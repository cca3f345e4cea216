// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records that cross a boundary of the process, byte for byte.
//!
//! Every type here has a fixed size, no padding and little-endian fields, so that any bytes of the
//! right length are a valid value: reading one cannot fail, judging it is the business of
//! [`crate::core`]. `docs/protocol.md` describes each record.

#![forbid(unsafe_code)]

mod attach_packet;
mod config;
mod fault;
mod figures;
mod message;
mod payload;
mod shared_memory;
mod smmu;

pub use attach_packet::{
    AttachPacket, AttachReply, AttachRequest, AttachType, UnholdRequest, ATTACH_FLAG_OWNER,
    ATTACH_FLAG_PRI, ATTACH_FLAG_RECOVER, ATTACH_FLAG_VEVENTQ, ATTACH_PACKET_SIZE,
    ATTACH_TEXT_SIZE, ATTACH_UUID,
};
pub use config::{ConfigSpace, CONFIG_MAGIC, CONFIG_SIZE, PROTOCOL_VERSION};
pub use fault::{
    PageResponse, PgFault, ResponseCode, PAGE_RESPONSE_SIZE, PERM_EXEC, PERM_PRIV, PERM_READ,
    PERM_WRITE, PGFAULT_LAST_PAGE, PGFAULT_PASID_VALID, PGFAULT_SIZE,
};
pub use figures::Figures;
pub use message::{
    DrainFailed, DrainFailedReason, DrainRequest, Drained, GenerationPayload, LostReason, Message,
    MessageType, Released, Submission, DEVICE_NONE, FAULT_INFO_SSID_VALID, FAULT_INFO_VALID,
    MESSAGE_SIZE,
};
pub use payload::{Payload, PAYLOAD_SIZE};
pub use shared_memory::{
    AreaHead, MemoryHeader, SharedMemoryRequest, StatusBlock, MEMORY_HEADER_SIZE,
    MEMORY_HEADER_SIZE_MIN, MEMORY_MAGIC, MEMORY_SIZE_MAX, MEMORY_SIZE_MIN, MEMORY_VERSION,
    RECOVERY_ALIGN, RECOVERY_MAGIC, STATUS_ALIGN, STATUS_ROOM_MIN, STATUS_SIZE,
};
pub use smmu::{
    EventHeader, EventRecord, SmmuCommand, EVENT_RECORD_SIZE, SMMU_COMMAND_SIZE, SSID_MAX,
};

pub use zerocopy::little_endian::{U16, U32, U64};

/// Feature bit: the back-end implements drain, release and the state stream.
pub const VSVA_F_MIGRATION_BLOCKING: u32 = 0;
/// Ring that carries messages from the front end to the back-end.
pub const PORTAL_RING: u16 = 0;
/// Ring that carries messages from the back-end to the front end.
pub const EVENT_RING: u16 = 1;
/// Number of rings.
pub const NUM_RINGS: usize = 2;
