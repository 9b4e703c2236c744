// SPDX-License-Identifier: GPL-2.0
//! Adding up and showing what came out.

use crate::machine::Outcome;
use crate::tap::Results;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// Everything that is wrong with a run apart from what its program said.
pub fn complaints(outcome: &Outcome) -> Vec<String> {
    let problems = outcome.problems.iter().cloned();
    let alarms = outcome
        .alarms
        .iter()
        .map(|line| format!("kernel log: {line}"));
    let violations = outcome.violations.iter().cloned();
    problems.chain(alarms).chain(violations).collect()
}

/// The end of the console, and where the rest is.
pub fn console(outcome: &Outcome, dir: &Path) -> Vec<String> {
    let mut lines = vec!["# ---- last lines of the console ----".to_owned()];
    lines.extend(outcome.tail.iter().map(|line| format!("# {line}")));
    lines.push(format!("# ---- logs: {} ----", dir.display()));
    lines
}

/// The result of one boot: the numbers, and the lines that explain them.
pub fn of_boot(
    name: &str,
    outcome: &Outcome,
    results: &Results,
    dir: &Path,
) -> (Totals, Vec<String>) {
    let mut machine = outcome.problems.clone();
    machine.extend(results.problems());
    if results.passed() + results.failed().len() == 0 {
        machine.push("no test was run".to_owned());
    }
    if outcome.exit.is_some_and(|code| code != 0) && results.failed().is_empty() {
        machine.push("the test program failed without saying so".to_owned());
    }
    let checks = [
        ("the machine ran to its end", machine.as_slice()),
        ("nothing alarming in the kernel log", &outcome.alarms),
        (
            "the driver kept the rules of the device",
            &outcome.violations,
        ),
    ];
    let mut totals = Totals {
        passed: results.passed(),
        failed: results.failed().len(),
    };
    let mut lines = Vec::new();
    for (what, findings) in checks {
        let verdict = if findings.is_empty() {
            totals.passed += 1;
            "ok"
        } else {
            totals.failed += 1;
            "not ok"
        };
        lines.push(format!("{verdict} - {name}: {what}"));
        lines.extend(findings.iter().map(|finding| format!("# {finding}")));
    }
    if totals.failed > 0 {
        lines.extend(console(outcome, dir));
    }
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    lines.push(format!(
        "# {name}: {totals}, {} to boot, {} in all",
        outcome.boot.map_or("never came".to_owned(), seconds),
        seconds(outcome.total)
    ));
    (totals, lines)
}

/// Which tests passed only when they were tried once more, if there are any.
pub fn second_tries(names: &[String]) -> Option<String> {
    let whose = match names.len() {
        0 => return None,
        1 => "1 test passed at its".to_owned(),
        count => format!("{count} tests passed at their"),
    };
    Some(format!("{whose} second try only: {}", names.join(", ")))
}

/// Results added up.
#[derive(Debug, Default)]
pub struct Totals {
    pub passed: usize,
    pub failed: usize,
}

impl Totals {
    /// Takes in those of one boot.
    pub fn add(&mut self, boot: &Self) {
        self.passed += boot.passed;
        self.failed += boot.failed;
    }

    /// Leaves out failures that are not final.
    pub fn excuse(&mut self, failures: usize) {
        self.failed = self.failed.saturating_sub(failures);
    }

    /// Whether something ran and nothing failed.
    pub fn good(&self) -> bool {
        self.passed > 0 && self.failed == 0
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::complaints;
    use super::of_boot;
    use super::second_tries;
    use super::Totals;
    use crate::machine::Outcome;
    use crate::tap::Results;
    use std::path::Path;

    fn totals(outcome: &Outcome, tap: &str) -> Totals {
        let mut results = Results::default();
        for line in tap.lines() {
            results.push(line);
        }
        of_boot("boot", outcome, &results, Path::new("/")).0
    }

    fn clean() -> Outcome {
        Outcome {
            exit: Some(0),
            ..Outcome::default()
        }
    }

    #[test]
    fn checks_count_as_tests() {
        let totals = totals(&clean(), "1..1\nok 1 - a\n");
        assert_eq!(totals.to_string(), "4 passed, 0 failed");
        assert!(totals.good());
    }

    #[test]
    fn running_nothing_is_a_failure() {
        assert!(!totals(&clean(), "1..0\n").good());
        assert!(!Totals::default().good());
    }

    #[test]
    fn each_kind_of_finding_fails_one_check() {
        let tap = "1..1\nok 1 - a\n";
        let mut outcome = clean();
        outcome.alarms = vec!["BUG: a".to_owned(), "BUG: b".to_owned()];
        assert_eq!(totals(&outcome, tap).to_string(), "3 passed, 1 failed");
        outcome.violations = vec!["rule".to_owned()];
        assert_eq!(totals(&outcome, tap).to_string(), "2 passed, 2 failed");
        outcome.problems = vec!["QEMU".to_owned()];
        assert_eq!(totals(&outcome, tap).to_string(), "1 passed, 3 failed");
        assert_eq!(complaints(&outcome).len(), 4);
    }

    #[test]
    fn an_exit_code_without_a_failed_test_is_a_failure() {
        let outcome = Outcome {
            exit: Some(1),
            ..Outcome::default()
        };
        assert!(!totals(&outcome, "1..1\nok 1 - a\n").good());
    }

    #[test]
    fn second_tries_are_told() {
        let names = ["a".to_owned(), "b".to_owned()];
        assert_eq!(second_tries(&[]), None);
        assert_eq!(
            second_tries(&names[..1]).unwrap(),
            "1 test passed at its second try only: a"
        );
        assert_eq!(
            second_tries(&names).unwrap(),
            "2 tests passed at their second try only: a, b"
        );
    }
}
