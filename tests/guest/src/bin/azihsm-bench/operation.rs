// SPDX-License-Identifier: GPL-2.0
//! The operations that are measured: one ioctl each.

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use azihsm_guest::control::Control;
use azihsm_guest::control::KeyKind;
use azihsm_guest::hsm;
use azihsm_guest::hsm::Session;
use azihsm_guest::sys;
use azihsm_guest::sys::Memory;
use azihsm_guest::sys::PAGE;
use azihsm_mbor::Operation as Code;
use azihsm_mbor::Request;
use azihsm_mbor::Value;
use azihsm_uapi::abi;
use azihsm_uapi::hsm_nodes;
use azihsm_uapi::Device;
use azihsm_uapi::Errno;
use azihsm_uapi::Flow;
use std::fs::File;
use std::fs::OpenOptions;
use std::mem::offset_of;
use std::mem::size_of;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use zerocopy::FromZeros;
use zerocopy::IntoBytes;

/// Of `tests/bench/floor/floor.h`.
const FLOOR_NULL: u32 = (b'F' as u32) << 8;
const FLOOR_WAKE: u32 = FLOOR_NULL | 1;
const FLOOR_NODE: &str = "/dev/azihsm-floor";

/// An ioctl that there is not.
const UNKNOWN: u32 = abi::iowr::<u64>(abi::MAGIC, 0x7e);

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// What is done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An ioctl that does nothing.
    Null,
    /// A command that is sent and waited for, and nothing else.
    Wake,
    /// An ioctl that does not exist.
    Unknown,
    /// Device info.
    Info,
    /// A HSM command outside of sessions, with a request of so many bytes.
    Hsm(usize),
    /// A HSM command in a session.
    InSession(usize),
    /// An AES-GCM encryption of so many bytes.
    Gcm(usize),
    /// An AES-XTS encryption of so many bytes.
    Xts(usize),
}

fn size(bytes: usize) -> String {
    match bytes {
        _ if bytes >= MIB => format!("{} MiB", bytes / MIB),
        _ if bytes % KIB == 0 => format!("{} KiB", bytes / KIB),
        3584 => "3.5 KiB".to_owned(),
        _ => format!("{bytes} B"),
    }
}

impl Kind {
    /// What it is called.
    pub fn name(self) -> String {
        match self {
            Self::Null => "null ioctl".to_owned(),
            Self::Wake => "wake loop".to_owned(),
            Self::Unknown => "unknown ioctl".to_owned(),
            Self::Info => "device info".to_owned(),
            Self::Hsm(bytes) => format!("HSM {}", size(bytes)),
            Self::InSession(bytes) => format!("HSM {} in session", size(bytes)),
            Self::Gcm(bytes) => format!("GCM {}", size(bytes)),
            Self::Xts(bytes) => format!("XTS {}", size(bytes)),
        }
    }

    /// Whether the least of drivers does it.
    pub fn is_floor(self) -> bool {
        matches!(self, Self::Null | Self::Wake)
    }
}

/// The sizes of AES texts.
const TEXTS: [usize; 5] = [16, 100, 4 * KIB, 64 * KIB, MIB];

/// A driver to measure.
pub enum Scene {
    /// The least of drivers.
    Floor,
    /// One of the HSM.
    Driver(Box<Driver>),
}

/// What commands of the driver need.
pub struct Driver {
    device: Device,
    session: Session,
    gcm: u32,
    xts: (u32, u32),
}

impl Scene {
    /// The least of drivers, which is loaded.
    pub fn floor() -> Self {
        Self::Floor
    }

    /// The driver of the HSM that is loaded.
    pub fn driver() -> Result<Self> {
        let path = hsm_nodes()?.into_iter().next().context("no HSM node")?;
        let device = Device::open(path)?;
        let session = hsm::open_session(&device)?;
        let mut control = Control::open(0)?;
        let mut key = |kind, byte| control.load_key(kind, &[byte; 32], session);
        let gcm = key(KeyKind::Gcm, 1)?;
        let xts = (key(KeyKind::Xts, 2)?, key(KeyKind::Xts, 3)?);
        Ok(Self::Driver(Box::new(Driver {
            device,
            session,
            gcm,
            xts,
        })))
    }

    /// What it can do.
    pub fn kinds(&self) -> Vec<Kind> {
        if matches!(self, Self::Floor) {
            return vec![Kind::Null, Kind::Wake];
        }
        let mut kinds = vec![
            Kind::Unknown,
            Kind::Info,
            Kind::Hsm(64),
            Kind::Hsm(KIB),
            Kind::Hsm(3584),
            Kind::InSession(KIB),
        ];
        kinds.extend(TEXTS.map(Kind::Gcm));
        // Data units are whole blocks.
        let whole = TEXTS.into_iter().filter(|bytes| bytes % 16 == 0);
        kinds.extend(whole.map(Kind::Xts));
        kinds
    }

    /// Prepares an operation, which no other thread uses.
    pub fn prepare(&self, kind: Kind) -> Result<Operation> {
        match self {
            Self::Floor => floor(kind),
            Self::Driver(driver) => driver.prepare(kind),
        }
    }
}

fn floor(kind: Kind) -> Result<Operation> {
    let file: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open(FLOOR_NODE)
        .context(FLOOR_NODE)?;
    let number = match kind {
        Kind::Wake => FLOOR_WAKE,
        _ => FLOOR_NULL,
    };
    Ok(Operation {
        fd: file.into(),
        number,
        argument: Memory::with(&hsm::get_api_rev())?,
        _buffers: Vec::new(),
        status: None,
        answer: Ok(0),
    })
}

/// A request of `len` bytes with a byte string that the device does not want.
fn padded(operation: Code, session: Option<u16>, len: usize) -> Result<Vec<u8>> {
    let encode = |bytes| {
        let data = Value::Map(vec![(1, Value::Bytes(vec![0x5a; bytes]))]);
        Request::new(operation, session, data).encode()
    };
    let mut bytes = len.saturating_sub(encode(0)?.len());
    // Padding makes it a little longer.
    while encode(bytes)?.len() > len {
        bytes -= 1;
    }
    let mut request = encode(bytes)?;
    request.resize(len, 0);
    Ok(request)
}

impl Driver {
    fn prepare(&self, kind: Kind) -> Result<Operation> {
        match kind {
            Kind::Hsm(len) => self.hsm(Flow::None, &padded(Code::GET_DEVICE_INFO, None, len)?),
            Kind::InSession(len) => {
                let id = self.session.id;
                self.hsm(
                    Flow::InSession(id),
                    &padded(hsm::IN_SESSION, Some(id), len)?,
                )
            }
            Kind::Gcm(len) => self.gcm(len),
            Kind::Xts(len) => self.xts(len),
            Kind::Info => {
                let mut info = abi::DevInfo::new_zeroed();
                info.argsz = size_of::<abi::DevInfo>() as u32;
                self.operation(abi::IOC_DEV_INFO, info.as_bytes(), Vec::new(), None)
            }
            _ => {
                let mut operation = self.operation(UNKNOWN, &[0; 8], Vec::new(), None)?;
                operation.answer = sys::submit_at(&operation.fd, UNKNOWN, 0);
                ensure!(operation.answer.is_err(), "there is such an ioctl");
                Ok(operation)
            }
        }
    }

    fn operation(
        &self,
        number: u32,
        argument: &[u8],
        buffers: Vec<Memory>,
        status: Option<usize>,
    ) -> Result<Operation> {
        Ok(Operation {
            fd: self.device.as_fd().try_clone_to_owned()?,
            number,
            argument: Memory::with(argument)?,
            _buffers: buffers,
            status,
            answer: Ok(0),
        })
    }

    fn hsm(&self, flow: Flow, request: &[u8]) -> Result<Operation> {
        let src = Memory::with(request)?;
        let dst = touched(request.len())?;
        let mut cmd = abi::HsmCmd::new_zeroed();
        cmd.hdr.size = size_of::<abi::HsmCmd>() as u32;
        cmd.input.opcode = abi::HSM_OP_MBOR;
        cmd.input.src = src.address(0);
        cmd.input.src_len = request.len() as u32;
        cmd.input.dst = dst.address(0);
        cmd.input.dst_len = request.len() as u32;
        cmd.input.session = flow.into();
        let status = offset_of!(abi::HsmCmd, output.status);
        self.operation(
            abi::IOC_HSM_CMD,
            cmd.as_bytes(),
            vec![src, dst],
            Some(status),
        )
    }

    fn aes(
        &self,
        number: u32,
        len: usize,
        fill: impl FnOnce(&mut abi::AesIn),
    ) -> Result<Operation> {
        let (src, dst) = scattered(len)?;
        let mut cmd = abi::AesCmd::new_zeroed();
        cmd.hdr.size = size_of::<abi::AesCmd>() as u32;
        cmd.input.src = src.address(0);
        cmd.input.src_len = len as u32;
        cmd.input.dst = dst.address(0);
        cmd.input.dst_len = len as u32;
        cmd.input.frame_type = abi::AES_FRAME;
        cmd.input.session_id = self.session.id;
        cmd.input.short_app_id = self.session.app;
        fill(&mut cmd.input);
        let status = offset_of!(abi::AesCmd, output.result);
        self.operation(number, cmd.as_bytes(), vec![src, dst], Some(status))
    }

    fn gcm(&self, len: usize) -> Result<Operation> {
        let mut gcm = abi::Gcm::new_zeroed();
        gcm.key_id = self.gcm;
        gcm.iv = [7; 12];
        gcm.unaligned = 1;
        self.aes(abi::IOC_AES_GCM, len, |input| {
            input.cipher = abi::AES_GCM;
            input.set_gcm(&gcm);
        })
    }

    fn xts(&self, len: usize) -> Result<Operation> {
        let mut xts = abi::Xts::new_zeroed();
        (xts.data_key_id, xts.tweak_key_id) = self.xts;
        xts.data_unit = if len % PAGE == 0 {
            abi::XTS_UNIT_4096
        } else {
            abi::XTS_UNIT_WHOLE
        };
        self.aes(abi::IOC_AES_XTS, len, |input| {
            input.cipher = abi::AES_XTS;
            input.set_xts(&xts);
        })
    }
}

/// Memory whose pages are there.
fn touched(len: usize) -> Result<Memory> {
    let memory = Memory::new(len.div_ceil(PAGE))?;
    memory.fill(0, memory.size(), 0x5a);
    Ok(memory)
}

/// Two times as much memory, whose pages are there; neighbours are those of the
/// other, so that a list of them is as long as it can get.
fn scattered(len: usize) -> Result<(Memory, Memory)> {
    let pages = len.div_ceil(PAGE);
    let pair = (Memory::new(pages)?, Memory::new(pages)?);
    for page in 0..pages {
        pair.0.fill(page * PAGE, PAGE, 0x5a);
        pair.1.fill(page * PAGE, PAGE, 0xa5);
    }
    Ok(pair)
}

/// One ioctl that can be repeated.
pub struct Operation {
    fd: OwnedFd,
    number: u32,
    argument: Memory,
    _buffers: Vec<Memory>,
    /// Where the device's status is in the argument.
    status: Option<usize>,
    /// What the ioctl returns.
    answer: Result<i32, Errno>,
}

impl Operation {
    /// Does it.
    #[inline(always)]
    pub fn run(&self) -> Result<()> {
        let answer = sys::submit_at(&self.fd, self.number, self.argument.address(0));
        if answer != self.answer {
            self.complain(answer)?;
        }
        Ok(())
    }

    #[cold]
    fn complain(&self, answer: Result<i32, Errno>) -> Result<()> {
        anyhow::bail!("ioctl {:#x}: {answer:?}", self.number)
    }

    /// Makes sure that the device did it, the last time.
    pub fn check(&self) -> Result<()> {
        let Some(at) = self.status else {
            return Ok(());
        };
        let status = self.argument.read(at, size_of::<u32>());
        ensure!(status == [0; 4], "device status {status:x?}");
        Ok(())
    }
}
