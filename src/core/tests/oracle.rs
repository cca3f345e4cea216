// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a group of faults must be answered, as the hardware knows it.

use crate::wire::ResponseCode;

/// What has become of one fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The core does not know it.
    Unread,
    Waiting,
    Answered(ResponseCode),
}

/// The answer that a group must get, once it can get one.
pub fn answer_of(faults: &[Fault], refused: bool) -> Option<ResponseCode> {
    let mut code = if refused {
        ResponseCode::Invalid
    } else {
        ResponseCode::Success
    };
    for fault in faults {
        match fault {
            Fault::Answered(ResponseCode::Success) => {}
            Fault::Answered(ResponseCode::Invalid) => code = ResponseCode::Invalid,
            Fault::Unread | Fault::Waiting => return None,
        }
    }
    Some(code)
}
