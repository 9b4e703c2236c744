// SPDX-License-Identifier: GPL-2.0
//! One virtual machine with its virtual devices.

use crate::clock;
use crate::control;
use crate::kernel_log::OldCode;
use crate::kernel_log::Scanner;
use crate::process::Process;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use serde_json::json;
use std::collections::VecDeque;
use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Longest path of a socket that the kernel takes.
const SOCKET_PATH_MAX: usize = 107;

/// How long a virtual device may take to open its sockets.
const DEVICE_PATIENCE: Duration = Duration::from_secs(20);

/// How often the guest is started if its program does not say anything.
const BOOTS: usize = 3;

/// How many lines of the console are kept to be shown.
const TAIL: usize = 60;

/// Serial ports for devices; the last one leads to the monitor if there is no device for it.
const DEVICE_PORTS: usize = 2;

/// Most functions of one device: as many as there are slots, and vectors, for.
const MAX_FUNCTIONS: usize = 9;

/// Root port of device `n`, and the chassis and slot it has.
fn root_port(n: usize) -> String {
    let number = n + 1;
    format!("pcie-root-port,id=rp{n},chassis={number},slot={number}")
}

/// What the machine consists of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Processors.
    pub smp: usize,
    /// Whether there is an IOMMU, and the kernel uses it.
    pub iommu: bool,
    /// MSI-X vectors of each device.
    pub vectors: usize,
    /// Devices, or functions.
    pub devices: usize,
    /// Whether they are functions of one device: the physical one and virtual ones. Drivers for
    /// tests can tell.
    pub card: bool,
    /// Whether there is a device of QEMU's own that can do SR-IOV.
    pub sriov: bool,
    /// Whether another function of the first device is QEMU's own test device, whose driver wants
    /// the bus reset for each error on the way to it.
    pub neighbour: bool,
    /// Bytes of BAR 0 of each device.
    pub bar0_size: usize,
    /// Memory in MiB.
    pub memory: usize,
    /// Whether the driver's unit tests run, if the kernel can run any.
    pub kunit: bool,
    /// Whether the kernel has the driver built in.
    pub built_in: bool,
    /// What else the kernel finds on its command line.
    pub append: Vec<String>,
    /// How long the guest may take until its program says something.
    pub boot_patience: Duration,
    /// A plugin of QEMU, with its options.
    pub plugin: Option<String>,
}

impl Default for Config {
    /// Two processors and one device as it should be.
    fn default() -> Self {
        Self {
            smp: 2,
            iommu: false,
            vectors: 32,
            devices: 1,
            card: false,
            sriov: false,
            neighbour: false,
            bar0_size: 4096,
            memory: 512,
            kunit: false,
            built_in: false,
            append: Vec::new(),
            boot_patience: Duration::from_secs(60),
            plugin: None,
        }
    }
}

/// The files it is made of.
#[derive(Clone, Debug)]
pub struct Files {
    /// Kernel that QEMU takes.
    pub kernel: PathBuf,
    /// Root file system of the guest.
    pub initramfs: PathBuf,
    /// Program of the virtual device.
    pub vdev: PathBuf,
}

/// What came out of the machine.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the guest's program returned, if it ended.
    pub exit: Option<i32>,
    /// What went wrong with the machine itself.
    pub problems: Vec<String>,
    /// Alarming lines of the kernel log.
    pub alarms: Vec<String>,
    /// Whether the kernel gave up as the emulator ran code that had been replaced.
    pub ran_old_code: bool,
    /// Rules that the driver broke.
    pub violations: Vec<String>,
    /// Last lines of the console.
    pub tail: VecDeque<String>,
    /// How long it took until the guest's program said something.
    pub boot: Option<Duration>,
    /// How long it all took.
    pub total: Duration,
}

impl Outcome {
    /// Whether nothing else is wrong than that the emulator ran code that the kernel had
    /// replaced, and what follows from that.
    pub fn only_ran_old_code(&self) -> bool {
        let first = self.alarms.first();
        self.ran_old_code
            && first.is_some_and(|line| line.contains("Oops: int3"))
            && self.violations.is_empty()
    }
}

/// Which stream of the guest a line came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stream {
    Console,
    Results,
}

/// Runs one machine until it is off, or for `timeout`; `sink` receives the
/// lines that the guest's program prints.
///
/// On a busy host an emulated machine with several processors sometimes hangs
/// while its kernel starts them, or dies while the kernel changes its own code.
/// If that was before the program said anything, the driver was not even loaded,
/// and the machine is started once more.  A driver that is built in was there: what
/// the kernel's log says then is final.
pub fn run(
    files: &Files,
    config: &Config,
    dir: &Path,
    timeout: Duration,
    mut sink: impl FnMut(&str),
) -> Result<Outcome> {
    for _ in 1..BOOTS {
        let machine = Machine::start(files, config, dir)?;
        let outcome = machine.watch(config, dir, timeout, &mut sink)?;
        if outcome.boot.is_some() || config.built_in && !outcome.alarms.is_empty() {
            return Ok(outcome);
        }
        sink("# the machine did not boot, and is started again");
    }
    Machine::start(files, config, dir)?.watch(config, dir, timeout, &mut sink)
}

struct Machine {
    // Dropped first, so that QEMU never talks to a device that is gone.
    qemu: Process,
    devices: Vec<Process>,
    /// Of each function, the socket and its number there.
    controls: Vec<(PathBuf, usize)>,
    lines: Receiver<(Stream, String)>,
    started: Instant,
}

impl Machine {
    fn start(files: &Files, config: &Config, dir: &Path) -> Result<Self> {
        let most = if config.card {
            MAX_FUNCTIONS
        } else {
            DEVICE_PORTS
        };
        ensure!(
            (1..=most).contains(&config.devices),
            "from 1 to {most} devices are possible"
        );
        let started = Instant::now();
        let (sender, lines) = mpsc::channel();
        listen(&dir.join("console"), Stream::Console, sender.clone())?;
        listen(&dir.join("results"), Stream::Results, sender)?;

        let mut devices = Vec::new();
        let mut controls = Vec::new();
        let functions = if config.card { config.devices } else { 1 };
        for n in (0..config.devices).step_by(functions) {
            let control = checked(dir.join(format!("control{n}")))?;
            let mut command = Command::new(&files.vdev);
            let mut sockets = Vec::new();
            for function in n..n + functions {
                let socket = checked(dir.join(format!("device{function}")))?;
                command.arg("--socket").arg(&socket);
                sockets.push(socket);
                controls.push((control.clone(), function - n));
            }
            if config.card {
                command.args(["--physical", "0"]);
            }
            command
                .arg("--control")
                .arg(&control)
                .arg("--vectors")
                .arg(config.vectors.to_string())
                .arg("--bar0-size")
                .arg(config.bar0_size.to_string());
            let name = format!("device {n}");
            let mut process = Process::start(&name, command, &dir.join(format!("device{n}.log")))?;
            wait_ready(&mut process, &sockets, &control)?;
            devices.push(process);
        }
        let qemu = Process::start("QEMU", qemu(files, config, dir), &dir.join("qemu.log"))?;
        Ok(Self {
            qemu,
            devices,
            controls,
            lines,
            started,
        })
    }

    fn watch(
        mut self,
        config: &Config,
        dir: &Path,
        timeout: Duration,
        sink: &mut dyn FnMut(&str),
    ) -> Result<Outcome> {
        let scanner = Scanner::new();
        let mut old_code = OldCode::new();
        let mut console = File::create(dir.join("console.log"))?;
        let mut results = File::create(dir.join("results.log"))?;
        let mut outcome = Outcome::default();
        let deadline = self.started + timeout;
        loop {
            match self.lines.recv_timeout(Duration::from_millis(200)) {
                Ok((Stream::Console, line)) => {
                    let line = scanner.clean(&line);
                    writeln!(console, "{line}")?;
                    old_code.push(&line);
                    // The log is shown once more if the program failed.
                    if scanner.is_alarming(&line) && !outcome.alarms.contains(&line) {
                        outcome.alarms.push(line.clone());
                    }
                    outcome.tail.push_back(line);
                    if outcome.tail.len() > TAIL {
                        outcome.tail.pop_front();
                    }
                }
                Ok((Stream::Results, line)) => {
                    let line = line.trim_end();
                    writeln!(results, "{line}")?;
                    outcome.boot.get_or_insert_with(|| self.started.elapsed());
                    match line.strip_prefix("# exit ") {
                        Some(code) => outcome.exit = code.parse().ok(),
                        None => sink(line),
                    }
                }
                // Both streams have ended, and with them QEMU.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if outcome.boot.is_none() && self.started.elapsed() > config.boot_patience {
                outcome
                    .problems
                    .push("the machine does not boot".to_owned());
                break;
            }
            if Instant::now() > deadline {
                let seconds = timeout.as_secs();
                outcome
                    .problems
                    .push(format!("not finished after {seconds} s"));
                break;
            }
            if let Some(problem) = self.device_ended()? {
                outcome.problems.push(problem);
                break;
            }
        }
        if outcome.problems.is_empty() {
            self.settle(&mut outcome)?;
        }
        for (n, (control, function)) in self.controls.iter().enumerate() {
            match control::violations(control, *function) {
                Ok(list) => outcome
                    .violations
                    .extend(list.into_iter().map(|rule| format!("device {n}: {rule}"))),
                Err(error) => outcome.problems.push(format!("device {n}: {error:#}")),
            }
            // One that was killed had no chance.
            if outcome.exit.is_some() && control::was_left_enabled(control, *function)? {
                outcome
                    .violations
                    .push(format!("device {n}: enabled when the machine was off"));
            }
        }
        outcome.ran_old_code = old_code.was_run();
        outcome.total = self.started.elapsed();
        Ok(outcome)
    }

    /// Looks at how the machine ended, once it said all it had to say.
    fn settle(&mut self, outcome: &mut Outcome) -> Result<()> {
        for _ in 0..100 {
            if let Some(status) = self.qemu.ended()? {
                if !status.success() {
                    outcome.problems.push(format!("QEMU: {status}"));
                }
                if outcome.exit.is_none() {
                    outcome
                        .problems
                        .push("the guest stopped before its program did".to_owned());
                }
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        outcome.problems.push("QEMU does not end".to_owned());
        Ok(())
    }

    /// Says so if a device ended while the machine still runs.
    fn device_ended(&mut self) -> Result<Option<String>> {
        for device in &mut self.devices {
            if let Some(status) = device.ended()? {
                if self.qemu.ended()?.is_none() {
                    return Ok(Some(format!("{} ended: {status}", device.name())));
                }
            }
        }
        Ok(None)
    }
}

/// Takes one connection at `path` and sends on the lines that arrive.
fn listen(path: &Path, stream: Stream, sender: Sender<(Stream, String)>) -> Result<()> {
    let path = checked(path.to_owned())?;
    if path.exists() {
        // Of a machine that did not boot.
        fs::remove_file(&path)?;
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("{}", path.display()))?;
    thread::spawn(move || {
        let Ok((connection, _)) = listener.accept() else {
            return;
        };
        let mut reader = BufReader::new(connection);
        let mut line = Vec::new();
        // An error is the end of the stream as well.
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            let text = String::from_utf8_lossy(&line).into_owned();
            if sender.send((stream, text)).is_err() {
                return;
            }
            line.clear();
        }
    });
    Ok(())
}

/// `path`, if a socket can have it.
fn checked(path: PathBuf) -> Result<PathBuf> {
    let length = path.as_os_str().as_bytes().len();
    ensure!(
        length <= SOCKET_PATH_MAX,
        "{} is too long for a socket: give a shorter --work",
        path.display()
    );
    Ok(path)
}

fn wait_ready(device: &mut Process, sockets: &[PathBuf], control: &Path) -> Result<()> {
    let deadline = Instant::now() + DEVICE_PATIENCE;
    loop {
        if let Some(status) = device.ended()? {
            bail!("{} ended at once: {status}", device.name());
        }
        let is_there = sockets.iter().all(|socket| socket.exists());
        if is_there && control.exists() && control::ping(control).is_ok() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{} does not open its sockets",
            device.name()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

/// The command line of the guest's kernel.
fn kernel_arguments(config: &Config) -> String {
    // Warnings and worse go to the console, the rest stays in the log buffer.
    // An oops ends the run: whatever came after it would mean nothing.
    let mut arguments = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off \
         tsc=reliable no_timer_check"
        .to_owned();
    if config.iommu {
        arguments.push_str(" intel_iommu=on");
    }
    for word in clock::argument().iter().chain(&config.append) {
        arguments.push(' ');
        arguments.push_str(word);
    }
    arguments
}

fn qemu(files: &Files, config: &Config, dir: &Path) -> Command {
    let memory = config.memory;
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none"])
        .args(["-machine", "q35,memory-backend=memory"])
        .args(["-accel", "tcg", "-cpu", "max"])
        .args(["-smp", &config.smp.to_string()])
        .args(["-m", &format!("{memory}M")])
        // The devices reach the memory of the guest through its descriptor.
        .args([
            "-object",
            &format!("memory-backend-memfd,id=memory,size={memory}M,share=on"),
        ])
        .arg("-kernel")
        .arg(&files.kernel)
        .arg("-initrd")
        .arg(&files.initramfs)
        .args(["-append", &kernel_arguments(config)])
        // Without this the ports' links report no state, and a bus reset fails.
        .args([
            "-global",
            "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
        ]);
    if config.iommu {
        command.args(["-device", "intel-iommu,caching-mode=on"]);
    }
    if config.sriov {
        command
            .args(["-device", "pcie-root-port,id=other,chassis=20,slot=20"])
            .args(["-device", "igb,bus=other,romfile="]);
    }
    if let Some(plugin) = &config.plugin {
        command.args(["-plugin", plugin]);
    }
    let mut ports = vec!["console".to_owned(), "results".to_owned()];
    let controls = if config.card { 1 } else { config.devices };
    ports.extend((0..controls).map(|n| format!("control{n}")));
    for port in &ports {
        let path = dir.join(port);
        command
            .arg("-chardev")
            .arg(format!(
                "socket,id={port},server=off,path={}",
                path.display()
            ))
            .args(["-serial", &format!("chardev:{port}")]);
    }
    if controls < DEVICE_PORTS {
        // The last serial port leads to the monitor of the machine itself.
        let path = dir.join("monitor");
        let path = path.display();
        command
            .arg("-chardev")
            .arg(format!("socket,id=monitor,server=on,wait=off,path={path}"))
            .args(["-mon", "chardev=monitor,mode=readline"])
            .arg("-chardev")
            .arg(format!("socket,id=to-monitor,server=off,path={path}"))
            .args(["-serial", "chardev:to-monitor"]);
    }
    for n in 0..config.devices {
        let mut device = json!({
            "driver": "vfio-user-pci",
            "id": format!("hsm{n}"),
            "bus": format!("rp{n}"),
            "socket": { "type": "unix", "path": dir.join(format!("device{n}")) },
            // A slow answer must not become all ones.
            "x-msg-timeout": 60_000,
        });
        command.args(["-device", &root_port(n)]);
        if config.neighbour && n == 0 {
            device["addr"] = json!("0.0");
            device["multifunction"] = json!(true);
            command.args(["-device", "pci-testdev,bus=rp0,addr=0.1"]);
        }
        command.args(["-device", &device.to_string()]);
    }
    command
}

/// An empty directory for the boot called `name`.
pub fn boot_directory(work: &Path, name: &str) -> Result<PathBuf> {
    let dir = work.join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
    }
    fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::kernel_arguments;
    use super::Config;
    use super::Outcome;

    #[test]
    fn old_code_excuses_nothing_else() {
        let outcome = |alarms: &[&str]| Outcome {
            alarms: alarms.iter().map(|&line| line.to_owned()).collect(),
            ran_old_code: true,
            ..Outcome::default()
        };
        let oops = "[ 1.0] Oops: int3: 0000 [#1] SMP NOPTI";
        let panic = "[ 1.0] Kernel panic - not syncing";
        assert!(outcome(&[oops, panic]).only_ran_old_code());
        assert!(!outcome(&["[ 0.9] WARNING: ", oops, panic]).only_ran_old_code());
        let mut others = outcome(&[oops]);
        others.violations = vec!["rule".to_owned()];
        assert!(!others.only_ran_old_code());
        others = outcome(&[oops]);
        others.ran_old_code = false;
        assert!(!others.only_ran_old_code());
    }

    #[test]
    fn words_are_added_to_the_command_line() {
        let mut config = Config::default();
        let ordinary = kernel_arguments(&config);
        config.append = vec!["a=1 b".to_owned(), "c".to_owned()];
        assert_eq!(kernel_arguments(&config), format!("{ordinary} a=1 b c"));
    }
}
