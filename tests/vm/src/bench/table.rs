// SPDX-License-Identifier: GPL-2.0
//! Tables for people.

use serde_json::Value;
use std::fmt::Write as _;

/// The operations of the least of drivers.
const NULL: &str = "null ioctl";
const WAKE: &str = "wake loop";
const FLOOR: &str = "floor";

/// Functions that are shown of an operation.
const FUNCTIONS: usize = 60;

/// Numbers of threads.
const THREADS: [u64; 5] = [1, 2, 4, 8, 32];

/// The record of an operation.
fn find<'a>(
    records: &'a [Value],
    module: &str,
    operation: &str,
    threads: Option<u64>,
) -> Option<&'a Value> {
    records.iter().find(|record| {
        record["module"] == module
            && record["operation"] == operation
            && record["threads"].as_u64() == threads
    })
}

/// Names of the operations of a module, in their order.
fn operations<'a>(records: &'a [Value], module: &str) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for record in records.iter().filter(|record| record["module"] == module) {
        let name = record["operation"].as_str().unwrap_or("?");
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// A number with as many digits as matter.
fn short(number: f64) -> String {
    if number == 0.0 {
        "0".to_owned()
    } else if number >= 100.0 {
        format!("{number:.0}")
    } else if number >= 10.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.2}")
    }
}

/// A number that is whole but for what the rest of the system does meanwhile.
fn whole(number: f64) -> String {
    format!("{number:.0}")
}

/// The floor of an operation: what does not get to the device has another one.
fn floor_of(operation: &str) -> &'static str {
    match operation {
        "unknown ioctl" | "device info" | NULL => NULL,
        _ => WAKE,
    }
}

/// The table of what was counted.
pub fn counts(module: &str, records: &[Value]) -> String {
    let mut text = String::new();
    let own = operations(records, module);
    if own.is_empty() {
        return text;
    }
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "\n{module}: per operation, one processor, the caller sleeps\n\
         {:<22}{:>7}{:>8}{:>8}{:>8}{:>7}{:>6}{:>5}{:>5}{:>5}{:>7}{:>6}{:>6}{:>9}{:>9}{:>6}",
        "",
        "user",
        "kernel",
        "sum",
        "mean",
        "floor",
        "MMIO",
        "SQ",
        "CQ",
        "IRQ",
        "alloc",
        "map",
        "lock",
        "copied",
        "filled",
        "sleep"
    );
    let floors = operations(records, FLOOR)
        .into_iter()
        .map(|name| (FLOOR, name));
    for (module, name) in floors.chain(own.into_iter().map(|name| (module, name))) {
        let Some(record) = find(records, module, name, None) else {
            continue;
        };
        let sum = number(&record["instructions"]);
        let floor = find(records, FLOOR, floor_of(name), None);
        let ratio = sum / floor.map_or(f64::NAN, |record| number(&record["instructions"]));
        let device = &record["device"];
        let mmio = number(&device["mmio_reads"]) + number(&device["mmio_writes"]);
        let _ = writeln!(
            text,
            "{name:<22}{:>7}{:>8}{sum:>8}{:>8}{ratio:>6.2}x{:>6}{:>5}{:>5}{:>5}{:>7}{:>6}{:>6}{:>9}{:>9}{:>6}",
            number(&record["user"]),
            number(&record["kernel"]),
            whole(number(&record["mean"])),
            short(mmio),
            short(number(&device["sq_doorbells"])),
            short(number(&device["cq_doorbells"])),
            short(number(&device["interrupts"])),
            whole(number(&record["allocations"])),
            whole(number(&record["mappings"])),
            short(number(&record["locks"])),
            whole(number(&record["copied"])),
            whole(number(&record["filled"])),
            whole(number(&record["switches"])),
        );
    }
    text
}

fn rate(record: &Value) -> f64 {
    number(&record["rate"])
}

/// The table of times.
pub fn times(module: &str, records: &[Value]) -> String {
    let mut text = String::new();
    let own = operations(records, module);
    if own.is_empty() {
        return text;
    }
    let _ = writeln!(
        text,
        "\n{module}: operations per second by threads, two processors, the device answers at once\n\
         {:<22}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}{:>9}{:>9}{:>9}{:>9}{:>6}{:>6}{:>6}{:>6}",
        "",
        "1",
        "2",
        "4",
        "8",
        "32",
        "floor/1",
        "floor/8",
        "p50/1",
        "p99/1",
        "p50/8",
        "p99/8",
        "SQ/8",
        "CQ/8",
        "IRQ/8",
        "run/8"
    );
    let floors = operations(records, FLOOR)
        .into_iter()
        .map(|name| (FLOOR, name));
    for (module, name) in floors.chain(own.into_iter().map(|name| (module, name))) {
        let of = |threads| find(records, module, name, Some(threads));
        let (Some(one), Some(eight)) = (of(1), of(8)) else {
            continue;
        };
        let ratio = |record: &Value, threads| {
            let floor = find(records, FLOOR, floor_of(name), Some(threads));
            rate(record) / floor.map_or(f64::NAN, rate)
        };
        let each =
            |counter: &str| short(number(&eight["device"][counter]) / number(&eight["runs"]));
        let _ = write!(text, "{name:<22}");
        for threads in THREADS {
            let _ = write!(text, "{:>8.0}", of(threads).map_or(f64::NAN, rate));
        }
        let _ = writeln!(
            text,
            "{:>7.2}x{:>7.2}x{:>9.0}{:>9.0}{:>9.0}{:>9.0}{:>6}{:>6}{:>6}{:>6}",
            ratio(one, 1),
            ratio(eight, 8),
            number(&one["p50_us"]),
            number(&one["p99_us"]),
            number(&eight["p50_us"]),
            number(&eight["p99_us"]),
            each("sq_doorbells"),
            each("cq_doorbells"),
            each("interrupts"),
            each("handled"),
        );
    }
    text
}

/// How another module compares.
pub fn ratios(counts: &[Value], times: &[Value]) -> String {
    let mut text = String::new();
    let names = operations(counts, "other");
    if names.is_empty() {
        return text;
    }
    let _ = writeln!(
        text,
        "\nother module / azihsm\n{:<22}{:>13}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "", "instructions", "ops/1", "ops/2", "ops/4", "ops/8", "ops/32"
    );
    for name in names {
        let ratio = |of: &dyn Fn(&Value) -> f64, records, threads| {
            let value = |module| find(records, module, name, threads).map_or(f64::NAN, of);
            value("other") / value("azihsm")
        };
        let instructions = ratio(&|record| number(&record["instructions"]), counts, None);
        let _ = write!(text, "{name:<22}{instructions:>12.2}x");
        for threads in THREADS {
            let _ = write!(text, "{:>8.2}x", ratio(&rate, times, Some(threads)));
        }
        text.push('\n');
    }
    text
}

/// What the instructions of each operation were spent on.
pub fn profile(records: &[Value]) -> String {
    let mut text = String::new();
    for record in records {
        let _ = writeln!(
            text,
            "{}, {}: {:.0} instructions on average",
            record["module"].as_str().unwrap_or("?"),
            record["operation"].as_str().unwrap_or("?"),
            number(&record["mean"]),
        );
        let lists = [
            ("functions", "of the kernel"),
            ("driver", "of the driver, by what was inlined"),
            ("lines", "of the driver, by lines of its source"),
        ];
        for (list, title) in lists {
            let Some(list) = record[list].as_array() else {
                continue;
            };
            let _ = writeln!(text, "\n{:>14}{:>9}  {title}", "instructions", "calls");
            for entry in list.iter().take(FUNCTIONS) {
                let calls = entry["calls"].as_f64();
                let _ = writeln!(
                    text,
                    "{:>14.1}{:>9}  {}",
                    number(&entry["instructions"]),
                    calls.map_or(String::new(), |calls| format!("{calls:.2}")),
                    entry["name"].as_str().unwrap_or("?")
                );
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::counts;
    use super::profile;
    use super::ratios;
    use super::times;
    use serde_json::json;
    use serde_json::Value;

    fn count(module: &str, operation: &str, instructions: u64) -> Value {
        json!({
            "module": module,
            "operation": operation,
            "user": 50,
            "kernel": instructions - 50,
            "instructions": instructions,
            "mean": instructions as f64 + 0.4,
            "device": {
                "mmio_reads": 0, "mmio_writes": 2, "sq_doorbells": 1, "cq_doorbells": 1,
                "interrupts": 1,
            },
            "allocations": 0.02,
            "mappings": 0,
            "locks": 12.5,
            "copied": 1024,
            "filled": 0,
            "switches": 1,
            "functions": [{ "name": "first", "instructions": 7.5, "calls": 2 }],
            "lines": [{ "name": "hsm.rs:1", "instructions": 3 }],
        })
    }

    fn time(module: &str, threads: u64, runs: u64) -> Value {
        json!({
            "module": module,
            "operation": "HSM 64 B",
            "threads": threads,
            "runs": runs,
            "rate": runs * 2,
            "p50_us": 1,
            "p99_us": 2,
            "device": {
                "sq_doorbells": runs / 2, "cq_doorbells": runs, "interrupts": runs,
                "handled": runs,
            },
        })
    }

    #[test]
    fn commands_are_compared_with_the_wake_loop() {
        let records = [
            count("floor", "null ioctl", 600),
            count("floor", "wake loop", 8000),
            count("azihsm", "device info", 900),
            count("azihsm", "HSM 64 B", 10_000),
        ];
        let table = counts("azihsm", &records);
        let line = |start: &str| {
            let found = table.lines().find(|line| line.starts_with(start));
            found.unwrap().split_whitespace().collect::<Vec<_>>()
        };
        assert_eq!(line("wake loop")[6], "1.00x");
        assert_eq!(line("device info")[6], "1.50x");
        let expected = "HSM 64 B 50 9950 10000 10000 1.25x 2.00 1.00 1.00 1.00 0 0 12.5 1024 0 1";
        assert_eq!(line("HSM 64 B").join(" "), expected);
        assert_eq!(counts("other", &records), "");
    }

    #[test]
    fn rates_are_by_threads() {
        let all = [1, 2, 4, 8, 32].map(|threads| time("azihsm", threads, threads * 100));
        let table = times("azihsm", &all);
        let line = table.lines().last().unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[3..8], ["200", "400", "800", "1600", "6400"]);
        assert_eq!(words[words.len() - 4..], ["0.50", "1.00", "1.00", "1.00"]);
    }

    #[test]
    fn ratios_are_those_of_the_other_module() {
        let both = |of: &dyn Fn(&str, u64) -> Value| vec![of("azihsm", 1), of("other", 2)];
        let counts = both(&|module, factor| count(module, "HSM 64 B", factor * 1000));
        let times = both(&|module, factor| time(module, 1, factor * 100));
        let table = ratios(&counts, &times);
        let words: Vec<&str> = table.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(words[3..6], ["2.00x", "2.00x", "NaNx"]);
        assert_eq!(ratios(&counts[..1], &times), "");
    }

    #[test]
    fn profile_names_functions_and_lines() {
        let text = profile(&[count("azihsm", "HSM 64 B", 1000)]);
        assert!(text.contains("7.5     2.00  first"), "{text}");
        assert!(text.contains("3.0           hsm.rs:1"), "{text}");
    }
}
