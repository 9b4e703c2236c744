// SPDX-License-Identifier: GPL-2.0

//! Tracepoints.
//!
//! Documentation/abi.rst 5.4. `trace.h` declares them; one that is off costs an instruction that
//! does nothing.
//!
//! Missing upstream: `declare_trace!` for those that the bindings do not have.

use kernel::{
    device::Device,
    prelude::*, //
};

/// Declares the Rust side of events.
macro_rules! events {
    ($($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?);)+) => {$(
        $(#[$attribute])*
        #[inline(always)]
        pub(crate) fn $name(dev: &Device $(, $argument: $type)*) {
            #[cfg(CONFIG_TRACEPOINTS)]
            kernel::macros::paste! {
                #[allow(improper_ctypes, reason = "lock classes may be empty")]
                extern "C" {
                    static [<__tracepoint_azihsm_ $name>]: kernel::bindings::tracepoint;
                    fn [<rust_do_trace_azihsm_ $name>](
                        dev: *const c_void $(, $argument: $type)*
                    );
                }

                // SAFETY: `trace.c` defines it, with a static key.
                let is_on = unsafe {
                    kernel::jump_label::static_branch_unlikely!(
                        [<__tracepoint_azihsm_ $name>],
                        kernel::bindings::tracepoint,
                        key
                    )
                };
                if is_on {
                    // CAST: A `Device` is a transparent `struct device`.
                    let dev = core::ptr::from_ref(dev).cast();

                    // SAFETY: `trace.c` defines it, with these parameters. `dev` is valid, and
                    // the event copies its name. RCU is watching: the driver runs in tasks and
                    // interrupt handlers only.
                    unsafe { [<rust_do_trace_azihsm_ $name>](dev $(, $argument)*) };
                }
            }

            #[cfg(not(CONFIG_TRACEPOINTS))]
            let _ = (dev, $($argument),*);
        }
    )+};
}

events! {
    /// A command is about to be submitted.
    fn submit(queue: u16, cid: u16);

    /// A command has ended without a completion.
    fn cancel(queue: u16, cid: u16);

    /// A command has completed, `ns` after it was submitted.
    fn complete(queue: u16, cid: u16, status: u16, ns: u64);

    /// Commands are overdue, and something is about to be done about it.
    fn timeout(queue: u16, commands: u32);

    /// A queue is about to be aborted.
    fn abort(queue: u16);

    /// The controller is about to be reset.
    fn reset(cause: u32);

    /// A reset has ended.
    fn reset_done(cause: u32, done: bool, ms: u64);

    /// The device has opened a session.
    fn session_open(session: u16);

    /// The device has closed a session.
    fn session_close(session: u16);
}
