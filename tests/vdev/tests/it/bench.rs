// SPDX-License-Identifier: GPL-2.0

//! A host for the device: memory, interrupts, time, and the moves of a driver.

use azihsm_mbor::Operation;
use azihsm_mbor::Request;
use azihsm_mbor::Response;
use azihsm_mbor::Value;
use azihsm_vdev::bytes::get_u16;
use azihsm_vdev::bytes::get_u32;
use azihsm_vdev::bytes::put;
use azihsm_vdev::bytes::put_u16;
use azihsm_vdev::bytes::put_u32;
use azihsm_vdev::bytes::put_u64;
use azihsm_vdev::clock::ManualClock;
use azihsm_vdev::dma::DmaError;
use azihsm_vdev::dma::GuestMemory;
use azihsm_vdev::dma::MapSummary;
use azihsm_vdev::front::Front;
use azihsm_vdev::inject::Injection;
use azihsm_vdev::intr::Interrupts;
use azihsm_vdev::keys::Key;
use azihsm_vdev::keys::KeyKind;
use azihsm_vdev::model::Model;
use azihsm_vdev::model::Parts;
use azihsm_vdev::options::Options;
use azihsm_vdev::queue::Class;
use azihsm_vdev::strict::Recorder;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;

pub const PAGE: u64 = 4096;
const MEMORY: usize = 8 << 20;

pub const CC: u64 = 0x14;
pub const CSTS: u64 = 0x1c;
pub const NSSR: u64 = 0x20;
pub const AQA: u64 = 0x24;
pub const ASQ: u64 = 0x28;
pub const ACQ: u64 = 0x30;
pub const SIGNATURE: u32 = 0x4e56_4d65;

/// Memory with holes.
pub struct FakeMemory {
    data: Mutex<Vec<u8>>,
    holes: Mutex<Vec<Range<u64>>>,
}

impl FakeMemory {
    fn range(&self, address: u64, length: usize) -> Result<Range<usize>, DmaError> {
        let end = address
            .checked_add(length as u64)
            .filter(|end| *end <= MEMORY as u64)
            .ok_or(DmaError::Unmapped)?;
        let holes = self.holes.lock().unwrap();
        if holes
            .iter()
            .any(|hole| hole.start < end && address < hole.end)
        {
            return Err(DmaError::Unmapped);
        }
        Ok(address as usize..end as usize)
    }
}

impl GuestMemory for FakeMemory {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        let range = self.range(address, data.len())?;
        data.copy_from_slice(&self.data.lock().unwrap()[range]);
        Ok(())
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        let range = self.range(address, data.len())?;
        self.data.lock().unwrap()[range].copy_from_slice(data);
        Ok(())
    }

    fn publish(&self, address: u64, word: u32) -> Result<(), DmaError> {
        self.write(address, &word.to_le_bytes())
    }

    fn summary(&self) -> MapSummary {
        MapSummary {
            regions: 1,
            bytes: MEMORY as u64,
        }
    }
}

/// Interrupts that are only remembered.
#[derive(Default)]
pub struct FakeLines(Mutex<Vec<u16>>);

impl Interrupts for FakeLines {
    fn raise(&self, vector: u16) -> bool {
        self.0.lock().unwrap().push(vector);
        true
    }

    fn listening(&self) -> Vec<u16> {
        Vec::new()
    }
}

/// The host's side of a queue pair.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub sq: u64,
    pub cq: u64,
    pub entries: u32,
    pub tail: u32,
    pub head: u32,
    pub phase: bool,
}

/// See the module.
pub struct Bench {
    pub front: Arc<Front>,
    pub strict: Arc<Recorder>,
    pub clock: Arc<ManualClock>,
    pub model: Model,
    pub pairs: BTreeMap<u16, Pair>,
    memory: Arc<FakeMemory>,
    lines: Arc<FakeLines>,
    next_page: u64,
    next_cid: u16,
}

impl Bench {
    /// A device after power-on.
    pub fn new() -> Self {
        Self::with_options(Options::default())
    }

    pub fn with_options(options: Options) -> Self {
        Self::build(options, 32)
    }

    pub fn with_vectors(vectors: u16) -> Self {
        Self::build(Options::default(), vectors)
    }

    fn build(options: Options, vectors: u16) -> Self {
        let clock = Arc::new(ManualClock::default());
        let strict = Arc::new(Recorder::new(clock.clone()));
        let front = Arc::new(Front::new(clock.clone(), strict.clone(), vectors));
        let memory = Arc::new(FakeMemory {
            data: Mutex::new(vec![0; MEMORY]),
            holes: Mutex::default(),
        });
        let lines = Arc::new(FakeLines::default());
        let mut counter = 0u8;
        let model = Model::new(Parts {
            front: front.clone(),
            strict: strict.clone(),
            memory: memory.clone(),
            interrupts: lines.clone(),
            clock: clock.clone(),
            options,
            card: Arc::default(),
            engine: None,
            random: Box::new(move |iv| {
                counter += 1;
                iv.fill(counter);
            }),
        });
        let mut bench = Self {
            front,
            strict,
            clock,
            model,
            pairs: BTreeMap::new(),
            memory,
            lines,
            next_page: 1,
            next_cid: 0,
        };
        bench.bus_master(true);
        bench
    }

    /// A device that is ready.
    pub fn ready() -> Self {
        let mut bench = Self::new();
        bench.enable();
        bench
    }

    /// A device with queue pairs 1 and 256 of 16 entries.
    pub fn running() -> Self {
        let mut bench = Self::ready();
        bench.create_pair(1, 16);
        bench.create_pair(256, 16);
        bench
    }

    pub fn bus_master(&mut self, on: bool) {
        self.front.config_write(4, &[if on { 6 } else { 2 }, 0]);
    }

    pub fn write32(&mut self, offset: u64, value: u32) {
        self.front.bar_write(0, offset, &value.to_le_bytes());
    }

    pub fn write64(&mut self, offset: u64, value: u64) {
        self.front.bar_write(0, offset, &value.to_le_bytes());
    }

    pub fn read32(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.front.bar_read(0, offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub fn doorbell(&mut self, offset: u64, value: u32) {
        self.front.bar_write(2, offset, &value.to_le_bytes());
    }

    pub fn sq_doorbell(&mut self, queue: u16, value: u32) {
        self.doorbell(u64::from(queue) * 8, value);
    }

    pub fn cq_doorbell(&mut self, queue: u16, value: u32) {
        self.doorbell(u64::from(queue) * 8 + 4, value);
    }

    pub fn step(&mut self) -> Option<u64> {
        self.model.step()
    }

    /// Lets time pass, and the device work.
    pub fn advance_ms(&mut self, ms: u64) {
        self.clock.advance(ms * 1000);
        self.model.step();
    }

    /// Zeroed memory of so many pages.
    pub fn pages(&mut self, count: u64) -> u64 {
        let address = self.next_page * PAGE;
        self.next_page += count;
        self.poke(address, &vec![0; (count * PAGE) as usize]);
        address
    }

    pub fn poke(&mut self, address: u64, data: &[u8]) {
        let start = address as usize;
        self.memory.data.lock().unwrap()[start..start + data.len()].copy_from_slice(data);
    }

    pub fn peek(&self, address: u64, length: usize) -> Vec<u8> {
        let start = address as usize;
        self.memory.data.lock().unwrap()[start..start + length].to_vec()
    }

    /// Makes memory unreachable for the device.
    pub fn unmap(&mut self, address: u64, length: u64) {
        self.memory
            .holes
            .lock()
            .unwrap()
            .push(address..address + length);
    }

    /// The interrupts since the last call.
    pub fn interrupts(&mut self) -> Vec<u16> {
        std::mem::take(&mut self.lines.0.lock().unwrap())
    }

    fn new_pair(&mut self, queue: u16, entries: u32) -> Pair {
        let pages = |size: usize| (entries as usize * size).div_ceil(PAGE as usize) as u64;
        let class = Class::of(queue);
        Pair {
            sq: self.pages(pages(class.sqe_size())),
            cq: self.pages(pages(class.cqe_size())),
            entries,
            tail: 0,
            head: 0,
            phase: true,
        }
    }

    /// Sets up the admin queue pair and sets CC.EN, without waiting.
    pub fn start_enable(&mut self) {
        self.pairs.clear();
        let pair = self.new_pair(0, 16);
        self.write32(AQA, 0x000f_000f);
        self.write64(ASQ, pair.sq);
        self.write64(ACQ, pair.cq);
        self.pairs.insert(0, pair);
        self.write32(CC, 1);
    }

    pub fn enable(&mut self) {
        self.start_enable();
        self.step();
        assert_eq!(self.read32(CSTS), 1);
    }

    pub fn disable(&mut self) {
        self.write32(CC, 0);
        self.step();
        assert_eq!(self.read32(CSTS), 0);
    }

    /// Puts a command into an SQ without ringing the doorbell.
    pub fn place(&mut self, queue: u16, sqe: &[u8]) {
        let pair = self.pairs[&queue];
        let size = Class::of(queue).sqe_size();
        assert_eq!(sqe.len(), size);
        self.poke(pair.sq + u64::from(pair.tail) * size as u64, sqe);
        let pair = self.pairs.get_mut(&queue).unwrap();
        pair.tail = (pair.tail + 1) % pair.entries;
    }

    /// Submits a command.
    pub fn submit(&mut self, queue: u16, sqe: &[u8]) {
        self.place(queue, sqe);
        self.sq_doorbell(queue, self.pairs[&queue].tail);
    }

    /// Whether there is a completion, without taking it.
    pub fn look(&self, queue: u16) -> Option<Vec<u8>> {
        let pair = self.pairs[&queue];
        let size = Class::of(queue).cqe_size();
        let cqe = self.peek(pair.cq + u64::from(pair.head) * size as u64, size);
        (get_u16(&cqe, size - 2) & 1 == u16::from(pair.phase)).then_some(cqe)
    }

    /// Takes a completion.
    pub fn take(&mut self, queue: u16) -> Option<Vec<u8>> {
        let cqe = self.look(queue)?;
        let pair = self.pairs.get_mut(&queue).unwrap();
        pair.head += 1;
        if pair.head == pair.entries {
            pair.head = 0;
            pair.phase = !pair.phase;
        }
        let head = pair.head;
        self.cq_doorbell(queue, head);
        self.step();
        Some(cqe)
    }

    /// Submits a command and takes its completion.
    pub fn run(&mut self, queue: u16, sqe: &[u8]) -> Vec<u8> {
        self.submit(queue, sqe);
        self.step();
        self.take(queue).expect("no completion")
    }

    pub fn cid(&mut self) -> u16 {
        self.next_cid = (self.next_cid + 1) % 1000;
        self.next_cid
    }

    /// Runs an admin command: its status and its result.
    pub fn admin(&mut self, sqe: &[u8; 64]) -> (u16, u32) {
        let cqe = self.run(0, sqe);
        (get_u16(&cqe, 14) >> 1, get_u32(&cqe, 0))
    }

    /// An admin command with a fresh CID.
    pub fn admin_sqe(&mut self, opcode: u8, prp: u64, dw10: u32, dw11: u32) -> [u8; 64] {
        let mut sqe = [0; 64];
        sqe[0] = opcode;
        put_u16(&mut sqe, 2, self.cid());
        put_u64(&mut sqe, 24, prp);
        put_u32(&mut sqe, 40, dw10);
        put_u32(&mut sqe, 44, dw11);
        sqe
    }

    /// Runs an admin command made of these fields.
    pub fn admin_run(&mut self, opcode: u8, prp: u64, dw10: u32, dw11: u32) -> (u16, u32) {
        let sqe = self.admin_sqe(opcode, prp, dw10, dw11);
        self.admin(&sqe)
    }

    pub fn create_cq(&mut self, queue: u16, base: u64, entries: u32, vector: Option<u16>) -> u16 {
        let dw10 = u32::from(queue) | ((entries - 1) << 16);
        let dw11 = vector.map_or(1, |vector| 3 | (u32::from(vector) << 16));
        self.admin_run(0x05, base, dw10, dw11).0
    }

    pub fn create_sq(&mut self, queue: u16, base: u64, entries: u32) -> u16 {
        let dw10 = u32::from(queue) | ((entries - 1) << 16);
        let dw11 = 1 | (u32::from(queue) << 16);
        self.admin_run(0x01, base, dw10, dw11).0
    }

    /// Creates a queue pair with the first vector of its class.
    pub fn create_pair(&mut self, queue: u16, entries: u32) {
        let pair = self.new_pair(queue, entries);
        let vector = if queue < 256 { 1 } else { 16 };
        assert_eq!(self.create_cq(queue, pair.cq, entries, Some(vector)), 0);
        assert_eq!(self.create_sq(queue, pair.sq, entries), 0);
        self.pairs.insert(queue, pair);
    }

    /// Gives the device a fault.
    pub fn inject(&mut self, json: &str) -> u64 {
        let injection: Injection = serde_json::from_str(json).unwrap();
        self.model.faults.add(injection)
    }

    /// The names of the rules that were broken since the last call.
    pub fn violations(&self) -> Vec<&'static str> {
        let names = self
            .strict
            .violations()
            .iter()
            .map(|violation| violation.rule)
            .collect();
        self.strict.clear();
        names
    }

    /// Asserts that no rule was broken.
    pub fn assert_clean(&self) {
        assert_eq!(self.violations(), [""; 0]);
    }

    /// An HSM command with its own pages: the SQE, and where the response goes.
    pub fn hsm_sqe(&mut self, message: &[u8], kind: u8, session: Option<u16>) -> ([u8; 64], u64) {
        let source = self.pages(1);
        let destination = self.pages(1);
        self.poke(source, message);
        let mut sqe = [0; 64];
        put_u16(&mut sqe, 2, self.cid());
        put_u32(&mut sqe, 4, message.len() as u32);
        put_u64(&mut sqe, 8, source);
        put_u32(&mut sqe, 24, 4096);
        put_u64(&mut sqe, 28, destination);
        sqe[44] = kind;
        if let Some(session) = session {
            sqe[44] |= 4;
            put_u16(&mut sqe, 48, session);
        }
        (sqe, destination)
    }

    /// Sends a request on queue 1: the CQE and the response.
    pub fn request(&mut self, request: &Request) -> (Vec<u8>, Response) {
        let message = request.encode().unwrap();
        let kind = request.header.operation.session_kind().bits();
        let (sqe, destination) = self.hsm_sqe(&message, kind, request.header.session);
        let cqe = self.run(1, &sqe);
        assert_eq!(get_u16(&cqe, 14) >> 1, 0);
        let response = self.peek(destination, usize::from(get_u16(&cqe, 0)));
        (cqe, Response::decode(&response).unwrap())
    }

    pub fn operation(&mut self, operation: Operation, session: Option<u16>) -> (Vec<u8>, Response) {
        self.request(&Request::new(operation, session, Value::empty()))
    }

    pub fn open_session(&mut self) -> u16 {
        let (cqe, response) = self.operation(Operation::OPEN_SESSION, None);
        assert_eq!(response.header.status.0, 0);
        get_u16(&cqe, 4)
    }

    /// A flush of a session, with a page for the response of a failure.
    pub fn flush_sqe(&mut self, session: u16) -> [u8; 64] {
        let page = self.pages(1);
        let mut sqe = [0; 64];
        put_u16(&mut sqe, 0, 1);
        put_u16(&mut sqe, 2, self.cid());
        put_u64(&mut sqe, 28, page);
        sqe[44] = 2 | 4;
        put_u16(&mut sqe, 48, session);
        sqe
    }

    pub fn add_key(&mut self, kind: KeyKind, byte: u8) -> u32 {
        self.model
            .store_key(Key {
                kind,
                bytes: [byte; 32],
                owner: self.model.options.controller,
                app_id: 1,
                session: None,
            })
            .unwrap()
    }

    /// A one-segment SGL over these pieces, as the descriptor for an SQE.
    pub fn sgl(&mut self, pieces: &[(u64, u32)]) -> [u8; 16] {
        let list = self.pages(1);
        for (index, (address, length)) in pieces.iter().enumerate() {
            let entry = descriptor(*address, *length, 0);
            self.poke(list + index as u64 * 16, &entry);
        }
        descriptor(list, pieces.len() as u32 * 16, 3)
    }

    /// An AES command over data that lies in one piece.
    pub fn aes(&mut self, xts: bool, data: &[u8]) -> Aes {
        let pages = (data.len() as u64).div_ceil(PAGE).max(1);
        let source = self.pages(pages);
        let destination = self.pages(pages);
        self.poke(source, data);
        let length = data.len() as u32;
        let mut sqe = [0; 128];
        let cipher = if xts { 1 << 8 } else { 0 };
        put_u16(&mut sqe, 4, cipher | (5 << 3) | (1 << 2));
        put_u16(&mut sqe, 6, self.cid());
        sqe[10] = 1;
        sqe[64] = 1;
        put_u32(&mut sqe, 24, length);
        put_u32(&mut sqe, 44, length);
        if length > 0 {
            let list = self.sgl(&[(source, length)]);
            put(&mut sqe, 28, &list);
            let list = self.sgl(&[(destination, length)]);
            put(&mut sqe, 48, &list);
        }
        Aes {
            sqe,
            source,
            destination,
        }
    }

    /// Runs an AES command on queue 256.
    pub fn run_aes(&mut self, sqe: &[u8; 128]) -> AesResult {
        AesResult(self.run(256, sqe))
    }
}

/// An SGL descriptor.
pub fn descriptor(address: u64, length: u32, kind: u8) -> [u8; 16] {
    let mut entry = [0; 16];
    put_u64(&mut entry, 0, address);
    put_u32(&mut entry, 8, length);
    entry[15] = kind << 4;
    entry
}

/// An AES command and where its data is.
#[derive(Clone)]
pub struct Aes {
    pub sqe: [u8; 128],
    pub source: u64,
    pub destination: u64,
}

impl Aes {
    pub fn keys(&mut self, first: u32, second: u32) -> &mut Self {
        put_u32(&mut self.sqe, 68, first);
        put_u32(&mut self.sqe, 72, second);
        self
    }

    pub fn decrypt(&mut self) -> &mut Self {
        self.sqe[4] |= 1;
        self
    }

    /// Key, AAD length, padded AAD length.
    pub fn gcm(&mut self, key: u32, aad: u32, padded: u32) -> &mut Self {
        put_u32(&mut self.sqe, 68, key);
        put_u32(&mut self.sqe, 72, aad);
        put_u32(&mut self.sqe, 104, padded);
        self
    }

    pub fn tag(&mut self, tag: &[u8]) -> &mut Self {
        put(&mut self.sqe, 76, tag);
        self
    }

    pub fn iv(&mut self, iv: &[u8]) -> &mut Self {
        put(&mut self.sqe, 92, iv);
        self
    }

    pub fn tail(&mut self, length: u8, source: u64, destination: u64) -> &mut Self {
        self.sqe[108] = length;
        self.sqe[109] = length;
        put_u64(&mut self.sqe, 112, source);
        put_u64(&mut self.sqe, 120, destination);
        self
    }
}

/// The CQE of an AES command.
#[derive(Debug)]
pub struct AesResult(pub Vec<u8>);

impl AesResult {
    /// Status and error code.
    pub fn codes(&self) -> (u16, u16) {
        (get_u16(&self.0, 62) >> 1, get_u16(&self.0, 60))
    }

    pub fn tag(&self) -> &[u8] {
        &self.0[4..20]
    }

    pub fn iv(&self) -> &[u8] {
        &self.0[20..32]
    }

    pub fn tail(&self) -> u32 {
        get_u32(&self.0, 44)
    }

    pub fn indicator(&self) -> u32 {
        get_u32(&self.0, 48)
    }

    pub fn bytes(&self) -> u32 {
        get_u32(&self.0, 52)
    }
}
