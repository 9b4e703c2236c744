// SPDX-License-Identifier: GPL-2.0
//! Finding what must not be in a kernel log.

use regex::Regex;
use regex::RegexSet;

/// What the kernel prints when something is wrong.
const ALARMING: &[&str] = &[
    r"\bWARNING: ",
    r"\bBUG: ",
    r"\bkernel BUG at ",
    r"\bOops\b",
    r"\bKASAN\b.*:",
    r"\bUBSAN\b",
    r"\bKernel panic\b",
    r"\bCall Trace:",
    r"\bgeneral protection fault\b",
    r"\bunable to handle\b",
    r"\bDMA-API: ",
    r"\bDMAR: .*fault\b",
    r"\birq \d+: nobody cared\b",
    r"\bpossible circular locking dependency\b",
    r"\bpossible recursive locking\b",
    r"\binconsistent lock state\b",
    r"\bINFO: (lockdep|task|rcu|possible)",
    r"\brcu: INFO:",
    r"\bsoft lockup\b",
    r"\brefcount_t: ",
    r"\bunreferenced object\b",
    r"\bkmemleak: \d+ new suspected memory leaks\b",
    r"\blist_(add|del) corruption\b",
    r"\bsysfs: cannot create duplicate\b",
    r"\bslab .*corruption\b",
    r"\bdebugfs: .*already present\b",
];

/// Lines that are alarming and yet expected; each says what prints it.
const EXPECTED: &[&str] = &[
    // A kernel that looks after DMA says so when it starts.
    r"\bDMA-API: (preallocated \d+ debug entries|debugging enabled by kernel config)$",
];

/// Finds the alarming lines.
pub struct Scanner {
    alarming: RegexSet,
    expected: RegexSet,
    escape: Regex,
}

impl Scanner {
    /// A scanner that knows what is alarming, and what is expected.
    pub fn new() -> Self {
        Self::with(ALARMING, EXPECTED)
    }

    fn with(alarming: &[&str], expected: &[&str]) -> Self {
        Self {
            alarming: RegexSet::new(alarming).expect("constant"),
            expected: RegexSet::new(expected).expect("constant"),
            escape: Regex::new(r"\x1b\[[0-9;?]*[a-zA-Z]").expect("constant"),
        }
    }

    /// Whether this line of a kernel log must not be there.
    pub fn is_alarming(&self, line: &str) -> bool {
        self.alarming.is_match(line) && !self.expected.is_match(line)
    }

    /// A line of a console without what only a terminal understands.
    pub fn clean(&self, line: &str) -> String {
        self.escape.replace_all(line, "").trim_end().to_owned()
    }
}

/// Finds out that an emulated processor ran code which the kernel had replaced.
///
/// To replace an instruction the kernel has processors stop at it, by the one byte
/// `cc`, and waits until they all have seen what it writes in the end.  What the
/// emulator has translated meanwhile may keep that byte for good.  A processor that
/// stops there later finds nobody who is replacing anything, and the kernel gives up;
/// the code that it prints is what is in memory, without that byte.
pub struct OldCode {
    stopped: bool,
    found: bool,
    code: Regex,
}

impl OldCode {
    /// One that has seen no line yet.
    pub fn new() -> Self {
        Self {
            stopped: false,
            found: false,
            // The byte in brackets is the one behind that at which it stopped.
            code: Regex::new(r"\] Code: .*\b([0-9a-f]{2}) <[0-9a-f]{2}>").expect("constant"),
        }
    }

    /// Takes in a line of the console.
    pub fn push(&mut self, line: &str) {
        if line.contains("] Oops: int3: ") {
            self.stopped = true;
        } else if let (true, Some(code)) = (self.stopped, self.code.captures(line)) {
            self.found |= &code[1] != "cc";
            self.stopped = false;
        }
    }

    /// Whether it was so.
    pub fn was_run(&self) -> bool {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::OldCode;
    use super::Scanner;

    fn ran_old_code(log: &str) -> bool {
        let mut old = OldCode::new();
        log.lines().for_each(|line| old.push(line));
        old.was_run()
    }

    #[test]
    fn old_code_is_told_from_what_is_there() {
        let log = "[  271.906124] Oops: int3: 0000 [#1] SMP NOPTI\n\
            [  271.918953] RIP: 0010:__schedule+0x30c/0x1080\n\
            [  271.919725] Code: ba 01 00 e9 e5 05 00 00 0f <1f> 44 00 00 49 8b 44\n";
        assert!(ran_old_code(log));
        assert!(!ran_old_code(&log.replace("0f <1f>", "cc <1f>")));
        assert!(!ran_old_code(
            &log.replace("int3", "general protection fault")
        ));
        assert!(!ran_old_code(log.rsplit_once("] Code:").unwrap().0));
        let later = log.replace("0f <1f>", "cc <1f>") + log.rsplit_once('\n').unwrap().0;
        assert!(ran_old_code(&later));
        let another = "[  271.9] Code: ba 01 00 e9 e5 05 00 00 0f <1f> 44\n";
        assert!(!ran_old_code(another));
    }

    #[test]
    fn splats_are_alarming() {
        let scanner = Scanner::new();
        for line in [
            "[    1.0] WARNING: CPU: 0 PID: 1 at kernel/irq/manage.c:1 free_irq+0x1",
            "[    1.0] BUG: KASAN: slab-use-after-free in foo+0x1",
            "[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "[    1.0] Oops: 0000 [#1] PREEMPT SMP",
            "[    1.0] Call Trace:",
            "[    1.0] WARNING: possible circular locking dependency detected",
            "[    1.0] DMA-API: azihsm 0000:01:00.0: device driver frees DMA memory",
            "[    1.0] irq 24: nobody cared (try booting with the \"irqpoll\" option)",
            "[    1.0] INFO: task x:1 blocked for more than 20 seconds.",
            "[    1.0] Kernel panic - not syncing: Fatal exception",
            "[    1.0] watchdog: BUG: soft lockup - CPU#1 stuck for 26s!",
            "[    1.0] DMAR: [DMA Write] Request device [01:00.0] fault addr 0x0",
            "[    1.0] refcount_t: underflow; use-after-free.",
        ] {
            assert!(scanner.is_alarming(line), "{line}");
        }
    }

    #[test]
    fn ordinary_lines_are_not() {
        let scanner = Scanner::new();
        for line in [
            "[    1.0] azihsm 0000:01:00.0: azihsm0: HSM device ready",
            "[    1.0] azihsm: loading out-of-tree module taints kernel.",
            "[    1.0] debug: BUGS are elsewhere",
            "[    1.0] DMAR: IOMMU enabled",
            "[    1.0] DMA-API: preallocated 65536 debug entries",
            "[    1.0] DMA-API: debugging enabled by kernel config",
            "",
        ] {
            assert!(!scanner.is_alarming(line), "{line}");
        }
    }

    #[test]
    fn expected_lines_are_not() {
        let scanner = Scanner::with(&["BUG: "], &["BUG: known"]);
        assert!(!scanner.is_alarming("BUG: known"));
        assert!(scanner.is_alarming("BUG: new"));
    }

    #[test]
    fn terminal_sequences_are_dropped() {
        let scanner = Scanner::new();
        assert_eq!(scanner.clean("\x1b[2J\x1b[1;1Hhello\r"), "hello");
    }
}
