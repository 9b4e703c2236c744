// SPDX-License-Identifier: GPL-2.0
//! Sessions (`Documentation/abi.rst`, 4.3 and 4.5).

use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use crate::scene::AesScene;
use crate::scene::HsmScene;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::Control;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::sys;
use azihsm_guest::sys::Child;
use azihsm_mbor::Operation;
use azihsm_mbor::Status;
use azihsm_uapi::abi;
use azihsm_uapi::abi::ext;
use azihsm_uapi::Device;
use azihsm_uapi::Errno;
use azihsm_uapi::Error;
use azihsm_uapi::Flow;
use serde_json::json;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// Sessions that the device has.
const SESSIONS: usize = 8;

const PATIENCE: Duration = Duration::from_secs(20);

/// The tests of this group.
pub fn tests() -> Vec<Test> {
    vec![
        Test::new("session/open-use-close", open_use_close),
        Test::new("session/close-and-open-again", again),
        Test::new("session/in-session-without-id-14", without_id),
        Test::new("session/in-session-with-another-id-14", another_id),
        Test::new("session/close-without-id-14", close_without_id),
        Test::new("session/close-with-another-id-14", close_another_id),
        Test::new("session/second-open-11", second_open),
        Test::new("session/closed-is-gone-12", closed_is_gone),
        Test::new("session/second-descriptor-has-its-own", second_descriptor),
        Test::new("session/of-another-descriptor-12", of_another_descriptor),
        Test::new("session/flow-none-next-to-a-session", flow_none),
        Test::new("session/eight-and-no-ninth", ninth),
        Test::new("session/refused-open-leaves-the-place-empty", refused_open),
        Test::new("session/failed-open-leaves-the-place-empty", failed_open),
        Test::new(
            "session/open-with-an-id-is-for-the-device-to-refuse",
            open_with_id,
        ),
        Test::new(
            "session/open-answered-without-id-is-no-session",
            open_without_id,
        ),
        Test::new(
            "session/open-answered-with-another-flow-is-no-session",
            open_other_flow,
        ),
        Test::new(
            "session/open-of-a-failed-command-is-no-session",
            open_with_status,
        ),
        Test::new(
            "session/open-that-was-not-sent-leaves-the-place-empty",
            open_not_sent,
        ),
        Test::new("session/refused-close-keeps-the-session", refused_close),
        Test::new(
            "session/close-answered-with-another-flow-keeps-the-session",
            close_other_flow,
        ),
        Test::new(
            "session/close-that-was-not-sent-keeps-the-session",
            close_not_sent,
        ),
        Test::new(
            "session/answers-in-session-change-nothing",
            in_session_answers,
        ),
        Test::new("session/answers-outside-change-nothing", outside_answers),
        Test::new("session/close-waits-for-commands-under-way", close_waits).takes(4),
        Test::new(
            "session/close-of-another-id-keeps-the-session",
            close_other_id,
        ),
        Test::new(
            "session/failed-close-that-closed-empties-the-place",
            failed_close,
        ),
        Test::new(
            "session/open-that-cannot-be-delivered-is-flushed",
            undelivered,
        ),
        Test::new("session/close-flushes", close_flushes),
        Test::new(
            "session/close-flushes-a-number-that-no-device-gives-yet",
            close_flushes_any,
        ),
        Test::new("session/close-frees-before-it-returns", close_frees),
        Test::new("session/close-without-session-sends-nothing", close_silent),
        Test::new(
            "session/close-after-close-session-sends-nothing",
            closed_silent,
        ),
        Test::new("session/close-survives-a-refused-flush", refused_flush),
        Test::new("session/duplicate-descriptor-keeps-the-session", duplicate),
        Test::new("session/exit-flushes", exit_flushes),
        Test::new("session/kill-flushes", kill_flushes),
        Test::new(
            "session/last-close-in-another-process-flushes",
            last_close_elsewhere,
        ),
        Test::new("session/one-of-two-opens-wins", race),
        Test::new("session/one-of-sixteen-opens-wins", crowd),
        Test::new("session/twelve-descriptors-eight-sessions", twelve),
        Test::new("session/commands-run-side-by-side", side_by_side),
    ]
}

/// Makes sure that a request failed, and how.
fn check_error<T: std::fmt::Debug>(result: Result<T, Error>, errno: Errno, ext: u32) -> Result<()> {
    check_eq!(result.map(|_| ()), Err(Error { errno, ext }), "request");
    Ok(())
}

/// Sends the driver a command that it is to refuse before it looks at anything
/// but the flow.
fn send(device: &Device, flow: Flow) -> Result<(), Error> {
    let request = hsm::plain(hsm::IN_SESSION, Some(0));
    let mut response = [0; 1024];
    device.hsm_command(flow, &request, &mut response).map(drop)
}

fn check_sessions(control: &mut Control, expected: usize) -> Result<()> {
    check_eq!(
        control.sessions()?.len(),
        expected,
        "sessions in the device"
    );
    Ok(())
}

fn flushes(control: &mut Control) -> Result<u64> {
    control.counters()?["flushes"]
        .as_u64()
        .context("no count of flushes")
}

fn open_use_close(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut control = env.control()?;
    let session = hsm::open_session(&device)?;
    check_eq!(
        control.sessions()?,
        [u64::from(session.id)],
        "sessions in the device"
    );
    hsm::use_session(&device, session.id)?;
    hsm::close_session(&device, session.id)?;
    check_sessions(&mut control, 0)
}

fn again(env: &Env) -> Result<()> {
    let device = env.open()?;
    for _ in 0..20 {
        let session = hsm::open_session(&device)?;
        hsm::use_session(&device, session.id)?;
        hsm::close_session(&device, session.id)?;
    }
    Ok(())
}

fn without_id(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let mut scene = HsmScene::new(Flow::InSession(session.id), &[0; 16])?;
    scene.cmd.input.session.flags = abi::FLOW_IN_SESSION;
    scene.send_badly(&device, Errno::INVAL, ext::HSM_SESSION_MISMATCH)?;
    hsm::use_session(&device, session.id)
}

fn another_id(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    for id in [session.id + 1, session.id ^ 0x100, 0xffff] {
        check_error(
            send(&device, Flow::InSession(id)),
            Errno::INVAL,
            ext::HSM_SESSION_MISMATCH,
        )?;
    }
    hsm::use_session(&device, session.id)
}

fn close_without_id(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let request = hsm::plain(Operation::CLOSE_SESSION, Some(session.id));
    let mut scene = HsmScene::new(Flow::Close(session.id), &request)?;
    scene.cmd.input.session.flags = abi::FLOW_CLOSE;
    scene.send_badly(&device, Errno::INVAL, ext::HSM_SESSION_MISMATCH)?;
    hsm::use_session(&device, session.id)
}

fn close_another_id(env: &Env) -> Result<()> {
    let (device, other) = (env.open()?, env.open()?);
    let session = hsm::open_session(&device)?;
    let victim = hsm::open_session(&other)?;
    check_error(
        send(&device, Flow::Close(victim.id)),
        Errno::INVAL,
        ext::HSM_SESSION_MISMATCH,
    )?;
    hsm::use_session(&device, session.id)?;
    hsm::use_session(&other, victim.id)
}

fn second_open(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let mut scene = HsmScene::new(Flow::Open, &hsm::open_request())?;
    scene.send_badly(&device, Errno::INVAL, ext::HSM_SESSION_LIMIT)?;
    check_sessions(&mut env.control()?, 1)?;
    hsm::use_session(&device, session.id)
}

fn closed_is_gone(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    hsm::close_session(&device, session.id)?;
    for flow in [Flow::InSession(session.id), Flow::Close(session.id)] {
        check_error(send(&device, flow), Errno::INVAL, ext::HSM_NO_SESSION)?;
    }
    Ok(())
}

fn second_descriptor(env: &Env) -> Result<()> {
    let (first, second) = (env.open()?, env.open()?);
    let one = hsm::open_session(&first)?;
    let two = hsm::open_session(&second)?;
    ensure!(one.id != two.id, "the same session");
    hsm::use_session(&first, one.id)?;
    hsm::use_session(&second, two.id)?;
    hsm::close_session(&first, one.id)?;
    hsm::use_session(&second, two.id)
}

fn of_another_descriptor(env: &Env) -> Result<()> {
    let (first, second) = (env.open()?, env.open()?);
    let session = hsm::open_session(&first)?;
    for flow in [Flow::InSession(session.id), Flow::Close(session.id)] {
        check_error(send(&second, flow), Errno::INVAL, ext::HSM_NO_SESSION)?;
    }
    hsm::use_session(&first, session.id)
}

fn flow_none(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    hsm::api_revisions(&device)?;
    hsm::kind(&device)?;
    hsm::use_session(&device, session.id)
}

fn ninth(env: &Env) -> Result<()> {
    let mut devices = Vec::new();
    for _ in 0..SESSIONS {
        let device = env.open()?;
        let session = hsm::open_session(&device)?;
        devices.push((device, session));
    }
    let mut ids: Vec<u16> = devices.iter().map(|(_, session)| session.id).collect();
    ids.sort_unstable();
    ids.dedup();
    check_eq!(ids.len(), SESSIONS, "different sessions");
    let ninth = env.open()?;
    let response = hsm::exchange(&ninth, Flow::Open, &hsm::open_request())?;
    check_eq!(response.header.status, Status::SESSION_LIMIT, "status");
    check_error(
        send(&ninth, Flow::InSession(0)),
        Errno::INVAL,
        ext::HSM_NO_SESSION,
    )?;
    devices.pop();
    hsm::open_session(&ninth)?;
    Ok(())
}

/// The device refuses a request that is none for opening a session.
fn refused_open(env: &Env) -> Result<()> {
    let device = env.open()?;
    let request = hsm::plain(Operation::GET_DEVICE_INFO, None);
    let response = hsm::exchange(&device, Flow::Open, &request)?;
    check_eq!(response.header.status, Status::INVALID_ARGUMENT, "status");
    check_error(
        send(&device, Flow::InSession(0)),
        Errno::INVAL,
        ext::HSM_NO_SESSION,
    )?;
    hsm::open_session(&device)?;
    Ok(())
}

fn failed_open(env: &Env) -> Result<()> {
    let device = env.open()?;
    env.control()?
        .inject(json!({ "fault": "status", "class": "hsm", "count": 1, "status": 7 }))?;
    let mut scene = HsmScene::new(Flow::Open, &hsm::open_request())?;
    check_eq!(scene.send(&device), Ok(0), "ioctl");
    check_eq!(scene.cmd.output.status, 7, "device status");
    hsm::open_session(&device)?;
    Ok(())
}

fn open_with_id(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut scene = HsmScene::new(Flow::Open, &hsm::open_request())?;
    scene.cmd.input.session.flags |= abi::SESSION_ID_VALID;
    scene.cmd.input.session.id = 3;
    scene.send_well(&device)?;
    let response = azihsm_mbor::Response::decode(&scene.response())?;
    ensure!(
        response.header.status != Status::SUCCESS,
        "a session was opened"
    );
    check_sessions(&mut env.control()?, 0)?;
    hsm::open_session(&device)?;
    Ok(())
}

/// The CQE decides: without an ID in it there is no session to record.
fn open_without_id(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut control = env.control()?;
    let request = hsm::plain(Operation::GET_DEVICE_INFO, None);
    // Flow open and nothing else, for a request that opened nothing.
    control.inject(json!({ "fault": "cqe_session", "class": "hsm", "count": 1, "flags": 1 }))?;
    let mut scene = HsmScene::new(Flow::Open, &request)?;
    check_eq!(scene.send(&device), Ok(0), "ioctl");
    check_error(
        send(&device, Flow::InSession(0)),
        Errno::INVAL,
        ext::HSM_NO_SESSION,
    )?;
    hsm::open_session(&device)?;
    Ok(())
}

fn open_other_flow(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut control = env.control()?;
    let request = hsm::plain(Operation::GET_DEVICE_INFO, None);
    // Flow in session, ID and application valid.
    control.inject(json!({
        "fault": "cqe_session", "class": "hsm", "count": 1, "flags": 0xf, "session": 2, "app_id": 1,
    }))?;
    let mut scene = HsmScene::new(Flow::Open, &request)?;
    check_eq!(scene.send(&device), Ok(0), "ioctl");
    check_error(
        send(&device, Flow::InSession(2)),
        Errno::INVAL,
        ext::HSM_NO_SESSION,
    )?;
    hsm::open_session(&device)?;
    Ok(())
}

/// Without a session there is none, whatever else the answer says.
fn open_with_status(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut control = env.control()?;
    control.inject(json!({ "fault": "status", "class": "hsm", "count": 1, "status": 7 }))?;
    // Flow open, ID and application valid.
    control.inject(json!({
        "fault": "cqe_session", "class": "hsm", "count": 1, "flags": 0xd, "session": 2, "app_id": 1,
    }))?;
    let mut scene = HsmScene::new(Flow::Open, &hsm::open_request())?;
    check_eq!(scene.send(&device), Ok(0), "ioctl");
    check_eq!(scene.cmd.output.status, 7, "device status");
    check_error(
        send(&device, Flow::InSession(2)),
        Errno::INVAL,
        ext::HSM_NO_SESSION,
    )?;
    hsm::open_session(&device)?;
    Ok(())
}

/// A request that cannot be read does not reach the device.
fn open_not_sent(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut scene = HsmScene::new(Flow::Open, &hsm::open_request())?;
    scene.cmd.input.src = sys::UNMAPPED;
    scene.send_badly(&device, Errno::INVAL, ext::HSM_SRC)?;
    hsm::open_session(&device)?;
    Ok(())
}

fn close_not_sent(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let request = hsm::plain(Operation::CLOSE_SESSION, Some(session.id));
    let mut scene = HsmScene::new(Flow::Close(session.id), &request)?;
    scene.cmd.input.src = sys::UNMAPPED;
    scene.send_badly(&device, Errno::INVAL, ext::HSM_SRC)?;
    hsm::use_session(&device, session.id)?;
    hsm::close_session(&device, session.id)
}

fn close_other_flow(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    // Closed, with the right ID, but in session.
    env.control()?.inject(json!({
        "fault": "cqe_session", "class": "hsm", "count": 1, "flags": 0x17, "session": session.id,
    }))?;
    let request = hsm::plain(hsm::IN_SESSION, Some(session.id));
    hsm::exchange(&device, Flow::Close(session.id), &request)?;
    hsm::use_session(&device, session.id)
}

/// A command in the session does not end it, whatever comes back.
fn in_session_answers(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    // Closed; another one opened.
    for (flags, id) in [(0x16, session.id), (0xd, session.id + 1)] {
        env.control()?.inject(json!({
            "fault": "cqe_session", "class": "hsm", "count": 1, "flags": flags, "session": id,
        }))?;
        hsm::use_session(&device, session.id)?;
        hsm::use_session(&device, session.id)?;
    }
    Ok(())
}

/// Nor does a command outside of it begin or end one.
fn outside_answers(env: &Env) -> Result<()> {
    let device = env.open()?;
    let answer = |flags: u8, id: u16| {
        env.control()?.inject(json!({
            "fault": "cqe_session", "class": "hsm", "count": 1, "flags": flags, "session": id,
        }))
    };
    answer(0xd, 2)?;
    hsm::api_revisions(&device)?;
    check_error(
        send(&device, Flow::InSession(2)),
        Errno::INVAL,
        ext::HSM_NO_SESSION,
    )?;
    let session = hsm::open_session(&device)?;
    answer(0x16, session.id)?;
    hsm::api_revisions(&device)?;
    hsm::use_session(&device, session.id)
}

/// The device refuses a request that is none for closing a session.
fn refused_close(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let request = hsm::plain(hsm::IN_SESSION, Some(session.id));
    let response = hsm::exchange(&device, Flow::Close(session.id), &request)?;
    ensure!(response.header.status != Status::SUCCESS, "closed");
    check_sessions(&mut env.control()?, 1)?;
    hsm::use_session(&device, session.id)?;
    // Flow close and the right ID, but not closed.
    env.control()?.inject(json!({
        "fault": "cqe_session", "class": "hsm", "count": 1, "flags": 6, "session": session.id,
    }))?;
    hsm::exchange(&device, Flow::Close(session.id), &request)?;
    hsm::use_session(&device, session.id)
}

fn close_other_id(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let mut control = env.control()?;
    control.inject(json!({
        "fault": "cqe_session", "class": "hsm", "count": 1,
        "flags": 0x16, "session": session.id + 1,
    }))?;
    // The device does not close anything, and then speaks of another session.
    let request = hsm::plain(hsm::IN_SESSION, Some(session.id));
    hsm::exchange(&device, Flow::Close(session.id), &request)?;
    hsm::use_session(&device, session.id)
}

fn failed_close(env: &Env) -> Result<()> {
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let mut control = env.control()?;
    control.inject(json!({
        "fault": "status", "class": "hsm", "count": 1, "status": 7, "execute": true,
    }))?;
    control.inject(json!({
        "fault": "cqe_session", "class": "hsm", "count": 1,
        "flags": 0x16, "session": session.id,
    }))?;
    let request = hsm::plain(Operation::CLOSE_SESSION, Some(session.id));
    let mut scene = HsmScene::new(Flow::Close(session.id), &request)?;
    check_eq!(scene.send(&device), Ok(0), "ioctl");
    check_eq!(scene.cmd.output.status, 7, "device status");
    check_error(
        send(&device, Flow::InSession(session.id)),
        Errno::INVAL,
        ext::HSM_NO_SESSION,
    )
}

/// The session is opened, but the response has nowhere to go.
fn undelivered(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut control = env.control()?;
    let mut scene = HsmScene::new(Flow::Open, &hsm::open_request())?;
    scene.cmd.input.dst = sys::UNMAPPED;
    scene.send_badly(&device, Errno::INVAL, ext::HSM_DST)?;
    let sessions = control.sessions()?;
    check_eq!(sessions.len(), 1, "sessions in the device");
    hsm::use_session(&device, u16::try_from(sessions[0])?)?;
    drop(device);
    check_sessions(&mut control, 0)
}

/// What the device calls a session is one, even if today's has no such number.
fn close_flushes_any(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    for id in [8, 31] {
        let device = env.open()?;
        let before = flushes(&mut control)?;
        // Flow open, ID and application valid.
        control.inject(json!({
            "fault": "cqe_session", "class": "hsm", "count": 1,
            "flags": 0xd, "session": id, "app_id": 1,
        }))?;
        let request = hsm::plain(Operation::GET_DEVICE_INFO, None);
        let mut scene = HsmScene::new(Flow::Open, &request)?;
        check_eq!(scene.send(&device), Ok(0), "ioctl");
        drop(device);
        check_eq!(
            flushes(&mut control)?,
            before + 1,
            "flushes of session {id}"
        );
    }
    Ok(())
}

fn close_flushes(env: &Env) -> Result<()> {
    let device = env.open()?;
    let mut control = env.control()?;
    let before = flushes(&mut control)?;
    hsm::open_session(&device)?;
    drop(device);
    check_sessions(&mut control, 0)?;
    check_eq!(flushes(&mut control)?, before + 1, "flushes");
    Ok(())
}

fn close_frees(env: &Env) -> Result<()> {
    let mut devices = Vec::new();
    for _ in 0..SESSIONS {
        let device = env.open()?;
        hsm::open_session(&device)?;
        devices.push(device);
    }
    for _ in 0..50 {
        devices.pop();
        let device = env.open()?;
        hsm::open_session(&device)?;
        devices.push(device);
    }
    Ok(())
}

fn close_silent(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    let before = flushes(&mut control)?;
    let device = env.open()?;
    hsm::api_revisions(&device)?;
    drop(device);
    check_eq!(flushes(&mut control)?, before, "flushes");
    Ok(())
}

fn closed_silent(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    let before = flushes(&mut control)?;
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    hsm::close_session(&device, session.id)?;
    drop(device);
    check_eq!(flushes(&mut control)?, before, "flushes");
    Ok(())
}

fn refused_flush(env: &Env) -> Result<()> {
    const SESSIONS: u64 = 8;
    let mut control = env.control()?;
    let before = flushes(&mut control)?;
    let device = env.open()?;
    hsm::open_session(&device)?;
    // As firmware answers that does not know how to flush.
    control.inject(json!({
        "fault": "status", "class": "hsm", "opcode": 1, "count": 1, "status": 1, "execute": true,
    }))?;
    drop(device);
    check_sessions(&mut control, 0)?;
    // The driver is not sure of that, and flushes all when it looks after the device
    // the next time.
    let begin = Instant::now();
    while flushes(&mut control)? < before + 1 + SESSIONS {
        ensure!(begin.elapsed() < PATIENCE, "the driver does not make sure");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn duplicate(env: &Env) -> Result<()> {
    use std::os::fd::AsFd;
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    let copy = Device::from(device.as_fd().try_clone_to_owned()?);
    drop(device);
    check_sessions(&mut env.control()?, 1)?;
    hsm::use_session(&copy, session.id)?;
    drop(copy);
    check_sessions(&mut env.control()?, 0)
}

/// Opens a session in a process that then does `last`.
fn open_elsewhere(env: &Env, last: fn()) -> Result<Child> {
    Child::run(|| {
        let open = || -> Result<Device> {
            let device = env.open()?;
            hsm::open_session(&device)?;
            Ok(device)
        };
        match open() {
            Ok(device) => {
                last();
                // Left to the end of the process.
                std::mem::forget(device);
                0
            }
            Err(_) => 1,
        }
    })
}

fn exit_flushes(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    let before = flushes(&mut control)?;
    let mut child = open_elsewhere(env, || {})?;
    check_eq!(child.wait(PATIENCE)?, Some(0), "child");
    check_sessions(&mut control, 0)?;
    check_eq!(flushes(&mut control)?, before + 1, "flushes");
    Ok(())
}

fn kill_flushes(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    let mut child = open_elsewhere(env, || thread::sleep(PATIENCE))?;
    for _ in 0..100 {
        if control.sessions()?.len() == 1 {
            break;
        }
    }
    check_sessions(&mut control, 1)?;
    child.kill()?;
    check_eq!(child.wait(PATIENCE)?, Some(-9), "child");
    check_sessions(&mut control, 0)
}

fn last_close_elsewhere(env: &Env) -> Result<()> {
    let mut control = env.control()?;
    let device = env.open()?;
    hsm::open_session(&device)?;
    let child = Child::run(|| {
        thread::sleep(PATIENCE);
        0
    })?;
    drop(device);
    check_sessions(&mut control, 1)?;
    drop(child);
    check_sessions(&mut control, 0)
}

/// Has `count` threads open a session on one descriptor at once.
fn compete(env: &Env, count: usize) -> Result<()> {
    let device = env.open()?;
    let barrier = Barrier::new(count);
    let results = thread::scope(|scope| {
        let handles: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(|| {
                    let mut response = [0; 1024];
                    barrier.wait();
                    device.hsm_command(Flow::Open, &hsm::open_request(), &mut response)
                })
            })
            .collect();
        let join = |handle: thread::ScopedJoinHandle<_>| handle.join().expect("does not panic");
        handles.into_iter().map(join).collect::<Vec<_>>()
    });
    let winners = results.iter().filter(|result| result.is_ok()).count();
    check_eq!(winners, 1, "opened sessions");
    for result in results.into_iter().filter(Result::is_err) {
        check_error(result, Errno::INVAL, ext::HSM_SESSION_LIMIT)?;
    }
    check_sessions(&mut env.control()?, 1)?;
    drop(device);
    check_sessions(&mut env.control()?, 0)
}

fn race(env: &Env) -> Result<()> {
    // Long enough for the second to be sent while the first is under way.
    for delay in [0, 0, 0, 20, 20] {
        if delay > 0 {
            env.control()?
                .inject(json!({ "fault": "delay", "class": "hsm", "count": 1, "ms": delay }))?;
        }
        compete(env, 2)?;
    }
    Ok(())
}

fn crowd(env: &Env) -> Result<()> {
    for _ in 0..5 {
        compete(env, 16)?;
    }
    Ok(())
}

fn twelve(env: &Env) -> Result<()> {
    let count = 12;
    let barrier = Barrier::new(count);
    let open = || -> Result<(Device, bool)> {
        let device = env.open()?;
        barrier.wait();
        let response = hsm::exchange(&device, Flow::Open, &hsm::open_request());
        // Nobody closes before everybody tried.
        barrier.wait();
        let status = response?.header.status;
        ensure!(
            [Status::SUCCESS, Status::SESSION_LIMIT].contains(&status),
            "status {}",
            status.0
        );
        Ok((device, status == Status::SUCCESS))
    };
    let results = thread::scope(|scope| {
        let handles: Vec<_> = (0..count).map(|_| scope.spawn(open)).collect();
        let join = |handle: thread::ScopedJoinHandle<_>| handle.join().expect("does not panic");
        handles.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let winners = results.iter().filter(|(_, won)| *won).count();
    check_eq!(winners, SESSIONS, "opened sessions");
    Ok(())
}

/// Two slow commands in one session take as long as one.
fn side_by_side(env: &Env) -> Result<()> {
    let slow = Duration::from_millis(1500);
    let device = env.open()?;
    let session = hsm::open_session(&device)?;
    env.control()?.inject(json!({
        "fault": "delay", "class": "hsm", "count": 2, "ms": slow.as_millis() as u64,
    }))?;
    let start = Instant::now();
    thread::scope(|scope| {
        let handles: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| hsm::use_session(&device, session.id)))
            .collect();
        let join = |handle: thread::ScopedJoinHandle<_>| handle.join().expect("does not panic");
        handles.into_iter().try_for_each(join)
    })?;
    let time = start.elapsed();
    ensure!(time >= slow, "the commands were not slow: {time:?}");
    ensure!(
        time < slow * 2,
        "one command waited for the other: {time:?}"
    );
    Ok(())
}

/// What a close has to wait for.
#[derive(Clone, Copy, Debug)]
enum Slow {
    Hsm,
    Aes,
}

/// A close waits for slow commands in the session, and lets no others in.
fn close_waits(env: &Env) -> Result<()> {
    let slow = Duration::from_millis(1500);
    for (kind, class) in [(Slow::Hsm, "hsm"), (Slow::Aes, "aes")] {
        let device = env.open()?;
        let session = hsm::open_session(&device)?;
        let key = env.control()?.load_key(KeyKind::Gcm, &[7; 32], session)?;
        env.control()?.inject(json!({
            "fault": "delay", "class": class, "count": 1, "ms": slow.as_millis() as u64,
        }))?;
        thread::scope(|scope| -> Result<()> {
            let user = scope.spawn(|| match kind {
                Slow::Hsm => hsm::use_session(&device, session.id),
                Slow::Aes => AesScene::gcm(session, key, &[1; 64])?.send_well(&device),
            });
            thread::sleep(Duration::from_millis(300));
            let start = Instant::now();
            let closer = scope.spawn(|| hsm::close_session(&device, session.id));
            thread::sleep(Duration::from_millis(300));
            let late = send(&device, Flow::InSession(session.id));
            check_error(late, Errno::INVAL, ext::HSM_NO_SESSION)?;
            let mut late = AesScene::gcm(session, key, &[1; 64])?;
            late.send_badly(&device, Errno::INVAL, ext::AES_NO_SESSION)?;
            ensure!(!closer.is_finished(), "{kind:?}: the close did not wait");
            closer.join().expect("does not panic")?;
            let time = start.elapsed();
            ensure!(time > slow / 2, "{kind:?}: closed after {time:?}");
            ensure!(time < slow * 2, "{kind:?}: closed only after {time:?}");
            user.join().expect("does not panic")
        })?;
    }
    Ok(())
}
