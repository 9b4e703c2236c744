// SPDX-License-Identifier: GPL-2.0
//! Testing an HSM that is in use.

use crate::error::Error;
use crate::error::Result;
use crate::hsm;
use crate::machine::Hsm;
use azihsm_uapi::Device;
use serde::Serialize;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Threads that send commands at a time.
const THREADS: usize = 4;

/// How one test went.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// What was tested.
    pub test: &'static str,
    /// Whether all was well.
    pub passed: bool,
    /// What was found.
    pub found: String,
}

impl Outcome {
    fn new(test: &'static str, result: Result<String>) -> Self {
        let passed = result.is_ok();
        let found = result.unwrap_or_else(|error| error.to_string());
        Self {
            test,
            passed,
            found,
        }
    }
}

/// Tests `hsm`, sending `count` commands by each thread.
pub fn run(hsm: &Hsm, count: u32) -> Result<Vec<Outcome>> {
    let device = hsm.open()?;
    let before = info(&device)?;
    Ok(vec![
        Outcome::new("device info", check_info(hsm, &before)),
        Outcome::new("message formats", check_revisions(&device)),
        Outcome::new("kind", check_kind(&device)),
        Outcome::new("in a row", check_many(&device, count)),
        Outcome::new("at a time", check_parallel(&device, count)),
        Outcome::new(
            "not reset meanwhile",
            check_entropy(&device, before.entropy),
        ),
    ])
}

fn nonsense<T>(what: &'static str, why: String) -> Result<T> {
    Err(Error::Nonsense { what, why })
}

fn info(device: &Device) -> Result<azihsm_uapi::Info> {
    device.info().map_err(|error| Error::Request {
        what: "device info",
        error,
    })
}

fn check_info(hsm: &Hsm, info: &azihsm_uapi::Info) -> Result<String> {
    match &hsm.pci {
        Some(pci) if *pci != info.pci => {
            return nonsense("device info", format!("it is {}, not {pci}", info.pci))
        }
        _ => {}
    }
    if info.entropy == [0; 32] {
        return nonsense("device info", "entropy is zeros".to_owned());
    }
    Ok(format!("{}, firmware {}", info.pci, info.firmware))
}

fn check_revisions(device: &Device) -> Result<String> {
    let revisions = hsm::revisions(device)?;
    Ok(format!("{} to {}", revisions.oldest, revisions.newest))
}

fn check_kind(device: &Device) -> Result<String> {
    let kind = hsm::kind(device)?;
    let name = if kind.physical { "physical" } else { "virtual" };
    Ok(format!("{name}, {} resource groups", kind.resource_groups))
}

/// Sends `count` commands, of which each must be answered in the same way, and returns how long
/// each took.
fn send(device: &Device, count: u32) -> Result<Vec<Duration>> {
    let expected = hsm::revisions(device)?;
    (0..count)
        .map(|number| {
            let begin = Instant::now();
            if hsm::revisions(device)? != expected {
                return nonsense("repeated command", format!("answer {number} is another"));
            }
            Ok(begin.elapsed())
        })
        .collect()
}

fn check_many(device: &Device, count: u32) -> Result<String> {
    let mut times = send(device, count)?;
    times.sort_unstable();
    let at = |percent| percentile(&times, percent).as_micros();
    Ok(format!(
        "{count} commands; the fastest took {} us, half of them up to {} us, 99% up to {} us",
        at(0),
        at(50),
        at(99)
    ))
}

/// The time within which so many percent of `times`, which are in order, were done.
pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(index).copied().unwrap_or_default()
}

fn check_parallel(device: &Device, count: u32) -> Result<String> {
    let begin = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| send(device, count)))
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(sent) => sent.map(drop),
                Err(_) => nonsense("commands at a time", "a thread died".to_owned()),
            })
    })?;
    let rate = f64::from(count) * THREADS as f64 / begin.elapsed().as_secs_f64();
    Ok(format!(
        "{THREADS} times {count} commands, {rate:.0} per second"
    ))
}

fn check_entropy(device: &Device, before: [u8; 32]) -> Result<String> {
    if info(device)?.entropy != before {
        return nonsense(
            "device info",
            "the HSM was reset during the test".to_owned(),
        );
    }
    Ok("the same entropy".to_owned())
}

#[cfg(test)]
mod tests {
    use super::percentile;
    use super::Outcome;
    use crate::error::Error;
    use std::time::Duration;

    #[test]
    fn percentiles_are_those_of_the_times() {
        let times: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        let at = |percent| percentile(&times, percent).as_micros();
        assert_eq!((at(0), at(50), at(99), at(100)), (1, 101, 199, 200));
        assert_eq!(percentile(&times[..1], 99), times[0]);
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn an_outcome_says_why() {
        let failed = Outcome::new("x", Err(Error::TestFailed));
        assert!(!failed.passed);
        assert_eq!(failed.found, Error::TestFailed.to_string());
        assert!(Outcome::new("x", Ok("fine".into())).passed);
    }
}
