// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The attach channel: devices come and go, with the descriptors of their fault channels.

pub mod service;
pub mod socket;
