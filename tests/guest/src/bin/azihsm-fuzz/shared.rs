// SPDX-License-Identifier: GPL-2.0
//! What the processes of a run have in common: figures, keys, the end.
//!
//! It outlives processes that are killed in the middle of a call.

use crate::raw::share;
use crate::raw::Share;
use anyhow::Result;
use azihsm_uapi::abi;
use azihsm_uapi::abi::ext;
use azihsm_uapi::Errno;
use std::fmt::Write;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Most worker processes, and threads in each that issue calls.
pub const WORKERS: usize = 16;
pub const THREADS: usize = 4;

/// Kinds of calls that are counted on their own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Hsm,
    Info,
    Reset,
    Gcm,
    Xts,
    /// Numbers that the driver does not know.
    Unknown,
    /// Whatever number, by a process that did not open the descriptor.
    Foreign,
    /// From a 32-bit program.
    Compat,
    /// System calls other than ioctl.
    Other,
}

const KINDS: [(Kind, &str); 9] = [
    (Kind::Hsm, "HSM_CMD"),
    (Kind::Info, "DEV_INFO"),
    (Kind::Reset, "RESET"),
    (Kind::Gcm, "AES_GCM"),
    (Kind::Xts, "AES_XTS"),
    (Kind::Unknown, "unknown"),
    (Kind::Foreign, "foreign"),
    (Kind::Compat, "32-bit"),
    (Kind::Other, "no ioctl"),
];

impl Kind {
    /// The kind of an ioctl.
    pub fn of(number: u32) -> Self {
        match number {
            abi::IOC_HSM_CMD => Self::Hsm,
            abi::IOC_DEV_INFO => Self::Info,
            abi::IOC_RESET => Self::Reset,
            abi::IOC_AES_GCM => Self::Gcm,
            abi::IOC_AES_XTS => Self::Xts,
            _ => Self::Unknown,
        }
    }
}

/// What a call can end with, and how that is shown.
const ERRNOS: &[(i32, &str)] = &[
    (0, "0"),
    (DEVICE, "refused by the device"),
    (5, "EIO"),
    (9, "EBADF"),
    (11, "EAGAIN"),
    (12, "ENOMEM"),
    (13, "EACCES"),
    (14, "EFAULT"),
    (16, "EBUSY"),
    (19, "ENODEV"),
    (22, "EINVAL"),
    (25, "ENOTTY"),
    (29, "ESPIPE"),
    (56, "EBADRQC"),
];

/// What a call returned, in short.
pub fn name_of(result: Result<i32, Errno>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(errno) => {
            let code = errno.raw_os_error();
            let known = ERRNOS.iter().find(|(known, _)| *known == code);
            known.map_or(format!("errno {code}"), |(_, text)| (*text).to_owned())
        }
    }
}

/// Stands for success with a status of the device that is none.
const DEVICE: i32 = -1;

/// Extended statuses that are counted on their own.
const LAST_HSM: u32 = 15;
const FIRST_AES: u32 = 100;
const LAST_AES: u32 = 118;
const EXTS: usize = (LAST_HSM + 1 + LAST_AES - FIRST_AES + 1) as usize + 3;

fn slot_of_ext(code: u32) -> usize {
    const AES: usize = LAST_HSM as usize + 1;
    match code {
        0..=LAST_HSM => code as usize,
        FIRST_AES..=LAST_AES => AES + (code - FIRST_AES) as usize,
        ext::RECOVERING => EXTS - 3,
        ext::ABORTED => EXTS - 2,
        _ => EXTS - 1,
    }
}

fn name_of_ext(slot: usize) -> String {
    let known = (0..=LAST_HSM).chain(FIRST_AES..=LAST_AES);
    match slot {
        slot if slot == EXTS - 3 => " RECOVERING".to_owned(),
        slot if slot == EXTS - 2 => " ABORTED".to_owned(),
        slot if slot == EXTS - 1 => " ?".to_owned(),
        slot => match known.into_iter().find(|&code| slot_of_ext(code) == slot) {
            Some(0) | None => String::new(),
            Some(code) => format!(" {code}"),
        },
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct End {
    /// What it returned; `None` if that was success.
    pub errno: Option<Errno>,
    /// Extended status, if it has one and it could be read.
    pub ext: u32,
    /// Whether the device refused the command.
    pub refused: bool,
}

impl End {
    /// The end of a call that has nothing but a return value.
    pub fn plain<T>(result: &Result<T, Errno>) -> Self {
        Self {
            errno: result.as_ref().err().copied(),
            ext: 0,
            refused: false,
        }
    }

    /// It in short.
    pub fn describe(self) -> String {
        let ext = name_of_ext(slot_of_ext(self.ext));
        match self.errno {
            Some(errno) => format!("{}{ext}", name_of(Err(errno))),
            None if self.refused => "refused by the device".to_owned(),
            None => "success".to_owned(),
        }
    }

    fn slot(self) -> usize {
        let code = match self.errno {
            Some(errno) => errno.raw_os_error(),
            None if self.refused => DEVICE,
            None => 0,
        };
        let errno = ERRNOS
            .iter()
            .position(|(known, _)| *known == code)
            .unwrap_or(ERRNOS.len());
        let ext = if self.refused {
            0
        } else {
            slot_of_ext(self.ext)
        };
        errno * EXTS + ext
    }
}

const ENDS: usize = (ERRNOS.len() + 1) * EXTS;

/// A property of the driver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Property {
    Returns,
    Output,
    Untouched,
    NotWritten,
    Unknown,
    Foreign,
    Operations,
    Results,
    Ends,
    Serves,
}

/// All properties that are checked while calls are made, and how they are
/// stated.
pub const PROPERTIES: &[(Property, &str)] = &[
    (
        Property::Returns,
        "every call returns what the tables of the ABI say it may",
    ),
    (
        Property::Output,
        "what is written to structures is within its limits, and belongs to the call",
    ),
    (
        Property::Untouched,
        "nothing else is written, next to structures and replies or in them",
    ),
    (
        Property::NotWritten,
        "nothing at all is written where the ABI says so",
    ),
    (Property::Unknown, "unknown numbers fail with EBADRQC"),
    (
        Property::Foreign,
        "descriptors fail with EACCES for other processes, with ENOTTY for 32-bit ones",
    ),
    (
        Property::Operations,
        "other operations on descriptors do what the ABI says",
    ),
    (
        Property::Results,
        "answers and AES results are right, wherever their buffers are",
    ),
    (
        Property::Ends,
        "every call comes to an end, and every process that is killed",
    ),
    (Property::Serves, "the driver serves others meanwhile"),
];

/// Keys that the device has: GCM, approved GCM, two for XTS.
pub const KEYS: usize = 4;

/// See the [module](self).
#[derive(Debug)]
pub struct Shared {
    /// Workers are to come to an end.
    stop: AtomicBool,
    /// Identifiers of the keys, plus one; 0 if there is none.
    keys: [AtomicU32; KEYS],
    counts: [[AtomicU64; ENDS]; KINDS.len()],
    /// How often each property was looked at.
    checks: [AtomicU64; PROPERTIES.len()],
    /// When each thread began its call, in milliseconds since the machine was
    /// started; 0 if it is not in one.
    since: [[AtomicU64; THREADS]; WORKERS],
    /// Findings that were lost because there were too many.
    lost: AtomicU64,
    /// Successful AES commands whose data was accessed in place.
    in_place: AtomicU64,
    /// Calls whose memory changed meanwhile.
    raced: AtomicU64,
    /// Sessions that were opened.
    opened: AtomicU64,
}

// SAFETY: Nothing but atomics, of which zeros are a value.
unsafe impl Share for Shared {}

/// What is counted besides calls.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Deed {
    InPlace,
    Raced,
    Opened,
    Lost,
}

impl Shared {
    /// A new one, for all processes that are forked from now on.
    pub fn new() -> Result<&'static Self> {
        share()
    }

    /// Has workers come to an end.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Whether workers are to come to an end.
    pub fn is_over(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Says which keys there are.
    pub fn set_keys(&self, ids: [Option<u32>; KEYS]) {
        for (key, id) in self.keys.iter().zip(ids) {
            key.store(id.map_or(0, |id| id + 1), Relaxed);
        }
    }

    /// The identifier of key `number`, if there is one.
    pub fn key(&self, number: usize) -> Option<u32> {
        self.keys[number].load(Relaxed).checked_sub(1)
    }

    /// Counts a call.
    pub fn count(&self, kind: Kind, end: End) {
        self.counts[kind as usize][end.slot()].fetch_add(1, Relaxed);
    }

    /// How many calls there were that ended like this.
    pub fn counted(&self, kind: Kind, end: End) -> u64 {
        self.counts[kind as usize][end.slot()].load(Relaxed)
    }

    /// How many calls of a kind there were.
    pub fn calls_of(&self, kind: Kind) -> u64 {
        let counts = &self.counts[kind as usize];
        counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// How many calls there were.
    pub fn calls(&self) -> u64 {
        self.counts
            .iter()
            .flatten()
            .map(|count| count.load(Relaxed))
            .sum()
    }

    /// Counts something else.
    pub fn note(&self, deed: Deed) {
        self.deed(deed).fetch_add(1, Relaxed);
    }

    /// How often that was.
    pub fn noted(&self, deed: Deed) -> u64 {
        self.deed(deed).load(Relaxed)
    }

    fn deed(&self, deed: Deed) -> &AtomicU64 {
        match deed {
            Deed::InPlace => &self.in_place,
            Deed::Raced => &self.raced,
            Deed::Opened => &self.opened,
            Deed::Lost => &self.lost,
        }
    }

    /// Takes note that a property was looked at.
    pub fn checked(&self, property: Property) {
        self.checks[property as usize].fetch_add(1, Relaxed);
    }

    /// How often a property was looked at.
    pub fn checks(&self, property: Property) -> u64 {
        self.checks[property as usize].load(Relaxed)
    }

    /// Takes note that a thread begins a call.
    pub fn begin(&self, worker: usize, thread: usize) {
        self.since[worker][thread].store(uptime_ms(), Relaxed);
    }

    /// Takes note that its call has ended.
    pub fn end(&self, worker: usize, thread: usize) {
        self.since[worker][thread].store(0, Relaxed);
    }

    /// Takes note that a worker is gone, and its calls with it.
    pub fn gone(&self, worker: usize) {
        for thread in 0..THREADS {
            self.end(worker, thread);
        }
    }

    /// The longest time that a thread of a worker has been in its call.
    pub fn longest(&self, worker: usize) -> Duration {
        let now = uptime_ms();
        let longest = self.since[worker]
            .iter()
            .map(|since| since.load(Relaxed))
            .filter(|&since| since != 0)
            .map(|since| now.saturating_sub(since))
            .max();
        Duration::from_millis(longest.unwrap_or(0))
    }

    /// The figures, one line for each kind of call.
    pub fn figures(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (kind, name) in KINDS {
            let mut line = format!("{name}: {} calls", self.calls_of(kind));
            for (slot, count) in self.counts[kind as usize].iter().enumerate() {
                let count = count.load(Relaxed);
                if count == 0 {
                    continue;
                }
                let errno = ERRNOS.get(slot / EXTS).map_or("other", |(_, text)| text);
                // Writing to a string does not fail.
                let _ = write!(line, ", {errno}{} {count}", name_of_ext(slot % EXTS));
            }
            lines.push(line);
        }
        lines
    }
}

/// Milliseconds since the machine was started, the same for all processes.
fn uptime_ms() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| {
            time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000
        })
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        let shared = Shared::new().unwrap();
        let end = |errno, ext, refused| End {
            errno,
            ext,
            refused,
        };
        let ends = [
            end(None, 0, false),
            end(None, 6, true),
            end(Some(Errno::INVAL), 0, false),
            end(Some(Errno::INVAL), 15, false),
            end(Some(Errno::INVAL), 100, false),
            end(Some(Errno::INVAL), 118, false),
            end(Some(Errno::AGAIN), ext::ABORTED, false),
            end(Some(Errno::AGAIN), 99, false),
            end(Some(Errno::PERM), 0, false),
        ];
        for (times, &end) in ends.iter().enumerate() {
            for _ in 0..=times {
                shared.count(Kind::Xts, end);
            }
        }
        for (times, &end) in ends.iter().enumerate() {
            assert_eq!(shared.counted(Kind::Xts, end), times as u64 + 1);
        }
        let line = shared.figures()[Kind::Xts as usize].clone();
        assert_eq!(
            line,
            "AES_XTS: 45 calls, 0 1, refused by the device 2, EAGAIN ABORTED 7, EAGAIN ? 8, \
             EINVAL 3, EINVAL 15 4, EINVAL 100 5, EINVAL 118 6, other 9"
        );
        assert_eq!(shared.calls(), 45);
    }

    #[test]
    fn tables_are_in_the_order_of_their_kinds() {
        for (index, (kind, _)) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
        for (index, (property, _)) in PROPERTIES.iter().enumerate() {
            assert_eq!(*property as usize, index);
        }
    }
}
