// SPDX-License-Identifier: GPL-2.0

//! The user-space ABI, as `include/uapi/linux/azihsm.h` has it.
//!
//! Documentation/abi.rst 2. The sizes and offsets below are checked against that document here,
//! and those of the header by its own test.

use core::mem::{
    offset_of,
    size_of, //
};

use kernel::{
    ioctl::_IOWR,
    prelude::*, //
};
use zerocopy_derive::Immutable;

use crate::sys::impl_wire;

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

/// Behind the two bits of a [`Flow`](crate::session::Flow), which are those of the device.
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

impl_wire!(Hdr, HsmCmd, HsmOut, DevInfo, Reset, AesCmd, AesOut, ResCount);

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

const MAGIC: u32 = b'B' as u32;
const MGMT_MAGIC: u32 = b'A' as u32;

pub(crate) const IOC_HSM_CMD: u32 = _IOWR::<HsmCmd>(MAGIC, 0x03);
pub(crate) const IOC_DEV_INFO: u32 = _IOWR::<DevInfo>(MAGIC, 0x04);
pub(crate) const IOC_RESET: u32 = _IOWR::<Reset>(MAGIC, 0x06);
pub(crate) const IOC_AES_XTS: u32 = _IOWR::<AesCmd>(MAGIC, 0x0b);
pub(crate) const IOC_AES_GCM: u32 = _IOWR::<AesCmd>(MAGIC, 0x0c);

pub(crate) const MGMT_IOC_SET_RES_COUNT: u32 = _IOWR::<ResCount>(MGMT_MAGIC, 0x02);
pub(crate) const MGMT_IOC_GET_RES_COUNT: u32 = _IOWR::<ResCount>(MGMT_MAGIC, 0x03);
pub(crate) const MGMT_IOC_GET_VF_COUNT: u32 = _IOWR::<VfCount>(MGMT_MAGIC, 0x04);
pub(crate) const MGMT_IOC_DEV_INFO: u32 = _IOWR::<DevInfo>(MGMT_MAGIC, 0x05);

static_assert!(IOC_HSM_CMD == 0xc070_4203);
static_assert!(IOC_DEV_INFO == 0xc0b0_4204);
static_assert!(IOC_RESET == 0xc110_4206);
static_assert!(IOC_AES_XTS == 0xc190_420b);
static_assert!(IOC_AES_GCM == 0xc190_420c);
static_assert!(MGMT_IOC_SET_RES_COUNT == 0xc00c_4102);
static_assert!(MGMT_IOC_GET_RES_COUNT == 0xc00c_4103);
static_assert!(MGMT_IOC_GET_VF_COUNT == 0xc008_4104);
static_assert!(MGMT_IOC_DEV_INFO == 0xc0b0_4105);

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

// Documentation/abi.rst 2 and 3.9.
#[kunit_tests(azihsm_uapi)]
mod tests {
    use super::*;
    use crate::wire::by_hand::bytes;

    #[test]
    fn hsm_commands_are_laid_out_as_documented() -> Result {
        let bytes: [u8; 112] = bytes(&[
            (0, &[0x70, 0, 0, 0]),
            (16, &[1, 2, 3, 4, 5, 6, 7, 8]),
            (24, &[0x11, 0x12]),
            (26, &[0x21, 0x22]),
            (32, &[0x31, 0x32, 0x33, 0x34]),
            (40, &[0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48]),
            (48, &[0x51, 0x52, 0x53, 0x54]),
            (56, &[0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68]),
            (64, &[0x71]),
            (66, &[0x72, 0x73]),
            (88, &[0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88]),
            (96, &[0x91, 0x92, 0x93, 0x94]),
            (100, &[0xa1, 0xa2, 0xa3, 0xa4]),
            (104, &[0xb1, 0xb2, 0xb3, 0xb4]),
        ]);
        let cmd: HsmCmd = zerocopy::transmute!(bytes);
        assert_eq!(cmd.hdr().size, 112);
        let input = &cmd.input;
        assert_eq!(input.ctxt, 0x0807_0605_0403_0201);
        assert_eq!((input.opcode, input.cmdset), (0x1211, 0x2221));
        assert_eq!(input.src_len, 0x3433_3231);
        assert_eq!(input.src, 0x4847_4645_4443_4241);
        assert_eq!(input.dst_len, 0x5453_5251);
        assert_eq!(input.dst, 0x6867_6665_6463_6261);
        assert_eq!((input.session.flags, input.session.id), (0x71, 0x7372));
        assert_eq!(cmd.out.ctxt, 0x8887_8685_8483_8281);
        assert_eq!(cmd.out.status, 0x9493_9291);
        assert_eq!(cmd.out.byte_count, 0xa4a3_a2a1);
        assert_eq!(cmd.out.ext, 0xb4b3_b2b1);
        Ok(())
    }

    #[test]
    fn aes_commands_are_laid_out_as_documented() {
        let bytes: [u8; 400] = bytes(&[
            (0, &[0x90, 0x01, 0, 0]),
            (16, &[1, 2, 3, 4, 5, 6, 7, 8]),
            (24, &[0x11, 0x12]),
            (32, &[0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28]),
            (40, &[0x31, 0x32, 0x33, 0x34]),
            (48, &[0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48]),
            (56, &[0x51, 0x52, 0x53, 0x54]),
            (64, &[0x61]),
            (66, &[0x62, 0x63, 0x64]),
            (72, &[0x71; 44]),
            (240, &[0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88]),
            (248, &[0x91, 0x92, 0x93, 0x94]),
            (252, &[0xa1; 16]),
            (268, &[0xb1, 0xb2, 0xb3, 0xb4]),
            (272, &[0xc1, 0xc2, 0xc3, 0xc4]),
            (276, &[0xd1]),
            (280, &[0xe1; 12]),
        ]);
        let cmd: AesCmd = zerocopy::transmute!(bytes);
        assert_eq!(cmd.hdr().size, 400);
        let input = &cmd.input;
        assert_eq!(input.ctxt, 0x0807_0605_0403_0201);
        assert_eq!((input.op, input.cipher), (0x11, 0x12));
        assert_eq!(input.src, 0x2827_2625_2423_2221);
        assert_eq!(input.src_len, 0x3433_3231);
        assert_eq!(input.dst, 0x4847_4645_4443_4241);
        assert_eq!(input.dst_len, 0x5453_5251);
        assert_eq!(input.frame_type, 0x61);
        assert_eq!((input.session_id, input.short_app_id), (0x6362, 0x64));
        assert_eq!(input.params, [0x71; 44]);
        let out = &cmd.out;
        assert_eq!(out.ctxt, 0x8887_8685_8483_8281);
        assert_eq!(out.result, 0x9493_9291);
        assert_eq!(out.tag, [0xa1; 16]);
        assert_eq!(out.byte_count, 0xb4b3_b2b1);
        assert_eq!(out.ext, 0xc4c3_c2c1);
        assert_eq!(out.fips_approved, 0xd1);
        assert_eq!(out.iv, [0xe1; 12]);
    }

    #[test]
    fn parameters_are_those_of_the_cipher() {
        let mut input: AesIn = zerocopy::FromZeros::new_zeroed();
        input.params = bytes(&[
            (0, &[0x01, 0x02, 0x03, 0x04]),
            (4, &[0x11; 16]),
            (20, &[0x21; 12]),
            (32, &[0x31, 0x32, 0x33, 0x34]),
            (36, &[0x41, 0x42, 0x43, 0x44]),
            (40, &[0x51]),
        ]);
        let gcm = input.gcm();
        assert_eq!(gcm.key_id, 0x0403_0201);
        assert_eq!((gcm.tag, gcm.iv), ([0x11; 16], [0x21; 12]));
        assert_eq!(gcm.aad_len, 0x3433_3231);
        assert_eq!(gcm.aad_padded_len, 0x4443_4241);
        assert_eq!(gcm.unaligned, 0x51);

        input.params = bytes(&[
            (0, &[0x01, 0x02]),
            (4, &[0x11, 0x12, 0x13, 0x14]),
            (8, &[0x21, 0x22, 0x23, 0x24]),
            (12, &[0x31; 16]),
        ]);
        let xts = input.xts();
        assert_eq!(xts.data_unit, 0x0201);
        assert_eq!(xts.data_key_id, 0x1413_1211);
        assert_eq!(xts.tweak_key_id, 0x2423_2221);
        assert_eq!(xts.tweak, [0x31; 16]);
    }

    #[test]
    fn device_info_and_reset_are_laid_out_as_documented() {
        let info: [u8; 176] = bytes(&[
            (0, &[0xb0, 0, 0, 0]),
            (4, &[0x11, 0x12]),
            (6, &[0x21; 33]),
            (39, &[0x31; 33]),
            (77, &[0x41; 33]),
            (110, &[0x51; 16]),
            (143, &[0x61; 32]),
        ]);
        let info: DevInfo = zerocopy::transmute!(info);
        assert_eq!((info.argsz, info.id), (176, 0x1211));
        assert_eq!((info.pci_info, info.serial), ([0x21; 33], [0x31; 33]));
        assert_eq!(info.model, [0; 5]);
        assert_eq!(
            (info.firmware_rev, info.driver_rev),
            ([0x41; 33], [0x51; 16])
        );
        assert_eq!(
            (info.reserved, info.entropy, info.pad),
            ([0; 17], [0x61; 32], 0)
        );
        assert_eq!(DRIVER_REV, [0x33, 0x2e, 0x32, 0x2e, 0x30]);

        let reset: [u8; 272] = bytes(&[
            (0, &[0x10, 0x01]),
            (24, &[0x11, 0x12, 0x13, 0x14]),
            (108, &[0x21, 0x22, 0x23, 0x24]),
        ]);
        let reset: Reset = zerocopy::transmute!(reset);
        assert_eq!(reset.hdr().size, 272);
        assert_eq!((reset.kind, reset.status), (0x1413_1211, 0x2423_2221));
    }

    #[test]
    fn output_begins_as_zeros_and_the_context() {
        let hsm = HsmOut::new(0x0807_0605_0403_0201);
        let expected: [u8; 24] = bytes(&[(0, &[1, 2, 3, 4, 5, 6, 7, 8])]);
        assert_eq!(IntoBytes::as_bytes(&hsm), expected);
        let aes = AesOut::new(0x0807_0605_0403_0201);
        let expected: [u8; 160] = bytes(&[(0, &[1, 2, 3, 4, 5, 6, 7, 8])]);
        assert_eq!(IntoBytes::as_bytes(&aes), expected);
    }

    #[test]
    fn status_codes_are_those_of_the_documentation() {
        let cases = [
            (EXT_HSM_CMDSET, 2),
            (EXT_HSM_SRC_LEN, 3),
            (EXT_HSM_DST_LEN, 4),
            (EXT_HSM_SRC, 5),
            (EXT_HSM_DST, 7),
            (EXT_HSM_NOT_READY, 10),
            (EXT_HSM_SESSION_LIMIT, 11),
            (EXT_HSM_NO_SESSION, 12),
            (EXT_HSM_SESSION_MISMATCH, 14),
            (EXT_AES_NOMEM, 100),
            (EXT_AES_SRC, 101),
            (EXT_AES_DST, 103),
            (EXT_AES_DEVICE, 106),
            (EXT_AES_SESSION_MISMATCH, 107),
            (EXT_AES_APP_MISMATCH, 108),
            (EXT_AES_NO_SESSION, 109),
            (EXT_AES_NO_APP, 110),
            (EXT_AES_NO_QUEUES, 111),
            (EXT_AES_CIPHER, 112),
            (EXT_AES_FRAME_TYPE, 113),
            (EXT_AES_OP, 114),
            (EXT_AES_SRC_LEN, 115),
            (EXT_AES_DST_LEN, 116),
            (EXT_AES_GCM, 117),
            (EXT_AES_XTS, 118),
            (EXT_RECOVERING, 0x0400_0001),
            (EXT_ABORTED, 0x0400_0002),
            (RESET_OK, 0),
            (RESET_BUSY, 1),
            (RESET_BAD_STATE, 2),
            (RESET_FAILED, 3),
            (RESET_BAD_TYPE, 4),
            (RESET_UNSUPPORTED, 6),
        ];
        for (code, documented) in cases {
            assert_eq!(code, documented);
        }
        assert_eq!((HSM_MAX_LEN, AES_MAX_LEN), (8192, 16_777_216));
    }
}
