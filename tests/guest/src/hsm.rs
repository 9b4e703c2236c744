// SPDX-License-Identifier: GPL-2.0
//! The few HSM operations that the programs need.

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_mbor::Operation;
use azihsm_mbor::Request;
use azihsm_mbor::Response;
use azihsm_mbor::Revision;
use azihsm_mbor::Status;
use azihsm_mbor::Value;
use azihsm_uapi::abi::HSM_MAX_LEN;
use azihsm_uapi::Device;
use azihsm_uapi::Flow;

/// An operation that runs in a session, and that the device answers in one way
/// or another.
pub const IN_SESSION: Operation = Operation::AES_GENERATE_KEY;

/// A session that the device opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Session {
    /// Its number.
    pub id: u16,
    /// The application it was opened for.
    pub app: u8,
}

/// What GetDeviceInfo tells.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Kind {
    /// Whether it is real hardware.
    pub physical: bool,
    /// Resource groups.
    pub tables: u8,
    /// Whether it is in its approved state.
    pub fips: bool,
}

/// The bytes of a request.
pub fn encode(request: &Request) -> Result<Vec<u8>> {
    Ok(request.encode()?)
}

/// The bytes of a GetApiRev request.
pub fn get_api_rev() -> Vec<u8> {
    Request::get_api_rev().encode().expect("constant")
}

/// The bytes of a request without data.
pub fn plain(operation: Operation, session: Option<u16>) -> Vec<u8> {
    Request::new(operation, session, Value::empty())
        .encode()
        .expect("constant")
}

/// Sends `request` and returns the response, whatever its status.
pub fn exchange(device: &Device, flow: Flow, request: &[u8]) -> Result<Response> {
    let mut response = vec![0; HSM_MAX_LEN];
    let reply = device.hsm_command(flow, request, &mut response)?;
    ensure!(reply.status == 0, "device status {:#x}", reply.status);
    Ok(Response::decode(&response[..reply.len])?)
}

fn succeed(device: &Device, flow: Flow, request: &[u8]) -> Result<Response> {
    let response = exchange(device, flow, request)?;
    let status = response.header.status;
    ensure!(status == Status::SUCCESS, "status {}", status.0);
    Ok(response)
}

/// The oldest and the newest revision that the device speaks.
pub fn api_revisions(device: &Device) -> Result<(Revision, Revision)> {
    revisions(&succeed(device, Flow::None, &get_api_rev())?)
}

/// The revisions in the response to GetApiRev.
pub fn revisions(response: &Response) -> Result<(Revision, Revision)> {
    let revision = |key| -> Result<Revision> {
        let value = response.data.field(key).context("no revision")?;
        Ok(Revision::from_value(value)?)
    };
    Ok((revision(1)?, revision(2)?))
}

/// What kind of device it is.
pub fn kind(device: &Device) -> Result<Kind> {
    let request = plain(Operation::GET_DEVICE_INFO, None);
    let response = succeed(device, Flow::None, &request)?;
    let field = |key| response.data.field(key);
    Ok(Kind {
        physical: field(1).and_then(Value::as_u32).context("no kind")? == 2,
        tables: field(2).and_then(Value::as_u8).context("no tables")?,
        fips: field(3).and_then(Value::as_bool).context("no FIPS flag")?,
    })
}

/// The bytes of an OpenSession request.
pub fn open_request() -> Vec<u8> {
    plain(Operation::OPEN_SESSION, None)
}

/// The session in the response to OpenSession.
pub fn session_of(response: &Response) -> Result<Session> {
    let status = response.header.status;
    ensure!(status == Status::SUCCESS, "status {}", status.0);
    let field = |key| response.data.field(key);
    Ok(Session {
        id: field(1).and_then(Value::as_u16).context("no session")?,
        app: field(2).and_then(Value::as_u8).context("no application")?,
    })
}

/// Opens a session.
pub fn open_session(device: &Device) -> Result<Session> {
    session_of(&exchange(device, Flow::Open, &open_request())?)
}

/// Closes a session.
pub fn close_session(device: &Device, id: u16) -> Result<()> {
    let request = plain(Operation::CLOSE_SESSION, Some(id));
    succeed(device, Flow::Close(id), &request)?;
    Ok(())
}

/// Opens a session, unless there are as many as the device can have.
pub fn try_open_session(device: &Device) -> Result<Option<Session>> {
    let response = exchange(device, Flow::Open, &open_request())?;
    if response.header.status == Status::SESSION_LIMIT {
        return Ok(None);
    }
    session_of(&response).map(Some)
}

/// Sends a request that comes back with `stamp`, and with the session it is for:
/// the device refuses it for its revision, and says which one it was.
pub fn echo(device: &Device, session: Option<u16>, stamp: (u32, u32)) -> Result<()> {
    let (operation, flow) = match session {
        None => (Operation::GET_DEVICE_INFO, Flow::None),
        Some(id) => (IN_SESSION, Flow::InSession(id)),
    };
    let mut request = Request::new(operation, session, Value::empty());
    let (major, minor) = stamp;
    request.header.revision = Some(Revision { major, minor });
    let header = exchange(device, flow, &request.encode()?)?.header;
    ensure!(
        header.status == Status::UNSUPPORTED_REVISION
            && header.revision == request.header.revision
            && header.operation == operation
            && header.session == session,
        "the answer to {:?} is {header:?}",
        request.header
    );
    Ok(())
}

/// Runs an operation in a session; its own status does not matter, as long as
/// the device took it for one of this session.
pub fn use_session(device: &Device, id: u16) -> Result<()> {
    let request = plain(IN_SESSION, Some(id));
    let response = exchange(device, Flow::InSession(id), &request)?;
    let header = response.header;
    ensure!(
        header.session == Some(id),
        "answer for session {:?}",
        header.session
    );
    let refused = [
        Status::SESSION_EXPECTED,
        Status::SESSION_NOT_EXPECTED,
        Status::SESSION_NOT_FOUND,
        Status::SESSION_NEEDS_RENEGOTIATION,
    ];
    ensure!(
        !refused.contains(&header.status),
        "status {}",
        header.status.0
    );
    Ok(())
}
