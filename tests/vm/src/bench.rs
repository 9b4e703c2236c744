// SPDX-License-Identifier: GPL-2.0
//! Measuring the driver.
//!
//! One machine counts: it has one processor, a device that takes some time, so
//! that every caller sleeps, and a plugin of QEMU that sees each instruction.
//! What it finds does not depend on the host.  Another one with two processors
//! and a device that answers at once is for times, which mean something only
//! next to each other.

pub mod lines;
pub mod plugin;
mod table;

use crate::machine;
use crate::machine::Config;
use crate::report;
use crate::Bench;
use crate::MODULE;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use plugin::by_function;
use plugin::Interval;
use plugin::Spent;
use plugin::Symbols;
use serde_json::json;
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Where the guest finds the other modules.
const FLOOR: &str = "/lib/floor.ko";
const OTHER: &str = "/lib/other.ko";

/// What the guest calls the driver, and the one that it is compared with.
const OURS: &str = "azihsm";
const THEIRS: &str = "other";

/// Microseconds that the device takes while instructions are counted.
const LATENCY: u32 = 400;

/// Functions that allocate memory, each call of which counts once.
const ALLOCATE: &[&str] = &[
    "__kmalloc_noprof",
    "__kmalloc_node_noprof",
    "__kmalloc_node_track_caller_noprof",
    "__kmalloc_cache_noprof",
    "__kmalloc_cache_node_noprof",
    "kmem_cache_alloc_noprof",
    "kmem_cache_alloc_lru_noprof",
    "kmem_cache_alloc_node_noprof",
    "kmem_cache_alloc_bulk_noprof",
    "__alloc_frozen_pages_noprof",
    "alloc_pages_bulk_noprof",
    "pcpu_alloc_noprof",
    "dma_pool_alloc",
];

/// Functions that make memory accessible to the device.
const MAP: &[&str] = &[
    "dma_map_phys",
    "__dma_map_sg_attrs",
    "dma_alloc_attrs",
    "dma_alloc_pages",
    "dma_alloc_noncontiguous",
];

/// What functions that take locks begin with.
const LOCK: &[&str] = &[
    "_raw_spin_lock",
    "_raw_spin_trylock",
    "_raw_read_lock",
    "_raw_write_lock",
    "mutex_lock",
    "mutex_trylock",
    "down_read",
    "down_write",
];

/// What one boot yielded.
struct Boot {
    /// What the guest printed, as JSON.
    records: Vec<Value>,
    /// Whether all went well.
    good: bool,
}

fn boot(options: &Bench, name: &str, config: &Config, what: &str) -> Result<Boot> {
    let common = &options.common;
    let dir = machine::boot_directory(&common.work, name)?;
    let mut modules = vec![(FLOOR, options.floor.as_path())];
    let mut command = format!("exec /bin/azihsm-bench {what} --floor {FLOOR} --module {MODULE}");
    if let Some(other) = &options.other {
        modules.push((OTHER, other));
        let parameters = &options.other_parameters;
        command.push_str(&format!(" --module {OTHER} --parameters '{parameters}'"));
    }
    if !options.filter.is_empty() {
        command.push_str(&format!(" --filter '{}'", options.filter));
    }
    command.push('\n');
    let files = common.files(&dir, &command, &modules)?;
    let mut records = Vec::new();
    let outcome =
        machine::run(
            &files,
            config,
            &dir,
            common.timeout(),
            |line| match serde_json::from_str(line) {
                Ok(record) => records.push(record),
                Err(_) => println!("{line}"),
            },
        )?;
    let complaints = report::complaints(&outcome);
    for complaint in &complaints {
        println!("{complaint}");
    }
    let good = outcome.exit == Some(0) && complaints.is_empty();
    if !good {
        for line in report::console(&outcome, &dir) {
            println!("{line}");
        }
    }
    Ok(Boot { records, good })
}

/// The first quartile of some numbers: what most runs take that nothing gets in
/// the way of.
fn quartile(numbers: impl Iterator<Item = u64>) -> u64 {
    let mut numbers: Vec<u64> = numbers.collect();
    numbers.sort_unstable();
    numbers.get(numbers.len() / 4).copied().unwrap_or(0)
}

/// Adds to a record of the guest what the plugin saw, for each run.
fn complete(record: &mut Value, interval: &Interval, symbols: &Symbols) -> Result<()> {
    let runs = record["runs"].as_u64().context("no number of runs")?;
    ensure!(
        interval.laps.len() as u64 == runs,
        "{} laps instead of {runs}",
        interval.laps.len()
    );
    let each = |sum: u64| sum as f64 / runs as f64;
    let functions = by_function(&interval.blocks, symbols);
    let calls = |matches: &dyn Fn(&str) -> bool| -> f64 {
        let calls = functions.iter().filter(|(name, _)| matches(name));
        each(calls.map(|(_, spent)| spent.calls).sum())
    };
    record["user"] = json!(quartile(interval.laps.iter().map(|lap| lap.0)));
    record["kernel"] = json!(quartile(interval.laps.iter().map(|lap| lap.1)));
    record["instructions"] = json!(quartile(interval.laps.iter().map(|lap| lap.0 + lap.1)));
    let sum: u64 = interval.laps.iter().map(|lap| lap.0 + lap.1).sum();
    record["mean"] = json!(each(sum));
    record["copied"] = json!(each(interval.copied));
    record["filled"] = json!(each(interval.filled));
    record["allocations"] = json!(calls(&|name| ALLOCATE.contains(&name)));
    record["mappings"] = json!(calls(&|name| MAP.contains(&name)));
    record["locks"] = json!(calls(&|name| LOCK
        .iter()
        .any(|lock| name.starts_with(lock))));
    for (_, sum) in record["device"].as_object_mut().context("no counters")? {
        if let Some(number) = sum.as_u64() {
            *sum = json!(each(number));
        }
    }
    record["switches"] = json!(each(record["switches"].as_u64().context("no number")?));
    let mut functions: Vec<(String, Spent)> = functions.into_iter().collect();
    functions.sort_by_key(|(_, spent)| std::cmp::Reverse(spent.instructions));
    record["functions"] = functions
        .into_iter()
        .map(|(name, spent)| {
            json!({
                "name": name,
                "instructions": each(spent.instructions),
                "calls": each(spent.calls),
            })
        })
        .collect();
    Ok(())
}

/// Adds to a record where in the driver its instructions come from.
fn add_lines(
    record: &mut Value,
    interval: &Interval,
    symbols: &Symbols,
    options: &Bench,
) -> Result<()> {
    let runs = record["runs"].as_f64().context("no number of runs")?;
    let [functions, places] = lines::of_module(
        &interval.blocks,
        symbols.text,
        options.common.module()?,
        &options.source,
    )?;
    for (name, list) in [("driver", functions), ("lines", places)] {
        record[name] = list
            .into_iter()
            .map(|(place, sum)| json!({ "name": place, "instructions": sum as f64 / runs }))
            .collect();
    }
    Ok(())
}

/// Adds what the plugin saw to all records of the guest.
fn complete_all(options: &Bench, records: &mut [Value], path: &Path) -> Result<()> {
    let read = |path: &Path| {
        let bytes = fs::read(path).with_context(|| format!("{}", path.display()))?;
        anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let intervals = plugin::intervals(&read(path)?)?;
    let symbols = Symbols::read(&read(&path.with_extension("text"))?)?;
    for record in records {
        let index = record["interval"].as_u64().context("no interval")?;
        let interval = intervals
            .get(usize::try_from(index)?)
            .with_context(|| format!("the plugin has no interval {index}"))?;
        let module = record["module"].as_str().context("no module")?.to_owned();
        let symbols = symbols
            .get(&module)
            .with_context(|| format!("no functions for {module}"))?;
        complete(record, interval, symbols)?;
        if module == OURS {
            add_lines(record, interval, symbols, options)?;
        }
    }
    Ok(())
}

/// Measures, and prints what there is to see; returns whether all went well.
pub fn run(options: &Bench) -> Result<bool> {
    options.common.prepare()?;
    let dir = options.common.work.canonicalize()?;
    let out = dir.join("plugin");
    let counting = Config {
        smp: 1,
        plugin: Some(format!(
            "{},out={}",
            options.plugin.display(),
            out.display()
        )),
        ..Config::default()
    };
    let what = format!("counts --latency {LATENCY}");
    let mut counts = boot(options, "bench-counts", &counting, &what)?;
    complete_all(options, &mut counts.records, &out)?;
    let times = boot(options, "bench-times", &Config::default(), "times")?;

    let mut text = String::new();
    for module in [OURS, THEIRS] {
        text += &table::counts(module, &counts.records);
        text += &table::times(module, &times.records);
    }
    text += &table::ratios(&counts.records, &times.records);
    print!("{text}");
    fs::write(&options.profile, table::profile(&counts.records))?;
    let all = json!({ "counts": counts.records, "times": times.records });
    fs::write(&options.json, serde_json::to_string_pretty(&all)?)?;
    Ok(counts.good && times.good)
}
