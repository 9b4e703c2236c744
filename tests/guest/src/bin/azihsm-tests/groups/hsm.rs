// SPDX-License-Identifier: GPL-2.0
//! HSM commands outside of sessions (`Documentation/abi.rst`, 2.3 and 3.2).

use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use crate::scene::HsmScene;
use crate::scene::STALE;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::sys;
use azihsm_guest::sys::Access;
use azihsm_guest::sys::Memory;
use azihsm_guest::sys::PAGE;
use azihsm_mbor::Response;
use azihsm_mbor::Revision;
use azihsm_mbor::Status;
use azihsm_uapi::abi;
use azihsm_uapi::abi::ext;
use azihsm_uapi::abi::HsmCmd;
use azihsm_uapi::Errno;
use azihsm_uapi::Flow;
use serde_json::json;
use std::mem::size_of;
use std::process::Command;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

const SIZE: usize = size_of::<HsmCmd>();

/// Status of the device for a request it cannot take because of its length.
const BAD_SRC_LEN: u32 = 0xc1;
/// The same for the room for the response.
const BAD_DST_LEN: u32 = 0xc2;
/// Status of the device for a request that has no place in its memory.
const NO_BUFFER: u32 = 0x07;
/// Status of the device for an opcode it does not know.
const BAD_OPCODE: u32 = 0x01;

/// One way to get a command wrong, and what comes of it.
struct Wrong {
    name: &'static str,
    change: fn(&mut HsmCmd),
    ext: u32,
}

/// The checks of the table in 3.2 that fail with EINVAL, in its order.
const WRONG: &[Wrong] = &[
    Wrong {
        name: "command-set-1",
        change: |cmd| cmd.input.cmdset = 1,
        ext: ext::HSM_CMDSET,
    },
    Wrong {
        name: "command-set-ffff",
        change: |cmd| cmd.input.cmdset = 0xffff,
        ext: ext::HSM_CMDSET,
    },
    Wrong {
        name: "opcode-1-flush",
        change: |cmd| cmd.input.opcode = 1,
        ext: ext::HSM_CMDSET,
    },
    Wrong {
        name: "opcode-3",
        change: |cmd| cmd.input.opcode = 3,
        ext: ext::HSM_CMDSET,
    },
    Wrong {
        name: "opcode-400-of-11-bits",
        change: |cmd| cmd.input.opcode = 0x400,
        ext: ext::HSM_CMDSET,
    },
    Wrong {
        name: "opcode-401-flush-of-11-bits",
        change: |cmd| cmd.input.opcode = 0x401,
        ext: ext::HSM_CMDSET,
    },
    Wrong {
        name: "opcode-ffff",
        change: |cmd| cmd.input.opcode = 0xffff,
        ext: ext::HSM_CMDSET,
    },
    Wrong {
        name: "request-of-8193",
        change: |cmd| cmd.input.src_len = 8193,
        ext: ext::HSM_SRC_LEN,
    },
    Wrong {
        name: "request-of-ffffffff",
        change: |cmd| cmd.input.src_len = u32::MAX,
        ext: ext::HSM_SRC_LEN,
    },
    Wrong {
        name: "response-of-8193",
        change: |cmd| cmd.input.dst_len = 8193,
        ext: ext::HSM_DST_LEN,
    },
    Wrong {
        name: "response-of-ffffffff",
        change: |cmd| cmd.input.dst_len = u32::MAX,
        ext: ext::HSM_DST_LEN,
    },
    Wrong {
        name: "request-address-without-length",
        change: |cmd| cmd.input.src_len = 0,
        ext: ext::HSM_SRC,
    },
    Wrong {
        name: "request-length-without-address",
        change: |cmd| cmd.input.src = 0,
        ext: ext::HSM_SRC,
    },
    Wrong {
        name: "response-address-without-length",
        change: |cmd| cmd.input.dst_len = 0,
        ext: ext::HSM_DST,
    },
    Wrong {
        name: "response-length-without-address",
        change: |cmd| cmd.input.dst = 0,
        ext: ext::HSM_DST,
    },
    Wrong {
        name: "in-session-without-session",
        change: |cmd| cmd.input.session = Flow::InSession(0).into(),
        ext: ext::HSM_NO_SESSION,
    },
    Wrong {
        name: "close-without-session",
        change: |cmd| cmd.input.session = Flow::Close(0).into(),
        ext: ext::HSM_NO_SESSION,
    },
    Wrong {
        name: "in-session-without-session-or-id",
        change: |cmd| cmd.input.session.flags = abi::FLOW_IN_SESSION,
        ext: ext::HSM_NO_SESSION,
    },
    Wrong {
        name: "request-in-kernel-space",
        change: |cmd| cmd.input.src = sys::KERNEL,
        ext: ext::HSM_SRC,
    },
    Wrong {
        name: "request-at-the-very-end",
        change: |cmd| cmd.input.src = u64::MAX - 3,
        ext: ext::HSM_SRC,
    },
    Wrong {
        name: "response-in-kernel-space",
        change: |cmd| cmd.input.dst = sys::KERNEL,
        ext: ext::HSM_DST,
    },
    Wrong {
        name: "response-at-the-very-end",
        change: |cmd| cmd.input.dst = u64::MAX - 3,
        ext: ext::HSM_DST,
    },
    Wrong {
        name: "request-unmapped",
        change: |cmd| cmd.input.src = sys::UNMAPPED,
        ext: ext::HSM_SRC,
    },
];

/// Names of entries of [`WRONG`] that do not exclude each other, in the order in
/// which the driver is to look for them.
const ORDER: &[&str] = &[
    "command-set-1",
    "opcode-3",
    "request-of-8193",
    "response-of-8193",
    "request-length-without-address",
    "response-length-without-address",
    "in-session-without-session",
    "request-in-kernel-space",
    "response-in-kernel-space",
];

/// Requests the device refuses because of the lengths: of the request, of the
/// room for the response, and the status.
const LENGTHS: &[(usize, usize, u32)] = &[
    (0, 8192, BAD_SRC_LEN),
    (0, 0, BAD_SRC_LEN),
    (14, 0, BAD_DST_LEN),
    (3585, 8192, NO_BUFFER),
    (4096, 8192, NO_BUFFER),
    (4097, 8192, BAD_SRC_LEN),
    (8192, 8192, BAD_SRC_LEN),
];

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    let mut tests = vec![
        Test::new("hsm/get-api-rev", get_api_rev),
        Test::new("hsm/get-device-info", get_device_info),
        Test::new("hsm/client-in-c", client_in_c),
        Test::new("hsm/output-is-cleared-and-ctxt-echoed", output),
        Test::new("hsm/refusal-reaches-no-device", no_device),
        Test::new("hsm/checks-come-in-order", order),
        Test::new("hsm/larger-size-is-accepted", larger_size),
        Test::new("hsm/structure-unreadable-efault", unreadable),
        Test::new("hsm/structure-cut-off-efault", cut_off),
        Test::new("hsm/structure-unwritable-efault", unwritable),
        Test::new("hsm/header-and-padding-are-ignored", ignored),
        Test::new("hsm/flow-none-drops-the-session-fields", flow_none),
        Test::new("hsm/entry-has-the-second-page", second_page),
        Test::new("hsm/tbor-reaches-the-device", tbor),
        Test::new("hsm/request-with-a-hole", request_hole),
        Test::new("hsm/request-across-pages", across_pages),
        Test::new("hsm/request-of-8-kib-at-odd-address", odd_address),
        Test::new("hsm/response-unmapped", response_unmapped),
        Test::new("hsm/response-read-only", response_read_only),
        Test::new("hsm/response-across-pages", response_across_pages),
        Test::new("hsm/response-room-need-not-be-there", response_room),
        Test::new("hsm/response-into-request", in_place),
        Test::new("hsm/response-into-structure", into_structure),
        Test::new("hsm/response-leaves-the-rest-alone", rest),
        Test::new("hsm/response-of-a-failed-command", failed_response),
        Test::new("hsm/nothing-stale-is-copied-out", nothing_stale),
        Test::new("hsm/no-traces-in-shared-memory", no_traces),
        Test::new("hsm/response-longer-than-claimed-is-bounded", bounded),
        Test::new("hsm/nonsense-is-answered", nonsense),
        Test::new("hsm/device-status-is-no-failure", device_status),
    ];
    for size in [0_u32, 1, 15, 16, 111] {
        tests.push(Test::new(
            format!("hsm/size-{size}-einval-nothing-written"),
            move |env: &Env| small_size(env, size),
        ));
    }
    for len in [1, 5, 57] {
        tests.push(Test::new(
            format!("hsm/response-cut-off-at-{len}"),
            move |env: &Env| cut_response(env, len),
        ));
    }
    for wrong in WRONG {
        tests.push(Test::new(
            format!("hsm/{}-einval-{}", wrong.name, wrong.ext),
            |env: &Env| refused(env, wrong),
        ));
    }
    for &(src_len, dst_len, status) in LENGTHS {
        tests.push(Test::new(
            format!("hsm/lengths-{src_len}-and-{dst_len}-status-{status:#x}"),
            move |env: &Env| lengths(env, src_len, dst_len, status),
        ));
    }
    tests
}

/// Makes sure that `response` is what GetApiRev has to answer.
fn check_revisions(response: &[u8]) -> Result<()> {
    let response = Response::decode(response)?;
    check_eq!(response.header.status, Status::SUCCESS, "status");
    let (oldest, newest) = hsm::revisions(&response)?;
    check_eq!((oldest, newest), (Revision::V1, Revision::V1), "revisions");
    Ok(())
}

fn get_api_rev(env: &Env) -> Result<()> {
    let mut scene = HsmScene::get_api_rev()?;
    scene.send_well(&env.open()?)?;
    check_revisions(&scene.response())
}

fn get_device_info(env: &Env) -> Result<()> {
    let kind = hsm::kind(&env.open()?)?;
    ensure!(kind.tables > 0, "no resource groups");
    Ok(())
}

/// A program that knows nothing but the C library and the header.
fn client_in_c(_: &Env) -> Result<()> {
    let output = Command::new("/bin/roundtrip")
        .arg("/dev/azihsm0")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(text.ends_with("OK\n"), "{text}");
    Ok(())
}

fn output(env: &Env) -> Result<()> {
    let device = env.open()?;
    for ctxt in [0, 1, u64::MAX] {
        let mut scene = HsmScene::get_api_rev()?;
        scene.cmd.input.ctxt = ctxt;
        scene.send_well(&device)?;
        let count = scene.cmd.output.byte_count as usize;
        ensure!(count > 0 && count < 200, "{count} bytes");
    }
    Ok(())
}

fn no_device(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut control = env.control()?;
    let before = control.counters()?["commands"]["hsm"].clone();
    ensure!(before.is_u64(), "no counters");
    for wrong in WRONG {
        let mut scene = HsmScene::get_api_rev()?;
        (wrong.change)(&mut scene.cmd);
        scene.send_badly(&device, Errno::INVAL, wrong.ext)?;
        scene.check_untouched_from(0)?;
    }
    check_eq!(control.counters()?["commands"]["hsm"], before, "commands");
    Ok(())
}

fn refused(env: &Env, wrong: &Wrong) -> Result<()> {
    let device = env.open()?;
    let mut scene = HsmScene::get_api_rev()?;
    (wrong.change)(&mut scene.cmd);
    scene.send_badly(&device, Errno::INVAL, wrong.ext)?;
    scene.check_untouched_from(0)?;
    HsmScene::get_api_rev()?.send_well(&device)
}

/// Everything wrong at once, and then one thing less each time.
fn order(env: &Env) -> Result<()> {
    let device = env.open()?;
    for first in 0..ORDER.len() {
        let mut scene = HsmScene::get_api_rev()?;
        let mut expected = 0;
        for name in ORDER[first..].iter().rev() {
            let wrong = WRONG.iter().find(|wrong| wrong.name == *name);
            let wrong = wrong.expect("in the table");
            (wrong.change)(&mut scene.cmd);
            expected = wrong.ext;
        }
        scene.send_badly(&device, Errno::INVAL, expected)?;
    }
    Ok(())
}

fn small_size(env: &Env, size: u32) -> Result<()> {
    let mut scene = HsmScene::get_api_rev()?;
    scene.cmd.hdr.size = size;
    let before = scene.cmd;
    check_eq!(scene.send(&env.open()?), Err(Errno::INVAL), "ioctl");
    check_eq!(scene.cmd.as_bytes(), before.as_bytes(), "structure");
    Ok(())
}

fn larger_size(env: &Env) -> Result<()> {
    let device = env.open()?;
    for size in [113, 4096, u32::MAX] {
        let mut scene = HsmScene::get_api_rev()?;
        scene.cmd.hdr.size = size;
        scene.send_well(&device)?;
        check_eq!(scene.cmd.hdr.size, size, "size");
    }
    Ok(())
}

fn unreadable(env: &Env) -> Result<()> {
    let device = env.open()?;
    for address in [0, 1, sys::UNMAPPED, sys::KERNEL, u64::MAX] {
        let result = sys::submit_at(&device, abi::IOC_HSM_CMD, address);
        check_eq!(result, Err(Errno::FAULT), "ioctl at {address:#x}");
    }
    Ok(())
}

/// The structure in front of a page that is not there.
fn cut_off(env: &Env) -> Result<()> {
    let device = env.open()?;
    let scene = HsmScene::get_api_rev()?;
    let memory = Memory::new(1)?;
    for len in [4, 15, 16, 88, 104, SIZE - 1] {
        memory.write(memory.size() - len, &scene.cmd.as_bytes()[..len]);
        let address = memory.address_of_last(len);
        let result = sys::submit_at(&device, abi::IOC_HSM_CMD, address);
        check_eq!(result, Err(Errno::FAULT), "ioctl with {len} bytes");
    }
    Ok(())
}

fn unwritable(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut scene = HsmScene::get_api_rev()?;
    for opcode in [0, 1] {
        scene.cmd.input.opcode = opcode;
        let memory = Memory::with(scene.cmd.as_bytes())?;
        memory.protect(0, 1, Access::Read)?;
        let result = sys::submit_at(&device, abi::IOC_HSM_CMD, memory.address(0));
        check_eq!(result, Err(Errno::FAULT), "ioctl with opcode {opcode}");
    }
    Ok(())
}

fn ignored(env: &Env) -> Result<()> {
    let mut scene = HsmScene::get_api_rev()?;
    scene.cmd.hdr.app_cmd_id = u32::MAX;
    scene.cmd.hdr.timeout = u32::MAX;
    scene.cmd.hdr.flags = u32::MAX;
    scene.cmd.input.psdt = 0xff;
    scene.cmd.input.pad0 = [0xff; 3];
    scene.cmd.input.pad1 = u32::MAX;
    scene.cmd.input.pad2 = u32::MAX;
    scene.cmd.input.pad3 = u32::MAX;
    scene.cmd.input.session.flags = 0xf8;
    scene.cmd.input.session.reserved0 = 0xff;
    scene.cmd.input.session.reserved1 = [0xff; 16];
    let hdr = scene.cmd.hdr;
    scene.send_well(&env.open()?)?;
    check_eq!(scene.cmd.hdr.as_bytes(), hdr.as_bytes(), "header");
    check_revisions(&scene.response())
}

/// What `send` submits to the device, which must be one command.
fn entry_of(env: &Env, send: impl FnOnce() -> Result<()>) -> Result<Vec<u8>> {
    const SQE: usize = 64;
    let mut control = env.control()?;
    let before = control.submission_queues("hsm")?;
    send()?;
    let after = control.submission_queues("hsm")?;
    let mut used = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| old.3 != new.3);
    let (&(_, base, _, tail), _) = used.next().context("no command was submitted")?;
    ensure!(used.next().is_none(), "several commands were submitted");
    control.memory(base + (tail * SQE) as u64, SQE)
}

fn flow_none(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut scene = HsmScene::get_api_rev()?;
    scene.cmd.input.session.flags = abi::FLOW_NONE | abi::SESSION_ID_VALID;
    scene.cmd.input.session.id = 5;
    let entry = entry_of(env, || scene.send_well(&device))?;
    // Had the device taken the ID for valid it would not have answered.
    check_revisions(&scene.response())?;
    check_eq!(entry[44..50], [0; 6], "session fields of the entry");
    Ok(())
}

/// PRP2 is there if there is more than a page (device.rst 5.1).
fn second_page(env: &Env) -> Result<()> {
    let device = env.open()?;
    for (dst_len, offset) in [(4096, None), (4097, Some(4096)), (8192, Some(4096))] {
        let mut scene = HsmScene::get_api_rev()?;
        scene.cmd.input.dst_len = dst_len;
        let entry = entry_of(env, || scene.send_well(&device))?;
        let field =
            |at: usize| -> Result<u64> { Ok(u64::from_le_bytes(entry[at..at + 8].try_into()?)) };
        let (prp1, prp2) = (field(28)?, field(36)?);
        let expected = offset.map_or(0, |offset| prp1 + offset);
        check_eq!(prp2, expected, "PRP2 for {dst_len} bytes at {prp1:#x}");
    }
    Ok(())
}

fn tbor(env: &Env) -> Result<()> {
    let mut scene = HsmScene::get_api_rev()?;
    scene.cmd.input.opcode = abi::HSM_OP_TBOR;
    check_eq!(scene.send(&env.open()?), Ok(0), "ioctl");
    check_eq!(scene.cmd.output.status, BAD_OPCODE, "device status");
    check_eq!(scene.cmd.output.ext, 0, "extended status");
    Ok(())
}

fn lengths(env: &Env, src_len: usize, dst_len: usize, status: u32) -> Result<()> {
    let device = env.open()?;
    let mut request = hsm::get_api_rev();
    request.resize(src_len, 0);
    let mut scene = HsmScene::new(Flow::None, &request)?;
    if src_len == 0 {
        scene.cmd.input.src = 0;
    }
    scene.cmd.input.dst_len = dst_len as u32;
    if dst_len == 0 {
        scene.cmd.input.dst = 0;
    }
    check_eq!(
        scene.send(&device),
        Ok(0),
        "ioctl, extended status {}",
        scene.cmd.output.ext
    );
    check_eq!(scene.cmd.output.status, status, "device status");
    check_eq!(scene.cmd.output.byte_count, 0, "byte count");
    check_eq!(scene.cmd.output.ext, 0, "extended status");
    scene.check_untouched_from(0)
}

fn request_hole(env: &Env) -> Result<()> {
    let device = env.open()?;
    // 20 bytes of 40 are there, then 4096 of 8192.
    for (there, len) in [(20, 40), (PAGE, 2 * PAGE)] {
        let mut scene = HsmScene::new(Flow::None, &[0; PAGE])?;
        scene.cmd.input.src = scene.src.address_of_last(there);
        scene.cmd.input.src_len = len as u32;
        scene.send_badly(&device, Errno::INVAL, ext::HSM_SRC)?;
        scene.check_untouched_from(0)?;
    }
    HsmScene::get_api_rev()?.send_well(&device)
}

fn across_pages(env: &Env) -> Result<()> {
    let device = env.open()?;
    let request = hsm::get_api_rev();
    for before in 1..request.len() {
        let mut scene = HsmScene::get_api_rev()?;
        let memory = Memory::new(2)?;
        memory.write(PAGE - before, &request);
        scene.cmd.input.src = memory.address(PAGE - before);
        scene.send_well(&device)?;
        check_revisions(&scene.response())?;
    }
    Ok(())
}

fn odd_address(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut scene = HsmScene::get_api_rev()?;
    let memory = Memory::new(3)?;
    memory.write(1, &hsm::get_api_rev());
    scene.cmd.input.src = memory.address(1);
    scene.cmd.input.src_len = 8192;
    check_eq!(scene.send(&device), Ok(0), "ioctl");
    check_eq!(scene.cmd.output.status, BAD_SRC_LEN, "device status");
    Ok(())
}

fn response_unmapped(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut scene = HsmScene::get_api_rev()?;
    scene.cmd.input.dst = sys::UNMAPPED;
    scene.send_badly(&device, Errno::INVAL, ext::HSM_DST)?;
    HsmScene::get_api_rev()?.send_well(&device)
}

fn response_read_only(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut scene = HsmScene::get_api_rev()?;
    scene.dst.protect(0, 2, Access::Read)?;
    scene.send_badly(&device, Errno::INVAL, ext::HSM_DST)?;
    scene.check_untouched_from(0)
}

fn response_across_pages(env: &Env) -> Result<()> {
    let device = env.open()?;
    for before in [1, 13, 50] {
        let mut scene = HsmScene::get_api_rev()?;
        scene.cmd.input.dst = scene.dst.address(PAGE - before);
        scene.cmd.input.dst_len = PAGE as u32;
        scene.send_well(&device)?;
        let count = scene.cmd.output.byte_count as usize;
        check_revisions(&scene.dst.read(PAGE - before, count))?;
        check_eq!(
            scene.dst.read(PAGE - before - 1, 1),
            [STALE],
            "byte in front"
        );
        scene.check_untouched_from(PAGE - before + count)?;
    }
    Ok(())
}

/// Only what the device wrote has to have a place.
fn response_room(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut scene = HsmScene::get_api_rev()?;
    scene.send_well(&device)?;
    let count = scene.cmd.output.byte_count as usize;
    scene.cmd.input.dst = scene.dst.address_of_last(count);
    scene.send_well(&device)?;
    check_revisions(&scene.dst.read(scene.dst.size() - count, count))?;
    scene.cmd.input.dst = scene.dst.address_of_last(count - 1);
    scene.send_badly(&device, Errno::INVAL, ext::HSM_DST)
}

fn in_place(env: &Env) -> Result<()> {
    let device = env.open()?;
    for distance in [0, 1, 7] {
        let mut scene = HsmScene::get_api_rev()?;
        scene.cmd.input.dst = scene.src.address(distance);
        scene.cmd.input.dst_len = 1024;
        scene.send_well(&device)?;
        let count = scene.cmd.output.byte_count as usize;
        check_revisions(&scene.src.read(distance, count))?;
    }
    Ok(())
}

/// The structure itself as the destination: its output is written last.
fn into_structure(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut scene = HsmScene::get_api_rev()?;
    let memory = Memory::new(1)?;
    scene.cmd.input.dst = memory.address(0);
    scene.cmd.input.dst_len = 1024;
    memory.write(0, scene.cmd.as_bytes());
    let result = sys::submit_at(&device, abi::IOC_HSM_CMD, memory.address(0));
    check_eq!(result, Ok(0), "ioctl");
    let cmd = HsmCmd::read_from_bytes(&memory.read(0, SIZE)).expect("same size");
    check_eq!(cmd.output.ctxt, scene.cmd.input.ctxt, "out.ctxt");
    check_eq!((cmd.output.status, cmd.output.ext), (0, 0), "status");
    ensure!(cmd.output.byte_count > 0, "no bytes");
    Ok(())
}

fn cut_response(env: &Env, len: usize) -> Result<()> {
    let device = env.open()?;
    let mut whole = HsmScene::get_api_rev()?;
    whole.send_well(&device)?;
    let whole = whole.response();
    ensure!(len < whole.len(), "the response has {} bytes", whole.len());
    let mut scene = HsmScene::get_api_rev()?;
    scene.cmd.input.dst_len = len as u32;
    scene.send_well(&device)?;
    check_eq!(scene.cmd.output.byte_count, len as u32, "byte count");
    check_eq!(scene.dst.read(0, len), whole[..len], "response");
    scene.check_untouched_from(len)
}

fn rest(env: &Env) -> Result<()> {
    let mut scene = HsmScene::get_api_rev()?;
    scene.send_well(&env.open()?)?;
    scene.check_untouched_from(scene.cmd.output.byte_count as usize)
}

/// A command that failed has no response, whatever the device says.
fn failed_response(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut control = env.control()?;
    for fault in [
        json!({ "fault": "status", "class": "hsm", "count": 1, "status": 7, "execute": true }),
        json!({ "fault": "cqe_length", "class": "hsm", "count": 1, "length": 50 }),
    ] {
        control.inject(fault)?;
    }
    let mut scene = HsmScene::get_api_rev()?;
    check_eq!(scene.send(&device), Ok(0), "ioctl");
    check_eq!(scene.cmd.output.status, 7, "device status");
    check_eq!(scene.cmd.output.byte_count, 0, "byte count");
    scene.check_untouched_from(0)
}

/// A device that claims more than it wrote must not bring to light what was in
/// the driver's memory before.
fn nothing_stale(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut whole = HsmScene::get_api_rev()?;
    whole.send_well(&device)?;
    let len = whole.cmd.output.byte_count as usize;
    // Requests and responses that are longer leave their traces wherever the
    // driver copies them to.
    let secret = b"SECRETSECRETSECRET!!";
    for _ in 0..40 {
        let mut scene = HsmScene::new(Flow::None, &secret.repeat(150))?;
        check_eq!(scene.send(&device), Ok(0), "ioctl");
        let mut scene = HsmScene::new(Flow::Open, &hsm::open_request())?;
        scene.send_well(&device)?;
        let count = scene.cmd.output.byte_count as usize;
        ensure!(count > len, "a response of {count} bytes is no longer");
        let session = hsm::session_of(&Response::decode(&scene.response())?)?;
        hsm::close_session(&device, session.id)?;
    }
    let mut control = env.control()?;
    for _ in 0..40 {
        control.inject(json!({
            "fault": "cqe_length", "class": "hsm", "count": 1, "length": 8192,
        }))?;
        let mut scene = HsmScene::get_api_rev()?;
        check_eq!(scene.send(&device), Ok(0), "ioctl");
        let response = scene.response();
        check_eq!(response.len(), 8192, "byte count");
        check_revisions(&response[..len])?;
        let stale = response[len..].iter().position(|&byte| byte != 0);
        ensure!(
            stale.is_none(),
            "byte {} of another command was copied out",
            len + stale.unwrap_or(0)
        );
    }
    Ok(())
}

/// Makes sure that the memory of HSM commands that have ended does not hold
/// `pattern`.
pub fn check_no_traces(env: &Env, pattern: &[u8]) -> Result<()> {
    const SQE: usize = 64;
    const PAGES: [usize; 4] = [8, 16, 28, 36];
    let mut control = env.control()?;
    let mut looked_at = 0;
    for (queue, base, entries, _) in control.submission_queues("hsm")? {
        let ring = control.memory(base, entries * SQE)?;
        for sqe in ring.chunks(SQE) {
            for at in PAGES {
                let page = u64::from_le_bytes(sqe[at..at + 8].try_into()?);
                if page != 0 {
                    looked_at += 1;
                    ensure!(
                        !control.memory_holds(page, PAGE, pattern)?,
                        "queue {queue}: a command left its traces"
                    );
                }
            }
        }
    }
    ensure!(looked_at > 0, "no memory was looked at");
    Ok(())
}

/// The memory that the device can reach forgets what it was used for.
fn no_traces(env: &Env) -> Result<()> {
    let device = env.open()?;
    let secret = b"What nobody needs to know any more.";
    for count in [1, 50, 100] {
        let mut scene = HsmScene::new(Flow::None, &secret.repeat(count))?;
        check_eq!(scene.send(&device), Ok(0), "ioctl");
    }
    check_no_traces(env, secret)
}

fn bounded(env: &Env) -> Result<()> {
    let device = env.open()?;
    for length in [8193, 65535] {
        env.control()?.inject(json!({
            "fault": "cqe_length", "class": "hsm", "count": 1, "length": length,
        }))?;
        let mut scene = HsmScene::get_api_rev()?;
        scene.cmd.input.dst_len = 100;
        check_eq!(scene.send(&device), Ok(0), "ioctl");
        ensure!(
            scene.cmd.output.byte_count <= 100,
            "{} bytes",
            scene.cmd.output.byte_count
        );
        scene.check_untouched_from(100)?;
    }
    HsmScene::get_api_rev()?.send_well(&device)
}

fn nonsense(env: &Env) -> Result<()> {
    let device = env.open()?;
    for request in [&[0xff; 16][..], &[0; 1], &[0xa2; 3584]] {
        let response = hsm::exchange(&device, Flow::None, request)?;
        check_eq!(response.header.status, Status::DECODE_FAILED, "status");
    }
    Ok(())
}

fn device_status(env: &Env) -> Result<()> {
    let device = env.open()?;
    for status in [1, 0x7ff] {
        env.control()?.inject(json!({
            "fault": "status", "class": "hsm", "count": 1, "status": status,
        }))?;
        let mut scene = HsmScene::get_api_rev()?;
        check_eq!(scene.send(&device), Ok(0), "ioctl");
        check_eq!(scene.cmd.output.status, status, "device status");
        check_eq!(scene.cmd.output.ext, 0, "extended status");
        check_eq!(scene.cmd.output.ctxt, scene.cmd.input.ctxt, "out.ctxt");
    }
    HsmScene::get_api_rev()?.send_well(&device)
}
