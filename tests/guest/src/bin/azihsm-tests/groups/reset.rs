// SPDX-License-Identifier: GPL-2.0
//! Reset (`Documentation/abi.rst`, 3.4), and what it leaves as it was.

use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use crate::scene::AesScene;
use crate::scene::HsmScene;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::module;
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
use std::time::Instant;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;

/// How long a command may take before the driver gives it up.
const TIMEOUT: Duration = Duration::from_secs(6);

const KINDS: [ResetKind; 2] = [ResetKind::Subsystem, ResetKind::Controller];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("reset/works-and-the-next-command-is-taken", works),
        Test::new("reset/waits-until-the-device-has-stopped", waits_for_stop).takes(2),
        Test::new("reset/draws-new-entropy", entropy),
        Test::new("reset/other-types-4", bad_types),
        Test::new("reset/small-size-writes-nothing", small_size),
        Test::new("reset/bad-addresses", bad_addresses),
        Test::new("reset/keeps-sessions-for-renegotiation", keeps_sessions),
        Test::new("reset/session-can-be-closed-afterwards", close_afterwards),
        Test::new("reset/flushes-at-close-afterwards", flush_afterwards),
        Test::new("reset/ends-commands-under-way", ends_commands),
        Test::new("reset/ends-aes-commands-under-way", ends_aes_commands),
        Test::new("reset/refuses-commands-that-wait-for-room", |env: &Env| {
            refuses_waiting(env, Class::Hsm)
        })
        .takes(2),
        Test::new(
            "reset/refuses-aes-commands-that-wait-for-room",
            |env: &Env| refuses_waiting(env, Class::Aes),
        )
        .takes(2),
        Test::new("reset/everything-meanwhile", meanwhile).takes(3),
        Test::new("reset/type-says-how", kinds),
        Test::new("reset/ended-open-leaves-no-session", ended_open),
        Test::new("reset/ended-close-empties-the-place", ended_close),
        Test::new("reset/fifty-under-load", under_load),
        Test::new("reset/two-at-once-both-succeed", two_at_once),
        Test::new("reset/failure-is-said-and-rebinding-helps", failure)
            .may_warn(&["controller does not become ready", "cannot be reset"])
            .spoils(),
        Test::new("reset/that-waits-for-one-that-fails", waits_for_failure)
            .may_warn(&["controller does not become ready", "cannot be reset"])
            .spoils(),
        Test::new("reset/gives-up-waiting-for-another", gives_up)
            .takes(150)
            .seconds(240)
            .spoils()
            .long(),
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

fn waits_for_stop(env: &Env) -> Result<()> {
    let device = env.open()?;
    for kind in KINDS {
        env.control()?
            .inject(json!({ "fault": "slow_disable", "ms": 400, "count": 1 }))?;
        let begin = Instant::now();
        device.reset(kind)?;
        let took = begin.elapsed();
        ensure!(
            took >= Duration::from_millis(400),
            "{kind:?} took {took:?} only"
        );
        hsm::api_revisions(&device).with_context(|| format!("after {kind:?}"))?;
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
            let start = Instant::now();
            other.reset(kind)?;
            let Err(error) = waiter.join().expect("no panic") else {
                bail!("a command survived {kind:?}");
            };
            check_eq!(error.errno, Errno::AGAIN, "errno");
            check_eq!(error.ext, ext::ABORTED, "extended status");
            let time = start.elapsed();
            ensure!(time < TIMEOUT / 2, "it ended after {time:?}");
            Ok(())
        })?;
        env.control()?.clear_faults()?;
        hsm::api_revisions(&device).context("command after a reset")?;
    }
    Ok(())
}

/// Those whose data was copied, and those whose data is accessed in place.
fn ends_aes_commands(env: &Env) -> Result<()> {
    let device = env.open()?;
    let other = env.open()?;
    let session = hsm::open_session(&device)?;
    for (kind, len) in KINDS.into_iter().zip([64, 1 << 18]) {
        let key = env.control()?.load_key(KeyKind::Gcm, &[7; 32], session)?;
        env.control()?
            .inject(json!({"fault": "drop_completion", "class": "aes", "count": 1}))?;
        thread::scope(|scope| -> Result<()> {
            let waiter = scope.spawn(|| {
                let mut scene = AesScene::gcm(session, key, &vec![1; len])?;
                scene.send_badly(&device, Errno::AGAIN, ext::ABORTED)
            });
            wait_for_hit(env)?;
            let start = Instant::now();
            other.reset(kind)?;
            waiter.join().expect("no panic")?;
            let time = start.elapsed();
            ensure!(time < TIMEOUT / 2, "it ended after {time:?}");
            Ok(())
        })?;
        env.control()?.clear_faults()?;
        let request = hsm::plain(Operation::REOPEN_SESSION, Some(session.id));
        hsm::exchange(&device, Flow::InSession(session.id), &request)?;
        let key = env.control()?.load_key(KeyKind::Gcm, &[7; 32], session)?;
        AesScene::gcm(session, key, &vec![1; len])?.send_well(&device)?;
    }
    Ok(())
}

/// Which commands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Class {
    Hsm,
    Aes,
}

/// More commands than there is room for: those that the device has are aborted,
/// the others have not been sent.
fn refuses_waiting(env: &Env, class: Class) -> Result<()> {
    const MORE: usize = 4;
    // Filling all queues may take a busy machine longer than commands have by default.
    const PATIENCE: Duration = Duration::from_secs(60);
    let name = match class {
        Class::Hsm => "hsm",
        Class::Aes => "aes",
    };
    module::unload().context("delete_module")?;
    module::load_with(&env.module, c"abort_timeout_in_sec=60")?;
    let mut control = env.control()?;
    let device = env.open()?;
    let queues = control.submission_queues(name)?;
    let room: usize = queues.iter().map(|(_, _, entries, _)| entries - 1).sum();
    let session = hsm::open_session(&device)?;
    let key = control.load_key(KeyKind::Gcm, &[7; 32], session)?;
    control.inject(json!({"fault": "drop_command", "class": name}))?;
    let before = control.counters()?["commands"][name].as_u64();
    let before = before.context("no counters")?;
    let codes = thread::scope(|scope| -> Result<Vec<u32>> {
        let (device, other) = (&device, env.open()?);
        let waiters: Vec<_> = (0..room + MORE)
            .map(|_| {
                scope.spawn(move || -> Result<(Option<Errno>, u32)> {
                    if class == Class::Hsm {
                        let mut scene = HsmScene::get_api_rev()?;
                        return Ok((scene.send(device).err(), scene.cmd.output.ext));
                    }
                    let mut scene = AesScene::gcm(session, key, &[1; 64])?;
                    Ok((scene.send(device).err(), scene.cmd.output.ext))
                })
            })
            .collect();
        let start = Instant::now();
        while control.counters()?["commands"][name].as_u64() < Some(before + room as u64) {
            ensure!(start.elapsed() < PATIENCE / 2, "the queues do not fill up");
            thread::sleep(Duration::from_millis(10));
        }
        // Until the others wait.
        thread::sleep(Duration::from_millis(300));
        control.clear_faults()?;
        // Slowly, so that none of them is sent afterwards.
        control.inject(json!({"fault": "slow_enable", "ms": 1500, "count": 1}))?;
        other.reset(ResetKind::Controller)?;
        waiters
            .into_iter()
            .map(|waiter| {
                let (errno, code) = waiter.join().expect("no panic")?;
                check_eq!(errno, Some(Errno::AGAIN), "errno");
                Ok(code)
            })
            .collect()
    })?;
    let count = |wanted| codes.iter().filter(|&&code| code == wanted).count();
    check_eq!(count(ext::ABORTED), room, "aborted commands");
    check_eq!(count(ext::RECOVERING), MORE, "commands that were not sent");
    drop(device);
    env.reload()
}

/// What the ioctls answer while the device is being reset.
fn meanwhile(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let other = env.open()?;
    let before = device.info()?.entropy;
    env.control()?
        .inject(json!({"fault": "slow_enable", "ms": 2500, "count": 1}))?;
    thread::scope(|scope| -> Result<()> {
        let reset = scope.spawn(|| other.reset(ResetKind::Controller));
        thread::sleep(Duration::from_millis(800));
        // Whether the command is right or wrong in itself.
        for opcode in [abi::HSM_OP_MBOR, 1] {
            let mut scene = HsmScene::get_api_rev()?;
            scene.cmd.input.opcode = opcode;
            scene.send_badly(&device, Errno::AGAIN, ext::RECOVERING)?;
        }
        for op in [abi::AES_ENCRYPT, 2] {
            let mut scene = AesScene::gcm(session, 0, &[1; 64])?;
            scene.cmd.input.op = op;
            scene.send_badly(&device, Errno::AGAIN, ext::RECOVERING)?;
        }
        check_eq!(device.info()?.entropy, before, "entropy meanwhile");
        check_eq!(env.open()?.info()?.entropy, before, "entropy meanwhile");
        ensure!(!reset.is_finished(), "the reset was not slow");
        reset.join().expect("no panic")?;
        Ok(())
    })?;
    ensure!(device.info()?.entropy != before, "the same entropy");
    hsm::api_revisions(&device)?;
    Ok(())
}

/// One through the subsystem's register, one by disabling the controller.
fn kinds(env: &Env) -> Result<()> {
    let device = env.open()?;
    let counts = || -> Result<(u64, u64)> {
        let counters = env.control()?.counters()?;
        let count = |name: &str| counters[name].as_u64().context("no counter");
        Ok((count("subsystem_resets")?, count("disables")?))
    };
    let (resets, disables) = counts()?;
    device.reset(ResetKind::Subsystem)?;
    check_eq!(counts()?, (resets + 1, disables), "after a type 1");
    device.reset(ResetKind::Controller)?;
    check_eq!(counts()?, (resets + 1, disables + 1), "after a type 2");
    Ok(())
}

fn ended_open(env: &Env) -> Result<()> {
    let device = env.open()?;
    let other = env.open()?;
    // Somebody had the session before, but has it no more.
    let last = hsm::open_session(&device)?;
    hsm::close_session(&device, last.id)?;
    let last = env.open()?;
    hsm::open_session(&last)?;
    drop(last);
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

/// The session may be closed, and its number somebody else's.
fn ended_close(env: &Env) -> Result<()> {
    let device = env.open()?;
    let other = env.open()?;
    let session = hsm::open_session(&device)?;
    // Whether the device closed it or not.
    for fault in ["drop_completion", "drop_command"] {
        env.control()?
            .inject(json!({"fault": fault, "class": "hsm", "count": 1}))?;
        thread::scope(|scope| -> Result<()> {
            let waiter = scope.spawn(|| {
                let request = hsm::plain(Operation::CLOSE_SESSION, Some(session.id));
                let mut scene = HsmScene::new(Flow::Close(session.id), &request)?;
                scene.send_badly(&device, Errno::AGAIN, ext::ABORTED)
            });
            wait_for_hit(env)?;
            other.reset(ResetKind::Controller)?;
            waiter.join().expect("no panic")
        })?;
        env.control()?.clear_faults()?;
        check_eq!(env.control()?.sessions()?, Vec::<u64>::new(), "sessions");
        let mut scene = HsmScene::new(Flow::InSession(session.id), &hsm::get_api_rev())?;
        scene.send_badly(&device, Errno::INVAL, ext::HSM_NO_SESSION)?;
        let again = hsm::open_session(&device).context("the place is not empty")?;
        check_eq!(again.id, session.id, "number of the session");
    }
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
    // So that the second one finds the first.
    env.control()?
        .inject(json!({"fault": "slow_enable", "ms": 700, "count": 2}))?;
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
    // Two that are asked for before the first begins may be one.
    let count = resets(env)? - before;
    ensure!((1..=2).contains(&count), "{count} resets");
    Ok(())
}

/// Has every attempt to start the device fail, after a second.
fn break_device(env: &Env) -> Result<()> {
    env.control()?.set("cap_to", &json!(1))?;
    env.control()?.inject(json!({"fault": "stuck_enable"}))
}

/// Repairs it, and binds the driver anew.
fn repair_device(env: &Env) -> Result<()> {
    let address = env.address()?;
    pci::unbind(&address)?;
    env.control()?.clear_faults()?;
    env.control()?.set("cap_to", &json!(20))?;
    pci::bind(&address)?;
    hsm::api_revisions(&env.open()?).context("command after rebinding")?;
    Ok(())
}

fn failure(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let before = device.info()?.entropy;
    break_device(env)?;
    let mut reset = request(abi::RESET_CONTROLLER);
    check_eq!(
        sys::submit(&device, abi::IOC_RESET, &mut reset),
        Err(Errno::IO),
        "reset that does not come back"
    );
    check_eq!(reset.status, abi::RESET_FAILED, "status");

    // Whether the command is right or wrong in itself.
    for opcode in [abi::HSM_OP_MBOR, 1] {
        let mut scene = HsmScene::get_api_rev()?;
        scene.cmd.input.opcode = opcode;
        scene.send_badly(&device, Errno::AGAIN, ext::HSM_NOT_READY)?;
    }
    for op in [abi::AES_ENCRYPT, 2] {
        let mut scene = AesScene::gcm(session, 0, &[1; 64])?;
        scene.cmd.input.op = op;
        scene.send_badly(&device, Errno::AGAIN, ext::AES_DEVICE)?;
    }
    check_eq!(device.info()?.entropy, before, "entropy of a dead device");
    check_eq!(env.open()?.info()?.entropy, before, "the same");
    for kind in [abi::RESET_SUBSYSTEM, abi::RESET_CONTROLLER, 7] {
        let mut reset = request(kind);
        check_eq!(
            sys::submit(&device, abi::IOC_RESET, &mut reset),
            Err(Errno::INVAL),
            "reset of a dead device, type {kind}"
        );
        check_eq!(reset.status, abi::RESET_BAD_STATE, "status");
    }
    repair_device(env)
}

/// The second of two resets comes to do its own when the device is dead.
fn waits_for_failure(env: &Env) -> Result<()> {
    let devices = [env.open()?, env.open()?];
    break_device(env)?;
    let results = thread::scope(|scope| {
        let both = devices.each_ref().map(|device| {
            let reset = scope.spawn(move || {
                let mut reset = request(abi::RESET_CONTROLLER);
                let result = sys::submit(device, abi::IOC_RESET, &mut reset);
                (result, reset.status)
            });
            thread::sleep(Duration::from_millis(200));
            reset
        });
        both.map(|reset| reset.join().expect("no panic"))
    });
    let expected = [
        (Err(Errno::IO), abi::RESET_FAILED),
        (Err(Errno::INVAL), abi::RESET_BAD_STATE),
    ];
    check_eq!(results, expected, "results and statuses");
    drop(devices);
    repair_device(env)
}

/// Resets that take longer than another is ready to wait for its turn.
fn gives_up(env: &Env) -> Result<()> {
    // Of stopping, and of starting; the driver waits for 30 s at most.
    const SLOW_MS: u64 = 28_000;
    let devices = [env.open()?, env.open()?, env.open()?];
    let mut control = env.control()?;
    control.set("cap_to", &json!(60))?;
    for fault in ["slow_disable", "slow_enable"] {
        control.inject(json!({ "fault": fault, "ms": SLOW_MS, "count": 3 }))?;
    }
    thread::scope(|scope| -> Result<()> {
        // The second waits for the first, and the last, of which there was one
        // before it was asked for, for both.
        let resets = [
            scope.spawn(|| devices[0].reset(ResetKind::Controller)),
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(500));
                devices[1].reset(ResetKind::Subsystem)
            }),
        ];
        thread::sleep(Duration::from_secs(1));
        let mut reset = request(abi::RESET_CONTROLLER);
        let result = sys::submit(&devices[2], abi::IOC_RESET, &mut reset);
        check_eq!(result, Err(Errno::INVAL), "reset during another");
        check_eq!(reset.status, abi::RESET_BUSY, "status");
        for reset in resets {
            reset.join().expect("no panic")?;
        }
        Ok(())
    })
}
