// SPDX-License-Identifier: GPL-2.0
//! Device info (`Documentation/abi.rst`, 2.4 and 3.3).

use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use crate::scene::STALE;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::pci;
use azihsm_guest::sys;
use azihsm_guest::sys::Access;
use azihsm_guest::sys::Memory;
use azihsm_uapi::abi;
use azihsm_uapi::abi::DevInfo;
use azihsm_uapi::Device;
use azihsm_uapi::Errno;
use azihsm_uapi::Info;
use serde_json::json;
use std::mem::size_of;
use zerocopy::FromBytes;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;

const SIZE: usize = size_of::<DevInfo>();

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        Test::new("info/pci-address", pci_address),
        Test::new("info/identity-is-that-of-the-device", identity),
        Test::new("info/identity-fills-its-fields", whole_fields),
        Test::new("info/identity-that-is-no-text-is-made-text", not_ascii),
        Test::new("info/controller-of-a-virtual-function", controller),
        Test::new("info/driver-revision", driver_revision),
        Test::new("info/strings-are-text-filled-with-nul", strings),
        Test::new("info/model-and-reserved-are-zero", zeros),
        Test::new("info/last-byte-is-not-touched", last_byte),
        Test::new("info/larger-argsz-is-accepted", larger),
        Test::new("info/entropy-is-random-and-stays", entropy_stays),
        Test::new("info/entropy-changes-with-initialisation", entropy_changes),
        Test::new("info/devices-differ", devices_differ).devices(2),
        Test::new("info/unreadable-efault", unreadable),
        Test::new("info/unwritable-efault", unwritable),
        Test::new("info/cut-off-efault", cut_off),
        Test::new("info/needs-no-command", no_command),
    ];
    for argsz in [0, 1, 175] {
        tests.push(Test::new(
            format!("info/argsz-{argsz}-einval-nothing-written"),
            move |env: &Env| too_small(env, argsz),
        ));
    }
    tests
}

fn ask(device: &Device, argsz: u32) -> (Result<i32, Errno>, DevInfo) {
    let mut info = DevInfo::new_zeroed();
    info.as_mut_bytes().fill(STALE);
    info.argsz = argsz;
    let result = sys::submit(device, abi::IOC_DEV_INFO, &mut info);
    (result, info)
}

fn get(env: &Env) -> Result<DevInfo> {
    let (result, info) = ask(&env.open()?, SIZE as u32);
    check_eq!(result, Ok(0), "ioctl");
    Ok(info)
}

fn pci_address(env: &Env) -> Result<()> {
    check_eq!(env.open()?.info()?.pci, env.address()?, "PCI address");
    Ok(())
}

/// The controller initialised anew, with another serial number and firmware.
fn with_identity(env: &Env, serial: &[u8], firmware: &[u8]) -> Result<Info> {
    let mut text = [0; 64];
    text[..serial.len()].copy_from_slice(serial);
    text[32..32 + firmware.len()].copy_from_slice(firmware);
    env.control()?.inject(json!({
        "fault": "identify", "offset": 4, "data": hex::encode(text),
    }))?;
    env.reload()?;
    let (result, raw) = ask(&env.open()?, SIZE as u32);
    check_eq!(result, Ok(0), "ioctl");
    for field in [raw.serial, raw.firmware_rev] {
        check_eq!(field[32], 0, "end of the field");
        std::str::from_utf8(&field)?;
    }
    Ok(env.open()?.info()?)
}

fn identity(env: &Env) -> Result<()> {
    let info = with_identity(env, b"A serial number", b"3.14 of today")?;
    check_eq!(info.serial, "A serial number", "serial number");
    check_eq!(info.firmware, "3.14 of today", "firmware");
    let state = env.control()?.state()?;
    check_eq!(
        Some(u64::from(info.controller)),
        state["controller"].as_u64(),
        "controller"
    );
    env.control()?.clear_faults()?;
    env.reload()?;
    ensure!(
        env.open()?.info()?.serial != info.serial,
        "the serial number is remembered"
    );
    Ok(())
}

fn whole_fields(env: &Env) -> Result<()> {
    let info = with_identity(env, &[b's'; 32], &[b'f'; 32])?;
    check_eq!(info.serial, "s".repeat(32), "serial number");
    check_eq!(info.firmware, "f".repeat(32), "firmware");
    env.control()?.clear_faults()?;
    env.reload()
}

fn not_ascii(env: &Env) -> Result<()> {
    let info = with_identity(env, b"a\xffb\x80c", b"\xc3\xa9!")?;
    check_eq!(info.serial, "a?b?c", "serial number");
    check_eq!(info.firmware, "??!", "firmware");
    env.control()?.clear_faults()?;
    env.reload()
}

/// The device as another function.
fn controller(env: &Env) -> Result<()> {
    let address = env.address()?;
    let mut control = env.control()?;
    for number in [5, 0] {
        pci::unbind(&address)?;
        control.set("controller", &json!(number))?;
        pci::bind(&address)?;
        check_eq!(env.open()?.info()?.controller, number, "controller");
    }
    Ok(())
}

fn driver_revision(env: &Env) -> Result<()> {
    check_eq!(env.open()?.info()?.driver, "3.2.0", "revision");
    Ok(())
}

fn strings(env: &Env) -> Result<()> {
    let info = get(env)?;
    let fields: [(&str, &[u8]); 4] = [
        ("PCI address", &info.pci_info),
        ("serial number", &info.serial),
        ("firmware", &info.firmware_rev),
        ("driver", &info.driver_rev),
    ];
    for (name, field) in fields {
        std::str::from_utf8(field).with_context(|| name.to_owned())?;
        let end = field.iter().position(|&byte| byte == 0);
        let end = end.with_context(|| format!("{name} has no end"))?;
        ensure!(end > 0, "{name} is empty");
        ensure!(
            field[end..].iter().all(|&byte| byte == 0),
            "{name} has a tail"
        );
    }
    Ok(())
}

fn zeros(env: &Env) -> Result<()> {
    let info = get(env)?;
    check_eq!(info.model, [0; 5], "model");
    check_eq!(info.reserved, [0; 17], "reserved");
    Ok(())
}

/// The structure in front of a page that is not there, less its last byte.
fn last_byte(env: &Env) -> Result<()> {
    check_eq!(get(env)?.pad, STALE, "last byte");
    let memory = Memory::new(1)?;
    let address = memory.address_of_last(SIZE - 1);
    memory.write(memory.size() - (SIZE - 1), &(SIZE as u32).to_le_bytes());
    let result = sys::submit_at(env.open()?, abi::IOC_DEV_INFO, address);
    check_eq!(result, Ok(0), "ioctl");
    let written = memory.read(memory.size() - (SIZE - 1), SIZE - 1);
    let mut info = written;
    info.push(0);
    let info = DevInfo::read_from_bytes(&info).expect("same size");
    check_eq!(info.driver_rev[..6], *b"3.2.0\0", "revision");
    Ok(())
}

fn larger(env: &Env) -> Result<()> {
    for argsz in [177, 4096, u32::MAX] {
        let (result, info) = ask(&env.open()?, argsz);
        check_eq!(result, Ok(0), "ioctl with {argsz}");
        check_eq!(info.argsz, argsz, "argsz");
    }
    Ok(())
}

fn entropy_stays(env: &Env) -> Result<()> {
    let first = env.open()?.info()?.entropy;
    let second = env.open()?.info()?.entropy;
    check_eq!(first, second, "entropy of a second descriptor");
    let mut bytes = first.to_vec();
    bytes.sort_unstable();
    bytes.dedup();
    // 32 random bytes have fewer than 16 different values once in 10^15 times.
    ensure!(bytes.len() >= 16, "not random: {first:?}");
    Ok(())
}

fn entropy_changes(env: &Env) -> Result<()> {
    let before = env.open()?.info()?.entropy;
    env.reload()?;
    ensure!(env.open()?.info()?.entropy != before, "the same entropy");
    Ok(())
}

fn devices_differ(env: &Env) -> Result<()> {
    let first = env.open_node(0)?.info()?;
    let second = env.open_node(1)?.info()?;
    ensure!(first.pci != second.pci, "the same address");
    ensure!(first.entropy != second.entropy, "the same entropy");
    check_eq!(second.pci, pci::of_node("azihsm1")?, "PCI address");
    Ok(())
}

fn unreadable(env: &Env) -> Result<()> {
    let device = env.open()?;
    for address in [0, 1, sys::UNMAPPED, sys::KERNEL, u64::MAX] {
        let result = sys::submit_at(&device, abi::IOC_DEV_INFO, address);
        check_eq!(result, Err(Errno::FAULT), "ioctl at {address:#x}");
    }
    Ok(())
}

fn unwritable(env: &Env) -> Result<()> {
    let memory = Memory::with(&(SIZE as u32).to_le_bytes())?;
    memory.protect(0, 1, Access::Read)?;
    let result = sys::submit_at(env.open()?, abi::IOC_DEV_INFO, memory.address(0));
    check_eq!(result, Err(Errno::FAULT), "ioctl");
    Ok(())
}

fn cut_off(env: &Env) -> Result<()> {
    let memory = Memory::new(1)?;
    for missing in [2, SIZE - 4] {
        let len = SIZE - missing;
        let at = memory.size() - len;
        memory.fill(at, len, STALE);
        memory.write(at, &(SIZE as u32).to_le_bytes());
        let result = sys::submit_at(env.open()?, abi::IOC_DEV_INFO, memory.address_of_last(len));
        check_eq!(result, Err(Errno::FAULT), "ioctl without {missing} bytes");
        let rest = memory.read(at + 4, len - 4);
        ensure!(rest.iter().all(|&byte| byte == STALE), "written to");
    }
    Ok(())
}

fn no_command(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut control = env.control()?;
    let before = control.counters()?["commands"].clone();
    ensure!(before["hsm"].is_u64(), "no counters");
    for _ in 0..10 {
        device.info()?;
    }
    check_eq!(control.counters()?["commands"], before, "commands");
    Ok(())
}

fn too_small(env: &Env, argsz: u32) -> Result<()> {
    let (result, info) = ask(&env.open()?, argsz);
    check_eq!(result, Err(Errno::INVAL), "ioctl");
    check_eq!(info.as_bytes()[4..], [STALE; SIZE - 4], "structure");
    check_eq!(info.argsz, argsz, "argsz");
    Ok(())
}
