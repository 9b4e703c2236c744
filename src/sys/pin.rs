// SPDX-License-Identifier: GPL-2.0

//! User memory that the device reads and writes in place.
//!
//! Missing upstream: pinning user pages, and scatter-gather tables of anything but the kernel's own
//! memory.

use kernel::{
    bindings,
    device::{
        Bound,
        Device, //
    },
    dma::{
        DataDirection,
        DmaAddress, //
    },
    error::to_result,
    prelude::*,
    sizes::SZ_4K,
    sync::aref::ARef,
    uaccess::UserPtr, //
};

/// Size of the pages that are pinned.
const PAGE_SIZE: usize = kernel::page::PAGE_SIZE;
static_assert!(PAGE_SIZE >= SZ_4K);

/// A range of user memory, pinned and mapped for a device.
///
/// Dropping it may sleep, and after [`UserMemory::keep_written`] for long.
///
/// # Invariants
///
/// - The first `pinned` elements of `pages` are pages that were pinned here.
/// - `table` is either empty or a table of these pages.
/// - `table` is mapped for `dev` in `direction` if and only if `is_mapped`.
pub(crate) struct UserMemory {
    dev: ARef<Device>,
    direction: DataDirection,
    pages: KVVec<*mut bindings::page>,
    pinned: usize,
    table: bindings::sg_table,
    is_mapped: bool,
    /// See [`UserMemory::keep_written`].
    is_kept: bool,
}

// SAFETY: Pages may be unpinned, and tables unmapped and freed, by any task.
unsafe impl Send for UserMemory {}

// SAFETY: Nothing changes behind a shared reference.
unsafe impl Sync for UserMemory {}

impl UserMemory {
    /// Pins `len` bytes at `address` of the current process and maps them for `dev`.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it is not memory that can be read, or written if `direction` is from the
    /// device; `ENOMEM`, also if it cannot be mapped; `EINVAL` if `len` is 0.
    pub(crate) fn new(
        dev: &Device<Bound>,
        address: UserPtr,
        len: usize,
        direction: DataDirection,
    ) -> Result<Self> {
        let address = address.as_const_ptr().addr();
        let offset = address % PAGE_SIZE;
        let count = offset.checked_add(len).ok_or(EFAULT)?.div_ceil(PAGE_SIZE);
        if len == 0 {
            return Err(EINVAL);
        }
        let dev: &Device = dev;

        // INVARIANT: Nothing is pinned or mapped, and the table is empty. From here on the
        // destructor undoes what was done if a step fails.
        let mut this = Self {
            dev: dev.into(),
            direction,
            pages: KVVec::from_elem(core::ptr::null_mut(), count, GFP_KERNEL)?,
            pinned: 0,
            table: pin_init::zeroed(),
            is_mapped: false,
            is_kept: false,
        };
        this.pin(address - offset)?;

        // SAFETY: The device is bound.
        let max_part = unsafe { bindings::dma_max_mapping_size(this.raw_dev()) };
        // Whole pages, as `sg_alloc_table_from_pages_segment()` wants it.
        let max_part = u32::try_from(max_part).unwrap_or(u32::MAX) & !(SZ_4K as u32 - 1);

        // SAFETY: All of `pages` are pages now, and hold `len` bytes at `offset`.
        // INVARIANT: If this fails the table stays empty.
        to_result(unsafe {
            bindings::sg_alloc_table_from_pages_segment(
                &mut this.table,
                this.pages.as_mut_ptr(),
                u32::try_from(count)?,
                // CAST: Less than a page.
                offset as u32,
                len,
                max_part,
                bindings::GFP_KERNEL,
            )
        })?;

        // SAFETY: The device is bound, and the table is one.
        to_result(unsafe {
            bindings::dma_map_sgtable(this.raw_dev(), &mut this.table, direction.into(), 0)
        })
        .map_err(|_| ENOMEM)?;
        // INVARIANT: It is mapped.
        this.is_mapped = true;
        Ok(this)
    }

    /// Pins all pages, of which the first is at `start`.
    fn pin(&mut self, start: usize) -> Result {
        let flags = match self.direction {
            DataDirection::ToDevice => 0,
            _ => bindings::FOLL_WRITE,
        };
        while let Some(rest) = self.pages.get_mut(self.pinned..) {
            if rest.is_empty() {
                break;
            }
            // SAFETY: `rest` has room for as many pages as are asked for.
            let pinned = unsafe {
                bindings::pin_user_pages_fast(
                    start.wrapping_add(self.pinned * PAGE_SIZE),
                    i32::try_from(rest.len())?,
                    flags,
                    rest.as_mut_ptr(),
                )
            };
            if pinned <= 0 {
                to_result(pinned)?;
                return Err(EFAULT);
            }
            // INVARIANT: As many more are pinned.
            // CAST: Positive.
            self.pinned += pinned as usize;
        }
        Ok(())
    }

    fn raw_dev(&self) -> *mut bindings::device {
        // CAST: A `Device` is a transparent `struct device`.
        core::ptr::from_ref::<Device>(&self.dev).cast_mut().cast()
    }

    /// Has pages marked dirty as they are released, so that what the device wrote to those of files
    /// is written back, and to others not lost when they are swapped out.
    ///
    /// That takes the lock of a page that is clean, uninterruptibly. Who serves a file system in
    /// user space can have it held for ever: only who told the device to write there may wait for
    /// that. What nobody is told of may as well be lost (Documentation/architecture.rst 2.7).
    pub(crate) fn keep_written(&mut self) {
        self.is_kept = !matches!(self.direction, DataDirection::ToDevice);
    }

    /// Returns how many bytes the pages are that are pinned.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.pinned.saturating_mul(PAGE_SIZE)
    }

    /// Returns how many contiguous parts the range has for the device, at least 1.
    pub(crate) fn part_count(&self) -> usize {
        // CAST: Widening.
        self.table.nents as usize
    }

    /// Returns the bus address and the length of each part.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (DmaAddress, u32)> + '_ {
        let mut entry = self.table.sgl;

        (0..self.part_count()).map(move |_| {
            // SAFETY: There are `nents` entries, all of them mapped, and `sg_next()` is called
            // behind each but the last; behind that it gives null, which is not used.
            unsafe {
                let part = (bindings::sg_dma_address(entry), bindings::sg_dma_len(entry));
                entry = bindings::sg_next(entry);
                part
            }
        })
    }
}

impl Drop for UserMemory {
    fn drop(&mut self) {
        if self.is_mapped {
            // SAFETY: By the type invariants.
            unsafe {
                bindings::dma_unmap_sgtable(
                    self.raw_dev(),
                    &mut self.table,
                    self.direction.into(),
                    0,
                )
            };
        }
        // SAFETY: By the type invariants; an empty table may be freed, too.
        unsafe { bindings::sg_free_table(&mut self.table) };

        // SAFETY: By the type invariants.
        unsafe {
            bindings::unpin_user_pages_dirty_lock(
                self.pages.as_mut_ptr(),
                self.pinned,
                self.is_kept,
            )
        };
    }
}
