// SPDX-License-Identifier: GPL-2.0

//! Commands of callers: what they say of themselves, and what becomes of it.
//!
//! Documentation/abi.rst 3.2 to 3.6. The checks are in the order that is laid down there; one that
//! fails returns the extended status.

use core::mem::size_of;

use super::{
    aes, hsm,
    hsm::{
        Flow,
        Session, //
    },
    uapi,
    uapi::{
        AesIn,
        AesOut,
        HsmIn, //
    },
};

/// Returns whether a caller who says that a structure has `size` bytes knows all of a `T`; there
/// may be more behind it.
pub(crate) fn covers<T>(size: u32) -> bool {
    // CAST: Widening.
    size as usize >= size_of::<T>()
}

/// Returns the controller that the virtual function `vf` of `count` is, if there is such a function
/// (3.6, row 7).
pub(crate) fn controller(vf: u16, count: u16) -> Option<u16> {
    (vf < count).then(|| vf + 1)
}

/// Returns whether `len` bytes at `address` may be user memory at all.
pub(crate) fn is_user(address: u64, len: u32) -> bool {
    // The kernel's half of the address space has the highest bit set.
    address
        .checked_add(u64::from(len))
        .is_some_and(|end| end >> 63 == 0)
}

/// Returns what the device is told of a HSM command.
pub(crate) fn header(input: &HsmIn, flow: Flow) -> hsm::Header {
    hsm::Header {
        opcode: input.opcode,
        src_len: input.src_len,
        dst_len: input.dst_len,
        flow,
        // Without a session both fields are 0.
        id: match flow {
            Flow::None => 0,
            _ => input.session.id,
        },
        id_valid: flow != Flow::None && input.session.flags & uapi::SESSION_ID_VALID != 0,
    }
}

/// Checks what a HSM command says of itself (3.2, rows 6 to 11).
///
/// # Errors
///
/// The extended status of the first row that applies.
pub(crate) fn check_hsm(input: &HsmIn) -> Result<(), u32> {
    // CAST: A small constant.
    const MAX_LEN: u32 = uapi::HSM_MAX_LEN as u32;
    let checks = [
        (input.cmdset != 0, uapi::EXT_HSM_CMDSET),
        // The device flushes sessions by opcode 1, whoever they belong to.
        (
            !matches!(input.opcode, uapi::HSM_OP_MBOR | uapi::HSM_OP_TBOR),
            uapi::EXT_HSM_CMDSET,
        ),
        (input.src_len > MAX_LEN, uapi::EXT_HSM_SRC_LEN),
        (input.dst_len > MAX_LEN, uapi::EXT_HSM_DST_LEN),
        ((input.src_len == 0) != (input.src == 0), uapi::EXT_HSM_SRC),
        ((input.dst_len == 0) != (input.dst == 0), uapi::EXT_HSM_DST),
    ];
    match checks.iter().find(|(wrong, _)| *wrong) {
        Some((_, ext)) => Err(*ext),
        None => Ok(()),
    }
}

/// Checks that an AES command names `session`, which its descriptor has, and returns who it is for
/// (3.5, rows 8 to 10).
///
/// # Errors
///
/// The extended status of the first row that applies.
pub(crate) fn check_caller(session: Session, input: &AesIn) -> Result<aes::Caller, u32> {
    let app = session.app.ok_or(uapi::EXT_AES_NO_APP)?;
    if input.session_id != session.id {
        return Err(uapi::EXT_AES_SESSION_MISMATCH);
    }
    if input.short_app_id != app {
        return Err(uapi::EXT_AES_APP_MISMATCH);
    }
    Ok(aes::Caller {
        session: session.id,
        app,
    })
}

/// Fills in what an AES command has to say that succeeded.
pub(crate) fn set_done(
    out: &mut AesOut,
    input: &AesIn,
    request: &aes::Request,
    completion: &aes::Completion,
) {
    out.byte_count = input.src_len;
    out.fips_approved = u8::from(completion.fips_approved);
    // The tag of a decryption would tell how to forge one.
    if !request.decrypt && matches!(request.cipher, aes::Cipher::Gcm { .. }) {
        out.tag = completion.tag;
        out.iv = completion.iv;
    }
}

/// Checks what an AES command says of itself, and returns its cipher (3.5, rows 11 to 23).
///
/// `cipher` is that of the ioctl, `gcm_unaligned` whether the device can do unaligned mode.
///
/// # Errors
///
/// The extended status of the first row that applies.
pub(crate) fn check_aes(
    input: &AesIn,
    cipher: u8,
    gcm_unaligned: bool,
) -> Result<aes::Cipher, u32> {
    let check = |ok: bool, ext: u32| {
        if ok {
            Ok(())
        } else {
            Err(ext)
        }
    };

    check(
        matches!(input.op, uapi::AES_ENCRYPT | uapi::AES_DECRYPT),
        uapi::EXT_AES_OP,
    )?;
    check(input.cipher == cipher, uapi::EXT_AES_CIPHER)?;
    let cipher = match cipher {
        uapi::AES_XTS => check_xts(input).ok_or(uapi::EXT_AES_XTS)?,
        _ => check_gcm(input, gcm_unaligned).ok_or(uapi::EXT_AES_GCM)?,
    };
    check(
        input.frame_type == uapi::AES_FRAME,
        uapi::EXT_AES_FRAME_TYPE,
    )?;
    check(
        input.src != 0 && input.src_len != 0 && is_user(input.src, input.src_len),
        uapi::EXT_AES_SRC,
    )?;
    check(
        input.dst != 0 && input.dst_len != 0 && is_user(input.dst, input.dst_len),
        uapi::EXT_AES_DST,
    )?;
    check(input.src_len <= uapi::AES_MAX_LEN, uapi::EXT_AES_SRC_LEN)?;
    check(input.dst_len <= uapi::AES_MAX_LEN, uapi::EXT_AES_DST_LEN)?;
    Ok(cipher)
}

/// Returns the parameters of XTS, unless they are wrong (3.5, rows 13 and 14).
pub(crate) fn check_xts(input: &AesIn) -> Option<aes::Cipher> {
    let params = input.xts();
    let unit = match params.data_unit {
        0 => input.src_len,
        1 => 512,
        2 => 4096,
        3 => 8192,
        _ => return None,
    };
    let whole_units = input.src_len.checked_rem(unit)? == 0;
    if input.dst_len < input.src_len || !whole_units {
        return None;
    }
    Some(aes::Cipher::Xts {
        data_key: params.data_key_id,
        tweak_key: params.tweak_key_id,
        tweak: params.tweak,
        data_unit: params.data_unit,
    })
}

/// Returns the parameters of GCM, unless they are wrong (3.5, rows 15 to 18).
pub(crate) fn check_gcm(input: &AesIn, gcm_unaligned: bool) -> Option<aes::Cipher> {
    let params = input.gcm();
    let tail = gcm_unaligned && params.unaligned != 0;
    let padding_ok = params.aad_padded_len >= params.aad_len && params.aad_padded_len % 32 == 0;
    if input.src_len == 0
        || input.dst_len < input.src_len
        || params.aad_len > input.src_len
        || params.aad_padded_len > input.src_len
        || (tail && !padding_ok)
    {
        return None;
    }
    Some(aes::Cipher::Gcm {
        key: params.key_id,
        tag: params.tag,
        iv: params.iv,
        aad_len: params.aad_len,
        aad_padded_len: params.aad_padded_len,
        tail,
    })
}
