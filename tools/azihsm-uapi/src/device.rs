// SPDX-License-Identifier: GPL-2.0
//! The HSM node.

use crate::aad;
use crate::abi;
use crate::abi::AesCmd;
use crate::abi::HsmCmd;
use crate::error::Error;
use crate::error::Result;
use crate::raw;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use std::io;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use zerocopy::FromZeros;

/// An open HSM node.
///
/// All methods may be called from several threads of the process that opened
/// the node.  Dropping it closes the session it has.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
}

/// How a HSM command relates to a session.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Flow {
    /// Not at all.
    #[default]
    None,
    /// Opens one.
    Open,
    /// Closes this one.
    Close(u16),
    /// Runs in this one.
    InSession(u16),
}

impl From<Flow> for abi::Session {
    fn from(flow: Flow) -> Self {
        let (flags, id) = match flow {
            Flow::None => (abi::FLOW_NONE, 0),
            Flow::Open => (abi::FLOW_OPEN, 0),
            Flow::Close(id) => (abi::FLOW_CLOSE | abi::SESSION_ID_VALID, id),
            Flow::InSession(id) => (abi::FLOW_IN_SESSION | abi::SESSION_ID_VALID, id),
        };
        Self {
            flags,
            reserved0: 0,
            id,
            reserved1: [0; 16],
        }
    }
}

/// What the device answered to a HSM command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HsmReply {
    /// Status of the device; 0 if it carried the command out.
    pub status: u32,
    /// Bytes of the response.
    pub len: usize,
}

/// Whether an AES request encrypts or decrypts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// Encrypt.
    Encrypt,
    /// Decrypt.
    Decrypt,
}

impl Direction {
    fn code(self) -> u8 {
        match self {
            Self::Encrypt => abi::AES_ENCRYPT,
            Self::Decrypt => abi::AES_DECRYPT,
        }
    }
}

/// An AES-GCM request.
#[derive(Clone, Copy, Debug)]
pub struct GcmRequest<'a> {
    /// Encrypt or decrypt.
    pub direction: Direction,
    /// Session of this descriptor.
    pub session: u16,
    /// Application of that session.
    pub app: u8,
    /// Key.
    pub key: u32,
    /// Initialisation vector; a device may choose its own for an encryption.
    pub iv: [u8; 12],
    /// Tag to check, for a decryption.
    pub tag: [u8; 16],
    /// Additional data, without any padding.
    pub aad: &'a [u8],
    /// Text of any length.
    pub text: &'a [u8],
}

/// An AES-XTS request.
#[derive(Clone, Copy, Debug)]
pub struct XtsRequest<'a> {
    /// Encrypt or decrypt.
    pub direction: Direction,
    /// Session of this descriptor.
    pub session: u16,
    /// Application of that session.
    pub app: u8,
    /// Key for the data.
    pub data_key: u32,
    /// Key for the tweak.
    pub tweak_key: u32,
    /// `abi::XTS_UNIT_*`.
    pub data_unit: u16,
    /// Tweak of the first data unit, little endian.
    pub tweak: [u8; 16],
    /// Whole data units.
    pub text: &'a [u8],
}

/// What the device answered to an AES request.
#[derive(Clone, Debug)]
pub struct AesReply {
    /// Status of the device; 0 if it carried the command out.
    pub status: u32,
    /// Error code of the device, if the status is not 0.
    pub code: u32,
    /// Text; means something only if the status is 0.
    pub text: Vec<u8>,
    /// Bytes the driver says it wrote, padded additional data included.
    pub byte_count: usize,
    /// Tag, after a GCM encryption.
    pub tag: [u8; 16],
    /// Initialisation vector used, after a GCM encryption.
    pub iv: [u8; 12],
    /// Whether the device calls the operation approved.
    pub approved: bool,
}

/// The two ways to reset a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ResetKind {
    /// Through the NVM subsystem reset register.
    Subsystem,
    /// Through the controller's enable bit.
    Controller,
}

/// What a device says about itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Info {
    /// Identifier of the controller: 0 is the physical function, n + 1 the
    /// virtual function n.
    pub controller: u16,
    /// PCI address.
    pub pci: String,
    /// Serial number.
    pub serial: String,
    /// Firmware revision.
    pub firmware: String,
    /// Revision of the ABI that the driver offers.
    pub driver: String,
    /// Random, and new each time the controller was initialised.
    pub entropy: [u8; 32],
}

impl Info {
    pub(crate) fn read(fd: &OwnedFd, number: u32) -> Result<Self> {
        let mut arg = abi::DevInfo::new_zeroed();
        arg.argsz = size_of::<abi::DevInfo>() as u32;
        raw::request(fd, number, &mut arg)?;
        Ok(Self {
            controller: arg.id,
            pci: text(&arg.pci_info),
            serial: text(&arg.serial),
            firmware: text(&arg.firmware_rev),
            driver: text(&arg.driver_rev),
            entropy: arg.entropy,
        })
    }
}

impl Device {
    /// Opens the node at `path`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self {
            fd: open(path.as_ref())?,
        })
    }

    /// Describes the device.
    pub fn info(&self) -> Result<Info> {
        Info::read(&self.fd, abi::IOC_DEV_INFO)
    }

    /// Sends the HSM command `request` and receives into `response`.
    pub fn hsm_command(&self, flow: Flow, request: &[u8], response: &mut [u8]) -> Result<HsmReply> {
        let mut cmd = HsmCmd::new_zeroed();
        cmd.input.opcode = abi::HSM_OP_MBOR;
        cmd.input.session = flow.into();
        raw::hsm(&self.fd, &mut cmd, request, response).map_err(|errno| Error {
            errno,
            ext: cmd.output.ext,
        })?;
        Ok(HsmReply {
            status: cmd.output.status,
            len: response.len().min(cmd.output.byte_count as usize),
        })
    }

    /// Runs AES-GCM.
    pub fn aes_gcm(&self, request: &GcmRequest<'_>) -> Result<AesReply> {
        let mut source = aad::pad(request.aad);
        let start = source.len();
        let gcm = abi::Gcm {
            key_id: request.key,
            tag: request.tag,
            iv: request.iv,
            aad_len: request.aad.len() as u32,
            aad_padded_len: source.len() as u32,
            unaligned: 1,
            reserved: [0; 3],
        };
        source.extend_from_slice(request.text);

        let mut cmd = AesCmd::new_zeroed();
        cmd.input.op = request.direction.code();
        cmd.input.cipher = abi::AES_GCM;
        cmd.input.session_id = request.session;
        cmd.input.short_app_id = request.app;
        cmd.input.set_gcm(&gcm);
        self.aes(abi::IOC_AES_GCM, cmd, &source, start)
    }

    /// Runs AES-XTS.
    pub fn aes_xts(&self, request: &XtsRequest<'_>) -> Result<AesReply> {
        let mut cmd = AesCmd::new_zeroed();
        cmd.input.op = request.direction.code();
        cmd.input.cipher = abi::AES_XTS;
        cmd.input.session_id = request.session;
        cmd.input.short_app_id = request.app;
        cmd.input.set_xts(&abi::Xts {
            data_unit: request.data_unit,
            reserved: 0,
            data_key_id: request.data_key,
            tweak_key_id: request.tweak_key,
            tweak: request.tweak,
        });
        self.aes(abi::IOC_AES_XTS, cmd, request.text, 0)
    }

    /// Sends an AES request and returns the output from `start` on.
    fn aes(&self, number: u32, mut cmd: AesCmd, source: &[u8], start: usize) -> Result<AesReply> {
        let mut output = vec![0; source.len()];
        cmd.input.frame_type = abi::AES_FRAME;
        raw::aes(&self.fd, number, &mut cmd, source, &mut output).map_err(|errno| Error {
            errno,
            ext: cmd.output.ext,
        })?;
        Ok(AesReply {
            status: cmd.output.result,
            code: cmd.output.ext,
            text: output.split_off(start),
            byte_count: cmd.output.byte_count as usize,
            tag: cmd.output.tag,
            iv: cmd.output.iv,
            approved: cmd.output.fips_approved != 0,
        })
    }

    /// Resets the device: all sessions of all users must be renegotiated, and
    /// all keys are lost.
    pub fn reset(&self, kind: ResetKind) -> Result<()> {
        let mut arg = abi::Reset::new_zeroed();
        arg.hdr.size = size_of::<abi::Reset>() as u32;
        arg.kind = match kind {
            ResetKind::Subsystem => abi::RESET_SUBSYSTEM,
            ResetKind::Controller => abi::RESET_CONTROLLER,
        };
        raw::request(&self.fd, abi::IOC_RESET, &mut arg)?;
        Ok(())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for Device {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

/// Opens a node as the ABI wants it opened.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// The text in a field that ends with at least one NUL.
fn text(field: &[u8]) -> String {
    let end = field
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::text;
    use super::Device;
    use super::Flow;
    use crate::abi;
    use rustix::io::Errno;

    #[test]
    fn text_ends_at_the_first_nul() {
        assert_eq!(text(b"abc\0def\0"), "abc");
        assert_eq!(text(b"abc"), "abc");
        assert_eq!(text(b"\0"), "");
    }

    #[test]
    fn only_flows_with_a_session_mark_the_id_valid() {
        let flags = |flow| abi::Session::from(flow).flags;
        assert_eq!(flags(Flow::None), 0);
        assert_eq!(flags(Flow::Open), 1);
        assert_eq!(flags(Flow::Close(3)), 6);
        assert_eq!(flags(Flow::InSession(3)), 7);
        assert_eq!(abi::Session::from(Flow::InSession(3)).id, 3);
    }

    #[test]
    fn a_file_that_is_no_device_answers_notty() {
        let device = Device::open("/dev/null").unwrap();
        assert_eq!(device.info().unwrap_err().errno, Errno::NOTTY);
    }
}
