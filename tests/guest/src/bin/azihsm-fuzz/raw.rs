// SPDX-License-Identifier: GPL-2.0
//! What needs `unsafe`: memory at addresses of our own choice, and memory that
//! all processes share.
//!
//! The functions for memory are safe to call because of a convention: they only
//! concern addresses between [`BASE`] and [`END`], where nothing is but what
//! they put there, and to which there are no references.

#![allow(unsafe_code)]

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use nix::libc;
use nix::sys::mman::madvise;
use nix::sys::mman::mmap;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::mprotect;
use nix::sys::mman::munmap;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::RawFd;
use std::ptr::NonNull;

/// First address of the memory of calls: far below where the kernel puts what
/// may be anywhere.
pub const BASE: u64 = 0x20_0000_0000;

/// First address behind it.
pub const END: u64 = 0x30_0000_0000;

/// What pages may be used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Nothing.
    None,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Both.
    ReadWrite,
}

impl From<Access> for ProtFlags {
    fn from(access: Access) -> Self {
        match access {
            Access::None => Self::PROT_NONE,
            Access::Read => Self::PROT_READ,
            Access::Write => Self::PROT_WRITE,
            Access::ReadWrite => Self::PROT_READ | Self::PROT_WRITE,
        }
    }
}

/// `address`, if it and `len` bytes from there on are where they should be.
fn checked(address: u64, len: usize) -> Result<NonNull<c_void>> {
    let end = address
        .checked_add(len as u64)
        .context("end of the address space")?;
    ensure!(
        (BASE..END).contains(&address) && end <= END,
        "{address:#x} is not for calls"
    );
    NonNull::new(address as *mut c_void).context("null")
}

/// Maps `len` bytes at `address`, of `file` or, without one, of new memory;
/// whatever was there is gone.
pub fn map(address: u64, len: usize, access: Access, file: Option<(&File, usize)>) -> Result<()> {
    let target = NonZeroUsize::new(checked(address, len)?.as_ptr() as usize);
    let size = NonZeroUsize::new(len).context("nothing to map")?;
    let fixed = MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
    match file {
        Some((file, offset)) => {
            let flags = fixed | MapFlags::MAP_SHARED;
            // SAFETY: By the convention of this module.
            unsafe { mmap(target, size, access.into(), flags, file, offset as i64) }?;
        }
        None => {
            let flags = fixed | MapFlags::MAP_PRIVATE;
            // SAFETY: By the convention of this module.
            unsafe { mmap_anonymous(target, size, access.into(), flags) }?;
        }
    }
    Ok(())
}

/// Unmaps `len` bytes at `address`.
pub fn unmap(address: u64, len: usize) -> Result<()> {
    let start = checked(address, len)?;
    // SAFETY: By the convention of this module.
    Ok(unsafe { munmap(start, len) }?)
}

/// Says what `len` bytes at `address` may be used for, if they are mapped.
pub fn protect(address: u64, len: usize, access: Access) -> Result<()> {
    let start = checked(address, len)?;
    // SAFETY: By the convention of this module.
    Ok(unsafe { mprotect(start, len, access.into()) }?)
}

/// Gives the kernel advice about `len` bytes at `address`.
pub fn advise(address: u64, len: usize, advice: MmapAdvise) -> Result<()> {
    let start = checked(address, len)?;
    // SAFETY: By the convention of this module.
    Ok(unsafe { madvise(start, len, advice) }?)
}

/// Copies to `address`, where there is memory that can be written.
pub fn write(address: u64, content: &[u8]) -> Result<()> {
    let target = checked(address, content.len())?.as_ptr().cast::<u8>();
    // SAFETY: By the convention of this module.
    unsafe { target.copy_from(content.as_ptr(), content.len()) };
    Ok(())
}

/// Copies `len` bytes from `address`, where there is memory that can be read.
pub fn read(address: u64, len: usize) -> Result<Vec<u8>> {
    let source = checked(address, len)?.as_ptr().cast::<u8>();
    let mut content = vec![0; len];
    // SAFETY: By the convention of this module.
    unsafe { source.copy_to(content.as_mut_ptr(), len) };
    Ok(content)
}

/// Whether there is `content` at `address`, where there is memory that can be
/// read.
pub fn is(address: u64, content: &[u8]) -> Result<bool> {
    let source = checked(address, content.len())?.as_ptr().cast::<u8>();
    // SAFETY: By the convention of this module; the slice is gone on return.
    Ok(unsafe { std::slice::from_raw_parts(source, content.len()) } == content)
}

/// Has the kernel copy from a file to `address`, where there may be anything or
/// nothing: what cannot be written is not.
pub fn write_if_possible(address: u64, len: usize, file: &File, offset: usize) {
    if checked(address, len).is_err() {
        return;
    }
    // SAFETY: By the convention of this module; the kernel looks for itself
    // whether there is memory.
    unsafe {
        libc::pread(
            file.as_fd().as_raw_fd(),
            address as *mut c_void,
            len,
            offset as libc::off_t,
        )
    };
}

/// A descriptor that may be closed, or never have been one: the kernel looks
/// for itself.
pub fn borrow(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: The tests that use it open nothing that another file could be
    // mistaken for.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// What can be shared between processes: atomics and nothing else.
///
/// # Safety
///
/// All zeros are a value of the type, and all of it is atomics.
pub unsafe trait Share: Sync + Sized {}

/// A value of zeros which all processes share that are forked from now on.
pub fn share<T: Share>() -> Result<&'static T> {
    let size = NonZeroUsize::new(size_of::<T>()).context("nothing to share")?;
    let flags = MapFlags::MAP_SHARED | MapFlags::MAP_ANONYMOUS;
    let access = Access::ReadWrite.into();
    // SAFETY: A new mapping at an address of the kernel's choice.
    let memory = unsafe { mmap_anonymous(None, size, access, flags) }?;
    // SAFETY: The mapping is as large as the type, aligned to a page, is never
    // unmapped, and holds zeros, which are a value of it.
    Ok(unsafe { memory.cast::<T>().as_ref() })
}
