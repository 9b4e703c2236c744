// SPDX-License-Identifier: GPL-2.0

//! Section 5: HSM commands, sessions, and the envelope.

use crate::bench::Bench;
use azihsm_mbor::Operation;
use azihsm_mbor::Request;
use azihsm_mbor::RequestHeader;
use azihsm_mbor::Response;
use azihsm_mbor::Revision;
use azihsm_mbor::Status;
use azihsm_mbor::Value;
use azihsm_vdev::bytes::get_u16;
use azihsm_vdev::bytes::put_u16;
use azihsm_vdev::bytes::put_u32;
use azihsm_vdev::bytes::put_u64;
use azihsm_vdev::keys::Key;
use azihsm_vdev::keys::KeyKind;
use azihsm_vdev::options::Options;

fn status(cqe: &[u8]) -> u16 {
    get_u16(cqe, 14) >> 1
}

/// Session flags, session id, short application id.
fn session_fields(cqe: &[u8]) -> (u8, u16, u8) {
    (cqe[2], get_u16(cqe, 4), cqe[6])
}

/// Sends a request with any session fields in the SQE.
fn send(
    bench: &mut Bench,
    request: &Request,
    kind: u8,
    session: Option<u16>,
) -> (Vec<u8>, Response) {
    let (sqe, destination) = bench.hsm_sqe(&request.encode().unwrap(), kind, session);
    let cqe = bench.run(1, &sqe);
    assert_eq!(status(&cqe), 0);
    let response = bench.peek(destination, usize::from(get_u16(&cqe, 0)));
    (cqe, Response::decode(&response).unwrap())
}

#[test]
fn generic_command_checks_in_order() {
    let mut bench = Bench::running();
    let message = Request::get_api_rev().encode().unwrap();
    let (good, _) = bench.hsm_sqe(&message, 0, None);
    let mut sqe = good;
    let mut check = |sqe: &[u8; 64], expected: u16| {
        let cqe = bench.run(1, sqe);
        assert_eq!(status(&cqe), expected);
        if expected != 0 {
            assert_eq!(session_fields(&cqe), (0, 0, 0));
            assert_eq!(get_u16(&cqe, 0), 0);
        }
    };
    // Everything is wrong; then one field after the other is put right.
    put_u16(&mut sqe, 0, (1 << 14) | 2);
    put_u32(&mut sqe, 4, 0);
    put_u64(&mut sqe, 8, 0x1001);
    put_u32(&mut sqe, 24, 0);
    put_u64(&mut sqe, 28, 0x2001);
    check(&sqe, 0xc0);
    put_u16(&mut sqe, 0, 2);
    check(&sqe, 0x01);
    put_u16(&mut sqe, 0, 0);
    check(&sqe, 0xc1);
    put_u32(&mut sqe, 4, 4097);
    check(&sqe, 0xc1);
    put_u32(&mut sqe, 4, 4096);
    check(&sqe, 0xc2);
    put_u32(&mut sqe, 24, 8193);
    check(&sqe, 0xc2);
    put_u32(&mut sqe, 24, 8192);
    check(&sqe, 0xc3);
    sqe[8..16].copy_from_slice(&good[8..16]);
    put_u64(&mut sqe, 16, 0x800);
    check(&sqe, 0xc3);
    put_u64(&mut sqe, 16, 0x3000);
    check(&sqe, 0xc4);
    sqe[28..36].copy_from_slice(&good[28..36]);
    put_u64(&mut sqe, 36, 8);
    check(&sqe, 0xc4);
    put_u64(&mut sqe, 36, 0);
    check(&sqe, 0x07);
    put_u32(&mut sqe, 4, 3585);
    check(&sqe, 0x07);
    put_u32(&mut sqe, 4, message.len() as u32);
    check(&sqe, 0);
    put_u64(&mut sqe, 8, 1 << 40);
    check(&sqe, 0xc6);
    sqe[8..16].copy_from_slice(&good[8..16]);
    put_u64(&mut sqe, 28, 1 << 40);
    check(&sqe, 0xc6);
}

#[test]
fn the_command_set_does_not_matter() {
    let mut bench = Bench::running();
    let message = Request::get_api_rev().encode().unwrap();
    let (mut sqe, _) = bench.hsm_sqe(&message, 0, None);
    put_u16(&mut sqe, 0, 5 << 10);
    assert_eq!(status(&bench.run(1, &sqe)), 0);
}

#[test]
fn the_destination_length_does_not_bound_the_response() {
    let mut bench = Bench::running();
    let message = Request::get_api_rev().encode().unwrap();
    let (mut sqe, destination) = bench.hsm_sqe(&message, 0, None);
    put_u32(&mut sqe, 24, 1);
    let cqe = bench.run(1, &sqe);
    let length = usize::from(get_u16(&cqe, 0));
    assert!(length > 1);
    assert!(Response::decode(&bench.peek(destination, length)).is_ok());
}

#[test]
fn the_largest_request_is_read_whole() {
    let mut bench = Bench::running();
    let mut request = Request::new(Operation::GET_DEVICE_INFO, None, Value::empty());
    let rest = 3584 - request.encode().unwrap().len() - 16;
    request.data = Value::Map(vec![(1, Value::Bytes(vec![0; rest]))]);
    let message = request.encode().unwrap();
    assert!(message.len() > 3568 && message.len() <= 3584);
    let (sqe, destination) = bench.hsm_sqe(&message, 0, None);
    let cqe = bench.run(1, &sqe);
    let response = bench.peek(destination, usize::from(get_u16(&cqe, 0)));
    assert_eq!(
        Response::decode(&response).unwrap().header.status,
        Status::SUCCESS
    );
}

#[test]
fn get_api_rev_and_get_device_info() {
    let mut bench = Bench::running();
    let (cqe, response) = bench.request(&Request::get_api_rev());
    assert_eq!(session_fields(&cqe), (0, 0, 0));
    assert_eq!(response.header.operation, Operation::GET_API_REV);
    assert_eq!(response.header.revision, None);
    assert_eq!(
        response.data,
        Value::Map(vec![
            (1, Revision::V1.to_value()),
            (2, Revision::V1.to_value())
        ])
    );
    let (cqe, response) = bench.operation(Operation::GET_DEVICE_INFO, None);
    assert_eq!(session_fields(&cqe), (0, 0, 0));
    assert_eq!(
        response.data,
        Value::Map(vec![
            (1, Value::U32(2)),
            (2, Value::U8(2)),
            (3, Value::Bool(true))
        ])
    );
    bench.assert_clean();
}

#[test]
fn what_cannot_be_decoded_is_answered() {
    let mut bench = Bench::running();
    for kind in 0..4 {
        let (sqe, destination) = bench.hsm_sqe(&[0xff; 20], kind, None);
        let cqe = bench.run(1, &sqe);
        assert_eq!(status(&cqe), 0);
        assert_eq!(session_fields(&cqe), (kind, 0, 0));
        let response = bench.peek(destination, usize::from(get_u16(&cqe, 0)));
        let response = Response::decode(&response).unwrap();
        assert_eq!(response.header.status, Status::DECODE_FAILED);
        assert_eq!(response.header.operation, Operation::INVALID);
        assert_eq!(response.data, Value::empty());
    }
}

#[test]
fn session_rules_for_each_kind() {
    let mut bench = Bench::running();
    let live = bench.open_session();
    let info = Operation::GET_DEVICE_INFO;
    let open = Operation::OPEN_SESSION;
    let close = Operation::CLOSE_SESSION;
    let inside = Operation::AES_GENERATE_KEY;
    let other = Some(live + 1);
    let session = Some(live);
    // Operation, session in the blob, kind and session in the SQE, status.
    let table = [
        (info, None, 0, None, Status::SUCCESS),
        (info, None, 1, None, Status::INVALID_ARGUMENT),
        (info, None, 3, session, Status::INVALID_ARGUMENT),
        (info, None, 0, session, Status::INVALID_ARGUMENT),
        (info, session, 0, None, Status::INVALID_ARGUMENT),
        (open, None, 0, None, Status::INVALID_ARGUMENT),
        (open, session, 1, None, Status::SESSION_NOT_EXPECTED),
        (open, None, 1, session, Status::SESSION_NOT_EXPECTED),
        (close, session, 3, session, Status::INVALID_ARGUMENT),
        (close, session, 2, None, Status::INVALID_ARGUMENT),
        (close, None, 2, session, Status::INVALID_ARGUMENT),
        (close, session, 2, other, Status::INVALID_ARGUMENT),
        (inside, session, 0, None, Status::INVALID_ARGUMENT),
        (inside, session, 3, None, Status::INVALID_ARGUMENT),
        (inside, None, 3, session, Status::INVALID_ARGUMENT),
        (inside, session, 3, other, Status::INVALID_ARGUMENT),
    ];
    for (operation, blob, kind, sqe, expected) in table {
        let request = Request::new(operation, blob, Value::empty());
        let (cqe, response) = send(&mut bench, &request, kind, sqe);
        let case = format!("{operation:?} {blob:?} kind {kind} {sqe:?}");
        assert_eq!(response.header.status, expected, "{case}");
        // Rejected before it was started: the kind and nothing else.
        assert_eq!(session_fields(&cqe), (kind, 0, 0), "{case}");
    }
}

#[test]
fn revision_rules() {
    let mut bench = Bench::running();
    let revision = |major, minor| Some(Revision { major, minor });
    for (operation, revision, expected) in [
        (Operation::GET_API_REV, None, Status::SUCCESS),
        (
            Operation::GET_API_REV,
            revision(1, 0),
            Status::UNSUPPORTED_REVISION,
        ),
        (
            Operation::GET_DEVICE_INFO,
            None,
            Status::UNSUPPORTED_REVISION,
        ),
        (
            Operation::GET_DEVICE_INFO,
            revision(0, 9),
            Status::UNSUPPORTED_REVISION,
        ),
        (
            Operation::GET_DEVICE_INFO,
            revision(1, 1),
            Status::UNSUPPORTED_REVISION,
        ),
        (
            Operation::GET_DEVICE_INFO,
            revision(2, 0),
            Status::UNSUPPORTED_REVISION,
        ),
        (Operation::GET_DEVICE_INFO, revision(1, 0), Status::SUCCESS),
    ] {
        let request = Request {
            header: RequestHeader {
                revision,
                operation,
                session: None,
            },
            data: Value::empty(),
        };
        let (_, response) = send(&mut bench, &request, 0, None);
        assert_eq!(
            response.header.status, expected,
            "{operation:?} {revision:?}"
        );
    }
}

#[test]
fn cqe_fields_for_each_outcome() {
    let mut bench = Bench::with_options(Options {
        app_id: 9,
        ..Options::default()
    });
    bench.enable();
    bench.create_pair(1, 16);
    // OpenSession succeeds: kind, id, application id.
    let (cqe, response) = bench.operation(Operation::OPEN_SESSION, None);
    assert_eq!(session_fields(&cqe), (1 | 4 | 8, 0, 9));
    assert_eq!(response.data.field(1), Some(&Value::U16(0)));
    assert_eq!(response.data.field(2), Some(&Value::U8(9)));
    assert!(response.data.field(3).unwrap().as_bytes().is_some());
    // An operation that fails inside: kind and the id of the request.
    let (cqe, response) = bench.operation(Operation::AES_GENERATE_KEY, Some(0));
    assert_eq!(response.header.status, Status::UNSUPPORTED_COMMAND);
    assert_eq!(session_fields(&cqe), (3 | 4, 0, 0));
    let (cqe, response) = bench.operation(Operation::INIT_BK3, None);
    assert_eq!(response.header.status, Status::UNSUPPORTED_COMMAND);
    assert_eq!(session_fields(&cqe), (0, 0, 0));
    let (cqe, response) = bench.operation(Operation::AES_GENERATE_KEY, Some(6));
    assert_eq!(response.header.status, Status::SESSION_NOT_FOUND);
    assert_eq!(session_fields(&cqe), (3 | 4, 6, 0));
    // CloseSession fails: kind and the id of the request, not closed.
    let (cqe, response) = bench.operation(Operation::CLOSE_SESSION, Some(5));
    assert_eq!(response.header.status, Status::SESSION_NOT_FOUND);
    assert_eq!(session_fields(&cqe), (2 | 4, 5, 0));
    let (cqe, response) = bench.operation(Operation::RESET_FUNCTION, Some(0));
    assert_eq!(response.header.status, Status::UNSUPPORTED_COMMAND);
    assert_eq!(session_fields(&cqe), (2 | 4, 0, 0));
    // ReopenSession succeeds.
    bench.disable();
    bench.enable();
    bench.create_pair(1, 16);
    let (cqe, response) = bench.operation(Operation::REOPEN_SESSION, Some(0));
    assert_eq!(response.header.status, Status::SUCCESS);
    assert_eq!(session_fields(&cqe), (3 | 4 | 8, 0, 9));
    let (cqe, response) = bench.operation(Operation::REOPEN_SESSION, Some(0));
    assert_eq!(response.header.status, Status::INVALID_ARGUMENT);
    assert_eq!(session_fields(&cqe), (3 | 4, 0, 0));
    // CloseSession succeeds: closed.
    let (cqe, response) = bench.operation(Operation::CLOSE_SESSION, Some(0));
    assert_eq!(response.header.status, Status::SUCCESS);
    assert_eq!(session_fields(&cqe), (2 | 4 | 16, 0, 0));
    bench.assert_clean();
}

#[test]
fn eight_sessions_and_no_more() {
    let mut bench = Bench::running();
    for id in 0..8 {
        assert_eq!(bench.open_session(), id);
    }
    let (cqe, response) = bench.operation(Operation::OPEN_SESSION, None);
    assert_eq!(response.header.status, Status::SESSION_LIMIT);
    assert_eq!(session_fields(&cqe), (1, 0, 0));
    bench.operation(Operation::CLOSE_SESSION, Some(4));
    assert_eq!(bench.open_session(), 4);
}

#[test]
fn unknown_operations_are_unsupported() {
    let mut bench = Bench::running();
    let request = Request::new(Operation(4711), None, Value::empty());
    let (cqe, response) = send(&mut bench, &request, 3, None);
    assert_eq!(response.header.status, Status::UNSUPPORTED_COMMAND);
    assert_eq!(session_fields(&cqe), (3, 0, 0));
}

#[test]
fn a_partition_without_credential_opens_no_session() {
    let mut bench = Bench::running();
    bench.open_session();
    bench.model.options.provisioned = false;
    for (operation, session) in [
        (Operation::OPEN_SESSION, None),
        (Operation::REOPEN_SESSION, Some(0)),
        (Operation::AES_GENERATE_KEY, Some(0)),
    ] {
        let (_, response) = bench.operation(operation, session);
        assert_eq!(response.header.status, Status::PARTITION_NOT_PROVISIONED);
    }
}

#[test]
fn flush_for_each_case() {
    let mut bench = Bench::running();
    let mut sqe = bench.flush_sqe(0);
    put_u16(&mut sqe, 0, 1 | (1 << 14));
    assert_eq!(status(&bench.run(1, &sqe)), 0xc0);
    for flags in [0, 1, 2, 3, 3 | 4, 4] {
        let mut sqe = bench.flush_sqe(0);
        sqe[44] = flags;
        let cqe = bench.run(1, &sqe);
        assert_eq!(status(&cqe), 0x07);
        assert_eq!(session_fields(&cqe), (0, 0, 0));
    }
    bench.strict.clear();
    // A live session, with a key of its own.
    let session = bench.open_session();
    let key = Key {
        kind: KeyKind::Gcm,
        bytes: [1; 32],
        owner: 0,
        app_id: 1,
        session: Some(session),
    };
    bench.model.store_key(key);
    let sqe = bench.flush_sqe(session);
    let cqe = bench.run(1, &sqe);
    assert_eq!(status(&cqe), 0);
    assert_eq!(session_fields(&cqe), (2 | 4 | 16, session, 0));
    assert_eq!(get_u16(&cqe, 0), 0);
    assert!(bench.model.keys.summary().is_empty());
    // It is gone now; ids that cannot exist are the same case.
    for id in [session, 7, 8, 0xffff] {
        let sqe = bench.flush_sqe(id);
        let cqe = bench.run(1, &sqe);
        assert_eq!(status(&cqe), 0);
        assert_eq!(session_fields(&cqe), (0, id, 0));
    }
    // A session that waits for renegotiation is freed, but not called closed.
    bench.open_session();
    bench.disable();
    bench.enable();
    bench.create_pair(1, 16);
    let sqe = bench.flush_sqe(0);
    assert_eq!(session_fields(&bench.run(1, &sqe)), (0, 0, 0));
    assert_eq!(bench.open_session(), 0);
    bench.assert_clean();
}

#[test]
fn sessions_of_a_reset_function_need_renegotiation() {
    let mut bench = Bench::running();
    bench.open_session();
    bench.disable();
    bench.enable();
    bench.create_pair(1, 16);
    assert_eq!(bench.open_session(), 1, "the id stays reserved");
    let (_, response) = bench.operation(Operation::AES_GENERATE_KEY, Some(0));
    assert_eq!(response.header.status, Status::SESSION_NEEDS_RENEGOTIATION);
    let (_, response) = bench.operation(Operation::CLOSE_SESSION, Some(0));
    assert_eq!(response.header.status, Status::SUCCESS);
    assert_eq!(bench.open_session(), 0);
}
