// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both rings are ordered: what one side has taken is what the other side has sent.

use crate::front_end::{violation, Violation};

/// A message of the portal ring, without the guest's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portal {
    Submit { device: u32, ticket: u64 },
    Drain { generation: u64 },
    Quiesced { device: u32, generation: u64 },
    Release { generation: u64 },
    Reset { device: u32 },
}

/// A message of the event ring, without events of the SMMU and losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Replay { ticket: u64 },
    Drained { generation: u64 },
    DrainFailed { generation: u64 },
    Released { generation: u64, next_ticket: u64 },
}

/// What a line of either log says, and which line it is.
pub type Logged<T> = (usize, T);

/// What the back-end has of one connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    pub taken: Vec<Logged<Portal>>,
    pub sent: Vec<Logged<Sent>>,
    /// It is logged to its end: the back-end was not killed.
    pub whole: bool,
}

/// What the front end has of one connection.
#[derive(Clone, Debug, Default)]
pub struct Posted {
    pub posts: Vec<Logged<Portal>>,
    pub received: Vec<Logged<Sent>>,
}

/// A line of the back-end's log that does not fit.
pub type Misfit = (usize, Violation);

/// The back-end has taken what the front end has posted, in order, as far as both went.
pub fn check_portal(front: &Posted, back: &Connection) -> Result<(), Misfit> {
    let mut posts = front.posts.iter();
    for (line, taken) in &back.taken {
        match posts.next() {
            Some((_, posted)) if posted == taken => {}
            Some((of, posted)) => {
                let what = format!("the back-end took {taken:?}, line {of} of QEMU has {posted:?}");
                return misfit(*line, "F1", what);
            }
            None => {
                let what = format!("the back-end took {taken:?}, which QEMU has not posted");
                return misfit(*line, "F1", what);
            }
        }
    }
    Ok(())
}

/// The front end has acted on what the back-end has sent, in order. It may have ignored what was of
/// another generation, but no REPLAY. Returns whether it has taken all that was sent.
pub fn check_events(front: &Posted, back: &Connection) -> Result<bool, Misfit> {
    let mut sent = back.sent.iter();
    for (of, received) in &front.received {
        loop {
            match sent.next() {
                Some((_, next)) if next == received => break,
                Some((line, Sent::Replay { ticket })) => {
                    let what = format!(
                        "ticket {ticket} was replayed, line {of} of QEMU has {received:?} instead"
                    );
                    return misfit(*line, "F8", what);
                }
                Some(_) => {}
                None if !back.whole => return Ok(true),
                None => {
                    let last = back.sent.last().map_or(0, |(line, _)| *line);
                    let what = format!(
                        "line {of} of QEMU has {received:?}, which the back-end has not sent"
                    );
                    return misfit(last, "F12", what);
                }
            }
        }
    }
    Ok(sent.next().is_none())
}

fn misfit<T>(line: usize, rule: &'static str, what: String) -> Result<T, Misfit> {
    violation(rule, what).map_err(|violation| (line, violation))
}
