// SPDX-License-Identifier: GPL-2.0

//! Requests and responses.

use crate::operation::Operation;
use crate::operation::Status;
use crate::value::Error;
use crate::value::Value;

/// A revision of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    /// Changes when old messages are no longer understood.
    pub major: u32,
    /// Changes when messages are added.
    pub minor: u32,
}

impl Revision {
    /// The only revision that the HSM speaks.
    pub const V1: Self = Self { major: 1, minor: 0 };

    /// The revision as an item of a message.
    pub fn to_value(self) -> Value {
        Value::Map(vec![
            (1, Value::U32(self.major)),
            (2, Value::U32(self.minor)),
        ])
    }

    /// The revision that an item of a message tells.
    pub fn from_value(value: &Value) -> Result<Self, Error> {
        let Value::Map(fields) = value else {
            return Err(Error::Shape("revision is not a map"));
        };
        match fields.as_slice() {
            [(1, Value::U32(major)), (2, Value::U32(minor))] => Ok(Self {
                major: *major,
                minor: *minor,
            }),
            _ => Err(Error::Shape("revision is not a major and a minor number")),
        }
    }
}

/// The first part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Revision of the protocol.
    pub revision: Option<Revision>,
    /// What to do.
    pub operation: Operation,
    /// The session to do it in.
    pub session: Option<u16>,
}

/// A message to the HSM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do, and in which session.
    pub header: RequestHeader,
    /// What the operation needs.
    pub data: Value,
}

impl Request {
    /// A request of revision 1.0.
    pub fn new(operation: Operation, session: Option<u16>, data: Value) -> Self {
        Self {
            header: RequestHeader {
                revision: Some(Revision::V1),
                operation,
                session,
            },
            data,
        }
    }

    /// The request for the supported revisions, which itself carries none.
    pub fn get_api_rev() -> Self {
        Self {
            header: RequestHeader {
                revision: None,
                operation: Operation::GET_API_REV,
                session: None,
            },
            data: Value::empty(),
        }
    }

    /// Encodes the request.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut header = Vec::new();
        if let Some(revision) = self.header.revision {
            header.push((1, revision.to_value()));
        }
        header.push((2, Value::U32(self.header.operation.0)));
        if let Some(session) = self.header.session {
            header.push((3, Value::U16(session)));
        }
        Value::Map(vec![(0, Value::Map(header)), (1, self.data.clone())]).encode()
    }

    /// Decodes a request.
    pub fn decode(message: &[u8]) -> Result<Self, Error> {
        let (header, data) = split(message)?;
        let mut revision = None;
        let mut operation = None;
        let mut session = None;
        for (key, value) in header {
            match (key, value) {
                (1, value) => revision = Some(Revision::from_value(&value)?),
                (2, Value::U32(number)) => operation = Some(Operation(number)),
                (3, Value::U16(id)) => session = Some(id),
                _ => return Err(Error::Shape("request header has an unknown field")),
            }
        }
        Ok(Self {
            header: RequestHeader {
                revision,
                operation: operation.ok_or(Error::Shape("request header has no operation"))?,
                session,
            },
            data,
        })
    }
}

/// The first part of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    /// Revision of the protocol.
    pub revision: Option<Revision>,
    /// What was asked for.
    pub operation: Operation,
    /// The session it was asked for in.
    pub session: Option<u16>,
    /// How it went.
    pub status: Status,
    /// Whether the HSM was in its FIPS-approved state.
    pub fips: bool,
}

/// A message from the HSM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// How it went.
    pub header: ResponseHeader,
    /// What the operation yields; an empty map if it failed.
    pub data: Value,
}

impl Response {
    /// Encodes the response.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut header = Vec::new();
        if let Some(revision) = self.header.revision {
            header.push((1, revision.to_value()));
        }
        header.push((2, Value::U32(self.header.operation.0)));
        if let Some(session) = self.header.session {
            header.push((3, Value::U16(session)));
        }
        header.push((4, Value::U32(self.header.status.0)));
        header.push((5, Value::Bool(self.header.fips)));
        Value::Map(vec![(0, Value::Map(header)), (1, self.data.clone())]).encode()
    }

    /// Decodes a response.
    pub fn decode(message: &[u8]) -> Result<Self, Error> {
        let (header, data) = split(message)?;
        let mut revision = None;
        let mut operation = None;
        let mut session = None;
        let mut status = None;
        let mut fips = None;
        for (key, value) in header {
            match (key, value) {
                (1, value) => revision = Some(Revision::from_value(&value)?),
                (2, Value::U32(number)) => operation = Some(Operation(number)),
                (3, Value::U16(id)) => session = Some(id),
                (4, Value::U32(number)) => status = Some(Status(number)),
                (5, Value::Bool(approved)) => fips = Some(approved),
                _ => return Err(Error::Shape("response header has an unknown field")),
            }
        }
        Ok(Self {
            header: ResponseHeader {
                revision,
                operation: operation.ok_or(Error::Shape("response header has no operation"))?,
                session,
                status: status.ok_or(Error::Shape("response header has no status"))?,
                fips: fips.ok_or(Error::Shape("response header has no FIPS field"))?,
            },
            data,
        })
    }
}

/// Takes a message apart into the fields of its header and its data.
fn split(message: &[u8]) -> Result<(Vec<(u8, Value)>, Value), Error> {
    let Value::Map(mut fields) = Value::decode(message)? else {
        return Err(Error::Shape("message is not a map"));
    };
    match (fields.pop(), fields.pop(), fields.is_empty()) {
        (Some((1, data @ Value::Map(_))), Some((0, Value::Map(header))), true) => {
            Ok((header, data))
        }
        _ => Err(Error::Shape("message is not a header and data")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn get_api_rev_request_has_the_documented_bytes() {
        let message = [
            0xa2, // message
            0x18, 0x00, 0xa1, // header
            0x18, 0x02, 0x1a, 0x00, 0x00, 0x03, 0xea, // operation 1002
            0x18, 0x01, 0xa0, // data
        ];
        assert_eq!(Request::get_api_rev().encode().as_deref(), Ok(&message[..]));
        assert_eq!(Request::decode(&message), Ok(Request::get_api_rev()));
    }

    #[test]
    fn close_session_request_has_the_documented_bytes() {
        let message = [
            0xa2, // message
            0x18, 0x00, 0xa3, // header
            0x18, 0x01, 0xa2, // revision
            0x18, 0x01, 0x1a, 0, 0, 0, 1, // major
            0x18, 0x02, 0x1a, 0, 0, 0, 0, // minor
            0x18, 0x02, 0x1a, 0x00, 0x00, 0x04, 0x51, // operation 1105
            0x18, 0x03, 0x19, 0x00, 0x07, // session 7
            0x18, 0x01, 0xa0, // data
        ];
        let request = Request::new(Operation::CLOSE_SESSION, Some(7), Value::empty());
        assert_eq!(request.encode().as_deref(), Ok(&message[..]));
        assert_eq!(Request::decode(&message), Ok(request));
    }

    #[test]
    fn error_response_has_the_documented_bytes() {
        let message = [
            0xa2, // message
            0x18, 0x00, 0xa3, // header
            0x18, 0x02, 0x1a, 0x00, 0x00, 0x03, 0xe9, // operation 1001
            0x18, 0x04, 0x1a, 0x08, 0x68, 0x00, 0x02, // status 141033474
            0x18, 0x05, 0x15, // FIPS
            0x18, 0x01, 0xa0, // data
        ];
        let response = Response {
            header: ResponseHeader {
                revision: None,
                operation: Operation::INVALID,
                session: None,
                status: Status::DECODE_FAILED,
                fips: true,
            },
            data: Value::empty(),
        };
        assert_eq!(response.encode().as_deref(), Ok(&message[..]));
        assert_eq!(Response::decode(&message), Ok(response));
    }

    #[test]
    fn messages_of_another_shape_are_refused() {
        let good = Request::new(Operation::GET_DEVICE_INFO, None, Value::empty());
        let header = |fields: Vec<(u8, Value)>| Value::Map(fields);
        let operation = (2, Value::U32(1003));
        let table = [
            Value::U8(0),
            Value::empty(),
            Value::Map(vec![(0, header(vec![operation.clone()]))]),
            Value::Map(vec![(0, header(vec![])), (1, Value::empty())]),
            Value::Map(vec![
                (0, header(vec![operation.clone()])),
                (1, Value::U8(0)),
            ]),
            Value::Map(vec![
                (0, header(vec![operation.clone()])),
                (2, Value::empty()),
            ]),
            Value::Map(vec![
                (0, header(vec![operation.clone(), (4, Value::U8(0))])),
                (1, Value::empty()),
            ]),
            Value::Map(vec![
                (0, header(vec![operation.clone(), (3, Value::U32(0))])),
                (1, Value::empty()),
            ]),
            Value::Map(vec![
                (0, header(vec![(1, Value::empty()), operation.clone()])),
                (1, Value::empty()),
            ]),
            Value::Map(vec![
                (0, header(vec![operation])),
                (1, Value::empty()),
                (2, Value::empty()),
            ]),
        ];
        assert!(Request::decode(&good.encode().unwrap()).is_ok());
        for value in table {
            let message = value.encode().unwrap();
            assert!(
                matches!(Request::decode(&message), Err(Error::Shape(_))),
                "{value:?}"
            );
        }
    }

    fn arbitrary_revision() -> impl Strategy<Value = Option<Revision>> {
        proptest::option::of(
            (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Revision { major, minor }),
        )
    }

    proptest! {
        #[test]
        fn requests_decode_to_themselves(
            revision in arbitrary_revision(),
            number in any::<u32>(),
            session in any::<Option<u16>>(),
            data in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let request = Request {
                header: RequestHeader { revision, operation: Operation(number), session },
                data: Value::Map(vec![(1, Value::Bytes(data))]),
            };
            prop_assert_eq!(Request::decode(&request.encode().unwrap()), Ok(request));
        }

        #[test]
        fn responses_decode_to_themselves(
            revision in arbitrary_revision(),
            number in any::<u32>(),
            session in any::<Option<u16>>(),
            status in any::<u32>(),
            fips in any::<bool>(),
        ) {
            let response = Response {
                header: ResponseHeader {
                    revision,
                    operation: Operation(number),
                    session,
                    status: Status(status),
                    fips,
                },
                data: Value::empty(),
            };
            prop_assert_eq!(Response::decode(&response.encode().unwrap()), Ok(response));
        }

        #[test]
        fn no_input_panics(message in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = Request::decode(&message);
            let _ = Response::decode(&message);
        }
    }
}
