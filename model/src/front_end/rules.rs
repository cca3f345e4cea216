// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rules that can be switched off, to show that the model needs them.

/// Which rules are kept; all of them by [`Rules::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// F2: ready is asked again when nothing can come in between any more.
    pub ready_asked_last: bool,
    /// F3: the last of the credit is for a VM that is being stopped.
    pub reserve: bool,
    /// F4: a VM that stops in RELEASING takes the release back.
    pub take_back: bool,
    /// F5: a VM is not saved while something moves, and nothing is executed into a VM that is being
    /// saved.
    pub saved_at_rest: bool,
    /// F6: DRAINED ends by itself.
    pub drained_ends: bool,
    /// F6: what an expired drain held is released before the next drain.
    pub expired_is_released: bool,
    /// F8: a loaded submission has a copy as well.
    pub loaded_copies: bool,
    /// F9: what was dropped is not in a saved state.
    pub skips_dropped: bool,
    /// F11: the copies are executed if the back-end is lost.
    pub recovers: bool,
    /// F11: commands that the back-end has not taken are sent to it again.
    pub commands_again: bool,
    /// F11: so that no ticket is missing, those that were dropped are sent again as well, for no
    /// device.
    pub dropped_again: bool,
    /// F11: a front end that has executed copies itself begins anew.
    pub anew_if_executed: bool,
}

impl Rules {
    /// What docs/protocol.md says.
    pub const ALL: Self = Self {
        ready_asked_last: true,
        reserve: true,
        take_back: true,
        saved_at_rest: true,
        drained_ends: true,
        expired_is_released: true,
        loaded_copies: true,
        skips_dropped: true,
        recovers: true,
        commands_again: true,
        dropped_again: true,
        anew_if_executed: true,
    };
}
