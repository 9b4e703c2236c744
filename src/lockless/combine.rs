// SPDX-License-Identifier: GPL-2.0

//! Work that one caller does for all.
//!
//! A queue has two jobs that only one processor may do at a time: writing what is pending to the
//! submission queue, and consuming the completion queue. Whoever comes while somebody else is at
//! it need not wait for the lock that this would otherwise take: it is enough that the other looks
//! again before leaving.

use super::facade::{
    spin_loop,
    without_interrupts,
    Acquire,
    Atomic,
    Full, //
};

/// Most times that one call runs the work. It bounds how long interrupts stay off however often
/// others call, and they may be called by a device that never stops interrupting.
const MAX_RUNS: u32 = 256;

/// Runs one piece of work, never twice at a time.
///
/// # Ordering
///
/// `calls` counts those who have asked since the work was last idle. The caller that takes it from
/// 0 does the work. After each run it subtracts the calls that it knew of before the run; what is
/// left came meanwhile, and makes it run once more.
///
/// All of these are fully ordered read-modify-writes of that one word that always succeed, which
/// puts them into one total order and each run between two of them. (An exchange that fails would
/// not order the run behind it.) So: *whatever a caller stored before [`Combiner::run`] is seen by
/// a run of the work that begins after that call began*, unless the worker gives up for having run
/// [`MAX_RUNS`] times.
pub(crate) struct Combiner {
    calls: Atomic<u32>,
}

impl Combiner {
    pub(crate) fn new() -> Self {
        Self {
            calls: Atomic::new(0),
        }
    }

    /// Runs `work`, or has the one who is running it now run it once more. Returns whether it was
    /// run here.
    ///
    /// May be called from any context; `work` must not sleep. All callers must pass the same
    /// `work`.
    pub(crate) fn run(&self, mut work: impl FnMut()) -> bool {
        // A worker that is scheduled away would hold everybody up.
        let _no_preemption = without_interrupts();

        if self.calls.fetch_add(1, Full) != 0 {
            return false;
        }
        let mut known = 1;
        for _ in 0..MAX_RUNS {
            work();
            let calls = self.calls.fetch_sub(known, Full);
            if calls == known {
                return true;
            }
            known = calls.wrapping_sub(known);
        }
        // Those who called since the last run are left to look for themselves.
        self.calls.xchg(0, Full);
        true
    }

    /// Runs `work` here, after waiting for whoever is at it.
    pub(crate) fn run_here(&self, mut work: impl FnMut()) {
        while !self.run(&mut work) {
            while self.calls.load(Acquire) != 0 {
                spin_loop();
            }
        }
    }
}
