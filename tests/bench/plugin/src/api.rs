// SPDX-License-Identifier: GPL-2.0
//! The part of QEMU's plugin interface that is used, version 7.
//!
//! Debian has no package with the header, so these are declarations of our own,
//! of what QEMU documents ("TCG Plugins API").  QEMU refuses a plugin whose
//! version it does not speak, so a change cannot go unnoticed.

use std::ffi::c_char;
use std::ffi::c_int;
use std::ffi::c_uint;
use std::ffi::c_void;

/// Version of the interface.
pub const VERSION: c_int = 7;

/// The callback needs no registers.
pub const NO_REGISTERS: c_int = 0;
/// An inline operation adds.
pub const ADD: c_int = 0;
/// Accesses that read.
pub const READ: c_int = 1;
/// Accesses that write.
pub const WRITE: c_int = 2;

/// What the machine is like.
#[repr(C)]
pub struct Info {
    /// Architecture.
    pub target: *const c_char,
    /// Oldest version that QEMU speaks.
    pub oldest: c_int,
    /// Newest version that QEMU speaks.
    pub newest: c_int,
    /// Whether this is a whole machine.
    pub is_system: bool,
    /// Processors.
    pub processors: c_int,
    /// Most processors.
    pub max_processors: c_int,
}

/// Declares a type that only QEMU knows more of.
macro_rules! opaque {
    ($(#[$meta:meta] $name:ident;)*) => {
        $(
            #[$meta]
            #[repr(C)]
            pub struct $name {
                _private: [u8; 0],
            }
        )*
    };
}

opaque! {
    /// Instructions that are translated, and executed, in one piece.
    Block;
    /// One of them.
    Instruction;
    /// Memory with one entry for each processor.
    Scoreboard;
}

/// A number in the entries of a scoreboard.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Number {
    /// The scoreboard.
    pub board: *mut Scoreboard,
    /// Where it is in an entry.
    pub offset: usize,
}

/// What was read or written.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Value {
    /// Its type, as the binary logarithm of its bytes.
    pub shift: c_int,
    /// The value, filled up to 16 bytes.
    pub words: [u64; 2],
}

/// Called when a block is translated.
pub type OnTranslation = extern "C" fn(block: *mut Block, data: *mut c_void);
/// Called at the end.
pub type OnEnd = extern "C" fn(data: *mut c_void);
/// Called when something is executed.
pub type OnExecution = extern "C" fn(processor: c_uint, data: *mut c_void);
/// Called when memory is accessed.
pub type OnAccess = extern "C" fn(processor: c_uint, access: u32, address: u64, data: *mut c_void);

extern "C" {
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, call: OnTranslation, data: *mut c_void);
    pub fn qemu_plugin_register_atexit_cb(id: u64, call: OnEnd, data: *mut c_void);
    pub fn qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
        block: *mut Block,
        operation: c_int,
        number: Number,
        operand: u64,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        call: OnExecution,
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut Instruction,
        call: OnAccess,
        flags: c_int,
        kind: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_mem_inline_per_vcpu(
        instruction: *mut Instruction,
        kind: c_int,
        operation: c_int,
        number: Number,
        operand: u64,
    );
    pub fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    pub fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    pub fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    pub fn qemu_plugin_insn_data(
        instruction: *const Instruction,
        to: *mut c_void,
        len: usize,
    ) -> usize;
    pub fn qemu_plugin_mem_get_value(access: u32) -> Value;
    pub fn qemu_plugin_num_vcpus() -> c_int;
    pub fn qemu_plugin_scoreboard_new(size: usize) -> *mut Scoreboard;
    pub fn qemu_plugin_scoreboard_find(board: *mut Scoreboard, processor: c_uint) -> *mut c_void;
}
