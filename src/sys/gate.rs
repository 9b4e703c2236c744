// SPDX-License-Identifier: GPL-2.0

//! The way from an open file to a device that may be gone.
//!
//! Missing upstream: what `drm::Registration` and `fwctl::Registration` do, for a driver that is
//! in neither subsystem.
//!
//! An open file may outlive the device's driver, so it cannot hold a reference to the driver's
//! data. It holds an [`Arc`] of a [`Gate`] instead and passes through it for each call. Closing
//! the gate turns new callers away and waits for those inside.

use core::ptr::null_mut;

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Arc, //
    },
    types::ForLt, //
};

use super::compat::Srcu;

/// See the [module](self).
///
/// # Invariants
///
/// `data` is null, or points to an `F::Of<'_>` that stays valid until an SRCU grace period after
/// `data` was set to null.
#[pin_data]
pub(crate) struct Gate<F: ForLt> {
    #[pin]
    srcu: Srcu,
    data: Atomic<*mut c_void>,
    _family: core::marker::PhantomData<fn() -> F>,
}

impl<F: ForLt> Gate<F>
where
    for<'a> F::Of<'a>: Sync,
{
    /// Makes a gate that is closed.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                srcu <- Srcu::new(c"azihsm_gate", kernel::static_lock_class!()),
                // INVARIANT: Null.
                data: Atomic::new(null_mut()),
                _family: core::marker::PhantomData,
            }),
            GFP_KERNEL,
        )
    }

    /// Calls `inside` with what is behind the gate, which stays there meanwhile.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the gate is closed, else what `inside` returns.
    pub(crate) fn with<R>(
        &self,
        inside: impl for<'a> FnOnce(&'a F::Of<'a>) -> Result<R>,
    ) -> Result<R> {
        let _reader = self.srcu.read_lock();
        let data = self.data.load(Acquire).cast::<F::Of<'_>>();

        // SAFETY: By the type invariant `data` is null or valid for as long as this reader is in
        // its section. The lifetime may be shortened: `inside` works for every lifetime, so it can
        // neither tell which it got nor put a reference of its own into the data.
        match unsafe { data.as_ref() } {
            Some(data) => inside(data),
            None => Err(ENODEV),
        }
    }

    /// Opens the gate on `data`.
    ///
    /// # Safety
    ///
    /// [`Gate::close`] must be called before `data` ceases to be valid or its lifetime ends.
    pub(super) unsafe fn open(&self, data: &F::Of<'_>) {
        // INVARIANT: The caller promises to call `close()`, which restores the null pointer and
        // waits for the grace period.
        self.data
            .store(core::ptr::from_ref(data).cast_mut().cast(), Release);
    }

    /// Closes the gate: once this returns nobody is inside, and nobody gets in.
    pub(super) fn close(&self) {
        self.data.store(null_mut(), Relaxed);
        self.srcu.synchronize();
    }
}
