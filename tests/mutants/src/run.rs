// SPDX-License-Identifier: GPL-2.0
//! Building mutants, and running tests on them.

use crate::list::By;
use crate::list::Mutant;
use crate::verdict::Verdict;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use clap::Args;
use std::collections::VecDeque;
use std::fs;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Mutex;
use std::time::Instant;

/// What of a checkout the module is made of.
const OF_MODULE: &[&str] = &["Kbuild", "src"];

/// What of a checkout the tests are made of that have parts of the driver on the host.
const OF_HOST: &[&str] = &[
    "src",
    "tests/Cargo.lock",
    "tests/lockless",
    "tests/wire",
    "tests/fuzz/corpus",
];

/// The workspace of those tests, and of no others.
const WORKSPACE: &str = "[workspace]\nresolver = \"2\"\nmembers = [\"lockless\", \"wire\"]\n";

/// Most seconds that tests on the host may run with a mutant.
const HOST_SECONDS: u64 = 300;

/// How `timeout` ends if that was too long.
const TIMED_OUT: i32 = 124;
const KILLED: i32 = 128 + 9;

/// Whether a machine with these options has a physical function, which takes a
/// module that can tell.
fn of_card(options: &[String]) -> bool {
    options.iter().any(|option| option == "--card")
}

/// What the virtual machine is made of.
#[derive(Args)]
pub struct Machine {
    /// Kernel directory that the module is built for.
    #[arg(long)]
    kdir: PathBuf,
    /// Program that runs virtual machines.
    #[arg(long)]
    vm: PathBuf,
    /// Kernel of the guest.
    #[arg(long)]
    kernel: PathBuf,
    /// The same two of the kernel that checks locks, mappings and leaks; needed for mutants that
    /// only this one notices.
    #[arg(long)]
    debug_kdir: Option<PathBuf>,
    #[arg(long)]
    debug_kernel: Option<PathBuf>,
    /// Program of the virtual device.
    #[arg(long)]
    vdev: PathBuf,
    /// Directory with the guest's programs.
    #[arg(long)]
    programs: PathBuf,
    /// How many machines may run at once; others are built meanwhile.
    #[arg(long, default_value_t = 2)]
    machines: usize,
    /// Most seconds that a machine may run with a mutant.
    #[arg(long, default_value_t = 180)]
    timeout: u64,
    /// Most seconds that the kernel may take until the first program runs, if not the usual.
    #[arg(long)]
    boot_timeout: Option<u64>,
}

impl Machine {
    /// Makes sure that each mutant names tests that exist.
    pub fn check_names(&self, mutants: &[Mutant]) -> Result<()> {
        let program = self.programs.join("azihsm-tests");
        let list = |devices, environment: Option<(&str, &str)>| -> Result<String> {
            let mut command = Command::new(&program);
            command.args(["--list", "--long", "--devices", devices]);
            let output = finished(command.envs(environment))?;
            ensure!(output.status.success(), "cannot list the tests");
            Ok(String::from_utf8(output.stdout)?)
        };
        // Those of single functions, and those of a physical one with its virtual ones.
        let all = list("2", None)? + &list("9", Some(("AZIHSM_CARD", "1")))?;
        for mutant in mutants
            .iter()
            .filter(|mutant| matches!(mutant.by, By::Vm | By::Debug))
        {
            for part in &mutant.tests {
                ensure!(
                    all.lines().any(|name| name.contains(part.as_str())),
                    "{}: no test is called {part:?}",
                    mutant.name
                );
            }
        }
        Ok(())
    }
}

impl Machine {
    /// The kernel directory and the kernel that such tests run on.
    fn kernel_of(&self, by: By) -> Result<(&Path, &Path)> {
        if !by.is_on_debug() {
            return Ok((&self.kdir, &self.kernel));
        }
        let missing =
            "mutants that only the debug kernel notices need --debug-kdir and --debug-kernel";
        Ok((
            self.debug_kdir.as_deref().context(missing)?,
            self.debug_kernel.as_deref().context(missing)?,
        ))
    }
}

/// Waits for a command and collects what it printed.
fn finished(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.output().context(program)
}

/// Mutants that are waiting to be tried, and what became of the others.
pub struct Queue {
    waiting: Mutex<VecDeque<Mutant>>,
    done: Mutex<Done>,
}

/// What became of mutants.
struct Done {
    caught: usize,
    missed: usize,
    /// Where it is written down.
    record: File,
}

impl Queue {
    /// All are waiting; what becomes of them is written down in `record`.
    ///
    /// # Errors
    ///
    /// There cannot be such a file.
    pub fn new(mutants: Vec<Mutant>, record: &Path) -> Result<Self> {
        let named = || format!("{}", record.display());
        if let Some(dir) = record.parent() {
            fs::create_dir_all(dir).with_context(named)?;
        }
        let mut file = File::create(record).with_context(named)?;
        writeln!(
            file,
            "# noticed | mutant | what it breaks | by what | seconds"
        )?;
        Ok(Self {
            waiting: Mutex::new(mutants.into()),
            done: Mutex::new(Done {
                caught: 0,
                missed: 0,
                record: file,
            }),
        })
    }

    fn next(&self) -> Option<Mutant> {
        self.waiting.lock().expect("nobody panics").pop_front()
    }

    /// Prints what became of a mutant, counts it, and writes it down.
    fn tell(&self, mutant: &Mutant, verdict: &Verdict, seconds: u64) {
        let mut done = self.done.lock().expect("nobody panics");
        let Mutant { name, rule, by, .. } = mutant;
        let (word, noticed) = if verdict.is_caught() {
            done.caught += 1;
            ("ok", "yes")
        } else {
            done.missed += 1;
            ("NOT CAUGHT", "NO")
        };
        println!("{word} - {name} | {rule} | {by}: {verdict} | {seconds} s");
        // Compilers say more than fits in a line.
        let verdict = verdict.to_string().replace('\n', " ");
        let place = &mutant.file;
        let written = writeln!(
            done.record,
            "{noticed} | {name} | {rule}, in {place} | {by}: {verdict} | {seconds}"
        );
        if let Err(error) = written {
            eprintln!("cannot write it down: {error}");
        }
    }

    /// How many were caught, and how many were not.
    pub fn totals(&self) -> (usize, usize) {
        let done = self.done.lock().expect("nobody panics");
        (done.caught, done.missed)
    }
}

/// Where and with what the work is done.
pub struct Work<'a> {
    source: &'a Path,
    dir: &'a Path,
    machine: &'a Machine,
    /// Held while a machine runs.
    turns: Vec<Mutex<()>>,
}

impl<'a> Work<'a> {
    /// Work on the checkout `source` in the directory `dir`.
    pub fn new(source: &'a Path, dir: &'a Path, machine: &'a Machine) -> Self {
        Self {
            source,
            dir,
            machine,
            turns: (0..machine.machines.max(1))
                .map(|_| Mutex::new(()))
                .collect(),
        }
    }

    /// Runs `tests` on the driver as it is.
    pub fn unchanged(&self, by: By, tests: &[String], options: &[String]) -> Result<Verdict> {
        self.copy(0, by)?;
        let name = format!("unchanged-{by}{}", options.join(""));
        if let Err(log) = self.build(0, by, options)? {
            return Ok(Verdict::Error(log));
        }
        // All tests together take longer than those of one mutant.
        self.test(0, by, &name, tests, options, 10)
    }

    /// Tries mutants until there are none left.
    pub fn worker(&self, number: usize, queue: &Queue) {
        while let Some(mutant) = queue.next() {
            let start = Instant::now();
            let verdict = self
                .mutant(number, &mutant)
                .unwrap_or_else(|error| Verdict::Error(format!("{error:#}")));
            queue.tell(&mutant, &verdict, start.elapsed().as_secs());
        }
    }

    fn mutant(&self, number: usize, mutant: &Mutant) -> Result<Verdict> {
        let Mutant { by, options, .. } = mutant;
        self.copy(number, *by)?;
        let path = self.tree(number, *by).join("src").join(&mutant.file);
        fs::write(&path, mutant.apply(&fs::read_to_string(&path)?)?)?;
        if let Err(log) = self.build(number, *by, options)? {
            return Ok(Verdict::Error(format!("does not compile:\n{log}")));
        }
        let test = || self.test(number, *by, &mutant.name, &mutant.tests, options, 1);
        let first = test()?;
        if first.is_doubtful() {
            // An emulated machine may die, or hang, for reasons of its own.
            return Ok(first.again(test()?));
        }
        Ok(first)
    }

    /// The copy of the driver that worker `number` has for such tests.
    fn tree(&self, number: usize, by: By) -> PathBuf {
        match by {
            By::Vm => self.dir.join(format!("{number}")),
            By::Debug | By::Kunit => self.dir.join(format!("debug{number}")),
            By::Model | By::Wire => self.dir.join(format!("host{number}")),
        }
    }

    /// Makes the copy the driver as it is; what was built from it before stays,
    /// for the compiler to use again.
    fn copy(&self, number: usize, by: By) -> Result<()> {
        let tree = self.tree(number, by);
        let names = match by {
            By::Vm | By::Debug | By::Kunit => OF_MODULE,
            By::Model | By::Wire => OF_HOST,
        };
        for name in names {
            let target = tree.join(name);
            if target.is_dir() {
                fs::remove_dir_all(&target)?;
            }
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            let status = Command::new("cp")
                .arg("-R")
                .arg(self.source.join(name))
                .arg(target)
                .status()
                .context("cp")?;
            ensure!(status.success(), "cannot copy {name}");
        }
        if by.package().is_some() {
            fs::write(tree.join("tests/Cargo.toml"), WORKSPACE)?;
        }
        Ok(())
    }

    /// Builds what the tests are run on, or returns what the compiler said.
    fn build(&self, number: usize, by: By, options: &[String]) -> Result<Result<(), String>> {
        let output = match by.package() {
            None => self.build_module(number, by, options)?,
            Some(package) => {
                let mut cargo = Command::new("cargo");
                self.to_test(&mut cargo, number, by, package)?;
                finished(cargo.arg("--no-run"))?
            }
        };
        if output.status.success() {
            return Ok(Ok(()));
        }
        let log = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = log.lines().collect();
        let errors = lines.iter().position(|line| line.starts_with("error"));
        let end = &lines[errors.unwrap_or(0)..];
        Ok(Err(end.join("\n")))
    }

    /// Has `cargo` build and run the tests of `package`; their options are left out.
    fn to_test(&self, cargo: &mut Command, number: usize, by: By, package: &str) -> Result<()> {
        let tree = fs::canonicalize(self.tree(number, by))?;
        cargo
            .args(["test", "--release", "--lib", "--package", package])
            .arg("--manifest-path")
            .arg(tree.join("tests/Cargo.toml"))
            // To cargo the trees of all workers are the same one, elsewhere.
            .env("CARGO_TARGET_DIR", tree.join("target"))
            // Only what differs is looked at again.
            .env("CARGO_INCREMENTAL", "1");
        Ok(())
    }

    /// Builds the module for a machine with these options.
    fn build_module(&self, number: usize, by: By, options: &[String]) -> Result<Output> {
        let tree = fs::canonicalize(self.tree(number, by))?;
        let (kdir, _) = self.machine.kernel_of(by)?;
        let assign = |name: &str, path: &Path| format!("{name}={}", path.display());
        finished(
            Command::new("make")
                .args(["-s", "-C"])
                .arg(kdir)
                .arg(assign("M", &tree))
                .arg(assign("MO", &tree.join("build")))
                // Only what differs is looked at again, and nobody is going to
                // debug it: two thirds of the time.
                .arg(format!(
                    "KRUSTFLAGS=-Cdebuginfo=0 -Cincremental={}",
                    tree.join("incremental").display()
                ))
                .args(of_card(options).then_some("AZIHSM_TEST_PF=1"))
                // As tests/kernel/build compiles that kernel.
                .args(by.is_on_debug().then_some("CC=gcc-14"))
                .arg("modules"),
        )
    }

    /// Runs `tests`, for at most `patience` times as long as usual.  What they printed is kept as
    /// the log `name`.
    fn test(
        &self,
        number: usize,
        by: By,
        name: &str,
        tests: &[String],
        options: &[String],
        patience: u64,
    ) -> Result<Verdict> {
        let output = match by.package() {
            None => self.machine_tests(number, by, tests, options, patience)?,
            Some(package) => {
                let seconds = HOST_SECONDS * patience;
                let mut cargo = Command::new("timeout");
                cargo.args(["--kill-after=10", &seconds.to_string(), "cargo"]);
                self.to_test(&mut cargo, number, by, package)?;
                // One after the other, so that it is known which one does not end.
                cargo.args(["--", "--test-threads=1"]).args(tests);
                finished(&mut cargo)?
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let logs = self.dir.join("logs");
        fs::create_dir_all(&logs)?;
        fs::write(logs.join(format!("{name}.log")), text.as_bytes())?;
        let verdict = match by {
            By::Vm | By::Debug => Verdict::of_machine(&text),
            By::Kunit => Verdict::of_unit_tests(&text, tests),
            By::Model | By::Wire => {
                let is_over = matches!(output.status.code(), Some(TIMED_OUT | KILLED));
                Verdict::of_cargo(&text, !is_over)
            }
        };
        Ok(match verdict {
            Verdict::Error(what) => {
                let log = String::from_utf8_lossy(&output.stderr);
                Verdict::Error(format!("{what} {log}"))
            }
            verdict => verdict,
        })
    }

    /// Runs `tests` in a machine.
    fn machine_tests(
        &self,
        number: usize,
        by: By,
        tests: &[String],
        options: &[String],
        patience: u64,
    ) -> Result<Output> {
        let machine = self.machine;
        let tree = self.tree(number, by);
        let (_, kernel) = machine.kernel_of(by)?;
        let module = tree.join("build/azihsm.ko");
        let mut command = Command::new(&machine.vm);
        command.arg("test");
        let paths = [
            ("--kernel", kernel),
            ("--module", &module),
            ("--vdev", &machine.vdev),
            ("--programs", &machine.programs),
            ("--work", &self.dir.join(format!("vm{number}"))),
        ];
        for (option, path) in paths {
            command.arg(option).arg(path);
        }
        if of_card(options) {
            command.arg("--pf-module").arg(&module);
        }
        if let Some(seconds) = machine.boot_timeout {
            command.args(["--boot-timeout", &seconds.to_string()]);
        }
        command
            .args(["--timeout", &(machine.timeout * patience).to_string()])
            .args(options);
        if by.is_on_debug() {
            command.args(["--variant", "debug"]);
        }
        if by == By::Kunit {
            let source = tree.join("src");
            command
                .args(["--machine", "kunit"])
                .arg("--source")
                .arg(source);
        } else {
            for part in tests {
                command.args(["--filter", part]);
            }
        }
        let _turn = self.turns[number % self.turns.len()].lock();
        finished(&mut command)
    }
}
