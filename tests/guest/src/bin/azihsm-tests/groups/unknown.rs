// SPDX-License-Identifier: GPL-2.0
//! What comes before anything else (`Documentation/abi.rst`, 3.1), and who
//! owns a descriptor (4.2).

use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::pci;
use azihsm_guest::sys;
use azihsm_guest::sys::Child;
use azihsm_uapi::abi;
use azihsm_uapi::Device;
use azihsm_uapi::Errno;
use nix::fcntl::fcntl;
use nix::fcntl::FcntlArg;
use nix::fcntl::FdFlag;
use nix::sys::socket::recvmsg;
use nix::sys::socket::sendmsg;
use nix::sys::socket::socketpair;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::ControlMessageOwned;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::UnixAddr;
use nix::unistd::pipe;
use std::io::IoSlice;
use std::io::IoSliceMut;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Numbers that are no ioctl of the HSM node, and why one might think so.
const UNKNOWN: &[(&str, u32)] = &[
    ("zero", 0),
    ("arbitrary", 0xdead_beef),
    ("terminal", 0x5401),
    ("reserved-B-02", 0xc070_4202),
    ("reserved-B-05", 0xc028_4205),
    ("reserved-B-07", 0xc678_4207),
    ("hsm-of-another-size", 0xc071_4203),
    ("hsm-without-direction", 0x0000_4203),
    ("hsm-write-only", 0x4070_4203),
    ("info-of-another-size", 0xc0af_4204),
    ("aes-of-another-size", 0xc180_420c),
    ("management-info", abi::MGMT_IOC_DEV_INFO),
    ("management-vf-count", abi::MGMT_IOC_GET_VF_COUNT),
];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    let mut tests: Vec<Test> = UNKNOWN
        .iter()
        .map(|&(name, number)| {
            Test::new(format!("unknown/{name}-ebadrqc"), move |env: &Env| {
                unknown(env, number)
            })
        })
        .collect();
    tests.extend([
        Test::new("unknown/owner-is-not-the-child", child),
        Test::new("unknown/owner-is-not-the-receiver", receiver),
        Test::new("unknown/owner-is-every-thread", threads),
        Test::new(
            "unknown/owner-is-a-thread-after-the-opener-ended",
            opener_thread_ended,
        ),
        Test::new("unknown/owner-survives-exec", exec),
        Test::new("unknown/owner-is-not-whoever-survives-it", survivor),
        Test::new(
            "unknown/owner-is-not-a-later-process-of-the-same-number",
            same_number,
        ),
        Test::new("unknown/owner-does-not-matter-once-removed", removed),
    ]);
    tests
}

fn unknown(env: &Env, number: u32) -> Result<()> {
    let device = env.open()?;
    for address in [0, sys::UNMAPPED] {
        let result = sys::submit_at(&device, number, address);
        check_eq!(
            result,
            Err(Errno::BADRQC),
            "ioctl {number:#x} at {address:#x}"
        );
    }
    Ok(())
}

/// Makes sure that this process may not use the device, whatever it asks for.
fn check_foreign(device: impl AsFd) -> Result<()> {
    let numbers = [
        abi::IOC_HSM_CMD,
        abi::IOC_DEV_INFO,
        abi::IOC_AES_GCM,
        abi::IOC_AES_XTS,
        0xc070_4202,
        0xdead_beef,
    ];
    for number in numbers {
        let result = sys::submit_at(&device, number, 0);
        check_eq!(result, Err(Errno::ACCESS), "ioctl {number:#x}");
    }
    Ok(())
}

/// The exit code of a child that may have something to say.
fn code(result: Result<()>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            println!("# {error:#}");
            1
        }
    }
}

fn child(env: &Env) -> Result<()> {
    let device = env.open()?;
    device.info()?;
    let mut child = Child::run(|| code(check_foreign(&device)))?;
    check_eq!(child.wait(PATIENCE)?, Some(0), "child");
    device.info()?;
    Ok(())
}

fn send(socket: &OwnedFd, device: &Device) -> Result<()> {
    let descriptors = [device.as_fd().as_raw_fd()];
    sendmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"x")],
        &[ControlMessage::ScmRights(&descriptors)],
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

fn receive(socket: &OwnedFd) -> Result<RawFd> {
    let mut byte = [0];
    let mut iov = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let message = recvmsg::<UnixAddr>(
        socket.as_raw_fd(),
        &mut iov,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            return descriptors.first().copied().context("no descriptor");
        }
    }
    anyhow::bail!("no descriptor")
}

fn receiver(env: &Env) -> Result<()> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    // Started before the device is opened, so that nothing is inherited.
    let mut child = Child::run(|| {
        code(receive(&theirs).and_then(|descriptor| check_foreign(sys::adopt(descriptor))))
    })?;
    let device = env.open()?;
    send(&ours, &device)?;
    check_eq!(child.wait(PATIENCE)?, Some(0), "child");
    device.info()?;
    Ok(())
}

fn threads(env: &Env) -> Result<()> {
    let device = env.open()?;
    thread::scope(|scope| {
        let handles: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    device.info()?;
                    hsm::api_revisions(&device)?;
                    Ok(())
                })
            })
            .collect();
        for handle in handles {
            handle.join().expect("does not panic")?;
        }
        Ok(())
    })
}

fn opener_thread_ended(env: &Env) -> Result<()> {
    let device = thread::scope(|scope| scope.spawn(|| env.open()).join().expect("no panic"))?;
    device.info()?;
    hsm::api_revisions(&device)?;
    Ok(())
}

/// Asks for device info on `descriptor` and returns the errno.
pub fn ask(descriptor: RawFd) -> ExitCode {
    match Device::from(sys::adopt(descriptor)).info() {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.errno.raw_os_error() as u8),
    }
}

fn exec(env: &Env) -> Result<()> {
    // The child opens the device itself, and then becomes another program.
    let mut child = Child::run(|| {
        let become_another = || -> Result<()> {
            let device = env.open()?;
            fcntl(&device, FcntlArg::F_SETFD(FdFlag::empty()))?;
            let descriptor = device.as_fd().as_raw_fd().to_string();
            let error = Command::new("/proc/self/exe")
                .args(["--ask", &descriptor])
                .exec();
            Err(error.into())
        };
        code(become_another()) + 200
    })?;
    check_eq!(child.wait(PATIENCE)?, Some(0), "errno after exec");
    Ok(())
}

/// The opener dies; its child, which has the descriptor, lives on.
fn survivor(env: &Env) -> Result<()> {
    let (reader, writer) = pipe()?;
    let mut opener = Child::run(|| {
        let open_and_leave = || -> Result<()> {
            let device = env.open()?;
            device.info()?;
            let opener = nix::unistd::getpid();
            let child = Child::run(|| {
                // Until the opener is gone and has been waited for.
                while nix::unistd::getppid() == opener {
                    thread::sleep(Duration::from_millis(5));
                }
                thread::sleep(Duration::from_millis(200));
                let verdict = code(check_foreign(&device));
                let byte = [verdict as u8];
                i32::from(nix::unistd::write(&writer, &byte) != Ok(1))
            })?;
            // It is not to be killed by this process' end.
            std::mem::forget(child);
            Ok(())
        };
        code(open_and_leave())
    })?;
    check_eq!(opener.wait(PATIENCE)?, Some(0), "opener");
    drop(writer);
    let mut verdict = Vec::new();
    std::fs::File::from(reader).read_to_end(&mut verdict)?;
    ensure!(
        verdict == [0],
        "the survivor may use the descriptor: {verdict:?}"
    );
    Ok(())
}

/// The opener ends, and somebody else gets its number and the descriptor.
fn same_number(env: &Env) -> Result<()> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let mut opener = Child::run(|| code(env.open().and_then(|device| send(&theirs, &device))))?;
    check_eq!(opener.wait(PATIENCE)?, Some(0), "opener");
    let device = sys::adopt(receive(&ours)?);
    let number = opener.pid();
    let mut child = Child::run_as(number, || {
        let is_same = nix::unistd::getpid() == number;
        code(check_foreign(&device)) + i32::from(!is_same) * 2
    })?;
    check_eq!(child.wait(PATIENCE)?, Some(0), "process of the same number");
    Ok(())
}

/// Of two reasons to refuse, the removal is the one that counts.
fn removed(env: &Env) -> Result<()> {
    let address = env.address()?;
    let device = env.open()?;
    pci::unbind(&address)?;
    let check = || -> Result<()> {
        for number in [abi::IOC_HSM_CMD, abi::IOC_DEV_INFO, 0xdead_beef] {
            let result = sys::submit_at(&device, number, 0);
            check_eq!(result, Err(Errno::NODEV), "ioctl {number:#x}");
        }
        Ok(())
    };
    let mut child = Child::run(|| code(check()))?;
    let verdict = child.wait(PATIENCE)?;
    pci::bind(&address)?;
    check_eq!(verdict, Some(0), "child");
    Ok(())
}
