// SPDX-License-Identifier: GPL-2.0
//! The commands of the HSM that need no session and change nothing.

use crate::error::Error;
use crate::error::Result;
use azihsm_mbor::Operation;
use azihsm_mbor::Request;
use azihsm_mbor::Response;
use azihsm_mbor::Revision;
use azihsm_mbor::Status;
use azihsm_mbor::Value;
use azihsm_uapi::abi::HSM_MAX_LEN;
use azihsm_uapi::Device;
use azihsm_uapi::Flow;
use serde::Serialize;

const API_REVISIONS: &str = "revisions of the message format";
const KIND: &str = "kind of the device";

/// The revisions of the message format that an HSM speaks.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Revisions {
    /// The oldest.
    pub oldest: String,
    /// The newest.
    pub newest: String,
}

/// What an HSM says that it is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Kind {
    /// Whether it is hardware.
    pub physical: bool,
    /// Its resource groups.
    pub resource_groups: u8,
    /// Whether it calls itself approved in the sense of FIPS 140.
    pub fips_approved: bool,
}

/// Asks for the revisions of the message format.
pub fn revisions(device: &Device) -> Result<Revisions> {
    read_revisions(&exchange(device, API_REVISIONS, &Request::get_api_rev())?)
}

/// Asks what the HSM is.
pub fn kind(device: &Device) -> Result<Kind> {
    let request = Request::new(Operation::GET_DEVICE_INFO, None, Value::empty());
    read_kind(&exchange(device, KIND, &request)?)
}

fn exchange(device: &Device, what: &'static str, request: &Request) -> Result<Response> {
    let nonsense = |error: azihsm_mbor::Error| Error::Nonsense {
        what,
        why: error.to_string(),
    };
    let mut bytes = vec![0; HSM_MAX_LEN];
    let reply = device
        .hsm_command(Flow::None, &request.encode().map_err(nonsense)?, &mut bytes)
        .map_err(|error| Error::Request { what, error })?;
    if reply.status != 0 {
        return Err(Error::Refused {
            what,
            status: reply.status,
        });
    }
    let response = Response::decode(&bytes[..reply.len]).map_err(nonsense)?;
    match response.header.status {
        Status::SUCCESS => Ok(response),
        Status(status) => Err(Error::Refused { what, status }),
    }
}

fn missing(what: &'static str, field: &str) -> Error {
    Error::Nonsense {
        what,
        why: format!("no {field}"),
    }
}

fn read_revisions(response: &Response) -> Result<Revisions> {
    let revision = |key, name| {
        let value = response.data.field(key);
        let revision = value.and_then(|value| Revision::from_value(value).ok());
        revision
            .map(|revision| format!("{}.{}", revision.major, revision.minor))
            .ok_or_else(|| missing(API_REVISIONS, name))
    };
    Ok(Revisions {
        oldest: revision(1, "oldest")?,
        newest: revision(2, "newest")?,
    })
}

fn read_kind(response: &Response) -> Result<Kind> {
    let field = |key| response.data.field(key);
    let kind = field(1).and_then(Value::as_u32);
    let groups = field(2).and_then(Value::as_u8);
    let approved = field(3).and_then(Value::as_bool);
    Ok(Kind {
        physical: kind.ok_or_else(|| missing(KIND, "kind"))? == 2,
        resource_groups: groups.ok_or_else(|| missing(KIND, "resource groups"))?,
        fips_approved: approved.ok_or_else(|| missing(KIND, "FIPS flag"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::read_kind;
    use super::read_revisions;
    use super::Kind;
    use azihsm_mbor::Operation;
    use azihsm_mbor::Response;
    use azihsm_mbor::ResponseHeader;
    use azihsm_mbor::Revision;
    use azihsm_mbor::Status;
    use azihsm_mbor::Value;

    fn response(data: Vec<(u8, Value)>) -> Response {
        Response {
            header: ResponseHeader {
                revision: None,
                operation: Operation::GET_DEVICE_INFO,
                session: None,
                status: Status::SUCCESS,
                fips: false,
            },
            data: Value::Map(data),
        }
    }

    #[test]
    fn revisions_are_read() {
        let revision = |major, minor| Revision { major, minor }.to_value();
        let both = response(vec![(1, revision(1, 0)), (2, revision(2, 13))]);
        let revisions = read_revisions(&both).unwrap();
        assert_eq!((&*revisions.oldest, &*revisions.newest), ("1.0", "2.13"));

        let error = read_revisions(&response(vec![(1, revision(1, 0))])).unwrap_err();
        assert!(error.to_string().ends_with("no newest"), "{error}");
    }

    #[test]
    fn the_kind_is_read() {
        let fields = vec![
            (1, Value::U32(2)),
            (2, Value::U8(64)),
            (3, Value::Bool(true)),
        ];
        let kind = Kind {
            physical: true,
            resource_groups: 64,
            fips_approved: true,
        };
        assert_eq!(read_kind(&response(fields.clone())).unwrap(), kind);
        for missing in 0..3 {
            let mut fields = fields.clone();
            fields.remove(missing);
            read_kind(&response(fields)).unwrap_err();
        }
    }
}
