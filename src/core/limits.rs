// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sizes of the tables.

use thiserror::Error;

/// Sizes of the tables, fixed when a [`super::Core`] is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Devices that can be attached, 1 to [`Limits::DEVICES_MAX`].
    pub max_devices: u32,
    /// Submissions that can be queued, 1 to [`Limits::PENDING_MAX`].
    pub max_pending: u32,
    /// Faults that can be outstanding, 1 to [`Limits::FAULTS_MAX`].
    pub max_faults: u32,
    /// Faults that a device without a limit of its own can have outstanding, up to
    /// [`Limits::FAULTS_MAX`]; 0: its fair share of `max_faults`.
    pub max_device_faults: u32,
}

impl Limits {
    /// Largest `max_devices`.
    pub const DEVICES_MAX: u32 = 256;
    /// Largest `max_pending`: a state with so many has less than [`crate::state::STATE_MAX`] bytes.
    pub const PENDING_MAX: u32 = 1_000_000;
    /// Largest `max_faults`: a STAG has 16 bits.
    pub const FAULTS_MAX: u32 = 1 << 16;

    /// Refuses sizes out of range.
    pub fn check(&self) -> Result<(), LimitsError> {
        let share = self.max_device_faults;
        for (name, value, min, max) in [
            ("max_devices", self.max_devices, 1, Self::DEVICES_MAX),
            ("max_pending", self.max_pending, 1, Self::PENDING_MAX),
            ("max_faults", self.max_faults, 1, Self::FAULTS_MAX),
            ("max_device_faults", share, 0, Self::FAULTS_MAX),
        ] {
            if !(min..=max).contains(&value) {
                return Err(LimitsError {
                    name,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    /// The most faults that a device without a limit of its own may have outstanding while so many
    /// devices are attached. What the fair shares leave is for the device that is attached next.
    pub(super) fn fault_share(&self, attached: u32) -> u32 {
        match self.max_device_faults {
            0 => (self.max_faults / (attached + 1)).max(1),
            share => share.min(self.max_faults),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_devices: 16,
            max_pending: 65536,
            max_faults: 4096,
            max_device_faults: 0,
        }
    }
}

/// A limit is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{name} is {value}, it must be {min} to {max}")]
pub struct LimitsError {
    /// Name of the limit.
    pub name: &'static str,
    /// Its value.
    pub value: u32,
    /// The smallest value allowed.
    pub min: u32,
    /// The largest value allowed.
    pub max: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_limits_default_is_accepted() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn test_limits_out_of_range_names_the_limit() {
        let zero = Limits {
            max_devices: 0,
            ..Limits::default()
        };
        let large = Limits {
            max_faults: 65537,
            ..Limits::default()
        };

        assert_eq!(zero.check().unwrap_err().name, "max_devices");
        assert_eq!(
            large.check().unwrap_err().to_string(),
            "max_faults is 65537, it must be 1 to 65536"
        );
        let share = Limits {
            max_device_faults: 65537,
            ..Limits::default()
        };
        assert_eq!(
            share.check().unwrap_err().to_string(),
            "max_device_faults is 65537, it must be 0 to 65536"
        );
    }

    #[test]
    fn test_fault_share_leaves_one_for_the_device_that_comes_next() {
        let limits = Limits::default();

        let shares = [0, 1, 2, 3, 15].map(|attached| limits.fault_share(attached));

        assert_eq!(shares, [4096, 2048, 1365, 1024, 256]);
    }

    #[test]
    fn test_fault_share_is_never_0() {
        let limits = Limits {
            max_faults: 2,
            ..Limits::default()
        };

        assert_eq!(limits.fault_share(256), 1);
    }

    #[test]
    fn test_fault_share_that_is_set_is_the_same_for_any_number_of_devices() {
        let limits = Limits {
            max_faults: 8,
            max_device_faults: 5,
            ..Limits::default()
        };
        let beyond = Limits {
            max_device_faults: 9,
            ..limits
        };

        assert_eq!([0, 1, 100].map(|n| limits.fault_share(n)), [5; 3]);
        assert_eq!(beyond.fault_share(1), 8);
    }
}
