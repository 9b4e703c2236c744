// SPDX-License-Identifier: GPL-2.0
//! Runs the azihsm driver against its virtual device in a virtual machine.
//!
//! Everything it starts ends with it: QEMU and the virtual devices are killed
//! by the kernel if this program dies.

mod bench;
mod clock;
mod control;
mod coverage;
mod initramfs;
mod kernel;
mod kernel_log;
mod ktap;
mod kunit;
mod machine;
mod plan;
mod process;
mod report;
mod script;
mod summary;
mod tap;

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use coverage::Recorder;
use initramfs::Initramfs;
use kunit::Expected;
use machine::Config;
use machine::Files;
use machine::Outcome;
use plan::Boot;
use plan::Instead;
use plan::Variant;
use report::Totals;
use script::Script;
use std::collections::VecDeque;
use std::fs;
use std::mem;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

/// Where the guest finds the module.
const MODULE: &str = "/lib/azihsm.ko";

/// Where it finds the one for a device of QEMU's own.
const SRIOV_MODULE: &str = "/lib/azihsm_sriov.ko";

/// Where it finds the one that takes a function for a physical one.
const PHYSICAL_MODULE: &str = "/lib/azihsm-pf.ko";

/// How many failed tests in all may be tried once more.
const SECOND_TRIES: usize = 3;

#[derive(Parser)]
#[command(about = "Runs the azihsm driver against its virtual device")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Boots, loads the module, and shows what the driver can do.
    Demo(Common),
    /// Runs the guest's tests, in the configuration that the options describe,
    /// or without any in several at once.
    Test(Box<Test>),
    /// Measures the driver and prints tables.
    Bench(Bench),
    /// Throws calls of all kinds at the driver.
    Fuzz(Fuzz),
    /// Runs the guest's tests and the kernel's unit tests, and tells which lines of the driver
    /// they reach.
    Coverage(Box<Coverage>),
    /// Runs a script in a guest that has what another root file system has.
    Script(Script),
}

#[derive(Args, Clone)]
struct Common {
    /// Kernel of the guest, a bzImage or an ELF image.
    #[arg(long)]
    kernel: PathBuf,
    /// The module; needed unless the driver is built in.
    #[arg(long)]
    module: Option<PathBuf>,
    /// The module that was made with AZIHSM_TEST_PF=1; without it there are no
    /// machines with a physical function.
    #[arg(long)]
    pf_module: Option<PathBuf>,
    /// The module for a device of QEMU's own, tests/kernel/sriov; without it there is no
    /// machine with that.
    #[arg(long)]
    sriov_module: Option<PathBuf>,
    /// Program of the virtual device.
    #[arg(long)]
    vdev: PathBuf,
    /// Directory with the guest's programs.
    #[arg(long)]
    programs: PathBuf,
    /// Directory for logs and sockets; keep it short.
    #[arg(long, default_value = "/tmp/azihsm-vm")]
    work: PathBuf,
    /// Most seconds that one boot may take.
    #[arg(long, default_value_t = 900)]
    timeout: u64,
    /// Statically linked shell and tools of the guest.
    #[arg(long, default_value = "/bin/busybox")]
    busybox: PathBuf,
}

#[derive(Args)]
struct Test {
    #[command(flatten)]
    common: Common,
    /// What kernel that is.
    #[arg(long, value_enum, default_value_t)]
    variant: Variant,
    /// Only this machine of those that there are; may be given more than once.
    #[arg(long)]
    machine: Vec<String>,
    /// Only the tests of this group; may be given more than once.
    #[arg(long)]
    group: Vec<String>,
    /// Only the tests whose name contains this; may be given more than once.
    #[arg(long)]
    filter: Vec<String>,
    /// All tests in all configurations, long ones too.
    #[arg(long)]
    full: bool,
    /// Run tests that failed once more, with nothing beside them, before they count.
    #[arg(long)]
    second_try: bool,
    /// How many machines may run at once.
    #[arg(long, short, default_value_t = 4)]
    jobs: usize,
    /// Directory of the driver's source, which says which unit tests there have to be
    /// inside the kernel; needed where these run.
    #[arg(long)]
    source: Option<PathBuf>,
    /// File that gets a row for each machine.
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Processors.
    #[arg(long)]
    smp: Option<usize>,
    /// With an IOMMU.
    #[arg(long)]
    iommu: bool,
    /// MSI-X vectors of each device.
    #[arg(long)]
    vectors: Option<usize>,
    /// Devices.
    #[arg(long)]
    devices: Option<usize>,
    /// So many virtual functions of a physical one, instead of devices.
    #[arg(long)]
    card: Option<usize>,
    /// With a neighbour behind the port of the first device.
    #[arg(long)]
    neighbour: bool,
    /// MiB of memory of each machine.
    #[arg(long)]
    memory: Option<usize>,
    /// Words that are added to the kernel's command line; may be given more
    /// than once.
    #[arg(long, value_name = "WORDS")]
    append: Vec<String>,
    /// What random tests draw from; if missing, something new each time.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seconds the tests of group soak run for.
    #[arg(long)]
    seconds: Option<u64>,
    /// Most seconds that a kernel may take until the first program runs.
    #[arg(long, value_name = "SECONDS")]
    boot_timeout: Option<u64>,
}

#[derive(Args)]
struct Fuzz {
    #[command(flatten)]
    common: Common,
    /// What kernel that is.
    #[arg(long, value_enum, default_value_t)]
    variant: Variant,
    /// How long.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// What the calls are; another one each time if it is missing.
    #[arg(long)]
    seed: Option<u64>,
    /// Words that are added to the kernel's command line; may be given more
    /// than once.
    #[arg(long, value_name = "WORDS")]
    append: Vec<String>,
}

#[derive(Args)]
struct Coverage {
    #[command(flatten)]
    common: Common,
    /// Plugin of QEMU that counts instructions.
    #[arg(long)]
    plugin: PathBuf,
    /// Directory of the driver's source, as the debug information names it.
    #[arg(long)]
    source: PathBuf,
    /// Only this machine of those that there are; may be given more than once.
    #[arg(long)]
    machine: Vec<String>,
    /// The long tests, too.
    #[arg(long)]
    full: bool,
    /// How many machines may run at once.
    #[arg(long, short, default_value_t = 4)]
    jobs: usize,
    /// File for the lines that were not reached.
    #[arg(long)]
    missing: PathBuf,
    /// Start no machine, and go by what they recorded the last time, of the same modules, in
    /// their first tries.
    #[arg(long)]
    recorded: bool,
    /// File with the reasons for lines not to be reached.
    #[arg(long)]
    reasons: PathBuf,
    /// Kernel for the unit tests inside the kernel.
    #[arg(long)]
    kunit_kernel: PathBuf,
    /// The module for that kernel, with debug information.
    #[arg(long)]
    kunit_module: PathBuf,
}

impl Fuzz {
    fn boot(&self) -> Boot {
        let mut boot = Boot::fuzz(self.seconds, self.seed);
        self.variant.equip(&mut boot.config);
        boot.config.append.extend(self.append.iter().cloned());
        boot
    }

    fn run(&self) -> Result<bool> {
        Runner::new(&self.common, self.variant).test(vec![self.boot()], 1, false)
    }
}

impl Test {
    fn run(&self) -> Result<bool> {
        let source = self.source.as_deref();
        let runner = Runner {
            expected: source.map(Expected::of_source).transpose()?,
            summary: self.summary.as_deref(),
            ..Runner::new(&self.common, self.variant)
        };
        runner.test(self.boots(), self.jobs, self.second_try)
    }

    /// The boots that were asked for, on the machine and kernel that were.
    fn boots(&self) -> Vec<Boot> {
        let mut boots = self.planned();
        for boot in &mut boots {
            boot.seed = self.seed.or(boot.seed);
            boot.seconds = self.seconds.or(boot.seconds);
            let config = &mut boot.config;
            config.memory = self.memory.unwrap_or(config.memory);
            config.append.extend(self.append.iter().cloned());
            config.boot_patience = self
                .boot_timeout
                .map_or(config.boot_patience, Duration::from_secs);
        }
        boots
    }

    fn planned(&self) -> Vec<Boot> {
        let configured = self.smp.is_some()
            || self.iommu
            || self.vectors.is_some()
            || self.devices.is_some()
            || self.card.is_some()
            || self.neighbour;
        if !configured && self.group.is_empty() && self.filter.is_empty() {
            let mut boots = plan::of(self.variant, self.full);
            boots.retain(|boot| {
                self.machine.is_empty() || self.machine.iter().any(|name| name == boot.name)
            });
            boots.retain(|boot| self.common.others(boot).is_some());
            return boots;
        }
        let mut config = Config {
            smp: self.smp.unwrap_or(2),
            iommu: self.iommu,
            vectors: self.vectors.unwrap_or(32),
            devices: self
                .card
                .map_or(self.devices.unwrap_or(1), |functions| 1 + functions),
            card: self.card.is_some(),
            neighbour: self.neighbour,
            ..Config::default()
        };
        self.variant.equip(&mut config);
        vec![Boot {
            name: "tests",
            config,
            groups: self.group.clone(),
            filters: self.filter.clone(),
            part: (0, 1),
            long: self.full,
            seed: None,
            seconds: None,
            instead: None,
        }]
    }
}

#[derive(Args)]
struct Bench {
    #[command(flatten)]
    common: Common,
    /// Plugin of QEMU that counts instructions.
    #[arg(long)]
    plugin: PathBuf,
    /// Module with the least of drivers.
    #[arg(long)]
    floor: PathBuf,
    /// Another module to compare with.
    #[arg(long)]
    other: Option<PathBuf>,
    /// Parameters of that module, with spaces between them.
    #[arg(long, default_value = "")]
    other_parameters: String,
    /// Directory of the driver's source, as the debug information names it.
    #[arg(long)]
    source: PathBuf,
    /// Only operations with this in their names, and the floors.
    #[arg(long, default_value = "")]
    filter: String,
    /// File for everything that was measured.
    #[arg(long)]
    json: PathBuf,
    /// File for what the instructions are spent on.
    #[arg(long)]
    profile: PathBuf,
}

/// Copies a module without what only a debugger needs, which is most of it and
/// makes each load slower.
fn strip(module: &Path, target: &Path) -> Result<()> {
    let status = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .args([target, module])
        .status()
        .context("cannot start strip")?;
    ensure!(status.success(), "strip {}: {status}", module.display());
    Ok(())
}

impl Common {
    /// The module, which most runs are about.
    fn module(&self) -> Result<&Path> {
        self.module.as_deref().context("--module is missing")
    }

    /// Prepares what the machine is made of; `others` are modules besides that
    /// of the driver, and where the guest finds them.
    fn files(&self, dir: &Path, command: &str, others: &[(&str, &Path)]) -> Result<Files> {
        let kernel = kernel::prepare(&self.kernel, &self.work)?;
        let mut initramfs = Initramfs::new(&self.busybox, command)?;
        initramfs.programs(&self.programs)?;
        let own = self.module.iter().map(|module| (MODULE, module.as_path()));
        for (name, module) in own.chain(others.iter().copied()) {
            let name = name.trim_start_matches('/');
            let stripped = dir.join(name.replace('/', "-"));
            strip(module, &stripped)?;
            initramfs.file(name, &stripped)?;
        }
        let archive = dir.join("initramfs");
        initramfs.write(&archive)?;
        Ok(Files {
            kernel,
            initramfs: archive,
            vdev: self.vdev.clone(),
        })
    }

    /// The modules that this boot needs besides that of the driver: where the guest finds
    /// them, and the files; none if it cannot be had.
    fn others(&self, boot: &Boot) -> Option<Vec<(&'static str, &Path)>> {
        let Config {
            card,
            sriov,
            neighbour,
            ..
        } = boot.config;
        let mut others = Vec::new();
        if card {
            others.push((PHYSICAL_MODULE, self.pf_module.as_deref()?));
        }
        if sriov || neighbour {
            others.push((SRIOV_MODULE, self.sriov_module.as_deref()?));
        }
        Some(others)
    }

    /// The module that is loaded as the driver: where the guest finds it, and the file.
    fn loaded(&self, boot: &Boot) -> (&'static str, Option<&Path>) {
        match self.others(boot).as_deref() {
            // The one of a neighbour does not take the place of the driver's.
            Some(&[(name, file), ..]) if boot.config.card || boot.config.sriov => {
                (name, Some(file))
            }
            _ => (MODULE, self.module.as_deref()),
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    fn prepare(&self) -> Result<()> {
        fs::create_dir_all(&self.work).with_context(|| format!("{}", self.work.display()))
    }
}

fn demo(common: &Common) -> Result<bool> {
    common.prepare()?;
    common.module()?;
    let dir = machine::boot_directory(&common.work, "demo")?;
    let command = format!("/bin/busybox insmod {MODULE} || exit 1\nexec /bin/azihsm-demo\n");
    let files = common.files(&dir, &command, &[])?;
    let config = Config::default();
    let outcome = machine::run(&files, &config, &dir, common.timeout(), |line| {
        println!("{line}");
    })?;
    Ok(judge(&outcome, &dir))
}

/// Says what is wrong with a run, and returns whether nothing is.
fn judge(outcome: &Outcome, dir: &Path) -> bool {
    let complaints = report::complaints(outcome);
    for complaint in &complaints {
        println!("{complaint}");
    }
    let good = complaints.is_empty() && outcome.exit == Some(0);
    if !good {
        for line in report::console(outcome, dir) {
            println!("{line}");
        }
    }
    good
}

/// Reads what a guest prints.
enum Reader<'a> {
    Tap(tap::Results),
    /// What the kernel tells of unit tests, and those that there have to be.
    Ktap(Box<ktap::Reader>, &'a Expected),
}

impl Reader<'_> {
    fn push(&mut self, line: &str) {
        match self {
            Self::Tap(results) => results.push(line),
            Self::Ktap(reader, _) => reader.push(line),
        }
    }

    fn finish(self) -> tap::Results {
        match self {
            Self::Tap(results) => results,
            Self::Ktap(reader, expected) => expected.results(*reader),
        }
    }
}

/// What came out so far, of all boots.
#[derive(Default)]
struct Results {
    totals: Totals,
    /// Tests that failed, and where.
    failed: Vec<(Boot, Vec<String>)>,
}

/// What all boots have in common.
struct Runner<'a> {
    common: &'a Common,
    variant: Variant,
    /// The unit tests that there have to be inside the kernel.
    expected: Option<Expected>,
    /// File that gets a row for each machine.
    summary: Option<&'a Path>,
    /// Records what is executed of the driver.
    recorder: Option<&'a Recorder<'a>>,
}

impl<'a> Runner<'a> {
    fn new(common: &'a Common, variant: Variant) -> Self {
        Self {
            common,
            variant,
            expected: None,
            summary: None,
            recorder: None,
        }
    }

    fn reader(&self, boot: &Boot) -> Result<Reader<'_>> {
        let Some(Instead::Kunit(_)) = boot.instead else {
            return Ok(Reader::Tap(tap::Results::default()));
        };
        let expected = self.expected.as_ref();
        let expected = expected.context("--source is missing: it has the unit tests")?;
        Ok(Reader::Ktap(Box::default(), expected))
    }

    /// Runs one boot, with its logs in the directory `name`; `show` receives the lines
    /// that are there to be read.  Also returns the names of the tests that failed.
    fn run(
        &self,
        boot: &Boot,
        name: &str,
        mut show: impl FnMut(&str),
    ) -> Result<(Totals, Vec<String>)> {
        let common = self.common;
        let dir = machine::boot_directory(&common.work, name)?;
        let others = common.others(boot).unwrap_or_default();
        let (module, file) = common.loaded(boot);
        let mut boot = boot.clone();
        if let Some(recorder) = self.recorder {
            let file = file.context("there is no module")?;
            boot.config.plugin = Some(recorder.of_machine(&dir, file)?);
        }
        let files = common.files(&dir, &boot.command(module), &others)?;
        let timeout = common.timeout() + Duration::from_secs(boot.seconds.unwrap_or(0));
        let mut once = || -> Result<_> {
            let mut reader = self.reader(&boot)?;
            show(&format!("# {}: {}", boot.name, boot.describe()));
            let outcome = machine::run(&files, &boot.config, &dir, timeout, |line| {
                reader.push(line);
                show(line);
            })?;
            Ok((reader.finish(), outcome))
        };
        let (mut results, mut outcome) = once()?;
        // That says nothing of the driver, and the tests behind it were not run.
        let begun_anew = results.failed().is_empty() && outcome.only_ran_old_code();
        if begun_anew {
            (results, outcome) = once()?;
            show(&format!(
                "# {}: begun anew, as the emulator ran code that had been replaced",
                boot.name
            ));
        }
        let (totals, lines) = report::of_boot(boot.name, &outcome, &results, &dir);
        for line in lines {
            show(&line);
        }
        if let Some(file) = self.summary {
            summary::add(
                file,
                name,
                self.variant,
                &boot.config,
                &totals,
                outcome.total,
            )?;
        }
        Ok((totals, results.failed().to_vec()))
    }

    /// Runs boots until there are none left.
    ///
    /// One that is alone shows its lines as they come, others when they are done.
    fn work(
        &self,
        boots: &Mutex<VecDeque<Boot>>,
        results: &Mutex<Results>,
        alone: bool,
    ) -> Result<()> {
        loop {
            let next = boots.lock().expect("nobody panics").pop_front();
            let Some(boot) = next else {
                return Ok(());
            };
            let mut lines = Vec::new();
            let result = self.run(&boot, boot.name, |line| {
                if alone {
                    println!("{line}");
                } else {
                    lines.push(line.to_owned());
                }
            });
            let mut results = results.lock().expect("nobody panics");
            for line in lines {
                println!("{line}");
            }
            let (totals, failed) = result.with_context(|| boot.name)?;
            results.totals.add(&totals);
            if !failed.is_empty() && boot.instead.is_none() {
                results.failed.push((boot, failed));
            }
        }
    }

    /// Runs tests that failed once more, one machine at a time with nothing beside it.
    /// Returns the names of those that passed then.
    ///
    /// Many tests say how long something may take, and several emulated machines on a
    /// busy host are slow without warning.  Only the verdict of a test gets a second
    /// chance: what the kernel's log or the device says against the driver is final,
    /// and so are more failures than a slow host explains.
    fn second_try(&self, results: &mut Results) -> Result<Vec<String>> {
        let failures: usize = results.failed.iter().map(|(_, names)| names.len()).sum();
        if failures > SECOND_TRIES {
            println!("# {failures} tests failed: too many for a second try");
            return Ok(Vec::new());
        }
        let mut passed = Vec::new();
        for (mut boot, names) in mem::take(&mut results.failed) {
            println!("# once more, alone: {}", names.join(", "));
            boot.filters.clone_from(&names);
            boot.part = (0, 1);
            let logs = format!("{}-again", boot.name);
            let (totals, failed) = self.run(&boot, &logs, |line| println!("{line}"))?;
            results.totals.excuse(names.len());
            results.totals.add(&totals);
            let machine = boot.name;
            let better = names.iter().filter(|name| !failed.contains(name));
            passed.extend(better.map(|name| format!("{name} ({machine})")));
        }
        Ok(passed)
    }

    /// Runs all of them, `jobs` at a time, and those that failed `again` if that is
    /// wanted; returns whether all was well in the end.
    fn test(&self, boots: Vec<Boot>, jobs: usize, again: bool) -> Result<bool> {
        let common = self.common;
        common.prepare()?;
        if self.variant == Variant::Builtin {
            let is_for_it = |boot: &Boot| boot.instead.is_some();
            ensure!(
                boots.iter().all(is_for_it),
                "these tests load a module, and the driver is built in"
            );
        } else {
            common.module()?;
        }
        // Here, so that two boots do not do it at once.
        kernel::prepare(&common.kernel, &common.work)?;
        ensure!(!boots.is_empty(), "there is no such machine");
        let workers = jobs.clamp(1, boots.len());
        let alone = boots.len() == 1;
        let boots = Mutex::new(VecDeque::from(boots));
        let results = Mutex::new(Results::default());
        // A worker outlives what it starts, as the kernel wants it to.
        thread::scope(|scope| {
            let threads: Vec<_> = (0..workers)
                .map(|_| scope.spawn(|| self.work(&boots, &results, alone)))
                .collect();
            let join = |handle: thread::ScopedJoinHandle<_>| handle.join().expect("does not panic");
            threads.into_iter().try_for_each(join)
        })?;
        let mut results = results.into_inner().expect("nobody panics");
        let mut late = Vec::new();
        if again && !results.failed.is_empty() {
            late = self.second_try(&mut results)?;
        }
        if let Some(line) = report::second_tries(&late) {
            println!("{line}");
        }
        println!("{}", results.totals);
        Ok(results.totals.good())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.action {
        Action::Demo(common) => demo(common),
        Action::Test(options) => options.run(),
        Action::Bench(options) => bench::run(options),
        Action::Coverage(options) => coverage::run(options),
        Action::Script(options) => options.run(),
        Action::Fuzz(options) => options.run(),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("azihsm-vm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Action;
    use super::Arguments;
    use super::Boot;
    use clap::Parser;
    use std::time::Duration;

    fn boots(options: &[&str]) -> Vec<Boot> {
        let files = [
            "--kernel",
            "k",
            "--module",
            "m",
            "--vdev",
            "v",
            "--programs",
            "p",
        ];
        let words = ["azihsm-vm", "test"].iter().chain(&files).chain(options);
        match Arguments::try_parse_from(words).unwrap().action {
            Action::Test(test) => test.boots(),
            _ => unreachable!(),
        }
    }

    #[test]
    fn kernel_and_memory_are_those_of_every_machine() {
        let options = [
            "--memory",
            "2048",
            "--append",
            "a b",
            "--append",
            "c",
            "--boot-timeout",
            "9",
        ];
        for more in [&[][..], &["--full"], &["--group", "aes"], &["--smp", "1"]] {
            for Boot { config, .. } in boots(&[&options, more].concat()) {
                assert_eq!(config.memory, 2048);
                assert_eq!(config.append, ["a b", "c"]);
                assert_eq!(config.boot_patience, Duration::from_secs(9));
            }
            for Boot { config, .. } in boots(more) {
                assert!(config.memory >= 512);
                assert!(config.append.is_empty());
            }
        }
    }
}
