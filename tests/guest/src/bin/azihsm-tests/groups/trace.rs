// SPDX-License-Identifier: GPL-2.0
//! Tracepoints (`Documentation/abi.rst`, 5.4).

use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::trace;
use azihsm_guest::trace::Trace;
use azihsm_uapi::Device;
use azihsm_uapi::Flow;
use azihsm_uapi::ResetKind;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long recovery may take.
const SOON: Duration = Duration::from_secs(20);

/// Each event, and what it tells: nothing of what commands are about.
const EVENTS: &[(&str, &str)] = &[
    ("azihsm_submit", "cid dev queue"),
    ("azihsm_complete", "cid dev ns queue status"),
    ("azihsm_cancel", "cid dev queue"),
    ("azihsm_timeout", "commands dev queue"),
    ("azihsm_abort", "dev queue"),
    ("azihsm_reset", "cause dev"),
    ("azihsm_reset_done", "cause dev done ms"),
    ("azihsm_session_open", "dev session"),
    ("azihsm_session_close", "dev session"),
];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("trace/events-are-those-of-the-document", documented).traces(),
        Test::new("trace/command-is-submitted-and-completed", command).traces(),
        Test::new("trace/error-has-its-status", error).traces(),
        Test::new("trace/session-is-opened-and-closed", session).traces(),
        Test::new("trace/close-of-a-descriptor-closes-its-session", close).traces(),
        Test::new("trace/reset-has-its-cause", reset).traces(),
        Test::new("trace/lost-command-times-out-and-is-cancelled", lost)
            .takes(9)
            .may_warn(&["azihsm"])
            .traces(),
    ]
}

/// An event of this driver: its name, and the fields that it prints.
#[derive(Debug)]
struct Event {
    name: String,
    dev: String,
    rest: BTreeMap<String, String>,
}

impl Event {
    /// `  task-1 [000] d..1.  5.6: azihsm_submit: 0000:01:00.0 queue=1 cid=0x2`
    fn parse(line: &str) -> Result<Self> {
        let at = line.find(": azihsm_").with_context(|| line.to_owned())?;
        let (name, told) = line[at + 2..].split_once(": ").context("no colon")?;
        let mut words = told.split(' ');
        let dev = words.next().context("no device")?.to_owned();
        let rest = words.map(|word| {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            (name.to_owned(), value.to_owned())
        });
        Ok(Self {
            name: name.to_owned(),
            dev,
            rest: rest.collect(),
        })
    }

    fn get(&self, field: &str) -> Result<&str> {
        let value = self.rest.get(field);
        Ok(value.with_context(|| format!("no {field} in {self:?}"))?)
    }

    /// What tells commands under way apart.
    fn command(&self) -> Result<(String, String)> {
        Ok((self.get("queue")?.to_owned(), self.get("cid")?.to_owned()))
    }
}

/// The events during `body`, all of the first device.
fn during(env: &Env, body: impl FnOnce() -> Result<()>) -> Result<Vec<Event>> {
    let lines = Trace::of_all("azihsm")?.during(body)?;
    let events: Result<Vec<_>> = lines.iter().map(|line| Event::parse(line)).collect();
    let events = events?;
    let address = env.address()?;
    for event in &events {
        check_eq!(event.dev, address, "device of {event:?}");
    }
    Ok(events)
}

fn of<'a>(events: &'a [Event], name: &str) -> Vec<&'a Event> {
    events.iter().filter(|event| event.name == name).collect()
}

fn documented(_: &Env) -> Result<()> {
    let directory = trace::directory()?.join("events/azihsm");
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("{}", directory.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.insert(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let expected: BTreeSet<_> = EVENTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    check_eq!(found, expected, "events");
    for (name, expected) in EVENTS {
        let format = fs::read_to_string(directory.join(name).join("format"))?;
        // `\tfield:u16 queue;\toffset:16;\tsize:2;\tsigned:0;`
        let fields: BTreeSet<_> = format
            .lines()
            .filter_map(|line| line.trim().strip_prefix("field:")?.split(';').next())
            .filter_map(|declaration| declaration.split([' ', '*']).next_back())
            .filter(|field| !field.starts_with("common_"))
            .collect();
        let expected: BTreeSet<_> = expected.split(' ').collect();
        check_eq!(fields, expected, "fields of {name}");
    }
    Ok(())
}

fn command(env: &Env) -> Result<()> {
    const COMMANDS: usize = 5;

    let device = env.open()?;
    let mut took = Duration::ZERO;
    let events = during(env, || {
        let begin = Instant::now();
        for _ in 0..COMMANDS {
            hsm::api_revisions(&device)?;
        }
        took = begin.elapsed();
        Ok(())
    })?;
    check_eq!(events.len(), 2 * COMMANDS, "events: {events:?}");
    let mut ns = 0;
    for pair in events.chunks(2) {
        check_eq!(pair[0].name, "azihsm_submit", "first event");
        check_eq!(pair[1].name, "azihsm_complete", "second event");
        check_eq!(pair[0].command()?, pair[1].command()?, "command");
        check_eq!(pair[1].get("status")?, "0x0", "status");
        let this: u64 = pair[1].get("ns")?.parse()?;
        ensure!(this != 0, "it took no time");
        ns += this;
    }
    let took = u64::try_from(took.as_nanos())?;
    ensure!(ns < took, "the commands took {ns} ns, all of it {took}");
    Ok(())
}

fn error(env: &Env) -> Result<()> {
    let device = env.open()?;
    env.control()?
        .inject(json!({ "fault": "status", "class": "hsm", "status": 0x123, "count": 1 }))?;
    let events = during(env, || {
        let mut response = [0; 1024];
        // It says what the device says, which is not what this is about.
        let _ = device.hsm_command(Flow::None, &hsm::get_api_rev(), &mut response);
        Ok(())
    })?;
    let completions = of(&events, "azihsm_complete");
    check_eq!(completions.len(), 1, "completions: {events:?}");
    check_eq!(completions[0].get("status")?, "0x123", "status");
    Ok(())
}

fn session(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut id = 0;
    let events = during(env, || {
        let session = hsm::open_session(&device)?;
        id = session.id;
        hsm::close_session(&device, session.id)
    })?;
    check_sessions(&events, id)
}

fn close(env: &Env) -> Result<()> {
    let mut id = 0;
    let events = during(env, || {
        let device = env.open()?;
        id = hsm::open_session(&device)?.id;
        Ok(())
    })?;
    check_sessions(&events, id)
}

/// There are two events of sessions: this one is opened, and closed.
fn check_sessions(events: &[Event], id: u16) -> Result<()> {
    let told: Vec<_> = events
        .iter()
        .filter(|event| event.name.starts_with("azihsm_session_"))
        .collect();
    check_eq!(told.len(), 2, "events: {events:?}");
    check_eq!(told[0].name, "azihsm_session_open", "first event");
    check_eq!(told[1].name, "azihsm_session_close", "second event");
    for event in told {
        check_eq!(event.get("session")?, id.to_string(), "session");
    }
    Ok(())
}

fn reset(env: &Env) -> Result<()> {
    let device = env.open()?;
    let events = during(env, || {
        device
            .reset(ResetKind::Controller)
            .map_err(|error| error.errno)?;
        Ok(())
    })?;
    let begun = of(&events, "azihsm_reset");
    check_eq!(begun.len(), 1, "resets: {events:?}");
    check_eq!(begun[0].get("cause")?, "requested", "cause");
    let ended = of(&events, "azihsm_reset_done");
    check_eq!(ended.len(), 1, "ends of resets: {events:?}");
    check_eq!(ended[0].get("cause")?, "requested", "cause");
    ended[0].get("done")?;
    // It has been started again by commands.
    let admin = of(&events, "azihsm_complete");
    ensure!(
        admin
            .iter()
            .any(|event| event.get("queue").ok() == Some("0")),
        "no admin command: {events:?}"
    );
    Ok(())
}

/// Sends a command until the device does what it says.
fn until_well(device: &Device) -> Result<()> {
    let begin = Instant::now();
    while hsm::api_revisions(device).is_err() {
        ensure!(begin.elapsed() < SOON, "the device is not well again");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn lost(env: &Env) -> Result<()> {
    let device = env.open()?;
    env.control()?
        .inject(json!({ "fault": "drop_completion", "class": "hsm", "count": 1 }))?;
    let events = during(env, || {
        let mut response = [0; 1024];
        let answer = device.hsm_command(Flow::None, &hsm::get_api_rev(), &mut response);
        ensure!(answer.is_err(), "it was completed");
        until_well(&device)
    })?;
    let submitted = of(&events, "azihsm_submit");
    let timeouts = of(&events, "azihsm_timeout");
    check_eq!(timeouts.len(), 1, "timeouts: {events:?}");
    check_eq!(timeouts[0].get("commands")?, "1", "commands overdue");
    let aborts = of(&events, "azihsm_abort");
    check_eq!(aborts.len(), 1, "aborts: {events:?}");
    let cancelled = of(&events, "azihsm_cancel");
    check_eq!(cancelled.len(), 1, "commands cancelled: {events:?}");
    check_eq!(cancelled[0].command()?, submitted[0].command()?, "command");
    for event in [timeouts[0], aborts[0]] {
        check_eq!(event.get("queue")?, cancelled[0].get("queue")?, "queue");
    }
    Ok(())
}
