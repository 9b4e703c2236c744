// SPDX-License-Identifier: GPL-2.0
//! The system call; everything that is not safe is here.

#![allow(unsafe_code)]

use crate::abi::AesCmd;
use crate::abi::HsmCmd;
use crate::abi::IOC_HSM_CMD;
use rustix::io::Errno;
use rustix::ioctl;
use rustix::ioctl::Ioctl;
use rustix::ioctl::IoctlOutput;
use rustix::ioctl::Opcode;
use std::ffi::c_void;
use std::mem::size_of;
use std::os::fd::AsFd;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

/// An ioctl whose number and argument are only known at run time.
struct Call {
    number: u32,
    argument: *mut c_void,
}

// SAFETY: The number and the argument go to the kernel as `ioctl` was given
// them; that they fit is the obligation of its caller.
unsafe impl Ioctl for Call {
    type Output = i32;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.number
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// Issues ioctl `number` with `argument`, whatever they are.
///
/// # Safety
///
/// The kernel reads and writes what `number` lets it at `argument` and at the
/// addresses found there.  None of it may be memory that this process holds a
/// conflicting reference to.
pub unsafe fn ioctl(fd: impl AsFd, number: u32, argument: usize) -> Result<i32, Errno> {
    let argument = argument as *mut c_void;
    // SAFETY: As required of the caller.
    unsafe { ioctl::ioctl(fd, Call { number, argument }) }
}

/// Issues an ioctl whose argument holds no addresses.
pub(crate) fn request<T>(fd: impl AsFd, number: u32, arg: &mut T) -> Result<(), Errno>
where
    T: FromBytes + Immutable + IntoBytes,
{
    assert_eq!((number >> 16) as usize & 0x3fff, size_of::<T>());
    // SAFETY: The kernel writes no more than the size in `number`, which is
    // that of `T`, and any bytes make a `T`.
    unsafe { ioctl(fd, number, &raw mut *arg as usize) }?;
    Ok(())
}

/// Sends a HSM command with `source` and `output` as its buffers.
pub(crate) fn hsm(
    fd: impl AsFd,
    cmd: &mut HsmCmd,
    source: &[u8],
    output: &mut [u8],
) -> Result<(), Errno> {
    cmd.hdr.size = size_of::<HsmCmd>() as u32;
    cmd.input.src_len = length(source)?;
    cmd.input.src = address(source.as_ptr(), source);
    cmd.input.dst_len = length(output)?;
    cmd.input.dst = address(output.as_mut_ptr(), output);
    // SAFETY: The kernel reads and writes `cmd`, reads no more than `source`
    // and writes no more than `output`, and has let go of them on return.
    unsafe { ioctl(fd, IOC_HSM_CMD, &raw mut *cmd as usize) }?;
    Ok(())
}

/// Sends AES request `number` with `source` and `output` as its buffers.
pub(crate) fn aes(
    fd: impl AsFd,
    number: u32,
    cmd: &mut AesCmd,
    source: &[u8],
    output: &mut [u8],
) -> Result<(), Errno> {
    assert_eq!((number >> 16) as usize & 0x3fff, size_of::<AesCmd>());
    cmd.hdr.size = size_of::<AesCmd>() as u32;
    cmd.input.src_len = length(source)?;
    cmd.input.src = address(source.as_ptr(), source);
    cmd.input.dst_len = length(output)?;
    cmd.input.dst = address(output.as_mut_ptr(), output);
    // SAFETY: The kernel reads and writes `cmd`, reads no more than `source`
    // and writes no more than `output`, and has let go of them on return.
    unsafe { ioctl(fd, number, &raw mut *cmd as usize) }?;
    Ok(())
}

/// The length of `data` as the ABI holds it.
fn length(data: &[u8]) -> Result<u32, Errno> {
    u32::try_from(data.len()).map_err(|_| Errno::OVERFLOW)
}

/// The address of `data` as the ABI holds it: nothing is at address 0.
fn address(start: *const u8, data: &[u8]) -> u64 {
    if data.is_empty() {
        0
    } else {
        start as u64
    }
}
