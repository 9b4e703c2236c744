// SPDX-License-Identifier: GPL-2.0
//! Devices that crash, disappear, pause, do not stop, or are reset by others
//! (`Documentation/recovery.rst`).

use super::stats;
use crate::check_eq;
use crate::crowd::Class;
use crate::crowd::Crowd;
use crate::crowd::Plan;
use crate::crowd::Tally;
use crate::health;
use crate::health::figure;
use crate::health::Held;
use crate::health::Metronome;
use crate::runner::Env;
use crate::runner::Skip;
use crate::runner::Test;
use crate::scene::AesScene;
use crate::scene::HsmScene;
use crate::stamp;
use crate::stamp::Outcome;
use crate::stamp::Trust;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::interrupts;
use azihsm_guest::kmsg::KernelLog;
use azihsm_guest::module;
use azihsm_guest::monitor::Monitor;
use azihsm_guest::pci;
use azihsm_guest::sys::submit;
use azihsm_guest::sys::submit_at;
use azihsm_guest::sys::Child;
use azihsm_guest::vmstat;
use azihsm_mbor::Operation;
use azihsm_mbor::Status;
use azihsm_uapi::abi::ext;
use azihsm_uapi::Device;
use azihsm_uapi::Errno;
use azihsm_uapi::Flow;
use azihsm_uapi::ResetKind;
use nix::sched::sched_setaffinity;
use nix::sched::CpuSet;
use nix::unistd::pipe;
use nix::unistd::Pid;
use serde_json::json;
use serde_json::Value;
use std::ffi::CStr;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// What the driver may say about all this.
const ODD: &[&str] = &["azihsm"];

/// The longest a recovery may take that needs nothing but a reset.
const RESET: Duration = Duration::from_secs(5);

/// How long threads may take to come back when nothing is in their way.
const BACK: Duration = Duration::from_secs(10);

/// How soon all waiters are to know that there is no device.
const REMOVAL: Duration = Duration::from_secs(1);

/// How soon a killed process is to be gone.  As it ends it closes its descriptors,
/// and a device that does not answer has a second to close the first session.
const KILL: Duration = Duration::from_secs(3);

/// What a command may cost that the device has lost: the timeout, a question, and
/// the abort of its queue.
const LOST: Duration = Duration::from_secs(12);

/// How long closing may take: a device that does not answer has a second to find
/// room for the command, and one to carry it out.
const CLOSE: Duration = Duration::from_secs(4);

/// How long closing more may take then.
const MORE_CLOSES: Duration = Duration::from_secs(1);

/// How many commands of 40 threads may be answered while one waits for its turn, if
/// it is not four times what is usual on this machine.
const FAIR: u64 = 400;

/// How often the driver looks at an idle device, at least.
const LOOK: Duration = Duration::from_millis(600);

/// The longest a command may take that nothing is wrong with, on a busy host.
const QUICK: Duration = Duration::from_secs(2);

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("recovery/crash-is-noticed-when-idle", crash_idle).takes(3),
        Test::new("recovery/crash-under-load", crash_under_load).takes(4),
        Test::new("recovery/crashes-behind-starts", |env: &Env| {
            crashes(env, 2)
        })
        .takes(6),
        Test::new("recovery/crashes-behind-many-starts", |env: &Env| {
            crashes(env, 6)
        })
        .takes(66)
        .long(),
        Test::new("recovery/lost-ready-is-noticed-when-idle", ready_lost_idle).takes(3),
        Test::new("recovery/lost-ready-under-load", ready_lost_under_load).takes(4),
        Test::new("recovery/removal-ends-64-waiters", removal).takes(4),
        Test::new("recovery/device-that-comes-back", comes_back).takes(5),
        Test::new("recovery/device-that-was-not-reached", not_reached).takes(6),
        Test::new(
            "recovery/device-that-vanishes-behind-starts",
            |env: &Env| vanishes(env, &[0, 1, 2, 4]),
        )
        .takes(17),
        Test::new("recovery/idle-device-is-hardly-looked-at", idle_cost).takes(4),
        Test::new("recovery/lost-interrupts-cost-no-timeout", lost_interrupts).takes(2),
        Test::new("recovery/update-of-10-s-loses-nothing", |env: &Env| {
            update(env, &[10_000])
        })
        .takes(14),
        Test::new("recovery/update-of-20-s-loses-nothing", |env: &Env| {
            update(env, &[20_000])
        })
        .takes(24)
        .long(),
        Test::new("recovery/update-of-28-s-loses-nothing", |env: &Env| {
            update(env, &[28_000])
        })
        .takes(32)
        .long(),
        Test::new(
            "recovery/updates-of-all-lengths-lose-nothing",
            |env: &Env| update(env, &[6_200, 6_600, 7_000, 7_400, 7_800]),
        )
        .takes(50)
        .long(),
        Test::new("recovery/four-updates-lose-nothing", |env: &Env| {
            update(env, &[9_000, 9_000, 9_000, 9_000])
        })
        .takes(50)
        .long(),
        Test::new("recovery/stuck-reset-quarantines", stuck).takes(8),
        Test::new("recovery/stuck-device-is-unbound", stuck_unbind).takes(5),
        Test::new(
            "recovery/stuck-device-that-asks-to-retry-is-not-gone",
            stuck_retry,
        )
        .takes(9),
        Test::new(
            "recovery/stuck-device-that-is-silent-for-a-moment-is-not-gone",
            stuck_silent,
        )
        .takes(6),
        Test::new(
            "recovery/lost-read-does-not-have-the-function-reset",
            lost_read_at_the_end,
        )
        .takes(2),
        Test::new(
            "recovery/function-that-forgets-its-messages-gets-them-back",
            forgotten_messages,
        )
        .takes(3),
        Test::new(
            "recovery/stuck-device-keeps-its-memory-for-good",
            stuck_leak,
        )
        .takes(5)
        .long(),
        Test::new("recovery/hsm-abort-leaves-others-alone", |env: &Env| {
            abort_outage(env, 1)
        })
        .takes(16),
        Test::new("recovery/aes-abort-leaves-others-alone", |env: &Env| {
            abort_outage(env, 256)
        })
        .takes(16)
        .long(),
        Test::new("recovery/wrong-phase-costs-one-abort", wrong_phase).takes(16),
        Test::new("recovery/interrupts-without-work", spurious).takes(2),
        Test::new("recovery/fatal-error-of-the-link", fatal_error).takes(8),
        Test::new("recovery/other-error-of-the-link", other_error).takes(4),
        Test::new(
            "recovery/error-with-a-reset-for-a-neighbour",
            |env: &Env| error_of_neighbour(env, c""),
        )
        .neighbour()
        .takes(4),
        Test::new(
            "recovery/error-with-a-reset-of-what-may-not-be",
            |env: &Env| error_of_neighbour(env, c"pf_lvl2_abort_enabled=0"),
        )
        .neighbour()
        .takes(4),
        Test::new("recovery/image-for-hibernation", image).takes(12),
        Test::new("recovery/result-during-abort-counts", result_during_abort)
            .takes(12)
            .long(),
        Test::new("recovery/deleted-aes-commands-are-aborted", deleted_aes)
            .takes(12)
            .long(),
        Test::new("recovery/six-aborts-make-a-reset", many_aborts)
            .takes(65)
            .long(),
        Test::new("recovery/abort-that-hangs-makes-a-reset", |env: &Env| {
            hung(env, json!({ "fault": "stall_delete_sq" }), 1)
        })
        .takes(45)
        .long(),
        Test::new("recovery/hung-device-is-reset", |env: &Env| {
            hung(env, json!({ "fault": "stop_fetch" }), 0)
        })
        .takes(45)
        .long(),
        Test::new(
            "recovery/dead-admin-queue-is-left-by-unbinding",
            admin_unbind,
        )
        .takes(3),
        Test::new("recovery/dead-admin-queue-is-recovered", admin_recovered)
            .takes(40)
            .long(),
        Test::new("recovery/emptied-by-owner-ends-no-session", |env: &Env| {
            emptied(env, groups_away_and_back)
        })
        .takes(4),
        Test::new("recovery/emptied-by-power-ends-no-session", |env: &Env| {
            emptied(env, power_away_and_back)
        })
        .takes(4),
        Test::new("recovery/emptied-by-bus-ends-no-session", |env: &Env| {
            emptied(env, bus_reset)
        })
        .takes(4),
        Test::new(
            "recovery/emptied-while-dead-ends-no-session",
            |env: &Env| emptied(env, groups_away_while_dead),
        )
        .takes(12),
        Test::new(
            "recovery/emptied-during-an-abort-ends-no-session",
            |env: &Env| emptied(env, groups_away_during_abort),
        )
        .takes(14),
        Test::new("recovery/lost-read-is-not-an-answer", lost_read).takes(14),
        Test::new(
            "recovery/session-of-an-earlier-era-is-not-used",
            |env: &Env| late(env, Late::InSession),
        )
        .takes(5),
        Test::new(
            "recovery/session-of-an-earlier-era-is-not-closed",
            |env: &Env| late(env, Late::Close),
        )
        .takes(5),
        Test::new(
            "recovery/session-of-an-earlier-era-does-not-encrypt",
            |env: &Env| late(env, Late::Aes(64)),
        )
        .takes(5),
        Test::new(
            "recovery/session-of-an-earlier-era-does-not-encrypt-in-place",
            |env: &Env| late(env, Late::Aes(40_960)),
        )
        .takes(5),
        Test::new("recovery/function-level-reset-under-load", flr).takes(6),
        Test::new(
            "recovery/function-level-reset-and-other-resets",
            flr_and_others,
        )
        .takes(12)
        .long(),
        Test::new(
            "recovery/function-level-reset-frees-a-stuck-device",
            flr_of_stuck,
        )
        .takes(6),
        Test::new("recovery/bus-reset-under-load", bus_under_load).takes(6),
        Test::new("recovery/freeze-under-load", |env: &Env| {
            sleep(env, "freeze")
        })
        .takes(12)
        .long(),
        Test::new("recovery/suspend-under-load", |env: &Env| sleep(env, "mem"))
            .takes(12)
            .long(),
        Test::new("recovery/killed-while-the-device-hangs", |env: &Env| {
            killed(env, |_| Ok(()))
        })
        .takes(3),
        Test::new("recovery/killed-during-an-abort", |env: &Env| {
            killed(env, |env| {
                inject(env, json!({ "fault": "stall_delete_sq", "ms": 4000 }))?;
                env.control()?.clear_fault("stop_fetch")?;
                inject(env, json!({ "fault": "drop_command", "class": "hsm" }))?;
                thread::sleep(Duration::from_millis(9500));
                Ok(())
            })
        })
        .takes(16)
        .long(),
        Test::new("recovery/killed-during-a-reset", |env: &Env| {
            killed(env, |env| {
                inject(env, json!({ "fault": "slow_disable", "ms": 3000 }))?;
                inject(env, json!({ "fault": "crash" }))?;
                thread::sleep(Duration::from_secs(1));
                Ok(())
            })
        })
        .takes(6),
        Test::new("recovery/killed-while-the-device-is-dead", |env: &Env| {
            killed(env, |env| {
                env.control()?.set("cap_to", &json!(0))?;
                inject(env, json!({ "fault": "stuck_disable" }))?;
                inject(env, json!({ "fault": "crash" }))?;
                thread::sleep(Duration::from_secs(2));
                Ok(())
            })
        })
        .takes(6),
        Test::new("recovery/killed-while-the-device-is-absent", |env: &Env| {
            killed(env, |env| {
                inject(env, json!({ "fault": "unreachable" }))?;
                thread::sleep(Duration::from_millis(200));
                Ok(())
            })
        })
        .takes(5),
        Test::new(
            "recovery/killed-while-waiting-for-a-reset",
            killed_resetting,
        )
        .takes(4),
        Test::new("recovery/close-while-the-device-hangs", |env: &Env| {
            closed(env, |_| Ok(json!({ "fault": "stop_fetch" })))
        })
        .takes(4),
        Test::new("recovery/close-during-a-reset", |env: &Env| {
            closed(env, |env| {
                inject(
                    env,
                    json!({ "fault": "slow_disable", "ms": 3000, "count": 1 }),
                )?;
                Ok(json!({ "fault": "crash" }))
            })
        })
        .takes(6),
        Test::new("recovery/close-while-the-device-is-dead", |env: &Env| {
            closed(env, |env| {
                env.control()?.set("cap_to", &json!(0))?;
                inject(env, json!({ "fault": "stuck_disable" }))?;
                Ok(json!({ "fault": "crash" }))
            })
        })
        .takes(6),
        Test::new("recovery/close-while-the-device-is-absent", |env: &Env| {
            closed(env, |_| Ok(json!({ "fault": "unreachable" })))
        })
        .takes(4),
        Test::new(
            "recovery/unbind-and-unload-during-a-reset",
            unbind_resetting,
        )
        .takes(8),
        Test::new(
            "recovery/unbinding-waits-for-a-stuck-device-once",
            unbind_stopping,
        )
        .takes(6),
        Test::new("recovery/resets-of-both-kinds-at-once", resets_at_once).takes(2),
        Test::new("recovery/reset-waits-for-another-recovery", reset_waits).takes(5),
    ]
    .into_iter()
    .map(|test| test.seconds(180).may_warn(ODD).spoils())
    .collect()
}

fn inject(env: &Env, fault: Value) -> Result<()> {
    env.control()?.inject(fault)
}

/// How often the device was enabled.
fn enables(env: &Env) -> Result<u64> {
    counter(env, "enables")
}

/// Waits until it was enabled more often than that.
fn wait_reset(env: &Env, before: u64) -> Result<()> {
    let begin = Instant::now();
    while enables(env)? == before {
        ensure!(begin.elapsed() < 4 * RESET, "it was not reset");
    }
    Ok(())
}

/// The status of an operation in session `id`.
fn in_session(device: &Device, operation: Operation, id: u16) -> Result<Status> {
    let request = hsm::plain(operation, Some(id));
    Ok(hsm::exchange(device, Flow::InSession(id), &request)?
        .header
        .status)
}

/// Makes sure that a session has to be renegotiated, and can be.
fn check_renegotiable(device: &Device, id: u16) -> Result<()> {
    check_eq!(
        in_session(device, hsm::IN_SESSION, id)?,
        Status::SESSION_NEEDS_RENEGOTIATION,
        "status in a session of before"
    );
    check_eq!(
        in_session(device, Operation::REOPEN_SESSION, id)?,
        Status::SUCCESS,
        "reopening a session of before"
    );
    hsm::use_session(device, id)
}

/// Ends of commands on a device that was reset meanwhile.
fn is_of_reset(class: Class, outcome: Outcome) -> bool {
    match outcome {
        Outcome::Done | Outcome::Aborted | Outcome::Recovering | Outcome::NoSession => true,
        Outcome::Refused(status, code) => class == Class::Aes && stamp::is_lost_key(status, code),
        _ => false,
    }
}

/// Makes sure that a descriptor has no session, and can have another.
fn check_forgotten(device: &Device, id: u16) -> Result<()> {
    let outcome = stamp::plain(device, Some(id), 0, Trust::Full)?;
    check_eq!(
        outcome,
        Outcome::NoSession,
        "command in a session of before"
    );
    let session = hsm::open_session(device)?;
    hsm::use_session(device, session.id)
}

/// What happens to an idle device is noticed and repaired without a command; its
/// sessions are as `check` says then.
fn idle(env: &Env, fault: Value, check: fn(&Device, u16) -> Result<()>) -> Result<()> {
    let held = Held::measure()?;
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let entropy = device.info()?.entropy;
    let before = enables(env)?;
    inject(env, fault)?;
    let begin = Instant::now();
    wait_reset(env, before)?;
    health::wait_serving(env, RESET)?;
    figure("idle device, fault to serving again", begin.elapsed());
    ensure!(device.info()?.entropy != entropy, "no new entropy");
    check(&device, session.id)?;
    drop(device);
    check_eq!(enables(env)?, before + 1, "starts");
    health::check_well(env)?;
    held.check_same_soon()
}

fn crash_idle(env: &Env) -> Result<()> {
    idle(env, json!({ "fault": "crash" }), check_renegotiable)
}

fn ready_lost_idle(env: &Env) -> Result<()> {
    idle(env, json!({ "fault": "force_disable" }), check_forgotten)
}

/// All that were waiting are told, and all that come later are served.
fn under_load(env: &Env, fault: Value) -> Result<()> {
    let held = Held::measure()?;
    let crowd = Crowd::start(env, Plan::MIXED)?;
    crowd.wait_busy()?;
    let before = enables(env)?;
    let begin = Instant::now();
    inject(env, fault)?;
    wait_reset(env, before)?;
    crowd.wait_answers(1, BACK)?;
    figure(
        "64 threads, fault to answers of both kinds",
        begin.elapsed(),
    );
    crowd.rekey(env)?;
    crowd.wait_answers(50, BACK)?;
    let tally = crowd.stop(env, BACK)?;
    println!("# {tally}");
    tally.check(is_of_reset)?;
    ensure!(
        tally.count(|_, outcome| outcome == Outcome::Aborted) > 0,
        "no command was ended: {tally}"
    );
    health::check_well(env)?;
    held.check_same_soon()
}

fn crash_under_load(env: &Env) -> Result<()> {
    under_load(env, json!({ "fault": "crash" }))
}

/// A device that crashes behind each start is left alone for longer each time,
/// however long it has been left alone.
fn crashes(env: &Env, times: u32) -> Result<()> {
    let crash = || inject(env, json!({ "fault": "crash" }));
    let mut before = enables(env)?;
    let mut started = |patience: Duration| -> Result<Duration> {
        let begin = Instant::now();
        while enables(env)? == before {
            ensure!(begin.elapsed() < patience, "it was not started");
            thread::sleep(Duration::from_millis(20));
        }
        let time = begin.elapsed();
        // A crash before it works would be another matter.
        health::wait_serving(env, RESET)?;
        before += 1;
        check_eq!(enables(env)?, before, "starts");
        Ok(time)
    };
    crash()?;
    started(BACK)?;
    for time in 0..times {
        let back_off = Duration::from_secs(1 << time);
        crash()?;
        let alone = started(2 * back_off + BACK)?;
        figure("device that crashed, to its start", alone);
        // It is rounded to when the driver looks.
        ensure!(
            alone >= back_off - LOOK,
            "started after {alone:?} instead of {back_off:?}"
        );
    }
    health::check_well(env)
}

fn ready_lost_under_load(env: &Env) -> Result<()> {
    under_load(env, json!({ "fault": "force_disable" }))
}

/// Loads the driver without buffers to copy AES data to, so that it is accessed in
/// place as soon as it does not fit a slot.
fn copy_little(env: &Env) -> Result<()> {
    module::unload().context("delete_module")?;
    module::load_with(&env.module, c"aes_bounce_buffers=0")
}

/// 64 threads that wait: most for the device, some for a slot, some of those with
/// data that is accessed in place.
fn waiting_crowd(env: &Env) -> Result<Crowd> {
    let plan = Plan {
        hsm: 40,
        aes: 24,
        in_place: true,
        ..Plan::MIXED
    };
    let crowd = Crowd::start(env, plan)?;
    crowd.wait_busy()?;
    inject(env, json!({ "fault": "stop_fetch" }))?;
    let begin = Instant::now();
    loop {
        let (waiting, first) = crowd.under_way();
        if waiting == 64 && first > Duration::from_millis(500) {
            return Ok(crowd);
        }
        ensure!(begin.elapsed() < BACK, "{waiting} threads wait");
        thread::sleep(Duration::from_millis(10));
    }
}

fn gone(env: &Env, on: bool) -> Result<()> {
    inject(env, json!({ "fault": "gone", "on": on }))
}

/// Waits until all threads of a crowd were told that there is no device.
fn check_all_gone(env: &Env, crowd: Crowd, lose: fn(&Env) -> Result<()>) -> Result<Tally> {
    let metronome = Metronome::start();
    let begin = Instant::now();
    lose(env)?;
    crowd.wait_end(BACK)?;
    let tally = crowd.tally();
    let last = tally.last_gone.context("no thread was told")?;
    let time = last.duration_since(begin);
    figure("removal to the last of 64 waiters out", time);
    metronome.check(time, REMOVAL, "the last waiter was out")?;
    check_eq!(
        tally.count(|_, outcome| outcome == Outcome::Gone),
        64,
        "threads that were told ENODEV: {tally}"
    );
    tally.check(|_, outcome| matches!(outcome, Outcome::Done | Outcome::Gone))?;
    crowd.stop(env, BACK)
}

fn removal(env: &Env) -> Result<()> {
    copy_little(env)?;
    let held = Held::measure()?;
    let address = env.address()?;
    let crowd = waiting_crowd(env)?;
    check_all_gone(env, crowd, |env| gone(env, true))?;
    env.control()?.clear_faults()?;

    let device = env.open().context("open while the device is absent")?;
    let outcome = stamp::plain(&device, None, 0, Trust::Full)?;
    check_eq!(outcome, Outcome::Gone, "command while the device is absent");
    let metronome = Metronome::start();
    let begin = Instant::now();
    drop(device);
    pci::unbind(&address)?;
    let time = begin.elapsed();
    figure("unbinding from a device that is not there", time);
    // One that waited for registers, or for answers, would take 10 or 30 s.
    metronome.check(time, RESET, "closing and unbinding were done")?;
    check_eq!(vmstat::pinned_pages()?, held.pinned, "pinned pages");
    gone(env, false)?;
    pci::bind(&address)?;
    health::check_well(env)?;
    held.check_same_soon()
}

fn comes_back(env: &Env) -> Result<()> {
    copy_little(env)?;
    let held = Held::measure()?;
    let crowd = waiting_crowd(env)?;
    check_all_gone(env, crowd, |env| gone(env, true))?;
    env.control()?.clear_faults()?;
    let begin = Instant::now();
    gone(env, false)?;
    health::wait_serving(env, RESET)?;
    figure("device that came back to serving again", begin.elapsed());
    health::check_well(env)?;
    held.check_same_soon()
}

/// The device writes to memory all the time that it cannot be reached.
fn not_reached(env: &Env) -> Result<()> {
    copy_little(env)?;
    let held = Held::measure()?;
    let crowd = Crowd::start(
        env,
        Plan {
            in_place: true,
            ..Plan::MIXED
        },
    )?;
    crowd.wait_busy()?;
    inject(env, json!({ "fault": "delay", "ms": 2000 }))?;
    thread::sleep(Duration::from_millis(300));
    check_all_gone(env, crowd, |env| {
        inject(env, json!({ "fault": "unreachable" }))
    })?;
    ensure!(
        vmstat::pinned_pages()? > held.pinned,
        "memory was given back that the device writes to"
    );
    thread::sleep(Duration::from_secs(2));
    env.control()?.clear_faults()?;
    let begin = Instant::now();
    inject(env, json!({ "fault": "unreachable", "on": false }))?;
    health::wait_serving(env, RESET)?;
    figure("device that is reached again to serving", begin.elapsed());
    health::check_well(env)?;
    held.check_same_soon()
}

/// A device that vanishes as soon as it is started, and answers again, is left alone for
/// longer each time.
fn vanishes(env: &Env, back_offs: &[u64]) -> Result<()> {
    let state = pci::directory(&env.address()?).join("azihsm/state");
    let mut before = enables(env)?;
    // Those of the start that fails, of giving up, and one look.
    inject(env, json!({ "fault": "vanish_enabled", "reads": 4 }))?;
    inject(env, json!({ "fault": "crash" }))?;
    let mut began = Instant::now();
    for &back_off in back_offs {
        let back_off = Duration::from_secs(back_off);
        // It is rounded to when the driver looks.
        let least = back_off.saturating_sub(LOOK);
        while enables(env)? == before {
            let alone = began.elapsed();
            ensure!(alone < BACK + 2 * back_off, "it was not started");
            if (LOOK..least).contains(&alone) {
                check_eq!(fs::read_to_string(&state)?.trim(), "absent", "state");
            }
            thread::sleep(Duration::from_millis(20));
        }
        before += 1;
        check_eq!(enables(env)?, before, "starts");
        let alone = began.elapsed();
        began = Instant::now();
        figure("device that vanished, to its next start", alone);
        ensure!(
            alone >= least,
            "started after {alone:?} instead of {back_off:?}"
        );
    }
    env.control()?.clear_faults()?;
    health::wait_serving(env, 3 * RESET)?;
    check_eq!(enables(env)?, before + 1, "starts");
    health::check_well(env)
}

fn counter(env: &Env, name: &str) -> Result<u64> {
    let counters = env.control()?.counters()?;
    counters[name].as_u64().context("no counter")
}

/// The health monitor costs next to nothing.
fn idle_cost(env: &Env) -> Result<()> {
    const SECONDS: u64 = 3;
    health::wait_serving(env, RESET)?;
    let before = counter(env, "mmio_reads")?;
    thread::sleep(Duration::from_secs(SECONDS));
    let reads = counter(env, "mmio_reads")? - before;
    println!("# figure: register reads of an idle device: {reads} in {SECONDS} s");
    ensure!(
        (1..=5 * SECONDS).contains(&reads),
        "{reads} reads in {SECONDS} s"
    );
    Ok(())
}

/// A completion that is there is found although nobody says so.
fn lost_interrupts(env: &Env) -> Result<()> {
    inject(env, json!({ "fault": "drop_interrupt" }))?;
    let metronome = Metronome::start();
    let begin = Instant::now();
    let device = env.open()?;
    for _ in 0..4 {
        let outcome = stamp::plain(&device, None, 0, Trust::Full)?;
        check_eq!(outcome, Outcome::Done, "command without an interrupt");
    }
    let time = begin.elapsed() / 4;
    figure("command whose interrupt was lost", time);
    metronome.check(time, QUICK, "a command was done")
}

/// Updates that take so many milliseconds each, on a device that has enough to do
/// to need some time afterwards.
fn update(env: &Env, pauses: &[u64]) -> Result<()> {
    let crowd = Crowd::start(env, Plan::MIXED)?;
    crowd.wait_busy()?;
    // A full queue takes 1.5 s.
    env.control()?.set("hsm_latency_us", &json!(100_000))?;
    let before = enables(env)?;
    let device = env.open()?;
    let entropy = device.info()?.entropy;
    for ms in pauses {
        inject(env, json!({ "fault": "pause", "ms": ms }))?;
        thread::sleep(Duration::from_millis(*ms));
        crowd.wait_answers(20, BACK)?;
    }
    check_eq!(enables(env)?, before, "starts");
    check_eq!(device.info()?.entropy, entropy, "entropy");
    let tally = crowd.stop(env, BACK)?;
    println!("# {tally}");
    // No key was lost, and no command repeated.
    tally.check(|_, outcome| outcome == Outcome::Done)?;
    ensure!(
        tally.longest > Duration::from_millis(pauses[0] - 200),
        "there was no update: {tally}"
    );
    health::check_well(env)
}

/// A reset that the device does not carry out: how it ends.
fn reset_in_vain(env: &Env, device: &Device) -> Result<()> {
    // What the device is waited for: a second.
    env.control()?.set("cap_to", &json!(1))?;
    inject(env, json!({ "fault": "stuck_disable" }))?;
    let begin = Instant::now();
    let error = device.reset(ResetKind::Controller).err();
    let errno = error.map(|error| error.errno);
    check_eq!(errno, Some(Errno::IO), "reset of a device that is stuck");
    figure("reset in vain", begin.elapsed());
    Ok(())
}

/// Waits until no command of a crowd has been under way for long.
fn wait_out(crowd: &Crowd) -> Result<()> {
    let metronome = Metronome::start();
    let begin = Instant::now();
    while crowd.under_way().1 > Duration::from_millis(200) {
        ensure!(
            begin.elapsed() < BACK,
            "commands still wait: {:?}",
            crowd.under_way()
        );
        thread::sleep(Duration::from_millis(5));
    }
    let time = begin.elapsed();
    figure("failed reset to the last of 64 waiters out", time);
    metronome.check(time, REMOVAL, "the last waiter was out")
}

/// Ends of commands on a device that did not stop meanwhile.
fn is_of_dead(class: Class, outcome: Outcome) -> bool {
    is_of_reset(class, outcome) || outcome == Outcome::Dead
}

fn stuck(env: &Env) -> Result<()> {
    copy_little(env)?;
    let held = Held::measure()?;
    let device = env.open()?;
    let crowd = waiting_crowd(env)?;
    reset_in_vain(env, &device)?;
    wait_out(&crowd)?;
    device.info().context("device info of a dead device")?;
    let error = device.reset(ResetKind::Subsystem).err();
    let errno = error.map(|error| error.errno);
    check_eq!(errno, Some(Errno::INVAL), "reset of a dead device");
    let pinned = vmstat::pinned_pages()? - held.pinned;
    println!("# figure: pages in quarantine: {pinned}");
    ensure!(pinned > 0, "memory was given back that the device may have");
    // It is tried again meanwhile.
    thread::sleep(Duration::from_secs(3));
    check_eq!(
        vmstat::pinned_pages()? - held.pinned,
        pinned,
        "pages in quarantine later"
    );
    env.control()?.clear_faults()?;
    let begin = Instant::now();
    health::wait_serving(env, Duration::from_secs(10))?;
    figure("stuck device let go to serving again", begin.elapsed());
    crowd.rekey(env)?;
    crowd.wait_answers(20, BACK)?;
    let tally = crowd.stop(env, BACK)?;
    println!("# {tally}");
    tally.check(is_of_dead)?;
    ensure!(
        tally.count(|_, outcome| outcome == Outcome::Dead) > 0,
        "no command found the device dead: {tally}"
    );
    env.control()?.set("cap_to", &json!(20))?;
    health::check_well(env)?;
    held.check_same_soon()
}

fn stuck_unbind(env: &Env) -> Result<()> {
    unbind_stuck(env, RESET, || Ok(()))
}

/// A function that is in the middle of a reset is not gone, and its DMA may not have ended. It
/// cannot be reset until it answers.
fn stuck_retry(env: &Env) -> Result<()> {
    unbind_unanswered(env, || inject(env, json!({ "fault": "retry", "ms": 4000 })))
}

/// Nor is one that does not answer for less than a second.
fn stuck_silent(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    thread::scope(|scope| {
        let mut back = None;
        unbind_unanswered(env, || {
            inject(env, json!({ "fault": "unreachable" }))?;
            back = Some(scope.spawn(move || {
                thread::sleep(Duration::from_millis(400));
                control.inject(json!({ "fault": "unreachable", "on": false }))
            }));
            Ok(())
        })?;
        let back = back.context("it was not tried")?;
        back.join().expect("does not panic")
    })
}

/// Unbinds from a device that does not stop, and does not answer at first either. There are
/// others on its bus.
fn unbind_unanswered(env: &Env, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let address = env.address()?;
    let mut before = 0;
    pci::set_reset_method(&address, "flr")?;
    let result = unbind_stuck(env, 2 * RESET, || {
        before = counter(env, "function_resets")?;
        meanwhile()
    });
    pci::set_reset_method(&address, "default")?;
    result?;
    ensure!(
        counter(env, "function_resets")? > before,
        "it was taken for gone"
    );
    Ok(())
}

/// A function level reset takes more from a function than stopping its device does: one read
/// that is lost is no reason for it.
fn lost_read_at_the_end(env: &Env) -> Result<()> {
    let address = env.address()?;
    let before = counter(env, "function_resets")?;
    // One whether it is well, one of what it is configured as.
    inject(env, json!({ "fault": "lost_reads", "count": 2 }))?;
    pci::unbind(&address)?;
    check_eq!(counter(env, "function_resets")?, before, "resets");
    env.control()?.clear_faults()?;
    pci::bind(&address)?;
    health::check_well(env)
}

/// Virtual functions have lost all of their configuration when their physical one is reset. The
/// kernel restores that one's only.
fn forgotten_messages(env: &Env) -> Result<()> {
    let before = enables(env)?;
    pci::forget_messages(&env.address()?)?;
    inject(env, json!({ "fault": "force_disable" }))?;
    wait_reset(env, before)?;
    health::wait_serving(env, RESET)?;
    let handled = || Ok::<u64, anyhow::Error>(interrupts::handled()?.iter().sum());
    let (before, begin) = (handled()?, Instant::now());
    let device = env.open()?;
    for _ in 0..10 {
        let outcome = stamp::plain(&device, None, 0, Trust::Full)?;
        check_eq!(outcome, Outcome::Done, "command");
    }
    figure("10 commands after the reset", begin.elapsed());
    ensure!(handled()? > before, "there were no interrupts");
    drop(device);
    health::check_well(env)
}

/// Unbinds from a device that does not stop, after `meanwhile`; that may take so long.
fn unbind_stuck(
    env: &Env,
    patience: Duration,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    copy_little(env)?;
    let held = Held::measure()?;
    let address = env.become_virtual()?;
    let device = env.open()?;
    let crowd = waiting_crowd(env)?;
    reset_in_vain(env, &device)?;
    wait_out(&crowd)?;
    meanwhile()?;
    let metronome = Metronome::start();
    let begin = Instant::now();
    pci::unbind(&address)?;
    let time = begin.elapsed();
    figure("unbinding from a stuck device", time);
    metronome.check(time, patience, "unbinding was done")?;
    crowd.wait_end(BACK)?;
    // It was reset through the bus, so nothing is kept any more.
    check_eq!(vmstat::pinned_pages()?, held.pinned, "pinned pages");
    env.control()?.clear_faults()?;
    crowd.stop(env, BACK)?;
    env.control()?.set("cap_to", &json!(20))?;
    pci::bind(&address)?;
    health::check_well(env)?;
    held.check_same_soon()
}

/// If there is no way at all to stop the device its memory is not given back.
fn stuck_leak(env: &Env) -> Result<()> {
    if Held::measure()?.mappings.is_some() {
        return Err(Skip("the kernel complains of leaks, even if they are meant").into());
    }
    let address = env.address()?;
    pci::set_reset_method(&address, "")?;
    let result = stuck_for_good(env, &address);
    pci::set_reset_method(&address, "default")?;
    result
}

fn stuck_for_good(env: &Env, address: &str) -> Result<()> {
    copy_little(env)?;
    let before = vmstat::pinned_pages()?;
    let device = env.open()?;
    let crowd = waiting_crowd(env)?;
    reset_in_vain(env, &device)?;
    wait_out(&crowd)?;
    env.control()?.set("cap_to", &json!(6))?;
    let mut log = KernelLog::end()?;
    let metronome = Metronome::start();
    let begin = Instant::now();
    pci::unbind(address)?;
    let time = begin.elapsed();
    figure("unbinding from a device that nothing stops", time);
    // It is waited for once, 3.5 s.
    metronome.check(time, RESET, "unbinding was done")?;
    let messages = log.read_about_driver()?;
    ensure!(
        messages
            .iter()
            .any(|message| message.text.contains("not freed")),
        "nothing is said of the memory: {messages:?}"
    );
    ensure!(vmstat::pinned_pages()? > before, "memory was given back");
    crowd.wait_end(BACK)?;
    env.control()?.clear_faults()?;
    crowd.stop(env, BACK)?;
    env.control()?.set("cap_to", &json!(20))?;
    pci::bind(address)?;
    health::check_well(env)
}

/// A queue is aborted, which takes long: nobody else notices.
fn abort_outage(env: &Env, queue: u16) -> Result<()> {
    let held = Held::measure()?;
    // Threads that check AES data keep the processors from others.
    let plan = Plan {
        hsm: 40,
        aes: if queue < 256 { 4 } else { 32 },
        ..Plan::MIXED
    };
    let crowd = Crowd::start(env, plan)?;
    crowd.wait_busy()?;
    thread::sleep(Duration::from_secs(2));
    let usual = crowd.tally();
    println!("# before: {usual}");
    let before = enables(env)?;
    let begin = Instant::now();
    inject(
        env,
        json!({ "fault": "stall_delete_sq", "ms": 3000, "count": 1 }),
    )?;
    inject(
        env,
        json!({ "fault": "drop_completion", "queue": queue, "count": 1 }),
    )?;
    let metronome = Metronome::start();
    let mut gaps = [Duration::ZERO; 2];
    let mut last = [(Instant::now(), 0); 2];
    let mut aborted = None;
    // Until it has been over for a while.
    while aborted.is_none_or(|at: Instant| at.elapsed() < Duration::from_secs(1)) {
        for (index, answered) in crowd.answered().into_iter().enumerate() {
            gaps[index] = gaps[index].max(last[index].0.elapsed());
            if answered != last[index].1 {
                last[index] = (Instant::now(), answered);
            }
        }
        let ended = crowd
            .tally()
            .count(|_, outcome| outcome == Outcome::Aborted);
        if ended > 0 && aborted.is_none() {
            figure("lost command to the end of its abort", begin.elapsed());
            aborted = Some(Instant::now());
        }
        ensure!(begin.elapsed() < LOST + QUICK, "no queue was aborted");
        thread::sleep(Duration::from_millis(2));
    }
    let tally = crowd.stop(env, BACK)?;
    println!("# {tally}");
    figure("longest time without an HSM answer", gaps[0]);
    figure("longest time without an AES answer", gaps[1]);
    figure("longest time of a command that was answered", tally.longest);
    check_eq!(enables(env)?, before, "starts");
    tally.check(|class, outcome| match outcome {
        Outcome::Done => true,
        Outcome::Aborted | Outcome::Recovering => (class == Class::Aes) == (queue >= 256),
        _ => false,
    })?;
    let ended = tally.count(|_, outcome| outcome != Outcome::Done);
    ensure!(ended <= 15, "{ended} commands of one queue were ended");
    metronome.check(gaps[0].max(gaps[1]), QUICK, "others were served")?;
    // There are less slots than threads meanwhile, so each waits for its turn, on
    // a slow machine for long.
    ensure!(
        tally.overtaken < FAIR.max(4 * usual.overtaken),
        "commands did not get their turn: {tally}"
    );
    health::check_well(env)?;
    held.check_same_soon()
}

/// An entry of a completion queue has the phase of the last pass, so that those
/// behind it cannot be seen.
fn wrong_phase(env: &Env) -> Result<()> {
    let held = Held::measure()?;
    let mut log = KernelLog::end()?;
    let crowd = Crowd::start(env, Plan::MIXED)?;
    crowd.wait_busy()?;
    let before = enables(env)?;
    let begin = Instant::now();
    inject(
        env,
        json!({ "fault": "wrong_phase", "class": "hsm", "count": 1 }),
    )?;
    let is_aborted = |_, outcome| outcome == Outcome::Aborted;
    while crowd.tally().count(is_aborted) == 0 {
        ensure!(begin.elapsed() < LOST, "no queue was aborted");
        thread::sleep(Duration::from_millis(10));
    }
    figure("wrong phase to the end of the abort", begin.elapsed());
    // More than each slot of the queue is used once.
    crowd.wait_answers(200, BACK)?;
    let tally = crowd.stop(env, QUICK)?;
    println!("# {tally}");
    check_eq!(enables(env)?, before, "starts");
    let aborted = tally.count(is_aborted);
    ensure!(aborted <= 15, "{aborted} commands of one queue were ended");
    tally.check(|class, outcome| match outcome {
        Outcome::Done => true,
        outcome => outcome == Outcome::Aborted && class == Class::Hsm,
    })?;
    health::check_well(env)?;
    let messages = log.read_about_driver()?;
    let aborts = messages
        .iter()
        .filter(|message| message.text.contains("queue aborted"));
    check_eq!(aborts.count(), 1, "aborts");
    held.check_same_soon()
}

/// A device that interrupts without reason is let do so, on every vector, and its
/// completion queues are left alone.
fn spurious(env: &Env) -> Result<()> {
    const EACH: u64 = 6;
    health::wait_serving(env, RESET)?;
    let handled = || -> Result<u64> {
        let text = fs::read_to_string("/proc/interrupts")?;
        let lines = text.lines().filter(|line| line.contains("azihsm"));
        let words = lines.flat_map(str::split_whitespace);
        Ok(words.filter_map(|word| word.parse::<u64>().ok()).sum())
    };
    let (before, doorbells) = (handled()?, counter(env, "cq_doorbells")?);
    let mut control = env.control()?;
    for _ in 0..EACH {
        for vector in 0..env.vectors {
            control.inject(json!({ "fault": "spurious_interrupt", "vector": vector }))?;
        }
    }
    drop(control);
    // Two that come at once may be one.
    let seen = handled()? - before;
    let least = EACH / 2 * env.vectors as u64;
    ensure!(seen >= least, "{seen} interrupts were seen");
    check_eq!(counter(env, "cq_doorbells")?, doorbells, "doorbells");
    let device = env.open()?;
    let outcome = stamp::plain(&device, None, 0, Trust::Full)?;
    check_eq!(outcome, Outcome::Done, "command afterwards");
    drop(device);
    health::check_well(env)
}

/// Lets the port that the device is behind report an error of the link.
///
/// The device itself has no advanced error reporting: what the kernel is told of
/// is the port's, and concerns all that is behind it.
fn link_error(env: &Env, error: &str) -> Result<()> {
    if env.devices > 1 {
        return Err(Skip("the machine has no monitor").into());
    }
    let path = pci::directory(&env.address()?);
    let port = fs::canonicalize(path)?;
    let port = port.parent().context("no port")?;
    if !port.join("aer_dev_fatal").exists() {
        return Err(Skip("the kernel does not handle errors of links").into());
    }
    let said = Monitor::open()?.command(&format!("pcie_aer_inject_error rp0 {error}"))?;
    ensure!(said.contains("OK"), "the monitor said {said:?}");
    Ok(())
}

/// The link is reset, and with it the device, which loses everything.
fn fatal_error(env: &Env) -> Result<()> {
    let held = Held::measure()?;
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let before = (enables(env)?, counter(env, "bus_resets")?);
    let tally = reset_under_load(env, || link_error(env, "DLP"))?;
    tally.check(is_of_reset)?;
    check_eq!(enables(env)?, before.0 + 1, "starts");
    check_eq!(counter(env, "bus_resets")?, before.1 + 1, "bus resets");
    check_forgotten(&device, session.id)?;
    drop(device);
    health::check_well(env)?;
    held.check_same_soon()
}

/// Waits until the kernel is done with an error of a link.
fn wait_recovered(log: &mut KernelLog) -> Result<()> {
    let begin = Instant::now();
    while !log
        .read()?
        .iter()
        .any(|message| message.text.contains("recovery successful"))
    {
        ensure!(begin.elapsed() < 4 * RESET, "nothing was said of the error");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// An error that has harmed one transfer at most is none of the device's.
fn other_error(env: &Env) -> Result<()> {
    let held = Held::measure()?;
    let mut log = KernelLog::end()?;
    let crowd = Crowd::start(env, Plan::MIXED)?;
    crowd.wait_busy()?;
    let before = enables(env)?;
    link_error(env, "COMP_TIME")?;
    wait_recovered(&mut log)?;
    crowd.wait_answers(20, BACK)?;
    let tally = crowd.stop(env, BACK)?;
    tally.check(|_, outcome| outcome == Outcome::Done)?;
    check_eq!(enables(env)?, before, "starts");
    health::check_well(env)?;
    held.check_same_soon()
}

/// An error like that, but for a neighbour the bus is reset, and with it the device, which
/// is told when that is done.
fn error_of_neighbour(env: &Env, parameters: &CStr) -> Result<()> {
    module::unload().context("delete_module")?;
    module::load_with(&env.module, parameters)?;
    let held = Held::measure()?;
    let address = env.address()?;
    let figure = |name: &str| -> Result<String> {
        let path = pci::directory(&address).join("azihsm").join(name);
        Ok(fs::read_to_string(path)?.trim().to_owned())
    };
    let mut log = KernelLog::end()?;
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let before = counter(env, "bus_resets")?;
    link_error(env, "COMP_TIME")?;
    wait_recovered(&mut log)?;
    check_eq!(counter(env, "bus_resets")?, before + 1, "bus resets");
    check_eq!(figure("state")?, "running", "state");
    check_eq!(figure("recovery/resets_resumed")?, "1", "resets");
    health::wait_serving(env, RESET)?;
    check_forgotten(&device, session.id)?;
    drop(device);
    health::check_well(env)?;
    held.check_same_soon()
}

/// An image of the memory is made as for hibernation, during which the device must
/// not write to it, and all goes on.
fn image(env: &Env) -> Result<()> {
    // From include/uapi/linux/suspend_ioctls.h.
    const FREEZE: u32 = 0x3301;
    const UNFREEZE: u32 = 0x3302;
    const FREE: u32 = 0x3305;
    const CREATE_IMAGE: u32 = 0x4004_3311;
    let Ok(snapshot) = File::open("/dev/snapshot") else {
        return Err(Skip("the kernel cannot hibernate").into());
    };
    let held = Held::measure()?;
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let before = enables(env)?;
    let tally = reset_under_load(env, || {
        submit_at(&snapshot, FREEZE, 0).context("stopping all processes")?;
        let mut in_image = 0_i32;
        let made = submit(&snapshot, CREATE_IMAGE, &mut in_image);
        // As long as there is one processes stand still.
        submit_at(&snapshot, FREE, 0).context("freeing the image")?;
        submit_at(&snapshot, UNFREEZE, 0).context("letting them go on")?;
        made.context("making the image")?;
        Ok(())
    })?;
    tally.check(is_of_reset)?;
    ensure!(enables(env)? > before, "the device was not stopped");
    check_forgotten(&device, session.id)?;
    drop((device, snapshot));
    health::check_well(env)?;
    held.check_same_soon()
}

/// A command is carried out while its queue is being deleted because of another
/// one: that is its result.
fn result_during_abort(env: &Env) -> Result<()> {
    let device = env.open()?;
    inject(
        env,
        json!({ "fault": "drop_completion", "queue": 1, "count": 1 }),
    )?;
    // Threads on both queues, of which the first command on queue 1 is lost.
    let lose = || stamp::plain(&device, None, 0, Trust::Full);
    thread::scope(|scope| -> Result<()> {
        let lost: Vec<_> = (0..4).map(|_| scope.spawn(lose)).collect();
        thread::sleep(Duration::from_millis(5500));
        inject(
            env,
            json!({ "fault": "delay", "queue": 1, "count": 1, "ms": 5000 }),
        )?;
        // The other queue is not idle, and these begin on a processor of the first one.
        inject(
            env,
            json!({ "fault": "delay", "queue": 2, "count": 1, "ms": 1000 }),
        )?;
        let busy = scope.spawn(lose);
        thread::sleep(Duration::from_millis(100));
        let begin = Instant::now();
        let slow: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut processors = CpuSet::new();
                    processors.set(0)?;
                    sched_setaffinity(Pid::from_raw(0), &processors)?;
                    lose()
                })
            })
            .collect();
        let mut ends = Vec::new();
        for thread in slow {
            ends.push(thread.join().expect("no panic")?);
        }
        let time = begin.elapsed();
        check_eq!(
            busy.join().expect("no panic")?,
            Outcome::Done,
            "command on the other queue"
        );
        let mut first = Vec::new();
        for thread in lost {
            first.push(thread.join().expect("no panic")?);
        }
        let aborted = first.iter().filter(|end| **end == Outcome::Aborted);
        check_eq!(aborted.count(), 1, "commands that were lost, {first:?}");
        ensure!(
            time > Duration::from_secs(4),
            "the abort did not wait: {time:?}"
        );
        let done = ends.iter().filter(|end| **end == Outcome::Done).count();
        // Those behind it on the queue were never begun.
        ensure!(
            done >= 1
                && ends
                    .iter()
                    .all(|end| matches!(end, Outcome::Done | Outcome::Aborted)),
            "the others: {ends:?}"
        );
        Ok(())
    })?;
    let faults = env.control()?.ask(&json!({ "cmd": "faults" }))?;
    for fault in faults["faults"].as_array().context("no faults")? {
        check_eq!(fault["hits"], 1, "hits of {fault}");
    }
    health::check_well(env)
}

/// What the device says of AES commands whose queue is deleted is not handed on.
fn deleted_aes(env: &Env) -> Result<()> {
    copy_little(env)?;
    let held = Held::measure()?;
    let before = enables(env)?;
    let crowd = Crowd::start(
        env,
        Plan {
            in_place: true,
            hsm: 2,
            aes: 16,
            ..Plan::FEW
        },
    )?;
    crowd.wait_busy()?;
    inject(
        env,
        json!({ "fault": "delay", "class": "aes", "count": 12, "ms": 60_000 }),
    )?;
    let begin = Instant::now();
    while crowd
        .tally()
        .count(|_, outcome| outcome == Outcome::Aborted)
        < 12
    {
        ensure!(begin.elapsed() < 3 * LOST, "{}", crowd.tally());
        thread::sleep(Duration::from_millis(10));
    }
    env.control()?.clear_faults()?;
    crowd.wait_answers(20, BACK)?;
    let tally = crowd.stop(env, BACK)?;
    println!("# {tally}");
    tally.check(|class, outcome| match outcome {
        Outcome::Done => true,
        Outcome::Aborted | Outcome::Recovering => class == Class::Aes,
        _ => false,
    })?;
    check_eq!(enables(env)?, before, "starts");
    health::check_well(env)?;
    held.check_same_soon()
}

/// A queue that loses every command is not aborted for ever.
fn many_aborts(env: &Env) -> Result<()> {
    let held = Held::measure()?;
    let before = enables(env)?;
    let crowd = Crowd::start(env, Plan::FEW)?;
    crowd.wait_busy()?;
    inject(env, json!({ "fault": "drop_completion", "class": "hsm" }))?;
    let begin = Instant::now();
    while enables(env)? == before {
        ensure!(begin.elapsed() < 7 * LOST, "no reset: {}", crowd.tally());
        thread::sleep(Duration::from_millis(100));
    }
    figure("queue that loses all commands to a reset", begin.elapsed());
    ensure!(
        begin.elapsed() > Duration::from_secs(5 * 6),
        "too soon for six aborts"
    );
    env.control()?.clear_faults()?;
    crowd.wait_answers(20, LOST)?;
    let tally = crowd.stop(env, LOST)?;
    println!("# {tally}");
    tally.check(is_of_dead)?;
    health::check_well(env)?;
    held.check_same_soon()
}

/// The device answers nothing, or not when it is to delete a queue: it is reset.
fn hung(env: &Env, fault: Value, lost: u64) -> Result<()> {
    let held = Held::measure()?;
    let before = enables(env)?;
    let crowd = Crowd::start(env, Plan::MIXED)?;
    crowd.wait_busy()?;
    inject(env, fault)?;
    inject(
        env,
        json!({ "fault": "drop_completion", "class": "hsm", "count": lost }),
    )?;
    let begin = Instant::now();
    while enables(env)? == before {
        ensure!(begin.elapsed() < 5 * LOST, "no reset: {}", crowd.tally());
        thread::sleep(Duration::from_millis(20));
    }
    figure("hung device to its reset", begin.elapsed());
    env.control()?.clear_faults()?;
    crowd.wait_answers(1, BACK)?;
    crowd.rekey(env)?;
    crowd.wait_answers(20, BACK)?;
    let tally = crowd.stop(env, BACK)?;
    println!("# {tally}");
    tally.check(is_of_reset)?;
    health::check_well(env)?;
    held.check_same_soon()
}

/// A device that starts and answers no admin command, for which the driver has a
/// long timeout, is left at once.
fn admin_unbind(env: &Env) -> Result<()> {
    let address = env.address()?;
    inject(env, json!({ "fault": "dead_admin_queue", "count": 1 }))?;
    let device = env.open()?;
    thread::scope(|scope| -> Result<()> {
        let reset = scope.spawn(|| device.reset(ResetKind::Controller));
        thread::sleep(Duration::from_secs(1));
        let metronome = Metronome::start();
        let begin = Instant::now();
        pci::unbind(&address)?;
        let time = begin.elapsed();
        figure("unbinding from a device without an admin queue", time);
        metronome.check(time, RESET, "unbinding was done")?;
        let error = reset.join().expect("no panic").err();
        let errno = error.map(|error| error.errno);
        check_eq!(errno, Some(Errno::NODEV), "reset of before");
        Ok(())
    })?;
    pci::bind(&address)?;
    health::check_well(env)
}

fn admin_recovered(env: &Env) -> Result<()> {
    let held = Held::measure()?;
    inject(env, json!({ "fault": "dead_admin_queue", "count": 1 }))?;
    inject(env, json!({ "fault": "crash" }))?;
    let begin = Instant::now();
    health::wait_serving(env, 4 * LOST)?;
    figure(
        "device without an admin queue to serving again",
        begin.elapsed(),
    );
    health::check_well(env)?;
    held.check_same_soon()
}

fn groups_away_and_back(env: &Env) -> Result<()> {
    inject(env, json!({ "fault": "force_disable", "groups": 0 }))?;
    thread::sleep(Duration::from_secs(1));
    env.control()?.set("groups", &json!(2))
}

/// The owner takes the groups away while the device does not start, which nobody notices.
fn groups_away_while_dead(env: &Env) -> Result<()> {
    inject(env, json!({ "fault": "stuck_enable" }))?;
    inject(env, json!({ "fault": "crash" }))?;
    stats::wait_state(env, "dead")?;
    groups_away_and_back(env)?;
    env.control()?.clear_faults()
}

/// The owner takes the groups away while a queue is being aborted.
fn groups_away_during_abort(env: &Env) -> Result<()> {
    inject(env, json!({ "fault": "stall_delete_sq" }))?;
    inject(
        env,
        json!({ "fault": "drop_command", "class": "hsm", "count": 1 }),
    )?;
    let device = env.open()?;
    let lost = thread::spawn(move || stamp::plain(&device, None, 0, Trust::Full));
    let begin = Instant::now();
    let is_stalled = || -> Result<bool> {
        let answer = env.control()?.ask(&json!({ "cmd": "faults" }))?;
        let mut faults = answer["faults"].as_array().context("no faults")?.iter();
        Ok(faults.any(|fault| fault["fault"] == "stall_delete_sq" && fault["hits"] == 1))
    };
    while !is_stalled()? {
        ensure!(begin.elapsed() < LOST, "the queue is not aborted");
        thread::sleep(Duration::from_millis(20));
    }
    groups_away_and_back(env)?;
    env.control()?.clear_faults()?;
    let outcome = lost.join().expect("no panic")?;
    check_eq!(outcome, Outcome::Aborted, "command that was lost");
    Ok(())
}

fn power_away_and_back(env: &Env) -> Result<()> {
    gone(env, true)?;
    thread::sleep(Duration::from_secs(1));
    gone(env, false)
}

fn bus_reset(env: &Env) -> Result<()> {
    let address = env.address()?;
    pci::set_reset_method(&address, "bus")?;
    let result = pci::reset(&address);
    pci::set_reset_method(&address, "default")?;
    result
}

/// The device forgets all sessions and gives their numbers away anew: nobody uses,
/// or ends, the session of somebody else.
fn emptied(env: &Env, empty: fn(&Env) -> Result<()>) -> Result<()> {
    let held = Held::measure()?;
    let old = [env.open()?, env.open()?];
    let lost = hsm::open_session(&old[0])?;
    hsm::open_session(&old[1])?;
    empty(env)?;
    let begin = Instant::now();
    health::wait_serving(env, 3 * RESET)?;
    figure("sessions lost to serving again", begin.elapsed());
    let new = env.open()?;
    let session = hsm::open_session(&new)?;
    check_eq!(session.id, lost.id, "session that is given away anew");
    let outcome = stamp::plain(&old[0], Some(lost.id), 0, Trust::Full)?;
    check_eq!(outcome, Outcome::NoSession, "command in a lost session");
    let [first, second] = old;
    drop(first);
    thread::sleep(Duration::from_millis(500));
    hsm::use_session(&new, session.id).context("after another descriptor was closed")?;
    // Its place is empty.
    let other = hsm::open_session(&second)?;
    hsm::use_session(&second, other.id)?;
    drop((new, second));
    health::check_well(env)?;
    held.check_same_soon()
}

/// A read of a register is lost now and then: that does not say that the device is gone, and
/// it is not forgotten how to talk to it.
fn lost_read(env: &Env) -> Result<()> {
    let before = stats::settled(env)?;
    for _ in 0..5 {
        inject(env, json!({ "fault": "lost_reads", "count": 1 }))?;
        thread::sleep(Duration::from_millis(700));
    }
    inject(
        env,
        json!({ "fault": "drop_command", "class": "hsm", "count": 1 }),
    )?;
    let device = env.open()?;
    let outcome = stamp::plain(&device, None, 0, Trust::Full)?;
    check_eq!(outcome, Outcome::Aborted, "command that was lost");
    let after = stats::settled(env)?;
    stats::check_more(
        &before,
        &after,
        &[
            ("global/total_lvl1_aborts", 1),
            ("global/total_lvl2_aborts", 0),
            ("recovery/absences", 0),
        ],
    )?;
    drop(device);
    health::check_well(env)
}

/// A command that takes long to be sent.
#[derive(Clone, Copy)]
enum Late {
    InSession,
    Close,
    /// Of so many bytes.
    Aes(usize),
}

/// A command whose memory is not there until the device has lost all sessions, and has
/// given the number of this one's to somebody else: it is not sent.
fn late(env: &Env, kind: Late) -> Result<()> {
    let held = Held::measure()?;
    let old = env.open()?;
    let session = hsm::open_session(&old)?;
    let (absence, content, command) = match kind {
        Late::InSession | Late::Close => {
            let (operation, flow) = match kind {
                Late::Close => (Operation::CLOSE_SESSION, Flow::Close(session.id)),
                _ => (hsm::IN_SESSION, Flow::InSession(session.id)),
            };
            let request = hsm::plain(operation, Some(session.id));
            let mut scene = HsmScene::new(flow, &request)?;
            let absence = scene.src.take_away()?;
            let command = thread::spawn(move || (scene.send(&old), scene.cmd.output.ext, old));
            (absence, request, command)
        }
        Late::Aes(len) => {
            let text = vec![0x5a; len];
            let mut scene = AesScene::gcm(session, 1, &text)?;
            let absence = scene.src.take_away()?;
            let command = thread::spawn(move || (scene.send(&old), scene.cmd.output.ext, old));
            (absence, text, command)
        }
    };
    let Some(absence) = absence else {
        // Before it says something that it is not asked for.
        let _ = command.join();
        return Err(Skip("the kernel has no user faults").into());
    };
    absence.wait_wanted(BACK)?;
    groups_away_and_back(env)?;
    health::wait_serving(env, 3 * RESET)?;
    let new = env.open()?;
    let other = hsm::open_session(&new)?;
    check_eq!(other.id, session.id, "session that is given away anew");
    let before = env.control()?.counters()?["commands"].clone();
    absence.fill(&content)?;
    let (result, extended, old) = command.join().expect("no panic");
    check_eq!(
        (result, extended),
        (Err(Errno::AGAIN), ext::RECOVERING),
        "end"
    );
    check_eq!(env.control()?.counters()?["commands"], before, "commands");
    hsm::use_session(&new, other.id)?;
    drop(old);
    thread::sleep(Duration::from_millis(500));
    hsm::use_session(&new, other.id).context("after the other descriptor was closed")?;
    drop(new);
    health::check_well(env)?;
    held.check_same_soon()
}

/// Resets the device under load in some way; all goes on after that.
fn reset_under_load(env: &Env, reset: impl FnOnce() -> Result<()>) -> Result<Tally> {
    let crowd = Crowd::start(env, Plan::MIXED)?;
    crowd.wait_busy()?;
    let begin = Instant::now();
    reset()?;
    crowd.wait_answers(1, BACK)?;
    figure(
        "reset, from its begin to answers of both kinds",
        begin.elapsed(),
    );
    crowd.rekey(env)?;
    crowd.wait_answers(50, BACK)?;
    let tally = crowd.stop(env, BACK)?;
    println!("# {tally}");
    Ok(tally)
}

fn flr(env: &Env) -> Result<()> {
    let address = env.become_virtual()?;
    let held = Held::measure()?;
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let entropy = device.info()?.entropy;
    let before = counter(env, "function_resets")?;
    let tally = reset_under_load(env, || pci::reset(&address))?;
    check_eq!(counter(env, "function_resets")?, before + 1, "resets");
    tally.check(is_of_reset)?;
    ensure!(device.info()?.entropy != entropy, "no new entropy");
    check_forgotten(&device, session.id)?;
    drop(device);
    health::check_well(env)?;
    held.check_same_soon()
}

/// Function level resets while the driver resets the device for other reasons.
fn flr_and_others(env: &Env) -> Result<()> {
    const ROUNDS: usize = 5;
    let address = env.become_virtual()?;
    let held = Held::measure()?;
    let crowd = Crowd::start(env, Plan::FEW)?;
    crowd.wait_busy()?;
    let device = env.open()?;
    inject(env, json!({ "fault": "slow_disable", "ms": 100 }))?;
    thread::scope(|scope| -> Result<()> {
        let resets = scope.spawn(|| -> Result<()> {
            for round in 0..4 * ROUNDS {
                let kind = [ResetKind::Controller, ResetKind::Subsystem][round % 2];
                match device.reset(kind) {
                    Ok(()) => {}
                    // It was done, or stopped, by somebody else.
                    Err(error) if matches!(error.errno, Errno::IO | Errno::INVAL) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
        for round in 0..ROUNDS {
            thread::sleep(Duration::from_millis(150 * round as u64));
            pci::reset(&address)?;
        }
        resets.join().expect("no panic")
    })?;
    env.control()?.clear_faults()?;
    inject(env, json!({ "fault": "crash" }))?;
    pci::reset(&address)?;
    health::wait_serving(env, 2 * RESET)?;
    crowd.rekey(env)?;
    crowd.wait_answers(20, BACK)?;
    let tally = crowd.stop(env, BACK)?;
    println!("# {tally}");
    tally.check(is_of_dead)?;
    drop(device);
    health::check_well(env)?;
    held.check_same_soon()
}

/// A device that does not obey its registers obeys the bus.
fn flr_of_stuck(env: &Env) -> Result<()> {
    copy_little(env)?;
    let address = env.become_virtual()?;
    let held = Held::measure()?;
    let device = env.open()?;
    let crowd = waiting_crowd(env)?;
    reset_in_vain(env, &device)?;
    env.control()?.clear_fault("stop_fetch")?;
    let begin = Instant::now();
    pci::reset(&address)?;
    health::wait_serving(env, 2 * RESET)?;
    figure("function level reset of a stuck device", begin.elapsed());
    env.control()?.clear_faults()?;
    crowd.rekey(env)?;
    crowd.wait_answers(20, BACK)?;
    crowd.stop(env, BACK)?.check(is_of_dead)?;
    env.control()?.set("cap_to", &json!(20))?;
    drop(device);
    health::check_well(env)?;
    held.check_same_soon()
}

fn bus_under_load(env: &Env) -> Result<()> {
    let held = Held::measure()?;
    let tally = reset_under_load(env, || bus_reset(env))?;
    tally.check(is_of_reset)?;
    health::check_well(env)?;
    held.check_same_soon()
}

/// The machine sleeps, or as good as, and wakes up.
fn sleep(env: &Env, state: &str) -> Result<()> {
    let states = fs::read_to_string("/sys/power/state").unwrap_or_default();
    if !states.split_whitespace().any(|has| has == state) {
        return Err(Skip("the machine has no such state").into());
    }
    // All but the last step, from which only hardware wakes it.
    if fs::write("/sys/power/pm_test", "devices").is_err() {
        return Err(Skip("the kernel has no test of sleeping").into());
    }
    let held = Held::measure()?;
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let tally = reset_under_load(env, || {
        fs::write("/sys/power/state", state).context("going to sleep")
    });
    fs::write("/sys/power/pm_test", "none")?;
    tally?.check(is_of_reset)?;
    check_forgotten(&device, session.id)?;
    drop(device);
    health::check_well(env)?;
    held.check_same_soon()
}

/// Kills a process, which is gone soon: how soon.
fn kill(mut child: Child) -> Result<Duration> {
    let metronome = Metronome::start();
    let begin = Instant::now();
    child.kill()?;
    check_eq!(child.wait(BACK)?, Some(-9), "killed process");
    let time = begin.elapsed();
    metronome.check(time, KILL, "the killed process was gone")?;
    Ok(time)
}

/// Processes with commands of all kinds under way are killed after `prepare`: they
/// are gone at once, and nothing is left of them.
fn killed(env: &Env, prepare: fn(&Env) -> Result<()>) -> Result<()> {
    copy_little(env)?;
    let held = Held::measure()?;
    let (reader, writer) = pipe()?;
    let child = Child::run(|| {
        let result = (|| -> Result<()> {
            let crowd = Crowd::start(
                env,
                Plan {
                    in_place: true,
                    ..Plan::MIXED
                },
            )?;
            crowd.wait_busy()?;
            inject(env, json!({ "fault": "stop_fetch" }))?;
            thread::sleep(Duration::from_millis(500));
            let mut started = Vec::new();
            // The session is opened, or not, when nobody waits any more.
            for _ in 0..2 {
                let device = env.open()?;
                started.push(thread::spawn(move || hsm::open_session(&device)));
            }
            thread::sleep(Duration::from_millis(100));
            File::from(writer).write_all(b"!")?;
            thread::sleep(Duration::from_secs(60));
            Ok(())
        })();
        i32::from(result.is_err())
    })?;
    let mut byte = [0];
    let count = File::from(reader).read(&mut byte)?;
    check_eq!(count, 1, "child that is ready");
    prepare(env)?;
    let time = kill(child)?;
    figure("kill to the end of a process with 64 threads", time);
    let mut control = env.control()?;
    control.clear_faults()?;
    control.set("cap_to", &json!(20))?;
    control.set_latencies(0)?;
    inject(env, json!({ "fault": "unreachable", "on": false }))?;
    health::wait_serving(env, 3 * RESET)?;
    health::check_well(env)?;
    held.check_same_soon()
}

fn killed_resetting(env: &Env) -> Result<()> {
    inject(
        env,
        json!({ "fault": "slow_disable", "ms": 3000, "count": 1 }),
    )?;
    let mut children = Vec::new();
    for kind in [ResetKind::Controller, ResetKind::Subsystem] {
        children.push(Child::run(|| {
            let reset = || -> Result<()> { Ok(env.open()?.reset(kind)?) };
            i32::from(reset().is_err())
        })?);
    }
    thread::sleep(Duration::from_secs(1));
    for child in children {
        kill(child)?;
    }
    health::wait_serving(env, RESET)?;
    health::check_well(env)
}

/// A descriptor with a session is closed while the device is not well: that takes
/// not long, and the session is ended when it can be.
fn closed(env: &Env, prepare: fn(&Env) -> Result<Value>) -> Result<()> {
    let held = Held::measure()?;
    let device = env.open()?;
    hsm::open_session(&device)?;
    let others = (0..3)
        .map(|_| -> Result<Device> {
            let device = env.open()?;
            hsm::open_session(&device)?;
            Ok(device)
        })
        .collect::<Result<Vec<_>>>()?;
    let fault = prepare(env)?;
    inject(env, fault)?;
    // Until it is noticed, if it can be.
    thread::sleep(Duration::from_millis(1500));
    let metronome = Metronome::start();
    let begin = Instant::now();
    drop(device);
    figure("close", begin.elapsed());
    metronome.check(begin.elapsed(), CLOSE, "closing was done")?;
    // As when a process ends.
    let begin = Instant::now();
    drop(others);
    figure("three closes more", begin.elapsed());
    metronome.check(begin.elapsed(), MORE_CLOSES, "closing more was done")?;
    let mut control = env.control()?;
    ensure!(!control.sessions()?.is_empty(), "they were ended at once");
    control.clear_faults()?;
    control.set("cap_to", &json!(20))?;
    inject(env, json!({ "fault": "unreachable", "on": false }))?;
    health::wait_serving(env, 3 * RESET)?;
    health::check_well(env)?;
    held.check_same_soon()
}

fn unbind_resetting(env: &Env) -> Result<()> {
    copy_little(env)?;
    let held = Held::measure()?;
    let address = env.address()?;
    inject(
        env,
        json!({ "fault": "slow_disable", "ms": 3000, "count": 1 }),
    )?;
    // Threads may have come back, and with them their descriptors.
    let device = env.open()?;
    let crowd = waiting_crowd(env)?;
    inject(env, json!({ "fault": "crash" }))?;
    thread::sleep(Duration::from_secs(1));
    ensure!(module::unload().is_err(), "unloaded while in use");
    let metronome = Metronome::start();
    let begin = Instant::now();
    pci::unbind(&address)?;
    let time = begin.elapsed();
    figure("unbinding during a reset", time);
    metronome.check(time, RESET, "unbinding was done")?;
    ensure!(
        module::unload().is_err(),
        "unloaded while there is a descriptor"
    );
    let outcome = stamp::plain(&device, None, 0, Trust::Full)?;
    check_eq!(outcome, Outcome::Gone, "command after unbinding");
    drop(device);
    crowd.wait_end(BACK)?;
    env.control()?.clear_faults()?;
    let tally = crowd.stop(env, BACK)?;
    tally.check(|class, outcome| is_of_reset(class, outcome) || outcome == Outcome::Gone)?;
    module::unload().context("unloading when all is closed")?;
    module::load_with(&env.module, c"aes_bounce_buffers=0")?;
    health::check_well(env)?;
    held.check_same_soon()
}

/// The worker waits for a device that does not stop, twice 3.5 s, and so does unbinding, once.
fn unbind_stopping(env: &Env) -> Result<()> {
    let held = Held::measure()?;
    let address = env.become_virtual()?;
    let device = env.open()?;
    env.control()?.set("cap_to", &json!(6))?;
    inject(env, json!({ "fault": "stuck_disable" }))?;
    inject(env, json!({ "fault": "crash" }))?;
    thread::sleep(Duration::from_secs(1));
    let outcome = stamp::plain(&device, None, 0, Trust::Full)?;
    check_eq!(outcome, Outcome::Recovering, "command while it stops");
    let metronome = Metronome::start();
    let begin = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let unbinding = scope.spawn(|| pci::unbind(&address));
        thread::sleep(Duration::from_millis(500));
        // It may be about to stop, and have memory to write to until then.
        ensure!(
            pci::may_access_memory(&address)?,
            "the device was cut off while it has time left"
        );
        unbinding.join().expect("does not panic")
    })?;
    let time = begin.elapsed();
    figure("unbinding while a reset waits for a stuck device", time);
    metronome.check(time, RESET, "unbinding was done")?;
    env.control()?.clear_faults()?;
    env.control()?.set("cap_to", &json!(20))?;
    pci::bind(&address)?;
    health::check_well(env)?;
    held.check_same_soon()
}

fn resets_at_once(env: &Env) -> Result<()> {
    let before = enables(env)?;
    let devices = (0..8)
        .map(|_| env.open())
        .collect::<Result<Vec<Device>>>()?;
    thread::scope(|scope| -> Result<()> {
        let mut resets = Vec::new();
        for (number, device) in devices.iter().enumerate() {
            let kind = [ResetKind::Controller, ResetKind::Subsystem][number % 2];
            resets.push(scope.spawn(move || -> Result<()> {
                device.reset(kind)?;
                let outcome = stamp::plain(device, None, 0, Trust::Full)?;
                ensure!(
                    matches!(
                        outcome,
                        Outcome::Done | Outcome::Aborted | Outcome::Recovering
                    ),
                    "command after a reset: {outcome:?}"
                );
                Ok(())
            }));
        }
        let join = |reset: thread::ScopedJoinHandle<_>| reset.join().expect("no panic");
        resets.into_iter().try_for_each(join)
    })?;
    let resets = enables(env)? - before;
    ensure!((2..=8).contains(&resets), "{resets} resets for 8 requests");
    drop(devices);
    health::check_well(env)
}

/// What was done since another recovery began has to be undone as well.
fn reset_waits(env: &Env) -> Result<()> {
    let before = enables(env)?;
    inject(
        env,
        json!({ "fault": "slow_disable", "ms": 2000, "count": 1 }),
    )?;
    inject(env, json!({ "fault": "crash" }))?;
    thread::sleep(Duration::from_millis(1500));
    let device = env.open()?;
    let outcome = stamp::plain(&device, None, 0, Trust::Full)?;
    check_eq!(outcome, Outcome::Recovering, "command during a recovery");
    let begin = Instant::now();
    device.reset(ResetKind::Subsystem)?;
    ensure!(
        begin.elapsed() > Duration::from_millis(500),
        "it did not wait"
    );
    check_eq!(enables(env)?, before + 2, "starts");
    let outcome = stamp::plain(&device, None, 0, Trust::Full)?;
    check_eq!(outcome, Outcome::Done, "command after a reset");
    drop(device);
    health::check_well(env)
}
