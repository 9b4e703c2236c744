// SPDX-License-Identifier: GPL-2.0
//! Many threads that send commands of all kinds, and remember what became of
//! each.

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
use azihsm_guest::control::Control;
use azihsm_guest::hsm;
use azihsm_guest::hsm::Session;
use azihsm_uapi::Device;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

/// How long a thread waits before it repeats what it was told to repeat.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a device takes for a command that it is told to be slow with, so that
/// all threads have one under way and still leave the processors alone.
pub const SLOW_US: u64 = 1500;

/// How many flushes may be under way: they may be counted later, or be lost.
const FLUSHES: u64 = 32;

/// Lengths of AES texts: most go through the memory of the slot, the last ones
/// are accessed in place.
const LENGTHS: &[usize] = &[16, 64, 512, 64, 4096, 240, 12_288, 32, 16_384, 1024, 40_960];

/// Lengths that are too large for slots.
const LARGE: &[usize] = &[16_384, 40_960, 12_304];

/// Additional bytes of HSM requests.
const PADDINGS: &[usize] = &[0, 0, 100, 0, 2000, 0, 3400];

/// What kind of command.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// For the HSM.
    Hsm,
    /// AES.
    Aes,
}

/// Who is in the crowd.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Threads that send HSM commands.
    pub hsm: usize,
    /// How many of them do so in sessions of their own.
    pub sessions: usize,
    /// Threads that send AES commands.
    pub aes: usize,
    /// How many descriptors with sessions they share.
    pub shared: usize,
    /// Whether all AES data is too large for slots; it is accessed in place if
    /// the driver has no buffers.
    pub in_place: bool,
    /// What of the device's words is believed.
    pub trust: Trust,
}

impl Plan {
    /// 64 threads, half of them AES, with 5 of the 8 sessions.
    pub const MIXED: Self = Self {
        hsm: 32,
        sessions: 2,
        aes: 32,
        shared: 3,
        in_place: false,
        trust: Trust::Full,
    };

    /// A few threads of each kind.
    pub const FEW: Self = Self {
        hsm: 4,
        sessions: 1,
        aes: 4,
        shared: 1,
        in_place: false,
        trust: Trust::Full,
    };
}

/// What threads and the test share.
struct Shared {
    stop: AtomicBool,
    start: Instant,
    keys: Keys,
    /// For each thread: since when its command has been under way, in
    /// microseconds since the start, or 0.
    since: Vec<AtomicU64>,
    /// Commands that were answered: HSM, AES.
    answered: [AtomicU64; 2],
    tally: Mutex<Tally>,
}

impl Shared {
    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64 + 1
    }
}

/// What became of all commands.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many of each kind ended how.
    pub counts: BTreeMap<(Class, Outcome), u64>,
    /// The longest that a command took which was answered.
    pub longest: Duration,
    /// How many others of its kind were answered, at most, from before a command was
    /// sent until it was answered.
    pub overtaken: u64,
    /// When the last thread was told that there is no device.
    pub last_gone: Option<Instant>,
    /// What is wrong.
    problems: Vec<String>,
}

impl Tally {
    /// How many commands ended in a way that `which` says.
    pub fn count(&self, which: impl Fn(Class, Outcome) -> bool) -> u64 {
        let counts = self.counts.iter();
        counts
            .filter(|((class, outcome), _)| which(*class, *outcome))
            .map(|(_, count)| count)
            .sum()
    }

    /// Makes sure that commands ended in ways only that `allowed` says.
    pub fn check(&self, allowed: impl Fn(Class, Outcome) -> bool) -> Result<()> {
        let forbidden = self.count(|class, outcome| !allowed(class, outcome));
        ensure!(
            forbidden == 0,
            "{forbidden} commands ended as they should not: {self}"
        );
        Ok(())
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for ((class, outcome), count) in &self.counts {
            write!(f, "{class:?} {outcome:?}: {count}, ")?;
        }
        let longest = self.longest.as_millis();
        write!(f, "longest {longest} ms, overtaken by {}", self.overtaken)
    }
}

/// What the device has counted.
#[derive(Clone, Copy, Debug)]
struct Counted {
    hsm: u64,
    flushes: u64,
    aes: u64,
}

impl Counted {
    fn read(control: &mut Control) -> Result<Self> {
        let counters = control.counters()?;
        let commands = &counters["commands"];
        Ok(Self {
            hsm: commands["hsm"].as_u64().context("no counters")?,
            flushes: counters["flushes"].as_u64().context("no counters")?,
            aes: commands["aes"].as_u64().context("no counters")?,
        })
    }
}

/// How many commands of a kind the device has seen, and how many of them were
/// flushes of sessions.
#[derive(Clone, Copy)]
struct Fetched {
    class: Class,
    fetched: u64,
    flushes: u64,
}

/// A descriptor with the session that it has, which may be another one after the
/// device has lost all.
struct Place {
    device: Device,
    session: Mutex<Session>,
}

impl Place {
    fn new(device: Device, session: Session) -> Arc<Self> {
        let session = Mutex::new(session);
        Arc::new(Self { device, session })
    }

    fn session(&self) -> Session {
        *self.session.lock().expect("nobody panics")
    }

    /// Opens another session, unless somebody else did so.
    fn reopen(&self) -> Result<Outcome> {
        let mut place = self.session.lock().expect("nobody panics");
        let (outcome, session) = stamp::open(&self.device)?;
        if let Some(session) = session {
            *place = session;
        }
        Ok(outcome)
    }
}

/// The threads.  They go on until [`Crowd::stop`], or until there is no device.
pub struct Crowd {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    app: u8,
    before: Counted,
}

impl Crowd {
    /// Starts the threads on a device that is well.
    pub fn start(env: &Env, plan: Plan) -> Result<Self> {
        let mut control = env.control()?;
        control.set_latencies(SLOW_US)?;
        let mut places = Vec::new();
        for _ in 0..plan.sessions + plan.shared {
            let device = env.open()?;
            let session = hsm::open_session(&device)?;
            places.push(Place::new(device, session));
        }
        let app = places.first().map_or(1, |place| place.session().app);
        let (own, shared_by) = places.split_at(plan.sessions);

        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            start: Instant::now(),
            keys: Keys::default(),
            since: (0..plan.hsm + plan.aes)
                .map(|_| AtomicU64::new(0))
                .collect(),
            answered: [const { AtomicU64::new(0) }; 2],
            tally: Mutex::default(),
        });
        shared.keys.load(&mut control, app)?;
        let before = Counted::read(&mut control)?;
        let mut threads = Vec::new();
        for number in 0..plan.hsm + plan.aes {
            let (place, work) = if let Some(place) = own.get(number) {
                (place.clone(), Work::InSession)
            } else if number < plan.hsm {
                let none = Session { id: 0, app: 0 };
                (Place::new(env.open()?, none), Work::Hsm)
            } else {
                (shared_by[number % shared_by.len()].clone(), Work::Aes)
            };
            let member = Member {
                number,
                work,
                place,
                in_place: plan.in_place,
                trust: plan.trust,
                shared: shared.clone(),
            };
            let builder = thread::Builder::new().stack_size(256 << 10);
            threads.push(builder.spawn(move || member.run())?);
        }
        Ok(Self {
            shared,
            threads,
            app,
            before,
        })
    }

    /// Loads the keys again, after a reset.
    pub fn rekey(&self, env: &Env) -> Result<()> {
        let mut control = env.control()?;
        self.shared.keys.delete(&mut control);
        self.shared.keys.load(&mut control, self.app)
    }

    /// How many commands were answered: HSM, AES.
    pub fn answered(&self) -> [u64; 2] {
        let answered = &self.shared.answered;
        [0, 1].map(|class: usize| answered[class].load(Ordering::Relaxed))
    }

    /// What became of the commands so far.
    pub fn tally(&self) -> Tally {
        self.shared.tally.lock().expect("nobody panics").clone()
    }

    /// Waits until `more` commands of each kind that the crowd sends were
    /// answered.
    pub fn wait_answers(&self, more: u64, patience: Duration) -> Result<Duration> {
        let begin = Instant::now();
        let before = self.answered();
        loop {
            let now = self.answered();
            let enough = |class: usize| now[class] >= before[class] + more;
            if (enough(0) || before[0] == 0) && (enough(1) || before[1] == 0) {
                return Ok(begin.elapsed());
            }
            if begin.elapsed() > patience {
                bail!(
                    "after {patience:?} {:?} commands more were answered; {}; {:?}",
                    [now[0] - before[0], now[1] - before[1]],
                    self.tally(),
                    self.under_way()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the crowd is at work, with most threads waiting for a command.
    pub fn wait_busy(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let waiting = self.under_way().0;
            if waiting * 4 >= self.threads() * 3 && self.answered().iter().sum::<u64>() > 50 {
                return Ok(());
            }
            ensure!(
                begin.elapsed() < Duration::from_secs(30),
                "the crowd does not get going: {}",
                self.tally()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many threads wait for a command, and how long the first has.
    pub fn under_way(&self) -> (usize, Duration) {
        let now = self.shared.now();
        let since = self.shared.since.iter();
        let since = since.map(|word| word.load(Ordering::Relaxed));
        let waiting: Vec<u64> = since.filter(|since| *since != 0).collect();
        let first = waiting.iter().min().copied().unwrap_or(now);
        (
            waiting.len(),
            Duration::from_micros(now.saturating_sub(first)),
        )
    }

    /// How many threads have not ended.
    pub fn threads(&self) -> usize {
        let threads = self.threads.iter();
        threads.filter(|thread| !thread.is_finished()).count()
    }

    /// Waits until all threads have ended by themselves.
    pub fn wait_end(&self, patience: Duration) -> Result<()> {
        let begin = Instant::now();
        while self.threads() > 0 {
            ensure!(
                begin.elapsed() < patience,
                "after {patience:?} {} threads are still there, waiting: {:?}",
                self.threads(),
                self.under_way()
            );
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Stops the threads, each of which must come back within `patience`, and
    /// holds what they were told against what the device counted: each command
    /// that has a result was carried out, and none twice, or that was refused.
    pub fn stop(self, env: &Env, patience: Duration) -> Result<Tally> {
        let (tally, counts) = self.end(env, patience)?;
        for Fetched {
            class,
            fetched,
            flushes,
        } in counts
        {
            let sent = tally.count(|of, outcome| of == class && outcome.may_be_sent());
            ensure!(
                fetched <= sent + flushes + FLUSHES,
                "{class:?}: {fetched} commands reached the device, {flushes} of them flushes; \
                 {sent} may have been sent; {tally}"
            );
        }
        Ok(tally)
    }

    /// The same where others send commands, too: what the device counted more is
    /// theirs.
    pub fn stop_in_company(self, env: &Env, patience: Duration) -> Result<Tally> {
        Ok(self.end(env, patience)?.0)
    }

    /// Stops the threads: what became of their commands, and what the device has
    /// seen of each kind.
    fn end(self, env: &Env, patience: Duration) -> Result<(Tally, [Fetched; 2])> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.wait_end(patience)?;
        let mut control = env.control()?;
        control.set_latencies(0)?;
        self.shared.keys.delete(&mut control);
        let after = Counted::read(&mut control)?;
        let tally = self.tally();
        ensure!(tally.problems.is_empty(), "{}", tally.problems.join("\n"));

        let hsm = after.hsm - self.before.hsm;
        let flushes = after.flushes - self.before.flushes;
        let aes = after.aes - self.before.aes;
        let counts =
            [(Class::Hsm, hsm, flushes), (Class::Aes, aes, 0)].map(|(class, fetched, flushes)| {
                Fetched {
                    class,
                    fetched,
                    flushes,
                }
            });
        for Fetched {
            class,
            fetched,
            flushes,
        } in counts
        {
            let answered = tally.count(|of, outcome| of == class && outcome.is_answer());
            ensure!(
                answered + flushes <= fetched + FLUSHES,
                "{class:?}: {answered} commands were answered, but {fetched} reached the device, \
                 {flushes} of them flushes; {tally}"
            );
        }
        Ok((tally, counts))
    }
}

/// What commands a thread sends.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Work {
    /// HSM commands.
    Hsm,
    /// HSM commands in the session of the descriptor.
    InSession,
    /// AES commands.
    Aes,
}

/// A thread.
struct Member {
    number: usize,
    work: Work,
    place: Arc<Place>,
    in_place: bool,
    trust: Trust,
    shared: Arc<Shared>,
}

impl Member {
    fn class(&self) -> Class {
        match self.work {
            Work::Hsm | Work::InSession => Class::Hsm,
            Work::Aes => Class::Aes,
        }
    }

    fn run(self) {
        let mut round = self.number;
        while !self.shared.stop.load(Ordering::Relaxed) {
            round += 1;
            let begin = Instant::now();
            let before = self.answered();
            let since = &self.shared.since[self.number];
            since.store(self.shared.now(), Ordering::Relaxed);
            let result = self.one(round);
            since.store(0, Ordering::Relaxed);
            let has_lost = matches!(result, Ok(Outcome::NoSession));
            let took = (begin.elapsed(), self.answered() - before);
            if !self.note(self.class(), result, took) {
                return;
            }
            if has_lost && !self.note(Class::Hsm, self.place.reopen(), Default::default()) {
                return;
            }
        }
    }

    /// How many commands of its kind were answered.
    fn answered(&self) -> u64 {
        self.shared.answered[self.class() as usize].load(Ordering::Relaxed)
    }

    /// Takes note of how a command ended, after some time in which so many others
    /// were answered; returns whether to go on.
    fn note(&self, class: Class, result: Result<Outcome>, took: (Duration, u64)) -> bool {
        let mut tally = self.shared.tally.lock().expect("nobody panics");
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => {
                let number = self.number;
                tally.problems.push(format!("thread {number}: {error:#}"));
                return false;
            }
        };
        *tally.counts.entry((class, outcome)).or_insert(0) += 1;
        if outcome == Outcome::Gone {
            tally.last_gone = Some(Instant::now());
            return false;
        }
        if outcome.is_answer() {
            tally.longest = tally.longest.max(took.0);
            tally.overtaken = tally.overtaken.max(took.1);
            let answered = &self.shared.answered[class as usize];
            answered.fetch_add(1, Ordering::Relaxed);
        } else {
            drop(tally);
            thread::sleep(PAUSE);
        }
        true
    }

    fn one(&self, round: usize) -> Result<Outcome> {
        let device = &self.place.device;
        let session = self.place.session();
        match self.work {
            Work::Hsm | Work::InSession => {
                let id = (self.work == Work::InSession).then_some(session.id);
                let padding = PADDINGS[round % PADDINGS.len()];
                stamp::plain(device, id, padding, self.trust)
            }
            Work::Aes => {
                let mode = [Mode::Gcm, Mode::Xts][round % 2];
                let lengths = if self.in_place { LARGE } else { LENGTHS };
                let len = lengths[round % lengths.len()];
                stamp::aes(device, session, &self.shared.keys, mode, len)
            }
        }
    }
}
