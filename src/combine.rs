// SPDX-License-Identifier: GPL-2.0

//! Work that one caller does for all.
//!
//! A queue has two jobs that only one processor may do at a time: writing what is pending to the
//! submission queue, and consuming the completion queue. Whoever comes while somebody else is at
//! it need not wait for the lock that this would otherwise take: it is enough that the other looks
//! again before leaving.

use kernel::{
    interrupt::local_interrupt_disable,
    sync::atomic::{
        Acquire,
        Atomic,
        Full, //
    },
};

/// Runs one piece of work, never twice at a time.
///
/// # Ordering
///
/// `calls` counts those who have asked since the work was last idle. The caller that takes it from
/// 0 does the work, and goes on until it can take it back to 0 from the number it last saw.
///
/// All accesses are fully ordered read-modify-writes of that one word, which puts them into one
/// total order. A call that finds it non-zero therefore comes before the exchange with which the
/// worker would leave; that exchange fails, and the worker runs once more, after a read of what the
/// caller wrote. So: *whatever a caller stored before [`Combiner::run`] is seen by a run of the
/// work that begins after that call began.*
pub(crate) struct Combiner {
    calls: Atomic<u32>,
}

impl Combiner {
    pub(crate) fn new() -> Self {
        Self {
            calls: Atomic::new(0),
        }
    }

    /// Runs `work`, or has the one who is running it now run it once more.
    ///
    /// May be called from any context; `work` must not sleep. All callers must pass the same
    /// `work`.
    pub(crate) fn run(&self, mut work: impl FnMut()) {
        // A worker that is scheduled away would hold everybody up.
        let _no_preemption = local_interrupt_disable();

        if self.calls.fetch_add(1, Full) != 0 {
            return;
        }
        let mut seen = 1;
        loop {
            work();
            match self.calls.cmpxchg(seen, 0, Full) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Waits until nobody is at work. Work that began before this call has ended then.
    pub(crate) fn wait_idle(&self) {
        while self.calls.load(Acquire) != 0 {
            core::hint::spin_loop();
        }
    }
}
