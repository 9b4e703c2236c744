// SPDX-License-Identifier: GPL-2.0
//! Talking to the virtual device behind the driver's back.
//!
//! Each device has a serial port of its own, over which requests and answers
//! go as lines of JSON.

use crate::hsm::Session;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use nix::poll::poll;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::sys::termios::cfmakeraw;
use nix::sys::termios::tcflush;
use nix::sys::termios::tcgetattr;
use nix::sys::termios::tcsetattr;
use nix::sys::termios::FlushArg;
use nix::sys::termios::SetArg;
use serde_json::json;
use serde_json::Value;
use std::env;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;
use std::time::Instant;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The port of the first device.
const FIRST_PORT: usize = 2;

/// What an AES key is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyKind {
    /// GCM with the IV of the request.
    Gcm,
    /// GCM with an IV that the device draws.
    GcmApproved,
    /// XTS.
    Xts,
}

impl KeyKind {
    fn name(self) -> &'static str {
        match self {
            Self::Gcm => "gcm",
            Self::GcmApproved => "gcm_approved",
            Self::Xts => "xts",
        }
    }
}

/// The line to a device.
#[derive(Debug)]
pub struct Control {
    port: File,
    /// Which function of those behind the port it is.
    function: usize,
}

/// Set if all devices are functions of one, which has one line.
pub const CARD: &str = "AZIHSM_CARD";

impl Control {
    /// Opens the line to device `number`.
    pub fn open(number: usize) -> Result<Self> {
        let (port, function) = match env::var_os(CARD) {
            Some(_) => (FIRST_PORT, number),
            None => (FIRST_PORT + number, 0),
        };
        let path = format!("/dev/ttyS{port}");
        let port = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| path.clone())?;
        let mut attributes = tcgetattr(&port)?;
        cfmakeraw(&mut attributes);
        tcsetattr(&port, SetArg::TCSANOW, &attributes)?;
        // What a request that was given up has left behind.
        tcflush(&port, FlushArg::TCIOFLUSH)?;
        Ok(Self { port, function })
    }

    /// Sends a request and returns the answer, which says that all is well.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        let mut whole = request.clone();
        whole["function"] = json!(self.function);
        self.port.write_all(format!("{whole}\n").as_bytes())?;
        let line = self.line()?;
        let answer: Value = serde_json::from_slice(&line)
            .with_context(|| String::from_utf8_lossy(&line).into_owned())?;
        ensure!(answer["ok"] == true, "{request}: {answer}");
        Ok(answer)
    }

    fn line(&mut self) -> Result<Vec<u8>> {
        let deadline = Instant::now() + PATIENCE;
        let mut line = Vec::new();
        loop {
            let mut ready = [PollFd::new(self.port.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(100_u16))? > 0 {
                let mut part = [0; 4096];
                let count = self.port.read(&mut part)?;
                line.extend_from_slice(&part[..count]);
                if line.last() == Some(&b'\n') {
                    return Ok(line);
                }
            }
            if Instant::now() > deadline {
                bail!("the device does not answer");
            }
        }
    }

    /// Loads a key for a session, which ends with it.
    pub fn load_key(&mut self, kind: KeyKind, key: &[u8], session: Session) -> Result<u32> {
        let answer = self.ask(&json!({
            "cmd": "load_key",
            "kind": kind.name(),
            "key": hex::encode(key),
            "app_id": session.app,
            "session": session.id,
        }))?;
        number(&answer["key_id"], "key")
    }

    /// Loads a key for all sessions of the application `app`; it stays until it is
    /// deleted, or the device is reset.
    pub fn load_lasting_key(&mut self, kind: KeyKind, key: &[u8], app: u8) -> Result<u32> {
        let answer = self.ask(&json!({
            "cmd": "load_key",
            "kind": kind.name(),
            "key": hex::encode(key),
            "app_id": app,
        }))?;
        number(&answer["key_id"], "key")
    }

    /// Deletes a key.
    pub fn delete_key(&mut self, id: u32) -> Result<()> {
        self.ask(&json!({ "cmd": "delete_key", "key_id": id }))?;
        Ok(())
    }

    /// Has HSM and AES commands take so many microseconds each.
    pub fn set_latencies(&mut self, us: u64) -> Result<()> {
        self.set("hsm_latency_us", &json!(us))?;
        self.set("aes_latency_us", &json!(us))
    }

    /// Has something go wrong; `fault` is a JSON object with at least the field
    /// of that name.
    pub fn inject(&mut self, mut fault: Value) -> Result<()> {
        fault["cmd"] = json!("inject");
        self.ask(&fault)?;
        Ok(())
    }

    /// Has nothing go wrong any more.
    pub fn clear_faults(&mut self) -> Result<()> {
        self.ask(&json!({ "cmd": "clear_faults" }))?;
        Ok(())
    }

    /// Has what `fault` names go wrong no more.
    pub fn clear_fault(&mut self, fault: &str) -> Result<()> {
        let answer = self.ask(&json!({ "cmd": "faults" }))?;
        let faults = answer["faults"].as_array().context("no faults")?;
        for found in faults.iter().filter(|found| found["fault"] == fault) {
            self.ask(&json!({ "cmd": "clear_faults", "id": found["id"] }))?;
        }
        Ok(())
    }

    /// What the device counted.
    pub fn counters(&mut self) -> Result<Value> {
        let mut answer = self.ask(&json!({ "cmd": "counters" }))?;
        Ok(answer["counters"].take())
    }

    /// How many AES commands the device has fetched.
    pub fn aes_commands(&mut self) -> Result<u64> {
        let counters = self.counters()?;
        counters["commands"]["aes"].as_u64().context("no counters")
    }

    /// What is in the device.
    pub fn state(&mut self) -> Result<Value> {
        self.ask(&json!({ "cmd": "state" }))
    }

    /// Numbers of the sessions that exist in the device.
    pub fn sessions(&mut self) -> Result<Vec<u64>> {
        let state = self.state()?;
        let list = state["sessions"].as_array().context("no sessions")?;
        list.iter()
            .map(|session| session["id"].as_u64().context("session without a number"))
            .collect()
    }

    /// What the guest's memory holds at a bus address.
    pub fn memory(&mut self, address: u64, length: usize) -> Result<Vec<u8>> {
        let request = json!({ "cmd": "memory", "address": address, "length": length });
        let answer = self.ask(&request)?;
        Ok(hex::decode(answer["data"].as_str().context("no data")?)?)
    }

    /// Whether the guest's memory holds `pattern` somewhere in `length` bytes
    /// from a bus address on.
    pub fn memory_holds(&mut self, address: u64, length: usize, pattern: &[u8]) -> Result<bool> {
        let answer = self.ask(&json!({
            "cmd": "memory", "address": address, "length": length, "search": hex::encode(pattern),
        }))?;
        Ok(!answer["offset"].is_null())
    }

    /// The submission queues of a class, `hsm` or `aes`: number, bus address,
    /// entries, and tail.
    pub fn submission_queues(&mut self, class: &str) -> Result<Vec<(u64, u64, usize, usize)>> {
        let state = self.state()?;
        let queues = state["queues"].as_array().context("no queues")?;
        let field = |value: &Value| value.as_u64().context("no number");
        queues
            .iter()
            .filter(|queue| queue["kind"] == class)
            .map(|queue| {
                let sq = &queue["sq"];
                let (entries, tail) = (field(&sq["entries"])?, field(&sq["tail"])?);
                Ok((
                    field(&queue["id"])?,
                    field(&sq["base"])?,
                    usize::try_from(entries)?,
                    usize::try_from(tail)?,
                ))
            })
            .collect()
    }

    /// Turns the device off and on, which ends its sessions, and makes it the
    /// function that it was at first; nothing must be using it.
    pub fn power_cycle(&mut self) -> Result<()> {
        for fault in ["gone", "unreachable"] {
            self.inject(json!({ "fault": fault, "on": false }))?;
        }
        self.set("cap_to", &json!(20))?;
        self.ask(&json!({ "cmd": "power_cycle" }))?;
        Ok(())
    }

    /// Changes a property of the device.
    pub fn set(&mut self, option: &str, value: &Value) -> Result<()> {
        self.ask(&json!({ "cmd": "set", "option": option, "value": value }))?;
        Ok(())
    }

    /// Rules that the driver broke so far.
    pub fn violations(&mut self) -> Result<Vec<String>> {
        let answer = self.ask(&json!({ "cmd": "violations" }))?;
        let list = answer["violations"].as_array().context("no violations")?;
        Ok(list
            .iter()
            .filter(|violation| violation["severity"] == "error")
            .map(|violation| format!("{}: {}", violation["rule"], violation["detail"]))
            .collect())
    }
}

/// A number in an answer.
pub fn number(value: &Value, what: &str) -> Result<u32> {
    let number = value.as_u64().with_context(|| format!("no {what}"))?;
    Ok(u32::try_from(number)?)
}
