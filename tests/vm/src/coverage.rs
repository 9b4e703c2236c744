// SPDX-License-Identifier: GPL-2.0
//! Which lines of the driver the tests in virtual machines reach, and why not the others.
//!
//! A plugin of QEMU sees each instruction that is executed; the module's debug
//! information says which lines of the source it comes from.  So the module is the
//! one that users load, without anything added to count.  A line counts as reached
//! if any of its instructions is; lines that no instruction comes from do not count.
//!
//! Some tests need another module: one for physical functions, one for a device with
//! SR-IOV, one for a kernel with KUnit.  What they reach is found by the debug
//! information of that module, and counts as far as the one that users load has code of
//! the same lines: so what is there for tests only does not.

mod reasons;
mod source;

use crate::bench::lines;
use crate::bench::lines::Frames;
use crate::bench::plugin;
use crate::bench::plugin::Interval;
use crate::kunit::Expected;
use crate::plan;
use crate::plan::Variant;
use crate::Common;
use crate::Coverage as Options;
use crate::Runner;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use reasons::Reasons;
use source::Source;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

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
fn reached(file: &Path) -> Result<Offsets> {
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

/// The tests by which a line is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum By {
    /// Those in the guest, with the module that users have.
    Users,
    /// Those in the guest, with another module.
    Others,
    /// The unit tests inside the kernel.
    Kunit,
}

/// By which tests a line is reached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Reached {
    users: bool,
    others: bool,
    kunit: bool,
}

impl Reached {
    fn of(by: By) -> Self {
        Self {
            users: by == By::Users,
            others: by == By::Others,
            kunit: by == By::Kunit,
        }
    }

    fn add(&mut self, other: Self) {
        self.users |= other.users;
        self.others |= other.others;
        self.kunit |= other.kunit;
    }

    fn by_guest(self) -> bool {
        self.users || self.others
    }

    fn by_any(self) -> bool {
        self.by_guest() || self.kunit
    }
}

/// What is known of one file.
#[derive(Default)]
struct File {
    /// The lines that there is code of.
    lines: BTreeMap<u32, Reached>,
    /// Instructions, and how many of them were reached.
    instructions: (usize, usize),
}

/// Files by their names.
type Files = BTreeMap<String, File>;

/// The files below `source`, by their names there.
fn files(located: &BTreeMap<u64, Frames>, reached: &Offsets, source: &str, by: By) -> Files {
    let mut files = Files::new();
    for (offset, frames) in located {
        let is_reached = reached.contains(offset);
        let reached = if is_reached {
            Reached::of(by)
        } else {
            Reached::default()
        };
        let own = frames.iter().filter_map(|frame| {
            let (file, line) = frame.place.rsplit_once(':')?;
            Some((file.strip_prefix(source)?.to_owned(), line.parse().ok()?))
        });
        let mut is_innermost = true;
        for (file, line) in own {
            let file = files.entry(file).or_default();
            file.lines.entry(line).or_default().add(reached);
            if std::mem::take(&mut is_innermost) {
                file.instructions.0 += 1;
                file.instructions.1 += usize::from(is_reached);
            }
        }
    }
    files
}

/// Adds what is reached of another module, as far as those lines are in this one, too.
fn merge(files: &mut Files, others: &Files) {
    for (name, file) in files {
        let Some(other) = others.get(name) else {
            continue;
        };
        for (line, reached) in &mut file.lines {
            reached.add(other.lines.get(line).copied().unwrap_or_default());
        }
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// How many lines there are, and by which tests they are reached.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Sum {
    lines: usize,
    users: usize,
    guest: usize,
    kunit: usize,
    only_kunit: usize,
    any: usize,
    instructions: usize,
    instructions_reached: usize,
}

impl Sum {
    fn of<'a>(files: impl Iterator<Item = &'a File>) -> Self {
        let mut sum = Self::default();
        for file in files {
            for reached in file.lines.values() {
                sum.lines += 1;
                sum.users += usize::from(reached.users);
                sum.guest += usize::from(reached.by_guest());
                sum.kunit += usize::from(reached.kunit);
                sum.only_kunit += usize::from(reached.kunit && !reached.by_guest());
                sum.any += usize::from(reached.by_any());
            }
            sum.instructions += file.instructions.0;
            sum.instructions_reached += file.instructions.1;
        }
        sum
    }

    fn row(&self, name: &str) -> String {
        let Self {
            lines,
            guest,
            kunit,
            any,
            instructions,
            instructions_reached,
            ..
        } = *self;
        format!(
            "{name:<22}{lines:>7}{guest:>8}{kunit:>8}{any:>8}{:>8.1}%{instructions:>14}{:>9.1}%\n",
            percent(any, lines),
            percent(instructions_reached, instructions)
        )
    }
}

/// A table with a row for each file and one for all, and what it is of.
fn table(files: &Files) -> String {
    let mut text = format!(
        "{:<22}{:>7}{:>8}{:>8}{:>8}{:>9}{:>14}{:>10}\n",
        "", "lines", "guest", "KUnit", "both", "", "instructions", "reached"
    );
    for (name, file) in files {
        text += &Sum::of(std::iter::once(file)).row(name);
    }
    let sum = Sum::of(files.values());
    text += &sum.row("all");
    let Sum {
        lines,
        users,
        guest,
        kunit,
        only_kunit,
        any,
        ..
    } = sum;
    let share = |part| format!("{part}, {:.1} %", percent(part, lines));
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "\nlines of the module that users have, and its instructions: {lines}, {}\n\
         reached by tests of the guest, with that module: {}; instructions: {:.1} %\n\
         with those for physical functions and SR-IOV, too: {}\n\
         reached by KUnit, with that of the debug kernel: {}; by nothing else: {only_kunit}\n\
         reached by any of these: {}\n",
        sum.instructions,
        share(users),
        percent(sum.instructions_reached, sum.instructions),
        share(guest),
        share(kunit),
        share(any),
    );
    text
}

/// The lines that were not reached.
fn missing(files: &Files) -> Vec<(String, u32)> {
    let of_file = |(name, file): (&String, &File)| {
        let lines = file.lines.iter().filter(|(_, reached)| !reached.by_any());
        let named = lines.map(|(&line, _)| (name.clone(), line));
        named.collect::<Vec<_>>()
    };
    files.iter().flat_map(of_file).collect()
}

/// Has the plugin of QEMU record what machines execute of a module.
pub struct Recorder<'a> {
    plugin: &'a Path,
    /// The modules, and the files that say what was executed of them.
    records: Mutex<BTreeMap<PathBuf, Vec<PathBuf>>>,
}

impl<'a> Recorder<'a> {
    fn new(plugin: &'a Path) -> Self {
        Self {
            plugin,
            records: Mutex::default(),
        }
    }

    /// The plugin and its options for a machine that has its logs in `dir`, and that
    /// `module` is loaded in.
    pub fn of_machine(&self, dir: &Path, module: &Path) -> Result<String> {
        let file = dir.canonicalize()?.join("plugin");
        let plugin = self.plugin.display();
        let option = format!("{plugin},out={},modules=on", file.display());
        let mut records = self.records.lock().expect("nobody panics");
        records.entry(module.to_owned()).or_default().push(file);
        Ok(option)
    }

    /// What was executed of each module.
    fn finish(self) -> Result<BTreeMap<PathBuf, Offsets>> {
        let records = self.records.into_inner().expect("nobody panics");
        let mut all = BTreeMap::new();
        for (module, files) in records {
            let mut offsets = Offsets::new();
            for file in files {
                offsets.append(&mut reached(&file)?);
            }
            ensure!(
                !offsets.is_empty(),
                "nothing of {} was executed",
                module.display()
            );
            all.insert(module, offsets);
        }
        Ok(all)
    }
}

impl Options {
    /// Runs machines; returns whether all was well, and what was executed of each module.
    fn record(
        &self,
        common: &Common,
        variant: Variant,
    ) -> Result<(bool, BTreeMap<PathBuf, Offsets>)> {
        let mut boots = plan::of(variant, self.full && variant == Variant::Stock);
        boots.retain(|boot| {
            let is_named = self.machine.iter().any(|name| name == boot.name);
            (self.machine.is_empty() || is_named)
                && common.others(boot).is_some()
                && (variant == Variant::Stock || boot.config.kunit)
        });
        let recorder = Recorder::new(&self.plugin);
        if self.recorded {
            for boot in &boots {
                let module = common.loaded(boot).1.context("there is no module")?;
                recorder.of_machine(&common.work.join(boot.name), module)?;
            }
            return Ok((true, recorder.finish()?));
        }
        if boots.is_empty() {
            return Ok((true, BTreeMap::new()));
        }
        let runner = Runner {
            expected: Some(Expected::of_source(&self.source)?),
            recorder: Some(&recorder),
            ..Runner::new(common, variant)
        };
        let good = runner.test(boots, self.jobs, true)?;
        Ok((good, recorder.finish()?))
    }

    /// The lines of `module`, and which were reached.
    fn files(&self, module: &Path, reached: &Offsets, by: By) -> Result<Files> {
        let located = lines::locate(module, instructions(module)?.into_iter())?;
        let files = files(
            &located,
            reached,
            &format!("{}/", self.source.display()),
            by,
        );
        ensure!(
            !files.is_empty(),
            "{} does not come from {}",
            module.display(),
            self.source.display()
        );
        Ok(files)
    }
}

/// Runs tests, and tells which lines they reach, and why they do not reach the others.
pub fn run(options: &Options) -> Result<bool> {
    let common = &options.common;
    let module = common.module()?;
    let source = Source::read(&options.source)?;
    let reasons = Reasons::read(&options.reasons, &source)?;
    let kunit = Common {
        kernel: options.kunit_kernel.clone(),
        module: Some(options.kunit_module.clone()),
        work: common.work.join("debug"),
        ..common.clone()
    };
    let (unit_tests_good, of_kunit) = options.record(&kunit, Variant::Debug)?;
    let (good, mut of_guest) = options.record(common, Variant::Stock)?;

    let users = of_guest.remove(module).unwrap_or_default();
    let mut files = options.files(module, &users, By::Users)?;
    for (others, by) in [(of_guest, By::Others), (of_kunit, By::Kunit)] {
        for (module, reached) in others {
            merge(&mut files, &options.files(&module, &reached, by)?);
        }
    }
    print!("{}", table(&files));
    let missing = missing(&files);
    let judgement = reasons.judge(&missing, &source);
    fs::write(&options.missing, &judgement.text)?;
    println!(
        "not reached, with a reason in {}: {}; of these by no test at all: {}",
        options.reasons.display(),
        missing.len() - judgement.without,
        judgement.untested
    );
    println!("not reached, without a reason: {}", judgement.without);
    // Other machines would reach more.
    if !options.machine.is_empty() {
        return Ok(good && unit_tests_good);
    }
    for place in &judgement.idle {
        println!("all reached this time: {place}");
    }
    Ok(good && unit_tests_good && judgement.without == 0)
}

#[cfg(test)]
mod tests {
    use super::files;
    use super::merge;
    use super::missing;
    use super::of_intervals;
    use super::offsets;
    use super::places;
    use super::table;
    use super::By;
    use super::File;
    use super::Files;
    use super::Offsets;
    use super::Reached;
    use super::Sum;
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

    fn frame(place: &str) -> Frame {
        Frame {
            function: "f".to_owned(),
            place: place.to_owned(),
        }
    }

    /// A file with these lines.
    fn file(lines: &[(u32, &[By])]) -> File {
        let reached = |tests: &[By]| {
            let mut reached = Reached::default();
            tests.iter().for_each(|&by| reached.add(Reached::of(by)));
            reached
        };
        File {
            lines: lines
                .iter()
                .map(|&(line, by)| (line, reached(by)))
                .collect(),
            instructions: (0, 0),
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
        let inlined = vec![frame("/s/a.rs:1"), frame("/k/x.rs:9"), frame("/s/b.rs:7")];
        let located = BTreeMap::from([
            (0, inlined),
            (4, vec![frame("/s/a.rs:1")]),
            (8, vec![frame("/s/a.rs:2")]),
        ]);
        let files = files(&located, &Offsets::from([0]), "/s/", By::Others);
        let expected = file(&[(1, &[By::Others]), (2, &[])]);
        assert_eq!(files["a.rs"].lines, expected.lines);
        assert_eq!(files["a.rs"].instructions, (3, 1));
        assert_eq!(files["b.rs"].lines, file(&[(7, &[By::Others])]).lines);
    }

    #[test]
    fn only_lines_of_the_module_that_users_have_count() {
        let mut files = Files::from([
            (
                "a.rs".to_owned(),
                file(&[(1, &[By::Users]), (2, &[]), (3, &[]), (4, &[])]),
            ),
            ("b.rs".to_owned(), file(&[(1, &[])])),
        ]);
        let others = Files::from([
            (
                "a.rs".to_owned(),
                file(&[(1, &[By::Others]), (2, &[By::Others]), (9, &[By::Others])]),
            ),
            ("for-tests.rs".to_owned(), file(&[(1, &[By::Others])])),
        ]);
        let kunit = Files::from([(
            "a.rs".to_owned(),
            file(&[
                (1, &[By::Kunit]),
                (2, &[]),
                (3, &[By::Kunit]),
                (8, &[By::Kunit]),
            ]),
        )]);
        merge(&mut files, &others);
        merge(&mut files, &kunit);
        assert_eq!(files.len(), 2);
        let expected = file(&[
            (1, &[By::Users, By::Others, By::Kunit]),
            (2, &[By::Others]),
            (3, &[By::Kunit]),
            (4, &[]),
        ]);
        assert_eq!(files["a.rs"].lines, expected.lines);
        assert_eq!(
            missing(&files),
            [("a.rs".to_owned(), 4), ("b.rs".to_owned(), 1)]
        );
        let sum = Sum {
            lines: 5,
            users: 1,
            guest: 2,
            kunit: 2,
            only_kunit: 1,
            any: 3,
            ..Sum::default()
        };
        assert_eq!(Sum::of(files.values()), sum);
        let table = table(&files);
        assert!(
            table.contains("reached by any of these: 3, 60.0 %"),
            "{table}"
        );
        assert!(table.contains("SR-IOV, too: 2, 40.0 %"), "{table}");
        assert!(table.contains("2, 40.0 %; by nothing else: 1\n"), "{table}");
    }

    #[test]
    fn instructions_are_of_the_module_that_users_have() {
        let instructions = |instructions| File {
            instructions,
            ..File::default()
        };
        let mut files = Files::from([("a.rs".to_owned(), instructions((3, 2)))]);
        let others = Files::from([("a.rs".to_owned(), instructions((9, 9)))]);
        merge(&mut files, &others);
        let table = table(&files);
        assert!(table.contains("66.7%"), "{table}");
    }
}
