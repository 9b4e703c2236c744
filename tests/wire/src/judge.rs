// SPDX-License-Identifier: GPL-2.0
//! What holds for all values.

use crate::admin;
use crate::aes;
use crate::caller;
use crate::caller::put;
use crate::device;
use crate::device::Fields;
use crate::hsm;
use crate::queue;
use crate::request;
use crate::sgl;
use crate::uapi;
use crate::uapi::Headed;
use arbitrary::Arbitrary;
use arbitrary::Unstructured;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

/// Values that the driver gets, from the device or from a caller.
#[derive(Arbitrary, Clone, Debug)]
pub enum Input {
    /// Pieces of data: addresses and lengths.
    List(Vec<(u64, u32)>),
    /// A command on an HSM queue.
    HsmEntry(HsmEntry),
    /// A completion of an HSM queue.
    HsmCompletion([u8; 16]),
    /// A command on an AES queue.
    AesEntry(AesEntry),
    /// A completion of an AES queue.
    AesCompletion([u8; 64]),
    /// How much of a command the device says to have processed is too much, or too little.
    Processed(AesRequest, u32, u32),
    /// A command on the admin queue.
    AdminEntry(AdminEntry),
    /// A completion of the admin queue.
    AdminCompletion([u8; 16]),
    /// The beginning of the identify page.
    Identify([u8; admin::IDENTIFY_LEN]),
    /// How many queues the device has, and how many are wanted at most.
    QueueCount(u32, u16),
    /// A caller's HSM command.
    HsmCommand(HsmCommand),
    /// A caller's AES command.
    AesCommand(AesCommand),
    /// What becomes of commands on a queue.
    Queue(queue::Script),
    /// The structure of another ioctl.
    Structure(Structure),
}

/// The structure of a reset, of the device info, or of a management ioctl.
#[derive(Arbitrary, Clone, Debug)]
pub struct Structure {
    /// Its bytes, as many as it has.
    pub bytes: [u8; caller::RESET_LEN],
    /// What it says to be its size, less what it has.
    pub more: i32,
    /// How many virtual functions there are.
    pub functions: u16,
}

/// A caller's HSM command: a good one, or nearly.
#[derive(Arbitrary, Clone, Debug)]
pub struct HsmCommand {
    /// Where the request is, and its bytes.
    pub src: (u64, u32),
    /// Where the response goes, and the room for it.
    pub dst: (u64, u32),
    /// Session flags.
    pub flags: u8,
    /// Session.
    pub session: u16,
    /// Bytes that are something else, by their offset.
    pub changes: Vec<(u8, u8)>,
}

/// A caller's AES command: a good one, or nearly.
#[derive(Arbitrary, Clone, Debug)]
pub struct AesCommand {
    /// Whether the ioctl is that for XTS.
    pub xts: bool,
    /// Whether the device can do unaligned mode.
    pub can_unaligned: bool,
    /// Whether it decrypts.
    pub decrypt: bool,
    /// Where source and destination are.
    pub addresses: (u64, u64),
    /// Their bytes.
    pub lens: (u32, u32),
    /// Bytes of AAD, without padding and with.
    pub aad: (u32, u32),
    /// Size of a data unit, by its number.
    pub data_unit: u16,
    /// Whether it asks for unaligned mode.
    pub unaligned: bool,
    /// Session of the descriptor.
    pub session: u16,
    /// Its application.
    pub app: Option<u8>,
    /// Bytes that are something else, by their offset.
    pub changes: Vec<(u16, u8)>,
    /// What the device answers.
    pub completion: [u8; 64],
}

/// A command on an HSM queue.
#[derive(Arbitrary, Clone, Debug)]
pub struct HsmEntry {
    /// Opcode.
    pub opcode: u16,
    /// Bytes of the request.
    pub src_len: u32,
    /// Room for the response.
    pub dst_len: u32,
    /// What it does with a session, by its two bits.
    pub flow: u8,
    /// The session.
    pub session: u16,
    /// Whether there is one.
    pub has_session: bool,
    /// Number of the page with the request.
    pub request: u64,
    /// Number of the page for the response.
    pub response: u64,
    /// Command identifier.
    pub cid: u16,
}

/// What an AES command is to do.
#[derive(Arbitrary, Clone, Debug)]
pub struct AesRequest {
    /// Whether it decrypts.
    pub decrypt: bool,
    /// Session.
    pub session: u16,
    /// Application.
    pub app: u8,
    /// Cipher.
    pub cipher: Cipher,
    /// Bytes of data.
    pub len: u32,
}

/// Cipher and parameters.
#[derive(Arbitrary, Clone, Debug)]
pub enum Cipher {
    /// GCM.
    Gcm {
        /// Key.
        key: u32,
        /// Tag.
        tag: [u8; 16],
        /// IV.
        iv: [u8; 12],
        /// Bytes of AAD.
        aad_len: u32,
        /// The same with padding.
        aad_padded_len: u32,
        /// Whether what follows the last whole block takes another way.
        tail: bool,
    },
    /// XTS.
    Xts {
        /// Key for the data.
        data_key: u32,
        /// Key for the tweak.
        tweak_key: u32,
        /// Tweak.
        tweak: [u8; 16],
        /// Size of a data unit, by its number.
        data_unit: u16,
    },
}

/// A command on an AES queue.
#[derive(Arbitrary, Clone, Debug)]
pub struct AesEntry {
    /// What it is to do.
    pub request: AesRequest,
    /// Addresses of the lists, and how many pieces they have.
    pub lists: [(u64, usize); 2],
    /// Addresses of the tails.
    pub tail: [u64; 2],
    /// Command identifier.
    pub cid: u16,
}

/// A command on the admin queue.
#[derive(Arbitrary, Clone, Debug)]
pub struct AdminEntry {
    /// Queue.
    pub queue: u16,
    /// Its entries.
    pub size: u16,
    /// Its address.
    pub ring: u64,
    /// Its MSI-X vector.
    pub vector: Option<u16>,
    /// Command identifier.
    pub cid: u16,
}

impl Input {
    /// Reads values of which bytes are the encoding, if they are of any.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Self::arbitrary_take_rest(Unstructured::new(bytes)).ok()
    }

    /// Has the driver use the values.
    ///
    /// # Panics
    ///
    /// If what it makes of them is not what it should be.
    pub fn judge(&self) {
        match self {
            Self::List(pieces) if pieces.is_empty() => {}
            Self::List(pieces) => list(pieces),
            Self::HsmEntry(entry) => hsm_entry(entry),
            Self::HsmCompletion(bytes) => hsm_completion(bytes),
            Self::AesEntry(entry) => aes_entry(entry),
            Self::AesCompletion(bytes) => aes_completion(bytes),
            Self::Processed(request, engine, tail) => processed(request, (*engine, *tail)),
            Self::AdminEntry(entry) => admin_entry(entry),
            Self::AdminCompletion(bytes) => admin_completion(bytes),
            Self::Identify(page) => identify(page),
            Self::QueueCount(dw0, most) => queue_count(*dw0, *most),
            Self::HsmCommand(command) => {
                hsm_command(command);
            }
            Self::AesCommand(command) => {
                aes_command(command);
            }
            Self::Queue(script) => {
                script.judge();
            }
            Self::Structure(structure) => structure.judge(),
        }
    }
}

impl Structure {
    fn judge(&self) {
        let bytes = self.sized::<{ caller::RESET_LEN }>();
        let mut reset = uapi::Reset::read_from_bytes(&bytes).unwrap();
        self.assert_size::<uapi::Reset>(&bytes);
        assert_eq!(u64::from(reset.hdr().size), bytes.at(0, 4));
        assert_eq!(u64::from(reset.kind), bytes.at(24, 4));
        reset.status = !reset.status;
        assert_changed(&bytes, reset.as_bytes(), 108..112);

        let bytes = self.sized::<{ caller::INFO_LEN }>();
        let info = uapi::DevInfo::read_from_bytes(&bytes).unwrap();
        self.assert_size::<uapi::DevInfo>(&bytes);
        assert_eq!(u64::from(info.argsz), bytes.at(0, 4));
        assert_eq!(u64::from(info.id), bytes.at(4, 2));
        assert_eq!(info.pci_info, bytes[6..39]);
        assert_eq!(info.serial, bytes[39..72]);
        assert_eq!(info.model, bytes[72..77]);
        assert_eq!(info.firmware_rev, bytes[77..110]);
        assert_eq!(info.driver_rev, bytes[110..126]);
        assert_eq!(info.entropy, bytes[143..175]);
        assert_eq!(info.pad, bytes[175]);

        let bytes = self.sized::<{ caller::GROUPS_LEN }>();
        let mut groups = uapi::ResCount::read_from_bytes(&bytes).unwrap();
        self.assert_size::<uapi::ResCount>(&bytes);
        assert_eq!(u64::from(groups.argsz), bytes.at(0, 4));
        assert_eq!(u64::from(groups.vf), bytes.at(4, 2));
        let controller = (groups.vf < self.functions).then(|| groups.vf + 1);
        assert_eq!(request::controller(groups.vf, self.functions), controller);
        groups.count = !groups.count;
        assert_changed(&bytes, groups.as_bytes(), 6..8);
        groups.count = !groups.count;
        groups.status = !groups.status;
        assert_changed(&bytes, groups.as_bytes(), 8..12);

        let bytes = self.sized::<{ caller::FUNCTIONS_LEN }>();
        let mut functions = uapi::VfCount::read_from_bytes(&bytes).unwrap();
        self.assert_size::<uapi::VfCount>(&bytes);
        functions.count = !functions.count;
        assert_changed(&bytes, functions.as_bytes(), 4..6);
    }

    /// Returns as many bytes, which say that there are so many, or more or less.
    fn sized<const LEN: usize>(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes.copy_from_slice(&self.bytes[..LEN]);
        let size = (LEN as u32).wrapping_add_signed(self.more);
        put(&mut bytes, 0, 4, size.into());
        bytes
    }

    fn assert_size<T>(&self, bytes: &[u8]) {
        let size = bytes.at(0, 4);
        let covers = request::covers::<T>(size as u32);
        assert_eq!(covers, size >= bytes.len() as u64, "size {size}");
    }
}

/// Asserts that there are other bytes now at these offsets, and only there.
fn assert_changed(before: &[u8], after: &[u8], offsets: std::ops::Range<usize>) {
    assert_eq!(before.len(), after.len());
    for (offset, (before, after)) in before.iter().zip(after).enumerate() {
        assert_eq!(before != after, offsets.contains(&offset), "byte {offset}");
    }
}

/// Writes a list as the driver does, and follows it as the device does.
fn list(pieces: &[(u64, u32)]) {
    let address = |index: usize| 0x10_0000_0000 + 0x3000 * index as u64;
    let mut memory: device::Memory = (0..sgl::segments(pieces.len()))
        // What was there before is not taken for a part of it.
        .map(|index| (address(index), [0xee; 4096]))
        .collect();
    let mut parts = pieces.iter();
    sgl::write_list(
        pieces.len(),
        || parts.next().copied().ok_or("there are no more pieces"),
        |index| Ok(address(index)),
        |segment, offset, descriptor| {
            let segment = memory.get_mut(&address(segment)).ok_or("no such segment")?;
            segment[offset..offset + 16].copy_from_slice(descriptor.as_bytes());
            Ok(())
        },
    )
    .unwrap();
    assert!(parts.next().is_none());
    let descriptor = sgl::Sgl::segment(address(0), pieces.len());
    assert_eq!(device::follow(&memory, descriptor.as_bytes()), pieces);
}

fn hsm_entry(entry: &HsmEntry) {
    const LONGEST: u32 = 8192;

    // As far as the driver lets them through.
    let opcode = entry.opcode % (1 << 10);
    let (src_len, dst_len) = (entry.src_len % (LONGEST + 1), entry.dst_len % (LONGEST + 1));
    let (request, response) = (
        entry.request % (1 << 51) << 12,
        entry.response % (1 << 51) << 12,
    );
    let header = hsm::Header {
        opcode,
        src_len,
        dst_len,
        flow: hsm::Flow::of(entry.flow),
        id: entry.session,
        id_valid: entry.has_session,
    };
    let mut sqe = header.sqe(request, response);
    sqe.set_cid(entry.cid);
    let sqe = sqe.as_bytes();
    device::assert_rest_is_zero(sqe, &[(0, 45), (48, 2)]);
    let command = sqe.at(0, 4);
    assert_eq!(command & 0x3ff, u64::from(opcode));
    // Command set and PSDT.
    assert_eq!(command >> 10 & 0x3f, 0);
    assert_eq!(command >> 16, u64::from(entry.cid));
    assert_eq!(sqe.at(4, 4), u64::from(src_len));
    assert_eq!(sqe.at(24, 4), u64::from(dst_len));
    let second = |first: u64, len: u32| if len > 4096 { first + 4096 } else { 0 };
    assert_eq!(sqe.at(8, 8), if src_len == 0 { 0 } else { request });
    assert_eq!(sqe.at(16, 8), second(request, src_len));
    assert_eq!(sqe.at(28, 8), response);
    assert_eq!(sqe.at(36, 8), second(response, dst_len));
    let session = entry.flow & 3 | u8::from(entry.has_session) << 2;
    assert_eq!(sqe[44], session);
    assert_eq!(sqe.at(48, 2), u64::from(entry.session));
}

fn hsm_completion(bytes: &[u8; 16]) {
    let words = device::words(bytes);
    let completion = hsm::Completion::from(&words);
    assert_eq!(u64::from(completion.len), bytes.at(0, 2));
    let status = bytes.at(14, 2) >> 1 & 0x7ff;
    assert_eq!(u64::from(completion.status), status);
    assert_eq!(u64::from(hsm::status(&words)), status);
    assert_eq!(u64::from(hsm::cid(&words)), bytes.at(12, 2));
    let (flags, report) = (bytes[2], completion.report);
    assert_eq!(report.flow as u8, flags & 3);
    let id = (flags & 4 != 0).then_some(bytes.at(4, 2));
    assert_eq!(report.id.map(u64::from), id);
    assert_eq!(report.app, (flags & 8 != 0).then_some(bytes[6]));
    assert_eq!(report.closed, flags & 16 != 0);
    // A session is opened, or closed, by what says so only.
    let opened = report.opened(completion.status);
    assert_eq!(opened.is_some(), status == 0 && flags & 7 == 5);
    if let Some(opened) = opened {
        assert_eq!((Some(opened.id), opened.app), (report.id, report.app));
    }
    let closed = if flags & 0x17 == 0x16 {
        report.id
    } else {
        None
    };
    assert_eq!(report.closed(), closed);
    if let Some(id) = report.id {
        assert_eq!(report.has_closed(id), closed.is_some());
        assert!(!report.has_closed(id ^ 1));
    }
}

impl AesRequest {
    fn of_driver(&self) -> aes::Request {
        let cipher = match self.cipher {
            Cipher::Gcm {
                key,
                tag,
                iv,
                aad_len,
                aad_padded_len,
                tail,
            } => aes::Cipher::Gcm {
                key,
                tag,
                iv,
                aad_len,
                aad_padded_len,
                tail,
            },
            Cipher::Xts {
                data_key,
                tweak_key,
                tweak,
                data_unit,
            } => aes::Cipher::Xts {
                data_key,
                tweak_key,
                tweak,
                data_unit: data_unit % 4,
            },
        };
        aes::Request {
            decrypt: self.decrypt,
            caller: aes::Caller {
                session: self.session,
                app: self.app,
            },
            cipher,
            len: self.len,
        }
    }

    /// Bytes of the tail (6.6.2).
    fn tail(&self) -> u32 {
        match self.cipher {
            Cipher::Gcm { tail: true, .. } => self.len % 16,
            _ => 0,
        }
    }
}

fn aes_entry(entry: &AesEntry) {
    let AesEntry {
        request,
        lists,
        tail,
        cid,
    } = entry;
    let lists = lists.map(|(address, count)| sgl::Sgl::segment(address, count));
    let mut sqe = request.of_driver().sqe(lists, *tail);
    sqe.set_cid(*cid);
    let sqe = sqe.as_bytes();
    assert_eq!(sqe.at(6, 2), u64::from(*cid));
    assert_eq!(sqe.at(8, 2), u64::from(request.session));
    assert_eq!(sqe[10], request.app);
    assert_eq!(&sqe[28..44], lists[0].as_bytes());
    assert_eq!(&sqe[48..64], lists[1].as_bytes());
    assert_eq!(sqe[64], 1);
    let attributes = sqe.at(4, 2);
    assert_eq!(attributes & 1 != 0, request.decrypt);
    // Reserved, SGL, command type.
    assert_eq!(attributes & 0xfe, 0x2c);
    assert_eq!(attributes >> 9 & 0x1f, 0);
    let common = [(4, 7), (24, 41)];
    match request.cipher {
        Cipher::Gcm {
            key,
            tag,
            iv,
            aad_len,
            aad_padded_len,
            ..
        } => {
            device::assert_rest_is_zero(sqe, &[common[0], common[1], (68, 42), (112, 16)]);
            assert_eq!(attributes >> 8, 0);
            assert_eq!(sqe.at(68, 4), u64::from(key));
            assert_eq!(sqe.at(72, 4), u64::from(aad_len));
            assert_eq!(&sqe[76..92], &tag);
            assert_eq!(&sqe[92..104], &iv);
            assert_eq!(sqe.at(104, 4), u64::from(aad_padded_len));
        }
        Cipher::Xts {
            data_key,
            tweak_key,
            tweak,
            data_unit,
        } => {
            device::assert_rest_is_zero(sqe, &[common[0], common[1], (68, 24)]);
            assert_eq!(attributes >> 8, 1 | u64::from(data_unit % 4) << 6);
            assert_eq!(sqe.at(68, 4), u64::from(data_key));
            assert_eq!(sqe.at(72, 4), u64::from(tweak_key));
            assert_eq!(&sqe[76..92], &tweak);
        }
    }
    let tail_len = request.tail();
    let engine_len = request.len - tail_len;
    assert_eq!(sqe.at(24, 4), u64::from(engine_len));
    assert_eq!(sqe.at(44, 4), u64::from(engine_len));
    if tail_len == 0 {
        assert_eq!((sqe.at(108, 4), sqe.at(112, 8), sqe.at(120, 8)), (0, 0, 0));
    } else {
        assert_eq!(engine_len % 16, 0);
        let tail_len = u64::from(tail_len);
        assert_eq!((sqe.at(108, 1), sqe.at(109, 1)), (tail_len, tail_len));
        assert_eq!([sqe.at(112, 8), sqe.at(120, 8)], *tail);
    }
}

fn aes_completion(bytes: &[u8; 64]) {
    let words = device::words(bytes);
    let completion = aes::Completion::from(&words);
    assert_eq!(&completion.tag, &bytes[4..20]);
    assert_eq!(&completion.iv, &bytes[20..32]);
    assert_eq!(u64::from(completion.tail_len), bytes.at(44, 4));
    assert_eq!(completion.fips_approved, bytes[48..52] != [0; 4]);
    assert_eq!(u64::from(completion.len), bytes.at(52, 4));
    assert_eq!(u64::from(completion.error), bytes.at(60, 2));
    let status = bytes.at(62, 2) >> 1;
    assert_eq!(u64::from(completion.status), status);
    assert_eq!(u64::from(aes::status(&words)), status);
    assert_eq!(u64::from(aes::cid(&words)), bytes.at(2, 2));
}

fn processed(request: &AesRequest, off: (u32, u32)) {
    let mut bytes = [0; 64];
    let mut is_whole = |engine: u32, tail: u32| {
        bytes[44..48].copy_from_slice(&tail.to_le_bytes());
        bytes[52..56].copy_from_slice(&engine.to_le_bytes());
        let completion = aes::Completion::from(&device::words(&bytes));
        request.of_driver().is_whole(&completion)
    };
    let tail = request.tail();
    let engine = request.len - tail;
    assert!(is_whole(engine, tail));
    let other = (engine.wrapping_add(off.0), tail.wrapping_add(off.1));
    assert_eq!(is_whole(other.0, other.1), off == (0, 0));
    assert_eq!(is_whole(other.0, tail), off.0 == 0);
    assert_eq!(is_whole(engine, other.1), off.1 == 0);
}

fn admin_entry(entry: &AdminEntry) {
    let AdminEntry {
        queue, ring, cid, ..
    } = *entry;
    let size = entry.size.max(2);
    let check = |mut sqe: admin::Sqe, opcode, prp1, dw10, dw11| {
        sqe.set_cid(cid);
        let sqe = sqe.as_bytes();
        device::assert_rest_is_zero(sqe, &[(0, 1), (2, 2), (24, 8), (40, 8)]);
        assert_eq!((sqe[0], sqe.at(2, 2)), (opcode, u64::from(cid)));
        assert_eq!(
            (sqe.at(24, 8), sqe.at(40, 4), sqe.at(44, 4)),
            (prp1, dw10, dw11)
        );
    };
    let number = u64::from(queue);
    let shape = number + (u64::from(size) - 1) * 0x1_0000;
    let interrupts = entry
        .vector
        .map_or(1, |vector| 3 + u64::from(vector) * 0x1_0000);
    check(
        admin::Sqe::create_cq(queue, size, ring, entry.vector),
        5,
        ring,
        shape,
        interrupts,
    );
    check(
        admin::Sqe::create_sq(queue, size, ring),
        1,
        ring,
        shape,
        1 + number * 0x1_0000,
    );
    check(admin::Sqe::delete_sq(queue), 0, 0, number, 0);
    check(admin::Sqe::delete_cq(queue), 4, 0, number, 0);
    check(admin::Sqe::identify().with_page(ring), 6, ring, 1, 0);
    let groups = u64::from(entry.size);
    check(
        admin::Sqe::set_resource_count(queue, entry.size),
        0xc3,
        0,
        number,
        groups,
    );
    check(admin::Sqe::get_resource_count(queue), 0xc4, 0, number, 0);
    for (feature, number) in [
        (admin::Feature::HsmQueues, 0x07),
        (admin::Feature::AesQueues, 0xc1),
        (admin::Feature::Firmware, 0xc2),
    ] {
        check(admin::Sqe::feature(feature), 10, 0, number, 0);
    }
}

fn admin_completion(bytes: &[u8; 16]) {
    let completion = admin::Completion::from(&device::words(bytes));
    assert_eq!(u64::from(completion.dw0), bytes.at(0, 4));
    assert_eq!(u64::from(completion.cid), bytes.at(12, 2));
    assert_eq!(u64::from(completion.status), bytes.at(14, 2) >> 1);
}

fn identify(page: &[u8; admin::IDENTIFY_LEN]) {
    let fits = |offset: usize, size| page[offset] % 16 == size;
    let good = fits(77, 6) && fits(78, 4) && fits(83, 7) && fits(84, 6) && page.at(74, 2) <= 64;
    let identify = admin::Identify::parse(page);
    assert_eq!(identify.is_ok(), good);
    if let Ok(identify) = identify {
        assert_eq!(u64::from(identify.controller), page.at(74, 2));
        assert_eq!(&identify.serial, &page[4..36]);
        assert_eq!(&identify.firmware, &page[36..68]);
    }
}

fn queue_count(dw0: u32, most: u16) {
    let halves = [dw0 % 0x1_0000, dw0 / 0x1_0000];
    let count = halves
        .map(|half| (half + 1) % 0x1_0000)
        .into_iter()
        .min()
        .map(|count| count.min(u32::from(most)));
    assert_eq!(Some(u32::from(admin::queue_count(dw0, most))), count);
}

/// Has a command checked, and returns whether the device gets it.
pub(crate) fn hsm_command(command: &HsmCommand) -> bool {
    let mut bytes = [0; caller::HSM_LEN];
    put(&mut bytes, 32, 4, command.src.1.into());
    put(&mut bytes, 40, 8, command.src.0);
    put(&mut bytes, 48, 4, command.dst.1.into());
    put(&mut bytes, 56, 8, command.dst.0);
    bytes[64] = command.flags;
    put(&mut bytes, 66, 2, command.session.into());
    for (offset, byte) in &command.changes {
        bytes[usize::from(*offset) % caller::HSM_LEN] = *byte;
    }
    let input = uapi::HsmCmd::read_from_bytes(&bytes).unwrap().input;
    for (address, len) in [(40, 32), (56, 48)] {
        let (address, len) = (bytes.at(address, 8), bytes.at(len, 4));
        let is_user = request::is_user(address, len as u32);
        assert_eq!(is_user, !caller::is_outside(address, len));
    }
    let ext = caller::hsm_ext(&bytes);
    assert_eq!(request::check_hsm(&input).err(), ext);
    if ext.is_some() {
        return false;
    }
    // What was asked for is what the device is told.
    let flags = bytes[64];
    let sqe = request::header(&input, hsm::Flow::of(flags)).sqe(1 << 20, 1 << 21);
    let sqe = sqe.as_bytes();
    assert_eq!(sqe.at(0, 2), bytes.at(24, 2));
    assert_eq!(sqe.at(4, 4), bytes.at(32, 4));
    assert_eq!(sqe.at(24, 4), bytes.at(48, 4));
    let (flow, id) = match flags & 3 {
        0 => (0, 0),
        _ => (flags & 7, bytes.at(66, 2)),
    };
    assert_eq!((sqe[44], sqe.at(48, 2)), (flow, id));
    true
}

/// Has a command checked, and carried out if it is good; returns whether it is.
pub(crate) fn aes_command(command: &AesCommand) -> bool {
    let session = (command.session, command.app);
    let mut bytes = [0; caller::AES_LEN];
    bytes[24] = command.decrypt.into();
    bytes[25] = command.xts.into();
    put(&mut bytes, 32, 8, command.addresses.0);
    put(&mut bytes, 40, 4, command.lens.0.into());
    put(&mut bytes, 48, 8, command.addresses.1);
    put(&mut bytes, 56, 4, command.lens.1.into());
    bytes[64] = 1;
    put(&mut bytes, 66, 2, command.session.into());
    bytes[68] = command.app.unwrap_or(0);
    bytes[72..112].copy_from_slice(&std::array::from_fn::<u8, 40, _>(|index| index as u8));
    if command.xts {
        put(&mut bytes, 72, 2, command.data_unit.into());
    } else {
        put(&mut bytes, 104, 4, command.aad.0.into());
        put(&mut bytes, 108, 4, command.aad.1.into());
        bytes[112] = command.unaligned.into();
    }
    for (offset, byte) in &command.changes {
        bytes[usize::from(*offset) % caller::AES_LEN] = *byte;
    }
    let input = uapi::AesCmd::read_from_bytes(&bytes).unwrap().input;
    let (cipher, can_unaligned) = (u8::from(command.xts), command.can_unaligned);
    let checked = request::check_caller(
        hsm::Session {
            id: session.0,
            app: session.1,
        },
        &input,
    )
    .and_then(|caller| Ok((caller, request::check_aes(&input, cipher, can_unaligned)?)));
    let ext = caller::aes_ext(&bytes, command.xts, can_unaligned, session);
    assert_eq!(checked.as_ref().err().copied(), ext);
    let Ok((caller, cipher)) = checked else {
        return false;
    };
    let asked = aes::Request {
        decrypt: bytes[24] == 1,
        caller,
        cipher,
        len: input.src_len,
    };
    aes_told(&bytes, command, &asked);
    aes_done(&bytes, command, &asked, &input);
    true
}

/// What was asked for is what the device is told.
fn aes_told(bytes: &[u8], command: &AesCommand, asked: &aes::Request) {
    let sqe = asked.sqe([sgl::Sgl::segment(1 << 20, 1); 2], [1 << 21; 2]);
    let sqe = sqe.as_bytes();
    assert_eq!(sqe.at(8, 2), bytes.at(66, 2));
    assert_eq!(sqe[10], bytes[68]);
    assert_eq!(sqe[4] & 1, bytes[24]);
    assert_eq!(sqe[5] & 1, u8::from(command.xts));
    let len = sqe.at(24, 4) + sqe.at(108, 1);
    assert_eq!(len, bytes.at(40, 4));
    if command.xts {
        assert_eq!(u64::from(sqe[5] >> 6), bytes.at(72, 2));
        assert_eq!(sqe.at(68, 4), bytes.at(76, 4));
        assert_eq!(sqe.at(72, 4), bytes.at(80, 4));
        assert_eq!(sqe[76..92], bytes[84..100]);
    } else {
        assert_eq!(sqe.at(68, 4), bytes.at(72, 4));
        assert_eq!(sqe.at(72, 4), bytes.at(104, 4));
        assert_eq!(sqe[76..104], bytes[76..104]);
        assert_eq!(sqe.at(104, 4), bytes.at(108, 4));
        // A tail is for unaligned mode only.
        let unaligned = command.can_unaligned && bytes[112] != 0;
        assert!(unaligned || sqe.at(108, 1) == 0);
    }
}

/// What the device answered is what the caller is told.
fn aes_done(bytes: &[u8], command: &AesCommand, asked: &aes::Request, input: &uapi::AesIn) {
    let answer = &command.completion;
    let completion = aes::Completion::from(&device::words(answer));
    let mut out = uapi::AesOut::new(input.ctxt);
    request::set_done(&mut out, input, asked, &completion);
    let out = out.as_bytes();
    device::assert_rest_is_zero(out, &[(0, 8), (12, 20), (36, 1), (40, 12)]);
    assert_eq!(out.at(0, 8), bytes.at(16, 8));
    assert_eq!(out.at(28, 4), bytes.at(40, 4));
    assert_eq!(out[36] != 0, answer[48..52] != [0; 4]);
    if command.xts || bytes[24] == 1 {
        assert_eq!(out[12..28], [0; 16]);
        assert_eq!(out[40..52], [0; 12]);
    } else {
        assert_eq!(out[12..28], answer[4..20]);
        assert_eq!(out[40..52], answer[20..32]);
    }
}
