// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The attach channel: devices come and go, with the descriptors of their fault channels.
//!
//! | File | Knows |
//! |---|---|
//! | `socket` | packets, and the descriptors that come with them |
//! | `service` | requests and replies |
//! | `devices` | what a request does to the core and to the table of channels |

mod devices;
pub mod service;
mod socket;
