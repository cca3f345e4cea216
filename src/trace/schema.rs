// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Numbers of fields and of enumerators in Perfetto's schema (protos/perfetto/trace), as many as
//! are written here.

// Of Trace.
pub const PACKET: u32 = 1;
// Of TracePacket.
pub const TIMESTAMP: u32 = 8;
pub const SEQUENCE_ID: u32 = 10;
pub const TRACK_EVENT: u32 = 11;
pub const SEQUENCE_FLAGS: u32 = 13;
pub const TRACK_DESCRIPTOR: u32 = 60;
pub const STATE_CLEARED: u32 = 1;
// Of TrackDescriptor.
pub const UUID: u32 = 1;
pub const NAME: u32 = 2;
pub const PROCESS: u32 = 3;
pub const PARENT: u32 = 5;
pub const COUNTER: u32 = 8;
// Of ProcessDescriptor.
pub const PID: u32 = 1;
pub const PROCESS_NAME: u32 = 6;
// Of TrackEvent.
pub const ANNOTATION: u32 = 4;
pub const TYPE: u32 = 9;
pub const TRACK: u32 = 11;
pub const EVENT_NAME: u32 = 23;
pub const COUNTER_VALUE: u32 = 30;
pub const FLOW: u32 = 47;
pub const LAST_FLOW: u32 = 48;
pub const BEGIN: u32 = 1;
pub const END: u32 = 2;
pub const INSTANT: u32 = 3;
pub const COUNT: u32 = 4;
// Of DebugAnnotation.
pub const VALUE: u32 = 3;
pub const TEXT: u32 = 6;
pub const POINTER: u32 = 7;
pub const KEY: u32 = 10;
