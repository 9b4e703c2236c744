// SPDX-License-Identifier: GPL-2.0

//! The time, as cheaply as the machine has it.
//!
//! Missing upstream: `get_cycles()`. On x86 this is the time stamp counter itself: it takes three
//! instructions, where the clocks of the kernel take some sixty each time. It may be of use for
//! statistics only: processors need not agree on it if the firmware does not care, and nothing says
//! when it stood still.

use kernel::prelude::*;

/// Bits behind the point of [`Scale`].
const SHIFT: u32 = 20;

/// Nanoseconds of a tick.
#[derive(Clone, Copy)]
pub(crate) struct Scale(u64);

impl Scale {
    /// Returns how long `ticks` are in nanoseconds, up to 4 hours; what is longer is no less.
    pub(crate) fn ns(self, ticks: u64) -> u64 {
        ticks.saturating_mul(self.0) >> SHIFT
    }
}

/// Returns the time in ticks since whenever.
#[cfg(CONFIG_X86_64)]
pub(crate) fn now() -> u64 {
    // SAFETY: Every processor of this architecture has the instruction, and the kernel may use it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Returns how long ticks are.
#[cfg(CONFIG_X86_64)]
pub(crate) fn scale() -> Scale {
    // SAFETY: It is written while the machine starts, and when the kernel finds a better value;
    // either is a valid number.
    let khz = unsafe { core::ptr::addr_of!(kernel::bindings::tsc_khz).read_volatile() };

    // Without a rate all times are 0.
    Scale((1_000_000u64 << SHIFT).checked_div(khz.into()).unwrap_or(0))
}

/// Returns the time in ticks since whenever.
#[cfg(not(CONFIG_X86_64))]
pub(crate) fn now() -> u64 {
    // SAFETY: There are no preconditions.
    unsafe { kernel::bindings::ktime_get_mono_fast_ns() }
}

/// Returns how long ticks are.
#[cfg(not(CONFIG_X86_64))]
pub(crate) fn scale() -> Scale {
    Scale(1 << SHIFT)
}

#[kunit_tests(azihsm_clock)]
mod tests {
    use super::*;

    #[test]
    fn long_times_do_not_become_short() {
        const HOUR: u64 = 3_600_000_000_000;
        let scale = Scale(1 << SHIFT);
        for (ticks, least, most) in [
            (0, 0, 0),
            (1, 1, 1),
            (4 * HOUR, 4 * HOUR, 4 * HOUR),
            (5 * HOUR, 4 * HOUR, 5 * HOUR),
            (u64::MAX, 4 * HOUR, u64::MAX),
        ] {
            let ns = scale.ns(ticks);
            assert!(ns >= least);
            assert!(ns <= most);
        }
    }
}
