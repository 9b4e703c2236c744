// SPDX-License-Identifier: GPL-2.0
//! Devices that misbehave.

use crate::check_eq;
use crate::health;
use crate::health::Held;
use crate::runner::Env;
use crate::runner::Test;
use crate::scene::HsmScene;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::kmsg::KernelLog;
use azihsm_guest::module;
use azihsm_guest::pci;
use azihsm_uapi::abi::ext;
use azihsm_uapi::hsm_nodes;
use azihsm_uapi::Device;
use azihsm_uapi::Errno;
use azihsm_uapi::Error;
use azihsm_uapi::Flow;
use azihsm_uapi::ResetKind;
use nix::sched::sched_setaffinity;
use nix::sched::CpuSet;
use nix::unistd::Pid;
use serde_json::json;
use serde_json::Value;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long a command may take before the driver gives it up.
const TIMEOUT: Duration = Duration::from_secs(6);

/// How long the driver may need until another attempt at a device that did not start.
const BACK: Duration = Duration::from_secs(30);

/// What the driver may say about a device that does not answer, or oddly.
const ODD: &[&str] = &["azihsm"];

/// One way for the device not to be started.
struct Broken {
    name: &'static str,
    faults: fn() -> Vec<Value>,
    /// What the driver says of it.
    says: &'static str,
    /// How long the failure may take.
    patience: u64,
}

/// The device refuses the command after `skip` others of its kind.
fn refused(opcode: u8, status: u16, skip: u64) -> Vec<Value> {
    vec![json!({
        "fault": "status", "class": "admin", "opcode": opcode, "status": status, "skip": skip,
    })]
}

/// The identify page has other bytes.
fn identified(offset: usize, data: &str) -> Vec<Value> {
    vec![json!({ "fault": "identify", "offset": offset, "data": data })]
}

const CREATE_SQ: u8 = 1;
const CREATE_CQ: u8 = 5;
const IDENTIFY: u8 = 6;
const GET_FEATURES: u8 = 10;

/// In the order in which the driver starts a device.
const BROKEN: &[Broken] = &[
    Broken {
        name: "never-ready",
        faults: || vec![json!({ "fault": "stuck_enable" })],
        says: "controller does not become ready",
        patience: 5,
    },
    Broken {
        name: "enable-fails",
        faults: || vec![json!({ "fault": "fail_enable" })],
        says: "controller does not become ready",
        patience: 5,
    },
    Broken {
        name: "no-admin-queue",
        faults: || vec![json!({ "fault": "dead_admin_queue" })],
        says: "cannot identify the device: no completion in time",
        patience: 45,
    },
    Broken {
        name: "identify-refused",
        faults: || refused(IDENTIFY, 2, 0),
        says: "cannot identify the device: status 0x0002",
        patience: 10,
    },
    Broken {
        name: "hsm-sq-entry-size",
        faults: || identified(77, "77"),
        says: "cannot identify the device: HSM SQE size is not 64 bytes",
        patience: 10,
    },
    Broken {
        name: "hsm-cq-entry-size",
        faults: || identified(78, "45"),
        says: "cannot identify the device: HSM CQE size is not 16 bytes",
        patience: 10,
    },
    Broken {
        name: "aes-sq-entry-size",
        faults: || identified(83, "76"),
        says: "cannot identify the device: AES SQE size is not 128 bytes",
        patience: 10,
    },
    Broken {
        name: "aes-cq-entry-size",
        faults: || identified(84, "60"),
        says: "cannot identify the device: AES CQE size is not 64 bytes",
        patience: 10,
    },
    Broken {
        name: "no-such-controller",
        faults: || identified(74, "4100"),
        says: "cannot identify the device: controller identifier is above 64",
        patience: 10,
    },
    Broken {
        name: "hsm-queue-count-refused",
        faults: || refused(GET_FEATURES, 2, 0),
        says: "cannot count the HSM queues: status 0x0002",
        patience: 10,
    },
    Broken {
        name: "no-hsm-queues",
        // One less than two, in 16 bits, becomes one less than none.
        faults: || {
            let flip = |offset, xor: u8| {
                json!({
                    "fault": "corrupt_cqe", "class": "admin", "opcode": GET_FEATURES,
                    "offset": offset, "xor": xor,
                })
            };
            vec![flip(0, 0xfe), flip(1, 0xff)]
        },
        says: "cannot count the HSM queues: there are none",
        patience: 10,
    },
    Broken {
        name: "aes-queue-count-refused",
        faults: || refused(GET_FEATURES, 2, 1),
        says: "cannot count the AES queues: status 0x0002",
        patience: 10,
    },
    Broken {
        name: "features-refused",
        faults: || refused(GET_FEATURES, 2, 2),
        says: "cannot read the features: status 0x0002",
        patience: 10,
    },
    Broken {
        name: "first-cq-refused",
        faults: || refused(CREATE_CQ, 0x108, 0),
        says: "cannot create queue 1: status 0x0108",
        patience: 10,
    },
    Broken {
        name: "last-cq-refused",
        faults: || refused(CREATE_CQ, 0x108, 5),
        says: "cannot create queue 259: status 0x0108",
        patience: 10,
    },
    Broken {
        name: "first-sq-refused",
        faults: || refused(CREATE_SQ, 0x102, 0),
        says: "cannot create queue 1: status 0x0102",
        patience: 10,
    },
    Broken {
        name: "last-sq-refused",
        faults: || refused(CREATE_SQ, 0x102, 5),
        says: "cannot create queue 259: status 0x0102",
        patience: 10,
    },
];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        Test::new("fault/dropped-completion-is-aborted", |env: &Env| {
            dropped(env, "drop_completion")
        })
        .takes(6),
        Test::new("fault/dropped-command-is-aborted", |env: &Env| {
            dropped(env, "drop_command")
        })
        .takes(6),
        Test::new("fault/others-go-on-meanwhile", others_go_on).takes(7),
        Test::new("fault/late-completion-is-the-result", late).takes(10),
        Test::new("fault/late-completion-goes-to-nobody-else", late_and_others).takes(12),
        Test::new("fault/slow-completion-arrives", slow).takes(6),
        Test::new("fault/reordered-completions", reordered).takes(2),
        Test::new("fault/unknown-command-identifier", wrong_cid).takes(6),
        Test::new("fault/identifier-of-no-command", other_cid).takes(6),
        Test::new("fault/identifier-of-an-earlier-command", earlier_cid).takes(6),
        Test::new("fault/tag-of-no-slot", no_slot).takes(6),
        Test::new("fault/lost-interrupt-costs-little", lost_interrupt),
        Test::new("fault/timeout-parameter-has-a-minimum", timeout_parameter).takes(5),
        Test::new("fault/duplicate-completion", duplicate),
        Test::new("fault/stale-phase", wrong_phase).takes(6),
        Test::new("fault/wrong-sq-head", wrong_sqhd),
        Test::new("fault/spurious-interrupts", spurious).takes(2),
        Test::new("fault/slow-enable", slow_enable).takes(4),
        Test::new("fault/session-of-a-lost-open-is-flushed", lost_open).takes(9),
        Test::new("fault/probe-all-ones", probe_gone).takes(1),
        Test::new("fault/reset-fewer-hsm-queues", |env: &Env| {
            fewer_queues(env, "groups", json!(1), json!(2))
        })
        .takes(3),
        Test::new("fault/reset-fewer-aes-queues", |env: &Env| {
            fewer_queues(env, "aes_queues", json!(1), Value::Null)
        })
        .takes(3),
        Test::new("fault/reset-no-aes-queues", |env: &Env| {
            fewer_queues(env, "aes_queues", json!(0), Value::Null)
        })
        .takes(3),
    ];
    for broken in BROKEN {
        let bodies: [fn(&Env, &Broken) -> Result<()>; 2] = [probe, reset];
        for (when, body) in ["probe", "reset"].into_iter().zip(bodies) {
            let name = format!("fault/{when}-{}", broken.name);
            let test = Test::new(name, move |env: &Env| body(env, broken)).takes(2);
            tests.push(if broken.patience > 30 {
                test.long()
            } else {
                test
            });
        }
    }
    tests
        .into_iter()
        .map(|test| test.seconds(120).may_warn(ODD).spoils())
        .collect()
}

/// One command, with what it returned and how long it took.
fn command(device: &Device) -> (Result<(), Error>, Duration) {
    let mut response = [0; 1024];
    let start = Instant::now();
    let result = device.hsm_command(Flow::None, &hsm::get_api_rev(), &mut response);
    (result.map(drop), start.elapsed())
}

/// Makes sure that commands work, on all queues.
fn check_well(env: &Env) -> Result<()> {
    let device = env.open()?;
    for _ in 0..20 {
        let (result, time) = command(&device);
        check_eq!(result, Ok(()), "command");
        ensure!(time < TIMEOUT / 2, "a command took {time:?}");
    }
    Ok(())
}

fn check_aborted(result: Result<(), Error>, time: Duration) -> Result<()> {
    let aborted = Error {
        errno: Errno::AGAIN,
        ext: ext::ABORTED,
    };
    check_eq!(result, Err(aborted), "command without a completion");
    ensure!(
        time >= TIMEOUT - Duration::from_millis(100),
        "given up after {time:?}"
    );
    ensure!(time < TIMEOUT * 3, "given up only after {time:?}");
    Ok(())
}

/// Whether a command failed as a recovery ended it.
fn is_aborted(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Error>()
        .is_some_and(|error| (error.errno, error.ext) == (Errno::AGAIN, ext::ABORTED))
}

fn inject(env: &Env, fault: Value) -> Result<()> {
    env.control()?.inject(fault)
}

fn dropped(env: &Env, fault: &str) -> Result<()> {
    let device = env.open()?;
    inject(env, json!({ "fault": fault, "class": "hsm", "count": 1 }))?;
    let (result, time) = command(&device);
    check_aborted(result, time)?;
    check_well(env)
}

fn others_go_on(env: &Env) -> Result<()> {
    let device = env.open()?;
    inject(
        env,
        json!({ "fault": "drop_completion", "class": "hsm", "count": 1 }),
    )?;
    thread::scope(|scope| -> Result<()> {
        let victim = scope.spawn(|| command(&device));
        thread::sleep(Duration::from_millis(500));
        for _ in 0..100 {
            let (result, time) = command(&device);
            check_eq!(result, Ok(()), "command of another thread");
            ensure!(time < TIMEOUT / 2, "it took {time:?}");
        }
        let (result, time) = victim.join().expect("does not panic");
        check_aborted(result, time)
    })
}

/// The completion arrives when the command is overdue, and is its result.
fn late(env: &Env) -> Result<()> {
    let device = env.open()?;
    inject(
        env,
        json!({ "fault": "delay", "class": "hsm", "count": 1, "ms": 9000 }),
    )?;
    let (result, time) = command(&device);
    check_eq!(result, Ok(()), "command that takes 9 s");
    ensure!(time >= Duration::from_secs(9), "it took {time:?}");
    check_well(env)
}

/// Commands of another kind take up all slots while the late completion is on
/// its way.
fn late_and_others(env: &Env) -> Result<()> {
    let device = env.open()?;
    inject(
        env,
        json!({ "fault": "delay", "class": "hsm", "count": 1, "ms": 9000 }),
    )?;
    let start = Instant::now();
    thread::scope(|scope| {
        let late = scope.spawn(|| -> Result<()> {
            let (result, time) = command(&device);
            check_eq!(result, Ok(()), "command that takes 9 s");
            ensure!(time >= Duration::from_secs(9), "it took {time:?}");
            Ok(())
        });
        thread::sleep(Duration::from_millis(200));
        let threads: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let device = env.open()?;
                    while start.elapsed() < Duration::from_secs(12) {
                        match hsm::kind(&device) {
                            // It was behind the late one.
                            Err(error) if is_aborted(&error) => {}
                            result => drop(result?),
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let join = |handle: thread::ScopedJoinHandle<_>| handle.join().expect("does not panic");
        threads.into_iter().chain([late]).try_for_each(join)
    })
}

fn slow(env: &Env) -> Result<()> {
    let device = env.open()?;
    for ms in [100, 1000, 4500] {
        inject(
            env,
            json!({ "fault": "delay", "class": "hsm", "count": 1, "ms": ms }),
        )?;
        let (result, time) = command(&device);
        check_eq!(result, Ok(()), "command that takes {ms} ms");
        ensure!(time >= Duration::from_millis(ms), "it took {time:?}");
    }
    Ok(())
}

fn reordered(env: &Env) -> Result<()> {
    let device = env.open()?;
    inject(
        env,
        json!({ "fault": "reorder", "class": "hsm", "after": 2, "ms": 200 }),
    )?;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let device = &device;
                scope.spawn(move || -> Result<()> {
                    for _ in 0..5 {
                        // Two kinds, so that a mix-up shows.
                        if number % 2 == 0 {
                            hsm::kind(device)?;
                        } else {
                            hsm::api_revisions(device)?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let join = |handle: thread::ScopedJoinHandle<_>| handle.join().expect("does not panic");
        threads.into_iter().try_for_each(join)
    })
}

fn wrong_cid(env: &Env) -> Result<()> {
    let device = env.open()?;
    inject(
        env,
        json!({ "fault": "wrong_cid", "class": "hsm", "count": 1 }),
    )?;
    let (result, time) = command(&device);
    check_aborted(result, time)?;
    check_well(env)
}

/// A completion that carries the identifier of a command that does not exist,
/// although there could be one.
fn other_cid(env: &Env) -> Result<()> {
    let device = env.open()?;
    inject(
        env,
        json!({ "fault": "wrong_cid", "class": "hsm", "count": 1, "cid": 14 }),
    )?;
    let (result, time) = command(&device);
    check_aborted(result, time)?;
    check_well(env)
}

/// A completion that carries a variation of the identifier of the command before,
/// which was in the same slot.
fn varied_cid(env: &Env, vary: fn(u16) -> u16) -> Result<()> {
    const SQE: u64 = 64;
    const CID: usize = 2;
    // One processor uses one queue, and there the first slot.
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)?;
    let device = env.open()?;
    let (result, _) = command(&device);
    check_eq!(result, Ok(()), "first command");
    let mut control = env.control()?;
    let (_, base, entries, tail) = control.submission_queues("hsm")?[0];
    let last = (tail + entries - 1) % entries;
    let sqe = control.memory(base + last as u64 * SQE, SQE as usize)?;
    let cid = vary(u16::from_le_bytes([sqe[CID], sqe[CID + 1]]));
    control.inject(json!({ "fault": "wrong_cid", "class": "hsm", "count": 1, "cid": cid }))?;
    let (result, time) = command(&device);
    check_aborted(result, time)?;
    check_well(env)
}

fn earlier_cid(env: &Env) -> Result<()> {
    varied_cid(env, |cid| cid)
}

/// The right identifier but for a tag that is beyond all slots.
fn no_slot(env: &Env) -> Result<()> {
    varied_cid(env, |cid| cid.wrapping_add(1 << 10) | (1 << 4))
}

/// Without its interrupt a completion is found a little later.
fn lost_interrupt(env: &Env) -> Result<()> {
    let device = env.open()?;
    for _ in 0..3 {
        inject(
            env,
            json!({ "fault": "drop_interrupt", "class": "hsm", "count": 1 }),
        )?;
        let (result, time) = command(&device);
        check_eq!(result, Ok(()), "command without an interrupt");
        ensure!(time < TIMEOUT / 2, "it took {time:?}");
    }
    Ok(())
}

/// Less than 6 seconds are not to be had.
fn timeout_parameter(env: &Env) -> Result<()> {
    module::unload().context("delete_module")?;
    module::load_with(&env.module, c"abort_timeout_in_sec=1")?;
    let device = env.open()?;
    inject(
        env,
        json!({ "fault": "drop_completion", "class": "hsm", "count": 1 }),
    )?;
    let (result, time) = command(&device);
    check_aborted(result, time)?;
    drop(device);
    env.reload()
}

fn duplicate(env: &Env) -> Result<()> {
    inject(
        env,
        json!({ "fault": "duplicate_completion", "class": "hsm", "count": 5 }),
    )?;
    let device = env.open()?;
    for _ in 0..100 {
        let (result, _) = command(&device);
        check_eq!(result, Ok(()), "command");
    }
    Ok(())
}

fn wrong_phase(env: &Env) -> Result<()> {
    let device = env.open()?;
    inject(
        env,
        json!({ "fault": "wrong_phase", "class": "hsm", "count": 1 }),
    )?;
    let (result, time) = command(&device);
    check_aborted(result, time)
}

fn wrong_sqhd(env: &Env) -> Result<()> {
    for sqhd in [0, 15, 16, 0xffff] {
        inject(
            env,
            json!({
                "fault": "wrong_sqhd", "class": "hsm", "count": 20, "sqhd": sqhd,
            }),
        )?;
        let device = env.open()?;
        for _ in 0..40 {
            let (result, _) = command(&device);
            check_eq!(result, Ok(()), "command");
        }
    }
    Ok(())
}

fn spurious(env: &Env) -> Result<()> {
    let device = env.open()?;
    let vectors = u16::try_from(env.vectors)?;
    for _ in 0..5 {
        for vector in 0..vectors {
            inject(
                env,
                json!({ "fault": "spurious_interrupt", "vector": vector }),
            )?;
        }
        let (result, _) = command(&device);
        check_eq!(result, Ok(()), "command");
    }
    Ok(())
}

fn slow_enable(env: &Env) -> Result<()> {
    inject(
        env,
        json!({ "fault": "slow_enable", "ms": 3000, "count": 1 }),
    )?;
    let start = Instant::now();
    let address = env.address()?;
    pci::unbind(&address)?;
    pci::bind(&address)?;
    ensure!(start.elapsed() > Duration::from_secs(2), "it was not slow");
    check_well(env)
}

/// The device opens a session, but nobody is told: the queue is aborted.
fn lost_open(env: &Env) -> Result<()> {
    let device = env.open()?;
    inject(
        env,
        json!({ "fault": "drop_completion", "class": "hsm", "count": 1 }),
    )?;
    let opened = env.control()?.counters()?["sessions_opened"].clone();
    ensure!(opened.is_u64(), "no counters");
    let mut scene = HsmScene::new(Flow::Open, &hsm::open_request())?;
    scene.send_badly(&device, Errno::AGAIN, ext::ABORTED)?;
    ensure!(
        env.control()?.counters()?["sessions_opened"] != opened,
        "no session was opened"
    );
    let start = Instant::now();
    while !env.control()?.sessions()?.is_empty() {
        ensure!(start.elapsed() < TIMEOUT, "the session is still there");
        thread::sleep(Duration::from_millis(200));
    }
    // The descriptor has none.
    hsm::open_session(&device)?;
    Ok(())
}

/// Makes sure that binding the driver fails, says why once, and leaves nothing
/// behind that would make the next attempt fail.
fn check_probe_fails(env: &Env, address: &str, says: &str, patience: u64) -> Result<()> {
    let mut log = KernelLog::end()?;
    let start = Instant::now();
    ensure!(pci::bind(address).is_err(), "the driver was bound");
    let time = start.elapsed();
    ensure!(time < Duration::from_secs(patience), "it took {time:?}");
    check_eq!(pci::driver(address), None, "driver");
    check_eq!(hsm_nodes()?.len(), env.devices - 1, "nodes");
    let messages = log.read_about_driver()?;
    let told: Vec<_> = messages
        .iter()
        .filter(|message| !message.is_harmless())
        .collect();
    check_eq!(told.len(), 1, "lines in the log: {messages:?}");
    ensure!(
        told[0].text.contains(says),
        "not about {says:?}: {messages:?}"
    );
    let interrupts = std::fs::read_to_string("/proc/interrupts")?;
    let left = interrupts
        .lines()
        .filter(|line| line.contains("azihsm"))
        .count();
    ensure!(env.devices > 1 || left == 0, "{left} interrupts left");
    Ok(())
}

/// How long the controller may take to become ready, as it says.
fn ready_timeout(env: &Env) -> Result<u64> {
    let state = env.control()?.state()?;
    let capabilities = state["registers"]["cap"].as_u64().context("no CAP")?;
    Ok((capabilities >> 24) & 0xff)
}

fn probe(env: &Env, broken: &Broken) -> Result<()> {
    let address = env.address()?;
    pci::unbind(&address)?;
    // Ready within a second, or not at all.
    let timeout = ready_timeout(env)?;
    env.control()?.set("cap_to", &json!(1))?;
    for fault in (broken.faults)() {
        inject(env, fault)?;
    }
    let result = check_probe_fails(env, &address, broken.says, broken.patience);
    env.control()?.clear_faults()?;
    env.control()?.set("cap_to", &json!(timeout))?;
    result?;
    pci::bind(&address).context("second attempt")?;
    check_well(env)
}

/// The function answers with all ones, as one that is gone does.
fn probe_gone(env: &Env) -> Result<()> {
    let address = env.address()?;
    pci::unbind(&address)?;
    inject(env, json!({ "fault": "gone", "on": true }))?;
    let result = check_probe_fails(env, &address, "device does not answer", 15);
    inject(env, json!({ "fault": "gone", "on": false }))?;
    result?;
    pci::bind(&address).context("second attempt")?;
    check_well(env)
}

/// Makes sure that a reset fails, which the device could be stopped for but not
/// started from, and that the driver says why.
fn check_reset_fails(env: &Env, says: &str) -> Result<()> {
    let device = env.open()?;
    let mut log = KernelLog::end()?;
    let error = device.reset(ResetKind::Controller).err();
    check_eq!(
        error.map(|error| error.errno),
        Some(Errno::IO),
        "reset of a device that does not start"
    );
    let messages = log.read_about_driver()?;
    ensure!(
        messages.iter().any(|message| message.text.contains(says)),
        "nothing of {says:?}: {messages:?}"
    );
    let (result, _) = command(&device);
    // Another attempt may be under way.
    ensure!(
        result.is_err_and(|Error { errno, ext }| {
            errno == Errno::AGAIN && matches!(ext, ext::HSM_NOT_READY | ext::RECOVERING)
        }),
        "{result:?} of a device that did not start"
    );
    Ok(())
}

/// What makes a probe fail makes a reset fail; the next attempt succeeds.
fn reset(env: &Env, broken: &Broken) -> Result<()> {
    let held = Held::measure()?;
    let timeout = ready_timeout(env)?;
    // As above.
    env.control()?.set("cap_to", &json!(1))?;
    for fault in (broken.faults)() {
        inject(env, fault)?;
    }
    let result = check_reset_fails(env, broken.says);
    env.control()?.clear_faults()?;
    env.control()?.set("cap_to", &json!(timeout))?;
    result?;
    health::wait_serving(env, BACK)?;
    health::check_well(env)?;
    held.check_same_soon()
}

/// The device has less after a reset than it had, until it gets that back.
fn fewer_queues(env: &Env, option: &str, fewer: Value, usual: Value) -> Result<()> {
    let held = Held::measure()?;
    env.control()?.set(option, &fewer)?;
    let result = check_reset_fails(env, "function has lost queues");
    env.control()?.set(option, &usual)?;
    result?;
    health::wait_serving(env, BACK)?;
    health::check_well(env)?;
    held.check_same_soon()
}
