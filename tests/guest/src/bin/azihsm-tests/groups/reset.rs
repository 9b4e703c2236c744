// SPDX-License-Identifier: GPL-2.0
//! Reset (`Documentation/abi.rst`, 3.4), and what it leaves as it was.

use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::pci;
use azihsm_guest::sys;
use azihsm_guest::sys::Access;
use azihsm_guest::sys::Memory;
use azihsm_mbor::Operation;
use azihsm_mbor::Status;
use azihsm_uapi::abi;
use azihsm_uapi::abi::ext;
use azihsm_uapi::Device;
use azihsm_uapi::Errno;
use azihsm_uapi::Flow;
use azihsm_uapi::ResetKind;
use serde_json::json;
use std::mem::size_of;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;

const KINDS: [ResetKind; 2] = [ResetKind::Subsystem, ResetKind::Controller];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("reset/works-and-the-next-command-is-taken", works),
        Test::new("reset/draws-new-entropy", entropy),
        Test::new("reset/other-types-4", bad_types),
        Test::new("reset/small-size-writes-nothing", small_size),
        Test::new("reset/bad-addresses", bad_addresses),
        Test::new("reset/keeps-sessions-for-renegotiation", keeps_sessions),
        Test::new("reset/session-can-be-closed-afterwards", close_afterwards),
        Test::new("reset/flushes-at-close-afterwards", flush_afterwards),
        Test::new("reset/ends-commands-under-way", ends_commands),
        Test::new("reset/ended-open-leaves-no-session", ended_open),
        Test::new("reset/fifty-under-load", under_load),
        Test::new("reset/two-at-once-both-happen", two_at_once),
        Test::new("reset/failure-is-said-and-rebinding-helps", failure)
            .may_warn(&["controller does not become ready", "cannot be reset"])
            .spoils(),
    ]
}

fn request(kind: u32) -> abi::Reset {
    let mut request = abi::Reset::new_zeroed();
    request.hdr.size = size_of::<abi::Reset>() as u32;
    request.kind = kind;
    request
}

fn works(env: &Env) -> Result<()> {
    let device = env.open()?;
    for kind in [abi::RESET_SUBSYSTEM, abi::RESET_CONTROLLER] {
        for _ in 0..5 {
            let mut reset = request(kind);
            reset.status = 0xdead;
            check_eq!(
                sys::submit(&device, abi::IOC_RESET, &mut reset),
                Ok(0),
                "type {kind}, status {}",
                reset.status
            );
            check_eq!(reset.status, abi::RESET_OK, "status of type {kind}");
            hsm::api_revisions(&device).context("command after a reset")?;
        }
    }
    Ok(())
}

fn entropy(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut last = device.info()?.entropy;
    for kind in KINDS {
        device.reset(kind)?;
        let now = device.info()?.entropy;
        ensure!(now != last, "{kind:?} drew no entropy");
        last = now;
    }
    Ok(())
}

fn bad_types(env: &Env) -> Result<()> {
    let device = env.open()?;
    let before = device.info()?.entropy;
    for kind in [0, 3, u32::MAX] {
        let mut reset = request(kind);
        check_eq!(
            sys::submit(&device, abi::IOC_RESET, &mut reset),
            Err(Errno::INVAL),
            "type {kind}"
        );
        check_eq!(reset.status, abi::RESET_BAD_TYPE, "status of type {kind}");
    }
    check_eq!(device.info()?.entropy, before, "entropy");
    Ok(())
}

fn small_size(env: &Env) -> Result<()> {
    let device = env.open()?;
    for size in [0, 16, 271] {
        let mut reset = request(abi::RESET_SUBSYSTEM);
        reset.hdr.size = size;
        reset.status = 0x5a5a_5a5a;
        let before = reset.as_bytes().to_vec();
        check_eq!(
            sys::submit(&device, abi::IOC_RESET, &mut reset),
            Err(Errno::INVAL),
            "size {size}"
        );
        check_eq!(reset.as_bytes(), &before[..], "structure");
    }
    Ok(())
}

fn bad_addresses(env: &Env) -> Result<()> {
    let device = env.open()?;
    let before = device.info()?.entropy;
    let memory = Memory::new(1)?;
    let size = size_of::<abi::Reset>();
    let mut header = request(abi::RESET_SUBSYSTEM);
    header.status = 0;
    // The header is within the last page, the rest is not.
    memory.write(memory.size() - 16, &header.as_bytes()[..16]);
    for address in [0, sys::KERNEL, memory.address(memory.size() - 16)] {
        check_eq!(
            sys::submit_at(&device, abi::IOC_RESET, address),
            Err(Errno::FAULT),
            "address {address:#x}"
        );
    }
    check_eq!(device.info()?.entropy, before, "entropy");

    // A reset that happened, but whose status cannot be written.
    memory.write(0, header.as_bytes());
    memory.protect(0, 1, Access::Read)?;
    ensure!(size < memory.size());
    check_eq!(
        sys::submit_at(&device, abi::IOC_RESET, memory.address(0)),
        Err(Errno::FAULT),
        "read-only structure"
    );
    Ok(())
}

/// The status of an operation in session `id`.
fn in_session(device: &Device, operation: Operation, id: u16) -> Result<Status> {
    let request = hsm::plain(operation, Some(id));
    Ok(hsm::exchange(device, Flow::InSession(id), &request)?
        .header
        .status)
}

fn keeps_sessions(env: &Env) -> Result<()> {
    let device = env.open()?;
    let other = env.open()?;
    let session = hsm::open_session(&device)?;
    for kind in KINDS {
        other.reset(kind)?;
        check_eq!(
            in_session(&device, hsm::IN_SESSION, session.id)?,
            Status::SESSION_NEEDS_RENEGOTIATION,
            "status after {kind:?}"
        );
        check_eq!(
            in_session(&device, Operation::REOPEN_SESSION, session.id)?,
            Status::SUCCESS,
            "reopening after {kind:?}"
        );
        hsm::use_session(&device, session.id)?;
    }
    hsm::close_session(&device, session.id)?;
    check_eq!(env.control()?.sessions()?, Vec::<u64>::new(), "sessions");
    Ok(())
}

fn close_afterwards(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    device.reset(ResetKind::Subsystem)?;
    hsm::close_session(&device, session.id)?;
    check_eq!(env.control()?.sessions()?, Vec::<u64>::new(), "sessions");
    hsm::open_session(&device).context("the place is not empty")?;
    Ok(())
}

fn flush_afterwards(env: &Env) -> Result<()> {
    for kind in KINDS {
        let device = env.open()?;
        hsm::open_session(&device)?;
        device.reset(kind)?;
        check_eq!(
            env.control()?.sessions()?.len(),
            1,
            "sessions after {kind:?}"
        );
        drop(device);
        check_eq!(
            env.control()?.sessions()?,
            Vec::<u64>::new(),
            "sessions after close"
        );
    }
    Ok(())
}

/// Waits until the device has a command of class `class` that is held up.
fn wait_for_hit(env: &Env) -> Result<()> {
    for _ in 0..500 {
        let answer = env.control()?.ask(&json!({"cmd": "faults"}))?;
        let hit = answer["faults"]
            .as_array()
            .is_some_and(|faults| faults.iter().any(|fault| fault["hits"].as_u64() > Some(0)));
        if hit {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    bail!("no command has come")
}

fn ends_commands(env: &Env) -> Result<()> {
    let device = env.open()?;
    let other = env.open()?;
    for kind in KINDS {
        env.control()?
            .inject(json!({"fault": "drop_completion", "class": "hsm", "count": 1}))?;
        thread::scope(|scope| -> Result<()> {
            let waiter = scope.spawn(|| {
                let mut response = [0; 4096];
                device.hsm_command(Flow::None, &hsm::get_api_rev(), &mut response)
            });
            wait_for_hit(env)?;
            other.reset(kind)?;
            let Err(error) = waiter.join().expect("no panic") else {
                bail!("a command survived {kind:?}");
            };
            check_eq!(error.errno, Errno::AGAIN, "errno");
            check_eq!(error.ext, ext::ABORTED, "extended status");
            Ok(())
        })?;
        env.control()?.clear_faults()?;
        hsm::api_revisions(&device).context("command after a reset")?;
    }
    Ok(())
}

fn ended_open(env: &Env) -> Result<()> {
    let device = env.open()?;
    let other = env.open()?;
    // The session is opened, but nobody learns of it.
    env.control()?
        .inject(json!({"fault": "drop_completion", "class": "hsm", "count": 1}))?;
    thread::scope(|scope| -> Result<()> {
        let waiter = scope.spawn(|| hsm::open_session(&device).is_err());
        wait_for_hit(env)?;
        other.reset(ResetKind::Controller)?;
        ensure!(waiter.join().expect("no panic"), "the open survived");
        Ok(())
    })?;
    env.control()?.clear_faults()?;
    check_eq!(env.control()?.sessions()?, Vec::<u64>::new(), "sessions");
    hsm::open_session(&device).context("the place is not empty")?;
    Ok(())
}

fn under_load(env: &Env) -> Result<()> {
    const THREADS: usize = 8;
    const RESETS: usize = 50;
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    let device = env.open()?;
    thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let device = env.open()?;
                    let mut response = [0; 4096];
                    while !stop.load(Ordering::Relaxed) {
                        match device.hsm_command(Flow::None, &hsm::get_api_rev(), &mut response) {
                            Ok(reply) => {
                                check_eq!(reply.status, 0, "device status");
                                done.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                check_eq!(error.errno, Errno::AGAIN, "errno");
                                ensure!(
                                    [ext::ABORTED, ext::RECOVERING].contains(&error.ext),
                                    "extended status {:#x}",
                                    error.ext
                                );
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let resets = (|| -> Result<()> {
            for round in 0..RESETS {
                device.reset(KINDS[round % KINDS.len()])?;
                hsm::api_revisions(&device).context("command after a reset")?;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().expect("no panic")?;
        }
        resets
    })?;
    ensure!(done.load(Ordering::Relaxed) > 0, "no command was done");
    Ok(())
}

fn two_at_once(env: &Env) -> Result<()> {
    let devices = [env.open()?, env.open()?];
    let resets = |env: &Env| -> Result<u64> {
        let counters = env.control()?.counters()?;
        counters["subsystem_resets"].as_u64().context("no counter")
    };
    let before = resets(env)?;
    thread::scope(|scope| -> Result<()> {
        let both: Vec<_> = devices
            .iter()
            .map(|device| scope.spawn(|| device.reset(ResetKind::Subsystem)))
            .collect();
        for reset in both {
            reset.join().expect("no panic")?;
        }
        Ok(())
    })?;
    check_eq!(resets(env)? - before, 2, "resets");
    Ok(())
}

fn failure(env: &Env) -> Result<()> {
    let device = env.open()?;
    env.control()?.set("cap_to", &json!(1))?;
    env.control()?.inject(json!({"fault": "stuck_enable"}))?;
    let mut reset = request(abi::RESET_CONTROLLER);
    check_eq!(
        sys::submit(&device, abi::IOC_RESET, &mut reset),
        Err(Errno::IO),
        "reset that does not come back"
    );
    check_eq!(reset.status, abi::RESET_FAILED, "status");

    let mut response = [0; 4096];
    let Err(error) = device.hsm_command(Flow::None, &hsm::get_api_rev(), &mut response) else {
        bail!("a dead device took a command");
    };
    check_eq!(error.errno, Errno::AGAIN, "errno");
    check_eq!(error.ext, ext::HSM_NOT_READY, "extended status");
    device.info().context("device info of a dead device")?;
    check_eq!(
        sys::submit(&device, abi::IOC_RESET, &mut reset),
        Err(Errno::INVAL),
        "reset of a dead device"
    );
    check_eq!(reset.status, abi::RESET_BAD_STATE, "status");

    let address = env.address()?;
    drop(device);
    pci::unbind(&address)?;
    env.control()?.clear_faults()?;
    env.control()?.set("cap_to", &json!(20))?;
    pci::bind(&address)?;
    hsm::api_revisions(&env.open()?).context("command after rebinding")?;
    Ok(())
}
