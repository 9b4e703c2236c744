// SPDX-License-Identifier: GPL-2.0
//! The management node (`Documentation/abi.rst`, 1.2 and 3.6), of a function that
//! a driver for tests takes for a physical one.

use crate::check_eq;
use crate::health;
use crate::runner::Env;
use crate::runner::Test;
use crate::scene::STALE;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::kmsg::KernelLog;
use azihsm_guest::module;
use azihsm_guest::pci;
use azihsm_guest::sys;
use azihsm_guest::sys::Access;
use azihsm_guest::sys::Child;
use azihsm_guest::sys::Memory;
use azihsm_uapi::abi;
use azihsm_uapi::abi::DevInfo;
use azihsm_uapi::abi::HsmCmd;
use azihsm_uapi::abi::ResCount;
use azihsm_uapi::abi::VfCount;
use azihsm_uapi::hsm_nodes;
use azihsm_uapi::management_nodes;
use azihsm_uapi::Errno;
use azihsm_uapi::Management;
use azihsm_uapi::ResetKind;
use serde_json::json;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;

pub const NODE: &str = "/dev/azihsm-mgmt0";

const SIZE: u32 = size_of::<ResCount>() as u32;

/// `struct azihsm_res_count.status`
const OK: u32 = 0;
const BAD_VF: u32 = 2;
const SET_FAILED: u32 = 4;
const GET_FAILED: u32 = 7;

/// `struct azihsm_reset.status`
const UNSUPPORTED: u32 = 6;

/// How soon a reset is over that nothing stands in the way of.
const RESET: Duration = Duration::from_secs(5);

/// What the driver says of virtual functions that are disabled, and of what tests
/// do to the physical one.
const ODD: &[&str] = &["azihsm"];

const ALL: [u32; 4] = [
    abi::MGMT_IOC_SET_RES_COUNT,
    abi::MGMT_IOC_GET_RES_COUNT,
    abi::MGMT_IOC_GET_VF_COUNT,
    abi::MGMT_IOC_DEV_INFO,
];

const COUNTS: [u32; 2] = [abi::MGMT_IOC_SET_RES_COUNT, abi::MGMT_IOC_GET_RES_COUNT];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    let test = |name: &str, body: fn(&Env) -> Result<()>| {
        Test::new(format!("mgmt/{name}"), move |env: &Env| {
            let result = body(env);
            // The next one begins without virtual functions.
            let taken = pci::set_virtual(0);
            result.and(taken)
        })
        .card(2)
        // There may be nine functions to bind, on a kernel that checks each access.
        .seconds(180)
    };
    vec![
        test("node-is-there-with-virtual-functions", node),
        test("node-is-of-root-and-the-function", kind),
        test("there-from-the-beginning", from_the_beginning),
        test("hsm-clients-leave-it-alone", foreign),
        test("hsm-nodes-do-not-know-its-ioctls", not_of_hsm),
        test("unknown-ebadrqc", unknown),
        test("from-32-bit-enotty", compat),
        test("anybody-who-has-the-descriptor", inherited),
        test("number-of-virtual-functions", number),
        test("number-with-small-argsz-einval", number_small),
        test("number-moves-6-bytes", number_last_bytes),
        test("info-is-that-of-the-function", info),
        test("set-and-get", set_and_get).may_warn(ODD),
        test("get-changes-nothing-else", get_fields),
        test("set-changes-the-status-only", set_fields).may_warn(ODD),
        test("small-argsz-einval", small),
        test("larger-argsz-is-accepted", larger),
        test("unreadable-efault", unreadable),
        test("unwritable-efault", unwritable),
        test("no-such-virtual-function-einval", no_such),
        test("no-virtual-functions-any-more-einval", none_any_more),
        test("too-many-groups-eio", too_many).may_warn(ODD),
        test("refused-by-the-device-eio", refused),
        test("more-groups-than-there-are-eio", nonsense),
        test("recovering-eagain", recovering).may_warn(ODD).takes(4),
        test("dead-eagain", dead).may_warn(ODD).takes(4).spoils(),
        test("lost-by-the-device-eagain", lost)
            .takes(31)
            .seconds(120)
            .long(),
        test("killed-while-it-waits", killed).takes(3),
        test("recovery-does-not-wait-for-it", in_the_way)
            .may_warn(ODD)
            .takes(4),
        test("lost-ones-leave-room-for-recovery", left)
            .may_warn(ODD)
            .takes(14)
            .seconds(120)
            .spoils(),
        test("unbind-takes-everything-away", unbound),
        test("unbind-while-it-waits", unbound_meanwhile).takes(2),
        test("parameter-says-how-many-groups", parameter)
            .takes(4)
            .spoils(),
        test("parameter-beyond-what-is-free", parameter_too_large)
            .may_warn(&["cannot take 64 resource groups"])
            .takes(2)
            .spoils(),
        test("reset-that-is-forbidden-einval", forbidden).spoils(),
        test("fault-cuts-off-what-may-not-be-reset", cut_off)
            .may_warn(ODD)
            .takes(5)
            .spoils(),
        test("without-groups-there-is-management", without_groups)
            .may_warn(ODD)
            .takes(2)
            .spoils(),
    ]
}

/// Gives the function two virtual ones and opens the node.
fn open() -> Result<File> {
    pci::set_virtual(2)?;
    Ok(OpenOptions::new().read(true).write(true).open(NODE)?)
}

fn request(vf: u16, count: u16) -> ResCount {
    ResCount {
        argsz: SIZE,
        vf,
        count,
        status: 0xdead_beef,
    }
}

/// The result, the status and the count after it.
fn ask(fd: impl AsFd, number: u32, vf: u16, count: u16) -> (Result<i32, Errno>, u32, u16) {
    let mut arg = request(vf, count);
    let result = sys::submit(fd, number, &mut arg);
    (result, arg.status, arg.count)
}

/// Runs `body` with virtual function `vf` without a driver, and binds it then.
pub fn without_driver(env: &Env, vf: u16, body: impl FnOnce() -> Result<()>) -> Result<()> {
    let address = env.of(usize::from(vf) + 1).address()?;
    pci::unbind(&address)?;
    let result = body();
    pci::bind(&address)?;
    result
}

fn groups(env: &Env, function: usize) -> Result<u64> {
    let state = env.of(function).control()?.state()?;
    state["groups"].as_u64().context("no groups")
}

fn node(_: &Env) -> Result<()> {
    let none: [PathBuf; 0] = [];
    for count in [1, 2, 64] {
        check_eq!(management_nodes()?, none, "nodes without virtual functions");
        pci::set_virtual(count)?;
        check_eq!(management_nodes()?, [PathBuf::from(NODE)], "nodes");
        pci::set_virtual(0)?;
    }
    check_eq!(management_nodes()?, none, "nodes");
    Ok(())
}

fn kind(env: &Env) -> Result<()> {
    pci::set_virtual(1)?;
    let metadata = fs::metadata(NODE)?;
    ensure!(
        metadata.file_type().is_char_device(),
        "not a character device"
    );
    check_eq!(metadata.mode() & 0o7777, 0o600, "mode");
    check_eq!((metadata.uid(), metadata.gid()), (0, 0), "owner");
    check_eq!(pci::of_node("azihsm-mgmt0")?, env.address()?, "function");
    Ok(())
}

/// All functions are found in their order, and bound in that.
pub fn find_anew(env: &Env) -> Result<()> {
    module::unload().context("delete_module")?;
    for address in pci::functions()? {
        pci::remove(&address)?;
    }
    pci::rescan()?;
    env.load()
}

/// Another driver has left it virtual functions.
fn from_the_beginning(env: &Env) -> Result<()> {
    env.control()?.set("physical", &json!(3))?;
    find_anew(env)?;
    let count = Management::open(NODE).map(|node| node.virtual_functions());
    env.control()?.set("physical", &json!(0))?;
    find_anew(env)?;
    check_eq!(count??, 3, "virtual functions");
    ensure!(!Path::new(NODE).exists(), "the node is still there");
    Ok(())
}

fn foreign(_: &Env) -> Result<()> {
    let file = open()?;
    let mut info = DevInfo::new_zeroed();
    info.argsz = size_of::<DevInfo>() as u32;
    let mut cmd = HsmCmd::new_zeroed();
    cmd.hdr.size = size_of::<HsmCmd>() as u32;
    let bad = Err(Errno::BADRQC);
    check_eq!(
        sys::submit(&file, abi::IOC_DEV_INFO, &mut info),
        bad,
        "info"
    );
    check_eq!(sys::submit(&file, abi::IOC_HSM_CMD, &mut cmd), bad, "HSM");
    for number in [abi::IOC_AES_GCM, abi::IOC_AES_XTS, abi::IOC_RESET] {
        check_eq!(sys::submit_at(&file, number, 0), bad, "ioctl {number:#x}");
    }
    Ok(())
}

fn not_of_hsm(env: &Env) -> Result<()> {
    let device = env.open()?;
    for number in ALL {
        check_eq!(
            sys::submit_at(&device, number, 0),
            Err(Errno::BADRQC),
            "ioctl {number:#x}"
        );
    }
    Ok(())
}

fn unknown(_: &Env) -> Result<()> {
    let file = open()?;
    // The number alone, another size, another direction.
    for number in [
        0,
        0x4102,
        0xc00c_4101,
        0xc00c_4106,
        0xc010_4102,
        0x400c_4102,
    ] {
        check_eq!(
            sys::submit_at(&file, number, 0),
            Err(Errno::BADRQC),
            "ioctl {number:#x}"
        );
    }
    Ok(())
}

fn compat(_: &Env) -> Result<()> {
    let file = open()?;
    let descriptor = u32::try_from(file.as_raw_fd())?;
    for number in ALL.into_iter().chain([0xdead_beef]) {
        let result = sys::ioctl32(descriptor, number, 0);
        check_eq!(result, -Errno::NOTTY.raw_os_error(), "ioctl {number:#x}");
    }
    Ok(())
}

fn inherited(_: &Env) -> Result<()> {
    let file = open()?;
    let mut child = Child::run(|| {
        let mut arg = request(0, 0);
        match sys::submit(&file, abi::MGMT_IOC_GET_RES_COUNT, &mut arg) {
            Ok(_) => 0,
            Err(error) => error.raw_os_error(),
        }
    })?;
    check_eq!(child.wait(RESET)?, Some(0), "result of a child");
    Ok(())
}

fn number(_: &Env) -> Result<()> {
    open()?;
    let node = Management::open(NODE)?;
    check_eq!(node.virtual_functions()?, 2, "virtual functions");
    // Whoever has it open sees the changes.
    for count in [0, 64, 0, 1] {
        pci::set_virtual(count)?;
        check_eq!(node.virtual_functions()?, count, "virtual functions");
    }
    Ok(())
}

fn number_small(_: &Env) -> Result<()> {
    let file = open()?;
    for argsz in [0, 7] {
        let mut arg = VfCount {
            argsz,
            count: 0xabcd,
            pad: 0xabcd,
        };
        let result = sys::submit(&file, abi::MGMT_IOC_GET_VF_COUNT, &mut arg);
        check_eq!(result, Err(Errno::INVAL), "ioctl with {argsz}");
        check_eq!((arg.count, arg.pad), (0xabcd, 0xabcd), "what was there");
    }
    Ok(())
}

fn number_last_bytes(_: &Env) -> Result<()> {
    let file = open()?;
    let memory = Memory::new(1)?;
    let address = memory.address_of_last(6);
    memory.write(memory.size() - 6, &8_u32.to_le_bytes());
    let result = sys::submit_at(&file, abi::MGMT_IOC_GET_VF_COUNT, address);
    check_eq!(result, Ok(0), "ioctl");
    check_eq!(memory.read(memory.size() - 2, 2), [2, 0], "count");
    let address = memory.address_of_last(5);
    let result = sys::submit_at(&file, abi::MGMT_IOC_GET_VF_COUNT, address);
    check_eq!(result, Err(Errno::FAULT), "ioctl with a byte less");
    memory.write(memory.size() - 6, &8_u32.to_le_bytes());
    memory.protect(0, 1, Access::Read)?;
    let address = memory.address_of_last(6);
    let result = sys::submit_at(&file, abi::MGMT_IOC_GET_VF_COUNT, address);
    check_eq!(result, Err(Errno::FAULT), "ioctl that cannot write");
    Ok(())
}

fn info(env: &Env) -> Result<()> {
    open()?;
    let ours = Management::open(NODE)?.info()?;
    let theirs = env.open()?.info()?;
    check_eq!(ours.pci, env.address()?, "PCI address");
    check_eq!(ours.entropy, theirs.entropy, "entropy");
    check_eq!(ours.controller, 0, "controller");
    let mut raw = DevInfo::new_zeroed();
    raw.as_mut_bytes().fill(STALE);
    raw.argsz = size_of::<DevInfo>() as u32 - 1;
    let file = OpenOptions::new().read(true).write(true).open(NODE)?;
    let result = sys::submit(&file, abi::MGMT_IOC_DEV_INFO, &mut raw);
    check_eq!(result, Err(Errno::INVAL), "ioctl with a small argsz");
    check_eq!(raw.serial, [STALE; 33], "what was there");
    Ok(())
}

fn set_and_get(env: &Env) -> Result<()> {
    open()?;
    let node = Management::open(NODE)?;
    check_eq!(node.resource_groups(0)?, 2, "groups in the beginning");
    without_driver(env, 1, || {
        for count in [3, 0, 5, 5, 2] {
            node.set_resource_groups(1, count)?;
            check_eq!(node.resource_groups(1)?, count, "groups");
            check_eq!(groups(env, 2)?, u64::from(count), "groups in the device");
            check_eq!(node.resource_groups(0)?, 2, "groups of the other");
        }
        Ok(())
    })?;
    check_eq!(groups(env, 0)?, 1, "groups of the physical function");
    health::check_well(&env.of(2))
}

fn get_fields(_: &Env) -> Result<()> {
    let file = open()?;
    let mut arg = request(1, 0xabcd);
    arg.argsz = 77;
    let result = sys::submit(&file, abi::MGMT_IOC_GET_RES_COUNT, &mut arg);
    check_eq!(result, Ok(0), "ioctl");
    check_eq!(
        (arg.argsz, arg.vf, arg.count, arg.status),
        (77, 1, 2, OK),
        "fields"
    );
    Ok(())
}

fn set_fields(env: &Env) -> Result<()> {
    let file = open()?;
    without_driver(env, 0, || {
        let mut arg = request(0, 2);
        arg.argsz = 77;
        let result = sys::submit(&file, abi::MGMT_IOC_SET_RES_COUNT, &mut arg);
        check_eq!(result, Ok(0), "ioctl");
        check_eq!(
            (arg.argsz, arg.vf, arg.count, arg.status),
            (77, 0, 2, OK),
            "fields"
        );
        Ok(())
    })
}

fn small(_: &Env) -> Result<()> {
    let file = open()?;
    for number in COUNTS {
        for argsz in [0, 8, 11] {
            let mut arg = request(0, 2);
            arg.argsz = argsz;
            let result = sys::submit(&file, number, &mut arg);
            check_eq!(result, Err(Errno::INVAL), "{number:#x} with {argsz}");
            check_eq!((arg.count, arg.status), (2, 0xdead_beef), "what was there");
        }
    }
    Ok(())
}

fn larger(_: &Env) -> Result<()> {
    let file = open()?;
    for argsz in [13, 4096, u32::MAX] {
        let mut arg = request(0, 0);
        arg.argsz = argsz;
        let result = sys::submit(&file, abi::MGMT_IOC_GET_RES_COUNT, &mut arg);
        check_eq!(result, Ok(0), "ioctl with {argsz}");
    }
    Ok(())
}

fn unreadable(_: &Env) -> Result<()> {
    let file = open()?;
    let memory = Memory::new(1)?;
    for number in COUNTS {
        for address in [0, sys::UNMAPPED, sys::KERNEL, memory.address_of_last(11)] {
            check_eq!(
                sys::submit_at(&file, number, address),
                Err(Errno::FAULT),
                "{number:#x} at {address:#x}"
            );
        }
    }
    Ok(())
}

fn unwritable(_: &Env) -> Result<()> {
    let file = open()?;
    // A function that there is not, so that nothing is set.
    for vf in [0, 2] {
        let memory = Memory::with(request(vf, 0).as_bytes())?;
        memory.protect(0, 1, Access::Read)?;
        let result = sys::submit_at(&file, abi::MGMT_IOC_GET_RES_COUNT, memory.address(0));
        check_eq!(result, Err(Errno::FAULT), "get of {vf}");
    }
    Ok(())
}

fn no_such(_: &Env) -> Result<()> {
    let file = open()?;
    for number in COUNTS {
        for vf in [2, 3, 64, u16::MAX] {
            let (result, status, count) = ask(&file, number, vf, 7);
            check_eq!(result, Err(Errno::INVAL), "{number:#x} of {vf}");
            check_eq!((status, count), (BAD_VF, 7), "status and count");
        }
    }
    Ok(())
}

fn none_any_more(_: &Env) -> Result<()> {
    let file = open()?;
    pci::set_virtual(0)?;
    for number in COUNTS {
        let (result, status, _) = ask(&file, number, 0, 1);
        check_eq!(result, Err(Errno::INVAL), "{number:#x}");
        check_eq!(status, BAD_VF, "status");
    }
    pci::set_virtual(1)?;
    let (result, ..) = ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 1);
    check_eq!(result, Ok(0), "get when there are some again");
    Ok(())
}

fn too_many(env: &Env) -> Result<()> {
    let file = open()?;
    without_driver(env, 0, || {
        // There are not so many free, there never are, and there never could be.
        for count in [65, 66, 0x101, u16::MAX] {
            let (result, status, back) = ask(&file, abi::MGMT_IOC_SET_RES_COUNT, 0, count);
            check_eq!(result, Err(Errno::IO), "set to {count}");
            check_eq!((status, back), (SET_FAILED, count), "status and count");
        }
        check_eq!(groups(env, 1)?, 2, "groups");
        Ok(())
    })
}

fn refused(env: &Env) -> Result<()> {
    let file = open()?;
    env.control()?.inject(json!({
        "fault": "status", "class": "admin", "opcode": 0xc3, "status": 0x4007, "count": 1,
    }))?;
    env.control()?.inject(json!({
        "fault": "status", "class": "admin", "opcode": 0xc4, "status": 0x0006, "count": 1,
    }))?;
    let (result, status, _) = ask(&file, abi::MGMT_IOC_SET_RES_COUNT, 0, 2);
    check_eq!((result, status), (Err(Errno::IO), SET_FAILED), "set");
    let (result, status, _) = ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 2);
    check_eq!((result, status), (Err(Errno::IO), GET_FAILED), "get");
    let (result, ..) = ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 2);
    check_eq!(result, Ok(0), "another get");
    Ok(())
}

/// A count that cannot be is not cut down to one that can.
fn nonsense(env: &Env) -> Result<()> {
    let file = open()?;
    // 65 groups are the most; the numbers of the ioctl have 16 bits.
    for (offset, xor) in [(0, 0x80), (1, 1), (2, 1), (3, 0x80)] {
        env.control()?.inject(json!({
            "fault": "corrupt_cqe", "class": "admin", "opcode": 0xc4, "count": 1,
            "offset": offset, "xor": xor,
        }))?;
        let (result, status, count) = ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 7);
        check_eq!(
            (result, status),
            (Err(Errno::IO), GET_FAILED),
            "byte {offset}"
        );
        check_eq!(count, 7, "count");
    }
    let (result, ..) = ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 7);
    check_eq!(result, Ok(0), "another get");
    Ok(())
}

/// What of a function that does not run can be asked for.
fn check_not_running(file: &File) -> Result<()> {
    let (result, status, _) = ask(file, abi::MGMT_IOC_SET_RES_COUNT, 0, 2);
    check_eq!((result, status), (Err(Errno::AGAIN), SET_FAILED), "set");
    let (result, status, _) = ask(file, abi::MGMT_IOC_GET_RES_COUNT, 0, 2);
    check_eq!((result, status), (Err(Errno::AGAIN), GET_FAILED), "get");
    // What is wrong with the request itself comes first.
    let (result, status, _) = ask(file, abi::MGMT_IOC_GET_RES_COUNT, 2, 2);
    check_eq!((result, status), (Err(Errno::INVAL), BAD_VF), "get of none");
    let node = Management::open(NODE)?;
    check_eq!(node.virtual_functions()?, 2, "virtual functions");
    node.info()?;
    Ok(())
}

fn recovering(env: &Env) -> Result<()> {
    let file = open()?;
    let device = env.open()?;
    env.control()?
        .inject(json!({ "fault": "slow_disable", "ms": 2000, "count": 1 }))?;
    thread::scope(|scope| -> Result<()> {
        let reset = scope.spawn(|| device.reset(ResetKind::Controller));
        thread::sleep(Duration::from_millis(700));
        let result = check_not_running(&file);
        reset.join().expect("does not panic")?;
        result
    })?;
    let (result, ..) = ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 2);
    check_eq!(result, Ok(0), "get after it");
    Ok(())
}

fn dead(env: &Env) -> Result<()> {
    let file = open()?;
    let device = env.open()?;
    env.control()?.set("cap_to", &json!(1))?;
    env.control()?.inject(json!({ "fault": "fail_enable" }))?;
    ensure!(
        device.reset(ResetKind::Controller).is_err(),
        "it can be reset"
    );
    check_not_running(&file)
}

fn lost(env: &Env) -> Result<()> {
    let file = open()?;
    env.control()?.inject(json!({
        "fault": "drop_command", "class": "admin", "opcode": 0xc4, "count": 1,
    }))?;
    let begin = Instant::now();
    let (result, status, _) = ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 2);
    check_eq!((result, status), (Err(Errno::AGAIN), GET_FAILED), "get");
    health::figure("an admin command that is lost", begin.elapsed());
    let (result, ..) = ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 2);
    check_eq!(result, Ok(0), "another get");
    Ok(())
}

fn killed(env: &Env) -> Result<()> {
    let file = open()?;
    env.control()?.inject(json!({
        "fault": "delay", "class": "admin", "opcode": 0xc4, "ms": 3000, "count": 2,
    }))?;
    let get = || {
        Child::run(|| {
            let _ = ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 2);
            0
        })
    };
    // The second one waits for the first.
    let mut children = [get()?, get()?];
    thread::sleep(Duration::from_millis(500));
    for child in children.iter_mut().rev() {
        child.kill()?;
        let begin = Instant::now();
        child.wait(RESET)?;
        let time = begin.elapsed();
        ensure!(time < Duration::from_secs(1), "it ended after {time:?}");
    }
    env.control()?.clear_faults()?;
    let (result, ..) = ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 2);
    check_eq!(result, Ok(0), "get after it");
    Ok(())
}

/// As many requests as there could be commands, of a device that takes its time.
fn in_the_way(env: &Env) -> Result<()> {
    let file = open()?;
    let device = env.open()?;
    env.control()?.inject(json!({
        "fault": "delay", "class": "admin", "opcode": 0xc4, "ms": 20000, "count": 40,
    }))?;
    thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..40)
            .map(|_| scope.spawn(|| ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 2).0))
            .collect();
        thread::sleep(Duration::from_millis(500));
        let begin = Instant::now();
        let result = device.reset(ResetKind::Controller);
        let time = begin.elapsed();
        health::figure("a reset with 40 management requests under way", time);
        env.control()?.clear_faults()?;
        for thread in threads {
            let result = thread.join().expect("does not panic");
            ensure!(
                matches!(result, Ok(0) | Err(Errno::AGAIN)),
                "a request ended with {result:?}"
            );
        }
        result?;
        ensure!(time < RESET, "the reset took {time:?}");
        Ok(())
    })
}

/// Requests that the device has lost, and nobody waits for, are not so many that recovery
/// cannot ask whether the device is well.
fn left(env: &Env) -> Result<()> {
    let file = open()?;
    let device = env.open()?;
    let directory = pci::directory(&env.address()?).join("azihsm");
    let figure = |name: &str| -> Result<u64> {
        Ok(fs::read_to_string(directory.join(name))?.trim().parse()?)
    };
    let get = || ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 2);
    env.control()?
        .inject(json!({ "fault": "drop_command", "class": "admin", "opcode": 0xc4 }))?;
    for _ in 0..20 {
        let mut child = Child::run(|| {
            let _ = get();
            0
        })?;
        thread::sleep(Duration::from_millis(100));
        child.kill()?;
        child.wait(RESET)?;
    }
    env.control()?.clear_faults()?;
    env.control()?
        .inject(json!({ "fault": "drop_command", "class": "hsm", "count": 1 }))?;
    ensure!(hsm::api_revisions(&device).is_err(), "it was completed");
    health::wait_serving(env, RESET)?;
    check_eq!(figure("recovery/resets_unresponsive")?, 0, "resets");
    check_eq!(figure("global/total_lvl1_aborts")?, 1, "aborts of queues");
    // All are with the device until it is reset.
    let (result, status, _) = get();
    check_eq!((result, status), (Err(Errno::AGAIN), GET_FAILED), "get");
    device.reset(ResetKind::Controller)?;
    let (result, ..) = get();
    check_eq!(result, Ok(0), "get after a reset");
    Ok(())
}

fn check_gone(file: &File) -> Result<()> {
    for number in ALL.into_iter().chain([0xdead_beef]) {
        check_eq!(
            sys::submit_at(file, number, 0),
            Err(Errno::NODEV),
            "ioctl {number:#x}"
        );
    }
    Ok(())
}

fn unbound(env: &Env) -> Result<()> {
    let address = env.address()?;
    let file = open()?;
    pci::unbind(&address)?;
    ensure!(!Path::new(NODE).exists(), "the node is still there");
    check_gone(&file)?;
    pci::bind(&address)?;
    check_gone(&file)?;
    // They have gone with the driver.
    ensure!(!Path::new(NODE).exists(), "the node is back");
    drop(file);
    open()?;
    check_eq!(Management::open(NODE)?.virtual_functions()?, 2, "number");
    hsm::api_revisions(&env.open()?)?;
    Ok(())
}

fn unbound_meanwhile(env: &Env) -> Result<()> {
    let address = env.address()?;
    let file = open()?;
    env.control()?.inject(json!({
        "fault": "delay", "class": "admin", "opcode": 0xc4, "ms": 20000, "count": 8,
    }))?;
    thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| ask(&file, abi::MGMT_IOC_GET_RES_COUNT, 0, 2).0))
            .collect();
        thread::sleep(Duration::from_millis(500));
        let begin = Instant::now();
        pci::unbind(&address)?;
        let time = begin.elapsed();
        for thread in threads {
            check_eq!(
                thread.join().expect("does not panic"),
                Err(Errno::NODEV),
                "get"
            );
        }
        ensure!(time < RESET, "unbinding took {time:?}");
        Ok(())
    })?;
    env.control()?.clear_faults()?;
    pci::bind(&address)
}

fn load_with(env: &Env, parameters: &std::ffi::CStr) -> Result<()> {
    module::unload().context("delete_module")?;
    module::load_with(&env.module, parameters)
}

fn parameter(env: &Env) -> Result<()> {
    for (parameters, wanted) in [
        (c"", 1),
        (c"pf_res_cnt=3", 3),
        (c"pf_res_cnt=0", 3),
        (c"pf_res_cnt=2", 2),
    ] {
        load_with(env, parameters)?;
        check_eq!(groups(env, 0)?, wanted, "groups with {parameters:?}");
        check_eq!(groups(env, 1)?, 2, "groups of a virtual function");
        let kind = hsm::kind(&env.open()?)?;
        check_eq!(u64::from(kind.tables), wanted, "what it says itself");
        let device = env.open()?;
        device.reset(ResetKind::Controller)?;
        check_eq!(groups(env, 0)?, wanted, "groups after a reset");
        hsm::api_revisions(&device)?;
    }
    Ok(())
}

fn parameter_too_large(env: &Env) -> Result<()> {
    load_with(env, c"pf_res_cnt=200")?;
    check_eq!(groups(env, 0)?, 1, "groups");
    hsm::api_revisions(&env.open()?)?;
    Ok(())
}

fn forbidden(env: &Env) -> Result<()> {
    load_with(env, c"pf_lvl2_abort_enabled=0")?;
    let enables =
        |env: &Env| -> Result<Option<u64>> { Ok(env.control()?.counters()?["enables"].as_u64()) };
    let before = enables(env)?;
    ensure!(before.is_some(), "no count of enables");
    let device = env.open()?;
    for (kind, number) in [
        (ResetKind::Controller, abi::RESET_CONTROLLER),
        (ResetKind::Subsystem, abi::RESET_SUBSYSTEM),
    ] {
        let error = device.reset(kind).err().map(|error| error.errno);
        check_eq!(error, Some(Errno::INVAL), "reset {number}");
    }
    let mut arg = abi::Reset::new_zeroed();
    arg.hdr.size = size_of::<abi::Reset>() as u32;
    arg.kind = abi::RESET_CONTROLLER;
    let result = sys::submit(&device, abi::IOC_RESET, &mut arg);
    check_eq!(
        (result, arg.status),
        (Err(Errno::INVAL), UNSUPPORTED),
        "reset"
    );
    check_eq!(enables(env)?, before, "enables");
    hsm::api_revisions(&device)?;
    // Of virtual functions it says nothing.
    env.of(1).open()?.reset(ResetKind::Controller)?;
    Ok(())
}

fn cut_off(env: &Env) -> Result<()> {
    load_with(env, c"pf_lvl2_abort_enabled=0")?;
    let address = env.address()?;
    let figure = |name: &str| -> Result<String> {
        let path = pci::directory(&address).join("azihsm").join(name);
        Ok(fs::read_to_string(path)?.trim().to_owned())
    };
    let device = env.open()?;
    hsm::api_revisions(&device)?;
    ensure!(
        pci::may_access_memory(&address)?,
        "it may not access memory"
    );
    env.control()?
        .inject(json!({ "fault": "delay", "class": "hsm", "ms": 60000 }))?;
    thread::scope(|scope| -> Result<()> {
        let waiters: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| hsm::api_revisions(&device).is_err()))
            .collect();
        thread::sleep(Duration::from_millis(500));
        env.control()?.inject(json!({ "fault": "crash" }))?;
        let begin = Instant::now();
        for waiter in waiters {
            ensure!(waiter.join().expect("does not panic"), "it was completed");
        }
        ensure!(begin.elapsed() < RESET, "it took {:?}", begin.elapsed());
        Ok(())
    })?;
    check_eq!(figure("state")?, "dead", "state");
    check_eq!(figure("recovery/cuts")?, "1", "times that it was cut off");
    check_eq!(figure("recovery/resets_fault")?, "0", "resets");
    ensure!(
        !pci::may_access_memory(&address)?,
        "it may still access memory"
    );
    // It is left like that.
    thread::sleep(Duration::from_secs(3));
    check_eq!(figure("state")?, "dead", "state");
    ensure!(hsm::api_revisions(&device).is_err(), "a command is served");
    hsm::api_revisions(&env.of(1).open()?)?;
    drop(device);
    env.control()?.clear_faults()?;
    pci::unbind(&address)?;
    pci::bind(&address)?;
    hsm::api_revisions(&env.open()?)?;
    Ok(())
}

fn without_groups(env: &Env) -> Result<()> {
    let address = env.address()?;
    let nodes = hsm_nodes()?.len();
    module::unload().context("delete_module")?;
    env.control()?.set("groups", &json!(0))?;
    let mut log = KernelLog::end()?;
    module::load_with(&env.module, c"pf_res_cnt=0")?;
    check_eq!(pci::driver(&address).as_deref(), Some("azihsm"), "driver");
    let said = log.read_about_driver()?;
    ensure!(
        said.iter()
            .any(|message| message.text.contains("no resource groups")),
        "nothing is said of it"
    );
    check_eq!(hsm_nodes()?.len(), nodes - 1, "nodes for the HSM");
    let state = fs::read_to_string(pci::directory(&address).join("azihsm/state"))?;
    check_eq!(state.trim(), "running", "state");
    open()?;
    let node = Management::open(NODE)?;
    check_eq!(node.resource_groups(0)?, 2, "groups of a virtual function");
    check_eq!(node.info()?.pci, address, "PCI address");
    drop(node);
    // Nothing of it needs the HSM.
    pci::reset(&address)?;
    check_eq!(pci::driver(&address).as_deref(), Some("azihsm"), "driver");
    Ok(())
}
