// SPDX-License-Identifier: GPL-2.0
//! A file of one page that is served by a process (FUSE), which may leave the kernel without an
//! answer.

use crate::sys::Child;
use crate::sys::Memory;
use crate::sys::PAGE;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use fuser::FileAttr;
use fuser::FileType;
use fuser::Filesystem;
use fuser::ReplyAttr;
use fuser::ReplyData;
use fuser::ReplyWrite;
use fuser::Request;
use fuser::Session;
use fuser::FUSE_ROOT_ID;
use nix::libc;
use nix::mount::umount2;
use nix::mount::MntFlags;
use nix::poll::poll;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::sys::memfd::memfd_create;
use nix::sys::memfd::MFdFlags;
use nix::unistd::getpid;
use nix::unistd::getppid;
use nix::unistd::pipe;
use nix::unistd::Pid;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::UNIX_EPOCH;

/// How long the server may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// The file system: its root is the file.
struct OneFile {
    content: File,
    /// Tells that there is a write that is not answered.
    news: File,
    silent: Arc<AtomicBool>,
    unanswered: Vec<ReplyWrite>,
}

impl Filesystem for OneFile {
    fn getattr(&mut self, _: &Request<'_>, ino: u64, _: Option<u64>, reply: ReplyAttr) {
        let attr = FileAttr {
            ino,
            size: PAGE as u64,
            blocks: 1,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(3600), &attr);
    }

    fn read(
        &mut self,
        _: &Request<'_>,
        _ino: u64,
        _fh: u64,
        offset: i64,
        size: u32,
        _flags: i32,
        _lock_owner: Option<u64>,
        reply: ReplyData,
    ) {
        let mut data = vec![0; size as usize];
        match self.content.read_at(&mut data, offset as u64) {
            Ok(count) => reply.data(&data[..count]),
            Err(_) => reply.error(libc::EIO),
        }
    }

    fn write(
        &mut self,
        _: &Request<'_>,
        _ino: u64,
        _fh: u64,
        offset: i64,
        data: &[u8],
        _write_flags: u32,
        _flags: i32,
        _lock_owner: Option<u64>,
        reply: ReplyWrite,
    ) {
        if self.silent.load(Ordering::SeqCst) {
            // Dropping it would be an answer.
            self.unanswered.push(reply);
            let _ = self.news.write_all(&[0]);
            return;
        }
        match self.content.write_all_at(data, offset as u64) {
            Ok(()) => reply.written(data.len() as u32),
            Err(_) => reply.error(libc::EIO),
        }
    }
}

/// Where it is mounted, as long as this exists.
#[derive(Debug)]
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        // Whatever the server may do, nobody waits for it any more.
        let _ = umount2(&self.0, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.0);
    }
}

/// See the [module](self).  When this is dropped nobody waits for it any more.
#[derive(Debug)]
pub struct ServedFile {
    // First: to unmap the page or to close the file may take what the server does not do.
    _mount: Mount,
    page: Memory,
    file: File,
    content: File,
    orders: File,
    news: File,
    _server: Child,
}

impl ServedFile {
    /// Begins to serve a file of zeros at `path`.  `None` if the kernel has no FUSE.
    ///
    /// To be called by a process with one thread.
    pub fn new(path: &Path) -> Result<Option<Self>> {
        if !Path::new("/dev/fuse").exists() {
            return Ok(None);
        }
        File::create(path)?;
        let content = File::from(memfd_create(c"content", MFdFlags::empty())?);
        content.set_len(PAGE as u64)?;
        let (taken, orders) = pipe()?;
        let (news, told) = pipe()?;
        let files = (content.try_clone()?, File::from(taken), File::from(told));
        let parent = getpid();
        let server = Child::run(move || {
            let (content, orders, news) = files;
            let served = serve(path, content, orders, news, parent);
            if let Err(error) = &served {
                eprintln!("file that is served: {error:#}");
            }
            i32::from(served.is_err())
        })?;
        let mount = Mount(path.into());
        let news = File::from(news);
        await_news(&news).context("it is not mounted")?;
        let file = File::options().read(true).write(true).open(path)?;
        // Only then does the kernel know that.
        ensure!(file.metadata()?.len() == PAGE as u64, "of another size");
        Ok(Some(Self {
            _mount: mount,
            page: Memory::of_file(&file, PAGE)?,
            file,
            content,
            orders: orders.into(),
            news,
            _server: server,
        }))
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What the server has been told that it holds.
    pub fn content(&self) -> Result<Vec<u8>> {
        let mut content = vec![0; PAGE];
        self.content.read_exact_at(&mut content, 0)?;
        Ok(content)
    }

    /// Writes to the page, has the kernel write that back, and does not answer: the page is clean
    /// from then on, and locked.
    pub fn lock_page(&self) -> Result<()> {
        self.page.fill(0, PAGE, 1);
        (&self.orders).write_all(&[0])?;
        await_news(&self.news).context("it is not written back")
    }
}

fn await_news(mut news: &File) -> Result<()> {
    ensure!(is_readable(news, PATIENCE)?, "no news");
    Ok(news.read_exact(&mut [0])?)
}

fn is_readable(file: &File, patience: Duration) -> Result<bool> {
    let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::try_from(patience)?)? == 1)
}

/// What the server does.
fn serve(path: &Path, content: File, mut orders: File, mut news: File, parent: Pid) -> Result<()> {
    let silent = Arc::new(AtomicBool::new(false));
    let file = OneFile {
        content,
        news: news.try_clone()?,
        silent: silent.clone(),
        unanswered: Vec::new(),
    };
    let mut session = Session::new(file, path, &[])?;
    let notifier = session.notifier();
    thread::spawn(move || session.run());
    news.write_all(&[0])?;
    // A test may be killed, and nothing must hang then.
    let _mount = Mount(path.into());
    while getppid() == parent {
        if is_readable(&orders, Duration::from_secs(1))? {
            orders.read_exact(&mut [0])?;
            silent.store(true, Ordering::SeqCst);
            let notifier = notifier.clone();
            // This waits for the answer.
            thread::spawn(move || notifier.inval_inode(FUSE_ROOT_ID, 0, 0));
        }
    }
    Ok(())
}
