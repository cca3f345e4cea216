// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules of vhost-user-vsva's two halves.
//!
//! The back-end's half is the production state machine, `vhost_user_vsva::core::Core`. The front
//! end's half is [`front_end::FrontEnd`]: what docs/protocol.md, section 10, says (F1 to F12). The
//! tests explore both together exhaustively; [`trace`] replays what real ones have recorded.

#![forbid(unsafe_code)]

pub mod front_end;
pub mod trace;
