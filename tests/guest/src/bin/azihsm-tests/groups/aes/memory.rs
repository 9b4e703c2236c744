// SPDX-License-Identifier: GPL-2.0
//! All kinds of memory, and what may happen to it meanwhile.

use super::text;
use super::Fixture;
use super::BOUNCED;
use super::COPIED;
use super::GCM_KEY;
use crate::check_eq;
use crate::runner::Env;
use crate::runner::Skip;
use crate::runner::Test;
use crate::scene::AesScene;
use crate::scene::STALE;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::module;
use azihsm_guest::reference;
use azihsm_guest::served::ServedFile;
use azihsm_guest::sys;
use azihsm_guest::sys::Access;
use azihsm_guest::sys::Child;
use azihsm_guest::sys::Memory;
use azihsm_guest::sys::PAGE;
use azihsm_guest::vmstat;
use azihsm_uapi::abi;
use azihsm_uapi::abi::ext;
use azihsm_uapi::Errno;
use azihsm_uapi::ResetKind;
use nix::mount::mount;
use nix::mount::umount2;
use nix::mount::MntFlags;
use nix::mount::MsFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::memfd::MFdFlags;
use nix::unistd::pipe;
use serde_json::json;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long a command takes that something is to happen during.
const SLOW: Duration = Duration::from_millis(1500);

/// How long it may take until a command reaches the device, or a killed process
/// is gone.
const SOON: Duration = Duration::from_secs(5);

/// A length of text that is accessed in place.
const IN_PLACE: usize = BOUNCED + 50_000;

/// Lengths of text that are copied, one way and the other, and that.
const COPIED_OR_NOT: [usize; 3] = [5000, 50_000, IN_PLACE];

/// Size of a huge page.
const HUGE: usize = 2 << 20;

/// The tests.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("aes/gcm-in-place", in_place),
        Test::new("aes/overlap-harms-nothing-else", overlap),
        Test::new("aes/hole-in-16-mib-efault", hole_in_much),
        Test::new("aes/hole-before-the-tail-efault", hole_before_tail),
        Test::new("aes/input-read-only", read_only_input),
        Test::new("aes/memory-never-touched", never_touched),
        Test::new("aes/memory-of-private-files-keeps-the-file", private_file),
        Test::new("aes/memory-of-shared-files-is-the-file", shared_file),
        Test::new("aes/memory-of-read-only-files", read_only_file),
        Test::new("aes/memory-of-transparent-huge-pages", huge_pages),
        Test::new("aes/memory-that-is-none-efault", special_memory),
        Test::new("aes/fork-before", fork_before),
        Test::new("aes/fork-meanwhile", fork_meanwhile).takes(2),
        Test::new("aes/unmapped-meanwhile", unmapped_meanwhile).takes(2),
        Test::new("aes/replaced-meanwhile", replaced_meanwhile).takes(1),
        Test::new("aes/truncated-meanwhile", truncated_meanwhile).takes(1),
        Test::new("aes/more-texts-than-buffers", out_of_buffers).seconds(60),
        Test::new(
            "aes/killed-meanwhile-keeps-memory-until-the-end",
            killed_meanwhile,
        )
        .takes(2),
        Test::new(
            "aes/killed-with-a-locked-page-holds-nobody-up",
            |env: &Env| locked_page(env, "delay"),
        )
        .takes(5),
        Test::new(
            "aes/killed-with-a-locked-page-holds-no-reset-up",
            |env: &Env| locked_page(env, "drop_command"),
        )
        .takes(2),
        Test::new(
            "aes/callers-with-a-locked-page-hold-no-slots",
            locked_page_of_many,
        )
        .takes(5),
        Test::new("aes/result-in-a-file-is-written-back", written_back).takes(2),
    ]
}

/// An encryption of `plain`, and what comes of it.
fn encryption(fixture: &Fixture, plain: &[u8]) -> Result<(AesScene, Vec<u8>)> {
    let scene = fixture.gcm(plain)?;
    let (sealed, _) = reference::gcm_encrypt(&GCM_KEY, [7; 12], &[], plain)?;
    Ok((scene, sealed))
}

/// Sends an encryption of `plain`, which is at `from` already, and makes sure
/// that its result is at `to`.
fn check_between(
    fixture: &Fixture,
    plain: &[u8],
    (src, from): (&Memory, usize),
    (dst, to): (&Memory, usize),
) -> Result<()> {
    let (mut scene, sealed) = encryption(fixture, plain)?;
    scene.cmd.input.src = src.address(from);
    scene.cmd.input.dst = dst.address(to);
    scene.send_well(&fixture.device)?;
    ensure!(dst.read(to, plain.len()) == sealed, "another text");
    Ok(())
}

fn in_place(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in [
        1,
        64,
        1000,
        COPIED,
        COPIED + 1,
        COPIED + 16,
        70_001,
        BOUNCED,
        BOUNCED + 1,
        BOUNCED + 16,
    ] {
        let (mut scene, sealed) = encryption(&fixture, &text(len))?;
        scene.cmd.input.dst = scene.cmd.input.src;
        scene.send_well(&fixture.device)?;
        ensure!(
            scene.src.read(0, len) == sealed,
            "{len} bytes: another text"
        );
        scene.check_untouched()?;
    }
    Ok(())
}

/// What a destination holds that overlaps the source is undefined; everything
/// else is not.
fn overlap(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in [64, COPIED, COPIED + 16, 65_536, BOUNCED + 16] {
        let shifts = [1, 15, 16, len / 2, len - 1, PAGE, 2 * PAGE + 16];
        for shift in shifts.into_iter().filter(|&shift| shift < len) {
            for (from, to) in [(PAGE, PAGE + shift), (PAGE + shift, PAGE)] {
                for mut scene in [fixture.gcm(&text(len))?, fixture.xts(&text(len))?] {
                    let memory = Memory::new((len + shift).div_ceil(PAGE) + 2)?;
                    memory.fill(0, memory.size(), STALE);
                    memory.write(from, &text(len));
                    let before = memory.read(0, memory.size());
                    scene.cmd.input.src = memory.address(from);
                    scene.cmd.input.dst = memory.address(to);
                    scene.send_well(&fixture.device)?;
                    let after = memory.read(0, memory.size());
                    ensure!(
                        before[..to] == after[..to] && before[to + len..] == after[to + len..],
                        "{len} bytes from {from} to {to}: something else was written"
                    );
                }
            }
        }
    }
    fixture.check_gcm(&[], &text(64))
}

/// A page that is missing, or cannot be used, in a buffer of which most is there;
/// the device gets to know of none of this.
fn hole_in_much(env: &Env) -> Result<()> {
    const PAGES: usize = abi::AES_MAX_LEN / PAGE;
    let fixture = Fixture::new(env)?;
    let before = env.control()?.aes_commands()?;
    for page in [0, PAGES / 2, PAGES - 1] {
        for access in [None, Some(Access::None), Some(Access::Read)] {
            for of_output in [false, true] {
                if access == Some(Access::Read) && !of_output {
                    continue;
                }
                let mut scene = fixture.gcm(&[])?;
                scene.src = Memory::new(PAGES)?;
                scene.dst = Memory::new(PAGES)?;
                scene.cmd.input.src = scene.src.address(0);
                scene.cmd.input.dst = scene.dst.address(0);
                scene.cmd.input.src_len = abi::AES_MAX_LEN as u32;
                scene.cmd.input.dst_len = abi::AES_MAX_LEN as u32;
                let memory = if of_output { &scene.dst } else { &scene.src };
                match access {
                    None => memory.unmap(page, 1)?,
                    Some(access) => memory.protect(page, 1, access)?,
                }
                scene
                    .send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)
                    .with_context(|| format!("page {page}, {access:?}, output: {of_output}"))?;
            }
        }
    }
    check_eq!(env.control()?.aes_commands()?, before, "commands");
    Ok(())
}

/// The last bytes, which the driver treats in a way of their own, are on a page
/// that is missing.
fn hole_before_tail(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for pages in [1, 3, 4, 20] {
        for tail in [1, 15] {
            let len = pages * PAGE + tail;
            let mut scene = fixture.gcm(&text(len))?;
            scene.src.protect(pages, 1, Access::None)?;
            scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
            scene.src.protect(pages, 1, Access::Read)?;
            for access in [Access::None, Access::Read] {
                scene.dst.protect(pages, 1, access)?;
                scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
            }
            scene.dst.protect(pages, 1, Access::ReadWrite)?;
            scene.send_well(&fixture.device)?;
        }
    }
    Ok(())
}

fn read_only_input(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in COPIED_OR_NOT {
        let (mut scene, sealed) = encryption(&fixture, &text(len))?;
        scene
            .src
            .protect(0, scene.src.size() / PAGE, Access::Read)?;
        scene.send_well(&fixture.device)?;
        ensure!(scene.dst.read(0, len) == sealed, "another text");
    }
    Ok(())
}

/// Memory that has no pages yet: reading finds zeros, writing makes pages.
fn never_touched(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in COPIED_OR_NOT {
        let pages = len.div_ceil(PAGE);
        let (src, dst) = (Memory::new(pages)?, Memory::new(pages)?);
        check_between(&fixture, &vec![0; len], (&src, 0), (&dst, 0))?;
        // The page of zeros is everybody's, and still one of zeros.
        ensure!(
            Memory::new(1)?.read(0, PAGE) == [0; PAGE],
            "zeros are none any more"
        );
    }
    Ok(())
}

/// Files of file systems that keep them in memory, as all do in a guest without
/// disks; they are gone when this ends.
fn files() -> Result<Vec<(&'static str, File)>> {
    let ramfs = Path::new("/tmp/ramfs");
    fs::create_dir_all(ramfs)?;
    mount(
        Some("ramfs"),
        ramfs,
        Some("ramfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    let create = |path: &Path| -> Result<File> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        fs::remove_file(path)?;
        Ok(file)
    };
    let of_ramfs = create(&ramfs.join("file"));
    // It is gone when the last file is closed.
    umount2(ramfs, MntFlags::MNT_DETACH)?;
    Ok(vec![
        ("ramfs", of_ramfs?),
        ("tmpfs", create(Path::new("/tmp/azihsm-file"))?),
        ("root", create(Path::new("/azihsm-file"))?),
        ("memfd", memfd_create(c"file", MFdFlags::empty())?.into()),
    ])
}

fn private_file(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for (what, file) in files()? {
        for len in COPIED_OR_NOT {
            let plain = text(len);
            file.write_all_at(&plain, 0)?;
            let src = Memory::of_private_file(&file, len.next_multiple_of(PAGE))?;
            let dst = Memory::of_private_file(&file, len.next_multiple_of(PAGE))?;
            check_between(&fixture, &plain, (&src, 0), (&dst, 0)).context(what)?;
            let mut content = vec![0; len];
            file.read_exact_at(&mut content, 0)?;
            ensure!(content == plain, "{what}: the file was written");
            ensure!(src.read(0, len) == plain, "{what}: the input was written");
        }
    }
    Ok(())
}

fn shared_file(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for (what, file) in files()? {
        for len in COPIED_OR_NOT {
            let plain = text(len);
            let behind = len.next_multiple_of(PAGE);
            file.set_len(2 * behind as u64)?;
            file.write_all_at(&plain, 0)?;
            let memory = Memory::of_file(&file, 2 * behind)?;
            check_between(&fixture, &plain, (&memory, 0), (&memory, behind)).context(what)?;
            let (sealed, _) = reference::gcm_encrypt(&GCM_KEY, [7; 12], &[], &plain)?;
            let mut content = vec![0; len];
            file.read_exact_at(&mut content, behind as u64)?;
            ensure!(content == sealed, "{what}: not in the file");
        }
        // Nothing is there behind the end of a file.
        file.set_len(PAGE as u64)?;
        let memory = Memory::of_file(&file, 16 * PAGE)?;
        for len in COPIED_OR_NOT {
            let mut scene = fixture.gcm(&text(len))?;
            scene.cmd.input.dst = memory.address(0);
            scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
        }
    }
    Ok(())
}

/// Text of this very program as the input, and refused as the output.
fn read_only_file(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let mut program = File::open("/proc/self/exe")?;
    let mut plain = vec![0; IN_PLACE + 1];
    program.read_exact(&mut plain)?;
    let memory = Memory::of_read_only_file(&program, plain.len().next_multiple_of(PAGE))?;
    for len in COPIED_OR_NOT.into_iter().chain([plain.len() - 1]) {
        let dst = Memory::new(len.div_ceil(PAGE))?;
        check_between(&fixture, &plain[1..len], (&memory, 1), (&dst, 0))?;
        let mut scene = fixture.gcm(&text(len))?;
        scene.cmd.input.dst = memory.address(0);
        scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
    }
    ensure!(
        memory.read(0, plain.len()) == plain,
        "the program was written"
    );
    Ok(())
}

/// Bytes of this process that are in huge pages that were not asked for by name.
fn in_huge_pages() -> Result<usize> {
    let text = fs::read_to_string("/proc/self/smaps")?;
    let sizes = text
        .lines()
        .filter_map(|line| line.strip_prefix("AnonHugePages:"))
        .filter_map(|rest| rest.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    Ok(sizes.sum::<usize>() << 10)
}

fn huge_pages(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let setting = "/sys/kernel/mm/transparent_hugepage/enabled";
    let before = fs::read_to_string(setting)?;
    let start = before.find('[').context("no setting")? + 1;
    let end = before.find(']').context("no setting")?;
    fs::write(setting, "madvise")?;
    let check = || -> Result<()> {
        let (src, dst) = (
            Memory::of_huge_pages(4, HUGE)?,
            Memory::of_huge_pages(4, HUGE)?,
        );
        src.fill(0, src.size(), 1);
        dst.fill(0, dst.size(), STALE);
        // Some of it the kernel may not find room for.
        ensure!(in_huge_pages()? >= 2 * HUGE, "no huge pages");
        for len in [100, 16_384, 300_000, HUGE + 5, 2 * HUGE + 16] {
            let plain = text(len);
            for (from, to) in [(0, 0), (HUGE - 5, HUGE - 4096), (4095, 2 * HUGE - 1)] {
                src.write(from, &plain);
                check_between(&fixture, &plain, (&src, from), (&dst, to))
                    .with_context(|| format!("{len} bytes from {from} to {to}"))?;
            }
        }
        ensure!(in_huge_pages()? >= HUGE, "the huge pages fell apart");
        Ok(())
    };
    let result = check();
    fs::write(setting, &before[start..end])?;
    result
}

/// Registers of some other device of the machine, which a process may map but
/// which are no memory.
fn registers() -> Result<File> {
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let directory = entry?.path();
        let vendor = fs::read_to_string(directory.join("vendor"))?;
        let window = directory.join("resource0");
        if vendor.trim() != "0x1414" && window.exists() {
            let file = File::options().read(true).write(true).open(window)?;
            if sys::map_shared(&file).is_ok() {
                return Ok(file);
            }
        }
    }
    bail!("no device has registers that can be mapped")
}

fn special_memory(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let registers = registers()?;
    let len = BOUNCED + 16;
    for page in [0, 2] {
        let mut scene = fixture.gcm(&text(len))?;
        scene.src.replace_page(page, &registers)?;
        scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
        let mut scene = fixture.gcm(&text(len))?;
        scene.dst.replace_page(page, &registers)?;
        scene.send_badly(&fixture.device, Errno::FAULT, ext::AES_NOMEM)?;
    }
    fixture.gcm(&text(len))?.send_well(&fixture.device)
}

/// Has the next AES command take long, and runs `meanwhile` when `send` got it
/// to the device.
fn during<T: Send>(
    env: &Env,
    send: impl FnOnce() -> Result<T> + Send,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<T> {
    let mut control = env.control()?;
    let before = control.aes_commands()?;
    control.inject(json!({
        "fault": "delay", "class": "aes", "count": 1, "ms": SLOW.as_millis() as u64,
    }))?;
    thread::scope(|scope| {
        let handle = scope.spawn(send);
        let start = Instant::now();
        while control.aes_commands()? == before {
            ensure!(start.elapsed() < SOON, "the command is not sent");
        }
        let result = meanwhile();
        let still_there = !handle.is_finished();
        let sent = handle.join().expect("does not panic")?;
        result?;
        ensure!(still_there, "the command was not slow");
        Ok(sent)
    })
}

/// A child that has a copy of `memory`, sees that it stays as it is now, and
/// writes to it.
fn copy(memory: &Memory, len: usize) -> Result<(Child, File)> {
    let before = memory.read(0, len);
    let (reader, writer) = pipe()?;
    let (mut reader, writer) = (File::from(reader), File::from(writer));
    let child = Child::run(|| {
        // Until the command is done.
        let waited = reader.read_exact(&mut [0]);
        if waited.is_err() || memory.read(0, len) != before {
            return 1;
        }
        memory.fill(0, len, 0x11);
        0
    })?;
    Ok((child, writer))
}

fn finish((mut child, mut writer): (Child, File)) -> Result<()> {
    writer.write_all(&[0])?;
    check_eq!(child.wait(SOON)?, Some(0), "child, whose memory changed");
    Ok(())
}

/// Memory that a child shares for as long as nobody writes to it.
fn fork_before(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in COPIED_OR_NOT {
        let (mut scene, sealed) = encryption(&fixture, &text(len))?;
        let child = copy(&scene.dst, len)?;
        scene.send_well(&fixture.device)?;
        ensure!(scene.dst.read(0, len) == sealed, "another text");
        finish(child)?;
        ensure!(
            scene.dst.read(0, len) == sealed,
            "another text after the child wrote"
        );
    }
    Ok(())
}

/// A child gets its copy while the device is to write to the memory.
fn fork_meanwhile(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    for len in COPIED_OR_NOT {
        let (mut scene, sealed) = encryption(&fixture, &text(len))?;
        // The page is the process's to write to, in front of the output.
        let memory = Memory::new(len.div_ceil(PAGE) + 1)?;
        memory.fill(0, memory.size(), STALE);
        scene.cmd.input.dst = memory.address(100);
        let device = &fixture.device;
        let mut child = None;
        during(
            env,
            || scene.send_well(device),
            || {
                child = Some(copy(&memory, len)?);
                memory.write(0, b"written after the fork");
                Ok(())
            },
        )?;
        ensure!(memory.read(100, len) == sealed, "another text");
        ensure!(
            memory.read(0, 22) == b"written after the fork",
            "what the process wrote is lost"
        );
        finish(child.context("no child")?)?;
        ensure!(
            memory.read(100, len) == sealed,
            "another text after the child wrote"
        );
    }
    Ok(())
}

/// The buffers go away: what was copied has nowhere to go, the rest has had its
/// place.
fn unmapped_meanwhile(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let device = &fixture.device;
    for len in COPIED_OR_NOT {
        let mut scene = fixture.gcm(&text(len))?;
        let pages = len.div_ceil(PAGE);
        let (src, dst) = (Memory::new(pages)?, Memory::new(pages)?);
        scene.cmd.input.src = src.address(0);
        scene.cmd.input.dst = dst.address(0);
        let send = || {
            if len <= BOUNCED {
                scene.send_badly(device, Errno::FAULT, ext::AES_NOMEM)
            } else {
                scene.send_well(device)
            }
        };
        during(env, send, || {
            src.unmap(0, pages)?;
            dst.unmap(0, pages)
        })?;
    }
    fixture.check_gcm(&[], &text(64))
}

/// Other memory comes where a buffer was: the device does not write to it.
fn replaced_meanwhile(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let len = IN_PLACE;
    let mut scene = fixture.gcm(&text(len))?;
    let memory = Memory::new(len.div_ceil(PAGE))?;
    scene.cmd.input.dst = memory.address(0);
    let device = &fixture.device;
    during(env, || scene.send_well(device), || memory.replace())?;
    ensure!(
        memory.read(0, memory.size()).iter().all(|&byte| byte == 0),
        "memory was written that was not there when the command was sent"
    );
    Ok(())
}

/// The file that the buffers are from loses its pages.
fn truncated_meanwhile(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let device = &fixture.device;
    for (what, file) in files()? {
        let pages = IN_PLACE / PAGE;
        let size = 2 * pages * PAGE;
        file.set_len(size as u64)?;
        let memory = Memory::of_file(&file, size)?;
        let mut scene = fixture.gcm(&text(pages * PAGE))?;
        scene.cmd.input.src = memory.address(0);
        scene.cmd.input.dst = memory.address(pages * PAGE);
        during(env, || scene.send_well(device), || Ok(file.set_len(0)?)).context(what)?;
        file.set_len(size as u64)?;
        let mut content = vec![1; size];
        file.read_exact_at(&mut content, 0)?;
        ensure!(
            content.iter().all(|&byte| byte == 0),
            "{what}: the new file has what the old one was to get"
        );
    }
    fixture.check_gcm(&[], &text(64))
}

/// More texts at once than there are buffers for: the rest is accessed in place,
/// and all buffers come back.
fn out_of_buffers(env: &Env) -> Result<()> {
    let fixture = Fixture::new(env)?;
    let none = vmstat::pinned_pages()?;
    let pinned = |count: u64| -> Result<i64> {
        let mut control = env.control()?;
        let before = control.aes_commands()?;
        control.inject(json!({
            "fault": "delay", "class": "aes", "count": count, "ms": 2 * SLOW.as_millis() as u64,
        }))?;
        thread::scope(|scope| {
            let mut handles = Vec::new();
            // One by one: two that find some buffers each may both find too few.
            for number in 0..count {
                let fixture = &fixture;
                handles.push(scope.spawn(move || fixture.check_gcm(&[], &text(1 << 20))));
                let start = Instant::now();
                while control.aes_commands()? <= before + number {
                    ensure!(start.elapsed() < SOON, "the command is not sent");
                }
            }
            let pinned = vmstat::pinned_pages()? - none;
            for handle in handles {
                handle.join().expect("does not panic")?;
            }
            Ok(pinned)
        })
    };
    for _ in 0..2 {
        check_eq!(pinned(2)?, 0, "pages held, and buffers for all");
        // Neither buffer need begin with a page.
        let pages = 2 * (1 << 20) / PAGE as i64;
        let held = pinned(3)?;
        ensure!(
            (pages..=pages + 2).contains(&held),
            "{held} pages held, and buffers for all but one"
        );
    }
    check_eq!(vmstat::pinned_pages()?, none, "pages held afterwards");
    Ok(())
}

/// Memory is the device's until it is done with it, even if the process that had
/// it is gone.
fn killed_meanwhile(env: &Env) -> Result<()> {
    for xts in [false, true] {
        let none = vmstat::pinned_pages()?;
        let (reader, writer) = pipe()?;
        let (mut reader, mut writer) = (File::from(reader), File::from(writer));
        let mut child = Child::run(|| {
            let mut send = || -> Result<()> {
                let fixture = Fixture::new(env)?;
                let mut scene = if xts {
                    fixture.xts(&text(2 << 20))?
                } else {
                    fixture.gcm(&text(2 << 20))?
                };
                env.control()?.inject(json!({
                    "fault": "delay", "class": "aes", "count": 1, "ms": 2000,
                }))?;
                writer.write_all(&env.control()?.aes_commands()?.to_le_bytes())?;
                scene.send_well(&fixture.device)
            };
            i32::from(send().is_err())
        })?;
        let mut before = [0; 8];
        reader.read_exact(&mut before)?;
        let start = Instant::now();
        while env.control()?.aes_commands()? == u64::from_le_bytes(before) {
            ensure!(start.elapsed() < SOON, "the command is not sent");
        }
        child.kill()?;
        check_eq!(child.wait(SOON)?, Some(-9), "killed process");
        let held = vmstat::pinned_pages()? - none;
        check_eq!(held, 2 * (2 << 20) / PAGE as i64, "pages held");
        let start = Instant::now();
        while vmstat::pinned_pages()? > none {
            ensure!(start.elapsed() < SOON, "the memory is not released");
            thread::sleep(Duration::from_millis(20));
        }
    }
    // The sessions are flushed when their commands have ended.
    let start = Instant::now();
    while !env.control()?.sessions()?.is_empty() {
        ensure!(start.elapsed() < SOON, "sessions are left");
    }
    Ok(())
}

/// A file that this test serves.
fn served_file() -> Result<ServedFile> {
    let file = ServedFile::new(Path::new("/tmp/served"))?;
    file.ok_or(Skip("the kernel has no FUSE").into())
}

/// Runs `body` in a child until the device has `count` more AES commands.  It is given what it calls
/// when it needs the line to the device no more.
fn sender(
    env: &Env,
    count: u64,
    body: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>,
) -> Result<Child> {
    let before = env.control()?.aes_commands()?;
    let (reader, writer) = pipe()?;
    let (mut reader, writer) = (File::from(reader), File::from(writer));
    let child = Child::run(move || {
        let result = body(&|| Ok((&writer).write_all(&[0])?));
        if let Err(error) = &result {
            eprintln!("child: {error:#}");
        }
        i32::from(result.is_err())
    })?;
    reader.read_exact(&mut [0]).context("child")?;
    let start = Instant::now();
    while env.control()?.aes_commands()? < before + count {
        ensure!(start.elapsed() < SOON, "the commands are not sent");
    }
    Ok(child)
}

/// Waits until the device has no command.
fn wait_idle(env: &Env) -> Result<()> {
    let start = Instant::now();
    while env.control()?.state()?["commands_in_flight"] != 0 {
        ensure!(start.elapsed() < 2 * SOON, "the commands do not end");
    }
    // And the driver knows.
    thread::sleep(Duration::from_millis(100));
    Ok(())
}

/// A child that resets the device, and uses it, when it is told to.
///
/// To be made before there is a file that it would inherit: it may not be able to end then.
struct Other {
    child: Child,
    go: File,
}

impl Other {
    fn new(env: &Env) -> Result<Self> {
        let (reader, writer) = pipe()?;
        let (mut reader, go) = (File::from(reader), File::from(writer));
        let child = Child::run(|| {
            let mut work = || -> Result<()> {
                reader.read_exact(&mut [0])?;
                let device = env.open()?;
                device.reset(ResetKind::Controller)?;
                hsm::api_revisions(&device)?;
                Fixture::new(env)?.check_gcm(&[], &text(IN_PLACE))
            };
            let result = work();
            if let Err(error) = &result {
                eprintln!("other: {error:#}");
            }
            i32::from(result.is_err())
        })?;
        Ok(Self { child, go })
    }

    fn check_served(mut self) -> Result<()> {
        self.go.write_all(&[0])?;
        check_eq!(self.child.wait(2 * SOON)?, Some(0), "somebody else's reset");
        Ok(())
    }
}

/// What the device was to write is in a page whose lock somebody has, and keeps: of a process that
/// was killed, so that it is the driver that releases it, when the command ends, or a reset ends it.
fn locked_page(env: &Env, fault: &str) -> Result<()> {
    let none = vmstat::pinned_pages()?;
    let other = Other::new(env)?;
    let served = served_file()?;
    let mut child = sender(env, 1, |ready| {
        let fixture = Fixture::new(env)?;
        let mut scene = fixture.gcm(&text(2 << 20))?;
        scene.dst.replace_page(1, served.file())?;
        let mut fault = json!({ "fault": fault, "class": "aes", "count": 1 });
        if fault["fault"] == "delay" {
            fault["ms"] = json!(3000);
        }
        env.control()?.inject(fault)?;
        ready()?;
        scene.send_well(&fixture.device)
    })?;
    child.kill()?;
    check_eq!(child.wait(SOON)?, Some(-9), "killed process");
    served.lock_page()?;
    let held = vmstat::pinned_pages()? - none;
    check_eq!(held, 2 * (2 << 20) / PAGE as i64, "pages held");
    if fault == "delay" {
        wait_idle(env)?;
    }
    other.check_served()?;
    check_eq!(vmstat::pinned_pages()?, none, "pages held afterwards");
    Ok(())
}

/// As many callers as there are slots wait for the lock of a page, without the slots.
fn locked_page_of_many(env: &Env) -> Result<()> {
    let other = Other::new(env)?;
    let served = served_file()?;
    module::unload().context("delete_module")?;
    module::load_with(&env.module, c"num_aes_slots=2")?;
    let queues = env.control()?.submission_queues("aes")?;
    let slots: usize = queues.iter().map(|(_, _, entries, _)| entries - 1).sum();
    let mut child = sender(env, slots as u64, |ready| {
        let fixture = Fixture::new(env)?;
        let (src, dst) = (
            Memory::new(IN_PLACE / PAGE + 1)?,
            Memory::new(IN_PLACE / PAGE + 1)?,
        );
        dst.replace_page(1, served.file())?;
        env.control()?.inject(json!({
            "fault": "delay", "class": "aes", "count": slots, "ms": 3000,
        }))?;
        let scenes = (0..slots).map(|_| fixture.gcm(&[]));
        let scenes = scenes.collect::<Result<Vec<_>>>()?;
        ready()?;
        let send = |mut scene: AesScene| {
            scene.cmd.input.src = src.address(0);
            scene.cmd.input.dst = dst.address(0);
            scene.cmd.input.src_len = IN_PLACE as u32;
            scene.cmd.input.dst_len = IN_PLACE as u32;
            scene.send_well(&fixture.device)
        };
        thread::scope(|scope| {
            let senders: Vec<_> = scenes
                .into_iter()
                .map(|scene| scope.spawn(move || send(scene)))
                .collect();
            let mut senders = senders.into_iter();
            senders.try_for_each(|sender| sender.join().expect("does not panic"))
        })
    })?;
    served.lock_page()?;
    wait_idle(env)?;
    check_eq!(child.wait(Duration::ZERO)?, None, "those who wait");
    other.check_served()?;
    drop(served);
    check_eq!(child.wait(SOON)?, Some(0), "those who waited");
    Ok(())
}

/// A page may have been written back before the device writes to it, and is written back again.
fn written_back(env: &Env) -> Result<()> {
    let served = served_file()?;
    let fixture = Fixture::new(env)?;
    let (mut scene, sealed) = encryption(&fixture, &text(2 << 20))?;
    scene.dst.replace_page(1, served.file())?;
    scene.dst.fill(PAGE, PAGE, STALE);
    let device = &fixture.device;
    during(
        env,
        || scene.send_well(device),
        || {
            served.file().sync_data()?;
            ensure!(served.content()? == [STALE; PAGE], "not written back");
            Ok(())
        },
    )?;
    served.file().sync_data()?;
    ensure!(
        served.content()? == sealed[PAGE..2 * PAGE],
        "the result is not written back"
    );
    Ok(())
}
