// SPDX-License-Identifier: GPL-2.0

//! Memory that the device reads and writes.
//!
//! Missing upstream: copying from user memory to [`Coherent`] memory, and clearing the latter.

use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::{
        Coherent,
        DmaAddress, //
    },
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

use super::compat;

/// A run of bytes shared with the device.
///
/// Nothing read from it is more than bytes: the device may change them at any time. Callers on
/// several processors must not use the same range at once; if they do, what they read is
/// unspecified bytes.
pub(crate) struct Buffer(Coherent<[u8]>);

impl Buffer {
    /// Allocates `len` zeroed bytes, aligned to a page.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, and `EINVAL` if `len` is 0.
    pub(crate) fn new(dev: &Device<Bound>, len: usize) -> Result<Self> {
        Ok(Self(Coherent::zeroed_slice(dev, len, GFP_KERNEL)?))
    }

    /// Returns the bus address of the first byte.
    pub(crate) fn dma_address(&self) -> DmaAddress {
        compat::dma_address(&self.0)
    }

    /// Returns the address of `len` bytes at `offset`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are not within the buffer.
    fn range(&self, offset: usize, len: usize) -> Result<*mut u8> {
        match offset.checked_add(len) {
            Some(end) if end <= self.0.len() => {
                Ok(self.0.as_mut_ptr().cast::<u8>().wrapping_add(offset))
            }
            _ => Err(EINVAL),
        }
    }

    /// Copies `len` bytes from user memory to `offset`.
    ///
    /// # Errors
    ///
    /// `EFAULT` if user memory cannot be read, after which the range may hold part of it.
    pub(crate) fn copy_from_user(&self, offset: usize, from: UserPtr, len: usize) -> Result {
        let to = self.range(offset, len)?;

        // SAFETY: `range()` found the bytes to be within the allocation. The function checks that
        // `from` is user memory.
        let left = unsafe { bindings::copy_from_user(to.cast(), from.as_const_ptr(), len) };
        if left != 0 {
            return Err(EFAULT);
        }
        Ok(())
    }

    /// Copies `len` bytes at `offset` to user memory.
    ///
    /// # Errors
    ///
    /// `EFAULT` if user memory cannot be written.
    pub(crate) fn copy_to_user(&self, offset: usize, to: UserPtr, len: usize) -> Result {
        self.range(offset, len)?;
        UserSlice::new(to, len)
            .writer()
            .write_dma(&self.0, offset, len)
    }

    /// Copies `from` to `offset`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it does not fit.
    pub(crate) fn write(&self, offset: usize, from: &[u8]) -> Result {
        let to = self.range(offset, from.len())?;

        // SAFETY: `range()` found the bytes to be within the allocation; `from` cannot be part of
        // it since no reference to it is ever made.
        unsafe { bindings::memcpy(to.cast(), from.as_ptr().cast(), from.len()) };
        Ok(())
    }

    /// Copies `len` bytes at `offset` to `to_offset` of `to`, which must not be the same buffer.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are not within the buffers.
    pub(crate) fn copy_to(
        &self,
        offset: usize,
        to: &Buffer,
        to_offset: usize,
        len: usize,
    ) -> Result {
        if core::ptr::eq(self, to) {
            return Err(EINVAL);
        }
        let from = self.range(offset, len)?;
        let to = to.range(to_offset, len)?;

        // SAFETY: `range()` found the bytes to be within the allocations, of which there are two.
        unsafe { bindings::memcpy(to.cast(), from.cast(), len) };
        Ok(())
    }

    /// Copies bytes at `offset` to `to`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there are not as many.
    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) -> Result {
        let from = self.range(offset, to.len())?;

        // SAFETY: `range()` found the bytes to be within the allocation; `to` cannot be part of it
        // since no reference to it is ever made.
        unsafe { bindings::memcpy(to.as_mut_ptr().cast(), from.cast(), to.len()) };
        Ok(())
    }

    /// Clears `len` bytes at `offset`; the compiler may not leave it out.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are not within the buffer.
    pub(crate) fn clear(&self, offset: usize, len: usize) -> Result {
        let to = self.range(offset, len)?;

        // SAFETY: `range()` found the bytes to be within the allocation.
        unsafe { bindings::memset(to.cast(), 0, len) };
        Ok(())
    }
}

/// A device that is none, for unit tests: there is memory for it.
#[cfg(CONFIG_KUNIT = "y")]
pub(crate) struct Nobody(kernel::faux::Registration);

#[cfg(CONFIG_KUNIT = "y")]
impl Nobody {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the kernel does not want it.
    pub(crate) fn new() -> Result<Self> {
        use kernel::{
            prelude::fmt,
            str::CString,
            sync::atomic::{
                Atomic,
                Relaxed, //
            }, //
        };

        // A test that fails leaves its device behind.
        static COUNT: Atomic<u32> = Atomic::new(0);

        let number = COUNT.fetch_add(1, Relaxed);
        let name = CString::try_from_fmt(fmt!("azihsm_nobody{number}"))?;
        let this = Self(kernel::faux::Registration::new(&name, None)?);
        let dev = core::ptr::from_ref(this.device()).cast_mut();

        // SAFETY: A `Device` is a transparent `struct device`. Nobody else has it yet.
        let result = unsafe { bindings::dma_set_coherent_mask(dev.cast(), u64::MAX) };
        kernel::error::to_result(result)?;
        Ok(this)
    }

    /// Returns the device.
    pub(crate) fn device(&self) -> &Device<Bound> {
        let faux: &kernel::faux::Device<Bound> = self.0.as_ref();
        faux.as_ref()
    }
}
