// SPDX-License-Identifier: GPL-2.0

//! The structures and codes of the user-space ABI.
//!
//! Documentation/abi.rst 2 and 3.9. The sizes and offsets below are checked against that document
//! here, and those of the header `include/uapi/linux/azihsm.h` by its own test.

use core::mem::{
    offset_of,
    size_of, //
};

use super::facade::{
    static_assert,
    FromBytes,
    Immutable,
    IntoBytes, //
};

/// Revision of the ABI, as the device info reports it.
pub(crate) const DRIVER_REV: &[u8] = b"3.2.0";

/// `struct azihsm_hdr`
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct Hdr {
    pub(crate) size: u32,
    app_cmd_id: u32,
    timeout: u32,
    flags: u32,
}

/// Behind the two bits of a [`Flow`](super::hsm::Flow), which are those of the device.
pub(crate) const SESSION_ID_VALID: u8 = 1 << 2;

/// `struct azihsm_session`
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct Session {
    pub(crate) flags: u8,
    reserved0: u8,
    pub(crate) id: u16,
    reserved1: [u8; 16],
}

pub(crate) const HSM_OP_MBOR: u16 = 0;
pub(crate) const HSM_OP_TBOR: u16 = 2;
pub(crate) const HSM_MAX_LEN: usize = 8192;

/// `struct azihsm_hsm_in`
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct HsmIn {
    pub(crate) ctxt: u64,
    pub(crate) opcode: u16,
    pub(crate) cmdset: u16,
    psdt: u8,
    pad0: [u8; 3],
    pub(crate) src_len: u32,
    pad1: u32,
    pub(crate) src: u64,
    pub(crate) dst_len: u32,
    pad2: u32,
    pub(crate) dst: u64,
    pub(crate) session: Session,
    pad3: u32,
}

/// `struct azihsm_hsm_out`
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct HsmOut {
    pub(crate) ctxt: u64,
    pub(crate) status: u32,
    pub(crate) byte_count: u32,
    pub(crate) ext: u32,
    pad: u32,
}

impl HsmOut {
    /// Returns what a command starts with, whose context is `ctxt`.
    pub(crate) fn new(ctxt: u64) -> Self {
        Self {
            ctxt,
            ..Self::default()
        }
    }
}

/// `struct azihsm_hsm_cmd`
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct HsmCmd {
    pub(crate) hdr: Hdr,
    pub(crate) input: HsmIn,
    pub(crate) out: HsmOut,
}

/// A structure that begins with a header.
pub(crate) trait Headed {
    /// Returns its header.
    fn hdr(&self) -> &Hdr;
}

macro_rules! impl_headed {
    ($($name:ty),+ $(,)?) => {$(
        impl Headed for $name {
            fn hdr(&self) -> &Hdr {
                &self.hdr
            }
        }
    )+};
}
impl_headed!(HsmCmd, Reset, AesCmd);

/// `struct azihsm_dev_info`
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct DevInfo {
    pub(crate) argsz: u32,
    pub(crate) id: u16,
    pub(crate) pci_info: [u8; 33],
    pub(crate) serial: [u8; 33],
    pub(crate) model: [u8; 5],
    pub(crate) firmware_rev: [u8; 33],
    pub(crate) driver_rev: [u8; 16],
    pub(crate) reserved: [u8; 17],
    pub(crate) entropy: [u8; 32],
    pub(crate) pad: u8,
}

/// `struct azihsm_reset`
#[derive(FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct Reset {
    hdr: Hdr,
    ctxt: u64,
    pub(crate) kind: u32,
    reserved0: [u8; 80],
    pub(crate) status: u32,
    reserved1: [u8; 160],
}

pub(crate) const RESET_SUBSYSTEM: u32 = 1;
pub(crate) const RESET_CONTROLLER: u32 = 2;
pub(crate) const RESET_OK: u32 = 0;
pub(crate) const RESET_BUSY: u32 = 1;
pub(crate) const RESET_BAD_STATE: u32 = 2;
pub(crate) const RESET_FAILED: u32 = 3;
pub(crate) const RESET_BAD_TYPE: u32 = 4;
pub(crate) const RESET_UNSUPPORTED: u32 = 6;

pub(crate) const AES_ENCRYPT: u8 = 0;
pub(crate) const AES_DECRYPT: u8 = 1;
pub(crate) const AES_GCM: u8 = 0;
pub(crate) const AES_XTS: u8 = 1;
pub(crate) const AES_FRAME: u8 = 1;
pub(crate) const AES_MAX_LEN: u32 = 16 << 20;

/// `struct azihsm_gcm`
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct Gcm {
    pub(crate) key_id: u32,
    pub(crate) tag: [u8; 16],
    pub(crate) iv: [u8; 12],
    pub(crate) aad_len: u32,
    pub(crate) aad_padded_len: u32,
    pub(crate) unaligned: u8,
    reserved: [u8; 3],
}

/// `struct azihsm_xts`, filled up to the size of the union that it is in.
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct Xts {
    pub(crate) data_unit: u16,
    reserved: u16,
    pub(crate) data_key_id: u32,
    pub(crate) tweak_key_id: u32,
    pub(crate) tweak: [u8; 16],
    fill: [u8; 16],
}

/// `struct azihsm_aes_in`
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct AesIn {
    pub(crate) ctxt: u64,
    pub(crate) op: u8,
    pub(crate) cipher: u8,
    reserved0: u16,
    pad0: u32,
    pub(crate) src: u64,
    pub(crate) src_len: u32,
    pad1: u32,
    pub(crate) dst: u64,
    pub(crate) dst_len: u32,
    pad2: u32,
    pub(crate) frame_type: u8,
    pad3: u8,
    pub(crate) session_id: u16,
    pub(crate) short_app_id: u8,
    pad4: [u8; 3],
    /// [`Gcm`] or [`Xts`].
    pub(crate) params: [u8; 44],
    reserved1: [u32; 30],
    pad5: u32,
}

impl Default for DevInfo {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

impl DevInfo {
    /// Returns the info of the controller `id`, without the entropy (2.4).
    pub(crate) fn new(id: u16, pci_info: &[u8], serial: &[u8], firmware_rev: &[u8]) -> Self {
        let mut info = Self {
            id,
            ..Self::default()
        };

        copy_text(&mut info.pci_info, pci_info);
        copy_text(&mut info.serial, serial);
        copy_text(&mut info.firmware_rev, firmware_rev);
        copy_text(&mut info.driver_rev, DRIVER_REV);
        info
    }
}

/// Copies `from` to `to`, which keeps at least one NUL at its end. What is not ASCII becomes `?`:
/// clients require UTF-8.
fn copy_text(to: &mut [u8], from: &[u8]) {
    let room = to.len().saturating_sub(1);
    for (to, from) in to.iter_mut().take(room).zip(from) {
        *to = if from.is_ascii() { *from } else { b'?' };
    }
}

impl AesIn {
    /// Returns the parameters as those of GCM.
    pub(crate) fn gcm(&self) -> Gcm {
        zerocopy::transmute!(self.params)
    }

    /// Returns the parameters as those of XTS.
    pub(crate) fn xts(&self) -> Xts {
        zerocopy::transmute!(self.params)
    }
}

/// `struct azihsm_aes_out`
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct AesOut {
    pub(crate) ctxt: u64,
    pub(crate) result: u32,
    pub(crate) tag: [u8; 16],
    pub(crate) byte_count: u32,
    pub(crate) ext: u32,
    pub(crate) fips_approved: u8,
    reserved0: [u8; 3],
    pub(crate) iv: [u8; 12],
    reserved1: [u32; 26],
    pad: u32,
}

impl AesOut {
    /// Returns what a command starts with, whose context is `ctxt`.
    pub(crate) fn new(ctxt: u64) -> Self {
        Self {
            ctxt,
            ..Self::default()
        }
    }
}

/// `struct azihsm_aes_cmd`
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct AesCmd {
    pub(crate) hdr: Hdr,
    pub(crate) input: AesIn,
    pub(crate) out: AesOut,
}

/// `struct azihsm_res_count`
#[derive(Clone, Copy, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct ResCount {
    pub(crate) argsz: u32,
    pub(crate) vf: u16,
    pub(crate) count: u16,
    pub(crate) status: u32,
}

pub(crate) const RES_OK: u32 = 0;
pub(crate) const RES_BAD_VF: u32 = 2;
pub(crate) const RES_SET_FAILED: u32 = 4;
pub(crate) const RES_GET_FAILED: u32 = 7;

/// `struct azihsm_vf_count`
#[derive(FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct VfCount {
    argsz: u32,
    pub(crate) count: u16,
    pub(crate) pad: u16,
}

pub(crate) const EXT_HSM_CMDSET: u32 = 2;
pub(crate) const EXT_HSM_SRC_LEN: u32 = 3;
pub(crate) const EXT_HSM_DST_LEN: u32 = 4;
pub(crate) const EXT_HSM_SRC: u32 = 5;
pub(crate) const EXT_HSM_DST: u32 = 7;
pub(crate) const EXT_HSM_NOT_READY: u32 = 10;
pub(crate) const EXT_HSM_SESSION_LIMIT: u32 = 11;
pub(crate) const EXT_HSM_NO_SESSION: u32 = 12;
pub(crate) const EXT_HSM_SESSION_MISMATCH: u32 = 14;
pub(crate) const EXT_AES_NOMEM: u32 = 100;
pub(crate) const EXT_AES_SRC: u32 = 101;
pub(crate) const EXT_AES_DST: u32 = 103;
pub(crate) const EXT_AES_DEVICE: u32 = 106;
pub(crate) const EXT_AES_SESSION_MISMATCH: u32 = 107;
pub(crate) const EXT_AES_APP_MISMATCH: u32 = 108;
pub(crate) const EXT_AES_NO_SESSION: u32 = 109;
pub(crate) const EXT_AES_NO_APP: u32 = 110;
pub(crate) const EXT_AES_NO_QUEUES: u32 = 111;
pub(crate) const EXT_AES_CIPHER: u32 = 112;
pub(crate) const EXT_AES_FRAME_TYPE: u32 = 113;
pub(crate) const EXT_AES_OP: u32 = 114;
pub(crate) const EXT_AES_SRC_LEN: u32 = 115;
pub(crate) const EXT_AES_DST_LEN: u32 = 116;
pub(crate) const EXT_AES_GCM: u32 = 117;
pub(crate) const EXT_AES_XTS: u32 = 118;
pub(crate) const EXT_RECOVERING: u32 = 0x0400_0001;
pub(crate) const EXT_ABORTED: u32 = 0x0400_0002;

static_assert!(size_of::<Hdr>() == 16);
static_assert!(size_of::<Session>() == 20);
static_assert!(size_of::<HsmIn>() == 72);
static_assert!(size_of::<HsmOut>() == 24);
static_assert!(size_of::<HsmCmd>() == 112);
static_assert!(offset_of!(HsmCmd, input.src) == 40);
static_assert!(offset_of!(HsmCmd, input.dst) == 56);
static_assert!(offset_of!(HsmCmd, input.session.flags) == 64);
static_assert!(offset_of!(HsmCmd, input.session.id) == 66);
static_assert!(offset_of!(HsmCmd, out) == 88);
static_assert!(offset_of!(HsmCmd, out.ext) == 104);

static_assert!(size_of::<DevInfo>() == 176);
static_assert!(offset_of!(DevInfo, entropy) == 143);

static_assert!(size_of::<Reset>() == 272);
static_assert!(offset_of!(Reset, kind) == 24);
static_assert!(offset_of!(Reset, status) == 108);

static_assert!(size_of::<Gcm>() == 44);
static_assert!(size_of::<Xts>() == 44);
static_assert!(offset_of!(Xts, fill) == 28);
static_assert!(size_of::<AesIn>() == 224);
static_assert!(size_of::<AesOut>() == 160);
static_assert!(size_of::<AesCmd>() == 400);
static_assert!(offset_of!(AesCmd, input.src) == 32);
static_assert!(offset_of!(AesCmd, input.dst) == 48);
static_assert!(offset_of!(AesCmd, input.frame_type) == 64);
static_assert!(offset_of!(AesCmd, input.session_id) == 66);
static_assert!(offset_of!(AesCmd, input.short_app_id) == 68);
static_assert!(offset_of!(AesCmd, input.params) == 72);
static_assert!(offset_of!(AesCmd, out) == 240);
static_assert!(offset_of!(AesCmd, out.ext) == 272);
static_assert!(offset_of!(AesCmd, out.fips_approved) == 276);
static_assert!(offset_of!(AesCmd, out.iv) == 280);

static_assert!(size_of::<ResCount>() == 12);
static_assert!(offset_of!(ResCount, vf) == 4);
static_assert!(offset_of!(ResCount, count) == 6);
static_assert!(offset_of!(ResCount, status) == 8);
static_assert!(size_of::<VfCount>() == 8);
static_assert!(offset_of!(VfCount, count) == 4);
