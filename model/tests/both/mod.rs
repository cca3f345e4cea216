// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both halves as one model.

pub mod actions;
pub mod reconnect;
pub mod world;

pub use world::{seen, Budget, World};
