// SPDX-License-Identifier: GPL-2.0
//! What needs `unsafe`: memory that requests can point to, ioctls with any
//! argument, and processes.
//!
//! The functions that take requests are safe to call because of a convention
//! of the tests: an address in a request, or of one, is that of a [`Memory`]
//! or an address that nothing is mapped at.

#![allow(unsafe_code)]

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_uapi::raw;
use azihsm_uapi::Errno;
use nix::libc;
use nix::poll::poll;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::sys::mman::madvise;
use nix::sys::mman::mmap;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::mprotect;
use nix::sys::mman::munmap;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use nix::sys::signal::kill;
use nix::sys::signal::sigaction;
use nix::sys::signal::SaFlags;
use nix::sys::signal::SigAction;
use nix::sys::signal::SigHandler;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::unistd::fork;
use nix::unistd::ForkResult;
use nix::unistd::Pid;
use std::ffi::c_int;
use std::ffi::c_void;
use std::fs::File;
use std::mem::size_of_val;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::panic::catch_unwind;
use std::panic::AssertUnwindSafe;
use std::process::exit;
use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

/// Size of a page.
pub const PAGE: usize = 4096;

/// An address that no process has anything at, but could.
pub const UNMAPPED: u64 = 0x10_0000_0000;

/// An address outside the address space of processes.
pub const KERNEL: u64 = 0xffff_8880_0000_0000;

/// Issues ioctl `number` with `argument`.
pub fn submit<T>(fd: impl AsFd, number: u32, argument: &mut T) -> Result<i32, Errno>
where
    T: FromBytes + Immutable + IntoBytes,
{
    submit_at(fd, number, &raw mut *argument as u64)
}

/// Issues ioctl `number` with the argument at `address`.
pub fn submit_at(fd: impl AsFd, number: u32, address: u64) -> Result<i32, Errno> {
    // SAFETY: By the convention of the tests.
    unsafe { raw::ioctl(fd, number, address as usize) }
}

/// What a page may be used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Nothing.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl Access {
    fn flags(self) -> ProtFlags {
        match self {
            Self::None => ProtFlags::PROT_NONE,
            Self::Read => ProtFlags::PROT_READ,
            Self::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        }
    }
}

/// Pages of memory, usually with nothing in front and nothing behind.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<c_void>,
    len: usize,
    /// Size of what nobody can access, in front and behind.
    guard: usize,
}

impl Memory {
    /// As many pages, all zeros.
    pub fn new(pages: usize) -> Result<Self> {
        let len = pages * PAGE;
        let whole = NonZeroUsize::new(len + 2 * PAGE).expect("not zero");
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS;
        // SAFETY: A new mapping at an address of the kernel's choice.
        let guarded = unsafe { mmap_anonymous(None, whole, ProtFlags::PROT_NONE, flags) }?;
        // SAFETY: The mapping is larger than a page.
        let base = unsafe { guarded.byte_add(PAGE) };
        let memory = Self {
            base,
            len,
            guard: PAGE,
        };
        memory.protect(0, pages, Access::ReadWrite)?;
        Ok(memory)
    }

    /// The first pages of a file, shared with whoever else has it.
    ///
    /// In front and behind there may be anything.
    pub fn of_file(file: &File, len: usize) -> Result<Self> {
        Self::map(file, len, Access::ReadWrite, MapFlags::MAP_SHARED)
    }

    /// The first pages of a file, of which whoever writes gets a copy.
    pub fn of_private_file(file: &File, len: usize) -> Result<Self> {
        Self::map(file, len, Access::ReadWrite, MapFlags::MAP_PRIVATE)
    }

    /// The first pages of a file, shared, and only to be read.
    pub fn of_read_only_file(file: &File, len: usize) -> Result<Self> {
        Self::map(file, len, Access::Read, MapFlags::MAP_SHARED)
    }

    fn map(file: &File, len: usize, access: Access, flags: MapFlags) -> Result<Self> {
        let whole = NonZeroUsize::new(len).context("no pages")?;
        // SAFETY: A new mapping at an address of the kernel's choice.
        let base = unsafe { mmap(None, whole, access.flags(), flags, file, 0) }?;
        Ok(Self {
            base,
            len,
            guard: 0,
        })
    }

    /// Memory that the kernel is asked to make of huge pages of `huge` bytes,
    /// and that begins with one.
    pub fn of_huge_pages(count: usize, huge: usize) -> Result<Self> {
        let memory = Self::new((count + 1) * huge / PAGE)?;
        let offset = memory.address(0).next_multiple_of(huge as u64) - memory.address(0);
        // SAFETY: Within the mapping, to which there are no references.
        unsafe {
            madvise(
                memory.base.byte_add(offset as usize),
                count * huge,
                MmapAdvise::MADV_HUGEPAGE,
            )
        }?;
        Ok(memory)
    }

    /// Pages that hold `content`, and zeros behind it.
    pub fn with(content: &[u8]) -> Result<Self> {
        let memory = Self::new(content.len().div_ceil(PAGE).max(1))?;
        memory.write(0, content);
        Ok(memory)
    }

    /// Gives a page back to the kernel, which has an empty one there when needed.
    pub fn forget(&self, page: usize) -> Result<()> {
        ensure!((page + 1) * PAGE <= self.len, "outside the mapping");
        // SAFETY: Within the mapping, to which there are no references.
        unsafe {
            madvise(
                self.base.byte_add(page * PAGE),
                PAGE,
                MmapAdvise::MADV_DONTNEED,
            )
        }?;
        Ok(())
    }

    /// Takes the pages away: whoever accesses one waits until [`Absence::fill`].  `None` if
    /// the kernel cannot do that.
    pub fn take_away(&self) -> Result<Option<Absence>> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: It has no pointers.
        let descriptor = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if descriptor < 0 {
            let error = std::io::Error::last_os_error();
            ensure!(error.raw_os_error() == Some(libc::ENOSYS), error);
            return Ok(None);
        }
        let faults = adopt(descriptor as RawFd);
        let mut api = [uffd::API, 0, 0];
        // SAFETY: It writes to the structure.
        unsafe { uffd::init(faults.as_raw_fd(), &mut api) }?;
        for page in 0..self.len / PAGE {
            self.forget(page)?;
        }
        let mut range = [self.address(0), self.len as u64, uffd::MISSING, 0];
        // SAFETY: As above.
        unsafe { uffd::register(faults.as_raw_fd(), &mut range) }?;
        Ok(Some(Absence {
            faults,
            address: self.address(0),
            pages: self.len / PAGE,
        }))
    }

    /// How many bytes there are.
    pub fn size(&self) -> usize {
        self.len
    }

    /// Address of the byte at `offset`, which may be one behind the last.
    pub fn address(&self, offset: usize) -> u64 {
        assert!(offset <= self.len);
        self.base.as_ptr() as u64 + offset as u64
    }

    /// Address of the last `len` bytes.
    pub fn address_of_last(&self, len: usize) -> u64 {
        self.address(self.len - len)
    }

    /// Copies `content` to `offset`; the pages must be accessible.
    pub fn write(&self, offset: usize, content: &[u8]) {
        assert!(offset + content.len() <= self.len);
        // SAFETY: Within the mapping, to which there are no references.
        unsafe {
            let target = self.base.as_ptr().byte_add(offset).cast::<u8>();
            target.copy_from(content.as_ptr(), content.len());
        }
    }

    /// Sets `len` bytes from `offset` on to `byte`.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) {
        self.write(offset, &vec![byte; len]);
    }

    /// Copies `len` bytes from `offset` on; the pages must be accessible.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let mut content = vec![0; len];
        // SAFETY: Within the mapping, to which there are no references.
        unsafe {
            let source = self.base.as_ptr().byte_add(offset).cast::<u8>();
            source.copy_to(content.as_mut_ptr(), len);
        }
        content
    }

    /// Says what pages from `first` on may be used for.
    pub fn protect(&self, first: usize, pages: usize, access: Access) -> Result<()> {
        ensure!((first + pages) * PAGE <= self.len, "outside the mapping");
        let flags = access.flags();
        // SAFETY: Within the mapping, to which there are no references.
        unsafe { mprotect(self.base.byte_add(first * PAGE), pages * PAGE, flags) }?;
        Ok(())
    }

    /// Puts other memory in its place: new pages, all zeros.
    pub fn replace(&self) -> Result<()> {
        let address = NonZeroUsize::new(self.base.as_ptr() as usize);
        let len = NonZeroUsize::new(self.len).context("no pages")?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS | MapFlags::MAP_FIXED;
        // SAFETY: In the place of the mapping, to which there are no references.
        unsafe { mmap_anonymous(address, len, Access::ReadWrite.flags(), flags) }?;
        Ok(())
    }

    /// Puts the first page of a file, shared, in the place of a page.
    pub fn replace_page(&self, page: usize, file: &File) -> Result<()> {
        ensure!((page + 1) * PAGE <= self.len, "outside the mapping");
        let address = self.base.as_ptr() as usize + page * PAGE;
        let len = NonZeroUsize::new(PAGE).context("no pages")?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        // SAFETY: In the place of a page of the mapping, to which there are no
        // references.
        unsafe {
            mmap(
                NonZeroUsize::new(address),
                len,
                Access::ReadWrite.flags(),
                flags,
                file,
                0,
            )
        }?;
        Ok(())
    }

    /// Takes pages from `first` on out of the address space, for good.
    pub fn unmap(&self, first: usize, pages: usize) -> Result<()> {
        ensure!((first + pages) * PAGE <= self.len, "outside the mapping");
        // SAFETY: Within the mapping, to which there are no references.
        unsafe { munmap(self.base.byte_add(first * PAGE), pages * PAGE) }?;
        Ok(())
    }
}

/// The kernel's user faults, `linux/userfaultfd.h`, of which structures are arrays here.
mod uffd {
    use nix::ioctl_readwrite;

    /// Version of all this.
    pub const API: u64 = 0xaa;
    /// Faults of pages that are not there.
    pub const MISSING: u64 = 1;

    ioctl_readwrite!(init, API as u8, 0x3f, [u64; 3]);
    ioctl_readwrite!(register, API as u8, 0x00, [u64; 4]);
    ioctl_readwrite!(copy, API as u8, 0x03, [u64; 5]);
}

/// Pages that were taken away.  They are there again, and empty, if it is dropped.
#[derive(Debug)]
pub struct Absence {
    faults: OwnedFd,
    address: u64,
    pages: usize,
}

impl Absence {
    /// Waits until somebody waits for a page.
    pub fn wait_wanted(&self, patience: Duration) -> Result<()> {
        let mut fds = [PollFd::new(self.faults.as_fd(), PollFlags::POLLIN)];
        let wanted = poll(&mut fds, PollTimeout::try_from(patience)?)?;
        ensure!(wanted == 1, "nobody wants a page after {patience:?}");
        Ok(())
    }

    /// Brings them back, with `content` and zeros behind it.
    pub fn fill(self, content: &[u8]) -> Result<()> {
        let mut pages = content.to_vec();
        ensure!(pages.len() <= self.pages * PAGE, "more than there was");
        pages.resize(self.pages * PAGE, 0);
        let mut copy = [
            self.address,
            pages.as_ptr() as u64,
            pages.len() as u64,
            0,
            0,
        ];
        // SAFETY: It reads the pages, fills those that are missing, and writes to the structure.
        unsafe { uffd::copy(self.faults.as_raw_fd(), &mut copy) }?;
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The mapping as it was made, with its guard pages.
        let result = unsafe { munmap(self.base.byte_sub(self.guard), self.len + 2 * self.guard) };
        debug_assert!(result.is_ok());
    }
}

// SAFETY: The mapping belongs to the process, not to a thread.
unsafe impl Send for Memory {}

// SAFETY: The contents are only reached by copying, and tests that do so from
// several threads keep to parts of their own.
unsafe impl Sync for Memory {}

/// Ends the process with what `body` returns.
fn end_with(body: impl FnOnce() -> i32) -> ! {
    exit(catch_unwind(AssertUnwindSafe(body)).unwrap_or(101))
}

/// A child process; killed when this value goes away.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    gone: bool,
}

impl Child {
    /// Runs `body` in a child, which ends with what it returns.
    ///
    /// To be called by a process whose other threads, if there are any, are
    /// inside system calls.
    pub fn run(body: impl FnOnce() -> i32) -> Result<Self> {
        // SAFETY: No other thread holds a lock, so the child may do anything.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self {
                pid: child,
                gone: false,
            }),
            ForkResult::Child => end_with(body),
        }
    }

    /// Runs `body` in a child that gets the number `pid`, which nobody must
    /// have.
    ///
    /// To be called by a process with one thread.
    pub fn run_as(pid: Pid, body: impl FnOnce() -> i32) -> Result<Self> {
        const EXIT_SIGNAL: usize = 4;
        const SET_TID: usize = 8;
        const SET_TID_SIZE: usize = 9;
        let numbers = [pid.as_raw()];
        let mut arguments = [0_u64; 11];
        arguments[EXIT_SIGNAL] = libc::SIGCHLD as u64;
        arguments[SET_TID] = numbers.as_ptr() as u64;
        arguments[SET_TID_SIZE] = 1;
        let size = size_of_val(&arguments);
        // SAFETY: The structure is one that the system call takes, and says
        // that it is to do what fork() does.
        let result = unsafe { libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size) };
        match nix::errno::Errno::result(result)? {
            0 => end_with(body),
            _ => Ok(Self { pid, gone: false }),
        }
    }

    /// Its number.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Kills it, without waiting for its end.
    pub fn kill(&self) -> Result<()> {
        Ok(kill(self.pid, Signal::SIGKILL)?)
    }

    /// Waits for its end at most for `patience`: its exit code, or the negative
    /// number of the signal that killed it.
    pub fn wait(&mut self, patience: Duration) -> Result<Option<i32>> {
        let deadline = Instant::now() + patience;
        loop {
            match waitpid(self.pid, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::Exited(_, code) => {
                    self.gone = true;
                    return Ok(Some(code));
                }
                WaitStatus::Signaled(_, signal, _) => {
                    self.gone = true;
                    return Ok(Some(-(signal as i32)));
                }
                _ if Instant::now() > deadline => return Ok(None),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.gone {
            // It may be gone already, or stuck in the kernel.
            let _ = self.kill();
            let _ = self.wait(Duration::from_secs(2));
        }
    }
}

static ALARMS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_alarm(_: c_int) {
    ALARMS.fetch_add(1, Ordering::Relaxed);
}

/// Has SIGALRM counted instead of ending the process; system calls that it
/// interrupts are not restarted.
pub fn count_alarms() -> Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(count_alarm),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: The handler only adds to an atomic.
    unsafe { sigaction(Signal::SIGALRM, &action) }?;
    Ok(())
}

/// How many times SIGALRM arrived.
pub fn alarms() -> usize {
    ALARMS.load(Ordering::Relaxed)
}

/// Issues an ioctl the way a 32-bit process does.
#[cfg(target_arch = "x86_64")]
pub fn ioctl32(fd: u32, number: u32, argument: u32) -> i32 {
    const IOCTL: i32 = 54;
    let result: i32;
    // SAFETY: The 32-bit system call entry; the tests pass no argument that is
    // mapped.
    unsafe {
        std::arch::asm!(
            "xchg {saved:e}, ebx",
            "int 0x80",
            "xchg {saved:e}, ebx",
            saved = inout(reg) fd => _,
            inlateout("eax") IOCTL => result,
            in("ecx") number,
            in("edx") argument,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result
}

/// Takes over a descriptor that nobody in this process owns yet.
pub fn adopt(descriptor: RawFd) -> OwnedFd {
    // SAFETY: It arrived by a message or from before an exec, so nothing in
    // this process knows of it.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Tries to map a page of a file, and says why it cannot be done.
pub fn map_shared(file: &File) -> Result<(), nix::errno::Errno> {
    let len = NonZeroUsize::new(PAGE).expect("not zero");
    let flags = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: A new mapping at an address of the kernel's choice.
    let mapped = unsafe { mmap(None, len, flags, MapFlags::MAP_SHARED, file, 0) }?;
    // SAFETY: The mapping that was just made.
    unsafe { munmap(mapped, PAGE) }
}
