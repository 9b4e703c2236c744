// SPDX-License-Identifier: GPL-2.0
//! The ABI as `<linux/azihsm.h>` declares it: structures, numbers, constants.
//!
//! Names are those of the header without its prefix.  Everything is little
//! endian and has its padding spelled out, so every structure converts to and
//! from bytes safely.

use core::mem::offset_of;
use core::mem::size_of;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;

/// Ioctl type of the HSM node.
pub const MAGIC: u8 = b'B';
/// Ioctl type of the management node.
pub const MGMT_MAGIC: u8 = b'A';

/// Declares a structure of the ABI.
macro_rules! abi {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout)]
        pub struct $name {
            $($(#[$fmeta])* pub $field: $ty,)*
        }
    };
}

abi! {
    /// What every request except the smallest begins with.
    Hdr {
        /// Size of the whole structure in bytes, as the caller knows it.
        size: u32,
        /// The caller's tag; neither read nor changed.
        app_cmd_id: u32,
        /// Ignored.
        timeout: u32,
        /// Ignored.
        flags: u32,
    }
}

/// The command belongs to no session.
pub const FLOW_NONE: u8 = 0;
/// The command opens a session.
pub const FLOW_OPEN: u8 = 1;
/// The command closes the session.
pub const FLOW_CLOSE: u8 = 2;
/// The command runs in the session.
pub const FLOW_IN_SESSION: u8 = 3;
/// [`Session::id`] holds a session identifier.
pub const SESSION_ID_VALID: u8 = 1 << 2;

abi! {
    /// The session a HSM command belongs to.
    Session {
        /// One of `FLOW_*`, with [`SESSION_ID_VALID`] where it applies.
        flags: u8,
        /// Ignored.
        reserved0: u8,
        /// Session identifier.
        id: u16,
        /// Ignored.
        reserved1: [u8; 16],
    }
}

/// A request in the MBOR encoding.
pub const HSM_OP_MBOR: u16 = 0;
/// A request in the TBOR encoding.
pub const HSM_OP_TBOR: u16 = 2;
/// Most bytes that one HSM request, and one HSM response, may have.
pub const HSM_MAX_LEN: usize = 8192;

abi! {
    /// Request of [`IOC_HSM_CMD`].
    HsmIn {
        /// The caller's, returned in [`HsmOut::ctxt`].
        ctxt: u64,
        /// `HSM_OP_*`.
        opcode: u16,
        /// Must be 0.
        cmdset: u16,
        /// Ignored.
        psdt: u8,
        /// Padding.
        pad0: [u8; 3],
        /// Bytes of the request.
        src_len: u32,
        /// Padding.
        pad1: u32,
        /// Address of the request; 0 if and only if `src_len` is 0.
        src: u64,
        /// Room for the response in bytes.
        dst_len: u32,
        /// Padding.
        pad2: u32,
        /// Address of the response; 0 if and only if `dst_len` is 0.
        dst: u64,
        /// Session of the command.
        session: Session,
        /// Padding.
        pad3: u32,
    }
}

abi! {
    /// Result of [`IOC_HSM_CMD`].
    HsmOut {
        /// The request's `ctxt`.
        ctxt: u64,
        /// Status of the device; 0 if it carried the command out.
        status: u32,
        /// Bytes of the response.
        byte_count: u32,
        /// Why the ioctl failed; 0 if it did not.
        ext: u32,
        /// Padding.
        pad: u32,
    }
}

abi! {
    /// Argument of [`IOC_HSM_CMD`].
    HsmCmd {
        /// Header.
        hdr: Hdr,
        /// Request.
        input: HsmIn,
        /// Result.
        output: HsmOut,
    }
}

abi! {
    /// Argument of [`IOC_DEV_INFO`] and [`MGMT_IOC_DEV_INFO`].
    DevInfo {
        /// Size of this structure, or more.
        argsz: u32,
        /// Identifier of the controller.
        id: u16,
        /// PCI address, `DDDD:BB:DD.F`.
        pci_info: [u8; 33],
        /// Serial number.
        serial: [u8; 33],
        /// Empty.
        model: [u8; 5],
        /// Firmware revision.
        firmware_rev: [u8; 33],
        /// Revision of the ABI that the driver offers.
        driver_rev: [u8; 16],
        /// 0.
        reserved: [u8; 17],
        /// Random, and new each time the controller was initialised.
        entropy: [u8; 32],
        /// Padding; neither read nor written.
        pad: u8,
    }
}

/// Reset through the NVM subsystem reset register.
pub const RESET_SUBSYSTEM: u32 = 1;
/// Reset through the controller's enable bit.
pub const RESET_CONTROLLER: u32 = 2;

/// The reset was carried out.
pub const RESET_OK: u32 = 0;
/// A reset is already under way.
pub const RESET_BUSY: u32 = 1;
/// The device is not in a state to be reset.
pub const RESET_BAD_STATE: u32 = 2;
/// The reset failed.
pub const RESET_FAILED: u32 = 3;
/// No such kind of reset.
pub const RESET_BAD_TYPE: u32 = 4;
/// The reset took too long.
pub const RESET_TIMED_OUT: u32 = 5;
/// The reset is not allowed.
pub const RESET_UNSUPPORTED: u32 = 6;

abi! {
    /// Argument of [`IOC_RESET`].
    Reset {
        /// Header.
        hdr: Hdr,
        /// The caller's; neither read nor changed.
        ctxt: u64,
        /// [`RESET_SUBSYSTEM`] or [`RESET_CONTROLLER`].
        kind: u32,
        /// Ignored.
        reserved0: [u8; 80],
        /// One of [`RESET_OK`] to [`RESET_UNSUPPORTED`].
        status: u32,
        /// Ignored.
        reserved1: [u8; 160],
    }
}

/// Encrypt.
pub const AES_ENCRYPT: u8 = 0;
/// Decrypt.
pub const AES_DECRYPT: u8 = 1;
/// [`AesIn::params`] holds a [`Gcm`].
pub const AES_GCM: u8 = 0;
/// [`AesIn::params`] holds an [`Xts`].
pub const AES_XTS: u8 = 1;
/// The only frame type.
pub const AES_FRAME: u8 = 1;
/// The whole input is one data unit.
pub const XTS_UNIT_WHOLE: u16 = 0;
/// Data units of 512 bytes.
pub const XTS_UNIT_512: u16 = 1;
/// Data units of 4096 bytes.
pub const XTS_UNIT_4096: u16 = 2;
/// Data units of 8192 bytes.
pub const XTS_UNIT_8192: u16 = 3;
/// Most bytes that one AES request may have in either direction.
pub const AES_MAX_LEN: usize = 16 << 20;

abi! {
    /// Parameters of [`IOC_AES_GCM`].
    Gcm {
        /// Key.
        key_id: u32,
        /// Tag to check, for decryption.
        tag: [u8; 16],
        /// Initialisation vector.
        iv: [u8; 12],
        /// Bytes of additional data without padding.
        aad_len: u32,
        /// Bytes of additional data with padding, a multiple of 32.
        aad_padded_len: u32,
        /// Not 0 allows text that is not a multiple of 16 bytes.
        unaligned: u8,
        /// Ignored.
        reserved: [u8; 3],
    }
}

abi! {
    /// Parameters of [`IOC_AES_XTS`].
    Xts {
        /// `XTS_UNIT_*`.
        data_unit: u16,
        /// Ignored.
        reserved: u16,
        /// Key for the data.
        data_key_id: u32,
        /// Key for the tweak.
        tweak_key_id: u32,
        /// Tweak of the first data unit, little endian.
        tweak: [u8; 16],
    }
}

abi! {
    /// Request of [`IOC_AES_GCM`] and [`IOC_AES_XTS`].
    AesIn {
        /// The caller's, returned in [`AesOut::ctxt`].
        ctxt: u64,
        /// [`AES_ENCRYPT`] or [`AES_DECRYPT`].
        op: u8,
        /// [`AES_GCM`] or [`AES_XTS`], as the ioctl says.
        cipher: u8,
        /// Ignored.
        reserved0: u16,
        /// Padding.
        pad0: u32,
        /// Address of the input.
        src: u64,
        /// Bytes of the input.
        src_len: u32,
        /// Padding.
        pad1: u32,
        /// Address of the output.
        dst: u64,
        /// Room for the output in bytes.
        dst_len: u32,
        /// Padding.
        pad2: u32,
        /// [`AES_FRAME`].
        frame_type: u8,
        /// Padding.
        pad3: u8,
        /// Session of this descriptor.
        session_id: u16,
        /// Application of that session.
        short_app_id: u8,
        /// Padding.
        pad4: [u8; 3],
        /// The bytes of a [`Gcm`], or of an [`Xts`] and 16 more.
        params: [u8; 44],
        /// Ignored.
        reserved1: [u32; 30],
        /// Padding.
        pad5: u32,
    }
}

impl AesIn {
    /// Sets the parameters of a GCM request.
    pub fn set_gcm(&mut self, gcm: &Gcm) {
        self.params.copy_from_slice(gcm.as_bytes());
    }

    /// Sets the parameters of an XTS request.
    pub fn set_xts(&mut self, xts: &Xts) {
        self.params = [0; 44];
        self.params[..size_of::<Xts>()].copy_from_slice(xts.as_bytes());
    }
}

abi! {
    /// Result of [`IOC_AES_GCM`] and [`IOC_AES_XTS`].
    AesOut {
        /// The request's `ctxt`.
        ctxt: u64,
        /// Status of the device; 0 if it carried the command out.
        result: u32,
        /// Tag, after a GCM encryption.
        tag: [u8; 16],
        /// Bytes written.
        byte_count: u32,
        /// Error code of the device if `result` is not 0, else `EXT_*`.
        ext: u32,
        /// Not 0 if the device calls the operation approved.
        fips_approved: u8,
        /// 0.
        reserved0: [u8; 3],
        /// Initialisation vector used, after a GCM encryption.
        iv: [u8; 12],
        /// 0.
        reserved1: [u32; 26],
        /// Padding.
        pad: u32,
    }
}

abi! {
    /// Argument of [`IOC_AES_GCM`] and [`IOC_AES_XTS`].
    AesCmd {
        /// Header.
        hdr: Hdr,
        /// Request.
        input: AesIn,
        /// Result.
        output: AesOut,
    }
}

abi! {
    /// Argument of [`MGMT_IOC_SET_RES_COUNT`] and [`MGMT_IOC_GET_RES_COUNT`].
    ResCount {
        /// Size of this structure, or more.
        argsz: u32,
        /// Virtual function, from 0.
        vf: u16,
        /// Resource groups.
        count: u16,
        /// 0, or why the request failed.
        status: u32,
    }
}

abi! {
    /// Argument of [`MGMT_IOC_GET_VF_COUNT`].
    VfCount {
        /// Size of this structure, or more.
        argsz: u32,
        /// Virtual functions that are enabled.
        count: u16,
        /// Padding; neither read nor written.
        pad: u16,
    }
}

/// Extended status of a failed command.
pub mod ext {
    /// Declares the codes together with their meaning.
    macro_rules! codes {
        ($($(#[$meta:meta])* $name:ident = $value:expr, $text:expr;)*) => {
            $($(#[$meta])* #[doc = concat!("Extended status: ", $text, ".")]
            pub const $name: u32 = $value;)*

            /// What an extended status means, if it is one of the ABI's.
            pub fn describe(ext: u32) -> Option<&'static str> {
                match ext {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        };
    }

    codes! {
        OK = 0, "no reason given";
        HSM_NOMEM = 1, "no memory";
        HSM_CMDSET = 2, "no such command set or opcode";
        HSM_SRC_LEN = 3, "request too long";
        HSM_DST_LEN = 4, "room for the response too large";
        HSM_SRC = 5, "request not readable";
        HSM_SRC_ACCESS = 6, "request not accessible";
        HSM_DST = 7, "response not writable";
        HSM_DST_ACCESS = 8, "response not accessible";
        HSM_NOT_OWNER = 9, "descriptor opened by another process";
        HSM_NOT_READY = 10, "device not ready";
        HSM_SESSION_LIMIT = 11, "descriptor already has a session";
        HSM_NO_SESSION = 12, "descriptor has no session";
        HSM_FLOW = 13, "no such session flow";
        HSM_SESSION_MISMATCH = 14, "not the session of the descriptor";
        HSM_RETRY = 15, "to be retried";
        AES_NOMEM = 100, "no memory, or pages not available";
        AES_SRC = 101, "no valid input";
        AES_SRC_ACCESS = 102, "input not accessible";
        AES_DST = 103, "no valid output";
        AES_DST_ACCESS = 104, "output not accessible";
        AES_NOT_OWNER = 105, "descriptor opened by another process";
        AES_DEVICE = 106, "device not ready, or its answer is not consistent";
        AES_SESSION_MISMATCH = 107, "not the session of the descriptor";
        AES_APP_MISMATCH = 108, "not the application of the session";
        AES_NO_SESSION = 109, "descriptor has no session";
        AES_NO_APP = 110, "session without application";
        AES_NO_QUEUES = 111, "device has no AES queues";
        AES_CIPHER = 112, "no such cipher, or not that of the ioctl";
        AES_FRAME_TYPE = 113, "no such frame type";
        AES_OP = 114, "neither encryption nor decryption";
        AES_SRC_LEN = 115, "input too long";
        AES_DST_LEN = 116, "output too long";
        AES_GCM = 117, "GCM parameters do not fit";
        AES_XTS = 118, "XTS parameters do not fit";
        RECOVERING = 0x0400_0001, "a recovery is under way";
        ABORTED = 0x0400_0002, "ended by a recovery";
    }
}

/// The number of a read and write ioctl, as `_IOWR` makes it.
pub const fn iowr<T>(magic: u8, number: u8) -> u32 {
    (3 << 30) | ((size_of::<T>() as u32) << 16) | ((magic as u32) << 8) | number as u32
}

/// Sends a HSM command.
pub const IOC_HSM_CMD: u32 = iowr::<HsmCmd>(MAGIC, 0x03);
/// Describes the device.
pub const IOC_DEV_INFO: u32 = iowr::<DevInfo>(MAGIC, 0x04);
/// Resets the device.
pub const IOC_RESET: u32 = iowr::<Reset>(MAGIC, 0x06);
/// Runs AES-XTS.
pub const IOC_AES_XTS: u32 = iowr::<AesCmd>(MAGIC, 0x0b);
/// Runs AES-GCM.
pub const IOC_AES_GCM: u32 = iowr::<AesCmd>(MAGIC, 0x0c);
/// Gives a virtual function resource groups.
pub const MGMT_IOC_SET_RES_COUNT: u32 = iowr::<ResCount>(MGMT_MAGIC, 0x02);
/// Tells how many resource groups a virtual function has.
pub const MGMT_IOC_GET_RES_COUNT: u32 = iowr::<ResCount>(MGMT_MAGIC, 0x03);
/// Tells how many virtual functions there are.
pub const MGMT_IOC_GET_VF_COUNT: u32 = iowr::<VfCount>(MGMT_MAGIC, 0x04);
/// Describes the device.
pub const MGMT_IOC_DEV_INFO: u32 = iowr::<DevInfo>(MGMT_MAGIC, 0x05);

/// Stops the build if the two sides differ.
macro_rules! check {
    ($($left:expr => $right:expr,)*) => {
        $(const _: () = assert!($left == $right);)*
    };
}

check! {
    size_of::<Hdr>() => 16,
    size_of::<Session>() => 20,
    size_of::<HsmIn>() => 72,
    size_of::<HsmOut>() => 24,
    size_of::<HsmCmd>() => 112,
    size_of::<DevInfo>() => 176,
    size_of::<Reset>() => 272,
    size_of::<Gcm>() => 44,
    size_of::<Xts>() => 28,
    size_of::<AesIn>() => 224,
    size_of::<AesOut>() => 160,
    size_of::<AesCmd>() => 400,
    size_of::<ResCount>() => 12,
    size_of::<VfCount>() => 8,

    offset_of!(HsmCmd, input) => 16,
    offset_of!(HsmCmd, input.opcode) => 24,
    offset_of!(HsmCmd, input.cmdset) => 26,
    offset_of!(HsmCmd, input.src_len) => 32,
    offset_of!(HsmCmd, input.src) => 40,
    offset_of!(HsmCmd, input.dst_len) => 48,
    offset_of!(HsmCmd, input.dst) => 56,
    offset_of!(HsmCmd, input.session.flags) => 64,
    offset_of!(HsmCmd, input.session.id) => 66,
    offset_of!(HsmCmd, output) => 88,
    offset_of!(HsmCmd, output.status) => 96,
    offset_of!(HsmCmd, output.byte_count) => 100,
    offset_of!(HsmCmd, output.ext) => 104,

    offset_of!(DevInfo, id) => 4,
    offset_of!(DevInfo, pci_info) => 6,
    offset_of!(DevInfo, serial) => 39,
    offset_of!(DevInfo, model) => 72,
    offset_of!(DevInfo, firmware_rev) => 77,
    offset_of!(DevInfo, driver_rev) => 110,
    offset_of!(DevInfo, reserved) => 126,
    offset_of!(DevInfo, entropy) => 143,

    offset_of!(Reset, ctxt) => 16,
    offset_of!(Reset, kind) => 24,
    offset_of!(Reset, status) => 108,

    offset_of!(AesCmd, input) => 16,
    offset_of!(AesCmd, input.op) => 24,
    offset_of!(AesCmd, input.cipher) => 25,
    offset_of!(AesCmd, input.src) => 32,
    offset_of!(AesCmd, input.src_len) => 40,
    offset_of!(AesCmd, input.dst) => 48,
    offset_of!(AesCmd, input.dst_len) => 56,
    offset_of!(AesCmd, input.frame_type) => 64,
    offset_of!(AesCmd, input.session_id) => 66,
    offset_of!(AesCmd, input.short_app_id) => 68,
    offset_of!(AesCmd, input.params) => 72,
    offset_of!(AesCmd, output) => 240,
    offset_of!(AesCmd, output.result) => 248,
    offset_of!(AesCmd, output.tag) => 252,
    offset_of!(AesCmd, output.byte_count) => 268,
    offset_of!(AesCmd, output.ext) => 272,
    offset_of!(AesCmd, output.fips_approved) => 276,
    offset_of!(AesCmd, output.iv) => 280,
    offset_of!(Gcm, tag) => 4,
    offset_of!(Gcm, iv) => 20,
    offset_of!(Gcm, aad_len) => 32,
    offset_of!(Gcm, aad_padded_len) => 36,
    offset_of!(Gcm, unaligned) => 40,
    offset_of!(Xts, data_key_id) => 4,
    offset_of!(Xts, tweak_key_id) => 8,
    offset_of!(Xts, tweak) => 12,

    offset_of!(ResCount, vf) => 4,
    offset_of!(ResCount, count) => 6,
    offset_of!(ResCount, status) => 8,
    offset_of!(VfCount, count) => 4,

    IOC_HSM_CMD => 0xc070_4203,
    IOC_DEV_INFO => 0xc0b0_4204,
    IOC_RESET => 0xc110_4206,
    IOC_AES_XTS => 0xc190_420b,
    IOC_AES_GCM => 0xc190_420c,
    MGMT_IOC_SET_RES_COUNT => 0xc00c_4102,
    MGMT_IOC_GET_RES_COUNT => 0xc00c_4103,
    MGMT_IOC_GET_VF_COUNT => 0xc008_4104,
    MGMT_IOC_DEV_INFO => 0xc0b0_4105,
}
