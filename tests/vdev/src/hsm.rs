// SPDX-License-Identifier: GPL-2.0

//! The HSM engine.  See Documentation/device.rst, section 5 and appendix B.

use crate::bytes::get_u16;
use crate::bytes::get_u32;
use crate::bytes::get_u64;
use crate::bytes::get_u8;
use crate::bytes::put_u16;
use crate::engine::HsmRequest;
use crate::engine::Reply;
use crate::engine::Request as EngineRequest;
use crate::engine::Token;
use crate::model::Command;
use crate::model::Model;
use azihsm_mbor::Operation;
use azihsm_mbor::Request;
use azihsm_mbor::RequestHeader;
use azihsm_mbor::Response;
use azihsm_mbor::ResponseHeader;
use azihsm_mbor::Revision;
use azihsm_mbor::SessionKind;
use azihsm_mbor::Status;
use azihsm_mbor::Value;

/// Size of a CQ entry.
pub const CQE: usize = 16;
/// The largest request and the largest response.
pub const MAX_MESSAGE: usize = 3584;

/// Status of an unknown opcode.
pub const STATUS_OPCODE: u16 = 0x01;
/// Status of everything that has no status of its own.
pub const STATUS_INTERNAL: u16 = 0x07;
/// Status of an entry that does not use PRPs.
pub const STATUS_PSDT: u16 = 0xc0;
/// Status of a wrong source length.
pub const STATUS_SOURCE_LENGTH: u16 = 0xc1;
/// Status of a wrong destination length.
pub const STATUS_DESTINATION_LENGTH: u16 = 0xc2;
/// Status of a source that is not page aligned.
pub const STATUS_SOURCE_PRP: u16 = 0xc3;
/// Status of a destination that is not page aligned.
pub const STATUS_DESTINATION_PRP: u16 = 0xc4;
/// Status of DMA that failed.
pub const STATUS_DMA: u16 = 0xc6;

const OPCODE_GENERIC: u16 = 0;
const OPCODE_FLUSH: u16 = 1;
const MAX_SOURCE: u32 = 4096;
const MAX_DESTINATION: u32 = 8192;
const PAGE_MASK: u64 = 4095;

const FLAG_SESSION: u8 = 1 << 2;
const FLAG_APP: u8 = 1 << 3;
const FLAG_CLOSED: u8 = 1 << 4;

/// Kind of device that GetDeviceInfo tells: a physical one.
const KIND_PHYSICAL: u32 = 2;
/// What OpenSession yields besides the ids; its meaning is the client's.
const SESSION_BLOB: [u8; 16] = *b"azihsm-vdev-bk3!";

/// What becomes of an HSM command.
pub(crate) enum HsmOutcome {
    /// It is finished.
    Done([u8; CQE]),
    /// The external engine has it.
    External(Token),
}

/// The session fields of a CQE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct SessionFields {
    kind: u8,
    session: Option<u16>,
    app_id: Option<u8>,
    closed: bool,
}

impl SessionFields {
    fn of_kind(kind: SessionKind) -> Self {
        Self {
            kind: kind.bits(),
            ..Self::default()
        }
    }
}

/// How an operation went.
struct Executed {
    status: Status,
    data: Value,
    fields: SessionFields,
}

fn cqe(status: u16, length: usize, fields: SessionFields) -> [u8; CQE] {
    let mut cqe = [0; CQE];
    put_u16(&mut cqe, 0, length as u16);
    cqe[2] = fields.kind;
    if let Some(session) = fields.session {
        cqe[2] |= FLAG_SESSION;
        put_u16(&mut cqe, 4, session);
    }
    if let Some(app_id) = fields.app_id {
        cqe[2] |= FLAG_APP;
        cqe[6] = app_id;
    }
    if fields.closed {
        cqe[2] |= FLAG_CLOSED;
    }
    put_u16(&mut cqe, 14, status << 1);
    cqe
}

fn rejected(status: u16) -> [u8; CQE] {
    cqe(status, 0, SessionFields::default())
}

/// The session fields of an SQE: the kind, and the id if it is valid.
fn sqe_session(sqe: &[u8]) -> (SessionKind, Option<u16>) {
    let flags = get_u8(sqe, 44);
    let session = (flags & FLAG_SESSION != 0).then(|| get_u16(sqe, 48));
    (SessionKind::from_bits(flags), session)
}

impl Model {
    pub(crate) fn execute_hsm(&mut self, command: &Command) -> HsmOutcome {
        let sqe = &command.sqe;
        if get_u16(sqe, 0) >> 14 != 0 {
            return HsmOutcome::Done(rejected(STATUS_PSDT));
        }
        match get_u16(sqe, 0) & 0x3ff {
            OPCODE_GENERIC => self.generic(sqe),
            OPCODE_FLUSH => self.flush(sqe),
            _ => HsmOutcome::Done(rejected(STATUS_OPCODE)),
        }
    }

    fn generic(&mut self, sqe: &[u8]) -> HsmOutcome {
        let source_length = get_u32(sqe, 4);
        let destination_length = get_u32(sqe, 24);
        let status = if source_length == 0 || source_length > MAX_SOURCE {
            STATUS_SOURCE_LENGTH
        } else if destination_length == 0 || destination_length > MAX_DESTINATION {
            STATUS_DESTINATION_LENGTH
        } else if (get_u64(sqe, 8) | get_u64(sqe, 16)) & PAGE_MASK != 0 {
            STATUS_SOURCE_PRP
        } else if (get_u64(sqe, 28) | get_u64(sqe, 36)) & PAGE_MASK != 0 {
            STATUS_DESTINATION_PRP
        } else if source_length as usize > MAX_MESSAGE {
            STATUS_INTERNAL
        } else {
            0
        };
        if status != 0 {
            return HsmOutcome::Done(rejected(status));
        }
        let mut message = vec![0; source_length as usize];
        if self
            .bus
            .read(get_u64(sqe, 8), &mut message, "HSM request")
            .is_err()
        {
            return HsmOutcome::Done(rejected(STATUS_DMA));
        }
        let (kind, session) = sqe_session(sqe);
        if let Some(engine) = self.engine.as_mut() {
            let token = engine.submit(EngineRequest::Hsm(HsmRequest {
                kind: kind.bits(),
                session,
                message,
            }));
            return HsmOutcome::External(token);
        }
        let (response, fields) = self.answer(&message, kind, session);
        let message = response.encode().unwrap_or_default();
        HsmOutcome::Done(self.respond(sqe, &message, fields))
    }

    /// Writes a response, as long as it is: the destination length does not
    /// bound it.
    fn respond(&mut self, sqe: &[u8], message: &[u8], fields: SessionFields) -> [u8; CQE] {
        if message.is_empty() || message.len() > MAX_MESSAGE {
            return rejected(STATUS_INTERNAL);
        }
        match self.bus.write(get_u64(sqe, 28), message, "HSM response") {
            Ok(()) => cqe(0, message.len(), fields),
            Err(_) => rejected(STATUS_DMA),
        }
    }

    /// Executes a request.
    fn answer(
        &mut self,
        message: &[u8],
        kind: SessionKind,
        session: Option<u16>,
    ) -> (Response, SessionFields) {
        let Ok(request) = Request::decode(message) else {
            let header = RequestHeader {
                revision: None,
                operation: Operation::INVALID,
                session: None,
            };
            return (
                self.response(&header, Status::DECODE_FAILED, Value::empty()),
                SessionFields::of_kind(kind),
            );
        };
        let header = request.header;
        if let Err(status) = check_header(&header, kind, session) {
            return (
                self.response(&header, status, Value::empty()),
                SessionFields::of_kind(kind),
            );
        }
        let executed = self.perform(&request);
        (
            self.response(&header, executed.status, executed.data),
            executed.fields,
        )
    }

    fn response(&self, request: &RequestHeader, status: Status, data: Value) -> Response {
        Response {
            header: ResponseHeader {
                revision: request.revision,
                operation: request.operation,
                session: request.session,
                status,
                fips: self.options.fips != 0,
            },
            data,
        }
    }

    fn perform(&mut self, request: &Request) -> Executed {
        let header = &request.header;
        let kind = header.operation.session_kind();
        let result = match header.operation {
            Operation::GET_API_REV => Ok((
                Value::Map(vec![
                    (1, Revision::V1.to_value()),
                    (2, Revision::V1.to_value()),
                ]),
                SessionFields::of_kind(kind),
            )),
            Operation::GET_DEVICE_INFO => Ok((
                Value::Map(vec![
                    (1, Value::U32(KIND_PHYSICAL)),
                    (2, Value::U8(self.group_count())),
                    (3, Value::Bool(self.options.fips != 0)),
                ]),
                SessionFields::of_kind(kind),
            )),
            Operation::OPEN_SESSION => self.open_session(),
            Operation::CLOSE_SESSION => self.close_session(header),
            Operation::REOPEN_SESSION => self.reopen_session(header),
            _ if kind == SessionKind::InSession => self
                .live_session(header)
                .and(Err(Status::UNSUPPORTED_COMMAND)),
            _ => Err(Status::UNSUPPORTED_COMMAND),
        };
        match result {
            Ok((data, fields)) => Executed {
                status: Status::SUCCESS,
                data,
                fields,
            },
            Err(status) => Executed {
                status,
                data: Value::empty(),
                fields: SessionFields {
                    session: header.session,
                    ..SessionFields::of_kind(kind)
                },
            },
        }
    }

    fn open_session(&mut self) -> Result<(Value, SessionFields), Status> {
        if !self.options.provisioned {
            return Err(Status::PARTITION_NOT_PROVISIONED);
        }
        let app_id = self.options.app_id;
        let session = self.sessions.open(app_id).ok_or(Status::SESSION_LIMIT)?;
        self.bus.counters.sessions_opened += 1;
        Ok((
            session_data(session, app_id),
            SessionFields {
                session: Some(session),
                app_id: Some(app_id),
                ..SessionFields::of_kind(SessionKind::Open)
            },
        ))
    }

    fn reopen_session(&mut self, header: &RequestHeader) -> Result<(Value, SessionFields), Status> {
        if !self.options.provisioned {
            return Err(Status::PARTITION_NOT_PROVISIONED);
        }
        let id = header.session.ok_or(Status::SESSION_EXPECTED)?;
        let session = self.sessions.get(id).ok_or(Status::SESSION_NOT_FOUND)?;
        if !session.renegotiate {
            return Err(Status::INVALID_ARGUMENT);
        }
        session.renegotiate = false;
        let app_id = session.app_id;
        Ok((
            session_data(id, app_id),
            SessionFields {
                session: Some(id),
                app_id: Some(app_id),
                ..SessionFields::of_kind(SessionKind::InSession)
            },
        ))
    }

    fn close_session(&mut self, header: &RequestHeader) -> Result<(Value, SessionFields), Status> {
        let id = header.session.ok_or(Status::SESSION_EXPECTED)?;
        self.sessions.get(id).ok_or(Status::SESSION_NOT_FOUND)?;
        self.forget_session(id);
        Ok((
            Value::empty(),
            SessionFields {
                session: Some(id),
                closed: true,
                ..SessionFields::of_kind(SessionKind::Close)
            },
        ))
    }

    fn live_session(&mut self, header: &RequestHeader) -> Result<(), Status> {
        if !self.options.provisioned {
            return Err(Status::PARTITION_NOT_PROVISIONED);
        }
        let id = header.session.ok_or(Status::SESSION_EXPECTED)?;
        let session = self.sessions.get(id).ok_or(Status::SESSION_NOT_FOUND)?;
        if session.renegotiate {
            return Err(Status::SESSION_NEEDS_RENEGOTIATION);
        }
        Ok(())
    }

    fn forget_session(&mut self, id: u16) {
        self.sessions.close(id);
        self.keys.close_session(self.options.controller, id);
        self.bus.counters.sessions_closed += 1;
    }

    fn flush(&mut self, sqe: &[u8]) -> HsmOutcome {
        let (kind, session) = sqe_session(sqe);
        let (SessionKind::Close, Some(id)) = (kind, session) else {
            return HsmOutcome::Done(rejected(STATUS_INTERNAL));
        };
        self.bus.counters.flushes += 1;
        if let Some(engine) = self.engine.as_mut() {
            return HsmOutcome::External(engine.submit(EngineRequest::Flush { session: id }));
        }
        HsmOutcome::Done(self.flush_session(id))
    }

    fn flush_session(&mut self, id: u16) -> [u8; CQE] {
        let live = self
            .sessions
            .get(id)
            .is_some_and(|session| !session.renegotiate);
        if self.sessions.get(id).is_some() {
            self.forget_session(id);
        }
        if live {
            return cqe(
                0,
                0,
                SessionFields {
                    session: Some(id),
                    closed: true,
                    ..SessionFields::of_kind(SessionKind::Close)
                },
            );
        }
        // The id is echoed although the flags call it invalid.
        let mut cqe = rejected(0);
        put_u16(&mut cqe, 4, id);
        cqe
    }

    pub(crate) fn finish_hsm_externally(&mut self, command: &Command, reply: &Reply) -> [u8; CQE] {
        let sqe = &command.sqe;
        let fields = SessionFields {
            kind: reply.kind.unwrap_or(get_u8(sqe, 44)) & 3,
            session: reply.session,
            app_id: reply.app_id,
            closed: reply.closed,
        };
        if reply.status != 0 {
            return rejected(reply.status);
        }
        if get_u16(sqe, 0) & 0x3ff == OPCODE_FLUSH {
            return cqe(0, 0, fields);
        }
        self.respond(sqe, &reply.data, fields)
    }
}

fn session_data(session: u16, app_id: u8) -> Value {
    Value::Map(vec![
        (1, Value::U16(session)),
        (2, Value::U8(app_id)),
        (3, Value::Bytes(SESSION_BLOB.to_vec())),
    ])
}

/// Rules for the header of a request, before anything is executed.
fn check_header(
    header: &RequestHeader,
    kind: SessionKind,
    session: Option<u16>,
) -> Result<(), Status> {
    if !header.operation.is_known() {
        return Err(Status::UNSUPPORTED_COMMAND);
    }
    if header.operation.session_kind() != kind {
        return Err(Status::INVALID_ARGUMENT);
    }
    match kind {
        SessionKind::None if session.is_some() || header.session.is_some() => {
            return Err(Status::INVALID_ARGUMENT);
        }
        SessionKind::Open if session.is_some() || header.session.is_some() => {
            return Err(Status::SESSION_NOT_EXPECTED);
        }
        SessionKind::Close | SessionKind::InSession
            if session.is_none() || session != header.session =>
        {
            return Err(Status::INVALID_ARGUMENT);
        }
        _ => {}
    }
    let expected = match header.operation {
        Operation::GET_API_REV => None,
        _ => Some(Revision::V1),
    };
    if header.revision != expected {
        return Err(Status::UNSUPPORTED_REVISION);
    }
    Ok(())
}
