// SPDX-License-Identifier: GPL-2.0
//! Random commands, compared with the reference.
//!
//! All that is random about a command comes from the seed of the run and the
//! number of the command.  Lengths and addresses are most often near an edge: of
//! a block, of a page, of what the driver copies, of the memory that there is.

use super::wrong_tag;
use super::BOUNCED;
use super::COPIED;
use crate::check_eq;
use crate::runner::Env;
use crate::runner::Test;
use crate::scene::AesScene;
use crate::scene::STALE;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::hsm::Session;
use azihsm_guest::reference;
use azihsm_guest::sys::Memory;
use azihsm_guest::sys::PAGE;
use azihsm_uapi::abi;
use azihsm_uapi::pad_aad;
use azihsm_uapi::Device;
use fastrand::Rng;
use std::mem::swap;
use zerocopy::IntoBytes;

/// The longest input of everyday.
const EVERYDAY: usize = 256 << 10;

/// How many commands share a session and its keys.
const BATCH: usize = 150;

type Case = fn(&mut Stand, &mut Rng, usize) -> Result<()>;

/// The tests.
pub fn tests() -> Vec<Test> {
    let kinds: [(&str, usize, Case); 3] = [
        ("random-gcm", 2500, gcm),
        ("random-damaged-gcm", 1500, damaged_gcm),
        ("random-xts", 2000, xts),
    ];
    let mut tests = Vec::new();
    for (name, count, case) in kinds {
        let everyday = move |env: &Env| run(env, count, EVERYDAY, case);
        tests.push(
            Test::new(format!("aes/{name}"), everyday)
                .takes(3)
                .seconds(300),
        );
        let long = move |env: &Env| run(env, 6 * count, abi::AES_MAX_LEN, case);
        tests.push(
            Test::new(format!("aes/{name}-up-to-16-mib"), long)
                .long()
                .takes(60)
                .seconds(900),
        );
    }
    tests
}

fn run(env: &Env, count: usize, most: usize, case: Case) -> Result<()> {
    for first in (0..count).step_by(BATCH) {
        let mut stand = Stand::new(env, &mut rng(env, first), most)?;
        for number in first..count.min(first + BATCH) {
            case(&mut stand, &mut rng(env, number), most)
                .with_context(|| format!("command {number} of seed {}", env.seed))?;
        }
    }
    Ok(())
}

fn rng(env: &Env, number: usize) -> Rng {
    Rng::with_seed(env.seed.wrapping_add(number as u64))
}

fn bytes(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

fn array<const N: usize>(rng: &mut Rng) -> [u8; N] {
    let mut array = [0; N];
    rng.fill(&mut array);
    array
}

/// A number from 1 to about `most`, of which small ones are as likely as large
/// ones.
fn of_any_size(rng: &mut Rng, most: usize) -> usize {
    let below = 2 << rng.u32(0..=most.ilog2());
    rng.usize(1..below).min(most)
}

/// A number at most `distance` from `edge`.
fn around(rng: &mut Rng, edge: usize, distance: usize) -> usize {
    (edge + rng.usize(0..=2 * distance)).saturating_sub(distance)
}

/// Length of an input.
fn input_len(rng: &mut Rng, most: usize) -> usize {
    let blocks = 16 * rng.usize(1..=64);
    let pages = PAGE * rng.usize(1..=5);
    let len = match rng.u8(0..100) {
        0..40 => rng.usize(1..=130),
        40..55 => around(rng, blocks, 1),
        55..70 => around(rng, pages, 33),
        70..85 => around(rng, COPIED, 40),
        85..95 => of_any_size(rng, 16 << 10),
        95..97 => around(rng, BOUNCED, 40),
        97..99 => of_any_size(rng, EVERYDAY),
        _ => of_any_size(rng, most),
    };
    len.clamp(1, most)
}

/// Length of additional data.
fn aad_len(rng: &mut Rng) -> usize {
    let blocks = 16 * rng.usize(1..=16);
    match rng.u8(0..10) {
        0..3 => 0,
        3..6 => rng.usize(1..=70),
        6..9 => around(rng, blocks, 1),
        _ => of_any_size(rng, 8 << 10),
    }
}

/// Where `len` bytes are in `memory`, around which nothing can be accessed.
fn place(rng: &mut Rng, memory: &Memory, len: usize) -> usize {
    let at = match rng.u8(0..8) {
        0 => 0,
        1 => memory.size() - len,
        2 => rng.usize(1..16),
        3 => PAGE - rng.usize(1..=16),
        4 => len.next_multiple_of(PAGE) - len,
        _ => rng.usize(0..PAGE),
    };
    at.min(memory.size() - len)
}

struct GcmKey {
    id: u32,
    bytes: [u8; 32],
    approved: bool,
}

struct XtsKey {
    id: u32,
    bytes: [u8; 32],
}

/// Where the input and the output of a command are.
struct Spot {
    from: usize,
    to: usize,
    /// Room for the output.
    room: usize,
    in_place: bool,
}

/// What commands need, made once for many of them.
struct Stand {
    device: Device,
    gcm: Vec<GcmKey>,
    xts: Vec<XtsKey>,
    /// The command, with memory for all inputs and outputs.
    scene: AesScene,
}

impl Stand {
    fn new(env: &Env, rng: &mut Rng, most: usize) -> Result<Self> {
        let device = env.open()?;
        let session = hsm::open_session(&device)?;
        let mut control = env.control()?;
        let mut gcm = Vec::new();
        for approved in [false, false, true] {
            let kind = if approved {
                KeyKind::GcmApproved
            } else {
                KeyKind::Gcm
            };
            let bytes = array(rng);
            gcm.push(GcmKey {
                id: control.load_key(kind, &bytes, session)?,
                bytes,
                approved,
            });
        }
        let mut xts = Vec::new();
        for _ in 0..4 {
            let bytes = array(rng);
            xts.push(XtsKey {
                id: control.load_key(KeyKind::Xts, &bytes, session)?,
                bytes,
            });
        }
        let scene = Self::scene(session, most)?;
        Ok(Self {
            device,
            gcm,
            xts,
            scene,
        })
    }

    /// A command with room for inputs and outputs of `most` bytes anywhere in a
    /// page.
    fn scene(session: Session, most: usize) -> Result<AesScene> {
        let mut scene = AesScene::gcm(session, 0, &[])?;
        let pages = most.div_ceil(PAGE) + 2;
        scene.src = Memory::new(pages)?;
        scene.dst = Memory::new(pages)?;
        Ok(scene)
    }

    /// Memory of the output.
    fn output(&self, spot: &Spot) -> &Memory {
        if spot.in_place {
            &self.scene.src
        } else {
            &self.scene.dst
        }
    }

    /// Begins a command: `input` somewhere in memory, `room` bytes for the output
    /// somewhere else or in the same place, stale bytes in it and around it.
    fn begin(&mut self, rng: &mut Rng, input: &[u8], room: usize) -> Spot {
        let in_place = rng.u8(0..5) == 0;
        let from = place(rng, &self.scene.src, room);
        let to = if in_place {
            from
        } else {
            place(rng, &self.scene.dst, room)
        };
        let spot = Spot {
            from,
            to,
            room,
            in_place,
        };
        let start = to.saturating_sub(PAGE);
        let output = self.output(&spot);
        let end = output.size().min(to + room + PAGE);
        output.fill(start, end - start, STALE);
        self.scene.src.write(from, input);
        let (src, dst) = (self.scene.src.address(from), output.address(to));

        let cmd = &mut self.scene.cmd;
        cmd.input.ctxt = rng.u64(..);
        cmd.input.op = abi::AES_ENCRYPT;
        cmd.input.src = src;
        cmd.input.src_len = input.len() as u32;
        cmd.input.dst = dst;
        cmd.input.dst_len = room as u32;
        cmd.output.as_mut_bytes().fill(STALE);
        spot
    }

    /// Makes sure that nothing but the first `count` bytes of the output was
    /// written, and the input was not.
    fn check_around(&self, spot: &Spot, input: &[u8], count: usize) -> Result<()> {
        let start = spot.to.saturating_sub(PAGE);
        let output = self.output(spot);
        let end = output.size().min(spot.to + spot.room + PAGE);
        let behind = spot.to + count;
        let around = [
            output.read(start, spot.to - start),
            output.read(behind, end - behind),
        ];
        ensure!(
            around.concat().iter().all(|&byte| byte == STALE),
            "bytes around the output were written"
        );
        ensure!(
            spot.in_place || self.scene.src.read(spot.from, input.len()) == input,
            "the input was written"
        );
        Ok(())
    }

    /// Sends a command that succeeds, and returns the output.
    fn finish(&mut self, spot: &Spot, input: &[u8]) -> Result<Vec<u8>> {
        self.scene.send_well(&self.device)?;
        self.check_around(spot, input, input.len())?;
        Ok(self.output(spot).read(spot.to, input.len()))
    }

    fn describe(&self, spot: &Spot) -> String {
        let input = &self.scene.cmd.input;
        let whence = if spot.in_place { "in place" } else { "copied" };
        format!(
            "op {}, {} bytes at {:#x}, {} at {:#x}, {whence}",
            input.op, input.src_len, input.src, input.dst_len, input.dst
        )
    }

    /// Parameters of a GCM command.
    fn set_gcm(&mut self, change: impl FnOnce(&mut abi::Gcm)) {
        self.scene.number = abi::IOC_AES_GCM;
        self.scene.cmd.input.cipher = abi::AES_GCM;
        self.scene.set_gcm(change);
    }
}

/// Room for the output of an input of `len` bytes.
fn room(rng: &mut Rng, len: usize) -> usize {
    match rng.u8(0..4) {
        0 => (len + rng.usize(1..100)).min(abi::AES_MAX_LEN),
        _ => len,
    }
}

/// What a GCM command is about.
struct Gcm {
    aad: Vec<u8>,
    padded: Vec<u8>,
    plain: Vec<u8>,
    iv: [u8; 12],
    unaligned: u8,
}

impl Gcm {
    fn draw(rng: &mut Rng, most: usize) -> Self {
        let len = input_len(rng, most);
        let aad_len = aad_len(rng);
        let aad = bytes(rng, aad_len);
        let padded = pad_aad(&aad);
        // There may be additional data only.
        let least = usize::from(aad.is_empty());
        let plain = bytes(rng, len.saturating_sub(padded.len()).max(least));
        let total = padded.len() + plain.len();
        let unaligned = if total % 16 == 0 {
            rng.u8(0..=1)
        } else {
            rng.u8(1..)
        };
        Self {
            aad,
            padded,
            plain,
            iv: array(rng),
            unaligned,
        }
    }

    fn input(&self, text: &[u8]) -> Vec<u8> {
        [&self.padded, text].concat()
    }

    fn describe(&self) -> String {
        let Self { aad, unaligned, .. } = self;
        format!("{} of additional data, unaligned {unaligned}", aad.len())
    }

    /// Parameters for a command with `key`.
    fn set(&self, stand: &mut Stand, key: u32, tag: [u8; 16], iv: [u8; 12]) {
        stand.set_gcm(|gcm| {
            gcm.key_id = key;
            gcm.tag = tag;
            gcm.iv = iv;
            gcm.aad_len = self.aad.len() as u32;
            gcm.aad_padded_len = self.padded.len() as u32;
            gcm.unaligned = self.unaligned;
        });
    }
}

/// Encrypts and decrypts.
fn gcm(stand: &mut Stand, rng: &mut Rng, most: usize) -> Result<()> {
    let key = rng.usize(0..stand.gcm.len());
    let GcmKey {
        id,
        bytes,
        approved,
    } = stand.gcm[key];
    let gcm = Gcm::draw(rng, most);

    let input = gcm.input(&gcm.plain);
    let room_for_it = room(rng, input.len());
    let spot = stand.begin(rng, &input, room_for_it);
    // The tag of the request means nothing here.
    gcm.set(stand, id, array(rng), gcm.iv);
    let what = format!("{}, {}", stand.describe(&spot), gcm.describe());
    let output = stand.finish(&spot, &input).context(what.clone())?;
    let result = stand.scene.cmd.output;
    check_eq!(result.iv == gcm.iv, !approved, "{what}: IV of the request");
    check_eq!(
        result.fips_approved,
        u8::from(approved),
        "{what}: indicator"
    );
    let (sealed, tag) = reference::gcm_encrypt(&bytes, result.iv, &gcm.aad, &gcm.plain)?;
    ensure!(
        output[gcm.padded.len()..] == sealed,
        "{what}: another ciphertext"
    );
    check_eq!(result.tag, tag, "{what}: tag");

    let input = gcm.input(&sealed);
    let room_for_it = room(rng, input.len());
    let spot = stand.begin(rng, &input, room_for_it);
    stand.scene.cmd.input.op = abi::AES_DECRYPT;
    gcm.set(stand, id, tag, result.iv);
    let what = format!("{}, {}", stand.describe(&spot), gcm.describe());
    let output = stand.finish(&spot, &input).context(what.clone())?;
    let result = stand.scene.cmd.output;
    ensure!(
        output[gcm.padded.len()..] == gcm.plain,
        "{what}: another plaintext"
    );
    check_eq!(result.tag, [0; 16], "{what}: out.tag");
    check_eq!(result.iv, [0; 12], "{what}: out.iv");
    check_eq!(
        result.fips_approved,
        u8::from(approved),
        "{what}: indicator"
    );
    Ok(())
}

/// Decrypts what is wrong in one bit.
fn damaged_gcm(stand: &mut Stand, rng: &mut Rng, most: usize) -> Result<()> {
    let key = rng.usize(0..stand.gcm.len());
    let GcmKey { id, bytes, .. } = stand.gcm[key];
    let gcm = Gcm::draw(rng, most);
    let (mut sealed, tag) = reference::gcm_encrypt(&bytes, gcm.iv, &gcm.aad, &gcm.plain)?;
    let (mut bad_tag, mut bad_iv, mut bad_aad, mut id) = (tag, gcm.iv, gcm.aad.clone(), id);
    let bit = 1 << rng.u8(0..8);
    let damage = |rng: &mut Rng, part: &mut [u8]| {
        let byte = rng.usize(0..part.len());
        part[byte] ^= bit;
    };
    let damaged = match rng.u8(0..9) {
        0..3 if !sealed.is_empty() => {
            damage(rng, &mut sealed);
            "text"
        }
        3..5 if !bad_aad.is_empty() => {
            damage(rng, &mut bad_aad);
            "additional data"
        }
        5 => {
            damage(rng, &mut bad_iv);
            "IV"
        }
        6 => {
            id = stand.gcm[(key + 1) % stand.gcm.len()].id;
            "key"
        }
        _ => {
            damage(rng, &mut bad_tag);
            "tag"
        }
    };

    let input = [pad_aad(&bad_aad), sealed].concat();
    let room_for_it = room(rng, input.len());
    let spot = stand.begin(rng, &input, room_for_it);
    stand.scene.cmd.input.op = abi::AES_DECRYPT;
    gcm.set(stand, id, bad_tag, bad_iv);
    let what = format!(
        "wrong {damaged}, {}, {}",
        stand.describe(&spot),
        gcm.describe()
    );
    let (status, code) = wrong_tag(gcm.aad.len(), input.len());
    stand
        .scene
        .send_refused(&stand.device, status, code)
        .context(what.clone())?;
    let output = stand.scene.cmd.output;
    check_eq!(output.fips_approved, 0, "{what}: indicator");
    // What is accessed in place the device may have written by then.
    let written = if input.len() <= BOUNCED {
        0
    } else {
        input.len()
    };
    if spot.in_place {
        let rest = stand.scene.src.read(spot.from, input.len());
        ensure!(written > 0 || rest == input, "{what}: plaintext came back");
        stand.check_around(&spot, &input, input.len())
    } else {
        stand.check_around(&spot, &input, written)
    }
    .context(what.clone())?;
    // The device's own tag, of the damaged text, would make it a valid one.
    let (own_key, own_iv) = (stand.gcm.iter().find(|key| key.id == id), bad_iv);
    let own_key = own_key.context("no such key")?.bytes;
    let text = &input[gcm.padded.len()..];
    let (plain, _) = reference::gcm_encrypt(&own_key, own_iv, &[], text)?;
    let (_, own_tag) = reference::gcm_encrypt(&own_key, own_iv, &bad_aad, &plain)?;
    let back = output.as_bytes();
    ensure!(
        !back.windows(16).any(|part| part == tag || part == own_tag),
        "{what}: a tag came back"
    );
    Ok(())
}

/// Encrypts or decrypts.
fn xts(stand: &mut Stand, rng: &mut Rng, most: usize) -> Result<()> {
    let (data_unit, unit) = match rng.u8(0..8) {
        0..2 => (abi::XTS_UNIT_512, 512),
        2 => (abi::XTS_UNIT_4096, 4096),
        3 => (abi::XTS_UNIT_8192, 8192),
        _ => (abi::XTS_UNIT_WHOLE, 16),
    };
    let len = input_len(rng, most).next_multiple_of(unit);
    let unit = if data_unit == abi::XTS_UNIT_WHOLE {
        len
    } else {
        unit
    };
    let mut first = rng.usize(0..stand.xts.len());
    let mut second = (first + rng.usize(1..stand.xts.len())) % stand.xts.len();
    if rng.bool() {
        swap(&mut first, &mut second);
    }
    let (data, tweak_key) = (&stand.xts[first], &stand.xts[second]);
    let number = match rng.u8(0..3) {
        // Near to where a digit is carried.
        0 => (1_u128 << (8 * rng.u32(1..16))).wrapping_sub(u128::from(rng.u8(1..8))),
        _ => rng.u128(..u128::MAX >> 1),
    };
    let plain = bytes(rng, len);
    let sealed = reference::xts_encrypt(&data.bytes, &tweak_key.bytes, unit, number, &plain);
    let parameters = abi::Xts {
        data_unit,
        reserved: 0,
        data_key_id: data.id,
        tweak_key_id: tweak_key.id,
        tweak: number.to_le_bytes(),
    };
    let (op, input, expected) = if rng.bool() {
        (abi::AES_ENCRYPT, plain, sealed)
    } else {
        (abi::AES_DECRYPT, sealed, plain)
    };
    let room_for_it = room(rng, input.len());
    let spot = stand.begin(rng, &input, room_for_it);
    stand.scene.number = abi::IOC_AES_XTS;
    let cmd = &mut stand.scene.cmd;
    cmd.input.op = op;
    cmd.input.cipher = abi::AES_XTS;
    cmd.input.set_xts(&parameters);
    let what = format!(
        "{}, units of {unit}, number {number:#x}",
        stand.describe(&spot)
    );
    let output = stand.finish(&spot, &input).context(what.clone())?;
    ensure!(output == expected, "{what}: another text");
    let result = stand.scene.cmd.output;
    check_eq!(result.tag, [0; 16], "{what}: out.tag");
    check_eq!(result.iv, [0; 12], "{what}: out.iv");
    check_eq!(result.fips_approved, 1, "{what}: indicator");
    Ok(())
}
