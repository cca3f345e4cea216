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
}

impl Limits {
    /// Largest `max_devices`.
    pub const DEVICES_MAX: u32 = 256;
    /// Largest `max_pending`.
    pub const PENDING_MAX: u32 = 1 << 19;
    /// Largest `max_faults`: a STAG has 16 bits.
    pub const FAULTS_MAX: u32 = 1 << 16;

    /// Refuses sizes out of range.
    pub fn check(&self) -> Result<(), LimitsError> {
        for (name, value, max) in [
            ("max_devices", self.max_devices, Self::DEVICES_MAX),
            ("max_pending", self.max_pending, Self::PENDING_MAX),
            ("max_faults", self.max_faults, Self::FAULTS_MAX),
        ] {
            if !(1..=max).contains(&value) {
                return Err(LimitsError { name, value, max });
            }
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_devices: 16,
            max_pending: 65536,
            max_faults: 4096,
        }
    }
}

/// A limit is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{name} is {value}, it must be 1 to {max}")]
pub struct LimitsError {
    /// Name of the limit.
    pub name: &'static str,
    /// Its value.
    pub value: u32,
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
    }
}
