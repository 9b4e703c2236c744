// SPDX-License-Identifier: GPL-2.0

//! Module parameters, brought within their bounds.
//!
//! Documentation/abi.rst 5.2. They are declared in the crate root.

use kernel::time::Delta;

use crate::{
    lockless::slot,
    module_parameters,
    sys::compat, //
};

/// Fewest entries of a queue: one command at a time.
const MIN_ENTRIES: u16 = 2;

/// Most buffers that AES data is copied through: 64 MiB.
const MAX_BOUNCE_BUFFERS: usize = 1024;

/// Shortest time, in seconds, after which a command is given up.
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
    let wanted = compat::value(&module_parameters::aes_bounce_buffers);
    usize::try_from(wanted.max(0))
        .map_or(MAX_BOUNCE_BUFFERS, |wanted| wanted.min(MAX_BOUNCE_BUFFERS))
}

/// Returns how long a command may take.
pub(crate) fn command_timeout() -> Delta {
    let wanted = i64::from(compat::value(&module_parameters::abort_timeout_in_sec));
    Delta::from_secs(wanted.clamp(MIN_COMMAND_TIMEOUT_SECS, MAX_COMMAND_TIMEOUT_SECS))
}

/// Returns how long the completion of a command is looked for before the caller goes to sleep, if it
/// is at all.
pub(crate) fn poll() -> Option<Delta> {
    let wanted = compat::value(&module_parameters::poll_us);
    (wanted > 0).then(|| Delta::from_micros(i64::from(wanted.min(MAX_POLL_US))))
}

/// Returns whether a physical function may be reset.
pub(crate) fn may_reset_physical() -> bool {
    compat::flag(&module_parameters::pf_lvl2_abort_enabled)
}
