// SPDX-License-Identifier: GPL-2.0
//! Measuring an HSM that is in use, by commands that change nothing.

use crate::error::Error;
use crate::error::Result;
use crate::hsm;
use crate::machine::Hsm;
use crate::selftest::percentile;
use azihsm_uapi::Device;
use serde::Serialize;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// What is measured: its name, and how to do it once.
type Operation = (&'static str, fn(&Device) -> Result<()>);

const OPERATIONS: [Operation; 2] = [
    // What the driver answers by itself.
    ("device info", |device| {
        device.info().map(drop).map_err(|error| Error::Request {
            what: "device info",
            error,
        })
    }),
    ("HSM command", |device| hsm::revisions(device).map(drop)),
];

/// How one operation went with so many threads.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// What was done.
    pub operation: &'static str,
    /// By how many threads at a time.
    pub threads: u32,
    /// How often.
    pub count: usize,
    /// How often in a second.
    pub per_second: f64,
    /// Microseconds within which half of them were done.
    pub p50_us: f64,
    /// Microseconds within which 99 % of them were done.
    pub p99_us: f64,
    /// Microseconds that the slowest took.
    pub max_us: f64,
}

/// Measures each operation on `hsm` with each number of threads, for `time` each.
pub fn run(hsm: &Hsm, threads: &[u32], time: Duration) -> Result<Vec<Measured>> {
    let device = hsm.open()?;
    let mut measured = Vec::new();
    for operation in OPERATIONS {
        for threads in threads {
            measured.push(measure(&device, operation, *threads, time)?);
        }
    }
    Ok(measured)
}

fn measure(
    device: &Device,
    (operation, once): Operation,
    threads: u32,
    time: Duration,
) -> Result<Measured> {
    // Once at least, by each.
    let worker = |ready: &Barrier| -> Result<(Vec<Duration>, Duration)> {
        ready.wait();
        let begin = Instant::now();
        let mut times = Vec::new();
        while times.is_empty() || begin.elapsed() < time {
            let begin = Instant::now();
            once(device)?;
            times.push(begin.elapsed());
        }
        Ok((times, begin.elapsed()))
    };
    let ready = Barrier::new(threads as usize);
    let results: Result<Vec<_>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| worker(&ready)))
            .collect();
        workers
            .into_iter()
            .map(|worker| {
                worker.join().unwrap_or_else(|_| {
                    Err(Error::Nonsense {
                        what: operation,
                        why: "a thread died".to_owned(),
                    })
                })
            })
            .collect()
    });
    Ok(summary(operation, threads, results?))
}

fn summary(
    operation: &'static str,
    threads: u32,
    results: Vec<(Vec<Duration>, Duration)>,
) -> Measured {
    let per_second = results
        .iter()
        .map(|(times, all)| times.len() as f64 / all.as_secs_f64())
        .sum();
    let mut times: Vec<_> = results.into_iter().flat_map(|(times, _)| times).collect();
    times.sort_unstable();
    let at = |percent| percentile(&times, percent).as_secs_f64() * 1e6;
    Measured {
        operation,
        threads,
        count: times.len(),
        per_second,
        p50_us: at(50),
        p99_us: at(99),
        max_us: at(100),
    }
}

#[cfg(test)]
mod tests {
    use super::summary;
    use std::time::Duration;

    #[test]
    fn rates_of_threads_add_up_and_times_are_of_all() {
        let us = Duration::from_micros;
        let results = vec![
            ((1..=99).map(us).collect(), Duration::from_secs(1)),
            (vec![us(1000)], Duration::from_millis(500)),
        ];
        let measured = summary("nothing", 2, results);
        assert_eq!((measured.threads, measured.count), (2, 100));
        assert!((measured.per_second - 101.0).abs() < 1e-6);
        assert!((measured.p50_us - 51.0).abs() < 1e-6);
        assert!((measured.p99_us - 1000.0).abs() < 1e-6);
        assert!((measured.max_us - 1000.0).abs() < 1e-6);
    }
}
