// SPDX-License-Identifier: GPL-2.0
//! Commands that can be told apart by what comes back.
//!
//! Each carries a number that no other command has.  For the HSM it is an
//! operation that does not exist and a revision, both of which the device
//! repeats when it refuses the operation.  For AES it is the IV or the tweak,
//! and the text is made from it, so that only the right output fits.  A command
//! that ends with the result of another one, or with an old result of its own
//! slot, is found out.

use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::Control;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::hsm::Session;
use azihsm_guest::reference;
use azihsm_mbor::Operation;
use azihsm_mbor::Request;
use azihsm_mbor::RequestHeader;
use azihsm_mbor::Response;
use azihsm_mbor::ResponseHeader;
use azihsm_mbor::Revision;
use azihsm_mbor::Status;
use azihsm_mbor::Value;
use azihsm_uapi::abi;
use azihsm_uapi::abi::ext;
use azihsm_uapi::Device;
use azihsm_uapi::Direction;
use azihsm_uapi::Errno;
use azihsm_uapi::Error;
use azihsm_uapi::Flow;
use azihsm_uapi::GcmRequest;
use azihsm_uapi::XtsRequest;
use std::process;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

/// Keys of all AES commands.
const GCM_KEY: [u8; 32] = *b"one key for the GCM of all tests";
const DATA_KEY: [u8; 32] = *b"the first half of a key for XTS.";
const TWEAK_KEY: [u8; 32] = *b"the other half of that very key!";

/// From here on there are no operations.
const NO_OPERATION: u32 = 1 << 31;

/// Room for a response that says more than it should.
const ROOM: usize = abi::HSM_MAX_LEN;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A number that no other command has, of this process or another.
fn number() -> u64 {
    (u64::from(process::id()) << 40) | NEXT.fetch_add(1, Ordering::Relaxed)
}

/// What became of a command.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Outcome {
    /// The device carried it out, and what came back is its own.
    Done,
    /// The device refused it, with this status and error code.
    Refused(u32, u32),
    /// A recovery ended it.
    Aborted,
    /// It was not sent, as a recovery was under way.
    Recovering,
    /// It was not sent, as the controller is dead.
    Dead,
    /// The device contradicts itself.
    Nonsense,
    /// The descriptor has no session, as the device has lost all of them.
    NoSession,
    /// There is no device.
    Gone,
}

impl Outcome {
    /// What a failed ioctl means.
    ///
    /// # Errors
    ///
    /// It is not one that a command which is right may get.
    pub fn of(error: Error) -> Result<Self> {
        Ok(match (error.errno, error.ext) {
            (Errno::AGAIN, ext::ABORTED) => Self::Aborted,
            (Errno::AGAIN, ext::RECOVERING) => Self::Recovering,
            (Errno::AGAIN, ext::HSM_NOT_READY | ext::AES_DEVICE) => Self::Dead,
            (Errno::IO, ext::AES_DEVICE) => Self::Nonsense,
            (Errno::INVAL, ext::HSM_NO_SESSION | ext::AES_NO_SESSION) => Self::NoSession,
            // Another thread was faster in opening another one.
            (Errno::INVAL, ext::HSM_SESSION_MISMATCH | ext::AES_SESSION_MISMATCH) => {
                Self::NoSession
            }
            (Errno::NODEV, _) => Self::Gone,
            _ => bail!("a command that is right failed: {error}"),
        })
    }

    /// Whether the device answered the command.
    pub fn is_answer(self) -> bool {
        matches!(self, Self::Done | Self::Refused(..) | Self::Nonsense)
    }

    /// Whether the device may have carried the command out.
    pub fn may_be_sent(self) -> bool {
        !matches!(self, Self::Recovering | Self::Dead | Self::NoSession)
    }
}

/// How far the device can be trusted to say what it does.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Trust {
    /// Completely.
    #[default]
    Full,
    /// Completions may have another length than the data.
    NotLengths,
}

/// Sends a HSM command whose request has about `padding` bytes more than it
/// needs, in `session` or in none.
///
/// # Errors
///
/// What came back is not what belongs to it, or it failed for a reason that it
/// cannot have.
pub fn plain(
    device: &Device,
    session: Option<u16>,
    padding: usize,
    trust: Trust,
) -> Result<Outcome> {
    let number = number();
    let revision = Some(Revision {
        major: (number >> 32) as u32,
        minor: number as u32,
    });
    let operation = Operation(NO_OPERATION | number as u32);
    let data = match padding {
        0 => Value::empty(),
        _ => Value::Map(vec![(1, Value::Bytes(vec![number as u8; padding]))]),
    };
    let request = Request {
        header: RequestHeader {
            revision,
            operation,
            session,
        },
        data,
    };
    let expected = Response {
        header: ResponseHeader {
            revision,
            operation,
            session,
            status: Status::UNSUPPORTED_COMMAND,
            fips: true,
        },
        data: Value::empty(),
    }
    .encode()?;
    let flow = session.map_or(Flow::None, Flow::InSession);
    let mut room = [0; ROOM];
    let reply = match device.hsm_command(flow, &request.encode()?, &mut room) {
        Ok(reply) => reply,
        Err(error) => return Outcome::of(error),
    };
    if reply.status != 0 {
        return Ok(Outcome::Refused(reply.status, 0));
    }
    let response = &room[..reply.len];
    let same = response
        .iter()
        .zip(&expected)
        .take_while(|(is, due)| is == due)
        .count();
    let rest = &response[same..];
    let is_whole = rest.is_empty() && same == expected.len();
    let is_padded = rest.is_empty() || (same == expected.len() && rest.iter().all(|&b| b == 0));
    ensure!(
        is_whole || (trust == Trust::NotLengths && is_padded),
        "a response of {} bytes is right up to byte {same} only, of {}: {:02x?}",
        response.len(),
        expected.len(),
        &rest[..rest.len().min(64)]
    );
    Ok(Outcome::Done)
}

/// Opens a session, unless the descriptor has one.
///
/// # Errors
///
/// As [`plain`].
pub fn open(device: &Device) -> Result<(Outcome, Option<Session>)> {
    let mut room = [0; ROOM];
    match device.hsm_command(Flow::Open, &hsm::open_request(), &mut room) {
        Ok(reply) if reply.status != 0 => Ok((Outcome::Refused(reply.status, 0), None)),
        Ok(reply) => {
            let response = Response::decode(&room[..reply.len])?;
            let session = hsm::session_of(&response).context("opening a session")?;
            Ok((Outcome::Done, Some(session)))
        }
        Err(error) if error.ext == ext::HSM_SESSION_LIMIT => Ok((Outcome::NoSession, None)),
        Err(error) => Ok((Outcome::of(error)?, None)),
    }
}

/// The keys that AES commands use.  Resets take them away.
#[derive(Debug, Default)]
pub struct Keys {
    gcm: AtomicU32,
    data: AtomicU32,
    tweak: AtomicU32,
}

impl Keys {
    /// Loads the keys; any session of `app` may use them.
    pub fn load(&self, control: &mut Control, app: u8) -> Result<()> {
        for (place, kind, key) in [
            (&self.gcm, KeyKind::Gcm, &GCM_KEY),
            (&self.data, KeyKind::Xts, &DATA_KEY),
            (&self.tweak, KeyKind::Xts, &TWEAK_KEY),
        ] {
            let id = control.load_lasting_key(kind, key, app)?;
            place.store(id, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Deletes the keys that there still are.
    pub fn delete(&self, control: &mut Control) {
        for place in [&self.gcm, &self.data, &self.tweak] {
            // A reset may have done it.
            let _ = control.delete_key(place.load(Ordering::Relaxed));
        }
    }
}

/// Whether AES status `status` with error code `code` says that there is no such
/// key (any more), or that it went away while it was being read.
pub fn is_lost_key(status: u32, code: u32) -> bool {
    matches!(
        (status, code),
        (1, 0x0e | 0x0f) | (2, 0x01 | 0x02 | 0x08) | (3, 0x0d)
    )
}

/// An AES mode.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Encryption with GCM.
    Gcm,
    /// Encryption with XTS; the text has whole blocks.
    Xts,
}

/// Sends an AES command with a text of `len` bytes.
///
/// # Errors
///
/// As [`plain`].
pub fn aes(
    device: &Device,
    session: Session,
    keys: &Keys,
    mode: Mode,
    len: usize,
) -> Result<Outcome> {
    let number = number();
    let text = text(number, len);
    let key = |place: &AtomicU32| place.load(Ordering::Relaxed);
    let mut tweak = [0; 16];
    tweak[..8].copy_from_slice(&number.to_le_bytes());
    let mut iv = [0; 12];
    iv.copy_from_slice(&tweak[..12]);
    let reply = match mode {
        Mode::Gcm => device.aes_gcm(&GcmRequest {
            direction: Direction::Encrypt,
            session: session.id,
            app: session.app,
            key: key(&keys.gcm),
            iv,
            tag: [0; 16],
            aad: &[],
            text: &text,
        }),
        Mode::Xts => device.aes_xts(&XtsRequest {
            direction: Direction::Encrypt,
            session: session.id,
            app: session.app,
            data_key: key(&keys.data),
            tweak_key: key(&keys.tweak),
            data_unit: abi::XTS_UNIT_WHOLE,
            tweak,
            text: &text,
        }),
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return Outcome::of(error),
    };
    if reply.status != 0 {
        return Ok(Outcome::Refused(reply.status, reply.code));
    }
    ensure!(reply.byte_count == len, "{} bytes", reply.byte_count);
    match mode {
        Mode::Gcm => {
            let (expected, tag) = reference::gcm_encrypt(&GCM_KEY, iv, &[], &text)?;
            ensure!(reply.text == expected, "wrong GCM text of {len} bytes");
            ensure!(reply.tag == tag && reply.iv == iv, "wrong GCM tag or IV");
        }
        Mode::Xts => {
            let first = u128::from(number);
            let expected = reference::xts_encrypt(&DATA_KEY, &TWEAK_KEY, len, first, &text);
            ensure!(reply.text == expected, "wrong XTS text of {len} bytes");
        }
    }
    Ok(Outcome::Done)
}

/// A text of `len` bytes that belongs to `number`.
fn text(number: u64, len: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = Vec::with_capacity(len + 8);
    while text.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.extend_from_slice(&state.to_le_bytes());
    }
    text.truncate(len);
    text
}

#[cfg(test)]
mod tests {
    use super::text;
    use super::Outcome;
    use azihsm_uapi::abi::ext;
    use azihsm_uapi::Errno;
    use azihsm_uapi::Error;

    #[test]
    fn texts_differ() {
        assert_eq!(text(1, 20), text(1, 20));
        assert_ne!(text(1, 20), text(2, 20));
        assert_eq!(text(3, 0).len(), 0);
        assert_eq!(text(3, 17).len(), 17);
    }

    #[test]
    fn only_what_a_right_command_may_get_is_an_outcome() {
        let of = |errno, ext| Outcome::of(Error { errno, ext });
        assert_eq!(of(Errno::AGAIN, ext::ABORTED).unwrap(), Outcome::Aborted);
        assert_eq!(of(Errno::NODEV, 0).unwrap(), Outcome::Gone);
        assert!(of(Errno::AGAIN, 0).is_err());
        assert!(of(Errno::INTR, 0).is_err());
        assert!(of(Errno::INVAL, ext::HSM_SRC).is_err());
    }
}
