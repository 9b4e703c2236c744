// SPDX-License-Identifier: GPL-2.0
//! Measuring an operation.

use crate::operation::Kind;
use crate::operation::Operation;
use crate::operation::Scene;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::Control;
use azihsm_guest::interrupts;
use azihsm_guest::mark;
use azihsm_guest::pci;
use nix::sys::resource::getrusage;
use nix::sys::resource::UsageWho;
use serde_json::json;
use serde_json::Map;
use serde_json::Value;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How often an operation is done before it is measured.
const WARM_UP: usize = 20;

/// Numbers of threads.
const THREADS: [usize; 5] = [1, 2, 4, 8, 32];

/// How many slices of time are looked at. The host has other things to do, and
/// what counts is what it did when it had few.
const SLICES: usize = 12;

/// What the device counts.
const COUNTERS: [&str; 7] = [
    "mmio_reads",
    "mmio_writes",
    "sq_doorbells",
    "cq_doorbells",
    "interrupts",
    "dma_read_bytes",
    "dma_write_bytes",
];

/// What the device has counted so far, and interrupts that were handled.
struct Counters([u64; COUNTERS.len()], Vec<u64>);

impl Counters {
    fn now(control: &mut Control) -> Result<Self> {
        for address in pci::functions()? {
            pci::settle(&address)?;
        }
        let all = control.counters()?;
        let mut values = [0; COUNTERS.len()];
        for (value, name) in values.iter_mut().zip(COUNTERS) {
            *value = all[name].as_u64().with_context(|| format!("no {name}"))?;
        }
        Ok(Self(values, interrupts::handled()?))
    }

    /// What was counted since `before`.
    fn since(&self, before: &Self) -> Value {
        let entries = COUNTERS.iter().zip(self.0.iter().zip(before.0));
        let mut map: Map<String, Value> = entries
            .map(|(name, (after, before))| ((*name).to_owned(), json!(after - before)))
            .collect();
        let handled = self.1.iter().zip(&before.1);
        let handled: Vec<u64> = handled.map(|(after, before)| after - before).collect();
        map.insert("handled".to_owned(), json!(handled.iter().sum::<u64>()));
        map.insert("handled_by".to_owned(), json!(handled));
        Value::Object(map)
    }
}

/// How often this process was switched away from.
fn switches() -> Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok(usage.voluntary_context_switches() + usage.involuntary_context_switches())
}

/// Measures.
pub struct Run {
    control: Control,
    /// Intervals that were marked so far.
    intervals: usize,
}

impl Run {
    /// Asks the device by `control`.
    pub fn new(control: Control) -> Self {
        Self {
            control,
            intervals: 0,
        }
    }

    /// Does an operation `runs` times between marks.
    pub fn count(&mut self, module: &str, scene: &Scene, kind: Kind, runs: usize) -> Result<()> {
        let operation = scene.prepare(kind).with_context(|| kind.name())?;
        for _ in 0..WARM_UP {
            operation.run().with_context(|| kind.name())?;
        }
        let before = Counters::now(&mut self.control)?;
        let switches_before = switches()?;
        mark::begin();
        for _ in 0..runs {
            operation.run()?;
            mark::lap();
        }
        mark::end();
        let switches = switches()? - switches_before;
        let after = Counters::now(&mut self.control)?;
        operation.check().with_context(|| kind.name())?;
        println!(
            "{}",
            json!({
                "record": "counts",
                "module": module,
                "operation": kind.name(),
                "interval": self.intervals,
                "runs": runs,
                "device": after.since(&before),
                "switches": switches,
            })
        );
        self.intervals += 1;
        Ok(())
    }

    /// Does an operation for slices of `time`, with several numbers of threads.
    pub fn time(&mut self, module: &str, scene: &Scene, kind: Kind, time: Duration) -> Result<()> {
        for threads in THREADS {
            self.time_with(module, scene, kind, threads, time)
                .with_context(|| format!("{}, {threads} threads", kind.name()))?;
        }
        Ok(())
    }

    fn time_with(
        &mut self,
        module: &str,
        scene: &Scene,
        kind: Kind,
        threads: usize,
        time: Duration,
    ) -> Result<()> {
        let operations: Vec<Operation> = (0..threads)
            .map(|_| scene.prepare(kind))
            .collect::<Result<_>>()?;
        let before = Counters::now(&mut self.control)?;
        let switches_before = switches()?;
        let mut slices: Vec<Slice> = (0..SLICES)
            .map(|_| together(&operations, time))
            .collect::<Result<_>>()?;
        let switches = switches()? - switches_before;
        let after = Counters::now(&mut self.control)?;
        for operation in &operations {
            operation.check()?;
        }
        let runs: usize = slices.iter().map(|slice| slice.latencies.len()).sum();
        slices.sort_by(|one, other| other.rate().total_cmp(&one.rate()));
        let rates: Vec<f64> = slices.iter().map(Slice::rate).collect();
        // The best one may be an accident.
        let good = &slices[1];
        println!(
            "{}",
            json!({
                "record": "times",
                "module": module,
                "operation": kind.name(),
                "threads": threads,
                "rate": good.rate(),
                "rates": rates,
                "p50_us": good.percentile(50),
                "p99_us": good.percentile(99),
                "runs": runs,
                "device": after.since(&before),
                "switches": switches,
            })
        );
        Ok(())
    }
}

/// What came of doing an operation for some time.
struct Slice {
    seconds: f64,
    /// How long it took, in ascending order.
    latencies: Vec<Duration>,
}

impl Slice {
    /// Operations per second.
    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    fn percentile(&self, percent: usize) -> f64 {
        let last = self.latencies.len() - 1;
        let index = (self.latencies.len() * percent / 100).min(last);
        self.latencies[index].as_nanos() as f64 / 1000.0
    }
}

/// Does each operation again and again in a thread of its own.
fn together(operations: &[Operation], time: Duration) -> Result<Slice> {
    let barrier = Barrier::new(operations.len());
    let repeat = |operation: &Operation| -> Result<(Instant, Vec<Duration>)> {
        let mut latencies = Vec::with_capacity(1 << 14);
        barrier.wait();
        let start = Instant::now();
        let mut last = start;
        while last - start < time {
            operation.run()?;
            let now = Instant::now();
            latencies.push(now - last);
            last = now;
        }
        Ok((start, latencies))
    };
    thread::scope(|scope| {
        let handles: Vec<_> = operations
            .iter()
            .map(|operation| scope.spawn(|| repeat(operation)))
            .collect();
        let mut first: Option<Instant> = None;
        let mut end: Option<Instant> = None;
        let mut all = Vec::new();
        for handle in handles {
            let (start, latencies) = handle.join().expect("does not panic")?;
            let sum: Duration = latencies.iter().sum();
            first = Some(first.map_or(start, |first| first.min(start)));
            end = end.max(Some(start + sum));
            all.extend(latencies);
        }
        let seconds = first
            .zip(end)
            .map_or(0.0, |(first, end)| (end - first).as_secs_f64());
        all.sort_unstable();
        Ok(Slice {
            seconds,
            latencies: all,
        })
    })
}
