// SPDX-License-Identifier: GPL-2.0
//! Reading the results of the guest's test program: TAP version 14, without
//! subtests.

/// What one line says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Line {
    /// As many tests follow.
    Plan(usize),
    /// One test has ended.
    Test {
        /// Whether it passed.
        ok: bool,
        /// Its number.
        number: usize,
        /// Its name.
        name: String,
        /// Why it was not run.
        skipped: Option<String>,
    },
    /// The tests cannot go on.
    BailOut(String),
    /// Anything else: comments, diagnostics, the version.
    Other,
}

impl Line {
    /// Reads one line.
    pub fn parse(line: &str) -> Self {
        Self::plan(line)
            .or_else(|| Self::test(line))
            .or_else(|| Self::bail_out(line))
            .unwrap_or(Self::Other)
    }

    fn plan(line: &str) -> Option<Self> {
        let count = line.strip_prefix("1..")?;
        let count = count.split_whitespace().next()?;
        Some(Self::Plan(count.parse().ok()?))
    }

    fn test(line: &str) -> Option<Self> {
        let (ok, rest) = match line.strip_prefix("not ok ") {
            Some(rest) => (false, rest),
            None => (true, line.strip_prefix("ok ")?),
        };
        let (number, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let number = number.parse().ok()?;
        let rest = rest.strip_prefix("- ").unwrap_or(rest);
        let hash = rest
            .match_indices('#')
            .find(|&(at, _)| at == 0 || rest[..at].ends_with(' '));
        let (name, directive) = match hash {
            Some((at, _)) => (&rest[..at], rest[at + 1..].trim()),
            None => (rest, ""),
        };
        let skipped = directive
            .strip_prefix("SKIP")
            .filter(|reason| reason.is_empty() || reason.starts_with(' '));
        Some(Self::Test {
            ok,
            number,
            name: name.trim().to_owned(),
            skipped: skipped.map(|reason| reason.trim().to_owned()),
        })
    }

    fn bail_out(line: &str) -> Option<Self> {
        let reason = line.strip_prefix("Bail out!")?;
        Some(Self::BailOut(reason.trim().to_owned()))
    }
}

/// What came out of one test.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// The results so far.
#[derive(Debug, Default)]
pub struct Results {
    plan: Option<usize>,
    seen: usize,
    passed: usize,
    failed: Vec<String>,
    problems: Vec<String>,
}

impl Results {
    /// Those that have been read already: names, and what came out.
    pub fn of(tests: Vec<(String, Verdict)>, problems: Vec<String>) -> Self {
        let count = |wanted| {
            tests
                .iter()
                .filter(|(_, verdict)| *verdict == wanted)
                .count()
        };
        Self {
            plan: Some(tests.len()),
            seen: tests.len(),
            passed: count(Verdict::Passed),
            failed: tests
                .into_iter()
                .filter(|(_, verdict)| *verdict == Verdict::Failed)
                .map(|(name, _)| name)
                .collect(),
            problems,
        }
    }

    /// Takes one line in.
    pub fn push(&mut self, line: &str) {
        match Line::parse(line) {
            Line::Plan(_) if self.plan.is_some() => {
                self.problems.push("more than one plan".to_owned());
            }
            Line::Plan(count) => self.plan = Some(count),
            Line::Test {
                ok,
                number,
                name,
                skipped,
            } => {
                self.seen += 1;
                if number != self.seen {
                    let expected = self.seen;
                    self.problems
                        .push(format!("test {number} where {expected} was due"));
                }
                match (ok, skipped) {
                    (false, _) => self.failed.push(name),
                    (true, None) => self.passed += 1,
                    (true, Some(_)) => {}
                }
            }
            Line::BailOut(reason) => self.problems.push(format!("bail out: {reason}")),
            Line::Other => {}
        }
    }

    /// How many tests passed; those skipped did not.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// The names of the tests that failed.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// What is wrong with the results as a whole, once there are no more.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.problems.clone();
        match self.plan {
            None => problems.push("no plan".to_owned()),
            Some(plan) if plan != self.seen => {
                problems.push(format!("{} tests of {plan} reported", self.seen));
            }
            Some(_) => {}
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::Line;
    use super::Results;
    use super::Verdict;

    fn results(text: &str) -> Results {
        let mut results = Results::default();
        for line in text.lines() {
            results.push(line);
        }
        results
    }

    #[test]
    fn lines_are_told_apart() {
        assert_eq!(Line::parse("1..12"), Line::Plan(12));
        assert_eq!(Line::parse("1..x"), Line::Other);
        assert_eq!(Line::parse("TAP version 14"), Line::Other);
        assert_eq!(Line::parse("# ok 1 - a"), Line::Other);
        assert_eq!(Line::parse("  ok 1 - a"), Line::Other);
        assert_eq!(
            Line::parse("not ok 3 - hsm/flow two words"),
            Line::Test {
                ok: false,
                number: 3,
                name: "hsm/flow two words".to_owned(),
                skipped: None,
            }
        );
        assert_eq!(
            Line::parse("ok 1 - a # SKIP no second device"),
            Line::Test {
                ok: true,
                number: 1,
                name: "a".to_owned(),
                skipped: Some("no second device".to_owned()),
            }
        );
        assert_eq!(
            Line::parse("Bail out! no module"),
            Line::BailOut("no module".to_owned())
        );
    }

    #[test]
    fn a_name_ends_where_a_directive_begins() {
        let parts = |line| match Line::parse(line) {
            Line::Test {
                ok, name, skipped, ..
            } => (ok, name, skipped),
            other => panic!("{other:?}"),
        };
        let skipped = |reason: &str| Some(reason.to_owned());
        assert_eq!(parts("ok 1"), (true, String::new(), None));
        assert_eq!(
            parts("ok 1 # SKIP why"),
            (true, String::new(), skipped("why"))
        );
        assert_eq!(parts("ok 1 a # SKIP"), (true, "a".to_owned(), skipped("")));
        assert_eq!(parts("ok 1 a # SKIPPED"), (true, "a".to_owned(), None));
        assert_eq!(
            parts("not ok 1 a # TIMEOUT 30 seconds"),
            (false, "a".to_owned(), None)
        );
        assert_eq!(parts("ok 5 a#1 b # rc=0"), (true, "a#1 b".to_owned(), None));
        assert_eq!(Line::parse("ok then"), Line::Other);
    }

    #[test]
    fn results_that_have_been_read_count_as_others_do() {
        let tests = vec![
            ("a".to_owned(), Verdict::Passed),
            ("b".to_owned(), Verdict::Failed),
            ("c".to_owned(), Verdict::Skipped),
        ];
        let results = Results::of(tests, vec!["problem".to_owned()]);
        assert_eq!(results.passed(), 1);
        assert_eq!(results.failed(), ["b"]);
        assert_eq!(results.problems(), ["problem"]);
    }

    #[test]
    fn complete_results_have_no_problem() {
        let results = results("TAP version 14\n1..2\nok 1 - a\n# why\nnot ok 2 - b\n");
        assert_eq!(results.passed(), 1);
        assert_eq!(results.failed(), ["b"]);
        assert_eq!(results.problems(), Vec::<String>::new());
    }

    #[test]
    fn skipped_tests_did_not_pass() {
        let results = results("1..1\nok 1 - a # SKIP\n");
        assert_eq!((results.passed(), results.failed().len()), (0, 0));
    }

    #[test]
    fn missing_tests_are_a_problem() {
        assert_eq!(results("1..2\nok 1 - a\n").problems().len(), 1);
    }

    #[test]
    fn missing_plan_is_a_problem() {
        assert_eq!(results("ok 1 - a\n").problems(), ["no plan"]);
        assert_eq!(results("").problems(), ["no plan"]);
    }

    #[test]
    fn repeated_plan_is_a_problem() {
        assert_eq!(results("1..1\nok 1 - a\n1..1\n").problems().len(), 1);
    }

    #[test]
    fn wrong_number_is_a_problem() {
        assert_eq!(results("1..1\nok 2 - a\n").problems().len(), 1);
    }

    #[test]
    fn bail_out_is_a_problem() {
        let results = results("1..0\nBail out! no module\n");
        assert_eq!(results.problems(), ["bail out: no module"]);
    }
}
