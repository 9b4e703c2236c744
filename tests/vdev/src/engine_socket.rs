// SPDX-License-Identifier: GPL-2.0

//! An [`Engine`] behind a Unix socket.
//!
//! Both directions carry frames: the length of the rest and the length of the
//! header, each 32 bits little-endian, then the header as JSON, then a payload.
//! See README.md for the headers.

use crate::engine::AesRequest;
use crate::engine::Engine;
use crate::engine::HsmRequest;
use crate::engine::Reply;
use crate::engine::Request;
use crate::engine::ResetKind;
use crate::engine::Token;
use serde::Deserialize;
use serde_json::json;
use serde_json::Value;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

/// The largest frame that is accepted.
const MAX_FRAME: u32 = 80 << 20;
/// How long the engine may take to accept a frame.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// See the module.
pub struct SocketEngine {
    frames: mpsc::Sender<Vec<u8>>,
    replies: Arc<Mutex<Vec<Reply>>>,
    last: Token,
}

#[derive(Deserialize)]
struct ReplyHeader {
    id: Token,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    error: u16,
    kind: Option<u8>,
    session: Option<u16>,
    app_id: Option<u8>,
    #[serde(default)]
    closed: bool,
    #[serde(default)]
    fips: u32,
    tag: Option<String>,
    iv: Option<String>,
}

impl SocketEngine {
    /// Connects to an engine; `wake` is called for every answer.
    pub fn connect(path: &Path, wake: impl Fn() + Send + 'static) -> io::Result<Self> {
        let mut input = UnixStream::connect(path)?;
        let mut output = input.try_clone()?;
        output.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let replies = Arc::new(Mutex::new(Vec::new()));
        let (frames, queued) = mpsc::channel::<Vec<u8>>();
        thread::Builder::new()
            .name("engine output".into())
            .spawn(move || {
                for frame in queued {
                    if let Err(error) = output.write_all(&frame) {
                        log::error!("external engine: {error}");
                        break;
                    }
                }
                // The device is gone or the engine stuck: the reader ends too.
                let _ = output.shutdown(Shutdown::Both);
            })?;
        let shared = Arc::clone(&replies);
        thread::Builder::new()
            .name("engine input".into())
            .spawn(move || loop {
                match read_frame(&mut input).and_then(|(header, data)| parse(&header, data)) {
                    Ok(reply) => {
                        shared
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(reply);
                        wake();
                    }
                    Err(error) => {
                        log::warn!("external engine: {error}");
                        return;
                    }
                }
            })?;
        Ok(Self {
            frames,
            replies,
            last: 0,
        })
    }

    /// Sends a frame; an engine that is gone shows by not answering.
    fn send(&self, header: &Value, payload: &[&[u8]]) {
        let _ = self.frames.send(frame(header, payload));
    }
}

impl Engine for SocketEngine {
    fn submit(&mut self, request: Request) -> Token {
        self.last += 1;
        let id = self.last;
        match request {
            Request::Hsm(HsmRequest {
                kind,
                session,
                message,
            }) => self.send(
                &json!({"id": id, "op": "hsm", "kind": kind, "session": session}),
                &[&message],
            ),
            Request::Flush { session } => {
                self.send(&json!({"id": id, "op": "flush", "session": session}), &[]);
            }
            Request::Aes(request) => {
                self.send(&aes_header(id, &request), &[&request.aad, &request.text])
            }
        }
        id
    }

    fn replies(&mut self) -> Vec<Reply> {
        std::mem::take(&mut *self.replies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn reset(&mut self, kind: ResetKind) {
        let kind = match kind {
            ResetKind::Enable => "enable",
            ResetKind::Disable => "disable",
            ResetKind::Subsystem => "subsystem",
            ResetKind::Function => "function",
            ResetKind::Bus => "bus",
            ResetKind::Crash => "crash",
        };
        self.send(&json!({"op": "reset", "kind": kind}), &[]);
    }
}

fn aes_header(id: Token, request: &AesRequest) -> Value {
    json!({
        "id": id,
        "op": "aes",
        "cipher": if request.xts { "xts" } else { "gcm" },
        "direction": if request.decrypt { "decrypt" } else { "encrypt" },
        "keys": request.keys,
        "session": request.session,
        "app_id": request.app_id,
        "iv": hex::encode(request.iv),
        "tag": hex::encode(request.tag),
        "unit": request.unit,
        "aad": request.aad.len(),
    })
}

/// A frame with this header, and the pieces as payload.
pub fn frame(header: &Value, payload: &[&[u8]]) -> Vec<u8> {
    let header = header.to_string();
    let length = 4 + header.len() + payload.iter().map(|piece| piece.len()).sum::<usize>();
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend((length as u32).to_le_bytes());
    frame.extend((header.len() as u32).to_le_bytes());
    frame.extend(header.as_bytes());
    for piece in payload {
        frame.extend(*piece);
    }
    frame
}

/// Reads a frame, yielding its header and its payload.
pub fn read_frame(input: &mut impl Read) -> io::Result<(Value, Vec<u8>)> {
    let mut word = [0; 4];
    input.read_exact(&mut word)?;
    let length = u32::from_le_bytes(word);
    input.read_exact(&mut word)?;
    let header = u32::from_le_bytes(word);
    let payload = length
        .checked_sub(4)
        .and_then(|rest| rest.checked_sub(header))
        .filter(|_| length <= MAX_FRAME)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "bad frame lengths"))?;
    let mut text = vec![0; header as usize];
    input.read_exact(&mut text)?;
    let mut data = vec![0; payload as usize];
    input.read_exact(&mut data)?;
    Ok((serde_json::from_slice(&text)?, data))
}

fn parse(header: &Value, data: Vec<u8>) -> io::Result<Reply> {
    let header = ReplyHeader::deserialize(header)?;
    Ok(Reply {
        token: header.id,
        status: header.status,
        error: header.error,
        kind: header.kind,
        session: header.session,
        app_id: header.app_id,
        closed: header.closed,
        fips: header.fips,
        tag: header
            .tag
            .map(|text| fixed(&text))
            .transpose()?
            .unwrap_or_default(),
        iv: header.iv.map(|text| fixed(&text)).transpose()?,
        data,
    })
}

fn fixed<const N: usize>(text: &str) -> io::Result<[u8; N]> {
    hex::decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "bad hexadecimal field"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_written() {
        let header = json!({"id": 7, "session": 3});
        let bytes = frame(&header, &[b"ab", b"c"]);
        assert_eq!(&bytes[..4], &(bytes.len() as u32 - 4).to_le_bytes());
        let (read, data) = read_frame(&mut bytes.as_slice()).unwrap();
        assert_eq!((read, data.as_slice()), (header, &b"abc"[..]));
    }

    #[test]
    fn bad_frames_are_refused() {
        let huge = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        let header_beyond = [5, 0, 0, 0, 9, 0, 0, 0, b'{'];
        for bytes in [&huge[..], &header_beyond[..], &[0; 8][..], &[1][..]] {
            assert!(read_frame(&mut &*bytes).is_err());
        }
        assert!(parse(&json!({}), Vec::new()).is_err());
        assert!(parse(&json!({"id": 1, "tag": "00"}), Vec::new()).is_err());
        assert!(parse(&json!({"id": 1}), Vec::new()).is_ok());
    }
}
