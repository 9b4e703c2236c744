// SPDX-License-Identifier: GPL-2.0

//! Module parameters, brought within their bounds.
//!
//! Documentation/abi.rst 5.2. They are declared in the crate root.

use kernel::{
    prelude::*,
    time::Delta, //
};

use crate::{
    lockless::slot,
    module_parameters,
    sys::compat, //
};

/// Fewest entries of a queue: one command at a time.
const MIN_ENTRIES: u16 = 2;

/// Most buffers that AES data is copied through: 64 MiB.
const MAX_BOUNCE_BUFFERS: usize = 1024;

/// Most resource groups that a physical function gives itself.
const MAX_PHYSICAL_GROUPS: u8 = 64;

/// Shortest time, in seconds, that a command may take before the device is asked about it.
const MIN_COMMAND_TIMEOUT_SECS: i64 = 6;

/// Longest time, in microseconds, for which a processor is kept busy looking for a completion.
const MAX_POLL_US: i32 = 1000;

/// Longest time, in seconds: a day.
const MAX_COMMAND_TIMEOUT_SECS: i64 = 24 * 60 * 60;

/// Returns the entries of each HSM queue, of which the device allows at most `most`.
pub(crate) fn hsm_entries(most: u64) -> u16 {
    entries(compat::value(&module_parameters::num_hsm_slots), most)
}

/// Returns the entries of each AES queue, of which the device allows at most `most`.
pub(crate) fn aes_entries(most: u64) -> u16 {
    entries(compat::value(&module_parameters::num_aes_slots), most)
}

/// Brings `wanted` entries within the bounds.
fn entries(wanted: i32, most: u64) -> u16 {
    let most = u16::try_from(most).unwrap_or(u16::MAX);

    // CAST: A small constant.
    let most = most.clamp(MIN_ENTRIES, slot::MAX_TAGS as u16);
    let wanted = u16::try_from(wanted.max(0)).unwrap_or(u16::MAX);
    wanted.clamp(MIN_ENTRIES, most)
}

/// Returns how many buffers AES data is copied through.
pub(crate) fn aes_bounce_buffers() -> usize {
    bounce_buffers(compat::value(&module_parameters::aes_bounce_buffers))
}

/// Brings `wanted` buffers within the bounds.
fn bounce_buffers(wanted: i32) -> usize {
    usize::try_from(wanted.max(0))
        .map_or(MAX_BOUNCE_BUFFERS, |wanted| wanted.min(MAX_BOUNCE_BUFFERS))
}

/// Returns how long a command may take.
pub(crate) fn command_timeout() -> Delta {
    timeout(compat::value(&module_parameters::abort_timeout_in_sec))
}

/// Brings `wanted` seconds within the bounds.
fn timeout(wanted: i32) -> Delta {
    let wanted = i64::from(wanted);
    Delta::from_secs(wanted.clamp(MIN_COMMAND_TIMEOUT_SECS, MAX_COMMAND_TIMEOUT_SECS))
}

/// Returns how long the completion of a command is looked for before the caller goes to sleep, if it
/// is at all.
pub(crate) fn poll() -> Option<Delta> {
    spin(compat::value(&module_parameters::poll_us))
}

/// Brings `wanted` microseconds within the bounds; none are 0.
fn spin(wanted: i32) -> Option<Delta> {
    (wanted > 0).then(|| Delta::from_micros(i64::from(wanted.min(MAX_POLL_US))))
}

/// Returns whether a physical function may be reset.
pub(crate) fn may_reset_physical() -> bool {
    compat::flag(&module_parameters::pf_lvl2_abort_enabled)
}

/// Returns how many resource groups a physical function gives itself, unless it leaves them as they
/// are.
pub(crate) fn physical_groups() -> Option<u16> {
    groups(compat::value(&module_parameters::pf_res_cnt))
}

/// Brings `wanted` groups within the bounds; none are left as they are.
fn groups(wanted: u8) -> Option<u16> {
    (wanted > 0).then(|| u16::from(wanted.min(MAX_PHYSICAL_GROUPS)))
}

// The bounds are those of abi.rst 5.2.
#[kunit_tests(azihsm_params)]
mod tests {
    use super::*;

    #[test]
    fn queues_have_2_to_1024_entries_and_no_more_than_the_device_takes() {
        let cases = [
            (16, 1024, 16),
            (2, 1024, 2),
            (1, 1024, 2),
            (0, 1024, 2),
            (i32::MIN, 1024, 2),
            (1024, 1024, 1024),
            (1025, 1024, 1024),
            (65536 + 16, 1024, 1024),
            (i32::MAX, 1024, 1024),
            // A device may say anything.
            (1024, 65536, 1024),
            (1024, u64::MAX, 1024),
            (1024, 8, 8),
            (16, 1, 2),
            (16, 0, 2),
        ];
        for (wanted, most, taken) in cases {
            assert_eq!(entries(wanted, most), taken);
        }
    }

    #[test]
    fn there_are_at_most_1024_bounce_buffers() {
        let cases = [
            (i32::MIN, 0),
            (-1, 0),
            (0, 0),
            (72, 72),
            (1024, 1024),
            (1025, 1024),
            (i32::MAX, 1024),
        ];
        for (wanted, taken) in cases {
            assert_eq!(bounce_buffers(wanted), taken);
        }
    }

    #[test]
    fn commands_have_6_seconds_at_least_and_a_day_at_most() {
        let cases = [
            (i32::MIN, 6),
            (0, 6),
            (5, 6),
            (6, 6),
            (7, 7),
            (86_400, 86_400),
            (86_401, 86_400),
            (i32::MAX, 86_400),
        ];
        for (wanted, secs) in cases {
            assert_eq!(timeout(wanted).as_millis(), secs * 1000);
        }
    }

    #[test]
    fn a_processor_is_kept_busy_for_a_millisecond_at_most() {
        let cases = [
            (i32::MIN, None),
            (-1, None),
            (0, None),
            (1, Some(1000)),
            (1000, Some(1_000_000)),
            (1001, Some(1_000_000)),
            (i32::MAX, Some(1_000_000)),
        ];
        for (wanted, nanos) in cases {
            assert_eq!(spin(wanted).map(Delta::as_nanos), nanos);
        }
    }

    #[test]
    fn a_physical_function_gives_itself_64_groups_at_most() {
        let cases = [
            (0, None),
            (1, Some(1)),
            (2, Some(2)),
            (64, Some(64)),
            (65, Some(64)),
            (u8::MAX, Some(64)),
        ];
        for (wanted, taken) in cases {
            assert_eq!(groups(wanted), taken);
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        // As this machine loads the module.
        assert_eq!(hsm_entries(1024), 16);
        assert_eq!(aes_entries(1024), 16);
        assert_eq!(aes_bounce_buffers(), 72);
        assert_eq!(command_timeout().as_millis(), 6000);
        assert!(poll().is_none());
        assert!(may_reset_physical());
        assert_eq!(physical_groups(), Some(1));
    }
}
