// SPDX-License-Identifier: GPL-2.0
//! Counts what the guest executes, as a plugin of QEMU.
//!
//! A program in the guest marks intervals by instructions that do nothing, see
//! [`Mark`].  For each interval the plugin counts, by processor,
//!
//! * instructions in user and in kernel mode, and those between *laps*,
//! * bytes that string instructions copy or fill, which is how kernels do it,
//! * how often each block of instructions was executed.
//!
//! A string instruction counts as one, whatever it copies.
//!
//! Options: `out=FILE`, and `modules=on` if only blocks of the kernel's modules are
//! to be told apart.  An interval that has not ended when QEMU does, ends then.  The
//! file has lines of words:
//!
//! | Line | Meaning |
//! |---|---|
//! | `interval N PROCESSORS` | an interval begins here, the `N`th from 0 |
//! | `lap USER KERNEL` | instructions of one lap, on all processors |
//! | `count PROCESSOR USER KERNEL COPIED FILLED` | of the whole interval; bytes in kernel mode |
//! | `block ADDRESS LENGTHS TIMES` | a block that was executed, on all processors; a digit for the bytes of each instruction |
//! | `end` | the interval ends here |
//!
//! `FILE.text` has what the guest said by [`Mark::Word`].

mod api;

use api::Block;
use api::Info;
use api::Instruction;
use api::Number;
use api::Scoreboard;
use std::collections::HashMap;
use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_uint;
use std::ffi::c_void;
use std::ffi::CStr;
use std::fs::File;
use std::io::BufWriter;
use std::io::Result;
use std::io::Write;
use std::mem;
use std::mem::size_of;
use std::ptr::null_mut;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::OnceLock;

/// What a mark says: the low bits of the displacement of a `nopl` instruction,
/// `0f 1f 84 00` followed by `0x50c0_0000 | mark`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mark {
    /// An interval begins.
    Begin = 1,
    /// A lap of the interval ends.
    Lap = 2,
    /// The interval ends.
    End = 3,
    /// What the next instruction reads goes to the file of text.
    Word = 4,
}

impl Mark {
    const ALL: [Self; 4] = [Self::Begin, Self::Lap, Self::End, Self::Word];

    /// The bytes of the instruction.
    fn code(self) -> [u8; 8] {
        let [a, b, c, d] = (0x50c0_0000 | self as u32).to_le_bytes();
        [0x0f, 0x1f, 0x84, 0x00, a, b, c, d]
    }

    fn of(code: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|mark| mark.code() == code)
    }
}

/// Where the kernel puts modules, on x86-64.
const MODULES: std::ops::Range<u64> = 0xffff_ffff_a000_0000..0xffff_ffff_ff00_0000;

/// Blocks that are told apart; what is beyond them is counted as one.
const BLOCKS: usize = 1 << 19;

/// What is counted for each processor.
#[repr(C)]
struct Counts {
    user: u64,
    kernel: u64,
    copied: u64,
    filled: u64,
    blocks: [u64; BLOCKS],
}

/// Longest instruction.
const CODE: usize = 15;

/// What a string instruction that writes does.
struct StringWrite {
    copies: bool,
    bytes: u64,
}

impl StringWrite {
    fn of(code: &[u8]) -> Option<Self> {
        const OPERAND_SIZE: u8 = 0x66;
        const PREFIXES: [u8; 10] = [
            0x26,
            0x2e,
            0x36,
            0x3e,
            0x64,
            0x65,
            OPERAND_SIZE,
            0x67,
            0xf2,
            0xf3,
        ];
        let legacy = code.iter().take_while(|byte| PREFIXES.contains(byte));
        let (prefixes, rest) = code.split_at(legacy.count());
        let (wide, opcode) = match rest {
            [rex @ 0x40..=0x4f, opcode, ..] => (rex & 8 != 0, opcode),
            [opcode, ..] => (false, opcode),
            [] => return None,
        };
        let bytes = match opcode & 1 {
            0 => 1,
            _ if wide => 8,
            _ if prefixes.contains(&OPERAND_SIZE) => 2,
            _ => 4,
        };
        match opcode & !1 {
            0xa4 => Some(Self {
                copies: true,
                bytes,
            }),
            0xaa => Some(Self {
                copies: false,
                bytes,
            }),
            _ => None,
        }
    }
}

/// The blocks that were seen, in the order of their places in [`Counts`].
#[derive(Default)]
struct Blocks {
    places: HashMap<BlockCode, usize>,
    list: Vec<BlockCode>,
}

/// The address of a block, and the lengths of its instructions.
type BlockCode = (u64, Box<[u8]>);

impl Blocks {
    fn place(&mut self, block: BlockCode) -> usize {
        if let Some(&place) = self.places.get(&block) {
            return place;
        }
        // The last place is that of all others.
        if self.list.len() == BLOCKS - 1 {
            return BLOCKS - 1;
        }
        let place = self.list.len();
        self.list.push(block.clone());
        self.places.insert(block, place);
        place
    }
}

/// What goes to the files.
struct Output {
    counts: BufWriter<File>,
    text: BufWriter<File>,
    /// Intervals that have begun.
    intervals: usize,
    /// Whether one has begun that has not ended.
    is_open: bool,
    /// Instructions in either mode when the lap began.
    lap: (u64, u64),
    /// The laps, so that nothing is written within the interval.
    laps: Vec<(u64, u64)>,
}

struct Plugin {
    board: Board,
    /// Whether only blocks of modules are told apart.
    only_modules: bool,
    blocks: Mutex<Blocks>,
    output: Mutex<Output>,
}

/// The scoreboard, whose entries are [`Counts`].
struct Board(*mut Scoreboard);

// SAFETY: Scoreboards are for all threads.
unsafe impl Send for Board {}

// SAFETY: As above.
unsafe impl Sync for Board {}

impl Board {
    fn number(&self, offset: usize) -> Number {
        Number {
            board: self.0,
            offset,
        }
    }

    /// Number of processors.
    fn processors(&self) -> c_uint {
        // SAFETY: A function without preconditions.
        let count = unsafe { api::qemu_plugin_num_vcpus() };
        c_uint::try_from(count).unwrap_or(0)
    }

    /// The counts of a processor, which goes on counting.
    fn counts(&self, processor: c_uint) -> *mut Counts {
        // SAFETY: The scoreboard has an entry for each processor.
        unsafe { api::qemu_plugin_scoreboard_find(self.0, processor) }.cast()
    }

    /// Sets all counts to 0.
    fn clear(&self) {
        for processor in 0..self.processors() {
            // SAFETY: An entry of that type; what another processor counts
            // meanwhile may be lost.
            unsafe { self.counts(processor).write_bytes(0, 1) };
        }
    }

    /// Instructions of all processors in user and in kernel mode.
    fn instructions(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        for processor in 0..self.processors() {
            let counts = self.counts(processor);
            // SAFETY: As above.
            unsafe {
                sum.0 += (*counts).user;
                sum.1 += (*counts).kernel;
            }
        }
        sum
    }
}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();

/// Nobody panics with a lock, and if, then there is nothing to protect.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|error| error.into_inner())
}

impl Plugin {
    fn new(path: &str, only_modules: bool) -> Result<Self> {
        let file = |path: &str| File::create(path).map(BufWriter::new);
        // SAFETY: Any size will do; the memory is never freed.
        let board = unsafe { api::qemu_plugin_scoreboard_new(size_of::<Counts>()) };
        Ok(Self {
            board: Board(board),
            only_modules,
            blocks: Mutex::default(),
            output: Mutex::new(Output {
                counts: file(path)?,
                text: file(&format!("{path}.text"))?,
                intervals: 0,
                is_open: false,
                lap: (0, 0),
                laps: Vec::with_capacity(1 << 16),
            }),
        })
    }

    fn translated(&self, block: *mut Block) {
        // SAFETY: This and all others of this function: the block and its
        // instructions are those of the callback, which is not over.
        let (count, address) = unsafe {
            (
                api::qemu_plugin_tb_n_insns(block),
                api::qemu_plugin_tb_vaddr(block),
            )
        };
        let is_kernel = address >> 63 != 0;
        let mode = if is_kernel {
            std::mem::offset_of!(Counts, kernel)
        } else {
            std::mem::offset_of!(Counts, user)
        };
        let mut is_word = false;
        let mut lengths = vec![0; count];
        for (index, length) in lengths.iter_mut().enumerate() {
            let mut code = [0; CODE];
            // SAFETY: The index is that of an instruction, the length that of
            // the memory.
            let (instruction, len) = unsafe {
                let instruction = api::qemu_plugin_tb_get_insn(block, index);
                let to = code.as_mut_ptr().cast();
                let len = api::qemu_plugin_insn_data(instruction, to, CODE);
                (instruction, len)
            };
            let code = &code[..len];
            *length = len as u8;
            if is_kernel {
                self.watch_string(instruction, code);
            } else {
                if is_word {
                    watch_word(instruction);
                }
                is_word = watch_mark(instruction, code) == Some(Mark::Word);
            }
        }
        let place = if self.only_modules && !MODULES.contains(&address) {
            return;
        } else {
            lock(&self.blocks).place((address, lengths.into()))
        };
        let times = std::mem::offset_of!(Counts, blocks) + place * size_of::<u64>();
        for (offset, operand) in [(mode, count as u64), (times, 1)] {
            // SAFETY: The offsets are those of numbers in the entries.
            unsafe {
                api::qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
                    block,
                    api::ADD,
                    self.board.number(offset),
                    operand,
                );
            }
        }
    }

    fn watch_string(&self, instruction: *mut Instruction, code: &[u8]) {
        let Some(write) = StringWrite::of(code) else {
            return;
        };
        let offset = if write.copies {
            std::mem::offset_of!(Counts, copied)
        } else {
            std::mem::offset_of!(Counts, filled)
        };
        // SAFETY: An instruction of the block that is being translated.
        unsafe {
            api::qemu_plugin_register_vcpu_mem_inline_per_vcpu(
                instruction,
                api::WRITE,
                api::ADD,
                self.board.number(offset),
                write.bytes,
            );
        }
    }

    fn marked(&self, mark: Mark) {
        let mut output = lock(&self.output);
        match mark {
            Mark::Begin => {
                output.is_open = true;
                output.laps.clear();
                output.lap = (0, 0);
                self.board.clear();
            }
            Mark::Lap => {
                let now = self.board.instructions();
                let (user, kernel) = output.lap;
                output.laps.push((now.0 - user, now.1 - kernel));
                output.lap = now;
            }
            Mark::End => {
                if mem::take(&mut output.is_open) {
                    report(self.write(&mut output));
                }
            }
            Mark::Word => {}
        }
    }

    fn write(&self, output: &mut Output) -> Result<()> {
        let processors = self.board.processors();
        let counts = &mut output.counts;
        writeln!(counts, "interval {} {processors}", output.intervals)?;
        output.intervals += 1;
        for (user, kernel) in &output.laps {
            writeln!(counts, "lap {user} {kernel}")?;
        }
        for processor in 0..processors {
            let of = self.board.counts(processor);
            // SAFETY: An entry of that type.
            let (user, kernel, copied, filled) =
                unsafe { ((*of).user, (*of).kernel, (*of).copied, (*of).filled) };
            writeln!(
                counts,
                "count {processor} {user} {kernel} {copied} {filled}"
            )?;
        }
        let times = |place: usize| -> u64 {
            (0..processors)
                // SAFETY: As above, and the place is one of those that there are.
                .map(|processor| unsafe { (*self.board.counts(processor)).blocks[place] })
                .sum()
        };
        let blocks = lock(&self.blocks);
        for (place, (address, lengths)) in blocks.list.iter().enumerate() {
            let times = times(place);
            if times != 0 {
                let digits = lengths.iter().map(|len| format!("{len:x}"));
                let digits: String = digits.collect();
                writeln!(counts, "block {address:x} {digits} {times}")?;
            }
        }
        if times(BLOCKS - 1) != 0 {
            eprintln!("azihsm-bench-plugin: too many blocks");
        }
        writeln!(counts, "end")
    }

    fn flush(&self) -> Result<()> {
        self.marked(Mark::End);
        let mut output = lock(&self.output);
        output.counts.flush()?;
        output.text.flush()
    }

    fn word(&self, word: u64) -> Result<()> {
        lock(&self.output).text.write_all(&word.to_le_bytes())
    }
}

/// Says what went wrong; whoever reads the files sees that they are not complete.
fn report(result: Result<()>) {
    if let Err(error) = result {
        eprintln!("azihsm-bench-plugin: {error}");
    }
}

/// Has something done when a mark is executed.
fn watch_mark(instruction: *mut Instruction, code: &[u8]) -> Option<Mark> {
    let mark = Mark::of(code)?;
    // SAFETY: An instruction of the block that is being translated; the data is
    // a number.
    unsafe {
        api::qemu_plugin_register_vcpu_insn_exec_cb(
            instruction,
            on_mark,
            api::NO_REGISTERS,
            mark as usize as *mut c_void,
        );
    }
    Some(mark)
}

/// Has something done with what the instruction reads.
fn watch_word(instruction: *mut Instruction) {
    // SAFETY: An instruction of the block that is being translated.
    unsafe {
        api::qemu_plugin_register_vcpu_mem_cb(
            instruction,
            on_word,
            api::NO_REGISTERS,
            api::READ,
            null_mut(),
        );
    }
}

extern "C" fn on_translation(block: *mut Block, _: *mut c_void) {
    if let Some(plugin) = PLUGIN.get() {
        plugin.translated(block);
    }
}

extern "C" fn on_mark(_: c_uint, data: *mut c_void) {
    let mark = Mark::ALL
        .into_iter()
        .find(|&mark| mark as usize == data as usize);
    if let (Some(plugin), Some(mark)) = (PLUGIN.get(), mark) {
        plugin.marked(mark);
    }
}

extern "C" fn on_word(_: c_uint, access: u32, _: u64, _: *mut c_void) {
    // SAFETY: The access is that of the callback, which is not over.
    let value = unsafe { api::qemu_plugin_mem_get_value(access) };
    if let Some(plugin) = PLUGIN.get() {
        report(plugin.word(value.words[0]));
    }
}

extern "C" fn on_end(_: *mut c_void) {
    if let Some(plugin) = PLUGIN.get() {
        report(plugin.flush());
    }
}

/// The version of the interface that the plugin speaks.
#[no_mangle]
#[allow(non_upper_case_globals)]
pub static qemu_plugin_version: c_int = api::VERSION;

/// Called by QEMU when it loads the plugin.
///
/// # Safety
///
/// The arguments are those that QEMU passes.
#[no_mangle]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: QEMU says so.
    if !unsafe { (*info).is_system } {
        return 1;
    }
    let mut out = None;
    let mut only_modules = false;
    for index in 0..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: There are `argc` strings.
        let argument = unsafe { CStr::from_ptr(*argv.add(index)) };
        match argument.to_str().ok().and_then(|text| text.split_once('=')) {
            Some(("out", path)) => out = Some(path),
            Some(("modules", "on")) => only_modules = true,
            _ => {
                eprintln!("azihsm-bench-plugin: what is {argument:?}?");
                return 1;
            }
        }
    }
    let Some(path) = out else {
        eprintln!("azihsm-bench-plugin: out=FILE is missing");
        return 1;
    };
    match Plugin::new(path, only_modules) {
        Ok(plugin) => {
            PLUGIN.get_or_init(|| plugin);
        }
        Err(error) => {
            eprintln!("azihsm-bench-plugin: {path}: {error}");
            return 1;
        }
    }
    // SAFETY: The callbacks are those of this plugin, which is never unloaded.
    unsafe {
        api::qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation, null_mut());
        api::qemu_plugin_register_atexit_cb(id, on_end, null_mut());
    }
    0
}
