// SPDX-License-Identifier: GPL-2.0
//! Making calls up: valid ones, of which something is then made wrong.

use crate::dice::Dice;
use crate::map::How;
use crate::shared::Kind as Ioctl;
use crate::world::Kind;
use crate::world::World;
use anyhow::Result;
use azihsm_guest::reference;
use azihsm_guest::sys::PAGE;
use azihsm_mbor::Operation;
use azihsm_mbor::Request;
use azihsm_mbor::SessionKind;
use azihsm_mbor::Value;
use azihsm_uapi::abi;
use azihsm_uapi::abi::AesCmd;
use azihsm_uapi::abi::DevInfo;
use azihsm_uapi::abi::Gcm;
use azihsm_uapi::abi::HsmCmd;
use azihsm_uapi::abi::Reset;
use azihsm_uapi::abi::Xts;
use azihsm_uapi::pad_aad;
use std::mem::size_of;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

/// Data of the keys that the device has.
pub const GCM_KEY: [u8; 32] = [0x11; 32];
pub const XTS_KEYS: [[u8; 32]; 2] = [[0x22; 32], [0x33; 32]];

/// Longest data that its result is computed for once more.
pub const CHECKED: usize = 64 << 10;

/// Of so many resets one is carried out: it keeps everybody from doing anything
/// for half a second.
const RESETS: u32 = 40;

/// Longest data in memory that is all looked at.
const SHORT: usize = 6 * PAGE;

/// What the one who makes calls up knows of the descriptor and the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The session that the descriptor has, as far as known, and its application.
    pub session: Option<(u16, u8)>,
    /// GCM, approved GCM, and two XTS keys.
    pub keys: [Option<u32>; crate::shared::KEYS],
}

/// What a call should yield, if it is carried out.
#[derive(Clone, Debug)]
pub enum Yield {
    /// Nobody knows.
    Anything,
    /// A response to a request that was tampered with.
    Response,
    /// A response to this request.
    ResponseTo(Request),
    /// The result of GCM.
    Gcm {
        decrypt: bool,
        aad: Vec<u8>,
        padded: usize,
        text: Vec<u8>,
    },
    /// The result of XTS.
    Xts {
        decrypt: bool,
        unit: usize,
        tweak: u128,
        text: Vec<u8>,
    },
}

/// A call that was made up.
#[derive(Debug)]
pub struct Made {
    pub number: u32,
    /// The structure.
    pub bytes: Vec<u8>,
    pub yields: Yield,
}

/// Makes up calls whose buffers are in `world`.
pub struct Maker<'a> {
    pub dice: &'a mut Dice,
    pub world: &'a mut World,
    pub known: Known,
    /// Where the structure is going to be.
    pub argument: u64,
}

/// A structure of random bytes.
fn random<T: FromBytes>(dice: &mut Dice) -> T {
    let bytes = dice.bytes(size_of::<T>());
    T::read_from_bytes(&bytes).expect("as many bytes as it has")
}

/// Operations that run in sessions.
const IN_SESSION: &[Operation] = &[
    Operation::AES_GENERATE_KEY,
    Operation::DELETE_KEY,
    Operation::REOPEN_SESSION,
];

/// Operations that take no session.
const WITHOUT: &[Operation] = &[
    Operation::GET_API_REV,
    Operation::GET_API_REV,
    Operation::GET_DEVICE_INFO,
    Operation::GET_CERT_CHAIN_INFO,
    Operation::GET_SESSION_ENCRYPTION_KEY,
];

impl Maker<'_> {
    /// A size that is enough for `size`.
    fn enough(&mut self, size: usize) -> u32 {
        match self.dice.below(8) {
            0 => size as u32 + self.dice.below(PAGE) as u32,
            1 => u32::MAX,
            _ => size as u32,
        }
    }

    /// Where `len` bytes fit into memory of `kind`: often next to what cannot be
    /// accessed.
    fn spot(&mut self, kind: Kind, len: usize) -> usize {
        let room = kind.size().saturating_sub(len);
        match self.dice.below(6) {
            0 => 0,
            1 | 2 => room,
            3 => room & !(PAGE - 1),
            _ => self.dice.between(0, room),
        }
    }

    /// An address of `len` bytes that something is likely to be wrong with.
    fn odd_address(&mut self, how: How, len: usize) -> u64 {
        let dice = &mut *self.dice;
        let world = &*self.world;
        let kinds = [
            Kind::Argument,
            Kind::Source,
            Kind::Target,
            Kind::ReadOnly,
            Kind::WriteOnly,
            Kind::Nothing,
            Kind::Short,
            Kind::LargeSource,
        ];
        match dice.below(19) {
            0 | 16 => 0,
            1 | 17 => dice.pick(&[
                0xffff_8880_0000_0000,
                0xffff_ffff_8100_0000,
                0xffff_ffff_ff60_0000,
                0x8000_0000_0000_0000,
                0x7fff_ffff_ffff_f000,
                0x0000_8000_0000_0000,
                0x0000_7fff_ffff_f000,
                0x0000_7fff_ffff_e000,
                0x00ff_ffff_ffff_f000,
            ]),
            2 | 18 => dice
                .pick(&[0_u64, 1 << 63, 1 << 47, 0x7fff_ffff_f000])
                .wrapping_sub(len as u64),
            3 => dice.any(),
            // Ends somewhere in what it should be in.
            4..=6 => {
                let kind = dice.pick(&kinds);
                let inside = dice.between(0, len.min(kind.size()));
                world.address(kind) + (kind.size() - inside) as u64
            }
            // Begins in front of it.
            7 => world.address(dice.pick(&kinds)) - dice.between(1, PAGE) as u64,
            8 => self
                .argument
                .wrapping_add(dice.below(400) as u64)
                .wrapping_sub(100),
            9 => world.strange(dice).unwrap_or(0),
            10 => world.address(Kind::Short) + dice.between(PAGE, 4 * PAGE) as u64,
            11 => match how {
                How::Read => world.address(Kind::WriteOnly),
                How::Write => world.address(Kind::ReadOnly),
            },
            _ => {
                // Mostly in the first pages, which change the most.
                let pages = dice.pick(&[4, 16, 64, 1024]);
                let offset = dice.below(pages * PAGE - 64);
                world.address(Kind::Racing) + offset as u64
            }
        }
    }

    /// How many fields to make wrong.
    fn mistakes(&mut self) -> usize {
        self.dice.weigh(&[(10, 0), (7, 1), (3, 2), (1, 4)])
    }

    /// A request, and how it relates to sessions.
    fn operation(&mut self) -> Operation {
        let dice = &mut *self.dice;
        let class = match self.known.session {
            None => dice.weigh(&[(3, 0), (8, 1), (1, 2), (1, 4)]),
            Some(_) => dice.weigh(&[(4, 0), (1, 1), (5, 2), (1, 3), (1, 4)]),
        };
        match class {
            0 => dice.pick(WITHOUT),
            1 => Operation::OPEN_SESSION,
            2 => dice.pick(IN_SESSION),
            3 => Operation::CLOSE_SESSION,
            _ => Operation(dice.between(1000, 1120) as u32),
        }
    }

    /// HSM command.
    pub fn hsm(&mut self) -> Result<Made> {
        const SIZE: usize = size_of::<HsmCmd>();
        let operation = self.operation();
        let kind = operation.session_kind();
        let bound = matches!(kind, SessionKind::Close | SessionKind::InSession);
        let guess = self.dice.below(8) as u16;
        let id = self.known.session.map_or(guess, |(id, _)| id);
        let request = if operation == Operation::GET_API_REV {
            Request::get_api_rev()
        } else {
            Request::new(operation, bound.then_some(id), Value::empty())
        };
        let mut bytes = request.encode()?;
        let mut intact = true;
        match self.dice.below(10) {
            0 | 1 => {
                self.dice.damage(&mut bytes, SHORT);
                intact = false;
            }
            2 => {
                let count = self.dice.pick(&[1, 16, 100, 3584, 3585, 4096, 4097, 8192]);
                bytes = self.world.data(self.dice, count);
                intact = false;
            }
            _ => {}
        }
        let spot = self.spot(Kind::Source, bytes.len());
        self.world.write(Kind::Source, spot, &bytes)?;

        let mut cmd: HsmCmd = random(self.dice);
        cmd.hdr.size = self.enough(SIZE);
        cmd.input.opcode = self
            .dice
            .weigh(&[(30, abi::HSM_OP_MBOR), (1, abi::HSM_OP_TBOR)]);
        cmd.input.cmdset = 0;
        cmd.input.src_len = bytes.len() as u32;
        cmd.input.src = self.world.address(Kind::Source) + spot as u64;
        let room = match self.dice.below(4) {
            0 => self.dice.between(1, 100),
            1 => self.dice.between(1, abi::HSM_MAX_LEN),
            _ => abi::HSM_MAX_LEN,
        };
        cmd.input.dst_len = room as u32;
        let spot = self.spot(Kind::Target, room);
        cmd.input.dst = self.world.address(Kind::Target) + spot as u64;
        let valid = if bound { abi::SESSION_ID_VALID } else { 0 };
        cmd.input.session.flags = (cmd.input.session.flags & 0xf8) | kind.bits() | valid;
        if bound || self.dice.one_in(2) {
            cmd.input.session.id = id;
        }
        intact &= cmd.input.opcode == abi::HSM_OP_MBOR;
        let mistakes = self.mistakes();
        for _ in 0..mistakes {
            self.spoil_hsm(&mut cmd);
        }
        Ok(Made {
            number: abi::IOC_HSM_CMD,
            bytes: cmd.as_bytes().to_vec(),
            yields: match cmd.input.opcode {
                abi::HSM_OP_MBOR if intact && mistakes == 0 => Yield::ResponseTo(request),
                abi::HSM_OP_MBOR => Yield::Response,
                _ => Yield::Anything,
            },
        })
    }

    fn spoil_hsm(&mut self, cmd: &mut HsmCmd) {
        let input = &mut cmd.input;
        let lens = (input.src_len as usize, input.dst_len as usize);
        match self.dice.below(12) {
            0 => cmd.hdr.size = self.dice.near(size_of::<HsmCmd>() as u32),
            1 => input.opcode = self.dice.near(u32::from(input.opcode)) as u16,
            2 => input.cmdset = self.dice.odd() as u16,
            3 => input.src_len = self.dice.near(input.src_len),
            4 => input.dst_len = self.dice.near(input.dst_len),
            5 | 6 => input.src = self.odd_address(How::Read, lens.0),
            7 | 8 => input.dst = self.odd_address(How::Write, lens.1),
            9 => input.dst = input.src.wrapping_add(self.dice.below(32) as u64),
            10 => input.session.flags = self.dice.any(),
            _ => input.session.id = self.dice.near(u32::from(input.session.id)) as u16,
        }
    }

    /// Length of data for AES.
    fn data_len(&mut self) -> usize {
        let dice = &mut *self.dice;
        match dice.below(100) {
            0..=39 => dice.between(1, 256),
            40..=59 => dice.between(1, PAGE),
            60..=71 => dice.between(PAGE, 12288),
            72..=91 => dice.between(12289, SHORT),
            92..=97 => dice.between(SHORT, 256 << 10),
            98 => dice.between(256 << 10, 16 << 20),
            _ => 16 << 20,
        }
    }

    /// What AES commands have in common, for `len` bytes that are `content` or
    /// else those that are always the same.
    fn aes(&mut self, cipher: u8, len: usize, content: Option<&[u8]>) -> Result<AesCmd> {
        let mut cmd: AesCmd = random(self.dice);
        let input = &mut cmd.input;
        input.cipher = cipher;
        input.op = self.dice.pick(&[abi::AES_ENCRYPT, abi::AES_DECRYPT]);
        input.frame_type = abi::AES_FRAME;
        let (id, app) = self.known.session.unwrap_or((0, crate::oracle::APP));
        (input.session_id, input.short_app_id) = (id, app);
        let source = match content {
            Some(_) => Kind::Source,
            None => Kind::LargeSource,
        };
        let target = if len <= SHORT {
            Kind::Target
        } else {
            Kind::LargeTarget
        };
        let spot = self.spot(source, len);
        if let Some(content) = content {
            self.world.write(source, spot, content)?;
        }
        cmd.input.src = self.world.address(source) + spot as u64;
        cmd.input.src_len = len as u32;
        let more = match self.dice.below(8) {
            0 => self.dice.between(0, PAGE),
            _ => 0,
        };
        let room = (len + more).min(abi::AES_MAX_LEN);
        let spot = self.spot(target, room);
        cmd.input.dst = self.world.address(target) + spot as u64;
        cmd.input.dst_len = room as u32;
        cmd.hdr.size = self.enough(size_of::<AesCmd>());
        Ok(cmd)
    }

    /// AES-GCM command.
    pub fn gcm(&mut self) -> Result<Made> {
        let len = self.data_len();
        let mut params: Gcm = random(self.dice);
        params.key_id = self.known.keys[self.dice.below(2)].unwrap_or(0);
        params.unaligned = 1 + self.dice.below(255) as u8;
        let mut aad = Vec::new();
        let mut cmd;
        if len <= SHORT {
            let count = self.dice.pick(&[0, 0, 1, 16, 17, 32, 33, 100]);
            aad = self.dice.bytes(count);
            let mut content = pad_aad(&aad);
            let mut text = self.world.data(self.dice, len);
            params.aad_len = count as u32;
            params.aad_padded_len = content.len() as u32;
            // A decryption that finds the right tag.
            let good = len <= PAGE && self.dice.one_in(3);
            if good {
                (text, params.tag) = reference::gcm_encrypt(&GCM_KEY, params.iv, &aad, &text)?;
            }
            content.extend_from_slice(&text);
            cmd = self.aes(abi::AES_GCM, content.len(), Some(&content))?;
            if good {
                cmd.input.op = abi::AES_DECRYPT;
            }
        } else {
            params.aad_len = 0;
            params.aad_padded_len = 0;
            cmd = self.aes(abi::AES_GCM, len, None)?;
        }
        cmd.input.set_gcm(&params);
        let padded = params.aad_padded_len as usize;
        let mistakes = self.mistakes();
        let yields = match self.text(&cmd, padded) {
            Some(text) if mistakes == 0 => Yield::Gcm {
                decrypt: cmd.input.op == abi::AES_DECRYPT,
                aad,
                padded,
                text,
            },
            _ => Yield::Anything,
        };
        for _ in 0..mistakes {
            if self.dice.one_in(3) {
                self.spoil_gcm(&mut params);
                cmd.input.set_gcm(&params);
            } else {
                self.spoil_aes(&mut cmd);
            }
        }
        Ok(Made {
            number: abi::IOC_AES_GCM,
            bytes: cmd.as_bytes().to_vec(),
            yields,
        })
    }

    /// The text of a command, behind `padded` bytes, if it is to be checked what
    /// becomes of it.
    fn text(&mut self, cmd: &AesCmd, padded: usize) -> Option<Vec<u8>> {
        let len = cmd.input.src_len as usize;
        if len > CHECKED || !self.dice.one_in(3) {
            return None;
        }
        let mut content = self.world.read(cmd.input.src, len)?;
        Some(content.split_off(padded))
    }

    fn spoil_gcm(&mut self, params: &mut Gcm) {
        let dice = &mut *self.dice;
        match dice.below(6) {
            0 => params.key_id = dice.near(params.key_id),
            1 => params.tag = dice.any(),
            2 => params.iv = dice.any(),
            3 => params.aad_len = dice.near(params.aad_len),
            4 => params.aad_padded_len = dice.near(params.aad_padded_len),
            _ => params.unaligned = 0,
        }
    }

    /// AES-XTS command.
    pub fn xts(&mut self) -> Result<Made> {
        let mut params: Xts = random(self.dice);
        params.data_unit = self.dice.below(4) as u16;
        let unit = match params.data_unit {
            abi::XTS_UNIT_512 => 512,
            abi::XTS_UNIT_4096 => 4096,
            abi::XTS_UNIT_8192 => 8192,
            _ => 16,
        };
        let len = self.data_len().next_multiple_of(unit);
        params.data_key_id = self.known.keys[2].unwrap_or(0);
        params.tweak_key_id = self.known.keys[3].unwrap_or(1);
        let content = (len <= SHORT).then(|| self.world.data(self.dice, len));
        let mut cmd = self.aes(abi::AES_XTS, len, content.as_deref())?;
        if len <= SHORT && self.dice.one_in(6) {
            // In place.
            cmd.input.dst = cmd.input.src;
            cmd.input.dst_len = cmd.input.src_len;
        }
        cmd.input.set_xts(&params);
        let mistakes = self.mistakes();
        let yields = match self.text(&cmd, 0) {
            Some(text) if mistakes == 0 => Yield::Xts {
                decrypt: cmd.input.op == abi::AES_DECRYPT,
                unit: if unit == 16 { len } else { unit },
                tweak: u128::from_le_bytes(params.tweak),
                text,
            },
            _ => Yield::Anything,
        };
        for _ in 0..mistakes {
            if self.dice.one_in(3) {
                self.spoil_xts(&mut params);
                cmd.input.set_xts(&params);
            } else {
                self.spoil_aes(&mut cmd);
            }
        }
        Ok(Made {
            number: abi::IOC_AES_XTS,
            bytes: cmd.as_bytes().to_vec(),
            yields,
        })
    }

    fn spoil_xts(&mut self, params: &mut Xts) {
        let dice = &mut *self.dice;
        match dice.below(4) {
            0 => params.data_unit = dice.near(u32::from(params.data_unit)) as u16,
            1 => params.data_key_id = dice.near(params.data_key_id),
            2 => params.tweak_key_id = dice.near(params.tweak_key_id),
            _ => params.tweak = dice.any(),
        }
    }

    fn spoil_aes(&mut self, cmd: &mut AesCmd) {
        let input = &mut cmd.input;
        let lens = (input.src_len as usize, input.dst_len as usize);
        match self.dice.below(16) {
            0 => cmd.hdr.size = self.dice.near(size_of::<AesCmd>() as u32),
            1 => input.op = self.dice.any(),
            2 => input.cipher = self.dice.near(u32::from(input.cipher)) as u8,
            3 => input.frame_type = self.dice.any(),
            4 => input.session_id = self.dice.near(u32::from(input.session_id)) as u16,
            5 => input.short_app_id = self.dice.near(u32::from(input.short_app_id)) as u8,
            6 => input.src_len = self.dice.near(input.src_len),
            7 => input.dst_len = self.dice.near(input.dst_len),
            8..=10 => input.src = self.odd_address(How::Read, lens.0),
            11..=13 => input.dst = self.odd_address(How::Write, lens.1),
            14 => input.dst = input.src.wrapping_add(self.dice.below(8192) as u64),
            _ => {
                // Long data where it does not fit, and where it does.
                input.src_len = self.dice.odd();
                input.dst_len = input.src_len;
                if self.dice.one_in(2) {
                    input.src = self.world.address(Kind::Racing);
                    input.dst = self.world.address(Kind::Racing) + PAGE as u64;
                }
            }
        }
    }

    /// Device info.
    pub fn info(&mut self) -> Made {
        const SIZE: u32 = size_of::<DevInfo>() as u32;
        let mut info: DevInfo = random(self.dice);
        info.argsz = self.enough(SIZE as usize);
        if self.dice.one_in(3) {
            info.argsz = self.dice.near(SIZE);
        }
        Made {
            number: abi::IOC_DEV_INFO,
            bytes: info.as_bytes().to_vec(),
            yields: Yield::Anything,
        }
    }

    /// Reset; rarely one that is carried out.
    pub fn reset(&mut self) -> Made {
        const SIZE: u32 = size_of::<Reset>() as u32;
        let mut reset: Reset = random(self.dice);
        reset.hdr.size = self.enough(SIZE as usize);
        if self.dice.one_in(RESETS) {
            reset.kind = self
                .dice
                .pick(&[abi::RESET_SUBSYSTEM, abi::RESET_CONTROLLER]);
        } else if self.dice.one_in(4) {
            reset.hdr.size = self.dice.near(SIZE);
        } else {
            // None of the two that there are.
            let odd = self.dice.odd() | 4;
            reset.kind = self.dice.pick(&[0, 3, odd]);
        }
        Made {
            number: abi::IOC_RESET,
            bytes: reset.as_bytes().to_vec(),
            yields: Yield::Anything,
        }
    }

    /// A number that the driver does not know, or should not take for one that
    /// it knows, with anything as its argument.
    pub fn number(&mut self) -> Made {
        let dice = &mut *self.dice;
        let known = dice.pick(&[
            abi::IOC_HSM_CMD,
            abi::IOC_DEV_INFO,
            abi::IOC_RESET,
            abi::IOC_AES_XTS,
            abi::IOC_AES_GCM,
            abi::MGMT_IOC_SET_RES_COUNT,
            abi::MGMT_IOC_GET_RES_COUNT,
            abi::MGMT_IOC_GET_VF_COUNT,
            abi::MGMT_IOC_DEV_INFO,
            0xc070_4202,
            0xc028_4205,
            0xc678_4207,
        ]);
        let mut number = match dice.below(8) {
            0 => dice.any(),
            1 => known ^ (1 << dice.below(32)),
            // Direction.
            2 => (known & 0x3fff_ffff) | (dice.any::<u32>() << 30),
            // Size.
            3 => (known & 0xc000_ffff) | (dice.any::<u32>() & 0x3fff_0000),
            // Type.
            4 => (known & 0xffff_00ff) | (dice.any::<u32>() & 0xff00),
            // Number.
            5 => (known & 0xffff_ff00) | (dice.any::<u32>() & 0xff),
            6 => dice.pick(&[0x5421, 0x5450, 0x5451, 0x5452, 0x5460, 2]),
            _ => known,
        };
        let freezes = matches!(number, 0xc004_5877 | 0xc004_5878);
        // That would change the node for good.
        let changes = matches!(number, 0x4008_6602 | 0x4004_6602 | 0x401c_5820);
        // Resets are for `reset()`.
        if freezes || changes || Ioctl::of(number) == Ioctl::Reset {
            number = 0;
        }
        let size = (number as usize >> 16) & 0x3fff;
        Made {
            number,
            bytes: dice.bytes(size.clamp(4, 2048)),
            yields: Yield::Anything,
        }
    }
}
