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

#[cfg(test)]
mod tests {
    use super::Scanner;

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
