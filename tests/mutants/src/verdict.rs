// SPDX-License-Identifier: GPL-2.0
//! What the output of a virtual machine, or of `cargo test`, says about a mutant.

use std::fmt;

/// What became of a mutant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// These tests failed.
    Tests(Vec<String>),
    /// No test said so, but the machine, or the program, failed: it died, or was too slow, or
    /// a check of all that it did was not passed.  That may have been the host.
    Once(String),
    /// The same, and when it was tried once more it failed again.
    Twice(String),
    /// Nothing failed.
    Survived,
    /// Nothing is known.
    Error(String),
}

impl Verdict {
    /// Reads the output of `azihsm-vm test`.
    pub fn of_machine(output: &str) -> Self {
        let mut tests = Vec::new();
        let mut machine = None;
        let mut ran = 0;
        let mut complete = false;
        let mut lines = output.lines().peekable();
        while let Some(line) = lines.next() {
            if let Some((ok, name)) = test(line, " - ") {
                ran += 1;
                if !ok {
                    tests.push(name.to_owned());
                }
            } else if let Some(check) = line.strip_prefix("not ok - ") {
                // The first of the lines behind it says what was found.
                let found = lines.peek().and_then(|next| next.strip_prefix("# "));
                machine.get_or_insert_with(|| match found {
                    Some(found) => format!("not so: {check} ({found})"),
                    None => format!("not so: {check}"),
                });
            }
            complete |= is_total(line);
        }
        let booted = output.lines().any(|line| line.starts_with("TAP version"));
        let none = output.lines().any(|line| line == "1..0");
        match machine {
            _ if !complete => Self::Error("the machine was not run".to_owned()),
            _ if !booted => Self::Error("the machine did not boot".to_owned()),
            _ if none => Self::Error("no test has such a name".to_owned()),
            _ if !tests.is_empty() => Self::Tests(tests),
            Some(what) => Self::Once(what),
            None if ran == 0 => Self::Error("no test was run".to_owned()),
            None => Self::Survived,
        }
    }

    /// Reads what `azihsm-vm test` prints of unit tests inside the kernel, of which those called
    /// `names` count.
    pub fn of_unit_tests(output: &str, names: &[String]) -> Self {
        let mut suite = "";
        let mut ran = 0;
        let mut failed = Vec::new();
        let mut problem = None;
        let mut complete = false;
        for line in output.lines() {
            complete |= is_total(line);
            if let Some(check) = line.strip_prefix("not ok - ") {
                problem.get_or_insert_with(|| format!("not so: {check}"));
            }
            let Some(inner) = line.strip_prefix("    ") else {
                continue;
            };
            if let Some(name) = inner.strip_prefix("# Subtest: ") {
                suite = name;
            } else if let Some((ok, name)) = test(inner, " ") {
                if names.iter().any(|one| one == name) {
                    ran += 1;
                    if !ok {
                        failed.push(format!("{suite}/{name}"));
                    }
                }
            }
        }
        match problem {
            _ if !complete => Self::Error("the machine was not run".to_owned()),
            _ if !failed.is_empty() => Self::Tests(failed),
            Some(what) => Self::Once(what),
            None if ran == 0 => Self::Error("no test has such a name".to_owned()),
            None => Self::Survived,
        }
    }

    /// Reads the output of `cargo test`, which `ended` by itself or was ended for being too slow.
    pub fn of_cargo(output: &str, ended: bool) -> Self {
        let mut tests = Vec::new();
        let mut ran = 0;
        let mut complete = false;
        let mut running = None;
        for line in output.lines() {
            complete |= line.starts_with("test result: ");
            let Some(rest) = line.strip_prefix("test ") else {
                continue;
            };
            // The second half comes when it has ended.
            let Some((name, end)) = rest.split_once(" ... ") else {
                continue;
            };
            ran += 1;
            running = None;
            match end {
                "ok" => {}
                "FAILED" => tests.push(name.to_owned()),
                _ => running = Some(name.to_owned()),
            }
        }
        match running {
            _ if !tests.is_empty() => Self::Tests(tests),
            Some(name) if ended => Self::Once(format!("the program died in {name}")),
            Some(name) => Self::Once(format!("too slow: {name}")),
            None if !complete => Self::Error("the tests were not run".to_owned()),
            None if ran == 0 => Self::Error("no test has such a name".to_owned()),
            None => Self::Survived,
        }
    }

    /// Whether it may be another one the next time.
    pub fn is_doubtful(&self) -> bool {
        matches!(self, Self::Once(_) | Self::Error(_))
    }

    /// Takes in what came out when it was tried once more.
    pub fn again(self, second: Self) -> Self {
        match (self, second) {
            (Self::Once(first), Self::Once(second)) if first == second => Self::Twice(first),
            (Self::Once(first), Self::Once(second)) => {
                Self::Twice(format!("{first}; then {second}"))
            }
            (Self::Once(first), Self::Survived) => Self::Once(first),
            (_, second) => second,
        }
    }

    /// Whether something noticed.
    pub fn is_caught(&self) -> bool {
        matches!(self, Self::Tests(_) | Self::Twice(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tests(names) if names.len() > 1 => {
                write!(f, "failed: {} and {} more", names[0], names.len() - 1)
            }
            Self::Tests(names) => write!(f, "failed: {}", names.join(", ")),
            Self::Once(what) => write!(f, "only once: {what}"),
            Self::Twice(what) => write!(f, "no test said so, but twice {what}"),
            Self::Survived => write!(f, "nothing failed"),
            Self::Error(what) => write!(f, "{what}"),
        }
    }
}

/// Whether the test that this line is about passed, and its name, which is behind its number
/// and `separator`.
fn test<'a>(line: &'a str, separator: &str) -> Option<(bool, &'a str)> {
    let (ok, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (number, name) = rest.split_once(separator)?;
    number.parse::<u32>().ok()?;
    Some((ok, name))
}

/// Whether this is the last line of a run: numbers of what passed and failed.
fn is_total(line: &str) -> bool {
    line.strip_suffix(" failed")
        .and_then(|rest| rest.split_once(" passed, "))
        .is_some_and(|(passed, failed)| {
            passed.parse::<u32>().is_ok() && failed.parse::<u32>().is_ok()
        })
}

#[cfg(test)]
mod tests {
    use super::Verdict;

    const GOOD: &str = "\
TAP version 14
1..2
ok 1 - hsm/one
ok 2 - hsm/two
ok - tests: the machine ran to its end
# tests: 3 passed, 0 failed, 5.5 s to boot, 6.1 s in all
3 passed, 0 failed
";

    #[test]
    fn tests_that_fail_are_named() {
        assert_eq!(Verdict::of_machine(GOOD), Verdict::Survived);
        let bad = GOOD.replace("ok 2", "not ok 2");
        let verdict = Verdict::of_machine(&bad);
        assert_eq!(verdict, Verdict::Tests(vec!["hsm/two".to_owned()]));
        assert_eq!(verdict.to_string(), "failed: hsm/two");
        assert!(verdict.is_caught() && !verdict.is_doubtful());
    }

    #[test]
    fn a_machine_that_dies_is_told_from_tests_that_fail() {
        let text = GOOD.replace("ok 2 - hsm/two\n", "");
        let text = text.replace("its end\n", "its end\n# it was too slow\n");
        let text = text.replace("ok - tests", "not ok - tests");
        let verdict = Verdict::of_machine(&text);
        let what = "not so: tests: the machine ran to its end (it was too slow)";
        assert_eq!(verdict, Verdict::Once(what.to_owned()));
        assert!(verdict.is_doubtful() && !verdict.is_caught());
        let both = text.replace("ok 1", "not ok 1");
        assert_eq!(
            Verdict::of_machine(&both),
            Verdict::Tests(vec!["hsm/one".to_owned()])
        );
    }

    #[test]
    fn a_machine_that_fails_counts_if_it_fails_again() {
        let once = |what: &str| Verdict::Once(what.to_owned());
        let tests = Verdict::Tests(vec!["hsm/one".to_owned()]);
        let twice = once("dead").again(once("dead"));
        assert_eq!(twice, Verdict::Twice("dead".to_owned()));
        assert!(twice.is_caught() && !twice.is_doubtful());
        let differently = once("dead").again(once("slow"));
        assert_eq!(differently, Verdict::Twice("dead; then slow".to_owned()));
        assert_eq!(once("dead").again(tests.clone()), tests);
        let not_again = once("dead").again(Verdict::Survived);
        assert_eq!(not_again, once("dead"));
        assert!(!not_again.is_caught());
        assert_eq!(not_again.to_string(), "only once: dead");
        let error = Verdict::Error("not run".to_owned());
        assert_eq!(error.clone().again(tests.clone()), tests);
        assert_eq!(once("dead").again(error.clone()), error);
        // What failed then has failed once.
        assert!(!error.again(once("dead")).is_caught());
    }

    #[test]
    fn a_machine_that_did_not_run_proves_nothing() {
        let not_booted = "not ok - tests: the machine ran to its end\n0 passed, 1 failed\n";
        for text in [
            "",
            not_booted,
            "TAP version 14\n1..0\nnot ok - a: b\n0 passed, 1 failed\n",
            "TAP version 14\n1..1\nnot ok 1 - hsm/one\n",
        ] {
            let verdict = Verdict::of_machine(text);
            assert!(matches!(verdict, Verdict::Error(_)), "{text}: {verdict}");
            assert!(!verdict.is_caught() && verdict.is_doubtful());
        }
    }

    const GOOD_UNIT_TESTS: &str = "\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: azihsm_some
    1..2
    # one.speed: normal
    ok 1 one
    ok 2 two
ok 1 azihsm_some
ok - kunit: the machine ran to its end
# kunit: 2 passed, 0 failed, 5.5 s to boot, 6.1 s in all
2 passed, 0 failed
";

    #[test]
    fn unit_tests_that_fail_are_named() {
        let two = ["two".to_owned()];
        let of = |text: &str| Verdict::of_unit_tests(text, &two);
        assert_eq!(of(GOOD_UNIT_TESTS), Verdict::Survived);
        let bad = GOOD_UNIT_TESTS.replace("    ok 2 two", "    not ok 2 two");
        assert_eq!(of(&bad), Verdict::Tests(vec!["azihsm_some/two".to_owned()]));
        // Another one is not what the list says.
        let bad = GOOD_UNIT_TESTS.replace("    ok 1 one", "    not ok 1 one");
        assert_eq!(of(&bad), Verdict::Survived);
        let dead = GOOD_UNIT_TESTS.replace("ok - kunit", "not ok - kunit");
        let what = "not so: kunit: the machine ran to its end";
        assert_eq!(of(&dead), Verdict::Once(what.to_owned()));
        for text in ["", "2 passed, 0 failed\n"] {
            assert!(matches!(of(text), Verdict::Error(_)));
        }
    }

    const GOOD_CARGO: &str = "
running 2 tests
test parts::one ... ok
test parts::two ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.01s
";

    #[test]
    fn tests_of_cargo_that_fail_are_named() {
        assert_eq!(Verdict::of_cargo(GOOD_CARGO, true), Verdict::Survived);
        let bad = GOOD_CARGO.replace("two ... ok", "two ... FAILED");
        assert_eq!(
            Verdict::of_cargo(&bad, true),
            Verdict::Tests(vec!["parts::two".to_owned()])
        );
    }

    #[test]
    fn a_program_that_dies_is_told_from_one_that_is_too_slow() {
        let text = "running 2 tests\ntest parts::one ... ok\ntest parts::two ... ";
        let dead = Verdict::of_cargo(text, true);
        assert_eq!(dead, Verdict::Once("the program died in parts::two".into()));
        let slow = Verdict::of_cargo(text, false);
        assert_eq!(slow, Verdict::Once("too slow: parts::two".to_owned()));
    }

    #[test]
    fn tests_of_cargo_that_were_not_run_prove_nothing() {
        let none = "running 0 tests\n\ntest result: ok. 0 passed; 0 failed; 3 filtered out\n";
        for text in ["", "error: no such command", none] {
            let verdict = Verdict::of_cargo(text, true);
            assert!(matches!(verdict, Verdict::Error(_)), "{text}: {verdict}");
        }
    }
}
