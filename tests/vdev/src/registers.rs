// SPDX-License-Identifier: GPL-2.0

//! Controller registers in BAR0.  See Documentation/device.rst, section 2.

use crate::bytes::get_u8;
use crate::bytes::put_u32;
use crate::bytes::put_u64;
use crate::clock::Micros;
use crate::strict::Recorder;
use crate::strict::Rule;

/// What has to be written to NSSR.
pub const NSSR_SIGNATURE: u32 = 0x4e56_4d65;
/// The most entries a queue may have according to CAP.MQES.
pub const MAX_QUEUE_ENTRIES: u32 = 1024;

const CAP: u64 = 0x00;
const VS: u64 = 0x08;
const INTMS: u64 = 0x0c;
const INTMC: u64 = 0x10;
const CC: u64 = 0x14;
const FWCAP: u64 = 0x18;
const CSTS: u64 = 0x1c;
const NSSR: u64 = 0x20;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const CMBLOC: u64 = 0x38;
const CMBSZ: u64 = 0x3c;
const INTX_STATUS: u64 = 0x50;
const IMAGE: usize = 0x54;

const CC_ENABLE: u32 = 1;
const CC_RESERVED: u32 = 0xe;
const CC_SHUTDOWN: u32 = 3 << 14;
const CSTS_READY: u32 = 1;
const CSTS_FATAL: u32 = 2;
const RING_MASK: u64 = !0x3f;
const TIMEOUT_UNIT: Micros = 500_000;

/// What a write does besides changing a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteEffect {
    /// Nothing.
    None,
    /// CC was written with EN clear, as it was before.
    Disabled,
    /// CC.EN changed to this value.
    Enable(bool),
    /// NSSR was written with its signature.
    SubsystemReset,
}

/// The register file of the function.
#[derive(Clone, Debug)]
pub struct Registers {
    /// CAP.TO: ready timeout in units of half a second.
    pub timeout: u8,
    /// FWCAP.
    pub firmware_capabilities: u32,
    /// VS.
    pub version: u32,
    /// CC.
    pub cc: u32,
    /// CSTS.
    pub csts: u32,
    /// AQA.
    pub aqa: u32,
    /// ASQ.
    pub asq: u64,
    /// ACQ.
    pub acq: u64,
    interrupt_mask: u32,
    cmbloc: u32,
    cmbsz: u32,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            timeout: 20,
            firmware_capabilities: 3,
            version: 0x0001_0400,
            cc: 0,
            csts: 0,
            aqa: 0,
            asq: 0,
            acq: 0,
            interrupt_mask: 0,
            cmbloc: 0,
            cmbsz: 0,
        }
    }
}

/// Whether a register can be accessed with a size at an offset.
enum Match {
    Yes,
    WrongSize,
    Reserved,
}

fn find(offset: u64, size: usize) -> Match {
    let end = offset.saturating_add(size as u64);
    let wide = [CAP, ASQ, ACQ];
    let narrow = [
        VS,
        INTMS,
        INTMC,
        CC,
        FWCAP,
        CSTS,
        NSSR,
        AQA,
        CMBLOC,
        CMBSZ,
        INTX_STATUS,
    ];
    if size == 8 && wide.contains(&offset) {
        return Match::Yes;
    }
    if size == 4
        && (narrow.contains(&offset) || wide.iter().any(|at| offset == *at || offset == at + 4))
    {
        return Match::Yes;
    }
    let touches = |start: u64, length: u64| offset < start + length && start < end;
    if wide.iter().any(|at| touches(*at, 8)) || narrow.iter().any(|at| touches(*at, 4)) {
        Match::WrongSize
    } else {
        Match::Reserved
    }
}

impl Registers {
    /// CAP.
    pub fn cap(&self) -> u64 {
        let queues = u64::from(MAX_QUEUE_ENTRIES - 1) | (1 << 16);
        let arbitration = 1 << 17;
        let timeout = u64::from(self.timeout) << 24;
        let subsystem_reset = 1 << 36;
        let command_sets = 1 << 37;
        queues | arbitration | timeout | subsystem_reset | command_sets
    }

    /// How long the host has to wait for RDY.
    pub fn ready_timeout(&self) -> Micros {
        Micros::from(self.timeout) * TIMEOUT_UNIT
    }

    /// CC.EN.
    pub fn enabled(&self) -> bool {
        self.cc & CC_ENABLE != 0
    }

    /// CSTS.RDY.
    pub fn ready(&self) -> bool {
        self.csts & CSTS_READY != 0
    }

    /// CSTS.CFS.
    pub fn fatal(&self) -> bool {
        self.csts & CSTS_FATAL != 0
    }

    /// Sets or clears RDY, which clears CFS.
    pub fn set_ready(&mut self, ready: bool) {
        self.csts = if ready { CSTS_READY } else { 0 };
    }

    /// Sets CFS.
    pub fn set_fatal(&mut self) {
        self.csts |= CSTS_FATAL;
    }

    /// Sets or clears CC.EN.
    pub fn set_enabled(&mut self, enabled: bool) {
        self.cc = self.cc & !CC_ENABLE | u32::from(enabled);
    }

    /// Entries of the admin SQ, zero-based.
    pub fn admin_sq_size(&self) -> u16 {
        (self.aqa & 0xfff) as u16
    }

    /// Entries of the admin CQ, zero-based.
    pub fn admin_cq_size(&self) -> u16 {
        ((self.aqa >> 16) & 0xfff) as u16
    }

    /// Puts what the host can write, and CSTS, back to power-on.
    pub fn reset(&mut self) {
        *self = Self {
            timeout: self.timeout,
            firmware_capabilities: self.firmware_capabilities,
            version: self.version,
            ..Self::default()
        };
    }

    /// The guest reads registers.
    pub fn read(&self, offset: u64, data: &mut [u8], strict: &Recorder) {
        match find(offset, data.len()) {
            Match::Yes => {}
            Match::WrongSize => strict.record(
                Rule::MmioBadAccess,
                format!("read of {} bytes at {offset:#x}", data.len()),
            ),
            Match::Reserved => strict.record(Rule::MmioReserved, format!("read at {offset:#x}")),
        }
        let mut image = [0; IMAGE];
        put_u64(&mut image, CAP as usize, self.cap());
        put_u32(&mut image, VS as usize, self.version);
        put_u32(&mut image, INTMS as usize, self.interrupt_mask);
        put_u32(&mut image, INTMC as usize, self.interrupt_mask);
        put_u32(&mut image, CC as usize, self.cc);
        put_u32(&mut image, FWCAP as usize, self.firmware_capabilities);
        put_u32(&mut image, CSTS as usize, self.csts);
        put_u32(&mut image, AQA as usize, self.aqa);
        put_u64(&mut image, ASQ as usize, self.asq);
        put_u64(&mut image, ACQ as usize, self.acq);
        put_u32(&mut image, CMBLOC as usize, self.cmbloc);
        put_u32(&mut image, CMBSZ as usize, self.cmbsz);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = get_u8(&image, start.saturating_add(index));
        }
    }

    /// The guest writes a register.
    pub fn write(
        &mut self,
        offset: u64,
        size: usize,
        value: u64,
        strict: &Recorder,
    ) -> WriteEffect {
        match find(offset, size) {
            Match::Yes => {}
            Match::WrongSize => {
                strict.record(
                    Rule::MmioBadAccess,
                    format!("write of {size} bytes at {offset:#x}"),
                );
                return WriteEffect::None;
            }
            Match::Reserved => {
                strict.record(Rule::MmioReserved, format!("write at {offset:#x}"));
                return WriteEffect::None;
            }
        }
        if self.enabled() && (AQA..ACQ + 8).contains(&offset) {
            strict.record(
                Rule::AdminRegistersWhileEnabled,
                format!("write at {offset:#x}"),
            );
        }
        let word = value as u32;
        match offset {
            CC => return self.write_cc(word, strict),
            NSSR if word == NSSR_SIGNATURE => return WriteEffect::SubsystemReset,
            NSSR => strict.record(Rule::NssrSignature, format!("{word:#x}")),
            AQA => self.aqa = word,
            _ if (ASQ..ASQ + 8).contains(&offset) => {
                self.asq = merge(self.asq, offset - ASQ, size, value) & RING_MASK;
            }
            _ if (ACQ..ACQ + 8).contains(&offset) => {
                self.acq = merge(self.acq, offset - ACQ, size, value) & RING_MASK;
            }
            INTMS | INTMC | CMBLOC | CMBSZ => {
                strict.record(Rule::MmioUnusedRegister, format!("write at {offset:#x}"));
                match offset {
                    INTMS => self.interrupt_mask |= word & 0xf,
                    INTMC => self.interrupt_mask &= !word,
                    CMBLOC => self.cmbloc = word,
                    _ => self.cmbsz = word,
                }
            }
            _ => strict.record(Rule::MmioReadOnly, format!("write at {offset:#x}")),
        }
        WriteEffect::None
    }

    fn write_cc(&mut self, value: u32, strict: &Recorder) -> WriteEffect {
        if value & CC_RESERVED != 0 {
            strict.record(Rule::CcReservedBits, format!("{value:#x}"));
        }
        if value & CC_SHUTDOWN != 0 {
            strict.record(Rule::CcShutdown, format!("{value:#x}"));
        }
        let changed = (self.cc ^ value) & CC_ENABLE != 0;
        self.cc = value;
        match (changed, self.enabled()) {
            (true, enabled) => WriteEffect::Enable(enabled),
            (false, false) => WriteEffect::Disabled,
            (false, true) => WriteEffect::None,
        }
    }
}

fn merge(old: u64, offset: u64, size: usize, value: u64) -> u64 {
    match (size, offset) {
        (8, _) => value,
        (_, 0) => old & !0xffff_ffff | value & 0xffff_ffff,
        _ => old & 0xffff_ffff | (value << 32),
    }
}
