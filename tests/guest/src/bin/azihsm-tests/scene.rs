// SPDX-License-Identifier: GPL-2.0
//! Requests in the raw, for tests that get them wrong on purpose.

use anyhow::ensure;
use anyhow::Result;
use azihsm_guest::hsm;
use azihsm_guest::hsm::Session;
use azihsm_guest::sys;
use azihsm_guest::sys::Memory;
use azihsm_uapi::abi;
use azihsm_uapi::abi::AesCmd;
use azihsm_uapi::abi::HsmCmd;
use azihsm_uapi::Device;
use azihsm_uapi::Errno;
use azihsm_uapi::Flow;
use std::mem::size_of;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;

/// What memory holds that nothing should write to.
pub const STALE: u8 = 0xa5;

/// Makes sure of a value, and says which one it was if it is not the one due.
#[macro_export]
macro_rules! check_eq {
    ($left:expr, $right:expr, $($what:tt)+) => {{
        match (&$left, &$right) {
            (left, right) => {
                if *left != *right {
                    let what = format!($($what)+);
                    anyhow::bail!("{what}: {left:?} instead of {right:?}");
                }
            }
        }
    }};
}

/// Makes sure that nothing was written behind the first `count` bytes.
fn check_stale(memory: &Memory, count: usize) -> Result<()> {
    let rest = memory.read(count, memory.size() - count);
    let touched = rest.iter().position(|&byte| byte != STALE);
    ensure!(
        touched.is_none(),
        "byte {} of the destination was written",
        count + touched.unwrap_or(0)
    );
    Ok(())
}

/// A HSM command with memory of its own.
pub struct HsmScene {
    /// The command.
    pub cmd: HsmCmd,
    /// Where the request is.
    pub src: Memory,
    /// Where the response goes; stale.
    pub dst: Memory,
}

impl HsmScene {
    /// A command that gets `request` to the device and has room for any
    /// response.
    pub fn new(flow: Flow, request: &[u8]) -> Result<Self> {
        let src = Memory::with(request)?;
        let dst = Memory::new(2)?;
        dst.fill(0, dst.size(), STALE);
        let mut cmd = HsmCmd::new_zeroed();
        cmd.hdr.size = size_of::<HsmCmd>() as u32;
        cmd.input.ctxt = 0x0123_4567_89ab_cdef;
        cmd.input.opcode = abi::HSM_OP_MBOR;
        cmd.input.src = src.address(0);
        cmd.input.src_len = request.len() as u32;
        cmd.input.dst = dst.address(0);
        cmd.input.dst_len = dst.size() as u32;
        cmd.input.session = flow.into();
        // Stale, as whoever uses the structure again would leave it.
        cmd.output.as_mut_bytes().fill(STALE);
        Ok(Self { cmd, src, dst })
    }

    /// A GetApiRev command.
    pub fn get_api_rev() -> Result<Self> {
        Self::new(Flow::None, &hsm::get_api_rev())
    }

    /// Sends it.
    pub fn send(&mut self, device: &Device) -> Result<i32, Errno> {
        sys::submit(device, abi::IOC_HSM_CMD, &mut self.cmd)
    }

    /// Sends it and makes sure that it succeeds, device and all.
    pub fn send_well(&mut self, device: &Device) -> Result<()> {
        let input = self.cmd.input;
        check_eq!(
            self.send(device),
            Ok(0),
            "ioctl, extended status {}",
            self.cmd.output.ext
        );
        check_eq!(self.cmd.output.status, 0, "device status");
        check_eq!(self.cmd.output.ext, 0, "extended status");
        check_eq!(self.cmd.output.ctxt, input.ctxt, "out.ctxt");
        check_eq!(self.cmd.input.as_bytes(), input.as_bytes(), "input block");
        Ok(())
    }

    /// Sends it and makes sure that the driver refuses it, and how.
    pub fn send_badly(&mut self, device: &Device, errno: Errno, ext: u32) -> Result<()> {
        let input = self.cmd.input;
        let result = self.send(device);
        let output = self.cmd.output;
        check_eq!(result, Err(errno), "ioctl, extended status {}", output.ext);
        check_eq!(output.ext, ext, "extended status");
        check_eq!(output.status, 0, "out.status");
        check_eq!(output.byte_count, 0, "out.byte_count");
        check_eq!(output.ctxt, input.ctxt, "out.ctxt");
        check_eq!(self.cmd.input.as_bytes(), input.as_bytes(), "input block");
        Ok(())
    }

    /// The first bytes of the response's memory.
    pub fn response(&self) -> Vec<u8> {
        let count = (self.cmd.output.byte_count as usize).min(self.dst.size());
        self.dst.read(0, count)
    }

    /// Makes sure that nothing was written behind the first `count` bytes of
    /// the response's memory.
    pub fn check_untouched_from(&self, count: usize) -> Result<()> {
        check_stale(&self.dst, count)
    }
}

/// An AES command with memory of its own.
pub struct AesScene {
    /// Number of the ioctl.
    pub number: u32,
    /// The command.
    pub cmd: AesCmd,
    /// Where the input is.
    pub src: Memory,
    /// Where the output goes; stale.
    pub dst: Memory,
}

impl AesScene {
    fn new(number: u32, session: Session, input: &[u8]) -> Result<Self> {
        let src = Memory::with(input)?;
        let dst = Memory::new(src.size() / sys::PAGE)?;
        dst.fill(0, dst.size(), STALE);
        let mut cmd = AesCmd::new_zeroed();
        cmd.hdr.size = size_of::<AesCmd>() as u32;
        cmd.input.ctxt = 0xfedc_ba98_7654_3210;
        cmd.input.src = src.address(0);
        cmd.input.src_len = input.len() as u32;
        cmd.input.dst = dst.address(0);
        cmd.input.dst_len = input.len() as u32;
        cmd.input.frame_type = abi::AES_FRAME;
        cmd.input.session_id = session.id;
        cmd.input.short_app_id = session.app;
        cmd.output.as_mut_bytes().fill(STALE);
        Ok(Self {
            number,
            cmd,
            src,
            dst,
        })
    }

    /// A GCM encryption of `text` without additional data.
    pub fn gcm(session: Session, key: u32, text: &[u8]) -> Result<Self> {
        let mut scene = Self::new(abi::IOC_AES_GCM, session, text)?;
        scene.cmd.input.cipher = abi::AES_GCM;
        scene.set_gcm(|gcm| {
            gcm.key_id = key;
            gcm.iv = [7; 12];
            gcm.unaligned = 1;
        });
        Ok(scene)
    }

    /// An XTS encryption of `text` as one data unit.
    pub fn xts(session: Session, keys: (u32, u32), text: &[u8]) -> Result<Self> {
        let mut scene = Self::new(abi::IOC_AES_XTS, session, text)?;
        scene.cmd.input.cipher = abi::AES_XTS;
        scene.set_xts(|xts| {
            xts.data_key_id = keys.0;
            xts.tweak_key_id = keys.1;
        });
        Ok(scene)
    }

    /// Changes the GCM parameters.
    pub fn set_gcm(&mut self, change: impl FnOnce(&mut abi::Gcm)) {
        use zerocopy::FromBytes;
        let mut gcm = abi::Gcm::read_from_bytes(&self.cmd.input.params).expect("same size");
        change(&mut gcm);
        self.cmd.input.set_gcm(&gcm);
    }

    /// Changes the XTS parameters.
    pub fn set_xts(&mut self, change: impl FnOnce(&mut abi::Xts)) {
        use zerocopy::FromBytes;
        let (mut xts, _) = abi::Xts::read_from_prefix(&self.cmd.input.params).expect("smaller");
        change(&mut xts);
        self.cmd.input.set_xts(&xts);
    }

    /// Sends it.
    pub fn send(&mut self, device: &Device) -> Result<i32, Errno> {
        sys::submit(device, self.number, &mut self.cmd)
    }

    /// Sends it and makes sure that it succeeds, device and all.
    pub fn send_well(&mut self, device: &Device) -> Result<()> {
        let input = self.cmd.input;
        check_eq!(
            self.send(device),
            Ok(0),
            "ioctl, extended status {}",
            self.cmd.output.ext
        );
        check_eq!(
            self.cmd.output.result,
            0,
            "result, error {:#x}",
            self.cmd.output.ext
        );
        check_eq!(self.cmd.output.ext, 0, "extended status");
        check_eq!(self.cmd.output.ctxt, input.ctxt, "out.ctxt");
        check_eq!(self.cmd.output.byte_count, input.src_len, "byte count");
        check_eq!(self.cmd.input.as_bytes(), input.as_bytes(), "input block");
        Ok(())
    }

    /// Sends it and makes sure that the driver refuses it, and how.
    pub fn send_badly(&mut self, device: &Device, errno: Errno, ext: u32) -> Result<()> {
        let input = self.cmd.input;
        let result = self.send(device);
        let output = self.cmd.output;
        check_eq!(result, Err(errno), "ioctl, extended status {}", output.ext);
        check_eq!(output.ext, ext, "extended status");
        self.check_no_result()?;
        check_eq!(output.result, 0, "out.result");
        check_eq!(self.cmd.input.as_bytes(), input.as_bytes(), "input block");
        Ok(())
    }

    /// Sends it and makes sure that the device refuses it, and how.
    pub fn send_refused(&mut self, device: &Device, status: u32, code: u32) -> Result<()> {
        check_eq!(
            self.send(device),
            Ok(0),
            "ioctl, extended status {}",
            self.cmd.output.ext
        );
        let output = self.cmd.output;
        check_eq!(
            (output.result, output.ext),
            (status, code),
            "status and error"
        );
        self.check_no_result()
    }

    /// Makes sure that nothing was written to the output's memory.
    pub fn check_untouched(&self) -> Result<()> {
        self.check_untouched_from(0)
    }

    /// Makes sure that nothing was written behind the first `count` bytes of
    /// the output's memory.
    pub fn check_untouched_from(&self, count: usize) -> Result<()> {
        check_stale(&self.dst, count)
    }

    /// Makes sure that the output says nothing but why there is none.
    pub fn check_no_result(&self) -> Result<()> {
        let output = self.cmd.output;
        check_eq!(output.ctxt, self.cmd.input.ctxt, "out.ctxt");
        check_eq!(output.byte_count, 0, "out.byte_count");
        check_eq!(output.tag, [0; 16], "out.tag");
        check_eq!(output.iv, [0; 12], "out.iv");
        Ok(())
    }
}
