// SPDX-License-Identifier: GPL-2.0

//! Numbers that one party writes at a time and any reads.
//!
//! Missing upstream: atomic loads and stores that are inlined. Those of [`Atomic`] are calls of a C
//! function each where the kernel is built by gcc, which is too much for what is counted with each
//! command.
//!
//! [`Atomic`]: kernel::sync::atomic::Atomic

use core::cell::UnsafeCell;

/// See the [module](self). Nothing is ordered by it.
#[repr(transparent)]
pub(crate) struct Figure(UnsafeCell<u64>);

// SAFETY: All accesses are volatile ones of an aligned word. In the memory model of the kernel, by
// which its Rust code goes, these are READ_ONCE() and WRITE_ONCE(): marked accesses, which race with
// nothing. Writers that are not one at a time lose counts, and no more.
unsafe impl Sync for Figure {}

impl Figure {
    /// Makes one that is `value`.
    pub(crate) const fn new(value: u64) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Returns the number.
    pub(crate) fn get(&self) -> u64 {
        // SAFETY: The word is valid and aligned; see above.
        unsafe { self.0.get().read_volatile() }
    }

    /// Changes the number. To be called by one party at a time.
    pub(crate) fn set(&self, value: u64) {
        // SAFETY: As above.
        unsafe { self.0.get().write_volatile(value) };
    }

    /// Adds to the number. To be called by one party at a time.
    pub(crate) fn add(&self, value: u64) {
        self.set(self.get().wrapping_add(value));
    }
}
