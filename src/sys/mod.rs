// SPDX-License-Identifier: GPL-2.0

//! What the kernel crate does not offer yet.
//!
//! This is the only module with `unsafe` and [`kernel::bindings`]; everything above it is safe
//! Rust. Each item says which abstraction is missing upstream, so that it can go when the kernel
//! crate has it.

pub(crate) mod clock;
pub(crate) mod compat;
pub(crate) mod completion;
pub(crate) mod debugfs;
pub(crate) mod dma;
pub(crate) mod figure;
pub(crate) mod gate;
pub(crate) mod live;
pub(crate) mod node;
pub(crate) mod pci;
pub(crate) mod pin;
#[cfg(azihsm_test_pf)]
mod pretended;
pub(crate) mod process;
pub(crate) mod sriov;
pub(crate) mod sysfs;
pub(crate) mod trace;
pub(crate) mod window;
pub(crate) mod work;

use kernel::bindings;

/// Fills `buffer` with random bytes.
///
/// Missing upstream: the random number generator.
pub(crate) fn random_bytes(buffer: &mut [u8]) {
    // SAFETY: `buffer` is valid for writes of its length.
    unsafe { bindings::get_random_bytes(buffer.as_mut_ptr().cast(), buffer.len()) };
}

/// Returns the number of the processor that this runs on, which may have changed by the time the
/// caller looks at it.
///
/// Missing upstream: a variant that does not need preemption to be off.
pub(crate) fn this_cpu() -> usize {
    // SAFETY: There are no preconditions.
    let cpu = unsafe { bindings::raw_smp_processor_id() };

    // CAST: A processor number is far below `u32::MAX`.
    cpu as usize
}

/// Declares that every bit pattern of the wire structures named is valid and that they have no
/// padding, both in the terms of `zerocopy` and in those of the kernel crate.
///
/// Missing upstream: one family of traits for both user memory and DMA memory. The structures
/// must derive `zerocopy`'s `FromBytes`, `IntoBytes` and `Immutable`, which prove the claim.
macro_rules! impl_wire {
    ($($name:ty),+ $(,)?) => {$(
        const _: () = {
            const fn proven<T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable>() {}
            proven::<$name>();
        };

        // SAFETY: `zerocopy::FromBytes` proves it, which the line above requires.
        unsafe impl kernel::transmute::FromBytes for $name {}

        // SAFETY: `zerocopy::IntoBytes` and `zerocopy::Immutable` prove it, which the line above
        // requires.
        unsafe impl kernel::transmute::AsBytes for $name {}
    )+};
}
pub(crate) use impl_wire;
