// SPDX-License-Identifier: GPL-2.0
//! Starting and killing workers, looking after the driver meanwhile, and the
//! report.

use crate::dice::Dice;
use crate::player::must_be_seen;
use crate::player::Run;
use crate::probe::Probe;
use crate::request::GCM_KEY;
use crate::request::XTS_KEYS;
use crate::shared::Deed;
use crate::shared::End;
use crate::shared::Kind;
use crate::shared::Property;
use crate::shared::Shared;
use crate::shared::KEYS;
use crate::shared::PROPERTIES;
use crate::shared::THREADS;
use crate::shared::WORKERS;
use crate::workers;
use crate::world::file_of;
use crate::world::LARGE;
use crate::NODE;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::Control;
use azihsm_guest::kmsg::KernelLog;
use azihsm_guest::module;
use azihsm_guest::sys;
use azihsm_guest::sys::Child;
use azihsm_guest::vmstat;
use azihsm_uapi::abi;
use azihsm_uapi::abi::DevInfo;
use azihsm_uapi::Device;
use azihsm_uapi::ResetKind;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde_json::json;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;

/// How long a call may take at most: longer than any that the driver gives up.
const CALL: Duration = Duration::from_secs(40);

/// How long what is killed, or told to end, may take for it.
const END: Duration = Duration::from_secs(30);

/// How long what was left behind may take to be cleared away.
const SETTLE: Duration = Duration::from_secs(15);

/// How often the driver is asked to serve, the device is reset, and figures are
/// shown.
const PROBE: Duration = Duration::from_secs(2);
const RESET: Duration = Duration::from_secs(3);
const FIGURES: Duration = Duration::from_secs(30);

/// How often the supervisor looks around.
const TICK: Duration = Duration::from_millis(20);

/// After so many calls of a kind everything that can come of them was there.
const MANY: u64 = 5000;

/// How many findings of a kind are shown.
const SHOWN: u64 = 8;

/// Application that keys are for.
const APP: u8 = crate::oracle::APP;

/// Players that are no workers.
const SUPERVISOR: usize = WORKERS;
const PROBER: usize = WORKERS + 1;
const CONSTANT: usize = WORKERS + 2;

/// What to do.
#[derive(Debug)]
pub struct Settings {
    pub module: PathBuf,
    pub time: Duration,
    pub seed: u64,
    /// Workers that issue calls.
    pub callers: usize,
    /// The only worker, if not all.
    pub only: Option<usize>,
}

/// Results in the order in which they are found, in TAP.
struct Report {
    number: usize,
    good: bool,
}

impl Report {
    fn new(plan: usize) -> Self {
        println!("TAP version 14");
        println!("1..{plan}");
        Self {
            number: 0,
            good: true,
        }
    }

    fn point(&mut self, name: &str, findings: &[String]) {
        self.number += 1;
        let verdict = if findings.is_empty() { "ok" } else { "not ok" };
        println!("{verdict} {} - fuzz/{name}", self.number);
        for finding in findings {
            println!("# {finding}");
        }
        self.good &= findings.is_empty();
    }

    fn result(&mut self, name: &str, result: Result<()>) {
        let findings: Vec<_> = result
            .err()
            .iter()
            .map(|error| format!("{error:#}"))
            .collect();
        self.point(name, &findings);
    }
}

/// What workers found.
struct Findings {
    pipe: File,
    /// The beginning of a line.
    part: Vec<u8>,
    counts: [u64; PROPERTIES.len()],
    texts: Vec<(usize, String)>,
}

impl Findings {
    fn new(pipe: File) -> Self {
        Self {
            pipe,
            part: Vec::new(),
            counts: [0; PROPERTIES.len()],
            texts: Vec::new(),
        }
    }

    /// Takes in what there is.
    fn collect(&mut self) {
        let mut bytes = [0; 65536];
        while let Ok(count @ 1..) = self.pipe.read(&mut bytes) {
            self.part.extend_from_slice(&bytes[..count]);
        }
        while let Some(end) = self.part.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.part.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some((number, text)) = line.trim_end().split_once(' ') {
                if let Some((property, _)) = number
                    .parse()
                    .ok()
                    .and_then(|number: usize| PROPERTIES.get(number))
                {
                    self.add(*property, text);
                }
            }
        }
    }

    fn add(&mut self, property: Property, text: &str) {
        let count = &mut self.counts[property as usize];
        *count += 1;
        if *count <= SHOWN {
            // At once, should the machine not live to tell.
            println!("# {}", text);
            self.texts.push((property as usize, text.to_owned()));
        }
    }

    /// What is wrong with a property.
    fn of(&self, property: Property, shared: &Shared) -> Vec<String> {
        let index = property as usize;
        let mut texts = Vec::new();
        if shared.checks(property) == 0 && self.counts[index] == 0 {
            texts.push("never looked at".to_owned());
        }
        if self.counts[index] > 0 {
            texts.push(format!("{} times:", self.counts[index]));
        }
        let of_it = self.texts.iter().filter(|(property, _)| *property == index);
        texts.extend(of_it.map(|(_, text)| text.clone()));
        texts
    }
}

/// A worker, and those that were at its place before.
struct Place {
    number: usize,
    life: usize,
    child: Option<Child>,
    /// Since when it should be gone.
    killed: Option<Instant>,
}

struct Supervisor<'a> {
    settings: &'a Settings,
    run: Run,
    dice: Dice,
    findings: Findings,
    places: Vec<Place>,
    kills: u64,
    probes: u64,
    tries: u64,
    /// What the device drew when the keys were loaded.
    entropy: Option<[u8; 32]>,
    resets: u64,
}

impl Supervisor<'_> {
    fn start(&mut self, index: usize) -> Result<()> {
        let place = &mut self.places[index];
        place.life += 1;
        place.killed = None;
        let (run, number, life) = (&self.run, place.number, place.life);
        let callers = self.settings.callers;
        let child = Child::run(|| {
            let result = if number < callers {
                workers::call(run, number, life)
            } else {
                workers::pass_on(run, number, life)
            };
            match result {
                Ok(()) => 0,
                Err(error) => {
                    println!("# worker {number}: {error:#}");
                    1
                }
            }
        })?;
        place.child = Some(child);
        Ok(())
    }

    /// Starts workers anew that ended, and says so if they should not have.
    fn look_after_workers(&mut self) -> Result<()> {
        for index in 0..self.places.len() {
            let shared = self.run.shared;
            let place = &mut self.places[index];
            let number = place.number;
            let Some(child) = &mut place.child else {
                self.start(index)?;
                continue;
            };
            let ended = child.wait(Duration::ZERO)?;
            shared.checked(Property::Ends);
            match (ended, place.killed) {
                (Some(code), killed) => {
                    place.child = None;
                    shared.gone(number);
                    if killed.is_none() || code != -9 {
                        let text = format!("worker {number} ended with {code}");
                        self.findings.add(Property::Ends, &text);
                    }
                }
                (None, Some(since)) if since.elapsed() > END => {
                    let text = format!("worker {number} was killed and is not gone");
                    self.findings.add(Property::Ends, &text);
                    place.killed = Some(Instant::now());
                }
                (None, _) if shared.longest(number) > CALL => {
                    let stacks = stacks(child.pid().as_raw());
                    let text = format!("worker {number} is in a call for ever: {stacks}");
                    self.findings.add(Property::Ends, &text);
                    shared.gone(number);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn kill_one(&mut self) -> Result<()> {
        let index = self.dice.below(self.places.len());
        let place = &mut self.places[index];
        if let (Some(child), None) = (&place.child, place.killed) {
            child.kill()?;
            place.killed = Some(Instant::now());
            self.kills += 1;
        }
        Ok(())
    }

    /// Loads the keys anew if a reset has erased them.
    fn renew_keys(&mut self, device: &Device, control: &mut Control) -> Result<()> {
        let entropy = device.info()?.entropy;
        if self.entropy == Some(entropy) {
            return Ok(());
        }
        self.resets += u64::from(self.entropy.is_some());
        let kinds = [
            ("gcm", GCM_KEY),
            ("gcm_approved", GCM_KEY),
            ("xts", XTS_KEYS[0]),
            ("xts", XTS_KEYS[1]),
        ];
        let mut ids = [None; KEYS];
        for (id, (kind, key)) in ids.iter_mut().zip(kinds) {
            let request = json!({
                "cmd": "load_key",
                "kind": kind,
                "key": hex::encode(key),
                "app_id": APP,
            });
            // There may be no room before the next reset.
            let answer = control.ask(&request).ok();
            *id = answer
                .and_then(|answer| answer["key_id"].as_u64())
                .and_then(|id| u32::try_from(id).ok());
        }
        self.run.shared.set_keys(ids);
        self.entropy = Some(entropy);
        Ok(())
    }

    /// Resets the device, whatever the workers do with it.
    fn reset(&mut self, device: &Device) {
        let kind = self
            .dice
            .pick(&[ResetKind::Subsystem, ResetKind::Controller]);
        let result = device.reset(kind).map_err(|error| error.errno);
        self.run.shared.count(Kind::Reset, End::plain(&result));
        self.run.shared.checked(Property::Returns);
        if let Err(errno) = result {
            let text = format!("{kind:?} reset: {errno:?}");
            self.findings.add(Property::Returns, &text);
        }
    }

    /// Lets the workers work.
    fn work(&mut self, device: &Device, control: &mut Control) -> Result<()> {
        let shared = self.run.shared;
        let mut probe = Probe::new(Dice::new(self.settings.seed, &[PROBER]))?;
        let start = Instant::now();
        let (mut next_kill, mut next_probe, mut next_figures) = (start, start + PROBE, start);
        let mut next_reset = start + RESET;
        while start.elapsed() < self.settings.time {
            self.findings.collect();
            self.renew_keys(device, control)?;
            self.look_after_workers()?;
            let now = Instant::now();
            if now >= next_kill {
                if now > start {
                    self.kill_one()?;
                }
                let pause = self.dice.between(200, 3000) as u64;
                next_kill = Instant::now() + Duration::from_millis(pause);
            }
            if now >= next_probe {
                self.probes += 1;
                shared.checked(Property::Serves);
                match probe.insist(control) {
                    Ok(tries) => self.tries += u64::from(tries),
                    Err(error) => {
                        let text = format!("after {} s: {error:#}", start.elapsed().as_secs());
                        self.findings.add(Property::Serves, &text);
                    }
                }
                next_probe = Instant::now() + PROBE;
            }
            if now >= next_reset {
                self.reset(device);
                next_reset = Instant::now() + RESET;
            }
            if now >= next_figures {
                println!(
                    "# {} s: {} calls",
                    start.elapsed().as_secs(),
                    shared.calls()
                );
                next_figures = now + FIGURES;
            }
            thread::sleep(TICK);
        }
        shared.stop();
        Ok(())
    }

    /// Waits until all workers have ended, and all of their children.
    fn finish(&mut self) -> Result<()> {
        let mut late = Vec::new();
        for place in &mut self.places {
            let Some(child) = &mut place.child else {
                continue;
            };
            let code = child.wait(END)?;
            let expected = match place.killed {
                Some(_) => code.is_some(),
                None => code == Some(0),
            };
            if !expected {
                late.push(format!("worker {} ended with {code:?}", place.number));
            }
            // If it is still there it is killed, and waited for a little.
            place.child = None;
        }
        self.findings.collect();
        let deadline = Instant::now() + END;
        while !others()?.is_empty() && Instant::now() < deadline {
            thread::sleep(TICK);
        }
        for (pid, text) in others()? {
            late.push(format!("process {pid} is left: {text}: {}", stacks(pid)));
        }
        ensure!(late.is_empty(), "{}", late.join("; "));
        Ok(())
    }

    /// What was done, in figures.
    fn figures(&self) {
        let shared = self.run.shared;
        for line in shared.figures() {
            println!("# {line}");
        }
        println!(
            "# {} calls in {} s; AES in place {}, structures that changed meanwhile {}, \
             sessions opened {}, resets {} or more",
            shared.calls(),
            self.settings.time.as_secs(),
            shared.noted(Deed::InPlace),
            shared.noted(Deed::Raced),
            shared.noted(Deed::Opened),
            self.resets
        );
        println!(
            "# workers killed {}, probes {} in {} tries, findings lost {}",
            self.kills,
            self.probes,
            self.tries,
            shared.noted(Deed::Lost)
        );
        let checks: Vec<_> = PROPERTIES
            .iter()
            .map(|(property, _)| format!("{property:?} {}", shared.checks(*property)))
            .collect();
        println!("# looked at: {}", checks.join(", "));
    }
}

/// Where the threads of a process are in the kernel.
fn stacks(pid: i32) -> String {
    let mut text = String::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return text;
    };
    for task in tasks.flatten() {
        let stack = fs::read_to_string(task.path().join("stack")).unwrap_or_default();
        text.push_str(&stack.replace('\n', " < "));
        text.push('|');
    }
    text
}

/// Other processes of this program.
fn others() -> Result<Vec<(i32, String)>> {
    let own = fs::read_link("/proc/self/exe")?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse::<i32>() else {
            continue;
        };
        let same = fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe == own);
        if same && pid != nix::unistd::getpid().as_raw() {
            let state = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            found.push((pid, state.chars().take(40).collect()));
        }
    }
    Ok(found)
}

/// Waits until `what` finds nothing wrong.
fn settle(mut what: impl FnMut() -> Result<Option<String>>) -> Result<()> {
    let deadline = Instant::now() + SETTLE;
    loop {
        match what()? {
            None => return Ok(()),
            Some(text) if Instant::now() > deadline => anyhow::bail!("{text}"),
            Some(_) => thread::sleep(10 * TICK),
        }
    }
}

/// What is left in the device.
fn left_behind(control: &mut Control) -> Result<Option<String>> {
    let sessions = control.sessions()?;
    let state = control.state()?;
    let commands = &state["commands_in_flight"];
    let clean = sessions.is_empty() && commands.as_u64() == Some(0);
    Ok((!clean).then(|| format!("sessions {sessions:?}, commands {commands}")))
}

/// Pages that are pinned, if there are any.
fn pinned() -> Result<Option<String>> {
    let pages = vmstat::pinned_pages()?;
    Ok((pages != 0).then(|| format!("{pages} pages are pinned")))
}

/// What the device says about itself.
fn info(device: &Device) -> Result<Vec<u8>> {
    let mut info = DevInfo::new_zeroed();
    info.argsz = size_of::<DevInfo>() as u32;
    sys::submit(device, abi::IOC_DEV_INFO, &mut info)?;
    Ok(info.as_bytes().to_vec())
}

/// Makes sure that everything works at once, now that nobody is in the way.
fn serve_once(settings: &Settings, control: &mut Control) -> Result<()> {
    let mut probe = Probe::new(Dice::new(settings.seed, &[PROBER, 1]))?;
    probe.once(control)?;
    drop(probe);
    settle(|| left_behind(control))
}

fn unload() -> Result<()> {
    module::unload().context("delete_module")?;
    ensure!(!module::is_loaded(), "still loaded");
    ensure!(!Path::new(NODE).exists(), "{NODE} is still there");
    Ok(())
}

/// Makes sure that long data, which is only ever read, is what it was.
fn check_constant(run: &Run, content: &[u8]) -> Option<String> {
    let mut found = vec![0; content.len()];
    match run.constant.read_exact_at(&mut found, 0) {
        Ok(()) if found == content => None,
        Ok(()) => Some("long data that is only read has changed".to_owned()),
        Err(error) => Some(format!("long data cannot be read: {error}")),
    }
}

/// Does it all, and says whether nothing was wrong.
pub fn run(settings: &Settings) -> Result<bool> {
    let mut report = Report::new(PROPERTIES.len() + 8);
    println!("# seed {}", settings.seed);
    let mut control = Control::open(0)?;
    let mut log = KernelLog::end()?;
    ensure!(!module::is_loaded(), "the module is loaded already");
    // With few buffers, so that much of what could be copied is accessed in place.
    module::load_with(&settings.module, c"aes_bounce_buffers=2")?;
    let device = Device::open(NODE).context(NODE)?;
    report.result(
        "the module loads, and its device answers",
        device.info().map(drop).map_err(Into::into),
    );
    // What a driver prints that is well was printed.
    log.read()?;

    let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    let content = Dice::new(settings.seed, &[CONSTANT]).bytes(LARGE);
    let everyone = 0..=settings.callers;
    let mut supervisor = Supervisor {
        settings,
        run: Run {
            seed: settings.seed,
            shared: Shared::new()?,
            constant: file_of(&content)?,
            findings: writer.into(),
            info: info(&device)?,
        },
        dice: Dice::new(settings.seed, &[SUPERVISOR, THREADS]),
        findings: Findings::new(reader.into()),
        places: everyone
            .filter(|&number| settings.only.is_none_or(|only| only == number))
            .map(|number| Place {
                number,
                life: 0,
                child: None,
                killed: None,
            })
            .collect(),
        kills: 0,
        probes: 0,
        tries: 0,
        entropy: None,
        resets: 0,
    };
    ensure!(!supervisor.places.is_empty(), "there is no such worker");
    supervisor.work(&device, &mut control)?;
    let ended = supervisor.finish();
    if let Some(text) = check_constant(&supervisor.run, &content) {
        supervisor.findings.add(Property::Untouched, &text);
    }
    let shared = supervisor.run.shared;
    for (property, name) in PROPERTIES {
        report.point(name, &supervisor.findings.of(*property, shared));
    }
    supervisor.figures();
    let unseen: Vec<_> = must_be_seen()
        .into_iter()
        // What is rare is not due in a short run.
        .filter(|(kind, end)| end.errno.is_none() || shared.calls_of(*kind) > MANY)
        .filter(|(kind, end)| shared.counted(*kind, *end) == 0)
        .map(|(kind, end)| format!("never: {kind:?} {}", end.describe()))
        .chain((shared.noted(Deed::InPlace) == 0).then(|| "never: data in place".to_owned()))
        .collect();
    report.point("each end that callers can bring about was seen", &unseen);
    report.result("all processes have ended", ended);
    drop(device);
    report.result(
        "no session and no command is left in the device",
        settle(|| left_behind(&mut control)),
    );
    report.result("no page is left pinned", settle(pinned));
    report.result(
        "the driver serves afterwards, at the first try",
        serve_once(settings, &mut control),
    );
    report.result("the module can be unloaded", unload());
    let said: Vec<_> = log
        .read()?
        .into_iter()
        .filter(|message| message.is_about_driver() || message.is_alarming())
        .map(|message| message.text)
        .collect();
    report.point(
        "the driver had nothing to say, and the kernel nothing bad",
        &said,
    );
    Ok(report.good)
}
