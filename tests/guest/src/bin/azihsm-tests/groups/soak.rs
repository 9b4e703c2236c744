// SPDX-License-Identifier: GPL-2.0
//! Everything at once, for as long as one likes.

use super::load::at_once;
use super::load::check_no_session_soon;
use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use crate::usage::growth;
use crate::usage::LeakFinder;
use crate::usage::BATCHES;
use anyhow::anyhow;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::hsm::Session;
use azihsm_guest::reference;
use azihsm_guest::sys::Child;
use azihsm_mbor::Revision;
use azihsm_uapi::abi;
use azihsm_uapi::AesReply;
use azihsm_uapi::Device;
use azihsm_uapi::Direction;
use azihsm_uapi::GcmRequest;
use azihsm_uapi::Info;
use azihsm_uapi::XtsRequest;
use fastrand::Rng;
use nix::unistd::pipe;
use serde_json::json;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use std::time::Instant;

const PROCESSES: usize = 16;
/// Threads of each process.
const THREADS: usize = 8;

/// How many processes keep a session that all their threads use; the others
/// come and go with what sessions are left.
const RESIDENTS: usize = 4;

/// Commands that a queue can have.
const SLOTS: u64 = 15;

/// What the whole system may have more of in use after each batch; it is
/// thousands of commands.
const MOST_PAGES: i64 = 128;
const MOST_SLAB: i64 = 64;
const MOST_AREAS: i64 = 8;

/// What a process says when it is about to begin.
const READY: &[u8] = b"+";

/// How long a process may take to end that has said all, or threads to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a command may wait that is to be in the way: it must not time out.
const MOST_WAIT: Duration = Duration::from_secs(4);

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![Test::new("soak/16-processes-128-threads", soak)
        .long()
        .takes(75)
        .seconds(3600)]
}

/// Keys that outlive sessions.
struct Keys {
    /// With the IV of the request, and with one of the device's.
    gcm: Vec<(u32, [u8; 32], bool)>,
    xts: Vec<(u32, [u8; 32])>,
}

impl Keys {
    fn load(env: &Env) -> Result<Self> {
        let app = hsm::open_session(&env.open()?)?.app;
        let mut control = env.control()?;
        let mut rng = Rng::with_seed(env.seed);
        let mut key = |kind| -> Result<(u32, [u8; 32])> {
            let mut bytes = [0; 32];
            rng.fill(&mut bytes);
            Ok((control.load_lasting_key(kind, &bytes, app)?, bytes))
        };
        let mut gcm = Vec::new();
        for (kind, approved) in [(KeyKind::Gcm, false), (KeyKind::GcmApproved, true)] {
            let (id, bytes) = key(kind)?;
            gcm.push((id, bytes, approved));
        }
        let mut xts = Vec::new();
        for _ in 0..3 {
            xts.push(key(KeyKind::Xts)?);
        }
        Ok(Self { gcm, xts })
    }

    fn delete(&self, env: &Env) -> Result<()> {
        let gcm = self.gcm.iter().map(|key| key.0);
        let xts = self.xts.iter().map(|key| key.0);
        let mut control = env.control()?;
        gcm.chain(xts).try_for_each(|key| control.delete_key(key))
    }
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    hsm: u64,
    aes: u64,
    aes_bytes: u64,
    sessions: u64,
    infos: u64,
}

impl Done {
    fn add(&mut self, other: &Self) {
        self.hsm += other.hsm;
        self.aes += other.aes;
        self.aes_bytes += other.aes_bytes;
        self.sessions += other.sessions;
        self.infos += other.infos;
    }

    fn to_bytes(self) -> Vec<u8> {
        [
            self.hsm,
            self.aes,
            self.aes_bytes,
            self.sessions,
            self.infos,
        ]
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let numbers: Vec<u64> = bytes
            .chunks_exact(8)
            .map(|part| Ok(u64::from_le_bytes(part.try_into()?)))
            .collect::<Result<_>>()?;
        let &[hsm, aes, aes_bytes, sessions, infos] = numbers.as_slice() else {
            bail!("{} bytes of numbers", bytes.len());
        };
        Ok(Self {
            hsm,
            aes,
            aes_bytes,
            sessions,
            infos,
        })
    }
}

/// One of the threads.
struct Worker<'a> {
    env: &'a Env,
    keys: &'a Keys,
    info: &'a Info,
    rng: Rng,
    until: Instant,
    done: Done,
}

impl Worker<'_> {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn echo(&mut self, device: &Device, session: Option<u16>) -> Result<()> {
        // Nobody else has the same.
        let stamp = (self.rng.u32(2..), self.rng.u32(..));
        hsm::echo(device, session, stamp)?;
        self.done.hsm += 1;
        Ok(())
    }

    fn revisions(&mut self, device: &Device) -> Result<()> {
        let revisions = hsm::api_revisions(device)?;
        check_eq!(revisions, (Revision::V1, Revision::V1), "revisions");
        self.done.hsm += 1;
        Ok(())
    }

    fn info(&mut self, device: &Device) -> Result<()> {
        check_eq!(device.info()?, *self.info, "info");
        self.done.infos += 1;
        Ok(())
    }

    fn text(&mut self) -> Vec<u8> {
        let most = match self.rng.u8(0..200) {
            0..100 => 300,
            100..175 => 12 << 10,
            175..199 => 100 << 10,
            _ => 1 << 20,
        };
        let len = self.rng.usize(1..=most);
        let mut text = vec![0; len];
        self.rng.fill(&mut text);
        text
    }

    fn count(&mut self, reply: AesReply) -> Result<AesReply> {
        check_eq!((reply.status, reply.code), (0, 0), "status and error");
        self.done.aes += 1;
        self.done.aes_bytes += reply.text.len() as u64;
        Ok(reply)
    }

    fn gcm(&mut self, device: &Device, session: Session) -> Result<()> {
        let (key, bytes, approved) = self.keys.gcm[self.rng.usize(0..self.keys.gcm.len())];
        let mut iv = [0; 12];
        self.rng.fill(&mut iv);
        let mut aad = vec![0; self.rng.usize(0..100)];
        self.rng.fill(&mut aad);
        let text = self.text();
        let request = GcmRequest {
            direction: Direction::Encrypt,
            session: session.id,
            app: session.app,
            key,
            iv,
            tag: [0; 16],
            aad: &aad,
            text: &text,
        };
        let sealed = self.count(device.aes_gcm(&request)?)?;
        check_eq!(sealed.iv == iv, !approved, "IV of the request");
        let (expected, tag) = reference::gcm_encrypt(&bytes, sealed.iv, &aad, &text)?;
        ensure!(sealed.text == expected, "another ciphertext");
        check_eq!(sealed.tag, tag, "tag");
        let opened = self.count(device.aes_gcm(&GcmRequest {
            direction: Direction::Decrypt,
            iv: sealed.iv,
            tag,
            text: &sealed.text,
            ..request
        })?)?;
        ensure!(opened.text == text, "another plaintext");
        Ok(())
    }

    fn xts(&mut self, device: &Device, session: Session) -> Result<()> {
        let first = self.rng.usize(0..self.keys.xts.len());
        let second = (first + 1) % self.keys.xts.len();
        let (data, tweak) = (self.keys.xts[first], self.keys.xts[second]);
        let number = u128::from(self.rng.u64(..));
        let mut plain = self.text();
        plain.resize(plain.len().next_multiple_of(512), 0);
        let sealed = reference::xts_encrypt(&data.1, &tweak.1, 512, number, &plain);
        let (direction, text, expected) = if self.rng.bool() {
            (Direction::Encrypt, plain, sealed)
        } else {
            (Direction::Decrypt, sealed, plain)
        };
        let reply = self.count(device.aes_xts(&XtsRequest {
            direction,
            session: session.id,
            app: session.app,
            data_key: data.0,
            tweak_key: tweak.0,
            data_unit: abi::XTS_UNIT_512,
            tweak: number.to_le_bytes(),
            text: &text,
        })?)?;
        ensure!(reply.text == expected, "another text");
        Ok(())
    }

    /// One thing or another that needs no session.
    fn anything(&mut self, device: &Device) -> Result<()> {
        match self.rng.u8(0..10) {
            0..6 => self.echo(device, None),
            6..9 => self.revisions(device),
            _ => self.info(device),
        }
    }

    /// One thing or another in a session.
    fn anything_in(&mut self, device: &Device, session: Session) -> Result<()> {
        match self.rng.u8(0..10) {
            0..4 => self.gcm(device, session),
            4..7 => self.xts(device, session),
            7..9 => self.echo(device, Some(session.id)),
            _ => self.anything(device),
        }
    }

    /// Uses a session that others use, too.
    fn reside(&mut self, device: &Device, session: Session) -> Result<()> {
        while !self.is_over() {
            self.anything_in(device, session)?;
        }
        Ok(())
    }

    /// Opens a session if there is one left, uses it and leaves.
    fn come_and_go(&mut self) -> Result<()> {
        while !self.is_over() {
            let device = self.env.open()?;
            let session = hsm::try_open_session(&device)?;
            self.done.hsm += 1;
            let Some(session) = session else {
                for _ in 0..4 {
                    self.anything(&device)?;
                }
                continue;
            };
            self.done.sessions += 1;
            for _ in 0..self.rng.usize(1..8) {
                self.anything_in(&device, session)?;
            }
            // Some close, some leave it to the driver.
            if self.rng.bool() {
                hsm::close_session(&device, session.id)?;
                self.done.hsm += 1;
            }
        }
        Ok(())
    }
}

/// What process `process` does for so long, beginning when it is `ready`.
fn process(
    env: &Env,
    keys: &Keys,
    process: usize,
    time: Duration,
    ready: impl FnOnce() -> Result<()>,
) -> Result<Done> {
    let device = env.open()?;
    let info = device.info()?;
    let session = if process < RESIDENTS {
        Some(hsm::open_session(&device)?)
    } else {
        None
    };
    ready()?;
    let until = Instant::now() + time;
    let total = Mutex::new(Done::default());
    at_once(THREADS, |thread| {
        let number = (process * THREADS + thread) as u64;
        let mut worker = Worker {
            env,
            keys,
            info: &info,
            rng: Rng::with_seed(env.seed.wrapping_add(number)),
            until,
            done: Done::default(),
        };
        match session {
            Some(session) => worker.reside(&device, session)?,
            None => worker.come_and_go()?,
        }
        total.lock().expect("nobody panics").add(&worker.done);
        Ok(())
    })?;
    Ok(total.into_inner().expect("nobody panics"))
}

/// Runs all processes for so long.
fn run(env: &Env, keys: &Keys, time: Duration) -> Result<Done> {
    let mut children = Vec::new();
    for number in 0..PROCESSES {
        let (reader, writer) = pipe()?;
        let (mut reader, writer) = (File::from(reader), File::from(writer));
        let child = Child::run(|| {
            let ready = || Ok((&writer).write_all(READY)?);
            let (code, bytes) = match process(env, keys, number, time, ready) {
                Ok(done) => (0, done.to_bytes()),
                Err(error) => (1, format!("{error:#}").into_bytes()),
            };
            match (&writer).write_all(&bytes) {
                Ok(()) => code,
                Err(_) => 2,
            }
        })?;
        drop(writer);
        // Those that stay have their sessions before others take them all.
        let mut first = vec![0];
        reader.read_exact(&mut first)?;
        children.push((child, reader, first));
    }
    let mut total = Done::default();
    for (number, (mut child, mut reader, mut bytes)) in children.into_iter().enumerate() {
        reader.read_to_end(&mut bytes)?;
        match (child.wait(PATIENCE)?, bytes.strip_prefix(READY)) {
            (Some(0), Some(numbers)) => total.add(&Done::from_bytes(numbers)?),
            (code, text) => bail!(
                "process {number} of seed {}: {code:?}, {}",
                env.seed,
                String::from_utf8_lossy(text.unwrap_or(&bytes))
            ),
        }
    }
    Ok(total)
}

/// Makes sure that as many commands are possible at a time as ever: the device
/// does not take any while they are submitted.
fn check_slots(env: &Env, class: &str, command: impl Fn() -> Result<()> + Sync) -> Result<()> {
    let outstanding = || -> Result<Vec<u64>> {
        let counters = env.control()?.counters()?;
        let queues = counters["queues"].as_array().context("no queues")?;
        queues
            .iter()
            .filter(|queue| queue["kind"] == class)
            .map(|queue| queue["outstanding"].as_u64().context("no counter"))
            .collect()
    };
    let queues = outstanding()?.len();
    ensure!(queues > 0, "no {class} queues");
    env.control()?
        .inject(json!({ "fault": "stop_fetch", "class": class }))?;
    thread::scope(|scope| {
        let handle =
            scope.spawn(|| at_once(queues * SLOTS as usize, |_| command()).context("command"));
        let begin = Instant::now();
        let mut first = None;
        let full = loop {
            let found = outstanding()?;
            if found.iter().all(|&count| count == SLOTS) {
                break Ok(());
            }
            // A thread may be slow to start; no command may wait for as long as
            // it takes to time out.
            if found.iter().any(|&count| count > 0) {
                first.get_or_insert_with(Instant::now);
            }
            let waited = first.map_or(Duration::ZERO, |first| first.elapsed());
            if waited > MOST_WAIT || begin.elapsed() > PATIENCE {
                break Err(anyhow!("{class} queues have {found:?} commands"));
            }
        };
        env.control()?.clear_faults()?;
        handle.join().expect("does not panic")?;
        full
    })
}

fn check_all_slots(env: &Env, keys: &Keys) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    check_slots(env, "hsm", || hsm::api_revisions(&device).map(drop))?;
    let (key, bytes, _) = keys.gcm[0];
    check_slots(env, "aes", || {
        let reply = device.aes_gcm(&GcmRequest {
            direction: Direction::Encrypt,
            session: session.id,
            app: session.app,
            key,
            iv: [1; 12],
            tag: [0; 16],
            aad: &[],
            text: &[2; 100],
        })?;
        let expected = reference::gcm_encrypt(&bytes, [1; 12], &[], &[2; 100])?;
        ensure!((reply.text, reply.tag) == expected, "another text");
        Ok(())
    })
}

/// How many mappings for DMA the kernel has room for, if it counts them.
fn room_for_mappings() -> Result<Option<u64>> {
    let path = Path::new("/sys/kernel/debug/dma-api/num_free_entries");
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(fs::read_to_string(path)?.trim().parse()?))
}

/// Whether the kernel looks after locks; it stops for good after a finding.
fn checks_locks() -> Result<Option<bool>> {
    let path = Path::new("/proc/lockdep_stats");
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(path)?;
    let line = text.lines().find(|line| line.contains("debug_locks:"));
    let value = line.and_then(|line| line.split_whitespace().last());
    Ok(Some(value.context("no debug_locks")? == "1"))
}

fn soak(env: &Env) -> Result<()> {
    let keys = Keys::load(env)?;
    let finder = LeakFinder::new()?;
    let batch = Duration::from_secs(env.seconds) / BATCHES as u32;
    // Fills all caches.
    run(env, &keys, batch.min(Duration::from_secs(5)))?;
    check_no_session_soon(env)?;
    let room = room_for_mappings()?;

    let mut total = Done::default();
    let start = Instant::now();
    let growth = growth(|| {
        total.add(&run(env, &keys, batch)?);
        check_no_session_soon(env)
    })?;
    let seconds = start.elapsed().as_secs();
    println!("# {PROCESSES} processes, {THREADS} threads each, {seconds} s: {total:?}, {growth:?}");
    check_all_slots(env, &keys)?;
    keys.delete(env)?;

    let room_after = room_for_mappings()?;
    println!("# room for mappings: {room:?} before, {room_after:?} after");
    check_eq!(room_after, room, "room for mappings");
    match finder {
        None => ensure!(
            growth.pages < MOST_PAGES && growth.slab < MOST_SLAB && growth.areas < MOST_AREAS,
            "memory is lost: {growth:?} in each of {BATCHES} batches"
        ),
        // Such a kernel has a use for memory of its own with each allocation,
        // but knows better.
        Some(finder) => {
            let leaks = finder.leaks()?;
            println!("# kmemleak: {} leaks in all of the kernel", leaks.len());
            let of_driver = leaks.iter().find(|leak| leak.contains("azihsm"));
            ensure!(of_driver.is_none(), "leak: {of_driver:?}");
        }
    }
    match checks_locks()? {
        None => println!("# no lockdep"),
        Some(on) => ensure!(on, "lockdep is off"),
    }
    // A kernel that looks after DMA memory does so when the driver lets go.
    env.reload()
}
