// SPDX-License-Identifier: GPL-2.0
//! Running tests one after the other.

use crate::crowd::Crowd;
use crate::crowd::Plan;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::Control;
use azihsm_guest::control::CARD;
use azihsm_guest::kmsg::KernelLog;
use azihsm_guest::kmsg::Message;
use azihsm_guest::module;
use azihsm_guest::pci;
use azihsm_guest::sys::Child;
use azihsm_guest::trace;
use azihsm_guest::vmstat;
use azihsm_uapi::hsm_nodes;
use azihsm_uapi::Device;
use nix::unistd::pipe;
use std::cmp::Reverse;
use std::fmt;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long a test may take, unless it says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How long what a test has left to the kernel may take to be released.
const RELEASE: Duration = Duration::from_secs(2);

/// What the tests run on.
#[derive(Clone, Debug)]
pub struct Env {
    /// The module.
    pub module: PathBuf,
    /// MSI-X vectors of each device.
    pub vectors: usize,
    /// Devices.
    pub devices: usize,
    /// What random tests draw from.
    pub seed: u64,
    /// How many seconds the tests of group soak run for.
    pub seconds: u64,
    /// Which device [`Env::open`] and others are for.
    pub number: usize,
}

impl Env {
    /// The same for device `number`.
    pub fn of(&self, number: usize) -> Self {
        Self {
            number,
            ..self.clone()
        }
    }

    /// Whether the devices are functions of one, of which the first is the physical one.
    pub fn is_card() -> bool {
        std::env::var_os(CARD).is_some()
    }

    /// Whether the first device has a neighbour behind its port.
    fn has_neighbour() -> bool {
        std::env::var_os("AZIHSM_NEIGHBOUR").is_some()
    }

    /// Opens the first device.
    pub fn open(&self) -> Result<Device> {
        self.open_node(self.number)
    }

    /// Opens device `number`.
    pub fn open_node(&self, number: usize) -> Result<Device> {
        let path = format!("/dev/azihsm{number}");
        Device::open(&path).context(path)
    }

    /// Opens the line to the virtual device behind the first node.
    pub fn control(&self) -> Result<Control> {
        Control::open(self.number)
    }

    /// Loads the module.
    pub fn load(&self) -> Result<()> {
        module::load(&self.module)
    }

    /// Unloads the module, and loads it again.
    pub fn reload(&self) -> Result<()> {
        module::unload().context("delete_module")?;
        self.load()
    }

    /// PCI address of the first device.
    pub fn address(&self) -> Result<String> {
        pci::of_node(&format!("azihsm{}", self.number))
    }

    /// Makes the first device a virtual function, which keeps its resource
    /// groups when it is reset, and binds it. Returns its PCI address.
    pub fn become_virtual(&self) -> Result<String> {
        let address = self.address()?;
        pci::unbind(&address)?;
        self.control()?.set("controller", &serde_json::json!(1))?;
        pci::bind(&address)?;
        Ok(address)
    }

    /// Brings back what a test may have taken away: the module, the binding of
    /// the devices, their good will.
    ///
    /// If the last test spoiled the driver or the devices, the module is loaded
    /// anew and they are turned off and on.
    fn restore(&self, spoiled: bool) -> Result<()> {
        let mut enabled = false;
        if spoiled {
            if module::is_loaded() {
                module::unload().context("delete_module")?;
            }
            for number in 0..self.devices {
                let mut control = Control::open(number)?;
                control.clear_faults()?;
                enabled |= control.state()?["enabled"] == true;
                control.power_cycle()?;
            }
        }
        // A test that was killed may have left it off.
        fs::write("/sys/bus/pci/drivers_autoprobe", "1")?;
        if pci::functions()?.len() < self.devices {
            pci::rescan()?;
        }
        if !module::is_loaded() {
            self.load()?;
        }
        for address in pci::functions()? {
            if pci::driver(&address).is_none() {
                pci::set_override(&address, "")?;
                pci::probe(&address)?;
            }
        }
        let nodes = hsm_nodes()?.len();
        if nodes != self.devices {
            bail!("{nodes} nodes of {} devices", self.devices);
        }
        // Only now, so that no more than one test fails for it.
        ensure!(!enabled, "the driver left a device enabled");
        Ok(())
    }
}

/// The error of a test that cannot be run here.
#[derive(Debug)]
pub struct Skip(pub &'static str);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Skip {}

/// Exit codes of the process of a test that failed, or cannot be run.
const FAILED: i32 = 1;
const SKIPPED: i32 = 2;

/// What is wrong with a test, and why it was skipped, if it was.
#[derive(Default)]
struct Verdict {
    findings: Vec<String>,
    skipped: Option<String>,
}

impl From<String> for Verdict {
    fn from(finding: String) -> Self {
        Self {
            findings: vec![finding],
            skipped: None,
        }
    }
}

type Body = Box<dyn Fn(&Env) -> Result<()>>;

/// One test.
pub struct Test {
    name: String,
    body: Body,
    timeout: Duration,
    devices: usize,
    card: bool,
    neighbour: bool,
    traces: bool,
    messages: &'static [&'static str],
    spoils: bool,
    long: bool,
    takes: u32,
}

impl Test {
    /// A test called `group/rule`.
    pub fn new(name: impl Into<String>, body: impl Fn(&Env) -> Result<()> + 'static) -> Self {
        Self {
            name: name.into(),
            body: Box::new(body),
            timeout: TIMEOUT,
            devices: 1,
            card: false,
            neighbour: false,
            traces: false,
            messages: &[],
            spoils: false,
            long: false,
            takes: 0,
        }
    }

    /// It usually takes so many seconds, where most take less than one.
    pub fn takes(mut self, seconds: u32) -> Self {
        self.takes = seconds;
        self
    }

    /// It takes too long for everyday use.
    pub fn long(mut self) -> Self {
        self.long = true;
        self
    }

    /// It may take so many seconds.
    pub fn seconds(mut self, seconds: u64) -> Self {
        self.timeout = Duration::from_secs(seconds);
        self
    }

    /// It needs so many devices.
    pub fn devices(mut self, devices: usize) -> Self {
        self.devices = devices;
        self
    }

    /// It needs a physical function and so many virtual ones.
    pub fn card(mut self, functions: usize) -> Self {
        self.card = true;
        self.devices = 1 + functions;
        self
    }

    /// It needs a neighbour behind the same port that wants resets.
    pub fn neighbour(mut self) -> Self {
        self.neighbour = true;
        self
    }

    /// It needs the kernel's trace events, which only kernels for testing lack.
    pub fn traces(mut self) -> Self {
        self.traces = true;
        self
    }

    /// The driver may warn of something with one of these texts in it.
    pub fn may_warn(mut self, messages: &'static [&'static str]) -> Self {
        self.messages = messages;
        self
    }

    /// It leaves the driver with less than it had: commands that never come
    /// back.
    pub fn spoils(mut self) -> Self {
        self.spoils = true;
        self
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is of this group.
    pub fn is_in(&self, group: &str) -> bool {
        self.name
            .strip_prefix(group)
            .is_some_and(|rest| rest.starts_with('/'))
    }

    /// Whether it is one for everyday use.
    pub fn is_short(&self) -> bool {
        !self.long
    }

    /// Whether it makes sense here.
    pub fn applies_to(&self, env: &Env) -> bool {
        self.devices <= env.devices
            && (!self.card || Env::is_card())
            && (!self.neighbour || Env::has_neighbour())
            && (!self.traces || trace::is_possible())
    }

    fn is_expected(&self, message: &Message) -> bool {
        message.is_about_driver()
            && !message.is_splat()
            && self.messages.iter().any(|text| message.text.contains(text))
    }
}

/// One of `parts` parts of `tests`, which take about the same time; all of them
/// together are all tests.
pub fn part_of(tests: Vec<Test>, part: usize, parts: usize) -> Vec<Test> {
    let mut order: Vec<usize> = (0..tests.len()).collect();
    order.sort_by_key(|&index| Reverse(tests[index].takes));
    let mut loads = vec![0; parts];
    let mut mine = vec![false; tests.len()];
    for index in order {
        let lightest = (0..parts).min_by_key(|&number| loads[number]).unwrap_or(0);
        // Even those that take less than a second take some time.
        loads[lightest] += 8 * tests[index].takes + 1;
        mine[index] = lightest == part;
    }
    tests
        .into_iter()
        .zip(mine)
        .filter_map(|(test, mine)| mine.then_some(test))
        .collect()
}

/// Looks after what the tests do to the world.
struct Watch {
    log: KernelLog,
    /// How many rules have been broken, for each device.
    violations: Vec<usize>,
    /// How many pages are pinned for good.
    pinned: i64,
}

impl Watch {
    fn new(env: &Env) -> Result<Self> {
        Ok(Self {
            log: KernelLog::end()?,
            violations: vec![0; env.devices],
            pinned: vmstat::pinned_pages()?,
        })
    }

    /// How many more pages are pinned than before the test; if there are any, those
    /// that are about to be released get some time.
    fn pinned_pages(&self) -> Result<i64> {
        let start = Instant::now();
        loop {
            let pinned = vmstat::pinned_pages()? - self.pinned;
            if pinned == 0 || start.elapsed() > RELEASE {
                return Ok(pinned);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is wrong, and was not at the end of the test before this one.
    ///
    /// No test leaves faults, sessions or pinned pages to the next.
    fn findings(&mut self, test: &Test) -> Result<Vec<String>> {
        let mut findings = Vec::new();
        for (number, known) in self.violations.iter_mut().enumerate() {
            let mut control = Control::open(number)?;
            control.clear_faults()?;
            control.set_latencies(0)?;
            let rules = control.violations()?;
            for rule in rules.iter().skip(*known) {
                findings.push(format!("device {number}: {rule}"));
            }
            *known = rules.len();
            for session in control.sessions()? {
                findings.push(format!("device {number}: session {session} left behind"));
            }
        }
        let pinned = self.pinned_pages()?;
        self.pinned += pinned;
        if pinned != 0 && !test.spoils {
            findings.push(format!("{pinned} pages are still pinned"));
        }
        for message in self.log.read()? {
            if message.is_alarming() && !test.is_expected(&message) {
                findings.push(format!("kernel log: {}", message.text));
            }
        }
        Ok(findings)
    }
}

/// Runs tests and reports on them.
pub struct Runner {
    env: Env,
    watch: Watch,
    spoiled: bool,
}

impl Runner {
    /// A runner for tests that run on `env`.
    pub fn new(env: Env) -> Result<Self> {
        let watch = Watch::new(&env)?;
        // Nobody knows what was before.
        let spoiled = true;
        Ok(Self {
            env,
            watch,
            spoiled,
        })
    }

    /// Runs `tests`.
    pub fn run(&mut self, tests: &[Test]) -> ExitCode {
        println!("TAP version 14");
        println!("1..{}", tests.len());
        println!("# seed {}", self.env.seed);
        let mut good = true;
        for (index, test) in tests.iter().enumerate() {
            let start = Instant::now();
            let Verdict { findings, skipped } = self
                .one(test)
                .unwrap_or_else(|error| format!("{error:#}").into());
            let verdict = if findings.is_empty() { "ok" } else { "not ok" };
            let directive = match skipped {
                Some(reason) => format!(" # SKIP {reason}"),
                None => String::new(),
            };
            println!("{verdict} {} - {}{directive}", index + 1, test.name());
            for finding in &findings {
                for line in finding.lines() {
                    println!("# {line}");
                }
            }
            println!("# {} ms", start.elapsed().as_millis());
            self.spoiled = test.spoils || !findings.is_empty();
            good &= findings.is_empty();
        }
        if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// Leaves a process behind that uses the devices until the machine is off: by then
    /// the driver must have stopped them, as the harness finds out.
    pub fn leave_busy(&self) -> Result<()> {
        self.env.restore(self.spoiled)?;
        let (reader, writer) = pipe()?;
        let child = Child::run(|| {
            let result = (|| -> Result<()> {
                let crowd = Crowd::start(&self.env, Plan::FEW)?;
                crowd.wait_busy()?;
                File::from(writer).write_all(b"!")?;
                // Nobody needs it any more then.
                crowd.wait_end(Duration::from_secs(60))
            })();
            i32::from(result.is_err())
        })?;
        // It is to be there when this process is not.
        std::mem::forget(child);
        let mut byte = [0];
        let count = File::from(reader).read(&mut byte)?;
        ensure!(count == 1, "no commands are under way");
        Ok(())
    }

    /// What is wrong, if anything.
    fn one(&mut self, test: &Test) -> Result<Verdict> {
        self.env.restore(self.spoiled).context("before the test")?;
        if self.spoiled {
            // What the driver says as it goes is about the test before.
            self.watch.log = KernelLog::end()?;
        }
        let mut verdict = self.body(test)?;
        verdict.findings.extend(self.watch.findings(test)?);
        Ok(verdict)
    }

    /// Runs the test itself in a child.
    fn body(&self, test: &Test) -> Result<Verdict> {
        let (reader, writer) = pipe()?;
        let (mut reader, mut writer) = (File::from(reader), File::from(writer));
        let mut child = Child::run(|| match (test.body)(&self.env) {
            Ok(()) => 0,
            Err(error) => {
                // If the parent does not hear it, it sees the exit code.
                let _ = write!(writer, "{error:#}");
                match error.is::<Skip>() {
                    true => SKIPPED,
                    false => FAILED,
                }
            }
        })?;
        drop(writer);
        // A grandchild that is stuck may hold the pipe open for ever.
        let text = thread::spawn(move || {
            let mut text = String::new();
            let _ = reader.read_to_string(&mut text);
            text
        });
        let code = child.wait(test.timeout)?;
        drop(child);
        Ok(match code {
            Some(0) => Verdict::default(),
            Some(FAILED) => collect(text).into(),
            Some(SKIPPED) => Verdict {
                skipped: Some(collect(text)),
                ..Verdict::default()
            },
            Some(code) => format!("test ended with {code}").into(),
            None => format!("not finished after {} s", test.timeout.as_secs()).into(),
        })
    }
}

/// What a thread that reads a pipe found, if it comes to an end soon.
fn collect(text: thread::JoinHandle<String>) -> String {
    for _ in 0..100 {
        if text.is_finished() {
            return text.join().unwrap_or_default();
        }
        thread::sleep(Duration::from_millis(10));
    }
    "no reason given".to_owned()
}

#[cfg(test)]
mod tests {
    use super::part_of;
    use super::Test;

    fn all() -> Vec<Test> {
        (0..20)
            .map(|number| Test::new(format!("group/{number}"), |_| Ok(())).takes(number % 7))
            .collect()
    }

    #[test]
    fn each_test_is_in_one_part() {
        for parts in [1, 2, 3, 30] {
            let mut names: Vec<String> = (0..parts)
                .flat_map(|part| part_of(all(), part, parts))
                .map(|test| test.name().to_owned())
                .collect();
            names.sort();
            let mut expected: Vec<String> = all().iter().map(|t| t.name().to_owned()).collect();
            expected.sort();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn parts_take_about_the_same_time() {
        let times: Vec<u32> = (0..3)
            .map(|part| part_of(all(), part, 3).iter().map(|test| test.takes).sum())
            .collect();
        let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        assert!(most - least <= 3, "{times:?}");
    }

    #[test]
    fn groups_are_whole_names() {
        let test = Test::new("aes/rule", |_| Ok(()));
        assert!(test.is_in("aes"));
        assert!(!test.is_in("ae"));
        assert!(!test.is_in("rule"));
    }
}
