// SPDX-License-Identifier: GPL-2.0

//! Completions that are used again and again.
//!
//! Missing upstream: [`kernel::sync::Completion`] can be waited for only without end and
//! signalled only for good.

use kernel::{
    bindings,
    prelude::*,
    time::Jiffies,
    types::Opaque, //
};

/// The longest time to wait for, which never ends.
// CAST: `MAX_SCHEDULE_TIMEOUT` of the scheduler, which counts in signed numbers.
pub(crate) const FOREVER: Jiffies = isize::MAX as Jiffies;

/// How a wait ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Waited {
    /// A signal was consumed.
    Done,
    /// The time is over.
    TimedOut,
    /// The task is being killed.
    Killed,
}

/// Counts signals; each wait that succeeds consumes one.
#[pin_data]
pub(crate) struct Event {
    #[pin]
    inner: Opaque<bindings::completion>,
}

// SAFETY: A `struct completion` may be used and freed by any task.
unsafe impl Send for Event {}

// SAFETY: A `struct completion` is protected by its own lock.
unsafe impl Sync for Event {}

impl Event {
    /// Returns an initialiser of an event without signals.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid for writes, and is pinned from here on.
                unsafe { bindings::init_completion(slot) };
            }),
        })
    }

    /// Adds a signal. May be called from any context.
    pub(crate) fn signal(&self) {
        // SAFETY: `inner` is an initialised completion.
        unsafe { bindings::complete(self.inner.get()) };
    }

    /// Consumes a signal if there is one, without sleeping.
    pub(crate) fn try_wait(&self) -> bool {
        // SAFETY: `inner` is an initialised completion.
        unsafe { bindings::try_wait_for_completion(self.inner.get()) }
    }

    /// Waits for a signal until `timeout` is over or the task is killed.
    pub(crate) fn wait_killable(&self, timeout: Jiffies) -> Waited {
        let timeout = timeout.min(FOREVER);

        // SAFETY: `inner` is an initialised completion.
        let left =
            unsafe { bindings::wait_for_completion_killable_timeout(self.inner.get(), timeout) };
        match left {
            0 => Waited::TimedOut,
            1.. => Waited::Done,
            _ => Waited::Killed,
        }
    }

    /// Waits for a signal until `timeout` is over, whatever happens to the task.
    pub(crate) fn wait(&self, timeout: Jiffies) -> Waited {
        let timeout = timeout.min(FOREVER);

        // SAFETY: `inner` is an initialised completion.
        let left = unsafe { bindings::wait_for_completion_timeout(self.inner.get(), timeout) };
        match left {
            0 => Waited::TimedOut,
            _ => Waited::Done,
        }
    }

    /// Waits for a signal that is certain to come.
    pub(crate) fn wait_forever(&self) {
        while self.wait(FOREVER) != Waited::Done {}
    }
}
