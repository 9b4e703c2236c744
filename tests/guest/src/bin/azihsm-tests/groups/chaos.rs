// SPDX-License-Identifier: GPL-2.0
//! Faults, kills, resets and unbinding, at random and on top of each other, for as
//! long as one likes.
//!
//! Each round draws from the seed and its own number only, and says what it does,
//! so that one that fails can be looked at alone.

use super::matrix::faults;
use super::matrix::undo;
use super::matrix::Effect;
use super::matrix::Fault;
use super::matrix::READY_TIMEOUT;
use crate::crowd::Crowd;
use crate::crowd::Plan;
use crate::crowd::Tally;
use crate::health;
use crate::health::Held;
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
use azihsm_guest::pci;
use azihsm_guest::sys::Child;
use azihsm_uapi::ResetKind;
use fastrand::Rng;
use serde_json::json;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

/// What the driver may say about all this.
const ODD: &[&str] = &["azihsm"];

/// Most blows of a round.
const MOST_BLOWS: usize = 6;

/// Longest time between two blows, in milliseconds.
const LONGEST_PAUSE: u64 = 1500;

/// How long the device may take to serve again when everything is well: the
/// longest back-off, and a start.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long threads may take to come back when nothing is in their way.
const BACK: Duration = Duration::from_secs(20);

/// Threads of a process that is killed.
const VICTIMS: usize = 8;

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![Test::new("chaos/all-at-random", chaos)
        .long()
        .takes(120)
        .seconds(7200)
        .may_warn(ODD)
        .spoils()]
}

/// Something that goes wrong.
enum Blow {
    /// In the device.
    Fault(Fault),
    /// Somebody resets it.
    Reset(ResetKind),
    /// The administrator resets the function.
    FunctionReset,
    /// A process with commands under way is killed after so long.
    Kill(Duration),
    /// The administrator unbinds the driver; always the last one.
    Unbind,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => f.write_str(fault.name),
            Self::Reset(kind) => write!(f, "reset by {kind:?}"),
            Self::FunctionReset => f.write_str("reset of the function"),
            Self::Kill(after) => write!(f, "kill after {} ms", after.as_millis()),
            Self::Unbind => f.write_str("unbind"),
        }
    }
}

/// What happens in a round, and how long after what happened before.
struct Round(Vec<(Duration, Blow)>);

impl Round {
    fn draw(rng: &mut Rng) -> Self {
        let faults = faults();
        let mut blows = Vec::new();
        for _ in 0..rng.usize(1..=MOST_BLOWS) {
            let pause = Duration::from_millis(rng.u64(0..=LONGEST_PAUSE));
            let blow = match rng.u8(0..20) {
                0..3 => Blow::Reset(ResetKind::Controller),
                3..5 => Blow::Reset(ResetKind::Subsystem),
                5 => Blow::FunctionReset,
                6..9 => Blow::Kill(Duration::from_millis(rng.u64(0..300))),
                _ => Blow::Fault(faults[rng.usize(0..faults.len())].clone()),
            };
            blows.push((pause, blow));
        }
        if rng.u8(0..4) == 0 {
            blows.push((Duration::from_millis(rng.u64(0..500)), Blow::Unbind));
        }
        Self(blows)
    }

    fn any(&self, which: impl Fn(&Blow) -> bool) -> bool {
        self.0.iter().any(|(_, blow)| which(blow))
    }

    fn has_effect(&self, which: impl Fn(Effect) -> bool) -> bool {
        self.any(|blow| matches!(blow, Blow::Fault(fault) if which(fault.effect)))
    }

    /// Whether a command may end with `outcome`.  Any fault can end in a reset if
    /// it meets another one.
    fn allows(&self, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Done
            | Outcome::Aborted
            | Outcome::Recovering
            | Outcome::Dead
            | Outcome::NoSession => true,
            Outcome::Gone => {
                self.has_effect(|effect| effect == Effect::Absent)
                    || self.any(|blow| matches!(blow, Blow::Unbind))
            }
            Outcome::Nonsense => self.has_effect(|effect| effect == Effect::Nonsense),
            Outcome::Refused(status, code) => {
                self.has_effect(|effect| effect == Effect::Refused(status, code))
                    || stamp::is_lost_key(status, code)
            }
        }
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (pause, blow)) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{} ms: {blow}", pause.as_millis())?;
        }
        Ok(())
    }
}

/// Sends commands of all kinds until there is no device, in a process that is
/// going to be killed.
fn victim(env: &Env) -> Result<()> {
    let device = Arc::new(env.open()?);
    let (_, session) = stamp::open(&device)?;
    let threads = (0..VICTIMS).map(|number| {
        let device = device.clone();
        thread::spawn(move || loop {
            let outcome = match session {
                Some(session) if number % 2 == 0 => {
                    let mode = [Mode::Gcm, Mode::Xts][number / 2 % 2];
                    stamp::aes(&device, session, &Keys::default(), mode, 40_960)
                }
                _ => stamp::plain(&device, None, 500, Trust::NotLengths),
            };
            if !matches!(outcome, Ok(outcome) if outcome != Outcome::Gone) {
                return;
            }
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        // It does not matter how it ended.
        let _ = thread.join();
    }
    Ok(())
}

/// A blow that takes its time.
type Ongoing = JoinHandle<Result<()>>;

fn strike(env: &Env, address: &str, blow: &Blow) -> Result<Option<Ongoing>> {
    let env_of_thread = env.clone();
    Ok(match blow {
        Blow::Fault(fault) => {
            fault.happen(env)?;
            None
        }
        &Blow::Reset(kind) => Some(thread::spawn(move || {
            // It may fail in any way, but has to return.
            let _ = env_of_thread.open().map(|device| device.reset(kind));
            Ok(())
        })),
        Blow::FunctionReset => {
            let address = address.to_owned();
            Some(thread::spawn(move || {
                // A function that is not there cannot be reset.
                let _ = pci::reset(&address);
                Ok(())
            }))
        }
        &Blow::Kill(after) => {
            let mut child = Child::run(|| match victim(&env_of_thread) {
                Ok(()) => 0,
                Err(_) => 1,
            })?;
            Some(thread::spawn(move || {
                thread::sleep(after);
                child.kill()?;
                child.wait(BACK).context("a killed process")?;
                Ok(())
            }))
        }
        Blow::Unbind => {
            pci::unbind(address)?;
            None
        }
    })
}

fn round(env: &Env, round: &Round) -> Result<Tally> {
    let address = env.address()?;
    env.control()?.set("cap_to", &json!(READY_TIMEOUT))?;
    let held = Held::measure()?;
    let crowd = Crowd::start(
        env,
        Plan {
            trust: Trust::NotLengths,
            ..Plan::MIXED
        },
    )?;
    crowd.wait_busy()?;
    let mut ongoing = Vec::new();
    for (pause, blow) in &round.0 {
        thread::sleep(*pause);
        let what = strike(env, &address, blow).with_context(|| format!("{blow}"))?;
        ongoing.extend(what);
    }
    thread::sleep(Duration::from_millis(300));
    undo(env)?;
    let begin = Instant::now();
    for blow in ongoing {
        while !blow.is_finished() {
            ensure!(begin.elapsed() < PATIENCE, "a blow does not end");
            thread::sleep(Duration::from_millis(5));
        }
        blow.join().expect("does not panic")?;
    }
    // What a reset of the function took away.
    undo(env)?;
    if round.any(|blow| matches!(blow, Blow::Unbind)) {
        crowd.wait_end(BACK)?;
        pci::bind(&address)?;
    }
    health::wait_serving(env, PATIENCE).with_context(|| format!("{}", crowd.tally()))?;
    if crowd.threads() > 0 && !round.allows(Outcome::Gone) {
        crowd.rekey(env)?;
        crowd.wait_answers(20, BACK)?;
    }
    let tally = if round.any(|blow| matches!(blow, Blow::Kill(_))) {
        crowd.stop_in_company(env, BACK)?
    } else {
        crowd.stop(env, BACK)?
    };
    tally.check(|_, outcome| round.allows(outcome))?;
    health::check_well(env)?;
    held.check_same_soon()?;
    Ok(tally)
}

fn chaos(env: &Env) -> Result<()> {
    let time = Duration::from_secs(env.seconds);
    let begin = Instant::now();
    let mut number = 0;
    while begin.elapsed() < time {
        let seed = env.seed.wrapping_add(number);
        let plan = Round::draw(&mut Rng::with_seed(seed));
        println!("# {} s, seed {seed}: {plan}", begin.elapsed().as_secs());
        let tally = round(env, &plan).with_context(|| format!("round of seed {seed}"))?;
        println!("# {tally}");
        number += 1;
    }
    println!("# {number} rounds, the first of seed {}", env.seed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Blow;
    use super::Round;
    use fastrand::Rng;

    #[test]
    fn a_seed_is_a_round() {
        for seed in 0..50 {
            let draw = || Round::draw(&mut Rng::with_seed(seed)).to_string();
            assert_eq!(draw(), draw());
        }
    }

    #[test]
    fn unbinding_comes_last() {
        for seed in 0..50 {
            let Round(blows) = Round::draw(&mut Rng::with_seed(seed));
            let unbind = blows
                .iter()
                .position(|(_, blow)| matches!(blow, Blow::Unbind));
            assert!(unbind.is_none_or(|at| at + 1 == blows.len()));
        }
    }
}
