// SPDX-License-Identifier: GPL-2.0
//! Whether driver and device are as they were before something went wrong.

use crate::check_eq;
use crate::runner::Env;
use crate::stamp;
use crate::stamp::Keys;
use crate::stamp::Mode;
use crate::stamp::Outcome;
use crate::stamp::Trust;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::vmstat;
use azihsm_uapi::Device;
use serde_json::json;
use std::fs;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long what happens in the background may take.
const SOON: Duration = Duration::from_secs(5);

/// Sessions that a device has.
const SESSIONS: usize = 8;

/// What the driver has of the kernel's memory, as far as that can be counted
/// exactly.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Held {
    /// Pages of processes that are pinned.
    pub pinned: i64,
    /// DMA mappings, if the kernel counts them.
    pub mappings: Option<u64>,
    /// Interrupt handlers.
    pub interrupts: usize,
}

impl Held {
    /// Counts it.
    pub fn measure() -> Result<Self> {
        let interrupts = fs::read_to_string("/proc/interrupts")?;
        Ok(Self {
            pinned: vmstat::pinned_pages()?,
            mappings: mappings(),
            interrupts: interrupts.matches("azihsm").count(),
        })
    }

    /// Makes sure that it is the same again, soon.
    pub fn check_same_soon(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let now = Self::measure()?;
            if now == *self {
                return Ok(());
            }
            ensure!(begin.elapsed() < SOON, "{now:?} instead of {self:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// DMA mappings that there are, if the kernel checks them.
fn mappings() -> Option<u64> {
    let read = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/sys/kernel/debug/dma-api/{name}")).ok()?;
        text.trim().parse().ok()
    };
    Some(read("nr_total_entries")? - read("num_free_entries")?)
}

/// One command of each kind: what became of it.
fn probe(env: &Env) -> Result<[Outcome; 2]> {
    let device = match env.open() {
        Ok(device) => device,
        // The node is not there yet.
        Err(_) => return Ok([Outcome::Gone; 2]),
    };
    let hsm = stamp::plain(&device, None, 0, Trust::Full)?;
    if hsm != Outcome::Done {
        return Ok([hsm, Outcome::Gone]);
    }
    let Ok(session) = hsm::open_session(&device) else {
        return Ok([hsm, Outcome::Gone]);
    };
    // With no key it is refused, but by the device.
    let aes = stamp::aes(&device, session, &Keys::default(), Mode::Gcm, 64)?;
    Ok([hsm, aes])
}

/// Waits until HSM commands, sessions and AES commands work: how long that took.
pub fn wait_serving(env: &Env, patience: Duration) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        let outcomes = probe(env)?;
        if outcomes.iter().all(|outcome| outcome.is_answer()) {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > patience {
            let mut control = env.control()?;
            let state = control.state()?;
            let log = control.ask(&json!({ "cmd": "log", "lines": 30 }))?;
            println!("# {}", log["log"]);
            bail!(
                "after {patience:?} the device is not back: {outcomes:?}; it is enabled: {}, \
                 ready: {}, fatal: {}, gone: {}, bus master: {}",
                state["enabled"],
                state["ready"],
                state["fatal"],
                state["gone"],
                state["bus_master"]
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Makes sure that the device has no session left, soon.
pub fn check_no_sessions(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    let begin = Instant::now();
    loop {
        let sessions = control.sessions()?;
        if sessions.is_empty() {
            return Ok(());
        }
        ensure!(begin.elapsed() < SOON, "sessions {sessions:?} are left");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Makes sure that as many sessions can be opened as the device has, and are gone
/// when their descriptors are.
fn check_all_sessions(env: &Env) -> Result<()> {
    let mut devices = Vec::new();
    for number in 0..SESSIONS {
        let device = env.open()?;
        hsm::open_session(&device).with_context(|| format!("session {number}"))?;
        devices.push(device);
    }
    drop(devices);
    check_no_sessions(env)
}

/// The numbers of I/O queues, and how many commands each has and could have at
/// most.
fn queues(env: &Env) -> Result<Vec<(String, u64, u64)>> {
    let mut control = env.control()?;
    let state = control.state()?;
    let counters = control.counters()?;
    let mut found = Vec::new();
    for queue in state["queues"].as_array().context("no queues")? {
        let kind = queue["kind"].as_str().context("no kind")?;
        if kind == "admin" {
            continue;
        }
        let entries = queue["sq"]["entries"].as_u64().context("no entries")?;
        let counted = counters["queues"].as_array().context("no counters")?;
        let of_queue = counted.iter().find(|of| of["id"] == queue["id"]);
        let outstanding = of_queue.and_then(|of| of["outstanding"].as_u64());
        found.push((kind.to_owned(), outstanding.unwrap_or(0), entries - 1));
    }
    Ok(found)
}

/// Makes sure that all slots of all queues can be used, all at once.
fn check_slots(env: &Env) -> Result<()> {
    let capacity = |class: &str| -> Result<usize> {
        let queues = queues(env)?;
        let of_class = queues.iter().filter(|(kind, ..)| kind == class);
        Ok(of_class.map(|(.., room)| *room as usize).sum())
    };
    let (hsm, aes) = (capacity("hsm")?, capacity("aes")?);
    ensure!(hsm > 0 && aes > 0, "the device has no queues");

    let device = Arc::new(env.open()?);
    let session = hsm::open_session(&device)?;
    env.control()?.inject(json!({ "fault": "stop_fetch" }))?;
    let spawn = |number: usize| {
        let device: Arc<Device> = device.clone();
        thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || match number < hsm {
                true => stamp::plain(&device, None, 0, Trust::Full),
                false => stamp::aes(&device, session, &Keys::default(), Mode::Gcm, 64),
            })
    };
    let threads = (0..hsm + aes)
        .map(spawn)
        .collect::<std::io::Result<Vec<_>>>()?;
    let begin = Instant::now();
    let full = loop {
        let queues = queues(env)?;
        if queues.iter().all(|(_, has, room)| has == room) {
            break Ok(());
        }
        if begin.elapsed() > SOON {
            break Err(queues);
        }
    };
    env.control()?.clear_faults()?;
    for thread in threads {
        let Ok(outcome) = thread.join() else {
            bail!("a thread panicked");
        };
        let outcome = outcome?;
        ensure!(outcome.is_answer(), "{outcome:?} of a full queue");
    }
    match full {
        Ok(()) => Ok(()),
        Err(queues) => bail!("slots are missing: {queues:?}"),
    }
}

/// Makes sure that the device can do all that it could when it was new, and that
/// nothing is left of what was before.  Nobody else must use it.
pub fn check_well(env: &Env) -> Result<()> {
    check_no_sessions(env)?;
    check_all_sessions(env)?;
    check_slots(env).context("all slots at once")?;
    check_no_sessions(env)?;
    let state = env.control()?.state()?;
    check_eq!(state["commands_in_flight"], 0, "commands in the device");
    Ok(())
}

/// Prints a figure.
pub fn figure(what: &str, value: Duration) {
    println!("# figure: {what}: {:.3} s", value.as_secs_f64());
}

/// Measures for how long nobody gets to run, as on a host that is busy: times that
/// are not to be exceeded do not mean that.
pub struct Metronome {
    stop: Arc<AtomicBool>,
    worst_us: Arc<AtomicU64>,
}

impl Metronome {
    const PERIOD: Duration = Duration::from_millis(10);

    /// Begins to measure.
    pub fn start() -> Self {
        let this = Self {
            stop: Arc::default(),
            worst_us: Arc::default(),
        };
        let (stop, worst) = (this.stop.clone(), this.worst_us.clone());
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let begin = Instant::now();
                thread::sleep(Self::PERIOD);
                let late = begin.elapsed().saturating_sub(Self::PERIOD);
                worst.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            }
        });
        this
    }

    /// Makes sure that `time`, which was measured meanwhile, is less than `limit`;
    /// otherwise says that `what` was so only after it.
    pub fn check(&self, time: Duration, limit: Duration, what: &str) -> Result<()> {
        let worst = Duration::from_micros(self.worst_us.load(Ordering::Relaxed));
        ensure!(
            time < limit + 4 * worst,
            "{what} after {time:?}, while the machine stood still for up to {worst:?}"
        );
        Ok(())
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
