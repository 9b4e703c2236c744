// SPDX-License-Identifier: GPL-2.0

//! What the kernel has for [`super`]. The other one of this kind is in `tests/lockless`.
//!
//! The atomics follow the memory model of the kernel, in which an access that is [`Full`] orders all
//! that is before it before all that is behind it, unless it is an exchange that failed: that orders
//! nothing.

pub(super) use kernel::{
    error::Result,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    }, //
};

pub(super) use crate::sys::completion::Waited;

pub(super) use crate::sys::compat::local_interrupt_disable as without_interrupts;

pub(super) use core::hint::spin_loop;

use kernel::prelude::*;

/// At how many places tasks wait for permits.
pub(crate) const PLACES: usize = 64;

/// A list whose length does not change.
pub(super) type List<T> = KVec<T>;

/// Makes a list of `count` elements, of which `make` is called with the index.
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn list<T>(count: usize, make: impl FnMut(usize) -> T) -> Result<List<T>> {
    let mut list = KVec::with_capacity(count, GFP_KERNEL)?;
    for element in (0..count).map(make) {
        list.push(element, GFP_KERNEL)?;
    }
    Ok(list)
}
