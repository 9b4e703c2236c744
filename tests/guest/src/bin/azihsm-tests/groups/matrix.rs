// SPDX-License-Identifier: GPL-2.0
//! Every fault of the virtual device in every situation.
//!
//! A cell of the matrix is one fault in one situation.  After each, whatever it
//! was, every caller has returned with a code that abi.rst has for it, nothing was
//! lost or mixed up, and device and driver can do all that they could before.

use crate::crowd::Class;
use crate::crowd::Crowd;
use crate::crowd::Plan;
use crate::health;
use crate::health::Held;
use crate::health::Metronome;
use crate::runner::Env;
use crate::runner::Test;
use crate::stamp;
use crate::stamp::Keys;
use crate::stamp::Mode;
use crate::stamp::Outcome;
use crate::stamp::Trust;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::kmsg::KernelLog;
use azihsm_guest::pci;
use azihsm_uapi::Device;
use serde_json::json;
use serde_json::Value;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// What the driver may say about all this.
const ODD: &[&str] = &["azihsm"];

/// CAP.TO: two seconds for the device to become ready or to stop.
pub(super) const READY_TIMEOUT: u64 = 3;

/// How long unbinding may take: two attempts to stop the device, and a reset
/// through the bus.
const UNBINDING: Duration = Duration::from_secs(8);

/// How long a close may take.
const CLOSING: Duration = Duration::from_secs(7);

/// How long threads may take to come back when nothing is in their way.
const BACK: Duration = Duration::from_secs(15);

/// What a fault does to commands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Effect {
    /// They take longer, at most.
    None,
    /// The device refuses some with this status and error code.
    Refused(u32, u32),
    /// The device contradicts itself.
    Nonsense,
    /// Some are lost, and ended with their queue.
    Lost,
    /// The device is reset, perhaps after some attempts.
    Reset,
    /// The device is not there for a while.
    Absent,
}

impl Effect {
    /// Whether a command of `class` may end with `outcome`, if the fault concerns
    /// `concerned`.
    fn allows(self, concerned: Option<Class>, class: Class, outcome: Outcome) -> bool {
        let is_concerned = concerned.is_none_or(|concerned| concerned == class);
        let is_reset = matches!(self, Self::Reset | Self::Absent);
        match outcome {
            Outcome::Done => true,
            Outcome::Aborted | Outcome::Recovering => {
                is_reset || (self == Self::Lost && is_concerned)
            }
            Outcome::Dead | Outcome::NoSession => is_reset,
            Outcome::Gone => self == Self::Absent,
            Outcome::Nonsense => self == Self::Nonsense && class == Class::Aes,
            Outcome::Refused(status, code) => {
                (self == Self::Refused(status, code) && is_concerned)
                    || (is_reset && class == Class::Aes && stamp::is_lost_key(status, code))
            }
        }
    }
}

/// A fault, or several that make sense together only.
#[derive(Clone)]
pub(super) struct Fault {
    pub(super) name: &'static str,
    inject: fn() -> Vec<Value>,
    pub(super) effect: Effect,
    /// The kind of commands that it concerns, if it does not concern all.
    concerns: Option<Class>,
    /// For how long it is there, unless it is used up.
    hold: Duration,
    /// Whether it happens at once, and not to a command.
    is_incident: bool,
    /// How long it may take until the device works again.
    patience: Duration,
    trust: Trust,
    /// Seconds that a cell takes.
    takes: u32,
}

impl Fault {
    /// Something that happens to commands of `class`.
    fn of(class: Class, name: &'static str, effect: Effect, inject: fn() -> Vec<Value>) -> Self {
        Self {
            name,
            inject,
            effect,
            concerns: Some(class),
            hold: Duration::from_millis(100),
            is_incident: false,
            patience: BACK,
            trust: Trust::Full,
            takes: match effect {
                Effect::Lost => 12,
                _ => 4,
            },
        }
    }

    /// Something that happens to the device.
    fn device(name: &'static str, effect: Effect, inject: fn() -> Vec<Value>) -> Self {
        Self {
            concerns: None,
            is_incident: true,
            hold: Duration::from_millis(1200),
            takes: 6,
            ..Self::of(Class::Hsm, name, effect, inject)
        }
    }

    /// It begins with a command that is lost.
    fn of_commands(mut self) -> Self {
        self.is_incident = false;
        self
    }

    /// It is there for so long.
    fn hold_ms(mut self, ms: u64) -> Self {
        self.hold = Duration::from_millis(ms);
        self
    }

    /// The device needs so many seconds to work again.
    fn patience(mut self, seconds: u32) -> Self {
        self.patience = Duration::from_secs(u64::from(seconds)) + BACK;
        self.takes = seconds + 6;
        self
    }

    /// It tells wrong lengths.
    fn lies(mut self) -> Self {
        self.trust = Trust::NotLengths;
        self
    }

    /// Makes it happen.
    pub(super) fn happen(&self, env: &Env) -> Result<()> {
        let mut control = env.control()?;
        for fault in (self.inject)() {
            control.inject(fault)?;
        }
        Ok(())
    }
}

/// The situation that a fault meets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Situation {
    /// Nobody uses the device.
    Idle,
    /// One command of each kind is under way, or comes.
    One,
    /// 64 threads send all kinds of commands.
    Load,
    /// The device is being reset, and has a few users.
    Recovery,
    /// Descriptors with sessions are closed.
    Close,
    /// The driver is unbound, and has a few users.
    Unbind,
}

impl Situation {
    const ALL: [Self; 6] = [
        Self::Idle,
        Self::One,
        Self::Load,
        Self::Recovery,
        Self::Close,
        Self::Unbind,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::One => "one",
            Self::Load => "load",
            Self::Recovery => "recovery",
            Self::Close => "close",
            Self::Unbind => "unbind",
        }
    }
}

/// A short way to write faults down.
macro_rules! faults {
    ($($fault:tt),* $(,)?) => {
        || vec![$(json!($fault)),*]
    };
}

/// All faults.
pub(super) fn faults() -> Vec<Fault> {
    use Class::Aes;
    use Class::Hsm;
    use Effect::*;
    vec![
        Fault::of(Hsm, "drop-completion-hsm", Lost, faults![
            { "fault": "drop_completion", "class": "hsm", "count": 3 }
        ]),
        Fault::of(Aes, "drop-completion-aes", Lost, faults![
            { "fault": "drop_completion", "class": "aes", "count": 3 }
        ]),
        Fault::of(Hsm, "drop-command-hsm", Lost, faults![
            { "fault": "drop_command", "class": "hsm", "count": 3 }
        ]),
        Fault::of(Aes, "drop-command-aes", Lost, faults![
            { "fault": "drop_command", "class": "aes", "count": 3 }
        ]),
        Fault::of(Hsm, "delay-hsm", None, faults![
            { "fault": "delay", "class": "hsm", "ms": 300, "count": 5 }
        ]),
        Fault::of(Aes, "delay-aes", None, faults![
            { "fault": "delay", "class": "aes", "ms": 300, "count": 5 }
        ]),
        Fault::of(Hsm, "late-hsm", Lost, faults![
            { "fault": "delay", "class": "hsm", "ms": 9000, "count": 2 }
        ]),
        Fault::of(Aes, "late-aes", Lost, faults![
            { "fault": "delay", "class": "aes", "ms": 9000, "count": 2 }
        ]),
        Fault::of(Hsm, "reorder-hsm", None, faults![
            { "fault": "reorder", "class": "hsm", "after": 2, "ms": 200, "count": 20 }
        ]),
        Fault::of(Aes, "reorder-aes", None, faults![
            { "fault": "reorder", "class": "aes", "after": 2, "ms": 200, "count": 20 }
        ]),
        Fault::of(Hsm, "duplicate-hsm", None, faults![
            { "fault": "duplicate_completion", "class": "hsm", "count": 5 }
        ]),
        Fault::of(Aes, "duplicate-aes", None, faults![
            { "fault": "duplicate_completion", "class": "aes", "count": 5 }
        ]),
        Fault::of(Hsm, "wrong-cid-hsm", Lost, faults![
            { "fault": "wrong_cid", "class": "hsm", "count": 3 }
        ]),
        Fault::of(Aes, "wrong-cid-aes", Lost, faults![
            { "fault": "wrong_cid", "class": "aes", "count": 3 }
        ]),
        // A slot that exists, but not that command.
        Fault::of(Hsm, "stale-cid-hsm", Lost, faults![
            { "fault": "corrupt_cqe", "class": "hsm", "offset": 13, "xor": 128, "count": 3 }
        ]),
        Fault::of(Aes, "stale-cid-aes", Lost, faults![
            { "fault": "corrupt_cqe", "class": "aes", "offset": 3, "xor": 128, "count": 3 }
        ]),
        // Nothing behind such an entry can be seen.
        Fault::of(Hsm, "wrong-phase-hsm", Lost, faults![
            { "fault": "wrong_phase", "class": "hsm", "count": 1 }
        ]),
        Fault::of(Aes, "wrong-phase-aes", Lost, faults![
            { "fault": "wrong_phase", "class": "aes", "count": 1 }
        ]),
        Fault::of(Hsm, "wrong-sqhd-hsm", None, faults![
            { "fault": "wrong_sqhd", "class": "hsm", "sqhd": 65535, "count": 10 },
            { "fault": "wrong_sqhd", "class": "hsm", "sqhd": 0, "count": 10 }
        ]),
        Fault::of(Aes, "wrong-sqhd-aes", None, faults![
            { "fault": "wrong_sqhd", "class": "aes", "sqhd": 65535, "count": 10 },
            { "fault": "wrong_sqhd", "class": "aes", "sqhd": 0, "count": 10 }
        ]),
        Fault::of(Hsm, "status-hsm", Refused(0xc6, 0), faults![
            { "fault": "status", "class": "hsm", "status": 0xc6, "count": 5 }
        ]),
        Fault::of(Hsm, "executed-status-hsm", Refused(7, 0), faults![
            { "fault": "status", "class": "hsm", "status": 7, "execute": true, "count": 5 }
        ]),
        Fault::of(Aes, "status-aes", Refused(3, 10), faults![
            { "fault": "status", "class": "aes", "status": 3, "error": 10, "count": 5 }
        ]),
        Fault::of(Aes, "executed-status-aes", Refused(5, 1), faults![
            {
                "fault": "status", "class": "aes", "status": 5, "error": 1, "execute": true,
                "count": 5
            }
        ]),
        Fault::of(Hsm, "session-out-of-nowhere", None, faults![
            {
                "fault": "cqe_session", "class": "hsm", "flags": 255, "session": 5, "app_id": 9,
                "count": 10
            }
        ]),
        Fault::of(Hsm, "session-that-cannot-be", None, faults![
            {
                "fault": "cqe_session", "class": "hsm", "flags": 0x1f, "session": 65535,
                "app_id": 255, "count": 10
            }
        ]),
        Fault::of(Hsm, "no-length-hsm", None, faults![
            { "fault": "cqe_length", "class": "hsm", "length": 0, "count": 5 }
        ]).lies(),
        Fault::of(Hsm, "huge-length-hsm", None, faults![
            { "fault": "cqe_length", "class": "hsm", "length": 65535, "count": 5 }
        ]).lies(),
        Fault::of(Aes, "no-length-aes", Nonsense, faults![
            { "fault": "cqe_length", "class": "aes", "length": 0, "count": 5 }
        ]),
        Fault::of(Aes, "huge-length-aes", Nonsense, faults![
            { "fault": "cqe_length", "class": "aes", "length": 4294967295u32, "count": 5 }
        ]),

        Fault::device("spurious-interrupts", None, || {
            (0..32)
                .map(|vector| json!({ "fault": "spurious_interrupt", "vector": vector }))
                .collect()
        }).hold_ms(100),
        Fault::device("drop-interrupt", None, faults![
            { "fault": "drop_interrupt", "count": 40 }
        ]).hold_ms(2500),
        Fault::device("short-stop-fetch", None, faults![
            { "fault": "stop_fetch" }
        ]).hold_ms(1500),
        Fault::device("pause", None, faults![
            { "fault": "pause", "ms": 2000 }
        ]).hold_ms(2000),
        Fault::device("crash", Reset, faults![
            { "fault": "crash" }
        ]),
        Fault::device("force-disable", Reset, faults![
            { "fault": "force_disable" }
        ]),
        Fault::device("groups-taken-away", Reset, faults![
            { "fault": "force_disable", "groups": 0 }
        ]),
        Fault::device("gone", Absent, faults![
            { "fault": "gone" }
        ]),
        Fault::device("unreachable", Absent, faults![
            { "fault": "unreachable" }
        ]),
        Fault::device("slow-enable", Reset, faults![
            { "fault": "slow_enable", "ms": 1000, "count": 1 }, { "fault": "crash" }
        ]),
        Fault::device("slow-disable", Reset, faults![
            { "fault": "slow_disable", "ms": 1000, "count": 1 }, { "fault": "crash" }
        ]),
        Fault::device("stuck-enable", Reset, faults![
            { "fault": "stuck_enable" }, { "fault": "crash" }
        ]).hold_ms(4000),
        Fault::device("stuck-disable", Reset, faults![
            { "fault": "stuck_disable" }, { "fault": "crash" }
        ]).hold_ms(4000),
        Fault::device("fail-enable", Reset, faults![
            { "fault": "fail_enable", "count": 1 }, { "fault": "crash" }
        ]).patience(5),
        Fault::device("wrong-identity", Reset, faults![
            { "fault": "identify", "offset": 77, "data": "77", "count": 1 }, { "fault": "crash" }
        ]),
        Fault::device("queue-refused", Reset, faults![
            {
                "fault": "status", "class": "admin", "opcode": 1, "status": 0x4007, "skip": 3,
                "count": 1
            },
            { "fault": "crash" }
        ]),
        Fault::device("slow-admin", Reset, faults![
            { "fault": "delay", "class": "admin", "ms": 300, "count": 4 }, { "fault": "crash" }
        ]),
        Fault::device("duplicate-admin", Reset, faults![
            { "fault": "duplicate_completion", "class": "admin", "count": 5 },
            { "fault": "crash" }
        ]),
        Fault::device("lost-admin", Reset, faults![
            { "fault": "drop_completion", "class": "admin", "count": 1 }, { "fault": "crash" }
        ]).patience(40),
        Fault::device("wrong-cid-admin", Reset, faults![
            { "fault": "wrong_cid", "class": "admin", "count": 1 }, { "fault": "crash" }
        ]).patience(40),
        Fault::device("dead-admin-queue", Reset, faults![
            { "fault": "dead_admin_queue", "count": 1 }, { "fault": "crash" }
        ]).patience(40),
        Fault::device("slow-abort", Lost, faults![
            { "fault": "stall_delete_sq", "ms": 2000, "count": 1 },
            { "fault": "drop_command", "count": 2 }
        ]).of_commands().patience(14),
        Fault::device("abort-refused", Reset, faults![
            { "fault": "status", "class": "admin", "opcode": 0, "status": 0x4007, "count": 1 },
            { "fault": "drop_command", "class": "hsm", "count": 1 }
        ]).of_commands().patience(12),
        Fault::device("new-queue-refused", Reset, faults![
            { "fault": "status", "class": "admin", "opcode": 1, "status": 0x4007, "count": 1 },
            { "fault": "drop_command", "class": "aes", "count": 1 }
        ]).of_commands().patience(12),
        Fault::device("hung", Reset, faults![
            { "fault": "stop_fetch" }
        ]).hold_ms(40_000).patience(45),
        Fault::device("abort-hangs", Reset, faults![
            { "fault": "stall_delete_sq" }, { "fault": "drop_command", "class": "hsm", "count": 1 }
        ]).of_commands().hold_ms(42_000).patience(45),
    ]
}

/// Cells that are tried every day.
const EVERYDAY: &[&str] = &[
    "drop-completion-hsm/load",
    "wrong-cid-aes/one",
    "duplicate-hsm/load",
    "huge-length-hsm/load",
    "crash/load",
    "crash/recovery",
    "unreachable/close",
    "gone/recovery",
    "stuck-disable/unbind",
    "drop-command-hsm/unbind",
    "groups-taken-away/idle",
    "status-aes/one",
    "spurious-interrupts/load",
    "wrong-phase-hsm/close",
];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for fault in faults() {
        for situation in Situation::ALL {
            let cell = format!("{}/{}", fault.name, situation.name());
            let is_long = !EVERYDAY.contains(&cell.as_str());
            let takes = match situation {
                Situation::Idle if !fault.is_incident => 3,
                Situation::Unbind => 4,
                _ => fault.takes,
            };
            let fault = fault.clone();
            let test = Test::new(format!("matrix/{cell}"), move |env: &Env| {
                run(env, &fault, situation)
            })
            .takes(takes)
            .seconds(240)
            .may_warn(ODD);
            tests.push(if is_long { test.long() } else { test });
        }
    }
    tests
}

/// One cell.
fn run(env: &Env, fault: &Fault, situation: Situation) -> Result<()> {
    env.control()?.set("cap_to", &json!(READY_TIMEOUT))?;
    // The driver remembers faults, and waits longer and longer with a device that has
    // one after the other, as it has here.
    let address = env.address()?;
    pci::unbind(&address)?;
    pci::bind(&address)?;
    let held = Held::measure()?;
    let begin = Instant::now();
    match situation {
        Situation::Idle => idle(env, fault),
        Situation::One => one(env, fault),
        Situation::Load => load(env, fault),
        Situation::Recovery => recovery(env, fault),
        Situation::Close => close(env, fault),
        Situation::Unbind => unbind(env, fault),
    }?;
    let cell = begin.elapsed();
    health::check_well(env)?;
    held.check_same_soon()?;
    let checks = begin.elapsed() - cell;
    println!("# {cell:.1?}, and {checks:.1?} to check that all is well");
    env.control()?.set("cap_to", &json!(20))
}

/// How many injected faults there still are; none if there is one for ever.
fn left(env: &Env) -> Result<Option<u64>> {
    let answer = env.control()?.ask(&json!({ "cmd": "faults" }))?;
    let faults = answer["faults"].as_array().context("no faults")?;
    Ok(faults.iter().map(|fault| fault["count"].as_u64()).sum())
}

/// How often injected faults have happened.
fn hits(env: &Env) -> Result<u64> {
    let answer = env.control()?.ask(&json!({ "cmd": "faults" }))?;
    let faults = answer["faults"].as_array().context("no faults")?;
    Ok(faults
        .iter()
        .filter_map(|fault| fault["hits"].as_u64())
        .sum())
}

/// Waits until the driver says `text`.
fn wait_message(log: &mut KernelLog, text: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let messages = log.read_about_driver()?;
        if messages.iter().any(|message| message.text.contains(text)) {
            // It may be done for one queue after the other.
            thread::sleep(Duration::from_secs(1));
            return Ok(());
        }
        ensure!(begin.elapsed() < BACK, "the driver did not say {text:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until a fault has done what it can, and then lets everything be well.
fn pass(env: &Env, fault: &Fault, crowd: Option<&Crowd>) -> Result<()> {
    let begin = Instant::now();
    thread::sleep(fault.hold);
    if let Some(crowd) = crowd {
        let mut used_up = None;
        while begin.elapsed() < fault.hold + fault.patience && crowd.threads() > 0 {
            if used_up.is_none() {
                match left(env)? {
                    None => break,
                    Some(0) => used_up = Some(Instant::now()),
                    Some(_) => {}
                }
            }
            // Commands that were hit have ended, one way or another.
            if used_up.is_some_and(|at| crowd.under_way().1 < at.elapsed()) {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    undo(env)
}

/// Lets everything be well.
pub(super) fn undo(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    control.clear_faults()?;
    for fault in ["gone", "unreachable"] {
        control.inject(json!({ "fault": fault, "on": false }))?;
    }
    // Taken away by a fault, or by a reset through the bus.
    control.set("groups", &json!(2))
}

fn idle(env: &Env, fault: &Fault) -> Result<()> {
    fault.happen(env)?;
    pass(env, fault, None)?;
    if fault.effect == Effect::None || !fault.is_incident {
        // Nobody has noticed.
        let device = env.open()?;
        let outcome = stamp::plain(&device, None, 0, Trust::Full)?;
        ensure!(outcome == Outcome::Done, "{outcome:?} afterwards");
    }
    health::wait_serving(env, fault.patience)?;
    Ok(())
}

fn one(env: &Env, fault: &Fault) -> Result<()> {
    let device = Arc::new(env.open()?);
    let session = hsm::open_session(&device)?;
    let keys = Arc::new(Keys::default());
    keys.load(&mut env.control()?, session.app)?;
    if fault.is_incident {
        for class in ["hsm", "aes"] {
            let delay = json!({ "fault": "delay", "class": class, "ms": 700, "count": 1 });
            env.control()?.inject(delay)?;
        }
    } else {
        fault.happen(env)?;
    }
    let trust = fault.trust;
    let threads = [Class::Hsm, Class::Aes].map(|class| {
        let (device, keys): (Arc<Device>, _) = (device.clone(), keys.clone());
        let send = move || match class {
            Class::Hsm => stamp::plain(&device, Some(session.id), 300, trust),
            Class::Aes => stamp::aes(&device, session, &keys, Mode::Gcm, 20_000),
        };
        (class, thread::spawn(send))
    });
    if fault.is_incident {
        thread::sleep(Duration::from_millis(300));
        fault.happen(env)?;
    }
    let begin = Instant::now();
    let mut ends = Vec::new();
    for (class, thread) in threads {
        while !thread.is_finished() {
            ensure!(
                begin.elapsed() < fault.hold + fault.patience,
                "{class:?} command did not come back"
            );
            // It may be for this that it waits.
            if begin.elapsed() > fault.hold {
                env.control()?.clear_fault("stop_fetch")?;
            }
            thread::sleep(Duration::from_millis(5));
        }
        ends.push((class, thread.join().expect("no panic")?));
    }
    for (class, outcome) in &ends {
        let allowed = fault.effect.allows(fault.concerns, *class, *outcome);
        ensure!(allowed, "{class:?} command ended with {outcome:?}");
    }
    let is_lost = |end: &(Class, Outcome)| matches!(end.1, Outcome::Aborted | Outcome::Gone);
    if matches!(fault.effect, Effect::Lost) && !fault.name.starts_with("late") {
        ensure!(ends.iter().any(is_lost), "no command was lost: {ends:?}");
    }
    pass(env, fault, None)?;
    keys.delete(&mut env.control()?);
    drop(device);
    health::wait_serving(env, fault.patience)?;
    Ok(())
}

fn load(env: &Env, fault: &Fault) -> Result<()> {
    let crowd = Crowd::start(
        env,
        Plan {
            trust: fault.trust,
            ..Plan::MIXED
        },
    )?;
    crowd.wait_busy()?;
    fault.happen(env)?;
    pass(env, fault, Some(&crowd))?;
    finish(env, fault, crowd, fault.effect)
}

fn recovery(env: &Env, fault: &Fault) -> Result<()> {
    let crowd = Crowd::start(
        env,
        Plan {
            trust: fault.trust,
            ..Plan::FEW
        },
    )?;
    crowd.wait_busy()?;
    let mut control = env.control()?;
    control.inject(json!({ "fault": "slow_disable", "ms": 400, "count": 1 }))?;
    control.inject(json!({ "fault": "crash" }))?;
    let begin = Instant::now();
    while control.state()?["enabled"] == true {
        ensure!(begin.elapsed() < BACK, "there is no recovery");
    }
    drop(control);
    fault.happen(env)?;
    pass(env, fault, Some(&crowd))?;
    let effect = match fault.effect {
        Effect::Absent => Effect::Absent,
        _ => Effect::Reset,
    };
    finish(env, fault, crowd, effect)
}

/// Makes sure that everything works again, and that everybody was told what they
/// should be.
fn finish(env: &Env, fault: &Fault, crowd: Crowd, effect: Effect) -> Result<()> {
    health::wait_serving(env, fault.patience).with_context(|| format!("{}", crowd.tally()))?;
    if crowd.threads() > 0 {
        if matches!(effect, Effect::Reset | Effect::Absent) {
            crowd.rekey(env)?;
        }
        crowd.wait_answers(20, fault.patience)?;
    }
    let tally = crowd.stop(env, BACK)?;
    println!("# {tally}");
    tally.check(|class, outcome| {
        effect.allows(fault.concerns, class, outcome)
            || fault.effect.allows(fault.concerns, class, outcome)
    })
}

fn close(env: &Env, fault: &Fault) -> Result<()> {
    let devices = (0..6)
        .map(|_| -> Result<Device> {
            let device = env.open()?;
            hsm::open_session(&device)?;
            Ok(device)
        })
        .collect::<Result<Vec<_>>>()?;
    let mut log = KernelLog::end()?;
    let metronome = Metronome::start();
    fault.happen(env)?;
    let closing = devices.into_iter().map(|device| {
        thread::spawn(move || {
            let begin = Instant::now();
            drop(device);
            begin.elapsed()
        })
    });
    for thread in closing.collect::<Vec<_>>() {
        let time = thread.join().expect("no panic");
        metronome.check(time, CLOSING, "closing was done")?;
    }
    // Nobody waits for what is lost, but it has its slots until then.
    let end = match (fault.effect, fault.name) {
        (Effect::Lost, _) => Some("queue aborted"),
        (_, "abort-refused") => Some("recovered in"),
        _ => None,
    };
    if let (Some(end), 1..) = (end, hits(env)?) {
        wait_message(&mut log, end)?;
    }
    pass(env, fault, None)?;
    health::wait_serving(env, fault.patience)?;
    Ok(())
}

fn unbind(env: &Env, fault: &Fault) -> Result<()> {
    let address = env.address()?;
    let metronome = Metronome::start();
    let crowd = Crowd::start(
        env,
        Plan {
            trust: fault.trust,
            ..Plan::FEW
        },
    )?;
    crowd.wait_busy()?;
    fault.happen(env)?;
    thread::sleep(Duration::from_millis(200));
    let begin = Instant::now();
    pci::unbind(&address)?;
    let time = begin.elapsed();
    println!("# unbinding took {} ms", time.as_millis());
    metronome.check(time, UNBINDING, "unbinding was done")?;
    crowd.wait_end(BACK)?;
    let tally = crowd.stop(env, BACK)?;
    tally.check(|class, outcome| {
        let ends = matches!(outcome, Outcome::Gone);
        ends || fault.effect.allows(fault.concerns, class, outcome)
    })?;
    undo(env)?;
    pci::bind(&address).context("binding afterwards")
}

#[cfg(test)]
mod tests {
    use super::faults;
    use super::tests;
    use super::EVERYDAY;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<_> = faults().iter().map(|fault| fault.name).collect();
        assert_eq!(names.len(), faults().len());
    }

    #[test]
    fn cells_of_every_day_exist() {
        let short = tests().into_iter().filter(|test| test.is_short()).count();
        assert_eq!(short, EVERYDAY.len());
    }
}
