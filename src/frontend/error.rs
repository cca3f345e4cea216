// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What can go wrong between the front end and its back-end.

use std::io;

use rustix::io::Errno;
use thiserror::Error;

/// An error of the front end.
#[derive(Debug, Error)]
pub enum FrontendError {
    /// A vhost-user request failed, or the connection has ended.
    #[error("vhost-user request {request}: {source}")]
    Request {
        /// The request.
        request: &'static str,
        /// Why.
        source: vhost::Error,
    },
    /// The back-end is no vhost-user-vsva, or an incompatible one.
    #[error("not a usable vhost-user-vsva back-end: {0}")]
    Incompatible(String),
    /// A resource of the system could not be had.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The back-end did not do in time what it must do.
    #[error("the back-end did not {0} in time")]
    Timeout(&'static str),
    /// The back-end broke the protocol.
    #[error("the back-end broke the protocol: {0}")]
    Protocol(String),
    /// A device could not be attached or detached.
    #[error("the back-end refused: {text} ({errno})")]
    Refused {
        /// The errno in the reply.
        errno: Errno,
        /// Its text.
        text: String,
    },
    /// The rings are not in the state that is needed.
    #[error("the rings are {0}")]
    Rings(&'static str),
}

impl FrontendError {
    pub(super) fn request(request: &'static str) -> impl FnOnce(vhost::Error) -> Self {
        move |source| Self::Request { request, source }
    }

    pub(super) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            what,
            source: source.into(),
        }
    }
}
