// SPDX-License-Identifier: GPL-2.0

//! The AES engine.  See Documentation/device.rst, section 6.

use crate::bytes::get_array;
use crate::bytes::get_u16;
use crate::bytes::get_u32;
use crate::bytes::get_u64;
use crate::bytes::get_u8;
use crate::bytes::put;
use crate::bytes::put_u16;
use crate::bytes::put_u32;
use crate::data::locate;
use crate::data::Data;
use crate::data::Failure;
use crate::data::Side;
use crate::engine::AesRequest;
use crate::engine::Reply;
use crate::engine::Request as EngineRequest;
use crate::engine::Token;
use crate::gcm::Gcm;
use crate::keys::index_of;
use crate::keys::Key;
use crate::keys::KeyKind;
use crate::keys::INDICES;
use crate::model::Command;
use crate::model::Model;
use crate::xts::Xts;

/// Size of a CQ entry.
pub const CQE: usize = 64;
/// Commands that are inside the engine at a time, one per micro-controller.
pub const AES_SLOTS: usize = 3;
/// The most bytes an XTS command may process.
pub const MAX_XTS: u32 = 16 << 20;

/// Status of an XTS command with a field that is wrong.
pub const STATUS_XTS: u16 = 1;
/// Status of a GCM command with a field that is wrong, or a tail that failed.
pub const STATUS_GCM: u16 = 2;
/// Status of a failure inside the engine.
pub const STATUS_ENGINE: u16 = 3;
/// Status of a descriptor that is wrong.
pub const STATUS_DESCRIPTOR: u16 = 4;
/// Status of a command whose queue was deleted.
pub const STATUS_QUEUE_DELETED: u16 = 7;
/// Error code of a failure that has no other.
pub const ERROR_FATAL: u16 = 0xa;

const OUTPUT_OVERRUN: Failure = (STATUS_ENGINE, 5);
const OUTPUT_WRITE: Failure = (STATUS_ENGINE, 8);
const TAG_MISMATCH: Failure = (STATUS_ENGINE, 9);
const KEY_READ: Failure = (STATUS_ENGINE, 0xd);
const DATA_READ: Failure = (STATUS_ENGINE, 0xf);
const INPUT_UNDERRUN: Failure = (STATUS_ENGINE, 0x11);
const LENGTH_UNDERRUN: Failure = (STATUS_DESCRIPTOR, 0xa);
const LENGTH_OVERRUN: Failure = (STATUS_DESCRIPTOR, 0xb);
const KEY_DELETED: Failure = (STATUS_GCM, 0x01);
const TAIL_SOURCE_ZERO: Failure = (STATUS_GCM, 0x22);
const TAIL_DESTINATION: Failure = (STATUS_GCM, 0x23);
const TAIL_READ: Failure = (STATUS_GCM, 0x26);
const TAIL_WRITE: Failure = (STATUS_GCM, 0x27);
const TAIL_TAG_MISMATCH: Failure = (STATUS_GCM, 0x2a);
const TAIL_LENGTH: Failure = (STATUS_GCM, 0x2c);

const BLOCK: u32 = 16;
const AAD_UNIT: u32 = 32;
const MAX_TAIL: usize = 16;
/// How much is processed at a time.
const PIECE: usize = 64 << 10;
/// The most that an external engine is asked to process.
const MAX_EXTERNAL: u32 = 64 << 20;

/// What becomes of an AES command.
pub(crate) enum AesOutcome {
    /// It is finished.
    Done([u8; CQE]),
    /// The external engine has it.
    External(Token),
}

/// The fields of an SQE.
struct Fields {
    attributes: u16,
    decrypt: bool,
    sgl: bool,
    xts: bool,
    unit: u32,
    session: u16,
    app_id: u8,
    source_length: u32,
    source: [u8; 16],
    destination_length: u32,
    destination: [u8; 16],
    keys: [u32; 2],
    tweak: [u8; 16],
    aad: u32,
    tag: [u8; 16],
    iv: [u8; 12],
    padded: u32,
    tail_lengths: [u8; 2],
    tail_source: u64,
    tail_destination: u64,
}

impl Fields {
    fn read(sqe: &[u8]) -> Self {
        let attributes = get_u16(sqe, 4);
        Self {
            attributes,
            decrypt: attributes & 1 != 0,
            sgl: attributes & (1 << 2) != 0,
            xts: attributes & (1 << 8) != 0,
            unit: match attributes >> 14 {
                1 => 512,
                2 => 4096,
                3 => 8192,
                _ => 0,
            },
            session: get_u16(sqe, 8),
            app_id: get_u8(sqe, 10),
            source_length: get_u32(sqe, 24),
            source: get_array(sqe, 28),
            destination_length: get_u32(sqe, 44),
            destination: get_array(sqe, 48),
            keys: [get_u32(sqe, 68), get_u32(sqe, 72)],
            tweak: get_array(sqe, 76),
            aad: get_u32(sqe, 72),
            tag: get_array(sqe, 76),
            iv: get_array(sqe, 92),
            padded: get_u32(sqe, 104),
            tail_lengths: [get_u8(sqe, 108), get_u8(sqe, 109)],
            tail_source: get_u64(sqe, 112),
            tail_destination: get_u64(sqe, 120),
        }
    }

    fn tail(&self) -> usize {
        usize::from(self.tail_lengths[0])
    }

    /// Whether the engine's own tag is the right one.
    fn aligned(&self) -> bool {
        self.aad == self.padded && self.tail() == 0
    }

    /// The failure of a decryption that finds another tag.
    fn tag_mismatch(&self) -> Failure {
        if self.aligned() {
            TAG_MISMATCH
        } else {
            TAIL_TAG_MISMATCH
        }
    }
}

/// A CQE under construction.
struct Completion([u8; CQE]);

impl Completion {
    fn new(sqe: &[u8], fields: &Fields) -> Self {
        let mut cqe = [0; CQE];
        put_u16(&mut cqe, 0, fields.attributes);
        // The hardware leaves bytes of the command here until there is a tag.
        put(&mut cqe, 4, &get_array::<16>(sqe, 76));
        Self(cqe)
    }

    fn tag(&mut self, tag: &[u8; 16]) {
        put(&mut self.0, 4, tag);
    }

    fn iv(&mut self, iv: &[u8; 12]) {
        put(&mut self.0, 20, iv);
    }

    fn finish(mut self, failure: Failure) -> [u8; CQE] {
        put_u16(&mut self.0, 60, failure.1);
        put_u16(&mut self.0, 62, failure.0 << 1);
        self.0
    }

    fn success(mut self, bytes: u32, tail: usize, indicator: u32) -> [u8; CQE] {
        put_u32(&mut self.0, 44, tail as u32);
        put_u32(&mut self.0, 48, indicator);
        put_u32(&mut self.0, 52, bytes);
        self.0
    }
}

/// The CQE of a command whose queue is being deleted.
pub(crate) fn deleted_cqe(command: &Command) -> [u8; CQE] {
    let fields = Fields::read(&command.sqe);
    Completion::new(&command.sqe, &fields).finish((STATUS_QUEUE_DELETED, 0))
}

impl Model {
    pub(crate) fn execute_aes(&mut self, command: &Command) -> AesOutcome {
        let fields = Fields::read(&command.sqe);
        let mut completion = Completion::new(&command.sqe, &fields);
        let result = if self.engine.is_some() {
            match self.submit_aes(&fields) {
                Ok(token) => return AesOutcome::External(token),
                Err(failure) => Err(failure),
            }
        } else if fields.xts {
            self.run_xts(command, &fields)
        } else {
            self.run_gcm(command, &fields, &mut completion)
        };
        AesOutcome::Done(match result {
            Ok(indicator) => {
                if fields.xts {
                    completion.tag(&[0; 16]);
                }
                completion.success(fields.source_length, fields.tail(), indicator)
            }
            Err(failure) => completion.finish(failure),
        })
    }

    /// Whether a command names a key that exists.
    pub(crate) fn has_keys(&self, sqe: &[u8]) -> bool {
        let fields = Fields::read(sqe);
        self.keys.get(index_of(fields.keys[0])).is_some()
            && (!fields.xts || self.keys.get(index_of(fields.keys[1])).is_some())
    }

    /// Checks both ends and finds the data.
    fn locate(&mut self, fields: &Fields) -> Result<(Data, Data), Failure> {
        let source = locate(
            &mut self.bus,
            &fields.source,
            Side::Source,
            fields.sgl,
            fields.source_length,
        )?;
        let destination = locate(
            &mut self.bus,
            &fields.destination,
            Side::Destination,
            fields.sgl,
            fields.destination_length,
        )?;
        if fields.destination_length < fields.source_length {
            return Err(OUTPUT_OVERRUN);
        }
        Ok((source, destination))
    }

    /// Passes data through a function, piece by piece.
    fn stream(
        &mut self,
        source: &mut Data,
        destination: &mut Data,
        length: u32,
        mut transform: impl FnMut(&mut [u8]),
    ) -> Result<(), Failure> {
        let mut left = length as usize;
        let mut buffer = vec![0; PIECE.min(left)];
        while left > 0 {
            let count = left.min(PIECE);
            let piece = buffer.get_mut(..count).ok_or(LENGTH_OVERRUN)?;
            source.read(&mut self.bus, piece).map_err(|_| DATA_READ)?;
            transform(piece);
            destination
                .write(&mut self.bus, piece)
                .map_err(|_| OUTPUT_WRITE)?;
            left -= count;
        }
        Ok(())
    }

    fn check_xts(&self, fields: &Fields) -> Result<(Key, Key), Failure> {
        let failure = |error| Err((STATUS_XTS, error));
        let indices = fields.keys.map(index_of);
        let [first, second] = indices.map(|index| self.keys.get(index));
        let valid = |index: u64| index < u64::from(INDICES);
        let is_xts = |index: u64, key: Option<&Key>| {
            !valid(index) || key.is_some_and(|key| key.kind == KeyKind::Xts)
        };
        if !is_xts(indices[0], first) {
            return failure(0x0e);
        }
        if !is_xts(indices[1], second) {
            return failure(0x0f);
        }
        let (Some(first), true) = (first, valid(indices[0])) else {
            return failure(0x01);
        };
        let (Some(second), true) = (second, valid(indices[1])) else {
            return failure(0x02);
        };
        if indices[0] == indices[1] {
            return failure(0x05);
        }
        let owner = self.options.controller;
        if first.owner != owner || second.owner != owner {
            return failure(0x03);
        }
        if first.session.is_some() != second.session.is_some() {
            return failure(0x04);
        }
        if first.bytes == second.bytes {
            return failure(0x06);
        }
        if first.app_id != fields.app_id {
            return failure(0x09);
        }
        if second.app_id != fields.app_id {
            return failure(0x0a);
        }
        let wrong = |key: &Key| key.session.is_some_and(|id| id != fields.session);
        if wrong(first) {
            return failure(0x07);
        }
        if wrong(second) {
            return failure(0x08);
        }
        if fields.source_length % BLOCK != 0 {
            return failure(0x0c);
        }
        if fields.source_length > MAX_XTS {
            return failure(0x0b);
        }
        Ok((first.clone(), second.clone()))
    }

    fn run_xts(&mut self, command: &Command, fields: &Fields) -> Result<u32, Failure> {
        let keys = self.check_xts(fields);
        if command.keys_seen && !self.has_keys(&command.sqe) {
            return Err(KEY_READ);
        }
        let (data_key, tweak_key) = keys?;
        if fields.source_length == 0 {
            return Err(LENGTH_UNDERRUN);
        }
        let (mut source, mut destination) = self.locate(fields)?;
        let unit = (fields.unit != 0).then_some(u64::from(fields.unit));
        let mut xts = Xts::new(&data_key.bytes, &tweak_key.bytes, &fields.tweak, unit);
        let decrypt = fields.decrypt;
        self.stream(
            &mut source,
            &mut destination,
            fields.source_length,
            |piece| {
                if decrypt {
                    xts.decrypt(piece);
                } else {
                    xts.encrypt(piece);
                }
            },
        )?;
        Ok(u32::from(self.options.fips))
    }

    fn check_gcm(&self, fields: &Fields) -> Result<Key, Failure> {
        let failure = |error| Err((STATUS_GCM, error));
        let index = index_of(fields.keys[0]);
        if fields.padded % AAD_UNIT != 0 {
            return failure(0x05);
        }
        if index >= u64::from(INDICES) {
            return failure(0x01);
        }
        let Some(key) = self
            .keys
            .get(index)
            .filter(|key| key.owner == self.options.controller)
        else {
            return failure(0x02);
        };
        if key.app_id != fields.app_id {
            return failure(0x04);
        }
        if key.session.is_some_and(|id| id != fields.session) {
            return failure(0x03);
        }
        if key.kind == KeyKind::Xts {
            return failure(0x08);
        }
        if fields.source_length % BLOCK != 0 {
            return failure(0x06);
        }
        Ok(key.clone())
    }

    /// The IV of a command; an approved key has its own when encrypting.
    fn gcm_iv(&mut self, fields: &Fields) -> [u8; 12] {
        let approved = self
            .keys
            .get(index_of(fields.keys[0]))
            .is_some_and(|key| key.kind == KeyKind::GcmApproved);
        let mut iv = fields.iv;
        if approved && !fields.decrypt {
            (self.random)(&mut iv);
        }
        iv
    }

    fn run_gcm(
        &mut self,
        command: &Command,
        fields: &Fields,
        completion: &mut Completion,
    ) -> Result<u32, Failure> {
        let iv = self.gcm_iv(fields);
        completion.iv(&iv);
        if command.keys_seen && !self.has_keys(&command.sqe) {
            return Err(KEY_DELETED);
        }
        let key = self.check_gcm(fields)?;
        let (mut source, mut destination) = self.locate(fields)?;
        if fields.padded > fields.source_length {
            return Err(INPUT_UNDERRUN);
        }
        let mut gcm = Gcm::new(&key.bytes, &iv);
        self.stream(&mut source, &mut destination, fields.padded, |piece| {
            gcm.aad(piece);
        })?;
        let decrypt = fields.decrypt;
        let mut crypt = |piece: &mut [u8]| {
            if decrypt {
                gcm.decrypt(piece);
            } else {
                gcm.encrypt(piece);
            }
        };
        let text = fields.source_length - fields.padded;
        self.stream(&mut source, &mut destination, text, &mut crypt)?;
        self.gcm_tail(fields, crypt)?;
        let tag = gcm.tag(u64::from(fields.aad));
        completion.tag(&tag);
        if decrypt && tag != fields.tag {
            return Err(fields.tag_mismatch());
        }
        Ok(match key.kind {
            KeyKind::GcmApproved => u32::from(self.options.fips & 1),
            _ => 0,
        })
    }

    fn gcm_tail(
        &mut self,
        fields: &Fields,
        mut crypt: impl FnMut(&mut [u8]),
    ) -> Result<(), Failure> {
        let [source, destination] = fields.tail_lengths;
        if source == 0 && destination == 0 {
            return Ok(());
        }
        if usize::from(source.max(destination)) >= MAX_TAIL {
            return Err(TAIL_LENGTH);
        }
        if fields.tail_source == 0 {
            return Err(TAIL_SOURCE_ZERO);
        }
        if fields.tail_destination == 0 || source != destination {
            return Err(TAIL_DESTINATION);
        }
        let mut tail = vec![0; usize::from(source)];
        self.bus
            .read(fields.tail_source, &mut tail, "GCM tail")
            .map_err(|_| TAIL_READ)?;
        crypt(&mut tail);
        self.bus
            .write(fields.tail_destination, &tail, "GCM tail")
            .map_err(|_| TAIL_WRITE)
    }

    /// Gathers everything that an external engine needs.
    fn submit_aes(&mut self, fields: &Fields) -> Result<Token, Failure> {
        let (mut source, _) = self.locate(fields)?;
        if fields.source_length > MAX_EXTERNAL {
            return Err(LENGTH_OVERRUN);
        }
        let mut text = vec![0; fields.source_length as usize];
        source
            .read(&mut self.bus, &mut text)
            .map_err(|_| DATA_READ)?;
        let mut request = AesRequest {
            xts: fields.xts,
            decrypt: fields.decrypt,
            keys: fields.keys,
            session: fields.session,
            app_id: fields.app_id,
            iv: fields.tweak,
            tag: fields.tag,
            unit: fields.unit,
            aad: Vec::new(),
            text: Vec::new(),
        };
        if !fields.xts {
            request.keys[1] = 0;
            request.iv = [0; 16];
            put(&mut request.iv, 0, &fields.iv);
            if fields.padded > fields.source_length {
                return Err(INPUT_UNDERRUN);
            }
            let body = text.split_off(fields.padded as usize);
            request.aad = unpad(&text, fields.aad as usize).ok_or(LENGTH_UNDERRUN)?;
            text = body;
            self.gcm_tail_in(fields, &mut text)?;
        }
        request.text = text;
        let engine = self.engine.as_mut().ok_or((STATUS_ENGINE, ERROR_FATAL))?;
        Ok(engine.submit(EngineRequest::Aes(request)))
    }

    fn gcm_tail_in(&mut self, fields: &Fields, text: &mut Vec<u8>) -> Result<(), Failure> {
        let length = fields.tail();
        if length == 0 {
            return Ok(());
        }
        if length >= MAX_TAIL {
            return Err(TAIL_LENGTH);
        }
        let mut tail = vec![0; length];
        self.bus
            .read(fields.tail_source, &mut tail, "GCM tail")
            .map_err(|_| TAIL_READ)?;
        text.extend(tail);
        Ok(())
    }

    pub(crate) fn finish_aes_externally(&mut self, command: &Command, reply: &Reply) -> [u8; CQE] {
        let fields = Fields::read(&command.sqe);
        let mut completion = Completion::new(&command.sqe, &fields);
        if !fields.xts {
            completion.tag(&reply.tag);
            completion.iv(&reply.iv.unwrap_or(fields.iv));
        }
        if reply.status != 0 {
            return completion.finish((reply.status, reply.error));
        }
        match self.store_external(&fields, &reply.data) {
            Ok(()) => completion.success(fields.source_length, fields.tail(), reply.fips),
            Err(failure) => completion.finish(failure),
        }
    }

    fn store_external(&mut self, fields: &Fields, data: &[u8]) -> Result<(), Failure> {
        let (_, mut destination) = self.locate(fields)?;
        let padded = if fields.xts { 0 } else { fields.padded };
        let tail = if fields.xts { 0 } else { fields.tail() };
        let text = fields.source_length.saturating_sub(padded) as usize;
        if data.len() != text + tail {
            return Err(INPUT_UNDERRUN);
        }
        destination
            .write(&mut self.bus, &vec![0; padded as usize])
            .map_err(|_| OUTPUT_WRITE)?;
        let (body, end) = data.split_at(text);
        destination
            .write(&mut self.bus, body)
            .map_err(|_| OUTPUT_WRITE)?;
        if end.is_empty() {
            return Ok(());
        }
        self.bus
            .write(fields.tail_destination, end, "GCM tail")
            .map_err(|_| TAIL_WRITE)
    }
}

/// Additional authenticated data without the padding of its layout.
fn unpad(padded: &[u8], length: usize) -> Option<Vec<u8>> {
    let start = match length % AAD_UNIT as usize {
        1..=16 => 16,
        _ => 0,
    };
    padded.get(start..)?.get(..length).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_removed_from_both_layouts() {
        let layout = |length: usize| {
            let mut padded = vec![
                0;
                if (1..=16).contains(&(length % 32)) {
                    16
                } else {
                    0
                }
            ];
            padded.extend(vec![0xaa; length]);
            padded.resize(length.next_multiple_of(32), 0);
            padded
        };
        for length in 0..100 {
            assert_eq!(unpad(&layout(length), length), Some(vec![0xaa; length]));
        }
        assert_eq!(unpad(&[0; 32], 33), None);
    }
}
