// SPDX-License-Identifier: GPL-2.0
//! Whether the driver serves: commands whose answers are known beforehand.

use crate::dice::Dice;
use crate::NODE;
use anyhow::ensure;
use anyhow::Result;
use azihsm_guest::control::Control;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::hsm::Session;
use azihsm_guest::reference;
use azihsm_mbor::Operation;
use azihsm_mbor::Revision;
use azihsm_mbor::Status;
use azihsm_uapi::pad_aad;
use azihsm_uapi::Device;
use azihsm_uapi::Direction;
use azihsm_uapi::Flow;
use azihsm_uapi::GcmRequest;
use serde_json::json;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How long it may take until all succeeds, while others reset the device and
/// use all of its sessions.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(30);

/// Lengths of the texts: one that is copied, one that is accessed in place.
const LENGTHS: [usize; 2] = [1000, 20_001];

/// A descriptor with a session of its own.
pub struct Probe {
    device: Device,
    session: Option<Session>,
    dice: Dice,
}

/// An answer that is wrong; no other is going to make up for it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Wrong(String);

impl Probe {
    /// A probe with its own descriptor.
    pub fn new(dice: Dice) -> Result<Self> {
        Ok(Self {
            device: Device::open(NODE)?,
            session: None,
            dice,
        })
    }

    /// Makes sure that everything succeeds sooner or later, and how often it
    /// had to be tried.
    pub fn insist(&mut self, control: &mut Control) -> Result<u32> {
        let deadline = Instant::now() + PATIENCE;
        let mut tries = 1;
        loop {
            match self.once(control) {
                Ok(()) => return Ok(tries),
                Err(error) if error.is::<Wrong>() || Instant::now() > deadline => {
                    return Err(error.context(format!("{tries} tries")))
                }
                Err(_) => {}
            }
            tries += 1;
            thread::sleep(PAUSE);
        }
    }

    /// Makes sure that everything succeeds.
    pub fn once(&mut self, control: &mut Control) -> Result<()> {
        let revisions = hsm::api_revisions(&self.device)?;
        if revisions != (Revision::V1, Revision::V1) {
            return Err(Wrong(format!("revisions {revisions:?}")).into());
        }
        let session = self.session()?;
        let key: [u8; 32] = self.dice.any();
        let id = control.load_key(KeyKind::Gcm, &key, session)?;
        let result = LENGTHS
            .iter()
            .try_for_each(|&len| self.encrypt(session, id, &key, len));
        // It may be gone after a reset.
        let _ = control.ask(&json!({ "cmd": "delete_key", "key_id": id }));
        result
    }

    /// Its session, renegotiated or opened if need be.
    fn session(&mut self) -> Result<Session> {
        if let Some(session) = self.session {
            let request = hsm::plain(hsm::IN_SESSION, Some(session.id));
            let flow = Flow::InSession(session.id);
            let answer = hsm::exchange(&self.device, flow, &request)?;
            if answer.header.status == Status::SESSION_NEEDS_RENEGOTIATION {
                let request = hsm::plain(Operation::REOPEN_SESSION, Some(session.id));
                hsm::session_of(&hsm::exchange(&self.device, flow, &request)?)?;
            }
            hsm::use_session(&self.device, session.id)?;
            return Ok(session);
        }
        let session = hsm::open_session(&self.device)?;
        self.session = Some(session);
        Ok(session)
    }

    /// Encrypts `len` bytes.
    fn encrypt(&mut self, session: Session, id: u32, key: &[u8; 32], len: usize) -> Result<()> {
        let (aad, text) = (self.dice.bytes(20), self.dice.bytes(len));
        let iv = self.dice.any();
        let reply = self.device.aes_gcm(&GcmRequest {
            direction: Direction::Encrypt,
            session: session.id,
            app: session.app,
            key: id,
            iv,
            tag: [0; 16],
            aad: &aad,
            text: &text,
        })?;
        ensure!(
            reply.status == 0,
            "device status {}, error {:#x}",
            reply.status,
            reply.code
        );
        let (cipher, tag) = reference::gcm_encrypt(key, iv, &aad, &text)?;
        let good = reply.text == cipher
            && reply.tag == tag
            && reply.iv == iv
            && reply.byte_count == pad_aad(&aad).len() + len;
        if !good {
            return Err(Wrong(format!("wrong result for {len} bytes")).into());
        }
        Ok(())
    }
}
