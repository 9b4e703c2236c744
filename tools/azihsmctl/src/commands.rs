// SPDX-License-Identifier: GPL-2.0
//! What the commands do.

use crate::bench;
use crate::cli::Bench;
use crate::cli::Cli;
use crate::cli::Command;
use crate::cli::Reset;
use crate::cli::SelfTest;
use crate::cli::Stats;
use crate::cli::Target;
use crate::counters::Change;
use crate::counters::Counters;
use crate::error::Error;
use crate::error::Result;
use crate::hsm;
use crate::machine::Hsm;
use crate::machine::Machine;
use crate::selftest;
use crate::sessions::Descriptor;
use crate::show::clean;
use crate::show::rows;
use crate::show::table;
use serde::Serialize;
use std::io;
use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Does what `cli` says to the HSMs of `machine`, and prints to `out`.
pub fn run(cli: &Cli, machine: &Machine, out: &mut dyn Write) -> Result<()> {
    let mut printer = Printer {
        json: cli.json,
        out,
    };
    match &cli.command {
        Command::List => list(machine, &mut printer),
        Command::Info(target) => info(machine, target, &mut printer),
        Command::Stats(arguments) => stats(machine, arguments, &mut printer),
        Command::Sessions(target) => sessions(machine, target, &mut printer),
        Command::Selftest(arguments) => test(machine, arguments, &mut printer),
        Command::Bench(arguments) => measure(machine, arguments, &mut printer),
        Command::Reset(arguments) => reset(machine, arguments, &mut printer),
    }
}

/// Prints JSON or text.
struct Printer<'a> {
    json: bool,
    out: &'a mut dyn Write,
}

impl Printer<'_> {
    fn print(&mut self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.json {
            // Cannot fail for what is printed here, except by writing.
            serde_json::to_writer_pretty(&mut *self.out, value).map_err(io::Error::from)?;
            self.out.write_all(b"\n")?;
        } else {
            self.out.write_all(text().as_bytes())?;
        }
        self.out.flush()?;
        Ok(())
    }

    /// The same as a single line of JSON, of which more follow.
    fn print_line(&mut self, value: &impl Serialize, text: &str) -> Result<()> {
        if self.json {
            serde_json::to_writer(&mut *self.out, value).map_err(io::Error::from)?;
            self.out.write_all(b"\n")?;
        } else {
            self.out.write_all(text.as_bytes())?;
        }
        self.out.flush()?;
        Ok(())
    }
}

/// An HSM of the list.
#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    node: &'a Path,
    pci: Option<&'a str>,
    serial: Option<String>,
    firmware: Option<String>,
    /// Why the last two are not known.
    error: Option<String>,
}

impl<'a> Listed<'a> {
    fn new(hsm: &'a Hsm) -> Self {
        let info = open_info(hsm);
        let (serial, firmware, error) = match info {
            Ok(info) => (Some(clean(&info.serial)), Some(clean(&info.firmware)), None),
            Err(error) => (None, None, Some(error.to_string())),
        };
        Self {
            name: &hsm.name,
            node: &hsm.node,
            pci: hsm.pci.as_deref(),
            serial,
            firmware,
            error,
        }
    }

    fn cells(&self) -> Vec<String> {
        let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
        vec![
            self.name.to_owned(),
            or_dash(self.pci),
            or_dash(self.serial.as_deref()),
            or_dash(self.firmware.as_deref()),
        ]
    }
}

fn open_info(hsm: &Hsm) -> Result<azihsm_uapi::Info> {
    hsm.open()?.info().map_err(|error| Error::Request {
        what: "device info",
        error,
    })
}

fn list(machine: &Machine, printer: &mut Printer<'_>) -> Result<()> {
    let hsms = machine.hsms()?;
    let listed: Vec<_> = hsms.iter().map(Listed::new).collect();
    for error in listed.iter().filter_map(|hsm| hsm.error.as_ref()) {
        eprintln!("azihsmctl: {error}");
    }
    printer.print(&listed, || {
        let cells: Vec<_> = listed.iter().map(Listed::cells).collect();
        table(&["NAME", "PCI ADDRESS", "SERIAL", "FIRMWARE"], &cells)
    })
}

/// All that is known of an HSM.
#[derive(Serialize)]
struct Described {
    name: String,
    node: std::path::PathBuf,
    pci: String,
    numa_node: Option<u32>,
    controller: u16,
    serial: String,
    firmware: String,
    abi: String,
    message_formats: Option<hsm::Revisions>,
    hsm: Option<hsm::Kind>,
    /// Why the last two are not known.
    error: Option<String>,
}

impl Described {
    fn new(hsm: &Hsm) -> Result<Self> {
        let device = hsm.open()?;
        let info = open_info(hsm)?;
        // The device may be in the middle of a recovery, which is worth knowing as well.
        let asked =
            hsm::revisions(&device).and_then(|revisions| Ok((revisions, hsm::kind(&device)?)));
        let (message_formats, kind, error) = match asked {
            Ok((revisions, kind)) => (Some(revisions), Some(kind), None),
            Err(error) => (None, None, Some(error.to_string())),
        };
        Ok(Self {
            name: hsm.name.clone(),
            node: hsm.node.clone(),
            pci: clean(&info.pci),
            numa_node: hsm.numa_node(),
            controller: info.controller,
            serial: clean(&info.serial),
            firmware: clean(&info.firmware),
            abi: clean(&info.driver),
            message_formats,
            hsm: kind,
            error,
        })
    }

    fn text(&self) -> String {
        let mut lines = vec![
            ("name", self.name.clone()),
            ("node", self.node.display().to_string()),
            ("PCI address", self.pci.clone()),
            ("controller", controller(self.controller)),
            ("serial number", self.serial.clone()),
            ("firmware", self.firmware.clone()),
            ("driver ABI", self.abi.clone()),
        ];
        if let Some(node) = self.numa_node {
            lines.push(("NUMA node", node.to_string()));
        }
        if let Some(formats) = &self.message_formats {
            let range = format!("{} to {}", formats.oldest, formats.newest);
            lines.push(("message formats", range));
        }
        if let Some(kind) = &self.hsm {
            let yes = |value| if value { "yes" } else { "no" }.to_owned();
            lines.push(("hardware", yes(kind.physical)));
            lines.push(("resource groups", kind.resource_groups.to_string()));
            lines.push(("FIPS approved", yes(kind.fips_approved)));
        }
        if let Some(error) = &self.error {
            lines.push(("HSM", error.clone()));
        }
        rows(&lines)
    }
}

fn controller(id: u16) -> String {
    match id.checked_sub(1) {
        None => "0, the physical function".to_owned(),
        Some(vf) => format!("{id}, virtual function {vf}"),
    }
}

fn info(machine: &Machine, target: &Target, printer: &mut Printer<'_>) -> Result<()> {
    let described = Described::new(&machine.find(target.device.as_deref())?)?;
    printer.print(&described, || described.text())
}

fn stats(machine: &Machine, arguments: &Stats, printer: &mut Printer<'_>) -> Result<()> {
    let hsm = machine.find(arguments.target.device.as_deref())?;
    let counters = Counters::read(&hsm)?;
    match arguments.watch {
        None => printer.print(&counters, || counters_text(&counters)),
        Some(seconds) => watch(&hsm, counters, seconds, printer),
    }
}

fn sessions(machine: &Machine, target: &Target, printer: &mut Printer<'_>) -> Result<()> {
    let hsm = machine.find(target.device.as_deref())?;
    let descriptors = Descriptor::of(machine, &hsm)?;
    printer.print(&descriptors, || {
        let or_dash =
            |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        let cells: Vec<_> = descriptors
            .iter()
            .map(|of| {
                vec![
                    of.pid.to_string(),
                    clean(&of.command),
                    of.fd.to_string(),
                    or_dash(of.session),
                    or_dash(of.hsm_commands),
                    or_dash(of.aes_commands),
                ]
            })
            .collect();
        table(&["PID", "COMMAND", "FD", "SESSION", "HSM", "AES"], &cells)
    })
}

const QUEUE_COLUMNS: [(&str, &str); 9] = [
    ("PENDING", "num_cmds_pending_in_hw"),
    ("SUBMITTED", "total_ios_submitted_to_hw"),
    ("COMPLETED", "total_ios_completed_by_hw"),
    ("ERRORS", "total_ios_in_error"),
    ("TIMEOUTS", "total_ios_timedout"),
    ("RECOVERIES", "num_level1_aborts"),
    ("MIN NS", "min_time_to_complete_io"),
    ("AVG NS", "avg_time_to_complete_io"),
    ("MAX NS", "max_time_to_complete_io"),
];

fn counters_text(counters: &Counters) -> String {
    let state = counters.state.iter().map(|state| ("state", clean(state)));
    let numbers = counters.groups.values().flatten();
    let numbers = numbers.map(|(name, value)| (name.as_str(), value.to_string()));
    let groups: Vec<_> = state.chain(numbers).collect();
    let mut heading = vec!["QUEUE"];
    heading.extend(QUEUE_COLUMNS.map(|(heading, _)| heading));
    let queues: Vec<_> = counters
        .queues
        .iter()
        .map(|(name, queue)| {
            let cells = QUEUE_COLUMNS.map(|(_, name)| match queue.get(name) {
                Some(value) => value.to_string(),
                None => "-".to_owned(),
            });
            [vec![name.clone()], cells.to_vec()].concat()
        })
        .collect();
    format!("{}\n{}", rows(&groups), table(&heading, &queues))
}

const WATCH_HEADING: &str =
    "SUBMITTED/S COMPLETED/S   PENDING    ERRORS  TIMEOUTS   ABORTED  Q-RECOV  RECOV\n";

/// Lines between two headings.
const PAGE: u64 = 20;

fn watch(hsm: &Hsm, first: Counters, seconds: u32, printer: &mut Printer<'_>) -> Result<()> {
    let mut before = first;
    let mut begin = Instant::now();
    for line in 0.. {
        thread::sleep(Duration::from_secs(seconds.into()));
        let after = Counters::read(hsm)?;
        let change = Change::between(&before, &after, begin.elapsed().as_secs_f64());
        begin = Instant::now();
        before = after;
        if line % PAGE == 0 && !printer.json {
            printer.out.write_all(WATCH_HEADING.as_bytes())?;
        }
        printer.print_line(&change, &change_text(&change))?;
    }
    Ok(())
}

fn change_text(change: &Change) -> String {
    format!(
        "{:>11.0} {:>11.0} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6}\n",
        change.submitted_per_second,
        change.completed_per_second,
        change.pending,
        change.errors,
        change.timeouts,
        change.aborted,
        change.queue_recoveries,
        change.recoveries
    )
}

fn test(machine: &Machine, arguments: &SelfTest, printer: &mut Printer<'_>) -> Result<()> {
    let hsm = machine.find(arguments.target.device.as_deref())?;
    let outcomes = selftest::run(&hsm, arguments.count)?;
    printer.print(&outcomes, || {
        let cells: Vec<_> = outcomes
            .iter()
            .map(|outcome| {
                let verdict = if outcome.passed { "passed" } else { "FAILED" };
                vec![
                    outcome.test.to_owned(),
                    verdict.to_owned(),
                    clean(&outcome.found),
                ]
            })
            .collect();
        table(&["TEST", "RESULT", "FOUND"], &cells)
    })?;
    match outcomes.iter().all(|outcome| outcome.passed) {
        true => Ok(()),
        false => Err(Error::TestFailed),
    }
}

fn measure(machine: &Machine, arguments: &Bench, printer: &mut Printer<'_>) -> Result<()> {
    let hsm = machine.find(arguments.target.device.as_deref())?;
    let time = Duration::from_secs(arguments.seconds.into());
    let measured = bench::run(&hsm, &arguments.threads, time)?;
    printer.print(&measured, || {
        let cells: Vec<_> = measured
            .iter()
            .map(|of| {
                vec![
                    of.operation.to_owned(),
                    of.threads.to_string(),
                    format!("{:.0}", of.per_second),
                    format!("{:.1}", of.p50_us),
                    format!("{:.1}", of.p99_us),
                    format!("{:.1}", of.max_us),
                ]
            })
            .collect();
        let heading = [
            "OPERATION",
            "THREADS",
            "PER SECOND",
            "P50 US",
            "P99 US",
            "MAX US",
        ];
        table(&heading, &cells)
    })
}

/// A reset that was done.
#[derive(Serialize)]
struct Done<'a> {
    name: &'a str,
    seconds: f64,
}

fn reset(machine: &Machine, arguments: &Reset, printer: &mut Printer<'_>) -> Result<()> {
    let hsm = machine.find(arguments.target.device.as_deref())?;
    if !arguments.yes {
        confirm(&hsm)?;
    }
    let device = hsm.open()?;
    let begin = Instant::now();
    device
        .reset(arguments.kind.into())
        .map_err(|error| Error::Request {
            what: "reset",
            error,
        })?;
    let done = Done {
        name: &hsm.name,
        seconds: begin.elapsed().as_secs_f64(),
    };
    printer.print(&done, || {
        format!("{}: reset in {:.1} s\n", done.name, done.seconds)
    })
}

fn confirm(hsm: &Hsm) -> Result<()> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Error::Unconfirmed(hsm.name.clone()));
    }
    eprint!(
        "A reset ends the work of all users of {} and erases their keys. Reset it? [y/N] ",
        hsm.name
    );
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Error::Declined),
    }
}

#[cfg(test)]
mod tests {
    use super::change_text;
    use super::controller;
    use super::run;
    use super::WATCH_HEADING;
    use crate::cli::Cli;
    use crate::counters::tests::put;
    use crate::counters::Change;
    use crate::error::Error;
    use crate::error::Result;
    use crate::machine::tests::machine;
    use crate::machine::Machine;
    use clap::Parser;
    use serde_json::Value;

    fn output(machine: &Machine, words: &[&str]) -> Result<String> {
        let cli = Cli::parse_from(["azihsmctl"].iter().chain(words));
        let mut out = Vec::new();
        run(&cli, machine, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn json(machine: &Machine, words: &[&str]) -> Value {
        serde_json::from_str(&output(machine, words).unwrap()).unwrap()
    }

    #[test]
    fn an_empty_list_is_a_list() {
        let (_root, machine) = machine(&[]);
        let text = output(&machine, &["list"]).unwrap();
        assert_eq!(text, "NAME  PCI ADDRESS  SERIAL  FIRMWARE\n");
        assert_eq!(json(&machine, &["list", "--json"]), Value::Array(vec![]));
    }

    #[test]
    fn an_hsm_that_cannot_be_opened_is_listed() {
        let (_root, machine) = machine(&[("azihsm0", "0000:01:00.0")]);
        let text = output(&machine, &["list"]).unwrap();
        assert!(
            text.ends_with("azihsm0  0000:01:00.0  -       -\n"),
            "{text}"
        );
        let list = json(&machine, &["list", "--json"]);
        assert_eq!(list[0]["pci"], "0000:01:00.0");
        assert!(list[0]["error"].is_string());
    }

    #[test]
    fn commands_for_no_hsm_fail() {
        let (_root, machine) = machine(&[]);
        for words in [
            &["info"][..],
            &["stats"],
            &["selftest"],
            &["bench"],
            &["reset", "--yes"],
        ] {
            let error = output(&machine, words).unwrap_err();
            assert!(matches!(error, Error::NoDevice), "{words:?}: {error}");
        }
    }

    #[test]
    fn counters_are_shown_by_queue() {
        let (_root, machine) = machine(&[("azihsm0", "0000:01:00.0")]);
        let dir = machine.find(None).unwrap().counters().unwrap();
        put(&dir.join("global/total_submissions"), "12\n");
        put(&dir.join("cp_sq1/num_cmds_pending_in_hw"), "3\n");
        let text = output(&machine, &["stats"]).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "total_submissions  12");
        assert!(lines[2].starts_with("QUEUE   PENDING  SUBMITTED"), "{text}");
        assert!(lines[3].starts_with("cp_sq1  3        -"), "{text}");

        let stats = json(&machine, &["stats", "--json"]);
        assert_eq!(stats["groups"]["global"]["total_submissions"], 12);
        assert_eq!(stats["queues"]["cp_sq1"]["num_cmds_pending_in_hw"], 3);
    }

    #[test]
    fn changes_are_below_their_headings() {
        let text = change_text(&Change {
            submitted_per_second: 1234.4,
            completed_per_second: 1234.6,
            errors: 1,
            timeouts: 2,
            aborted: 3,
            queue_recoveries: 4,
            recoveries: 5,
            pending: 6,
        });
        assert_eq!(text.len(), WATCH_HEADING.len());
        let words: Vec<_> = text.split_whitespace().collect();
        assert_eq!(words, ["1234", "1235", "6", "1", "2", "3", "4", "5"]);
    }

    #[test]
    fn controllers_are_functions() {
        assert_eq!(controller(0), "0, the physical function");
        assert_eq!(controller(3), "3, virtual function 2");
    }
}
