// SPDX-License-Identifier: GPL-2.0
//! Each allocation fails once, and each access to a caller's memory, one at a time:
//! nothing is left of what failed, and the next attempt succeeds.
//!
//! A kernel with failure injection counts for one thread what could fail, and has
//! the `n`th fail.  What the kernel's threads do for the driver, and what is done to
//! map memory for the device, is told by the code that is on the stack.

use crate::check_eq;
use crate::groups::mgmt;
use crate::health;
use crate::runner::Env;
use crate::runner::Skip;
use crate::runner::Test;
use crate::scene::AesScene;
use crate::scene::HsmScene;
use crate::scene::STALE;
use crate::usage::LeakFinder;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::hsm::Session;
use azihsm_guest::module;
use azihsm_guest::pci;
use azihsm_guest::sys;
use azihsm_guest::sys::Child;
use azihsm_mbor::Operation;
use azihsm_uapi::abi;
use azihsm_uapi::abi::ext;
use azihsm_uapi::management_nodes;
use azihsm_uapi::Device;
use azihsm_uapi::Errno;
use azihsm_uapi::Flow;
use azihsm_uapi::Management;
use azihsm_uapi::ResetKind;
use nix::libc;
use serde_json::json;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use zerocopy::FromZeros;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

/// What can be made to fail.
const KINDS: [&str; 2] = ["failslab", "fail_page_alloc"];

/// Most points of failure that one thing is expected to have.
const MOST: u32 = 10_000;

/// More than the code of the driver has.
const CODE: u64 = 4 << 20;

/// How long the driver may need for another attempt at a reset that failed.
const BACK: Duration = Duration::from_secs(30);

/// What the driver may say when there is no memory, and the kernel of what it does for
/// the driver.
const COMPLAINTS: &[&str] = &[
    "cannot",
    "no MSI-X vectors",
    "recovered",
    "queue",
    "failed",
    "Failed",
    "out of free dentries",
];

/// The same of a device that is not there for a while.
const AWAY: &[&str] = &["cannot", "recovered", "does not answer any more"];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    let test = |name: &str, body: fn(&Env) -> Result<()>| {
        Test::new(format!("starve/{name}"), body)
            .seconds(900)
            .may_warn(COMPLAINTS)
    };
    vec![
        test("open", open).takes(10),
        test("device-info", info).takes(5),
        test("sessions", sessions).takes(20),
        test("hsm-command", hsm_command).takes(10),
        test("aes-commands", aes_commands).takes(30),
        test("aes-mapping", aes_mapping).takes(30),
        test("reset", reset).takes(20),
        test("recovery-from-a-reset", |env| {
            recovery(env, asked_for, Memory::Needed)
        })
        .takes(20),
        test("recovery-from-a-fault", |env| {
            recovery(env, crashed, Memory::Needed)
        })
        .takes(200)
        .long(),
        test("recovery-from-absence", |env| {
            recovery(env, |env| away(env, "gone"), Memory::Needed)
        })
        .takes(300)
        .may_warn(AWAY)
        .long(),
        test("recovery-from-a-broken-link", |env| {
            recovery(env, |env| away(env, "unreachable"), Memory::Needed)
        })
        .takes(300)
        .may_warn(AWAY)
        .long(),
        test("recovery-of-a-queue", |env| {
            recovery(env, overdue, Memory::NotNeeded)
        })
        .takes(30),
        test("recovery-of-a-session", |env| {
            recovery(env, orphaned, Memory::NotNeeded)
        })
        .takes(10),
        test("bind-some", |env| bind(env, 17)).takes(40),
        test("bind-all", |env| bind(env, 1))
            .takes(1200)
            .seconds(3600)
            .long(),
        test("bind-some-mapping", |env| bind_mapping(env, 3)).takes(60),
        test("bind-all-mapping", |env| bind_mapping(env, 1))
            .takes(600)
            .seconds(3600)
            .long(),
        test("management-open", management_open).card(2).takes(10),
        test("management-ioctls", management_ioctls)
            .card(2)
            .takes(5),
        test("virtual-functions", virtual_functions)
            .card(2)
            .takes(20)
            .spoils(),
        test("bind-some-physical", |env| bind_physical(env, 17))
            .card(2)
            .takes(60)
            .spoils(),
        test("bind-all-physical", |env| bind_physical(env, 1))
            .card(2)
            .takes(1200)
            .seconds(3600)
            .spoils()
            .long(),
    ]
}

/// Functions of the kernel that give up with a warning, for good or when something
/// else is done later, if they get no memory.
const DMA_DEBUG: &str = "add_dma_entry";
const PROC: &str = "__proc_create";

/// Functions of the kernel that map memory for a device behind an IOMMU: that of
/// users, and what the driver allocates for it.
const MAP: &str = "iommu_dma_map_sg";
const MAP_OWN: &str = "iommu_dma_alloc";

/// From where to where code is.
type Extent = (u64, u64);

/// Any code.
const ANYWHERE: Extent = (0, u64::MAX);

/// Sets what fails, and how: also what may wait for memory, but only `within` some
/// code and nothing in `spared`.
fn prepare(within: Extent, spared: &str) -> Result<()> {
    // A test that took too long may have left it on.
    Workers::set(0)?;
    for kind in KINDS {
        let dir = Path::new("/sys/kernel/debug").join(kind);
        if !dir.exists() {
            return Err(Skip("the kernel does not inject failures").into());
        }
        let set = |name: &str, value: &str| {
            let path = dir.join(name);
            match path.exists() {
                true => fs::write(&path, value).with_context(|| format!("{}", path.display())),
                false => Ok(()),
            }
        };
        set("ignore-gfp-wait", "N")?;
        set("ignore-gfp-highmem", "N")?;
        set("min-order", "0")?;
        set("verbose", "0")?;
        set("probability", "0")?;
        let (start, end) = extent(spared)?;
        set("reject-start", &format!("{start:#x}"))?;
        set("reject-end", &format!("{end:#x}"))?;
        restrict(&dir, within)?;
    }
    let usercopy = Path::new("/sys/kernel/debug/fail_usercopy");
    if usercopy.exists() {
        fs::write(usercopy.join("verbose"), "0")?;
        restrict(usercopy, within)?;
    }
    Ok(())
}

/// Has only what is done `within` some code fail.
fn restrict(kind: &Path, within: Extent) -> Result<()> {
    if !kind.join("require-start").exists() {
        return Err(Skip("the kernel does not look at stacks").into());
    }
    fs::write(kind.join("stacktrace-depth"), "32")?;
    fs::write(kind.join("require-start"), format!("{:#x}", within.0))?;
    fs::write(kind.join("require-end"), format!("{:#x}", within.1))?;
    Ok(())
}

/// Where the driver is.
fn driver() -> Result<Extent> {
    let text = fs::read_to_string("/sys/module/azihsm/sections/.text")?;
    let text = u64::from_str_radix(text.trim().trim_start_matches("0x"), 16)?;
    Ok((text, text + CODE))
}

/// Where a function of the kernel begins and ends.
fn extent(name: &str) -> Result<Extent> {
    let symbols = fs::read_to_string("/proc/kallsyms")?;
    let mut start = None;
    let mut end = u64::MAX;
    for line in symbols.lines() {
        let mut words = line.split(' ');
        let address = u64::from_str_radix(words.next().unwrap_or_default(), 16)?;
        match (words.nth(1) == Some(name), start) {
            (true, _) => (start, end) = (Some(address), u64::MAX),
            (false, Some(start)) if address > start => end = end.min(address),
            _ => {}
        }
    }
    Ok((start.with_context(|| format!("no function {name}"))?, end))
}

/// Each thing that can fail, and how often it does.
const ALL: (usize, usize) = (1, 3);

/// Has what some threads do fail.
trait Starve {
    /// Runs `attempt`, of which the `nth` thing that can fail does.  Returns whether
    /// there were as many.
    fn run<T>(&mut self, nth: u32, attempt: impl FnOnce() -> T) -> Result<(T, bool)>;

    /// Has every `step`th thing that can fail in `attempt` do so, `times` over;
    /// `after` is told the result each time.  Returns how many there were.
    ///
    /// What is lost once the kernel may not find, for an old pointer that somewhere
    /// is left to it.
    fn each<T>(
        &mut self,
        (step, times): (usize, usize),
        mut attempt: impl FnMut() -> T,
        mut after: impl FnMut(T) -> Result<()>,
    ) -> Result<u32> {
        for (count, nth) in (0..).zip((1..MOST).step_by(step)) {
            // What is there once may not be needed the next time.
            let mut any = false;
            for _ in 0..times {
                let (result, failed) = self.run(nth, &mut attempt)?;
                after(result).with_context(|| format!("failure {nth}"))?;
                any |= failed;
            }
            if !any {
                return Ok(count);
            }
        }
        bail!("there is no end to what can fail")
    }
}

/// Has what this thread does fail.
struct Starver(File);

impl Starver {
    fn new(spared: &str) -> Result<Self> {
        Self::within(ANYWHERE, spared)
    }

    fn within(extent: Extent, spared: &str) -> Result<Self> {
        prepare(extent, spared)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth")?;
        Ok(Self(file))
    }
}

impl Starve for Starver {
    fn run<T>(&mut self, nth: u32, attempt: impl FnOnce() -> T) -> Result<(T, bool)> {
        self.0.write_all_at(nth.to_string().as_bytes(), 0)?;
        let result = attempt();
        let mut left = [0; 16];
        // The kernel copies the answer out, which may be what fails.
        let failed = match self.0.read_at(&mut left, 0) {
            Ok(count) => std::str::from_utf8(&left[..count])?.trim() == "0",
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => false,
            Err(error) => return Err(error.into()),
        };
        // As is what is copied in.
        for _ in 0..3 {
            if self.0.write_all_at(b"0", 0).is_ok() {
                return Ok((result, failed));
            }
        }
        bail!("failures go on")
    }
}

/// Has what the kernel's workers do for the driver fail, in each of them.
struct Workers;

impl Workers {
    fn new() -> Result<Self> {
        prepare(driver()?, DMA_DEBUG)?;
        Ok(Self)
    }

    /// Sets for each worker which thing fails, and returns the files that say what is
    /// left to that.
    fn set(nth: u32) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let task = entry?.path();
            // Those that are not tasks have no name, and tasks may end.
            let Ok(name) = fs::read_to_string(task.join("comm")) else {
                continue;
            };
            let (true, Some(number)) = (name.starts_with("kworker/"), task.file_name()) else {
                continue;
            };
            let file = task.join("task").join(number).join("fail-nth");
            if fs::write(&file, nth.to_string()).is_ok() {
                files.push(file);
            }
        }
        Ok(files)
    }
}

impl Starve for Workers {
    fn run<T>(&mut self, nth: u32, attempt: impl FnOnce() -> T) -> Result<(T, bool)> {
        let files = Self::set(nth)?;
        ensure!(!files.is_empty(), "there are no workers");
        let result = attempt();
        let left = |file| fs::read_to_string(file).unwrap_or_default();
        let failed = files.iter().any(|file| left(file).trim() == "0");
        Self::set(0)?;
        Ok((result, failed))
    }
}

/// How an ioctl ended: its result, and the extended status, unless its output was
/// not written.
type End = (Result<i32, Errno>, Option<u32>);

/// Caller's structures that could not be read, or not be written.
const NO_STRUCTURE: End = (Err(Errno::FAULT), None);

const DONE: End = (Ok(0), Some(ext::OK));

/// Ends of HSM commands, of which nothing needs memory (abi.rst 3.2, rows 1, 3, 18,
/// 21 and 22).
const OF_HSM: &[End] = &[
    NO_STRUCTURE,
    (Err(Errno::INVAL), Some(ext::HSM_SRC)),
    (Err(Errno::INVAL), Some(ext::HSM_DST)),
    DONE,
];

const NO_MEMORY_FOR_AES: End = (Err(Errno::NOMEM), Some(ext::AES_NOMEM));

/// Ends of AES commands (abi.rst 3.5, rows 1, 3, 24, 25 and 30).
const OF_AES: &[End] = &[
    NO_STRUCTURE,
    NO_MEMORY_FOR_AES,
    (Err(Errno::FAULT), Some(ext::AES_NOMEM)),
    DONE,
];

const NO_MEMORY_FOR_RESET: End = (Err(Errno::NOMEM), Some(abi::RESET_FAILED));

/// Ends of resets, with their status (abi.rst 3.4, rows 1 and 8, and below).
const OF_RESET: &[End] = &[
    NO_STRUCTURE,
    NO_MEMORY_FOR_RESET,
    (Ok(0), Some(abi::RESET_OK)),
];

/// How many ioctls ended how: by the number of the error or 0, and the status.
#[derive(Default)]
struct Ends(BTreeMap<(i32, Option<u32>), u32>);

impl Ends {
    /// Counts one, and makes sure that it may be so.
    fn note(&mut self, end: End, allowed: &[End]) -> Result<()> {
        ensure!(allowed.contains(&end), "{end:?}");
        *self.0.entry(Self::key(end)).or_default() += 1;
        Ok(())
    }

    fn count(&self, end: End) -> u32 {
        self.0.get(&Self::key(end)).copied().unwrap_or(0)
    }

    fn key((result, status): End) -> (i32, Option<u32>) {
        let errno = result.map_or_else(|error| error.raw_os_error(), |_| 0);
        (errno, status)
    }
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |(&(errno, status), count): (&(i32, Option<u32>), &u32)| match status {
            Some(status) => format!("{count} with errno {errno}, status {status}"),
            None => format!("{count} with errno {errno} and nothing written"),
        };
        let list: Vec<_> = self.0.iter().map(text).collect();
        f.write_str(&list.join(", "))
    }
}

/// What says how an ioctl ended, unless all of `output` is stale.
fn said(output: &(impl IntoBytes + Immutable), status: u32) -> Option<u32> {
    let stale = output.as_bytes().iter().all(|&byte| byte == STALE);
    (!stale).then_some(status)
}

/// Sends a command; its output was stale before.
fn send_hsm(scene: &mut HsmScene, device: &Device) -> End {
    scene.cmd.output.as_mut_bytes().fill(STALE);
    let result = scene.send(device);
    (result, said(&scene.cmd.output, scene.cmd.output.ext))
}

/// The same for AES.
fn send_aes(scene: &mut AesScene, device: &Device) -> End {
    scene.cmd.output.as_mut_bytes().fill(STALE);
    let result = scene.send(device);
    (result, said(&scene.cmd.output, scene.cmd.output.ext))
}

/// Says at how many points something failed.
fn tell(what: &str, points: u32) -> Result<()> {
    println!("# {what}: {points} failures");
    ensure!(points > 0, "nothing failed in {what}");
    Ok(())
}

/// Watches what the kernel has lost.
struct Watch(Option<LeakFinder>, health::Held);

impl Watch {
    fn begin() -> Result<Self> {
        Ok(Self(LeakFinder::new()?, health::Held::measure()?))
    }

    /// Makes sure that nothing is lost.
    fn end(self, env: &Env) -> Result<()> {
        health::check_well(env)?;
        self.1.check_same_soon()?;
        check_leaks(self.0)
    }
}

fn open(env: &Env) -> Result<()> {
    let mut starver = Starver::new(DMA_DEBUG)?;
    let watch = Watch::begin()?;
    let points = starver.each(
        ALL,
        || File::options().read(true).write(true).open("/dev/azihsm0"),
        |result| match result {
            Err(error) => {
                let errno = error.raw_os_error();
                // The path is copied in, too.
                ensure!(
                    matches!(errno, Some(libc::ENOMEM | libc::EFAULT)),
                    "{error}"
                );
                Ok(())
            }
            Ok(_) => Ok(()),
        },
    )?;
    tell("opening", points)?;
    watch.end(env)
}

fn info(env: &Env) -> Result<()> {
    let mut starver = Starver::new(DMA_DEBUG)?;
    let watch = Watch::begin()?;
    let device = env.open()?;
    let points = starver.each(
        ALL,
        || device.info().map(drop),
        |result| match result {
            Ok(()) => Ok(()),
            Err(error) => {
                let text = format!("{error:#}");
                ensure!(
                    text.contains("EFAULT") || text.contains("Bad address"),
                    "{text}"
                );
                Ok(())
            }
        },
    )?;
    drop(device);
    tell("device info", points)?;
    watch.end(env)
}

/// A session is opened and closed; whatever fails, its descriptor takes it along.
fn sessions(env: &Env) -> Result<()> {
    let mut starver = Starver::new(DMA_DEBUG)?;
    let watch = Watch::begin()?;
    let mut ends = Ends::default();
    let mut points = 0;
    for nth in 1..MOST {
        let device = env.open()?;
        let mut scene = HsmScene::new(Flow::Open, &hsm::open_request())?;
        let (end, failed) = starver.run(nth, || send_hsm(&mut scene, &device))?;
        ends.note(end, OF_HSM)?;
        if end == DONE {
            check_eq!(scene.cmd.output.status, 0, "device status");
        }
        drop(device);
        health::check_no_sessions(env)?;
        if !failed {
            break;
        }
        points += 1;
    }
    for nth in 1..MOST {
        let device = env.open()?;
        let session = hsm::open_session(&device)?;
        let request = hsm::plain(Operation::CLOSE_SESSION, Some(session.id));
        let mut scene = HsmScene::new(Flow::Close(session.id), &request)?;
        let (end, failed) = starver.run(nth, || send_hsm(&mut scene, &device))?;
        ends.note(end, OF_HSM)?;
        drop(device);
        health::check_no_sessions(env)?;
        if !failed {
            break;
        }
        points += 1;
    }
    println!("# {ends}");
    tell("opening and closing a session", points)?;
    watch.end(env)
}

fn hsm_command(env: &Env) -> Result<()> {
    let mut starver = Starver::new(DMA_DEBUG)?;
    let watch = Watch::begin()?;
    let device = env.open()?;
    let mut scene = HsmScene::get_api_rev()?;
    let mut ends = Ends::default();
    let points = starver.each(
        ALL,
        || send_hsm(&mut scene, &device),
        |end| ends.note(end, OF_HSM),
    )?;
    scene.send_well(&device)?;
    drop(device);
    println!("# {ends}");
    tell("an HSM command", points)?;
    watch.end(env)
}

/// Texts that go through a slot, through buffers, and that are accessed in place.
fn aes_commands(env: &Env) -> Result<()> {
    let mut starver = Starver::new(DMA_DEBUG)?;
    let watch = Watch::begin()?;
    let device = env.open()?;
    let session: Session = hsm::open_session(&device)?;
    let mut control = env.control()?;
    let mut key = |kind, byte| control.load_key(kind, &[byte; 32], session);
    let gcm = key(KeyKind::Gcm, 1)?;
    let xts = (key(KeyKind::Xts, 2)?, key(KeyKind::Xts, 3)?);
    let mut ends = Ends::default();
    let mut points = 0;
    for length in [16, 4096, 100 << 10, 2 << 20] {
        let text = vec![0x5a; length];
        for mut scene in [
            AesScene::gcm(session, gcm, &text)?,
            AesScene::xts(session, xts, &text)?,
        ] {
            let each = starver
                .each(
                    ALL,
                    || send_aes(&mut scene, &device),
                    |end| ends.note(end, OF_AES),
                )
                .with_context(|| format!("{length} bytes"))?;
            println!(
                "# AES command {:#x} of {length} bytes: {each} failures",
                scene.number
            );
            points += each;
            scene.send_well(&device)?;
        }
    }
    drop(device);
    println!("# {ends}");
    ensure!(
        ends.count(NO_MEMORY_FOR_AES) > 0,
        "there was memory for all"
    );
    tell("AES commands", points)?;
    watch.end(env)
}

/// Where code of the kernel is that maps memory behind an IOMMU, if the device is
/// behind one.
fn mapping(env: &Env, function: &str) -> Result<Extent> {
    let group = pci::directory(&env.address()?).join("iommu_group/type");
    match fs::read_to_string(group) {
        Ok(kind) if kind.starts_with("DMA") => extent(function),
        _ => Err(Skip("there is no IOMMU, and mapping cannot fail").into()),
    }
}

/// Memory of users cannot be mapped: what is pinned is given back, and what is mapped
/// already of the other buffer, but nothing that is not.
fn aes_mapping(env: &Env) -> Result<()> {
    let mut starver = Starver::within(mapping(env, MAP)?, DMA_DEBUG)?;
    let watch = Watch::begin()?;
    let device = env.open()?;
    let session: Session = hsm::open_session(&device)?;
    let mut control = env.control()?;
    let mut key = |kind, byte| control.load_key(kind, &[byte; 32], session);
    let gcm = key(KeyKind::Gcm, 1)?;
    let xts = (key(KeyKind::Xts, 2)?, key(KeyKind::Xts, 3)?);
    let held = health::Held::measure()?;
    let mut ends = Ends::default();
    let mut points = 0;
    for length in [2 << 20, 7 << 20] {
        let text = vec![0x5a; length];
        for mut scene in [
            AesScene::gcm(session, gcm, &text)?,
            AesScene::xts(session, xts, &text)?,
        ] {
            // Large pages of memory are none for the IOMMU then, so that it needs tables.
            let input = &mut scene.cmd.input;
            input.src = scene.src.address(sys::PAGE);
            input.dst = scene.dst.address(sys::PAGE);
            input.src_len -= sys::PAGE as u32;
            input.dst_len = input.src_len;
            points += starver
                .each(
                    ALL,
                    || send_aes(&mut scene, &device),
                    |end| {
                        ends.note(end, &[NO_MEMORY_FOR_AES, DONE])?;
                        // What no command has any more, at once.
                        check_eq!(health::Held::measure()?, held, "memory after {end:?}");
                        Ok(())
                    },
                )
                .with_context(|| format!("{length} bytes"))?;
            scene.send_well(&device)?;
        }
    }
    drop(device);
    println!("# {ends}");
    let refused = ends.count(NO_MEMORY_FOR_AES);
    println!("# mapping: {refused} times not at all");
    ensure!(refused > 0, "no mapping failed");
    tell("mapping texts", points)?;
    watch.end(env)
}

fn reset(env: &Env) -> Result<()> {
    let mut starver = Starver::new(DMA_DEBUG)?;
    let watch = Watch::begin()?;
    let device = env.open()?;
    let mut ends = Ends::default();
    let mut arg = abi::Reset::new_zeroed();
    arg.hdr.size = size_of::<abi::Reset>() as u32;
    arg.kind = abi::RESET_CONTROLLER;
    let points = starver.each(
        ALL,
        || {
            arg.status = u32::from_ne_bytes([STALE; 4]);
            let result = sys::submit(&device, abi::IOC_RESET, &mut arg);
            (result, said(&arg.status, arg.status))
        },
        |end| {
            ends.note(end, OF_RESET)?;
            health::wait_serving(env, BACK).map(drop)
        },
    )?;
    drop(device);
    println!("# {ends}");
    ensure!(
        ends.count(NO_MEMORY_FOR_RESET) > 0,
        "there was memory for all"
    );
    tell("a reset", points)?;
    watch.end(env)
}

/// Whether something is done that needs memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Memory {
    Needed,
    NotNeeded,
}

/// What the kernel's workers do about a device, or what somebody has left, is done
/// whatever fails: each time `happen` has the reason for it come and waits for the
/// result.
fn recovery(env: &Env, happen: fn(&Env) -> Result<()>, memory: Memory) -> Result<()> {
    /// For what comes after the device serves users again.
    const REST: Duration = Duration::from_millis(200);

    let mut starver = Workers::new()?;
    let watch = Watch::begin()?;
    if memory == Memory::NotNeeded {
        let (_, failed) = starver.run(1, || asked_for(env))?;
        ensure!(failed, "no failure of a worker is seen");
        health::wait_serving(env, BACK)?;
    }
    let starts = || -> Result<Value> { Ok(env.control()?.counters()?["enables"].clone()) };
    let before = starts()?;
    let points = starver.each(
        (1, 2),
        || -> Result<()> {
            happen(env)?;
            health::wait_serving(env, BACK)?;
            thread::sleep(REST);
            Ok(())
        },
        |result| {
            result?;
            match memory {
                // Or it would be left alone for longer each time, as a device that is reset
                // again and again.
                Memory::Needed => forget(env),
                Memory::NotNeeded => Ok(()),
            }
        },
    )?;
    println!("# workers: {points} failures");
    match memory {
        Memory::Needed => ensure!(points > 0, "nothing failed"),
        Memory::NotNeeded => {
            check_eq!(points, 0, "what needs memory");
            check_eq!(starts()?, before, "starts of the device");
        }
    }
    watch.end(env)
}

/// Has the driver bound anew, which then knows nothing of earlier resets.
fn forget(env: &Env) -> Result<()> {
    let address = env.address()?;
    pci::unbind(&address)?;
    pci::bind(&address)?;
    health::wait_serving(env, BACK).map(drop)
}

fn inject(env: &Env, fault: Value) -> Result<()> {
    env.control()?.inject(fault)
}

fn asked_for(env: &Env) -> Result<()> {
    Ok(env.open()?.reset(ResetKind::Controller)?)
}

fn crashed(env: &Env) -> Result<()> {
    inject(env, json!({ "fault": "crash" }))
}

/// Waits until `is_so`.
fn wait_until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_so()? {
        ensure!(begin.elapsed() < BACK, "never {what}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The device is not there for a while.
fn away(env: &Env, fault: &str) -> Result<()> {
    let state = pci::directory(&env.address()?).join("azihsm/state");
    inject(env, json!({ "fault": fault, "on": true }))?;
    wait_until("absent", || {
        Ok(fs::read_to_string(&state)?.trim() == "absent")
    })?;
    inject(env, json!({ "fault": fault, "on": false }))
}

/// A command is forgotten, and its queue aborted.
fn overdue(env: &Env) -> Result<()> {
    let device = env.open()?;
    inject(
        env,
        json!({ "fault": "drop_command", "class": "hsm", "count": 1 }),
    )?;
    HsmScene::get_api_rev()?.send_badly(&device, Errno::AGAIN, ext::ABORTED)
}

/// Who opens a session is gone before it is open.
fn orphaned(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    let before = control.counters()?["sessions_opened"].clone();
    // Longer than it takes to notice, on a machine that is busy with others.
    control.set("hsm_latency_us", &json!(3_000_000))?;
    let mut child = Child::run(|| {
        let opened = env.open().and_then(|device| hsm::open_session(&device));
        i32::from(opened.is_err())
    })?;
    wait_until("under way", || {
        Ok(control.state()?["commands_in_flight"] != 0)
    })?;
    child.kill()?;
    check_eq!(child.wait(BACK)?, Some(-libc::SIGKILL), "end of the child");
    wait_until("opened", || {
        Ok(control.counters()?["sessions_opened"] != before)
    })?;
    control.set("hsm_latency_us", &json!(0))?;
    wait_until("flushed", || Ok(control.sessions()?.is_empty()))
}

/// Loads the module with less of everything: there is less to fail, though not less
/// of a kind.
fn load_little(env: &Env) -> Result<()> {
    module::load_with(
        &env.module,
        c"num_hsm_slots=2 num_aes_slots=2 aes_bounce_buffers=1",
    )
}

/// Binding succeeds or fails, and nothing in between; of all points of failure every
/// `step`th is tried.  `bound` is called when it has succeeded, and has it end.
/// Returns how often it was refused.
fn bind_each(
    starver: &mut Starver,
    address: &str,
    step: usize,
    mut bound: impl FnMut() -> Result<()>,
) -> Result<u32> {
    let without = health::Held::measure()?;
    let mut refused = 0;
    let mut errors: BTreeMap<i32, u32> = BTreeMap::new();
    let points = starver.each(
        (step, 1),
        || -> Option<io::Result<()>> {
            // Not the file of the module that was.
            let file = File::options()
                .write(true)
                .open("/sys/bus/pci/drivers/azihsm/bind")
                .ok()?;
            Some(file.write_all_at(address.as_bytes(), 0))
        },
        |result| {
            match result {
                Some(Ok(())) => {
                    check_eq!(pci::driver(address).as_deref(), Some("azihsm"), "driver");
                    bound()?;
                }
                Some(Err(error)) => {
                    let errno = error.raw_os_error().context("no errno")?;
                    // Not all that fails for want of memory in the kernel says so.
                    *errors.entry(errno).or_default() += 1;
                    refused += 1;
                }
                // Nothing was begun.
                None => {}
            }
            check_eq!(pci::driver(address), None, "driver");
            ensure!(!Path::new("/dev/azihsm0").exists(), "a node is left");
            check_eq!(management_nodes()?.len(), 0, "management nodes");
            without.check_same_soon()
        },
    )?;
    println!("# binding: {points} failures, of which {refused} were refused: {errors:?}");
    ensure!(refused > 0, "binding did not fail");
    Ok(refused)
}

/// Makes sure that nothing of the driver's is lost.
fn check_leaks(finder: Option<LeakFinder>) -> Result<()> {
    let leaks = match finder {
        Some(finder) => finder.leaks()?,
        None => Vec::new(),
    };
    let of_driver = leaks.iter().find(|leak| leak.contains("azihsm"));
    ensure!(of_driver.is_none(), "leak: {of_driver:?}");
    Ok(())
}

fn bind(env: &Env, step: usize) -> Result<()> {
    bind_within(env, step, ANYWHERE)
}

/// What the driver has for itself cannot be mapped.
fn bind_mapping(env: &Env, step: usize) -> Result<()> {
    bind_within(env, step, mapping(env, MAP_OWN)?)
}

fn bind_within(env: &Env, step: usize, within: Extent) -> Result<()> {
    let address = env.address()?;
    let mut starver = Starver::within(within, PROC)?;
    let finder = LeakFinder::new()?;
    module::unload().context("delete_module")?;
    load_little(env)?;
    pci::unbind(&address)?;
    bind_each(&mut starver, &address, step, || pci::unbind(&address))?;
    pci::bind(&address)?;
    health::check_well(env)?;
    check_leaks(finder)?;
    env.reload()
}

/// A physical function that another driver has left virtual ones, so that binding
/// makes a management node, too.
fn bind_physical(env: &Env, step: usize) -> Result<()> {
    const VIRTUAL: u16 = 2;
    const AUTOPROBE: &str = "/sys/bus/pci/drivers_autoprobe";

    let mut starver = Starver::new(PROC)?;
    let finder = LeakFinder::new()?;
    let address = env.address()?;
    // A driver that was bound takes the virtual functions away, and only when it is loaded anew
    // they are there again.
    let renew = || -> Result<()> {
        module::unload().context("delete_module")?;
        load_little(env)
    };
    env.control()?.set("physical", &json!(VIRTUAL))?;
    let result = mgmt::find_anew(env).and_then(|()| {
        fs::write(AUTOPROBE, "0")?;
        renew()?;
        bind_each(&mut starver, &address, step, || {
            let count = Management::open(mgmt::NODE)?.virtual_functions()?;
            check_eq!(count, VIRTUAL, "virtual functions");
            renew()
        })
    });
    fs::write(AUTOPROBE, "1")?;
    env.control()?.set("physical", &json!(0))?;
    result?;
    mgmt::find_anew(env)?;
    health::check_well(env)?;
    check_leaks(finder)
}

/// The node does what it is asked.
fn check_management() -> Result<()> {
    let node = Management::open(mgmt::NODE)?;
    check_eq!(node.virtual_functions()?, 2, "virtual functions");
    node.info()?;
    Ok(())
}

fn management_open(_: &Env) -> Result<()> {
    let mut starver = Starver::new(DMA_DEBUG)?;
    let finder = LeakFinder::new()?;
    pci::set_virtual(2)?;
    let points = starver.each(
        ALL,
        || File::options().read(true).write(true).open(mgmt::NODE),
        |result| match result.map_err(|error| error.raw_os_error()) {
            Ok(_) | Err(Some(libc::ENOMEM | libc::EFAULT)) => Ok(()),
            Err(errno) => bail!("errno {errno:?}"),
        },
    )?;
    tell("opening the management node", points)?;
    check_management()?;
    pci::set_virtual(0)?;
    check_leaks(finder)
}

/// Nothing of these needs memory but the caller's.
fn management_ioctls(env: &Env) -> Result<()> {
    const VF: u16 = 1;
    /// `struct azihsm_res_count.status`
    const OK: u32 = 0;

    let mut starver = Starver::new(DMA_DEBUG)?;
    let finder = LeakFinder::new()?;
    pci::set_virtual(2)?;
    let file = File::options().read(true).write(true).open(mgmt::NODE)?;
    let mut ends = Ends::default();
    let stale = u32::from_ne_bytes([STALE; 4]);
    let allowed = [NO_STRUCTURE, (Ok(0), Some(OK))];
    mgmt::without_driver(env, VF, || {
        for number in [abi::MGMT_IOC_SET_RES_COUNT, abi::MGMT_IOC_GET_RES_COUNT] {
            let mut arg = abi::ResCount {
                argsz: size_of::<abi::ResCount>() as u32,
                vf: VF,
                count: 2,
                status: stale,
            };
            let points = starver.each(
                ALL,
                || {
                    arg.status = stale;
                    let result = sys::submit(&file, number, &mut arg);
                    (result, said(&arg.status, arg.status))
                },
                |end| ends.note(end, &allowed),
            )?;
            check_eq!(arg.count, 2, "groups");
            tell(&format!("management ioctl {number:#x}"), points)?;
        }
        Ok(())
    })?;
    let node = Management::open(mgmt::NODE)?;
    let points = starver.each(
        ALL,
        || (node.virtual_functions(), node.info().map(drop)),
        |(count, info)| {
            ensure!(
                count
                    .as_ref()
                    .map_or_else(|e| e.errno == Errno::FAULT, |&n| n == 2),
                "{count:?}"
            );
            ensure!(
                info.map_or_else(|e| e.errno == Errno::FAULT, |()| true),
                "info"
            );
            Ok(())
        },
    )?;
    println!("# {ends}");
    tell("other management ioctls", points)?;
    drop((file, node));
    check_management()?;
    pci::set_virtual(0)?;
    check_leaks(finder)
}

/// Virtual functions come with a node, or not at all.
fn virtual_functions(_: &Env) -> Result<()> {
    let mut starver = Starver::new(PROC)?;
    let finder = LeakFinder::new()?;
    let file = File::options()
        .write(true)
        .open("/sys/bus/pci/drivers/azihsm/test_numvfs")?;
    let mut refused = 0;
    let points = starver.each(
        ALL,
        || file.write_all_at(b"2", 0),
        |result| {
            let is_there = Path::new(mgmt::NODE).exists();
            check_eq!(is_there, result.is_ok(), "whether there is a node");
            if let Err(error) = result {
                let errno = error.raw_os_error();
                ensure!(
                    matches!(errno, Some(libc::ENOMEM | libc::EFAULT)),
                    "{error}"
                );
                refused += 1;
                // It would be as it is if there were two.
                pci::set_virtual(2)?;
                ensure!(Path::new(mgmt::NODE).exists(), "functions without a node");
            }
            pci::set_virtual(0)
        },
    )?;
    ensure!(refused > 0, "nothing was refused");
    tell("giving virtual functions", points)?;
    pci::set_virtual(2)?;
    let points = starver.each(
        ALL,
        || file.write_all_at(b"0", 0),
        |result| {
            let is_there = Path::new(mgmt::NODE).exists();
            check_eq!(is_there, result.is_err(), "whether there is a node");
            pci::set_virtual(0)?;
            pci::set_virtual(2)
        },
    )?;
    pci::set_virtual(0)?;
    tell("taking virtual functions", points)?;
    check_leaks(finder)
}
