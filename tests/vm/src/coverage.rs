// SPDX-License-Identifier: GPL-2.0
//! Which lines of the driver the guest's tests reach.
//!
//! A plugin of QEMU sees each instruction that is executed; the module's debug
//! information says which lines of the source it comes from.  So the module is the
//! one that users load, without anything added to count.  A line counts as reached
//! if any of its instructions is; lines that no instruction comes from do not count.

use crate::bench::lines;
use crate::bench::lines::Frames;
use crate::bench::plugin;
use crate::bench::plugin::Interval;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Offsets of instructions in the code of the module.
type Offsets = BTreeSet<u64>;

/// Where the code of the module was, each time that it was loaded.
fn places(text: &str) -> Result<Vec<u64>> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (_, address) = line.split_once(" 0x").context("no address")?;
            Ok(u64::from_str_radix(address, 16)?)
        })
        .collect()
}

/// What was executed of the module, of which a machine's plugin wrote `file`.
pub fn reached(file: &Path) -> Result<Offsets> {
    let read = |path: &Path| {
        let bytes = fs::read(path).with_context(|| format!("{}", path.display()))?;
        anyhow::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let intervals = plugin::intervals(&read(file)?)?;
    let places = places(&read(&file.with_extension("text"))?)?;
    of_intervals(&intervals, &places)
}

fn of_intervals(intervals: &[Interval], places: &[u64]) -> Result<Offsets> {
    // A machine may be off before the last place was written.
    ensure!(
        intervals.len() >= places.len(),
        "{} intervals of {} loads",
        intervals.len(),
        places.len()
    );
    let mut offsets = Offsets::new();
    for (interval, &text) in intervals.iter().zip(places) {
        // 0 stands for a module that was not loaded.
        if text != 0 {
            offsets.extend(lines::by_offset(&interval.blocks, text).into_keys());
        }
    }
    Ok(offsets)
}

/// All instructions of the module.
fn instructions(module: &Path) -> Result<Offsets> {
    let output = Command::new("objdump")
        .args(["--disassemble", "--section=.text", "--no-show-raw-insn"])
        .arg(module)
        .output()
        .context("cannot start objdump")?;
    ensure!(output.status.success(), "objdump: {}", output.status);
    let offsets = offsets(&String::from_utf8_lossy(&output.stdout));
    if offsets.is_empty() {
        bail!("{} has no code", module.display());
    }
    Ok(offsets)
}

fn offsets(disassembly: &str) -> Offsets {
    let offset = |line: &str| {
        let (offset, instruction) = line.strip_prefix(' ')?.split_once(":\t")?;
        // What stands between functions.
        let is_filler = ["nop", "int3", "cs nop", "data16", "xchg   %ax,%ax"]
            .iter()
            .any(|filler| instruction.starts_with(filler));
        let offset = u64::from_str_radix(offset.trim(), 16).ok()?;
        (!is_filler).then_some(offset)
    };
    disassembly.lines().filter_map(offset).collect()
}

/// What is known of one file.
#[derive(Default)]
struct File {
    /// By line: whether it was reached.
    lines: BTreeMap<u32, bool>,
    /// Instructions, and how many of them were reached.
    instructions: (usize, usize),
}

/// The files below `source`, by their names there.
fn files(
    located: &BTreeMap<u64, Frames>,
    reached: &Offsets,
    source: &str,
) -> BTreeMap<String, File> {
    let mut files: BTreeMap<String, File> = BTreeMap::new();
    for (offset, frames) in located {
        let is_reached = reached.contains(offset);
        let own = frames
            .iter()
            .filter_map(|frame| frame.place.strip_prefix(source)?.rsplit_once(':'))
            .filter_map(|(file, line)| Some((file, line.parse().ok()?)));
        let mut is_innermost = true;
        for (file, line) in own {
            let file = files.entry(file.to_owned()).or_default();
            *file.lines.entry(line).or_default() |= is_reached;
            if std::mem::take(&mut is_innermost) {
                file.instructions.0 += 1;
                file.instructions.1 += usize::from(is_reached);
            }
        }
    }
    files
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// A table with a row for each file and one for all.
fn table(files: &BTreeMap<String, File>) -> String {
    let mut text = format!(
        "{:<28}{:>7}{:>9}{:>9}{:>14}{:>9}\n",
        "", "lines", "reached", "", "instructions", "reached"
    );
    let mut sum = [0; 4];
    let mut row = |name: &str, numbers: [usize; 4]| {
        let [lines, lines_reached, instructions, instructions_reached] = numbers;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{name:<28}{lines:>7}{lines_reached:>9}{:>8.1}%{instructions:>14}{:>8.1}%",
            percent(lines_reached, lines),
            percent(instructions_reached, instructions)
        );
    };
    for (name, file) in files {
        let numbers = [
            file.lines.len(),
            file.lines.values().filter(|&&reached| reached).count(),
            file.instructions.0,
            file.instructions.1,
        ];
        for (sum, number) in sum.iter_mut().zip(numbers) {
            *sum += number;
        }
        row(name, numbers);
    }
    row("all", sum);
    text
}

/// The lines that were not reached.
fn missing(files: &BTreeMap<String, File>, source: &Path) -> Result<String> {
    let mut text = String::new();
    for (name, file) in files {
        let path = source.join(name);
        let code = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let code: Vec<&str> = code.lines().collect();
        for (&line, _) in file.lines.iter().filter(|(_, &reached)| !reached) {
            let index = usize::try_from(line)?.saturating_sub(1);
            let code = code.get(index).map_or("", |line| line.trim());
            let _ = writeln!(text, "{name}:{line}: {code}");
        }
    }
    Ok(text)
}

/// Makes a table of what was `reached` of the module, and a list of the lines that
/// were not.
pub fn report(module: &Path, source: &Path, reached: &Offsets) -> Result<(String, String)> {
    ensure!(!reached.is_empty(), "nothing of the module was executed");
    let all = instructions(module)?;
    let located = lines::locate(module, all.into_iter())?;
    let files = files(&located, reached, &format!("{}/", source.display()));
    ensure!(
        !files.is_empty(),
        "the module does not come from {}",
        source.display()
    );
    Ok((table(&files), missing(&files, source)?))
}

#[cfg(test)]
mod tests {
    use super::files;
    use super::of_intervals;
    use super::offsets;
    use super::places;
    use super::table;
    use super::Offsets;
    use crate::bench::lines::Frame;
    use crate::bench::plugin::Block;
    use crate::bench::plugin::Interval;
    use std::collections::BTreeMap;

    fn interval(address: u64) -> Interval {
        Interval {
            blocks: vec![Block {
                address,
                lengths: vec![2, 2],
                times: 1,
            }],
            ..Interval::default()
        }
    }

    #[test]
    fn each_load_has_its_place() {
        let places = places("module azihsm 0x1000\n\n\nmodule azihsm 0x2000\nmodule azihsm 0x0\n");
        let places = places.unwrap();
        assert_eq!(places, [0x1000, 0x2000, 0]);
        let intervals = [interval(0x1010), interval(0x2020), interval(0x10)];
        let reached = of_intervals(&intervals, &places).unwrap();
        assert_eq!(reached, Offsets::from([0x10, 0x12, 0x20, 0x22]));
        assert!(of_intervals(&intervals[..2], &places).is_err());
    }

    #[test]
    fn instructions_are_found_in_a_disassembly() {
        let text = "\n0000000000000010 <f>:\n      10:\tendbr64\n      14:\tnopw   0x0(%rax)\n\
                    \x20     1a:\tret\n      1b:\tint3\n";
        assert_eq!(offsets(text), Offsets::from([0x10, 0x1a]));
    }

    #[test]
    fn a_line_is_reached_if_one_of_its_instructions_is() {
        let frame = |place: &str| Frame {
            function: "f".to_owned(),
            place: place.to_owned(),
        };
        let inlined = vec![frame("/s/a.rs:1"), frame("/k/x.rs:9"), frame("/s/b.rs:7")];
        let located = BTreeMap::from([
            (0, inlined),
            (4, vec![frame("/s/a.rs:1")]),
            (8, vec![frame("/s/a.rs:2")]),
        ]);
        let files = files(&located, &Offsets::from([0]), "/s/");
        assert_eq!(files["a.rs"].lines, BTreeMap::from([(1, true), (2, false)]));
        assert_eq!(files["a.rs"].instructions, (3, 1));
        assert_eq!(files["b.rs"].lines, BTreeMap::from([(7, true)]));
        let table = table(&files);
        assert!(table.lines().last().unwrap().starts_with("all"));
        assert!(table.contains("66.7%"), "{table}");
    }
}
