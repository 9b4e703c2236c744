// SPDX-License-Identifier: GPL-2.0
//! Many commands at once, signals, and processes that are killed
//! (`Documentation/abi.rst`, 3.8).

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
use azihsm_guest::hsm::Session;
use azihsm_guest::module;
use azihsm_guest::sys;
use azihsm_guest::sys::Child;
use azihsm_mbor::Operation;
use azihsm_uapi::Device;
use azihsm_uapi::Flow;
use nix::sys::signal::SigEvent;
use nix::sys::signal::SigevNotify;
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use nix::sys::timer::Expiration;
use nix::sys::timer::Timer;
use nix::sys::timer::TimerSetTimeFlags;
use nix::time::ClockId;
use nix::unistd::pipe;
use nix::unistd::read;
use nix::unistd::write;
use serde_json::json;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How soon a killed process has to be gone.
const SOON: Duration = Duration::from_secs(1);

/// The longest a command may take that nothing is wrong with: far less than
/// what it takes to time out, and far more than a busy host needs.
const LONG: Duration = Duration::from_secs(5);

/// The longest that many threads may take to start, on a kernel that checks each access.
const START: Duration = Duration::from_secs(30);

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("load/128-threads-with-own-descriptors", many_descriptors).seconds(120),
        Test::new("load/32-threads-on-one-descriptor", one_descriptor).seconds(120),
        Test::new("load/sessions-come-and-go", sessions).seconds(120),
        Test::new("load/no-completion-is-missed", no_completion_missed).seconds(120),
        Test::new("load/doorbells-are-rung-for-every-command", all_fetched).seconds(120),
        Test::new("load/full-queues-make-callers-wait", full_queues).seconds(120),
        Test::new("load/those-who-wait-get-their-turn", turns)
            .takes(4)
            .seconds(120),
        Test::new("load/signals-lose-no-command", signals).seconds(120),
        Test::new(
            "load/signals-do-not-interrupt-a-slow-command",
            slow_and_signals,
        ),
        Test::new("load/killed-in-flight-is-gone-soon", killed).takes(7),
        Test::new(
            "load/killed-while-waiting-for-room-is-gone-soon",
            killed_waiting,
        )
        .takes(4),
        Test::new("load/slots-of-the-killed-come-back", slots_come_back)
            .takes(14)
            .seconds(120),
        Test::new(
            "load/killed-while-opening-leaves-no-session",
            killed_opening,
        )
        .takes(2),
        Test::new(
            "load/killed-while-closing-leaves-no-session",
            killed_closing,
        )
        .takes(2),
        Test::new(
            "load/killed-in-session-is-flushed-afterwards",
            killed_in_session,
        )
        .takes(3),
        Test::new("load/killed-with-large-aes-data-in-flight", killed_large).takes(3),
        Test::new("load/killed-leave-no-traces", killed_traces).takes(2),
        Test::new("load/killed-threads-leave-no-session", killed_threads)
            .takes(3)
            .seconds(120),
    ]
}

/// Runs `body` in `count` threads that start at once.
pub fn at_once(count: usize, body: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let barrier = Barrier::new(count);
    thread::scope(|scope| {
        let handles: Vec<_> = (0..count)
            .map(|number| {
                let (barrier, body) = (&barrier, &body);
                thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn_scoped(scope, move || {
                        barrier.wait();
                        body(number).with_context(|| format!("thread {number}"))
                    })
            })
            .collect::<std::io::Result<_>>()?;
        let join = |handle: thread::ScopedJoinHandle<_>| handle.join().expect("does not panic");
        handles.into_iter().try_for_each(join)
    })
}

/// One command, which must not take long.
fn command(device: &Device) -> Result<()> {
    let start = Instant::now();
    hsm::api_revisions(device)?;
    let time = start.elapsed();
    ensure!(time < LONG, "a command took {time:?}");
    Ok(())
}

fn many_descriptors(env: &Env) -> Result<()> {
    at_once(128, |_| {
        let device = env.open()?;
        for _ in 0..10 {
            hsm::api_revisions(&device)?;
        }
        Ok(())
    })
}

fn one_descriptor(env: &Env) -> Result<()> {
    let device = env.open()?;
    at_once(32, |_| {
        for _ in 0..40 {
            command(&device)?;
        }
        Ok(())
    })
}

/// As many threads as there are sessions, each with its own.
fn sessions(env: &Env) -> Result<()> {
    at_once(8, |number| {
        for round in 0..15 {
            let device = env.open()?;
            let session = hsm::open_session(&device)?;
            hsm::use_session(&device, session.id)?;
            // Some close, some leave it to the driver.
            if (number + round) % 2 == 0 {
                hsm::close_session(&device, session.id)?;
            }
        }
        Ok(())
    })
}

fn no_completion_missed(env: &Env) -> Result<()> {
    let device = env.open()?;
    for _ in 0..1000 {
        command(&device)?;
    }
    at_once(4, |_| {
        for _ in 0..500 {
            command(&device)?;
        }
        Ok(())
    })
}

fn all_fetched(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    let mut count = || -> Result<u64> {
        let counters = control.counters()?;
        counters["commands"]["hsm"].as_u64().context("no counters")
    };
    let before = count()?;
    let device = env.open()?;
    at_once(16, |_| {
        for _ in 0..25 {
            command(&device)?;
        }
        Ok(())
    })?;
    check_eq!(count()?, before + 400, "commands that reached the device");
    Ok(())
}

/// Commands that are slow enough for all queues to fill up.
fn full_queues(env: &Env) -> Result<()> {
    env.control()?
        .inject(json!({ "fault": "delay", "class": "hsm", "ms": 20 }))?;
    let start = Instant::now();
    at_once(96, |_| {
        let device = env.open()?;
        hsm::api_revisions(&device)?;
        Ok(())
    })?;
    let time = start.elapsed();
    ensure!(
        time > Duration::from_millis(200),
        "96 slow commands took {time:?}"
    );
    Ok(())
}

/// Who waits for a slot gets one before those who come later: also before those
/// who run, for they have just had theirs.
fn turns(env: &Env) -> Result<()> {
    const THREADS: usize = 6;
    /// Each other may be in front once, and be served once more before we are told;
    /// the rest is for processors that do something else.
    const OVERTAKEN: u64 = 5 * THREADS as u64;

    module::unload().context("delete_module")?;
    // One slot for each of two queues.
    module::load_with(&env.module, c"num_hsm_slots=2").context("finit_module")?;
    env.control()?.set("hsm_latency_us", &json!(1000))?;
    let answered = AtomicU64::new(0);
    let longest = AtomicU64::new(0);
    let begin = Instant::now();
    at_once(THREADS, |_| {
        let device = env.open()?;
        while begin.elapsed() < Duration::from_secs(2) {
            let before = answered.load(Ordering::Relaxed);
            hsm::api_revisions(&device)?;
            let meanwhile = answered.fetch_add(1, Ordering::Relaxed) - before;
            longest.fetch_max(meanwhile, Ordering::Relaxed);
        }
        Ok(())
    })?;
    env.control()?.set("hsm_latency_us", &json!(0))?;
    let (answered, longest) = (answered.into_inner(), longest.into_inner());
    println!("# {answered} commands, of which one had to wait for {longest} others");
    env.reload()?;
    ensure!(answered > 100, "{answered} commands only");
    ensure!(
        longest <= OVERTAKEN,
        "one command waited for {longest} others of {THREADS} threads"
    );
    Ok(())
}

/// Sends this process SIGALRM all the time.
fn storm(interval: Duration) -> Result<Timer> {
    sys::count_alarms()?;
    let event = SigEvent::new(SigevNotify::SigevSignal {
        signal: Signal::SIGALRM,
        si_value: 0,
    });
    let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, event)?;
    let interval = TimeSpec::from_duration(interval);
    timer.set(Expiration::Interval(interval), TimerSetTimeFlags::empty())?;
    Ok(timer)
}

fn signals(env: &Env) -> Result<()> {
    let device = env.open()?;
    let timer = storm(Duration::from_millis(1))?;
    for _ in 0..500 {
        hsm::api_revisions(&device)?;
    }
    let session = hsm::open_session(&device)?;
    for _ in 0..100 {
        hsm::use_session(&device, session.id)?;
    }
    hsm::close_session(&device, session.id)?;
    drop(timer);
    ensure!(sys::alarms() > 20, "only {} signals", sys::alarms());
    Ok(())
}

fn slow_and_signals(env: &Env) -> Result<()> {
    let device = env.open()?;
    let slow = Duration::from_secs(1);
    env.control()?.inject(json!({
        "fault": "delay", "class": "hsm", "count": 1, "ms": slow.as_millis() as u64,
    }))?;
    let timer = storm(Duration::from_millis(5))?;
    let start = Instant::now();
    hsm::api_revisions(&device)?;
    let time = start.elapsed();
    drop(timer);
    ensure!(time >= slow, "the command was not slow: {time:?}");
    // They pile up into one while the command is under way.
    ensure!(sys::alarms() > 0, "no signals");
    Ok(())
}

/// A process that sends one command, or as many as `threads` at once.
fn sender(env: &Env, threads: usize) -> Result<Child> {
    Child::run(|| {
        let result = at_once(threads, |_| hsm::api_revisions(&env.open()?).map(drop));
        i32::from(result.is_err())
    })
}

/// Waits until the device has fetched `more` HSM commands.
fn wait_fetched(env: &Env, before: u64, more: u64) -> Result<()> {
    let start = Instant::now();
    while fetched(env)? < before + more {
        ensure!(
            start.elapsed() < START,
            "the commands do not reach the device"
        );
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn fetched(env: &Env) -> Result<u64> {
    let counters = env.control()?.counters()?;
    counters["commands"]["hsm"].as_u64().context("no counters")
}

fn check_gone_soon(child: Child) -> Result<()> {
    check_gone(child, SOON)
}

fn check_gone(mut child: Child, patience: Duration) -> Result<()> {
    let start = Instant::now();
    child.kill()?;
    check_eq!(
        child.wait(patience)?,
        Some(-9),
        "killed process after {:?}",
        start.elapsed()
    );
    Ok(())
}

fn killed(env: &Env) -> Result<()> {
    let before = fetched(env)?;
    env.control()?
        .inject(json!({ "fault": "delay", "class": "hsm", "count": 1, "ms": 3000 }))?;
    let child = sender(env, 1)?;
    wait_fetched(env, before, 1)?;
    check_gone_soon(child)?;
    // While the command is still in flight, and after it has completed.
    for _ in 0..2 {
        let device = env.open()?;
        for _ in 0..20 {
            hsm::api_revisions(&device)?;
        }
        thread::sleep(Duration::from_millis(3500));
    }
    Ok(())
}

fn killed_waiting(env: &Env) -> Result<()> {
    let before = fetched(env)?;
    env.control()?
        .inject(json!({ "fault": "delay", "class": "hsm", "count": 4, "ms": 5000 }))?;
    let child = sender(env, 128)?;
    wait_fetched(env, before, 1)?;
    thread::sleep(Duration::from_millis(300));
    // So many threads take more than a second to end where each access to memory is checked.
    check_gone(child, Duration::from_secs(3))?;
    env.control()?.clear_faults()?;
    hsm::api_revisions(&env.open()?)?;
    Ok(())
}

/// More commands are abandoned than there are slots, and then all slots are
/// needed.
fn slots_come_back(env: &Env) -> Result<()> {
    const SLOTS: usize = 30;
    let mut abandoned = 0;
    for _ in 0..3 * SLOTS {
        env.control()?
            .inject(json!({ "fault": "delay", "class": "hsm", "count": 1, "ms": 500 }))?;
        let before = fetched(env)?;
        let mut child = sender(env, 1)?;
        wait_fetched(env, before, 1)?;
        child.kill()?;
        match child.wait(SOON)? {
            Some(-9) => abandoned += 1,
            // On a slow machine the command may be done before the kill.
            Some(0) => {}
            other => bail!("killed process: {other:?}"),
        }
        if abandoned > SLOTS {
            break;
        }
    }
    ensure!(
        abandoned > SLOTS,
        "only {abandoned} commands were abandoned"
    );
    thread::sleep(Duration::from_secs(1));
    many_descriptors(env)
}

fn killed_opening(env: &Env) -> Result<()> {
    let opened = || -> Result<u64> {
        let counters = env.control()?.counters()?;
        counters["sessions_opened"].as_u64().context("no counters")
    };
    let (before, opened_before) = (fetched(env)?, opened()?);
    env.control()?
        .inject(json!({ "fault": "delay", "class": "hsm", "count": 1, "ms": 2000 }))?;
    let child = Child::run(|| {
        let open = || hsm::open_session(&env.open()?);
        i32::from(open().is_err())
    })?;
    wait_fetched(env, before, 1)?;
    check_gone_soon(child)?;
    let start = Instant::now();
    while opened()? == opened_before {
        ensure!(start.elapsed() < LONG, "the session is not opened");
    }
    check_no_session_soon(env)
}

/// Has a process open a session and do `last`, for which it gets a GCM key and
/// of which the device gets a command of class `class` that takes `ms`; and kills
/// it then.
fn kill_during(
    env: &Env,
    class: &str,
    ms: u64,
    last: impl FnOnce(&Device, Session, u32) -> Result<()>,
) -> Result<()> {
    // Only this process talks to the virtual device.
    let (from_child, to_parent) = pipe()?;
    let (from_parent, to_child) = pipe()?;
    let child = Child::run(|| {
        let begin = || -> Result<()> {
            let device = env.open()?;
            let session = hsm::open_session(&device)?;
            let [low, high] = session.id.to_le_bytes();
            write(&to_parent, &[low, high, session.app])?;
            let mut key = [0; 4];
            check_eq!(read(&from_parent, &mut key)?, 4, "bytes from the parent");
            last(&device, session, u32::from_le_bytes(key))
        };
        i32::from(begin().is_err())
    })?;
    drop(to_parent);
    let mut session = [0; 3];
    check_eq!(read(&from_child, &mut session)?, 3, "bytes from the child");
    let session = Session {
        id: u16::from_le_bytes([session[0], session[1]]),
        app: session[2],
    };
    let mut control = env.control()?;
    let key = control.load_key(KeyKind::Gcm, &[7; 32], session)?;
    control.inject(json!({ "fault": "delay", "class": class, "count": 1, "ms": ms }))?;
    write(&to_child, &key.to_le_bytes())?;
    let start = Instant::now();
    while control.ask(&json!({ "cmd": "faults" }))?["faults"][0]["hits"] != 1 {
        ensure!(start.elapsed() < LONG, "the command does not come");
    }
    check_gone_soon(child)
}

/// The device does not close the session, but nobody is told.
fn killed_closing(env: &Env) -> Result<()> {
    kill_during(env, "hsm", 1500, |device, session, _| {
        let request = hsm::plain(hsm::IN_SESSION, Some(session.id));
        hsm::exchange(device, Flow::Close(session.id), &request)?;
        Ok(())
    })?;
    check_eq!(env.control()?.sessions()?.len(), 1, "sessions meanwhile");
    check_no_session_soon(env)
}

/// A session ends when the last command in it has.
fn killed_in_session(env: &Env) -> Result<()> {
    kill_during(env, "hsm", 2000, |device, session, _| {
        hsm::use_session(device, session.id)
    })?;
    thread::sleep(Duration::from_millis(500));
    check_eq!(env.control()?.sessions()?.len(), 1, "sessions meanwhile");
    check_no_session_soon(env)
}

/// What the device accesses in place stays its own until it is done, even if
/// whoever it belonged to is gone.
fn killed_large(env: &Env) -> Result<()> {
    const LEN: usize = 2 << 20;
    kill_during(env, "aes", 2000, |device, session, key| {
        AesScene::gcm(session, key, &vec![1; LEN])?.send_well(device)
    })?;
    let written = || -> Result<u64> {
        let counters = env.control()?.counters()?;
        counters["dma_write_bytes"].as_u64().context("no counters")
    };
    let before = written()?;
    check_eq!(env.control()?.sessions()?.len(), 1, "sessions meanwhile");
    check_no_session_soon(env)?;
    let count = written()? - before;
    ensure!(count >= LEN as u64, "the device wrote {count} bytes");
    Ok(())
}

fn killed_traces(env: &Env) -> Result<()> {
    let secret = b"What nobody needs to know any more.";
    kill_during(env, "hsm", 1000, |device, _, _| {
        let mut scene = HsmScene::new(Flow::None, &secret.repeat(100))?;
        scene.send(device)?;
        Ok(())
    })?;
    check_no_session_soon(env)?;
    thread::sleep(Duration::from_millis(1500));
    super::hsm::check_no_traces(env, secret)
}

/// Makes sure that the device has no session left, some time after whoever
/// opened them was killed.
pub fn check_no_session_soon(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    let start = Instant::now();
    loop {
        let sessions = control.sessions()?;
        if sessions.is_empty() {
            return Ok(());
        }
        ensure!(
            start.elapsed() < LONG,
            "sessions {sessions:?} left in the device"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

fn killed_threads(env: &Env) -> Result<()> {
    for round in 0..10 {
        let child = Child::run(|| {
            let result = at_once(8, |_| {
                let device = env.open()?;
                loop {
                    let session = hsm::open_session(&device)?;
                    hsm::use_session(&device, session.id)?;
                    let request = hsm::plain(Operation::CLOSE_SESSION, Some(session.id));
                    let flow = Flow::Close(session.id);
                    hsm::exchange(&device, flow, &request)?;
                }
            });
            i32::from(result.is_err())
        })?;
        thread::sleep(Duration::from_millis(150 + 20 * round));
        check_gone_soon(child)?;
    }
    check_no_session_soon(env)?;
    many_descriptors(env)
}
