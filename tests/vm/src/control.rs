// SPDX-License-Identifier: GPL-2.0
//! Asking the virtual device.

use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use serde_json::json;
use serde_json::Value;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long the device may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Rules that the driver broke, one line each, as the device saw them.
pub fn violations(socket: &Path, function: usize) -> Result<Vec<String>> {
    let answer = ask(
        socket,
        &json!({ "cmd": "violations", "function": function }),
    )?;
    broken_rules(&answer)
}

/// Whether the function was still enabled when the machine was off.
pub fn was_left_enabled(socket: &Path, function: usize) -> Result<bool> {
    let begin = Instant::now();
    loop {
        let request = json!({ "cmd": "counters", "function": function });
        let counters = &ask(socket, &request)?["counters"];
        // The device may not have noticed yet.
        if counters["disconnects"] != 0 {
            return Ok(counters["left_enabled"] != 0);
        }
        ensure!(begin.elapsed() < PATIENCE, "the machine is not off");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Makes sure that the device answers.
pub fn ping(socket: &Path) -> Result<()> {
    ask(socket, &json!({ "cmd": "ping" }))?;
    Ok(())
}

/// The errors in the device's list of violations.
fn broken_rules(answer: &Value) -> Result<Vec<String>> {
    let list = answer["violations"]
        .as_array()
        .context("no list of violations")?;
    let errors: Vec<String> = list
        .iter()
        .filter(|violation| violation["severity"] == "error")
        .map(|violation| {
            let text = |field: &str| violation[field].as_str().unwrap_or("?").to_owned();
            format!("{}: {}", text("rule"), text("detail"))
        })
        .collect();
    let count = answer["errors"].as_u64().context("no count of errors")?;
    if errors.is_empty() && count > 0 {
        bail!("the device counts {count} errors and lists none");
    }
    Ok(errors)
}

fn ask(socket: &Path, request: &Value) -> Result<Value> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("{}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{request}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line).with_context(|| format!("{line:?}"))?;
    if answer["ok"] != true {
        bail!("{request}: {answer}");
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::broken_rules;
    use serde_json::json;

    #[test]
    fn only_errors_are_broken_rules() {
        let answer = json!({
            "ok": true,
            "violations": [
                { "rule": "a", "detail": "x", "severity": "error" },
                { "rule": "b", "detail": "y", "severity": "warning" },
            ],
            "errors": 1,
        });
        assert_eq!(broken_rules(&answer).unwrap(), ["a: x"]);
    }

    #[test]
    fn an_answer_without_a_list_is_no_answer() {
        assert!(broken_rules(&json!({ "ok": true })).is_err());
        assert!(broken_rules(&json!({ "violations": [], "errors": 2 })).is_err());
    }
}
