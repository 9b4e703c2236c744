// SPDX-License-Identifier: GPL-2.0

//! What a queue has done.
//!
//! Documentation/abi.rst 5.1. The reaper counts here, with each command; it must cost next to
//! nothing: what can be found out by who reads is not counted.

use kernel::prelude::*;

use crate::sys::{
    clock,
    clock::Scale,
    figure::Figure, //
};

/// Buckets of the times that commands took.
pub(crate) const BUCKETS: usize = (u64::BITS - FIRST_BUCKET_BITS + 1) as usize;

/// Nanoseconds, as a power of two, below which the first bucket is.
const FIRST_BUCKET_BITS: u32 = 10;

/// Returns the bucket of `ns`: twice as long is one further.
fn bucket(ns: u64) -> usize {
    // CAST: Less than 64.
    (ns >> (FIRST_BUCKET_BITS - 1) | 1).ilog2() as usize
}

/// Returns from which time on, in nanoseconds, a bucket is.
pub(crate) fn bucket_start(index: usize) -> u64 {
    match index {
        0 => 0,
        _ => 1 << (FIRST_BUCKET_BITS - 1) << index.min(BUCKETS - 1),
    }
}

/// See the [module](self). On cache lines of its own, which only the reaper writes to.
#[repr(C, align(64))]
pub(crate) struct Account {
    scale: Scale,
    errors: Figure,
    aborted: Figure,
    time: Figure,
    shortest: Figure,
    longest: Figure,
    buckets: [Figure; BUCKETS],
}

impl Account {
    /// Makes one of a queue that has done nothing.
    pub(crate) fn new() -> Self {
        Self {
            scale: clock::scale(),
            errors: Figure::new(0),
            aborted: Figure::new(0),
            time: Figure::new(0),
            shortest: Figure::new(u64::MAX),
            longest: Figure::new(0),
            buckets: [const { Figure::new(0) }; BUCKETS],
        }
    }

    /// Takes note of a command that has completed. Returns how many nanoseconds it took.
    pub(crate) fn completed(&self, launched_at: u64, failed: bool) -> u64 {
        let ns = self.scale.ns(clock::now().saturating_sub(launched_at));

        self.time.add(ns);
        if ns < self.shortest.get() {
            self.shortest.set(ns);
        }
        if ns > self.longest.get() {
            self.longest.set(ns);
        }
        if let Some(bucket) = self.buckets.get(bucket(ns)) {
            bucket.add(1);
        }
        if failed {
            self.errors.add(1);
        }
        ns
    }

    /// Takes note of a command that has ended without a completion.
    pub(crate) fn aborted(&self) {
        self.aborted.add(1);
    }

    /// Returns how many commands took how long.
    pub(crate) fn histogram(&self) -> [u64; BUCKETS] {
        core::array::from_fn(|index| self.buckets.get(index).map_or(0, Figure::get))
    }

    /// Returns how many commands have completed.
    pub(crate) fn completions(&self) -> u64 {
        self.buckets.iter().map(Figure::get).sum()
    }

    /// Returns what was counted here; the rest is 0.
    pub(crate) fn figures(&self) -> Figures {
        let completed = self.completions();
        let of_any = |value: u64| if completed == 0 { 0 } else { value };
        Figures {
            completed,
            errors: self.errors.get(),
            aborted: self.aborted.get(),
            shortest_ns: of_any(self.shortest.get()),
            longest_ns: self.longest.get(),
            mean_ns: self.time.get().checked_div(completed).unwrap_or(0),
            ..Figures::default()
        }
    }
}

/// What is known of a queue, or of several.
#[derive(Clone, Copy, Default)]
pub(crate) struct Figures {
    /// Commands submitted.
    pub(crate) submitted: u64,
    /// Commands completed.
    pub(crate) completed: u64,
    /// Commands completed with a status other than 0.
    pub(crate) errors: u64,
    /// Commands that were submitted and have ended without a completion.
    pub(crate) aborted: u64,
    /// Commands that were overdue when something was done about it.
    pub(crate) timed_out: u64,
    /// Commands that the device has now.
    pub(crate) pending: u64,
    /// Aborts of the queue.
    pub(crate) aborts: u64,
    /// Times of commands that have completed.
    pub(crate) shortest_ns: u64,
    pub(crate) longest_ns: u64,
    pub(crate) mean_ns: u64,
    /// Completions per second, of late.
    pub(crate) per_second: u64,
    /// Bytes of memory that are left to a device which does not stop.
    pub(crate) quarantined: u64,
}

#[kunit_tests(azihsm_account)]
mod tests {
    use super::*;

    #[test]
    fn buckets_double() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(1023), 0);
        assert_eq!(bucket(1024), 1);
        assert_eq!(bucket(2047), 1);
        assert_eq!(bucket(2048), 2);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for index in 0..BUCKETS {
            assert_eq!(bucket(bucket_start(index)), index);
        }
    }

    #[test]
    fn what_completed_is_in_some_bucket() {
        let account = Account::new();
        account.completed(clock::now(), false);
        account.completed(0, true);
        account.completed(u64::MAX, false);
        account.aborted();
        let figures = account.figures();
        assert_eq!(figures.completed, 3);
        assert_eq!(figures.errors, 1);
        assert_eq!(figures.aborted, 1);
        assert_eq!(figures.shortest_ns, 0);
        assert!(figures.mean_ns <= figures.longest_ns);
    }
}
