// SPDX-License-Identifier: GPL-2.0

//! The process that a file belongs to.
//!
//! Missing upstream: `struct pid`, sleeping for a tick, and fatal signals.

use core::ptr::NonNull;

use kernel::{
    bindings,
    prelude::*, //
};

/// A reference to a process, that is to a thread group.
///
/// It compares equal to itself only: the kernel does not give the same `struct pid` to another
/// process as long as it is referred to, unlike the number in it.
pub(crate) struct Process(NonNull<bindings::pid>);

// SAFETY: A `struct pid` may be referred to and released by any task.
unsafe impl Send for Process {}

// SAFETY: No method changes what is referred to.
unsafe impl Sync for Process {}

impl Process {
    /// Returns the process of the current task.
    ///
    /// # Errors
    ///
    /// `ESRCH` if the current task is past being in one.
    pub(crate) fn current() -> Result<Self> {
        // SAFETY: The current task is valid, and `get_task_pid()` returns null or takes a reference
        // that `Self` owns from here on.
        let pid = unsafe {
            bindings::get_task_pid(
                kernel::task::Task::current_raw(),
                bindings::pid_type_PIDTYPE_TGID,
            )
        };
        Ok(Self(NonNull::new(pid).ok_or(ESRCH)?))
    }

    /// Returns whether the current task is in this process.
    pub(crate) fn is_current(&self) -> bool {
        let task = kernel::task::Task::current_raw();

        // SAFETY: The current task is valid, and has its signal structure until it is past calling
        // this. Its process does not change but by the task itself.
        let pid = unsafe {
            let signal = (*task).signal;
            // CAST: A small constant.
            (*signal).pids[bindings::pid_type_PIDTYPE_TGID as usize]
        };
        pid == self.0.as_ptr()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: `Self` owns a reference.
        unsafe { bindings::put_pid(self.0.as_ptr()) };
    }
}

/// Sleeps for about a timer tick.
pub(crate) fn sleep_a_tick() {
    // SAFETY: There are no preconditions but that callers may sleep.
    unsafe { bindings::schedule_timeout_uninterruptible(1) };
}

/// Returns whether the current task is being killed.
pub(crate) fn is_killed() -> bool {
    let task = kernel::task::Task::current_raw();

    // SAFETY: The current task is valid. Its set of pending signals is changed by others, hence
    // the volatile read; a stale answer is as good as having asked a moment earlier.
    let pending = unsafe { (&raw const (*task).pending.signal.sig[0]).read_volatile() };
    pending & (1 << (bindings::SIGKILL - 1)) != 0
}
