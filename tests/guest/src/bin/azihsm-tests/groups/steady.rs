// SPDX-License-Identifier: GPL-2.0
//! What one command after the other costs, besides time: no memory, no mapping,
//! and one doorbell each (`Documentation/architecture.rst`, 2).

use crate::check_eq;
use crate::runner::Env;
use crate::runner::Skip;
use crate::runner::Test;
use crate::scene::AesScene;
use crate::scene::HsmScene;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::Control;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::module;
use azihsm_guest::pci;
use azihsm_guest::trace::Trace;
use azihsm_uapi::Errno;
use azihsm_uapi::Flow;
use nix::sys::resource::getrusage;
use nix::sys::resource::UsageWho;
use serde_json::json;
use std::fs;
use std::time::Instant;

/// Commands that are watched.
const COMMANDS: u64 = 200;

/// Commands before that.
const WARM_UP: u64 = 10;

/// Texts that are copied: one block, a page, as much as goes through a slot, a
/// buffer, many of them.
const SMALL: [usize; 5] = [16, 4096, 12_288, 65_536, 1 << 20];

/// One that is not.
const LARGE: usize = 2 << 20;

/// Events of allocations, of pages that are made accessible to devices.
const EVENTS: [&str; 5] = [
    "kmem/kmalloc",
    "kmem/kmem_cache_alloc",
    "kmem/mm_page_alloc",
    "percpu/percpu_alloc_percpu",
    "dma",
];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("steady/hsm-commands-allocate-and-map-nothing", |env| {
            each_hsm(env, allocates_nothing)
        })
        .traces(),
        Test::new("steady/small-texts-allocate-and-map-nothing", |env| {
            each_aes(env, &SMALL, allocates_nothing)
        })
        .traces(),
        // So that the others do not pass because nothing is seen.
        Test::new("steady/large-texts-are-seen-to-be-mapped", |env| {
            each_aes(env, &[LARGE], is_seen)
        })
        .traces(),
        Test::new("steady/one-doorbell-for-each-hsm-command", |env| {
            each_hsm(env, rings_once)
        }),
        Test::new("steady/one-doorbell-for-each-aes-command", |env| {
            each_aes(env, &SMALL, rings_once)
        }),
        Test::new("steady/who-polls-does-not-sleep", polls).takes(3),
        Test::new("steady/vectors-are-where-commands-come-from", vectors),
    ]
    .into_iter()
    // Nothing here is about time.
    .map(|test| test.seconds(180))
    .collect()
}

type Send<'a> = &'a mut dyn FnMut() -> Result<i32, Errno>;

/// Watches a command that can be repeated.
type Watch = fn(what: &str, send: Send<'_>) -> Result<()>;

fn repeat(count: u64, send: Send<'_>) -> Result<()> {
    for _ in 0..count {
        check_eq!(send(), Ok(0), "ioctl");
    }
    Ok(())
}

fn each_hsm(env: &Env, watch: Watch) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let in_session = Flow::InSession(session.id);
    let request = hsm::plain(hsm::IN_SESSION, Some(session.id));
    for (flow, request) in [
        (Flow::None, hsm::get_api_rev()),
        (Flow::None, vec![0x5a; 3584]),
        (in_session, request),
    ] {
        let mut scene = HsmScene::new(flow, &request)?;
        let what = format!("HSM command of {} bytes, {flow:?}", request.len());
        watch(&what, &mut || scene.send(&device))?;
        check_eq!(scene.cmd.output.status, 0, "device status, {what}");
    }
    hsm::close_session(&device, session.id)
}

fn each_aes(env: &Env, lengths: &[usize], watch: Watch) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let mut control = env.control()?;
    let mut key = |kind, byte| control.load_key(kind, &[byte; 32], session);
    let gcm = key(KeyKind::Gcm, 1)?;
    let xts = (key(KeyKind::Xts, 2)?, key(KeyKind::Xts, 3)?);
    for &length in lengths {
        let text = vec![0x5a; length];
        for mut scene in [
            AesScene::gcm(session, gcm, &text)?,
            AesScene::xts(session, xts, &text)?,
        ] {
            let what = format!("AES command {:#x} of {length} bytes", scene.number);
            watch(&what, &mut || scene.send(&device))?;
            check_eq!(scene.cmd.output.result, 0, "device status, {what}");
        }
    }
    hsm::close_session(&device, session.id)
}

/// The events while the command is sent `count` times.
fn events(count: u64, send: Send<'_>) -> Result<Vec<String>> {
    let trace = Trace::new(&EVENTS)?;
    repeat(WARM_UP, send)?;
    trace.during(|| repeat(count, send))
}

fn allocates_nothing(what: &str, send: Send<'_>) -> Result<()> {
    let events = events(COMMANDS, send)?;
    ensure!(
        events.is_empty(),
        "{what}, {} events in {COMMANDS} commands, such as\n{}",
        events.len(),
        events[..events.len().min(3)].join("\n")
    );
    Ok(())
}

fn is_seen(what: &str, send: Send<'_>) -> Result<()> {
    let events = events(WARM_UP, send)?;
    for kind in ["dma_map", "kmalloc"] {
        let seen = events.iter().filter(|event| event.contains(kind)).count();
        ensure!(seen as u64 >= WARM_UP, "{what}: {seen} times {kind}");
    }
    Ok(())
}

fn rings_once(what: &str, send: Send<'_>) -> Result<()> {
    let mut control = Control::open(0)?;
    let address = pci::of_node("azihsm0")?;
    let mut count = || -> Result<[u64; 5]> {
        pci::settle(&address)?;
        let counters = control.counters()?;
        let names = [
            "mmio_reads",
            "mmio_writes",
            "sq_doorbells",
            "cq_doorbells",
            "interrupts",
        ];
        let mut values = [0; 5];
        for (value, name) in values.iter_mut().zip(names) {
            *value = counters[name].as_u64().context(name)?;
        }
        Ok(values)
    };
    repeat(WARM_UP, send)?;
    let start = Instant::now();
    let before = count()?;
    repeat(COMMANDS, send)?;
    let after = count()?;
    let [reads, writes, submissions, completions, interrupts] =
        std::array::from_fn(|index| after[index] - before[index]);
    // Nothing but the status, now and then, whatever there is to do.
    let looks = u64::try_from(start.elapsed().as_millis())? / 100 + 2;
    ensure!(reads <= looks, "{reads} MMIO reads, {what}");
    check_eq!(submissions, COMMANDS, "submission doorbells, {what}");
    ensure!(
        completions <= COMMANDS,
        "{completions} completion doorbells, {what}"
    );
    check_eq!(writes, submissions + completions, "MMIO writes, {what}");
    ensure!(interrupts <= COMMANDS, "{interrupts} interrupts, {what}");
    Ok(())
}

/// How often the caller sleeps in a turn of `commands`: the median of many, as now and
/// then the host is busy elsewhere.
fn sleeps(env: &Env, commands: i64) -> Result<i64> {
    let device = env.open()?;
    let mut scene = HsmScene::new(Flow::None, &hsm::get_api_rev())?;
    let count =
        || getrusage(UsageWho::RUSAGE_THREAD).map(|usage| usage.voluntary_context_switches());
    let mut turns = Vec::new();
    for _ in 0..99 {
        let before = count()?;
        for _ in 0..commands {
            check_eq!(scene.send(&device), Ok(0), "ioctl");
        }
        turns.push(count()? - before);
    }
    turns.sort_unstable();
    Ok(turns[turns.len() / 2])
}

/// With `poll_us` the processor looks for the completion, and without it the
/// caller sleeps for each.
fn polls(env: &Env) -> Result<()> {
    const TURN: i64 = 5;

    let reload = |parameters| -> Result<()> {
        module::unload().context("delete_module")?;
        module::load_with(&env.module, parameters).context("finit_module")
    };
    // Longer than it takes to go to sleep.
    env.control()?.set("hsm_latency_us", &json!(200))?;
    let without = sleeps(env, TURN)?;
    reload(c"poll_us=1000")?;
    let with = sleeps(env, TURN)?;
    reload(c"")?;
    env.control()?.set("hsm_latency_us", &json!(0))?;
    ensure!(without >= TURN - 1, "{without} sleeps in {TURN} commands");
    ensure!(with <= TURN / 2, "{with} sleeps in {TURN} polled commands");
    Ok(())
}

/// The processor that submits to a queue handles its interrupts.
fn vectors(env: &Env) -> Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    if processors < 2 || env.vectors < 32 {
        return Err(Skip("every queue has the same processor, or shares its vector").into());
    }
    let interrupts = fs::read_to_string("/proc/interrupts")?;
    for (class, first) in [("hsm", 1), ("aes", 16)] {
        let queues = (first..)
            .map_while(|number| {
                let name = format!("azihsm-{class}{number}");
                let line = interrupts.lines().find(|line| line.ends_with(&name))?;
                line.trim().split_once(':').map(|(number, _)| number)
            })
            .collect::<Vec<_>>();
        ensure!(queues.len() >= processors, "{} vectors", queues.len());
        for (processor, number) in queues.iter().take(processors).enumerate() {
            let path = format!("/proc/irq/{number}/smp_affinity_list");
            let list = fs::read_to_string(path)?;
            check_eq!(list.trim(), processor.to_string(), "queue of {class}");
        }
    }
    Ok(())
}
