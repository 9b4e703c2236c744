// SPDX-License-Identifier: GPL-2.0
//! What `Documentation/abi.rst` says of a call, as a program: how it may end,
//! and what it may write.
//!
//! The tables of section 3 are followed row by row.  A row that the caller can
//! foresee decides; rows that depend on what others do at the same time may
//! decide or not.  Rows that need a device which fails, or is gone, are never
//! right here: the device is well, and stays.

use crate::map::is_outside;
use crate::map::Certainty;
use crate::map::How;
use crate::map::Map;
use crate::shared::name_of;
use crate::shared::End;
use crate::shared::Kind;
use crate::shared::Property;
use azihsm_uapi::abi;
use azihsm_uapi::abi::ext;
use azihsm_uapi::abi::AesCmd;
use azihsm_uapi::abi::AesIn;
use azihsm_uapi::abi::DevInfo;
use azihsm_uapi::abi::Gcm;
use azihsm_uapi::abi::Hdr;
use azihsm_uapi::abi::HsmCmd;
use azihsm_uapi::abi::HsmIn;
use azihsm_uapi::abi::Reset;
use azihsm_uapi::abi::Xts;
use azihsm_uapi::Errno;
use std::mem::offset_of;
use std::mem::size_of;
use std::ops::Range;
use zerocopy::FromBytes;

/// Application that the device opens sessions for.
pub const APP: u8 = 1;

/// Sessions that the device has, numbered from 0.
pub const SESSIONS: u16 = 8;

/// Most bytes of data that are copied; more are accessed in place.
pub const MAX_COPIED: u32 = 12288;

/// The most bytes of AES data that are copied as long as there are buffers.
pub const MAX_BOUNCED: u32 = 17 << 16;

/// Bytes of device info that the driver writes, and of these the first that
/// may change.
const INFO_WRITTEN: usize = size_of::<DevInfo>() - 1;
const INFO_ENTROPY: usize = offset_of!(DevInfo, entropy);

/// Numbers that the kernel answers itself, on any file.
pub const OF_THE_KERNEL: &[u32] = &[
    0x0000_0001, // FIBMAP
    0x0000_0002, // FIGETBSZ
    0x0000_5421, // FIONBIO
    0x0000_541b, // FIONREAD
    0x0000_5450, // FIONCLEX
    0x0000_5451, // FIOCLEX
    0x0000_5452, // FIOASYNC
    0x0000_5460, // FIOQSIZE
    0xc004_5877, // FIFREEZE
    0xc004_5878, // FITHAW
    0xc020_660b, // FS_IOC_FIEMAP
    0x4004_9409, // FICLONE
    0x4020_940d, // FICLONERANGE
    0xc018_9436, // FIDEDUPERANGE
    0x8008_6601, // FS_IOC_GETFLAGS
    0x4008_6602, // FS_IOC_SETFLAGS
    0x8004_6601, // FS_IOC32_GETFLAGS
    0x4004_6602, // FS_IOC32_SETFLAGS
    0x801c_581f, // FS_IOC_FSGETXATTR
    0x401c_5820, // FS_IOC_FSSETXATTR
    0x8011_1500, // FS_IOC_GETFSUUID
    0x8081_1501, // FS_IOC_GETFSSYSFSPATH
];

/// Who makes a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Who {
    /// The process that opened the descriptor.
    Owner,
    /// Another one.
    Foreign,
}

/// An ioctl.
#[derive(Clone, Debug)]
pub struct Call {
    pub number: u32,
    pub who: Who,
    /// Where its structure is.
    pub address: u64,
    /// What was put there, whether there was room for it or not.
    pub before: Vec<u8>,
    /// Whether nobody changes that meanwhile.
    pub stable: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub result: Result<i32, Errno>,
    /// The structure, if it can be told.
    pub after: Option<Vec<u8>>,
}

/// What is to be said of it.
#[derive(Debug)]
pub struct Judgement {
    /// What is wrong.
    pub findings: Vec<(Property, String)>,
    /// What was looked at.
    pub checked: Vec<Property>,
    /// What may have been written.
    pub allowed: Vec<Range<u64>>,
    /// Where the reply goes.
    pub reply: Range<u64>,
    pub end: End,
}

/// What may have become of a call: the rows of a table up to the first that
/// decides.
#[derive(Debug, Default)]
struct Walk {
    /// Errors and extended statuses.
    rows: Vec<(Errno, u32)>,
    decided: bool,
}

impl Walk {
    /// This row decides if `condition` holds.
    fn must(&mut self, condition: bool, errno: Errno, code: u32) {
        self.may(condition, errno, code);
        self.decided |= condition;
    }

    /// This row may decide if `condition` holds.
    fn may(&mut self, condition: bool, errno: Errno, code: u32) {
        if condition && !self.decided {
            self.rows.push((errno, code));
        }
    }

    /// This row decides according to whether memory can be accessed.
    fn access(&mut self, can: Certainty, errno: Errno, code: u32) {
        self.must(can == Certainty::No, errno, code);
        self.may(can == Certainty::Maybe, errno, code);
    }
}

/// What the structures that begin with a header have in common.
struct Sized {
    size: usize,
    /// Where the output is.
    output: Range<usize>,
    /// All errors that any row has.
    errors: &'static [Errno],
}

const HSM: Sized = Sized {
    size: size_of::<HsmCmd>(),
    output: offset_of!(HsmCmd, output)..size_of::<HsmCmd>(),
    errors: &[Errno::FAULT, Errno::INVAL, Errno::AGAIN],
};

const AES: Sized = Sized {
    size: size_of::<AesCmd>(),
    output: offset_of!(AesCmd, output)..size_of::<AesCmd>(),
    errors: &[Errno::FAULT, Errno::INVAL, Errno::AGAIN, Errno::NOMEM],
};

const RESET: Sized = Sized {
    size: size_of::<Reset>(),
    output: offset_of!(Reset, status)..offset_of!(Reset, status) + 4,
    errors: &[Errno::FAULT, Errno::INVAL],
};

fn range(start: u64, len: u64) -> Range<u64> {
    start..start.saturating_add(len)
}

impl Judgement {
    fn new(call: &Call, seen: &Seen) -> Self {
        let mut judgement = Self {
            findings: Vec::new(),
            checked: Vec::new(),
            allowed: Vec::new(),
            reply: 0..0,
            end: End::plain(&seen.result),
        };
        let value = seen.result.unwrap_or(0);
        let name = match call.who {
            Who::Owner => Property::Returns,
            Who::Foreign => Property::Foreign,
        };
        judgement.expect(name, value == 0, || format!("returned {value}"));
        judgement
    }

    fn expect(&mut self, property: Property, good: bool, what: impl FnOnce() -> String) {
        self.checked.push(property);
        if !good {
            self.findings.push((property, what()));
        }
    }

    /// It fails like this, and nothing is written.
    fn only(&mut self, property: Property, seen: &Seen, errno: Errno) {
        let result = seen.result;
        self.expect(property, result == Err(errno), || {
            format!("{} instead of {}", name_of(result), name_of(Err(errno)))
        });
    }

    /// It fails with one of these, or not at all, and may have written anything.
    fn any_of(&mut self, seen: &Seen, errors: &[Errno]) {
        let result = seen.result;
        let good = result.is_ok_and(|_| true) || result.is_err_and(|e| errors.contains(&e));
        self.expect(Property::Returns, good, || {
            format!("{} is in no row of the table", name_of(result))
        });
        self.allowed.push(0..u64::MAX);
    }
}

/// Judges a call; `info` is what the device said about itself at first.
pub fn judge(call: &Call, seen: &Seen, map: &Map, info: &[u8]) -> Judgement {
    let mut judgement = Judgement::new(call, seen);
    if OF_THE_KERNEL.contains(&call.number) {
        judgement.allowed.push(0..u64::MAX);
        return judgement;
    }
    if call.who == Who::Foreign {
        judgement.only(Property::Foreign, seen, Errno::ACCESS);
        return judgement;
    }
    let sized = match Kind::of(call.number) {
        Kind::Hsm => &HSM,
        Kind::Gcm | Kind::Xts => &AES,
        Kind::Reset => &RESET,
        Kind::Info => {
            judge_info(&mut judgement, call, seen, map, info);
            return judgement;
        }
        _ => {
            judgement.only(Property::Unknown, seen, Errno::BADRQC);
            return judgement;
        }
    };
    judge_sized(&mut judgement, call, seen, map, sized);
    judgement
}

/// Device info (3.3).
fn judge_info(judgement: &mut Judgement, call: &Call, seen: &Seen, map: &Map, info: &[u8]) {
    const LEN: u64 = INFO_WRITTEN as u64;
    let readable = map.can(How::Read, call.address, LEN);
    if !call.stable || readable == Certainty::Maybe {
        judgement.any_of(seen, &[Errno::FAULT, Errno::INVAL]);
        return;
    }
    if readable == Certainty::No {
        judgement.only(Property::Returns, seen, Errno::FAULT);
        return;
    }
    let argsz = u32::from_le_bytes([0, 1, 2, 3].map(|at| call.before[at]));
    if (argsz as usize) < size_of::<DevInfo>() {
        judgement.only(Property::Returns, seen, Errno::INVAL);
        return;
    }
    judgement.allowed.push(range(call.address, LEN));
    if map.can(How::Write, call.address, LEN) != Certainty::Yes {
        judgement.only(Property::Returns, seen, Errno::FAULT);
        return;
    }
    let result = seen.result;
    judgement.expect(Property::Returns, result.is_ok(), || {
        format!("{} instead of success", name_of(result))
    });
    if let Some(after) = &seen.after {
        let same = after[..4] == call.before[..4]
            && after[4..INFO_ENTROPY] == info[4..INFO_ENTROPY]
            && after[INFO_WRITTEN..] == call.before[INFO_WRITTEN..size_of::<DevInfo>()];
        judgement.expect(Property::Output, same, || {
            "device info is not what it was".to_owned()
        });
    }
}

/// The ioctls whose structure begins with a header.
fn judge_sized(judgement: &mut Judgement, call: &Call, seen: &Seen, map: &Map, sized: &Sized) {
    let header = map.can(How::Read, call.address, size_of::<Hdr>() as u64);
    let whole = map.can(How::Read, call.address, sized.size as u64);
    let output = range(
        call.address.wrapping_add(sized.output.start as u64),
        sized.output.len() as u64,
    );
    let writable = map.can(How::Write, output.start, sized.output.len() as u64);
    let unknown = [header, whole, writable].contains(&Certainty::Maybe);
    if !call.stable || (unknown && header != Certainty::No) {
        judgement.any_of(seen, sized.errors);
        return;
    }
    if header == Certainty::No {
        judgement.only(Property::Returns, seen, Errno::FAULT);
        return;
    }
    let size = u32::from_le_bytes([0, 1, 2, 3].map(|at| call.before[at]));
    if (size as usize) < sized.size {
        judgement.only(Property::Returns, seen, Errno::INVAL);
        return;
    }
    if whole == Certainty::No {
        judgement.only(Property::Returns, seen, Errno::FAULT);
        return;
    }
    judgement.allowed.push(output);
    let after = seen.after.as_deref();
    let written = writable == Certainty::Yes;
    if !written {
        judgement.only(Property::Returns, seen, Errno::FAULT);
    }
    let after = if written { after } else { None };
    match Kind::of(call.number) {
        Kind::Hsm => judge_hsm(judgement, call, seen, after, map),
        Kind::Reset => judge_reset(judgement, call, seen, after),
        _ => judge_aes(judgement, call, seen, after, map),
    }
}

/// Whether the result and the extended status are those of a row that may
/// decide.
fn judge_rows(judgement: &mut Judgement, seen: &Seen, walk: &Walk, code: Option<u32>) {
    let result = seen.result;
    let good = match result {
        Ok(_) => !walk.decided,
        Err(errno) => walk
            .rows
            .iter()
            .any(|&(row, its)| row == errno && code.is_none_or(|code| code == its)),
    };
    judgement.expect(Property::Returns, good, || {
        let mut rows: Vec<_> = walk
            .rows
            .iter()
            .map(|&(errno, code)| format!("{} {code:#x}", name_of(Err(errno))))
            .collect();
        if !walk.decided {
            rows.push("success".to_owned());
        }
        let code = code.unwrap_or(0);
        format!(
            "{} {code:#x} instead of {}",
            name_of(result),
            rows.join(", ")
        )
    });
}

/// The rows of 3.2 from the fourth on.
fn walk_hsm(input: &HsmIn, map: &Map) -> Walk {
    const MAX_LEN: u32 = abi::HSM_MAX_LEN as u32;
    let mut walk = Walk::default();
    let flow = input.session.flags & 3;
    let valid = input.session.flags & abi::SESSION_ID_VALID != 0 && input.session.id < SESSIONS;
    let uses = matches!(flow, abi::FLOW_CLOSE | abi::FLOW_IN_SESSION);

    walk.may(true, Errno::AGAIN, ext::RECOVERING);
    walk.must(input.cmdset != 0, Errno::INVAL, ext::HSM_CMDSET);
    walk.must(
        !matches!(input.opcode, abi::HSM_OP_MBOR | abi::HSM_OP_TBOR),
        Errno::INVAL,
        ext::HSM_CMDSET,
    );
    walk.must(input.src_len > MAX_LEN, Errno::INVAL, ext::HSM_SRC_LEN);
    walk.must(input.dst_len > MAX_LEN, Errno::INVAL, ext::HSM_DST_LEN);
    let one_is_zero = |address: u64, len: u32| (address == 0) != (len == 0);
    walk.must(
        one_is_zero(input.src, input.src_len),
        Errno::INVAL,
        ext::HSM_SRC,
    );
    walk.must(
        one_is_zero(input.dst, input.dst_len),
        Errno::INVAL,
        ext::HSM_DST,
    );
    walk.may(uses, Errno::INVAL, ext::HSM_NO_SESSION);
    walk.must(uses && !valid, Errno::INVAL, ext::HSM_SESSION_MISMATCH);
    walk.may(uses, Errno::INVAL, ext::HSM_SESSION_MISMATCH);
    walk.may(flow == abi::FLOW_OPEN, Errno::INVAL, ext::HSM_SESSION_LIMIT);
    walk.must(
        is_outside(input.src, input.src_len),
        Errno::INVAL,
        ext::HSM_SRC,
    );
    walk.must(
        is_outside(input.dst, input.dst_len),
        Errno::INVAL,
        ext::HSM_DST,
    );
    // What waits for a slot may wait in vain, before the request is read.
    walk.may(true, Errno::AGAIN, ext::ABORTED);
    let readable = map.can(How::Read, input.src, u64::from(input.src_len));
    walk.access(readable, Errno::INVAL, ext::HSM_SRC);
    // The response may be shorter than there is room.
    let writable = map.can(How::Write, input.dst, u64::from(input.dst_len));
    walk.may(writable != Certainty::Yes, Errno::INVAL, ext::HSM_DST);
    walk
}

fn judge_hsm(judgement: &mut Judgement, call: &Call, seen: &Seen, after: Option<&[u8]>, map: &Map) {
    let Ok(HsmCmd { input, .. }) = HsmCmd::read_from_bytes(&call.before) else {
        return;
    };
    let walk = walk_hsm(&input, map);
    let room = range(input.dst, u64::from(input.dst_len));
    judgement.reply = room.clone();
    let Some(out) = after.and_then(|after| HsmCmd::read_from_bytes(after).ok()) else {
        // Nobody can tell how far it got.
        if !walk.decided {
            judgement.allowed.push(room);
        }
        return;
    };
    let out = out.output;
    judge_rows(judgement, seen, &walk, Some(out.ext));
    judgement.end.ext = out.ext;
    let good = out.ctxt == input.ctxt && out.pad == 0;
    judgement.expect(Property::Output, good, || format!("output {out:?}"));
    let delivered = u64::from(out.byte_count);
    if seen.result.is_ok() {
        judgement.end.refused = out.status != 0;
        let good = out.ext == 0
            && out.status <= 0x7ff
            && out.byte_count <= input.dst_len
            && (out.status == 0 || out.byte_count == 0)
            && map.can(How::Write, input.dst, delivered) != Certainty::No;
        judgement.expect(Property::Output, good, || format!("output {out:?}"));
        judgement.allowed.push(range(input.dst, delivered));
    } else {
        let in_vain = seen.result == Err(Errno::INVAL) && out.ext == ext::HSM_DST && !walk.decided;
        let good = out.byte_count == 0 && (in_vain || out.status == 0) && out.status <= 0x7ff;
        judgement.expect(Property::Output, good, || format!("output {out:?}"));
        if in_vain {
            judgement.allowed.push(room);
        }
    }
}

fn judge_reset(judgement: &mut Judgement, call: &Call, seen: &Seen, after: Option<&[u8]>) {
    let Ok(request) = Reset::read_from_bytes(&call.before) else {
        return;
    };
    let known = matches!(request.kind, abi::RESET_SUBSYSTEM | abi::RESET_CONTROLLER);
    let mut walk = Walk::default();
    walk.must(!known, Errno::INVAL, abi::RESET_BAD_TYPE);
    walk.may(true, Errno::INVAL, abi::RESET_BUSY);
    let Some(out) = after.and_then(|after| Reset::read_from_bytes(after).ok()) else {
        return;
    };
    judge_rows(judgement, seen, &walk, Some(out.status));
    judgement.end.ext = out.status;
    let good = seen.result.is_err() || out.status == abi::RESET_OK;
    judgement.expect(Property::Output, good, || format!("status {}", out.status));
}

/// The rows of 3.5 from the fourth on.
fn walk_aes(input: &AesIn, map: &Map, cipher: u8) -> Walk {
    const MAX_LEN: u32 = abi::AES_MAX_LEN as u32;
    let mut walk = Walk::default();
    let len = input.src_len;
    let invalid = Errno::INVAL;

    walk.may(true, Errno::AGAIN, ext::RECOVERING);
    walk.may(true, invalid, ext::AES_NO_SESSION);
    walk.must(
        input.session_id >= SESSIONS,
        invalid,
        ext::AES_SESSION_MISMATCH,
    );
    walk.may(true, invalid, ext::AES_SESSION_MISMATCH);
    walk.must(input.short_app_id != APP, invalid, ext::AES_APP_MISMATCH);
    walk.must(input.op > 1, invalid, ext::AES_OP);
    walk.must(input.cipher != cipher, invalid, ext::AES_CIPHER);
    if cipher == abi::AES_XTS {
        walk.must(!xts_fits(input), invalid, ext::AES_XTS);
    } else {
        walk.must(!gcm_fits(input), invalid, ext::AES_GCM);
    }
    walk.must(
        input.frame_type != abi::AES_FRAME,
        invalid,
        ext::AES_FRAME_TYPE,
    );
    let nowhere = |address: u64, len: u32| address == 0 || len == 0 || is_outside(address, len);
    walk.must(nowhere(input.src, len), invalid, ext::AES_SRC);
    walk.must(nowhere(input.dst, input.dst_len), invalid, ext::AES_DST);
    walk.must(len > MAX_LEN, invalid, ext::AES_SRC_LEN);
    walk.must(input.dst_len > MAX_LEN, invalid, ext::AES_DST_LEN);
    walk.may(len > MAX_COPIED, Errno::NOMEM, ext::AES_NOMEM);
    // What waits for a slot may wait in vain, before anything is copied.
    walk.may(true, Errno::AGAIN, ext::ABORTED);
    let readable = map.can(How::Read, input.src, u64::from(len));
    walk.access(readable, Errno::FAULT, ext::AES_NOMEM);
    let in_place = match len {
        // Above what fits a slot as long as there are buffers.
        ..=MAX_BOUNCED => 0,
        _ if cipher == abi::AES_GCM && gcm_is_unaligned(input) => len - len % 16,
        _ => len,
    };
    let reachable = map.can(How::Write, input.dst, u64::from(in_place));
    walk.must(reachable == Certainty::No, Errno::FAULT, ext::AES_NOMEM);
    let writable = map.can(How::Write, input.dst, u64::from(len));
    // What is copied may be refused by the device before it is missed.
    walk.may(writable != Certainty::Yes, Errno::FAULT, ext::AES_NOMEM);
    walk
}

fn xts_fits(input: &AesIn) -> bool {
    let Ok((params, _)) = Xts::read_from_prefix(&input.params) else {
        return false;
    };
    let unit = match params.data_unit {
        abi::XTS_UNIT_WHOLE => input.src_len,
        abi::XTS_UNIT_512 => 512,
        abi::XTS_UNIT_4096 => 4096,
        abi::XTS_UNIT_8192 => 8192,
        _ => return false,
    };
    input.dst_len >= input.src_len && unit != 0 && input.src_len % unit == 0
}

fn gcm_is_unaligned(input: &AesIn) -> bool {
    Gcm::read_from_bytes(&input.params).is_ok_and(|params| params.unaligned != 0)
}

fn gcm_fits(input: &AesIn) -> bool {
    let Ok(params) = Gcm::read_from_bytes(&input.params) else {
        return false;
    };
    let padded = params.aad_padded_len;
    let padding_fits = padded >= params.aad_len && padded % 32 == 0;
    input.src_len != 0
        && params.aad_len <= input.src_len
        && (params.unaligned == 0 || padding_fits)
        && padded <= input.src_len
        && input.dst_len >= input.src_len
}

fn judge_aes(judgement: &mut Judgement, call: &Call, seen: &Seen, after: Option<&[u8]>, map: &Map) {
    let cipher = match Kind::of(call.number) {
        Kind::Gcm => abi::AES_GCM,
        _ => abi::AES_XTS,
    };
    let Ok(AesCmd { input, .. }) = AesCmd::read_from_bytes(&call.before) else {
        return;
    };
    let walk = walk_aes(&input, map, cipher);
    let room = range(input.dst, u64::from(input.dst_len));
    judgement.reply = room.clone();
    let Some(out) = after.and_then(|after| AesCmd::read_from_bytes(after).ok()) else {
        if !walk.decided {
            judgement.allowed.push(room);
        }
        return;
    };
    let out = out.output;
    judge_rows(
        judgement,
        seen,
        &walk,
        Some(out.ext).filter(|_| seen.result.is_err()),
    );
    judgement.end.ext = out.ext;
    let zeros = out.pad == 0 && out.reserved0 == [0; 3] && out.reserved1 == [0; 26];
    let good = out.ctxt == input.ctxt && zeros;
    judgement.expect(Property::Output, good, || format!("output {out:?}"));
    let done = seen.result.is_ok() && out.result == 0;
    if done {
        let encrypted = cipher == abi::AES_GCM && input.op == abi::AES_ENCRYPT;
        let good = out.ext == 0
            && out.byte_count == input.src_len
            && (encrypted || (out.tag == [0; 16] && out.iv == [0; 12]))
            && map.can(How::Write, input.dst, u64::from(input.src_len)) != Certainty::No;
        judgement.expect(Property::Output, good, || format!("output {out:?}"));
        let delivered = u64::from(out.byte_count.min(input.dst_len));
        judgement.allowed.push(range(input.dst, delivered));
    } else {
        judgement.end.refused = seen.result.is_ok();
        let good = out.byte_count == 0
            && out.tag == [0; 16]
            && out.iv == [0; 12]
            && out.fips_approved == 0
            && out.result <= 0x7fff
            && (seen.result.is_ok() || out.result == 0)
            && (seen.result.is_err() || out.ext <= 0xffff);
        judgement.expect(Property::Output, good, || format!("output {out:?}"));
        // The ABI leaves open what is there, unless it was never under way.
        if seen.result != Err(Errno::INVAL) {
            judgement.allowed.push(room);
        }
    }
}

#[cfg(test)]
mod tests;
