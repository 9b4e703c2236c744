// SPDX-License-Identifier: GPL-2.0
//! The device node (`Documentation/abi.rst`, 1.1) and the log (5.3).

use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::kmsg::KernelLog;
use azihsm_guest::module;
use azihsm_guest::pci;
use azihsm_guest::sys;
use azihsm_uapi::abi;
use azihsm_uapi::hsm_nodes;
use azihsm_uapi::Device;
use azihsm_uapi::Errno;
use nix::libc;
use nix::poll::poll;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::unistd::lseek;
use nix::unistd::Whence;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

const NODE: &str = "/dev/azihsm0";

/// Major number of misc devices.
const MISC: u64 = 10;

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("node/numbers-are-dense", numbers),
        Test::new("node/character-device-0600", kind),
        Test::new("node/parent-is-the-function", parent),
        Test::new("node/one-node-for-each-function", functions),
        Test::new("node/no-directory", no_directory),
        Test::new("node/read-einval", read),
        Test::new("node/write-einval", write),
        Test::new("node/seek-espipe", seek),
        Test::new("node/mmap-enodev", mmap),
        Test::new("node/poll-ready", poll_ready),
        Test::new("node/read-only-descriptor-can-do-all", read_only),
        Test::new("node/ioctl-from-32-bit-enotty", compat),
        Test::new("node/load-prints-one-line", load_log),
        Test::new("node/unload-prints-nothing-bad", unload_log),
    ]
}

fn numbers(env: &Env) -> Result<()> {
    let expected: Vec<PathBuf> = (0..env.devices)
        .map(|number| PathBuf::from(format!("/dev/azihsm{number}")))
        .collect();
    check_eq!(hsm_nodes()?, expected, "nodes");
    Ok(())
}

fn kind(_: &Env) -> Result<()> {
    let metadata = fs::metadata(NODE)?;
    ensure!(
        metadata.file_type().is_char_device(),
        "not a character device"
    );
    check_eq!(metadata.mode() & 0o7777, 0o600, "mode");
    check_eq!((metadata.uid(), metadata.gid()), (0, 0), "owner");
    check_eq!(libc::major(metadata.rdev()) as u64, MISC, "major number");
    Ok(())
}

fn parent(env: &Env) -> Result<()> {
    let address = env.address()?;
    check_eq!(pci::driver(&address).as_deref(), Some("azihsm"), "driver");
    let vendor = fs::read_to_string(pci::directory(&address).join("vendor"))?;
    check_eq!(vendor.trim(), "0x1414", "vendor");
    Ok(())
}

fn functions(env: &Env) -> Result<()> {
    let of_nodes: BTreeSet<String> = (0..env.devices)
        .map(|number| pci::of_node(&format!("azihsm{number}")))
        .collect::<Result<_>>()?;
    let all: BTreeSet<String> = pci::functions()?.into_iter().collect();
    check_eq!(of_nodes, all, "functions");
    Ok(())
}

fn no_directory(_: &Env) -> Result<()> {
    ensure!(!Path::new("/dev/azihsm").exists(), "/dev/azihsm exists");
    Ok(())
}

fn file() -> Result<File> {
    Ok(OpenOptions::new().read(true).write(true).open(NODE)?)
}

fn read(_: &Env) -> Result<()> {
    let error = file()?.read(&mut [0; 16]).err().context("read succeeds")?;
    check_eq!(error.raw_os_error(), Some(libc::EINVAL), "read");
    Ok(())
}

fn write(_: &Env) -> Result<()> {
    let error = file()?.write(&[0; 16]).err().context("write succeeds")?;
    check_eq!(error.raw_os_error(), Some(libc::EINVAL), "write");
    Ok(())
}

fn seek(_: &Env) -> Result<()> {
    let result = lseek(file()?, 0, Whence::SeekSet);
    check_eq!(result, Err(nix::errno::Errno::ESPIPE), "lseek");
    Ok(())
}

fn mmap(_: &Env) -> Result<()> {
    check_eq!(
        sys::map_shared(&file()?),
        Err(nix::errno::Errno::ENODEV),
        "mmap"
    );
    Ok(())
}

fn poll_ready(_: &Env) -> Result<()> {
    let file = file()?;
    let wanted = PollFlags::POLLIN | PollFlags::POLLOUT;
    let mut ready = [PollFd::new(file.as_fd(), wanted)];
    check_eq!(poll(&mut ready, PollTimeout::ZERO)?, 1, "ready descriptors");
    check_eq!(ready[0].revents(), Some(wanted), "events");
    Ok(())
}

fn read_only(_: &Env) -> Result<()> {
    let device = Device::from(OwnedFd::from(File::open(NODE)?));
    device.info()?;
    let session = hsm::open_session(&device)?;
    hsm::use_session(&device, session.id)?;
    hsm::close_session(&device, session.id)
}

fn compat(_: &Env) -> Result<()> {
    let file = file()?;
    let descriptor = u32::try_from(file.as_raw_fd())?;
    for number in [
        abi::IOC_HSM_CMD,
        abi::IOC_DEV_INFO,
        abi::IOC_AES_GCM,
        0xdead_beef,
    ] {
        let result = sys::ioctl32(descriptor, number, 0);
        check_eq!(result, -Errno::NOTTY.raw_os_error(), "ioctl {number:#x}");
    }
    Ok(())
}

fn load_log(env: &Env) -> Result<()> {
    module::unload().context("delete_module")?;
    let mut log = KernelLog::end()?;
    env.load()?;
    let messages = log.read_about_driver()?;
    for message in &messages {
        ensure!(message.is_harmless(), "{}", message.text);
        ensure!(message.bad_word().is_none(), "{}", message.text);
    }
    check_eq!(
        messages.len(),
        env.devices,
        "lines in the log: {messages:?}"
    );
    Ok(())
}

fn unload_log(env: &Env) -> Result<()> {
    let mut log = KernelLog::end()?;
    module::unload().context("delete_module")?;
    let messages = log.read_about_driver()?;
    env.load()?;
    for message in &messages {
        ensure!(message.is_harmless(), "{}", message.text);
        ensure!(message.bad_word().is_none(), "{}", message.text);
    }
    Ok(())
}
