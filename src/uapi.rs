// SPDX-License-Identifier: GPL-2.0

//! The user-space ABI, as `include/uapi/linux/azihsm.h` has it.
//!
//! Documentation/abi.rst 2.

use kernel::{
    ioctl::_IOWR,
    prelude::*, //
};

use crate::sys::impl_wire;

pub(crate) use crate::wire::uapi::*;

impl_wire!(Hdr, HsmCmd, HsmOut, DevInfo, Reset, AesCmd, AesOut, ResCount);

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
    fn resource_and_function_counts_are_laid_out_as_documented() {
        let bytes: [u8; 12] = [
            0x0c, 0, 0, 0, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x33, 0x34,
        ];
        let count: ResCount = zerocopy::transmute!(bytes);
        assert_eq!((count.argsz, count.vf), (12, 0x1211));
        assert_eq!((count.count, count.status), (0x2221, 0x3433_3231));
        assert_eq!(IntoBytes::as_bytes(&count), bytes);

        let count: VfCount = zerocopy::transmute!([0x08u8, 0, 0, 0, 0x11, 0x12, 0x21, 0x22]);
        assert_eq!((count.count, count.pad), (0x1211, 0x2221));
    }

    #[test]
    fn device_info_is_text_that_ends() {
        let info = |pci: &[u8], serial: &[u8], firmware: &[u8]| {
            let info = DevInfo::new(0x1211, pci, serial, firmware);
            let bytes: [u8; 176] = zerocopy::transmute!(info);
            bytes
        };
        let expected: [u8; 176] = bytes(&[(4, &[0x11, 0x12]), (110, b"3.2.0")]);
        assert_eq!(info(b"", b"", b""), expected);

        // Fields of 33 bytes end with a NUL, whatever there is for them.
        let long = [b'x'; 40];
        for len in [31, 32, 33, 40] {
            let text = long.get(..len).unwrap_or_default();
            let kept: [u8; 32] = if len == 31 {
                bytes(&[(0, &[b'x'; 31])])
            } else {
                [b'x'; 32]
            };
            let expected: [u8; 176] = bytes(&[
                (4, &[0x11, 0x12]),
                (6, &kept),
                (39, &kept),
                (77, &kept),
                (110, b"3.2.0"),
            ]);
            assert_eq!(info(text, text, text), expected);
        }

        let expected: [u8; 176] = bytes(&[
            (4, &[0x11, 0x12]),
            (6, b"0001:00:02.0"),
            (39, b"a\0b?\x7f??"),
            (77, b"\n\x01 ~"),
            (110, b"3.2.0"),
        ]);
        let found = info(b"0001:00:02.0", b"a\0b\x80\x7f\xc3\xbc", b"\n\x01 ~");
        assert_eq!(found, expected);
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
            (RES_OK, 0),
            (RES_BAD_VF, 2),
            (RES_SET_FAILED, 4),
            (RES_GET_FAILED, 7),
        ];
        for (code, documented) in cases {
            assert_eq!(code, documented);
        }
        assert_eq!((HSM_MAX_LEN, AES_MAX_LEN), (8192, 16_777_216));
    }
}
