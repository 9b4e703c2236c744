// SPDX-License-Identifier: GPL-2.0
//! What administrators are shown (`Documentation/abi.rst`, 5.1).

use crate::check_eq;
use crate::crowd;
use crate::crowd::Crowd;
use crate::crowd::Plan;
use crate::health;
use crate::runner::Env;
use crate::runner::Test;
use crate::usage::check_no_growth;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::module;
use azihsm_guest::pci;
use azihsm_uapi::Device;
use azihsm_uapi::Flow;
use azihsm_uapi::ResetKind;
use nix::errno::Errno;
use nix::libc;
use nix::mount::mount;
use nix::mount::MsFlags;
use nix::sys::socket::bind;
use nix::sys::socket::recv;
use nix::sys::socket::setsockopt;
use nix::sys::socket::socket;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::NetlinkAddr;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockProtocol;
use nix::sys::socket::SockType;
use nix::sys::time::TimeVal;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// What the driver may say about all this.
const ODD: &[&str] = &["azihsm"];

/// How long what happens in the background may take.
const SOON: Duration = Duration::from_secs(10);

/// The longest that a command may take that is lost: the timeout, a question, and
/// the abort of its queue.
const LOST: Duration = Duration::from_secs(12);

const ADMIN: &[&str] = &["num_cpqs_created", "num_fpqs_created", "num_q_delete_cmds"];

const GLOBAL: &[&str] = &[
    "total_submissions",
    "total_completions",
    "total_error_completions",
    "total_cmds_aborted",
    "total_lvl1_aborts",
    "total_lvl2_aborts",
    "quarantined_bytes",
    "open_sessions",
    "orphaned_sessions",
];

const RECOVERY: &[&str] = &[
    "resets_requested",
    "resets_resumed",
    "resets_fault",
    "resets_not_ready",
    "resets_unresponsive",
    "resets_retried",
    "resets_returned",
    "resets_failed",
    "absences",
    "cuts",
];

const QUEUE: &[&str] = &[
    "num_cmds_pending_in_hw",
    "num_level1_aborts",
    "min_time_to_complete_io",
    "max_time_to_complete_io",
    "avg_time_to_complete_io",
    "total_ios_in_error",
    "total_ios_submitted_to_hw",
    "total_ios_completed_by_hw",
    "total_ios_timedout",
    "completions_per_sec",
];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("stats/files-are-those-of-the-document", files),
        Test::new("stats/commands-are-counted", commands),
        Test::new("stats/errors-are-counted", errors),
        Test::new("stats/sessions-are-counted", sessions),
        Test::new("stats/times-are-those-of-the-device", times),
        Test::new("stats/histogram-has-all-commands", histogram),
        Test::new("stats/rate-is-the-same-for-all-readers", rate).takes(5),
        Test::new("stats/lost-command-is-counted-once", lost)
            .takes(9)
            .may_warn(ODD),
        Test::new("stats/reset-keeps-counters", reset),
        Test::new("stats/reset-under-load-leaves-no-drift", reset_load)
            .takes(5)
            .seconds(180),
        Test::new("stats/crash-has-its-cause", crash)
            .takes(2)
            .may_warn(ODD),
        Test::new("stats/function-reset-has-its-cause", function_reset).takes(2),
        Test::new("stats/dead-device-quarantines", dead)
            .takes(8)
            .may_warn(ODD)
            .spoils(),
        Test::new("stats/absent-device-comes-back", absent)
            .takes(4)
            .may_warn(ODD),
        Test::new("stats/events-tell-of-resets", events)
            .takes(3)
            .may_warn(ODD),
        Test::new("stats/open-file-of-unbound-device-enodev", unbound),
        Test::new("stats/open-histogram-keeps-the-module", keeps_module),
        Test::new("stats/readers-while-binding-under-load", readers)
            .takes(8)
            .seconds(180),
        Test::new("stats/fifty-binds-with-readers-leak-nothing", leak)
            .takes(15)
            .seconds(300),
        Test::new("stats/descriptors-are-described", descriptors),
        Test::new("stats/old-parameters-are-accepted", parameters),
    ]
}

fn directory(env: &Env) -> Result<PathBuf> {
    Ok(pci::directory(&env.address()?).join("azihsm"))
}

/// Numbers by directory and file.
type Numbers = BTreeMap<String, u64>;

/// All numbers of a function.
pub(super) struct Look(Numbers);

impl Look {
    fn at(env: &Env) -> Result<Self> {
        Self::of(env, |_| true)
    }

    /// What the files say of which `wanted` says that they be read: beside a crowd each
    /// takes a while.
    fn of(env: &Env, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let top = directory(env)?;
        let mut numbers = Numbers::new();
        for path in list(&top)?.into_iter().filter(|path| path.is_dir()) {
            for file in list(&path)? {
                let name = file.strip_prefix(&top)?.to_string_lossy().into_owned();
                if !wanted(&name) {
                    continue;
                }
                let text = fs::read_to_string(&file).context(name.clone())?;
                let digits = text.strip_suffix('\n').context("no newline")?;
                ensure!(
                    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()),
                    "{name} is {text:?}"
                );
                numbers.insert(name, digits.parse()?);
            }
        }
        Ok(Self(numbers))
    }

    fn get(&self, name: &str) -> Result<u64> {
        let number = self.0.get(name);
        number.copied().with_context(|| format!("no {name}"))
    }

    /// The sum of a number of all queues of a class, or of both.
    fn sum(&self, class: &str, name: &str) -> u64 {
        let of_queues = self.0.iter().filter(|(path, _)| {
            path.contains("_sq") && path.starts_with(class) && path.ends_with(&format!("/{name}"))
        });
        of_queues.map(|(_, number)| number).sum()
    }

    fn queues(&self, class: &str) -> u64 {
        let suffix = "/num_level1_aborts";
        let paths = self.0.keys();
        paths
            .filter(|path| path.starts_with(class) && path.ends_with(suffix))
            .count() as u64
    }

    /// What every look at a device with nothing to do shows.
    fn check_balance(&self) -> Result<()> {
        let pending = self.sum("", "num_cmds_pending_in_hw");
        check_eq!(pending, 0, "commands pending");
        check_eq!(
            self.get("global/total_submissions")?,
            self.get("global/total_completions")? + self.get("global/total_cmds_aborted")?,
            "commands submitted, and those that ended"
        );
        check_eq!(
            self.get("global/total_lvl1_aborts")?,
            self.sum("", "num_level1_aborts"),
            "aborts of queues"
        );
        Ok(())
    }
}

/// How much more there is of `name`.
fn more(before: &Look, after: &Look, name: &str) -> Result<u64> {
    let (before, after) = (before.get(name)?, after.get(name)?);
    after
        .checked_sub(before)
        .with_context(|| format!("{name} went from {before} to {after}"))
}

/// Makes sure that of each name there is as much more.
pub(super) fn check_more(before: &Look, after: &Look, expected: &[(&str, u64)]) -> Result<()> {
    for (name, expected) in expected {
        check_eq!(more(before, after, name)?, *expected, "{name}");
    }
    Ok(())
}

fn list(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn state(env: &Env) -> Result<String> {
    Ok(fs::read_to_string(directory(env)?.join("state"))?)
}

/// Waits until the driver says that the device is in this state.
pub(super) fn wait_state(env: &Env, wanted: &str) -> Result<()> {
    let begin = Instant::now();
    while state(env)? != format!("{wanted}\n") {
        ensure!(begin.elapsed() < 2 * SOON, "{}, not {wanted}", state(env)?);
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Waits until nobody waits for anything.
pub(super) fn settled(env: &Env) -> Result<Look> {
    let begin = Instant::now();
    loop {
        let look = Look::at(env)?;
        let idle = look.sum("", "num_cmds_pending_in_hw") == 0;
        if idle || begin.elapsed() > SOON {
            look.check_balance()?;
            return Ok(look);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until so many HSM commands are pending.
fn wait_pending(env: &Env, wanted: u64) -> Result<()> {
    let begin = Instant::now();
    loop {
        let pending = Look::at(env)?.sum("cp", "num_cmds_pending_in_hw");
        if pending == wanted {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < SOON / 2,
            "{pending} commands are pending, not {wanted}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

fn files(env: &Env) -> Result<()> {
    let top = directory(env)?;
    let info = env.control()?.state()?;
    ensure!(info.is_object(), "no state of the device");
    let mut expected: BTreeSet<String> = BTreeSet::from(["state".to_owned()]);
    let mut add = |directory: &str, files: &[&str]| {
        expected.extend(files.iter().map(|file| format!("{directory}/{file}")));
    };
    add("admin", ADMIN);
    add("global", GLOBAL);
    add("recovery", RECOVERY);
    // Those of the device.
    let queues = |class| Ok::<_, anyhow::Error>(env.control()?.submission_queues(class)?.len());
    for number in 0..queues("hsm")? {
        add(&format!("cp_sq{}", 1 + number), QUEUE);
    }
    for number in 0..queues("aes")? {
        add(&format!("fp_sq{}", 256 + number), QUEUE);
    }
    let mut found = BTreeSet::new();
    let mut directories = vec![top.clone()];
    while let Some(directory) = directories.pop() {
        for path in list(&directory)? {
            let metadata = fs::symlink_metadata(&path)?;
            if metadata.is_dir() {
                directories.push(path);
                continue;
            }
            check_eq!(metadata.mode() & 0o7777, 0o444, "mode of {path:?}");
            check_eq!(
                (metadata.uid(), metadata.gid()),
                (0, 0),
                "owner of {path:?}"
            );
            let error = OpenOptions::new().write(true).open(&path).err();
            let errno = error.and_then(|error| error.raw_os_error());
            check_eq!(errno, Some(libc::EACCES), "opening {path:?} to write");
            ensure!(
                fs::read_to_string(&path)?.ends_with('\n'),
                "no newline: {path:?}"
            );
            found.insert(path.strip_prefix(&top)?.to_string_lossy().into_owned());
        }
    }
    check_eq!(found, expected, "files");
    check_eq!(state(env)?, "running\n", "state");
    Look::at(env)?.check_balance()
}

fn commands(env: &Env) -> Result<()> {
    let device = env.open()?;
    let before = settled(env)?;
    for _ in 0..20 {
        hsm::api_revisions(&device)?;
    }
    let after = Look::at(env)?;
    after.check_balance()?;
    check_more(
        &before,
        &after,
        &[
            ("global/total_submissions", 20),
            ("global/total_completions", 20),
            ("global/total_error_completions", 0),
            ("global/total_cmds_aborted", 0),
            ("global/total_lvl1_aborts", 0),
            ("global/total_lvl2_aborts", 0),
            ("admin/num_cpqs_created", 0),
        ],
    )?;
    for name in ["total_ios_submitted_to_hw", "total_ios_completed_by_hw"] {
        let count = after.sum("cp", name) - before.sum("cp", name);
        check_eq!(count, 20, "{name} of HSM queues");
        check_eq!(
            after.sum("fp", name),
            before.sum("fp", name),
            "{name} of AES queues"
        );
    }
    check_eq!(
        after.get("admin/num_cpqs_created")?,
        after.queues("cp"),
        "HSM queues"
    );
    check_eq!(
        after.get("admin/num_fpqs_created")?,
        after.queues("fp"),
        "AES queues"
    );
    Ok(())
}

fn errors(env: &Env) -> Result<()> {
    let device = env.open()?;
    let before = settled(env)?;
    env.control()?.inject(json!({
        "fault": "status", "class": "hsm", "status": 0x102, "count": 3,
    }))?;
    let mut failed = 0;
    for _ in 0..5 {
        let mut response = [0; 1024];
        let request = hsm::get_api_rev();
        let completion = device
            .hsm_command(Flow::None, &request, &mut response)
            .map_err(|error| error.errno)?;
        failed += usize::from(completion.status != 0);
    }
    env.control()?.clear_faults()?;
    check_eq!(failed, 3, "commands that failed");
    let after = Look::at(env)?;
    after.check_balance()?;
    check_more(
        &before,
        &after,
        &[
            ("global/total_completions", 5),
            ("global/total_error_completions", 3),
        ],
    )?;
    let name = "total_ios_in_error";
    check_eq!(after.sum("cp", name) - before.sum("cp", name), 3, "{name}");
    Ok(())
}

fn sessions(env: &Env) -> Result<()> {
    let open = || Look::at(env)?.get("global/open_sessions");
    check_eq!(open()?, 0, "sessions at first");
    let devices = [env.open()?, env.open()?];
    let first = hsm::open_session(&devices[0])?;
    check_eq!(open()?, 1, "sessions with one");
    hsm::open_session(&devices[1])?;
    check_eq!(open()?, 2, "sessions with two");
    hsm::close_session(&devices[0], first.id)?;
    check_eq!(open()?, 1, "sessions with one again");
    drop(devices);
    check_eq!(open()?, 0, "sessions in the end");
    check_eq!(
        Look::at(env)?.get("global/orphaned_sessions")?,
        0,
        "sessions of nobody"
    );
    Ok(())
}

/// Binds the driver anew, so that nothing has been counted of its queues.
fn anew(env: &Env) -> Result<()> {
    let address = env.address()?;
    pci::unbind(&address)?;
    pci::bind(&address)
}

fn times(env: &Env) -> Result<()> {
    // What flushes sessions when the driver is bound takes one of the queues.
    env.control()?
        .inject(json!({ "fault": "delay", "class": "hsm", "ms": 60 }))?;
    anew(env)?;
    let device = env.open()?;
    for _ in 0..4 {
        hsm::api_revisions(&device)?;
    }
    let look = Look::at(env)?;
    for (path, count) in &look.0 {
        let Some(queue) = path.strip_suffix("/total_ios_completed_by_hw") else {
            continue;
        };
        let time = |name| look.get(&format!("{queue}/{name}_time_to_complete_io"));
        let (shortest, mean, longest) = (time("min")?, time("avg")?, time("max")?);
        if *count == 0 {
            check_eq!((shortest, mean, longest), (0, 0, 0), "times of {queue}");
            continue;
        }
        ensure!(
            shortest <= mean && mean <= longest,
            "{queue}: {shortest}, {mean}, {longest}"
        );
        ensure!(
            shortest >= 55_000_000,
            "{queue}: a command took {shortest} ns"
        );
        ensure!(
            mean < 3_000_000_000,
            "{queue}: commands took {mean} ns in the mean"
        );
    }
    env.control()?.clear_faults()?;
    // More nanoseconds than 32 bits hold.
    env.control()?
        .inject(json!({ "fault": "delay", "class": "hsm", "ms": 4400, "count": 1 }))?;
    hsm::api_revisions(&device)?;
    let look = Look::at(env)?;
    let times = look.0.iter();
    let longest = times
        .filter(|(path, _)| path.ends_with("/max_time_to_complete_io"))
        .map(|(_, ns)| *ns)
        .max();
    ensure!(
        longest > Some(4_350_000_000),
        "the longest time is {longest:?} ns"
    );
    env.control()?.clear_faults()
}

/// Returns where the histogram of a queue is, in debugfs.
fn path_of_histogram(queue: &str) -> Result<PathBuf> {
    const DEBUGFS: &str = "/sys/kernel/debug";
    match mount(
        Some("debugfs"),
        DEBUGFS,
        Some("debugfs"),
        MsFlags::empty(),
        None::<&str>,
    ) {
        Ok(()) | Err(Errno::EBUSY) => {}
        Err(error) => return Err(error).context(DEBUGFS),
    }
    Ok(format!("{DEBUGFS}/azihsm0/latency/{queue}").into())
}

fn histogram_of(queue: &str) -> Result<Vec<(u64, u64)>> {
    let text = fs::read_to_string(path_of_histogram(queue)?)?;
    text.lines()
        .map(|line| {
            let (start, count) = line.split_once(' ').context("no space")?;
            Ok((start.parse()?, count.parse()?))
        })
        .collect()
}

fn histogram(env: &Env) -> Result<()> {
    anew(env)?;
    let device = env.open()?;
    for _ in 0..50 {
        hsm::api_revisions(&device)?;
    }
    env.control()?
        .inject(json!({ "fault": "delay", "class": "hsm", "ms": 60, "count": 1 }))?;
    hsm::api_revisions(&device)?;
    let look = settled(env)?;
    let mut slow = 0;
    for path in look.0.keys() {
        let Some(queue) = path.strip_suffix("/num_level1_aborts") else {
            continue;
        };
        let histogram = histogram_of(queue)?;
        let count: u64 = histogram.iter().map(|(_, count)| count).sum();
        let completed = look.get(&format!("{queue}/total_ios_completed_by_hw"))?;
        check_eq!(count, completed, "commands of {queue}");
        for (start, count) in &histogram {
            ensure!(
                *start == 0 || (start.is_power_of_two() && *start >= 1024),
                "a bucket from {start}"
            );
            // 60 ms are between 2^25 and 2^26 ns.
            if *start >= 1 << 25 {
                slow += count;
            }
        }
        for (bucket, name) in [(histogram.first(), "min"), (histogram.last(), "max")] {
            let time = look.get(&format!("{queue}/{name}_time_to_complete_io"))?;
            let start = bucket.map_or(0, |(start, _)| *start);
            ensure!(
                start <= time && (time < 1024 || time < start * 2),
                "{queue}: {name} is {time}, in the bucket from {start}"
            );
        }
    }
    ensure!(slow >= 1, "no command took 60 ms");
    env.control()?.clear_faults()
}

fn rate(env: &Env) -> Result<()> {
    let top = directory(env)?;
    let rate = || -> Result<u64> {
        let mut sum = 0;
        for queue in ["cp_sq1", "cp_sq2"] {
            let text = fs::read_to_string(top.join(queue).join("completions_per_sec"))?;
            sum += text.trim().parse::<u64>()?;
        }
        Ok(sum)
    };
    let stop = AtomicBool::new(false);
    let device = env.open()?;
    thread::scope(|scope| -> Result<()> {
        let worker = scope.spawn(|| -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                hsm::api_revisions(&device)?;
                thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        });
        // Reading does not begin anything anew.
        let begin = Instant::now();
        let mut before = 0;
        loop {
            let now = rate()?;
            if now != 0 && now == before {
                break;
            }
            before = now;
            ensure!(begin.elapsed() < SOON, "no two readers see the same");
        }
        stop.store(true, Ordering::Relaxed);
        worker.join().expect("does not panic")?;
        // It is at most 100, but the interval is known by the tick only.
        ensure!(before <= 130, "{before} a second, of at most 100");
        Ok(())
    })?;
    let begin = Instant::now();
    while rate()? != 0 {
        ensure!(begin.elapsed() < SOON, "{} a second of none", rate()?);
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn lost(env: &Env) -> Result<()> {
    let device = env.open()?;
    let before = settled(env)?;
    env.control()?
        .inject(json!({ "fault": "drop_completion", "class": "hsm", "count": 1 }))?;
    thread::scope(|scope| -> Result<()> {
        let waiter = scope.spawn(|| {
            let mut response = [0; 1024];
            device.hsm_command(Flow::None, &hsm::get_api_rev(), &mut response)
        });
        wait_pending(env, 1)?;
        let begin = Instant::now();
        ensure!(
            waiter.join().expect("does not panic").is_err(),
            "it was completed"
        );
        ensure!(begin.elapsed() < LOST, "it took {:?}", begin.elapsed());
        Ok(())
    })?;
    // The waiter is told before the queue is there again.
    let begin = Instant::now();
    while more(&before, &Look::at(env)?, "admin/num_cpqs_created")? == 0 {
        ensure!(begin.elapsed() < SOON, "the queue was not created anew");
        thread::sleep(Duration::from_millis(10));
    }
    let after = settled(env)?;
    check_more(
        &before,
        &after,
        &[
            ("global/total_cmds_aborted", 1),
            ("global/total_lvl1_aborts", 1),
            ("global/total_lvl2_aborts", 0),
            ("admin/num_q_delete_cmds", 1),
            ("admin/num_cpqs_created", 1),
            ("admin/num_fpqs_created", 0),
        ],
    )?;
    for name in ["total_ios_timedout", "num_level1_aborts"] {
        check_eq!(after.sum("cp", name) - before.sum("cp", name), 1, "{name}");
        check_eq!(
            after.sum("fp", name),
            before.sum("fp", name),
            "{name} of AES"
        );
    }
    hsm::api_revisions(&device)?;
    Ok(())
}

fn reset(env: &Env) -> Result<()> {
    let device = env.open()?;
    hsm::api_revisions(&device)?;
    let before = settled(env)?;
    device
        .reset(ResetKind::Controller)
        .map_err(|error| error.errno)?;
    device
        .reset(ResetKind::Subsystem)
        .map_err(|error| error.errno)?;
    let after = settled(env)?;
    check_more(
        &before,
        &after,
        &[
            ("global/total_lvl2_aborts", 2),
            ("recovery/resets_requested", 2),
            ("recovery/resets_fault", 0),
            ("recovery/resets_failed", 0),
            ("admin/num_cpqs_created", 2 * before.queues("cp")),
            ("admin/num_fpqs_created", 2 * before.queues("fp")),
            ("global/total_lvl1_aborts", 0),
        ],
    )?;
    // None began anew.
    for name in before.0.keys().filter(|name| name.contains("total_")) {
        more(&before, &after, name)?;
    }
    check_eq!(state(env)?, "running\n", "state");
    Ok(())
}

fn reset_load(env: &Env) -> Result<()> {
    let crowd = Crowd::start(env, Plan::MIXED)?;
    let device = env.open()?;
    let mut control = env.control()?;
    let resets = "recovery/resets_requested";
    let look = || Look::of(env, |name| name.contains("total_") || name == resets);
    for _ in 0..3 {
        crowd.wait_busy()?;
        // However slow this machine is, the device has some when the reset comes.
        control.set_latencies(1_000_000)?;
        let before = look()?;
        device
            .reset(ResetKind::Controller)
            .map_err(|error| error.errno)?;
        control.set_latencies(crowd::SLOW_US)?;
        crowd.rekey(env)?;
        crowd.wait_answers(20, SOON)?;
        let after = look()?;
        for name in before.0.keys() {
            more(&before, &after, name)?;
        }
        check_eq!(more(&before, &after, resets)?, 1, "resets");
    }
    crowd.stop(env, SOON)?;
    let look = settled(env)?;
    ensure!(
        look.get("global/total_cmds_aborted")? > 0,
        "no command was ended by a reset"
    );
    let (held, orphaned) = (
        look.get("global/open_sessions")?,
        look.get("global/orphaned_sessions")?,
    );
    check_eq!((held, orphaned), (0, 0), "sessions");
    health::check_well(env)
}

fn crash(env: &Env) -> Result<()> {
    let before = settled(env)?;
    env.control()?.inject(json!({ "fault": "crash" }))?;
    let begin = Instant::now();
    while more(&before, &Look::at(env)?, "recovery/resets_fault")? == 0 {
        ensure!(begin.elapsed() < SOON, "it was not reset");
        thread::sleep(Duration::from_millis(10));
    }
    wait_state(env, "running")?;
    let after = settled(env)?;
    check_more(
        &before,
        &after,
        &[
            ("recovery/resets_fault", 1),
            ("recovery/resets_requested", 0),
            ("global/total_lvl2_aborts", 1),
        ],
    )?;
    health::check_well(env)
}

fn function_reset(env: &Env) -> Result<()> {
    let address = env.become_virtual()?;
    let before = settled(env)?;
    pci::reset(&address)?;
    wait_state(env, "running")?;
    let after = settled(env)?;
    check_more(
        &before,
        &after,
        &[
            ("recovery/resets_resumed", 1),
            ("recovery/resets_requested", 0),
            ("global/total_lvl2_aborts", 1),
        ],
    )
}

/// A device that does not stop keeps memory until it does.
fn dead(env: &Env) -> Result<()> {
    let device = env.open()?;
    let before = settled(env)?;
    let mut control = env.control()?;
    control.set("cap_to", &json!(1))?;
    control.inject(json!({ "fault": "stop_fetch" }))?;
    control.inject(json!({ "fault": "stuck_disable" }))?;
    let memory = thread::scope(|scope| -> Result<u64> {
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut response = [0; 1024];
                    device.hsm_command(Flow::None, &hsm::get_api_rev(), &mut response)
                })
            })
            .collect();
        wait_pending(env, 3)?;
        let error = device.reset(ResetKind::Controller).err();
        check_eq!(
            error.map(|error| error.errno),
            Some(azihsm_uapi::Errno::IO),
            "reset of a device that is stuck"
        );
        for waiter in waiters {
            ensure!(waiter.join().expect("does not panic").is_err(), "completed");
        }
        let look = Look::at(env)?;
        check_eq!(
            look.sum("cp", "num_cmds_pending_in_hw"),
            3,
            "commands that the device has still"
        );
        look.get("global/quarantined_bytes")
    })?;
    check_eq!(state(env)?, "dead\n", "state");
    check_eq!(memory, 3 * 4 * 4096, "bytes in quarantine");
    let look = Look::at(env)?;
    check_more(
        &before,
        &look,
        &[
            ("recovery/resets_requested", 1),
            ("recovery/resets_failed", 1),
            ("global/total_cmds_aborted", 0),
        ],
    )?;
    control.clear_faults()?;
    wait_state(env, "running")?;
    let after = settled(env)?;
    check_eq!(
        after.get("global/quarantined_bytes")?,
        0,
        "bytes in quarantine"
    );
    check_eq!(
        more(&before, &after, "global/total_cmds_aborted")?,
        3,
        "commands that were ended"
    );
    ensure!(
        more(&before, &after, "recovery/resets_retried")? >= 1,
        "it was not tried again"
    );
    Ok(())
}

fn absent(env: &Env) -> Result<()> {
    let before = settled(env)?;
    env.control()?.inject(json!({ "fault": "unreachable" }))?;
    wait_state(env, "absent")?;
    let look = Look::at(env)?;
    check_more(&before, &look, &[("recovery/absences", 1)])?;
    env.control()?
        .inject(json!({ "fault": "unreachable", "on": false }))?;
    env.control()?.clear_faults()?;
    wait_state(env, "running")?;
    let after = settled(env)?;
    check_more(
        &before,
        &after,
        &[("recovery/absences", 1), ("recovery/resets_returned", 1)],
    )
}

/// Events of the kernel.
struct Events(OwnedFd);

impl Events {
    /// Listens from now on.
    fn listen() -> Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(10, 0))?;
        Ok(Self(socket))
    }

    /// The next change of the function, as state and cause.
    fn next(&self, address: &str) -> Result<(String, Option<String>)> {
        loop {
            let mut buffer = [0; 8192];
            let len = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())
                .context("no event came")?;
            let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
            let value = |name: &str| {
                text.split('\0')
                    .filter_map(|line| line.split_once('='))
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| value.to_owned())
            };
            if value("ACTION").as_deref() != Some("change")
                || value("PCI_SLOT_NAME").as_deref() != Some(address)
            {
                continue;
            }
            check_eq!(value("SUBSYSTEM").as_deref(), Some("pci"), "subsystem");
            check_eq!(value("DRIVER").as_deref(), Some("azihsm"), "driver");
            let state = value("AZIHSM_STATE").context("an event without a state")?;
            return Ok((state, value("AZIHSM_CAUSE")));
        }
    }

    fn expect(&self, address: &str, state: &str, cause: Option<&str>) -> Result<()> {
        let expected = (state.to_owned(), cause.map(str::to_owned));
        check_eq!(self.next(address)?, expected, "event");
        Ok(())
    }

    fn expect_none(&self, address: &str) -> Result<()> {
        setsockopt(&self.0, ReceiveTimeout, &TimeVal::new(1, 0))?;
        if let Ok(event) = self.next(address) {
            bail!("one more event: {event:?}");
        }
        Ok(())
    }
}

fn events(env: &Env) -> Result<()> {
    let address = env.become_virtual()?;
    let device = env.open()?;
    let events = Events::listen()?;
    device
        .reset(ResetKind::Controller)
        .map_err(|error| error.errno)?;
    events.expect(&address, "recovering", Some("requested"))?;
    events.expect(&address, "running", Some("requested"))?;
    pci::reset(&address)?;
    events.expect(&address, "recovering", None)?;
    events.expect(&address, "running", Some("resumed"))?;
    env.control()?.inject(json!({ "fault": "crash" }))?;
    events.expect(&address, "recovering", Some("fault"))?;
    events.expect(&address, "running", Some("fault"))?;
    events.expect_none(&address)?;
    health::wait_serving(env, SOON)?;
    Ok(())
}

fn unbound(env: &Env) -> Result<()> {
    let address = env.address()?;
    let path = directory(env)?.join("global/total_submissions");
    let mut file = File::open(&path)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    ensure!(text.ends_with('\n'), "{text:?}");
    for bound in [false, true] {
        if bound {
            pci::bind(&address)?;
        } else {
            pci::unbind(&address)?;
            ensure!(!path.exists(), "the file is still there");
        }
        let error = file.read_at(&mut [0; 64], 0).err();
        let errno = error.and_then(|error| error.raw_os_error());
        check_eq!(errno, Some(libc::ENODEV), "reading, bound again: {bound}");
    }
    Ok(())
}

/// What is called when the file is closed is in the module.
fn keeps_module(env: &Env) -> Result<()> {
    let address = env.address()?;
    let mut file = File::open(path_of_histogram("cp_sq1")?)?;
    file.read_to_string(&mut String::new())?;
    pci::unbind(&address)?;
    let error = file.read_at(&mut [0; 64], 0).err();
    let errno = error.and_then(|error| error.raw_os_error());
    check_eq!(errno, Some(libc::EIO), "reading, unbound");
    check_eq!(
        module::unload(),
        Err(Errno::EAGAIN),
        "unloading while it is open"
    );
    drop(file);
    module::unload().context("unloading when it is closed")?;
    module::load(&env.module)?;
    health::check_well(env)
}

/// Reads whatever there is, until `stop`; returns how often.
fn read_all(top: &Path, stop: &AtomicBool) -> u64 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        // Any of it may be gone by now.
        let mut directories = vec![top.to_owned(), "/sys/kernel/debug/azihsm0/latency".into()];
        while let Some(directory) = directories.pop() {
            for path in list(&directory).unwrap_or_default() {
                if path.is_dir() {
                    directories.push(path);
                } else if fs::read_to_string(path).is_ok() {
                    count += 1;
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    count
}

fn readers(env: &Env) -> Result<()> {
    let address = env.address()?;
    let top = directory(env)?;
    let stop = AtomicBool::new(false);
    // So that there is something in debugfs.
    histogram_of("cp_sq1")?;
    thread::scope(|scope| -> Result<()> {
        let readers: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| read_all(&top, &stop)))
            .collect();
        let users: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(device) = Device::open("/dev/azihsm0") else {
                            continue;
                        };
                        while hsm::api_revisions(&device).is_ok() {
                            if stop.load(Ordering::Relaxed) {
                                break;
                            }
                        }
                    }
                })
            })
            .collect();
        let cycles = (|| {
            for _ in 0..8 {
                thread::sleep(Duration::from_millis(100));
                pci::unbind(&address)?;
                thread::sleep(Duration::from_millis(20));
                pci::bind(&address)?;
            }
            Ok::<_, anyhow::Error>(())
        })();
        stop.store(true, Ordering::Relaxed);
        for user in users {
            user.join().expect("does not panic");
        }
        let mut count = 0;
        for reader in readers {
            count += reader.join().expect("does not panic");
        }
        cycles?;
        println!("# {count} files were read");
        ensure!(count > 300, "only {count} files were read");
        Ok(())
    })?;
    settled(env)?;
    health::check_well(env)
}

fn leak(env: &Env) -> Result<()> {
    let address = env.address()?;
    check_no_growth(10, 10, || {
        Look::at(env)?;
        histogram_of("cp_sq1")?;
        pci::unbind(&address)?;
        ensure!(
            !Path::new("/sys/kernel/debug/azihsm0").exists(),
            "the histograms are still there"
        );
        pci::bind(&address)
    })
}

fn descriptors(env: &Env) -> Result<()> {
    let device = env.open()?;
    let describe = || -> Result<BTreeMap<String, String>> {
        let path = format!("/proc/self/fdinfo/{}", device.as_fd().as_raw_fd());
        let text = fs::read_to_string(path)?;
        let lines = text.lines().filter_map(|line| line.split_once(":\t"));
        let ours = lines.filter(|(name, _)| name.starts_with("azihsm-"));
        Ok(ours
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    };
    let expected = |session: Option<u16>, commands: u32| -> BTreeMap<String, String> {
        let session = session.map(|id| ("azihsm-session", id.to_string()));
        [
            ("azihsm-hsm-commands", commands.to_string()),
            ("azihsm-aes-commands", "0".to_owned()),
        ]
        .into_iter()
        .chain(session)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    };
    check_eq!(describe()?, expected(None, 0), "new descriptor");
    hsm::api_revisions(&device)?;
    check_eq!(describe()?, expected(None, 1), "after a command");
    let before = describe()?["azihsm-hsm-commands"].parse::<u32>()?;
    let session = hsm::open_session(&device)?;
    let now = describe()?;
    check_eq!(now["azihsm-session"], session.id.to_string(), "session");
    let commands = now["azihsm-hsm-commands"].parse::<u32>()?;
    ensure!(commands > before, "opening a session is no command");
    hsm::close_session(&device, session.id)?;
    ensure!(
        !describe()?.contains_key("azihsm-session"),
        "a session is left"
    );
    Ok(())
}

fn parameters(env: &Env) -> Result<()> {
    let mut log = azihsm_guest::kmsg::KernelLog::end()?;
    module::unload().context("delete_module")?;
    module::load_with(
        &env.module,
        c"log_mask=0xff num_hsm_slots=1 num_aes_slots=100000 abort_timeout_in_sec=0",
    )?;
    for message in log.read()? {
        ensure!(
            !message.text.contains("unknown parameter"),
            "{}",
            message.text
        );
    }
    // Each queue has one slot at least, and not more than the device allows.
    for _ in 0..10 {
        hsm::api_revisions(&env.open()?)?;
    }
    let look = settled(env)?;
    ensure!(
        look.get("global/total_completions")? >= 10,
        "nothing was done"
    );
    env.reload()
}
