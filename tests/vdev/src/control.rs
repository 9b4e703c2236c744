// SPDX-License-Identifier: GPL-2.0

//! The control protocol: one JSON object per line in, one per line out.
//!
//! See README.md for the commands.

use crate::device::Device;
use crate::inject::Action;
use crate::inject::Incident;
use crate::inject::Injection;
use crate::keys::Key;
use crate::keys::KeyKind;
use crate::model::Model;
use crate::options::text_field;
use crate::queue::Class;
use anyhow::anyhow;
use anyhow::bail;
use anyhow::Context;
use serde::Deserialize;
use serde_json::json;
use serde_json::Value;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// The longest line that is read.
const MAX_LINE: u64 = 1 << 20;
/// Most bytes of memory that are looked at, and that are shown.
const MAX_SEARCH: usize = 1 << 20;
const MAX_SHOWN: usize = 4096;
/// How many lines `log` tells unless it is told otherwise.
const LOG_LINES: usize = 100;

#[derive(Deserialize)]
struct Named {
    cmd: String,
}

#[derive(Deserialize)]
struct LoadKey {
    kind: KeyKind,
    key: String,
    app_id: u8,
    session: Option<u16>,
    owner: Option<u16>,
}

#[derive(Deserialize)]
struct DeleteKey {
    key_id: u32,
}

#[derive(Deserialize)]
struct Set {
    option: String,
    value: Value,
}

#[derive(Deserialize)]
struct ClearFaults {
    id: Option<u64>,
}

#[derive(Deserialize)]
struct Memory {
    address: u64,
    length: usize,
    search: Option<String>,
}

#[derive(Deserialize)]
struct Log {
    lines: Option<usize>,
}

/// A key from its description `KIND:HEX:APP_ID`.
pub fn parse_key(text: &str, owner: u16) -> anyhow::Result<Key> {
    let mut parts = text.split(':');
    let (Some(kind), Some(key), Some(app_id), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        bail!("a key is written as KIND:HEX:APP_ID");
    };
    Ok(Key {
        kind: serde_json::from_value(json!(kind)).context("bad kind of key")?,
        bytes: key_bytes(key)?,
        owner,
        app_id: app_id.parse().context("bad application id")?,
        session: None,
    })
}

fn key_bytes(text: &str) -> anyhow::Result<[u8; 32]> {
    hex::decode(text)
        .context("the key is not hexadecimal")?
        .try_into()
        .map_err(|_| anyhow!("a key has 32 bytes"))
}

/// Executes one line; there is no answer to an empty one.
pub fn answer(device: &Device, line: &str) -> Option<Value> {
    let line = line.trim();
    if line.is_empty() {
        return None;
    }
    Some(match execute(device, line) {
        Ok(mut reply) => {
            reply["ok"] = json!(true);
            reply
        }
        Err(error) => json!({"ok": false, "error": format!("{error:#}")}),
    })
}

fn execute(device: &Device, line: &str) -> anyhow::Result<Value> {
    let request: Value = serde_json::from_str(line).context("not JSON")?;
    let name = Named::deserialize(&request).context("no command")?.cmd;
    let mut model = device.model();
    let reply = match name.as_str() {
        "ping" => json!({}),
        "counters" => json!({"counters": model.counters()}),
        "reset_counters" => {
            model.reset_counters();
            json!({})
        }
        "violations" => json!({
            "violations": device.strict.violations(),
            "errors": device.strict.errors(),
            "notes": device.strict.notes(),
        }),
        "clear_violations" => {
            device.strict.clear();
            json!({})
        }
        "state" => model.state(),
        "power_cycle" => {
            model.power_cycle()?;
            json!({})
        }
        "load_key" => load_key(&mut model, &request)?,
        "delete_key" => {
            let key_id = DeleteKey::deserialize(&request)?.key_id;
            if !model.keys.delete(key_id) {
                bail!("there is no key {key_id}");
            }
            json!({})
        }
        "set" => {
            let request = Set::deserialize(&request)?;
            set(&mut model, &request.option, &request.value)
                .with_context(|| format!("cannot set {}", request.option))?;
            json!({})
        }
        "inject" => inject(&mut model, &request)?,
        "clear_faults" => {
            match ClearFaults::deserialize(&request)?.id {
                Some(id) if !model.faults.remove(id) => bail!("there is no fault {id}"),
                Some(_) => {}
                None => model.faults.clear(),
            }
            json!({})
        }
        "faults" => json!({"faults": model.faults.list()}),
        "memory" => memory(&model, &Memory::deserialize(&request)?)?,
        "log" => {
            let lines = Log::deserialize(&request)?.lines.unwrap_or(LOG_LINES);
            json!({"log": model.log(lines)})
        }
        _ => bail!("there is no command {name:?}"),
    };
    drop(model);
    // The engines may have something to do now.
    device.front.kick();
    Ok(reply)
}

fn load_key(model: &mut Model, request: &Value) -> anyhow::Result<Value> {
    let request = LoadKey::deserialize(request)?;
    let key = Key {
        kind: request.kind,
        bytes: key_bytes(&request.key)?,
        owner: request.owner.unwrap_or(model.options.controller),
        app_id: request.app_id,
        session: request.session,
    };
    let key_id = model.store_key(key).context("no slot is free")?;
    Ok(json!({"key_id": key_id}))
}

/// What the guest's memory holds, or where in it something is.
fn memory(model: &Model, request: &Memory) -> anyhow::Result<Value> {
    let most = match request.search {
        Some(_) => MAX_SEARCH,
        None => MAX_SHOWN,
    };
    if request.length > most {
        bail!("more than {most} bytes");
    }
    let mut data = vec![0; request.length];
    model.bus.memory.read(request.address, &mut data)?;
    let Some(pattern) = &request.search else {
        return Ok(json!({"data": hex::encode(data)}));
    };
    let pattern = hex::decode(pattern).context("the pattern is not hexadecimal")?;
    if pattern.is_empty() {
        bail!("the pattern is empty");
    }
    let offset = data
        .windows(pattern.len())
        .position(|part| part == pattern.as_slice());
    Ok(json!({"offset": offset}))
}

fn inject(model: &mut Model, request: &Value) -> anyhow::Result<Value> {
    match Injection::deserialize(request) {
        Ok(injection) => {
            check_names(request, &json!(injection))?;
            if let Action::Identify { data, .. } = &injection.action {
                hex::decode(data).context("the data is not hexadecimal")?;
            }
            let classes = [Class::Admin, Class::Hsm, Class::Aes].map(Class::name);
            if let Some(class) = &injection.class {
                if !classes.contains(&class.as_str()) {
                    bail!("there is no class {class:?}");
                }
            }
            Ok(json!({"id": model.faults.add(injection)}))
        }
        Err(error) => {
            let incident = Incident::deserialize(request).map_err(|other| {
                // Whichever knows the name tells what is wrong.
                if error.to_string().contains("unknown variant") {
                    other
                } else {
                    error
                }
            })?;
            check_names(request, &json!(incident))?;
            model.incident(&incident);
            Ok(json!({"id": 0}))
        }
    }
}

/// Refuses parameters that mean nothing, which are most likely misspelt.
fn check_names(request: &Value, known: &Value) -> anyhow::Result<()> {
    let common = [
        "cmd", "function", "queue", "class", "opcode", "count", "skip",
    ];
    for name in request.as_object().into_iter().flat_map(|map| map.keys()) {
        if known.get(name).is_none() && !common.contains(&name.as_str()) {
            bail!("there is no parameter {name:?}");
        }
    }
    Ok(())
}

fn number<T: TryFrom<u64>>(value: &Value) -> anyhow::Result<T> {
    value
        .as_u64()
        .and_then(|value| T::try_from(value).ok())
        .context("the value is no number, or too large")
}

fn text(value: &Value) -> anyhow::Result<&str> {
    value.as_str().context("the value is no string")
}

/// A field of 32 bytes, given as text or as `hex:` and bytes.
fn field(value: &Value) -> anyhow::Result<[u8; 32]> {
    let text = text(value)?;
    match text.strip_prefix("hex:") {
        Some(digits) => hex::decode(digits)?
            .try_into()
            .map_err(|_| anyhow!("the field has 32 bytes")),
        None if text.len() > 32 => bail!("the field has 32 bytes"),
        None => Ok(text_field(text)),
    }
}

fn set(model: &mut Model, option: &str, value: &Value) -> anyhow::Result<()> {
    let options = &mut model.options;
    match option {
        "admin_latency_us" => options.latency.admin = number(value)?,
        "hsm_latency_us" => options.latency.hsm = number(value)?,
        "aes_latency_us" => options.latency.aes = number(value)?,
        "enable_latency_us" => options.latency.enable = number(value)?,
        "disable_latency_us" => options.latency.disable = number(value)?,
        "engine_timeout_us" => options.engine_timeout = number(value)?,
        "serial" => options.identity.serial = field(value)?,
        "firmware" => options.identity.firmware = field(value)?,
        "svn" => options.identity.svn = number(value)?,
        "hsm_sqe_size" => options.identity.hsm_sqe_size = number(value)?,
        "hsm_cqe_size" => options.identity.hsm_cqe_size = number(value)?,
        "aes_sqe_size" => options.identity.aes_sqe_size = number(value)?,
        "aes_cqe_size" => options.identity.aes_cqe_size = number(value)?,
        "app_id" => options.app_id = number(value)?,
        "fips" => options.fips = number(value)?,
        "features" => options.features = number(value)?,
        "aes_queues" => {
            let count = |value| number::<u16>(value);
            options.aes_queues = (!value.is_null()).then(|| count(value)).transpose()?;
        }
        "provisioned" => {
            options.provisioned = value.as_bool().context("the value is no boolean")?;
        }
        "groups" => model.set_groups(number(value)?)?,
        "controller" => model.set_controller(number(value)?)?,
        "physical" => {
            let count = |value| number::<u8>(value);
            model.set_physical((!value.is_null()).then(|| count(value)).transpose()?);
        }
        "cap_to" => {
            let timeout = number(value)?;
            model.change_registers(|registers| registers.timeout = timeout);
        }
        "fwcap" => {
            let word = number(value)?;
            model.change_registers(|registers| registers.firmware_capabilities = word);
        }
        "vs" => {
            let version = number(value)?;
            model.change_registers(|registers| registers.version = version);
        }
        _ => bail!("there is no such option"),
    }
    Ok(())
}

/// Executes one line for the function that it names, or the first one.
fn answer_of(functions: &[Device], line: &str) -> Option<Value> {
    let number = serde_json::from_str::<Value>(line)
        .ok()
        .and_then(|request| request["function"].as_u64())
        .unwrap_or(0);
    match usize::try_from(number)
        .ok()
        .and_then(|number| functions.get(number))
    {
        Some(function) => answer(function, line),
        None => Some(json!({"ok": false, "error": "there is no such function"})),
    }
}

/// Answers commands on a socket, any number of clients at a time.
pub fn serve(functions: Arc<[Device]>, path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                let functions = Arc::clone(&functions);
                let client =
                    thread::Builder::new()
                        .name("control client".into())
                        .spawn(move || {
                            if let Err(error) = serve_client(&functions, stream) {
                                log::info!("control client: {error}");
                            }
                        });
                if let Err(error) = client {
                    log::error!("control client: {error}");
                }
            }
        })?;
    Ok(())
}

fn serve_client(functions: &[Device], stream: UnixStream) -> io::Result<()> {
    let mut output = stream.try_clone()?;
    let mut input = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let count = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(());
        }
        let reply = answer_of(functions, &String::from_utf8_lossy(&line));
        if let Some(reply) = reply {
            output.write_all(format!("{reply}\n").as_bytes())?;
        }
    }
}
