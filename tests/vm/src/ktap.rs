// SPDX-License-Identifier: GPL-2.0
//! Reading nested results: the Kernel Test Anything Protocol, version 1, as in
//! Documentation/dev-tools/ktap.rst of the kernel.
//!
//! Several texts may follow each other.  Lines that are not of the protocol are
//! allowed anywhere and mean nothing; of those that are nothing may be missing,
//! repeated or in another order.  That is stricter than the protocol, by which there
//! need not be a plan.

use crate::tap::Line;
use crate::tap::Verdict;
use regex::Regex;

/// Most levels of tests in tests: the kernel has three.
const MOST_LEVELS: usize = 8;

/// One test, with those that it consists of, if it has any.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Test {
    pub name: String,
    pub verdict: Verdict,
    pub tests: Option<Vec<Test>>,
}

/// The tests of one level, whose end has not come.
#[derive(Debug, Default)]
struct Level {
    /// Spaces in front of its lines.
    indentation: usize,
    /// What it is called, if it says so.
    name: Option<String>,
    plan: Option<usize>,
    tests: Vec<Test>,
}

/// Reads line by line.
#[derive(Debug)]
pub struct Reader {
    /// The open levels, the outermost first.
    levels: Vec<Level>,
    /// The tests of the outermost level of texts that have ended.
    tests: Vec<Test>,
    problems: Vec<String>,
    totals: Regex,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            levels: Vec::new(),
            tests: Vec::new(),
            problems: Vec::new(),
            totals: Regex::new(r"^# (\S+): pass:(\d+) fail:(\d+) skip:(\d+) total:(\d+)$")
                .expect("constant"),
        }
    }
}

impl Level {
    fn new(indentation: usize) -> Self {
        Self {
            indentation,
            ..Self::default()
        }
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("the tests")
    }

    fn is_any(&self, verdict: Verdict) -> bool {
        self.tests.iter().any(|test| test.verdict == verdict)
    }

    /// What is missing when no more is to come.
    fn missing(&self) -> Option<String> {
        let name = self.name();
        match self.plan {
            None => Some(format!("{name}: no plan")),
            Some(plan) if plan != self.tests.len() => {
                let seen = self.tests.len();
                Some(format!("{name}: {seen} of {plan} reported"))
            }
            Some(_) => None,
        }
    }
}

/// Adds up what came out: passed, failed, skipped.
fn count<'a>(tests: impl Iterator<Item = &'a Test>) -> [usize; 3] {
    let mut sums = [0; 3];
    for test in tests {
        sums[match test.verdict {
            Verdict::Passed => 0,
            Verdict::Failed => 1,
            Verdict::Skipped => 2,
        }] += 1;
    }
    sums
}

/// The tests that do not consist of others.
fn leaves(tests: &[Test]) -> Vec<&Test> {
    let each = tests.iter().map(|test| match &test.tests {
        Some(tests) => leaves(tests),
        None => vec![test],
    });
    each.flatten().collect()
}

fn is_version(text: &str) -> bool {
    let version = ["KTAP version ", "TAP version "];
    version
        .iter()
        .filter_map(|prefix| text.strip_prefix(prefix))
        .any(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Reader {
    /// Takes one line in.
    pub fn push(&mut self, line: &str) {
        let line = line.trim_end();
        let text = line.trim_start_matches(' ');
        let indentation = line.len() - text.len();
        if is_version(text) {
            return self.open(indentation);
        }
        if let Some(name) = text.strip_prefix("# Subtest: ") {
            if let Some(level) = self.levels.last_mut() {
                level.name.get_or_insert_with(|| name.to_owned());
            }
        }
        self.check_totals(text);
        match Line::parse(text) {
            Line::Plan(count) => self.plan(indentation, count),
            Line::Test {
                ok,
                number,
                name,
                skipped,
            } => {
                let verdict = match (ok, skipped) {
                    (_, Some(_)) => Verdict::Skipped,
                    (true, None) => Verdict::Passed,
                    (false, None) => Verdict::Failed,
                };
                self.result(indentation, number, name, verdict);
            }
            Line::BailOut(reason) => self.problem(format!("bail out: {reason}")),
            Line::Other => {}
        }
    }

    /// What came of it once there are no more lines: the outermost tests, and what is
    /// wrong with the text.
    pub fn finish(mut self) -> (Vec<Test>, Vec<String>) {
        if self.levels.is_empty() && self.tests.is_empty() {
            self.problem("no results".to_owned());
        }
        self.end();
        (self.tests, self.problems)
    }

    fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    /// A version line: another level begins, or another text.
    fn open(&mut self, indentation: usize) {
        match (self.levels.first(), self.levels.last()) {
            (Some(first), _) if indentation <= first.indentation => self.end(),
            (_, Some(last)) if indentation <= last.indentation => {
                let problem = format!("{}: no result of its own", last.name());
                self.problem(problem);
                self.levels.retain(|level| level.indentation < indentation);
            }
            (None, _) if indentation > 0 => {
                self.problem("the first version line is indented".to_owned());
            }
            _ => {}
        }
        if self.levels.len() == MOST_LEVELS {
            return self.problem(format!("more than {MOST_LEVELS} levels"));
        }
        self.levels.push(Level::new(indentation));
    }

    /// The end of a text.
    fn end(&mut self) {
        for level in self.levels.iter().skip(1) {
            self.problems
                .push(format!("{}: ends in the middle", level.name()));
        }
        if !self.levels.is_empty() {
            let mut level = self.levels.swap_remove(0);
            self.problems.extend(level.missing());
            self.tests.append(&mut level.tests);
        }
        self.levels.clear();
    }

    fn plan(&mut self, indentation: usize, count: usize) {
        let problem = match self.levels.last_mut() {
            Some(level) if level.indentation == indentation => {
                let problem = match level.plan {
                    Some(_) => Some("more than one plan"),
                    None if !level.tests.is_empty() => Some("the plan is not at its beginning"),
                    None => None,
                };
                level.plan.get_or_insert(count);
                problem.map(|problem| format!("{}: {problem}", level.name()))
            }
            _ => Some(format!("a plan of {count} without a version line")),
        };
        self.problems.extend(problem);
    }

    fn result(&mut self, indentation: usize, number: usize, name: String, verdict: Verdict) {
        let is_at = |level: &Level| level.indentation == indentation;
        let tests = match self.levels.as_slice() {
            [.., last] if is_at(last) => None,
            [.., outer, _] if is_at(outer) => self.levels.pop(),
            _ => {
                let problem = format!("the result of {name} belongs to nothing");
                return self.problem(problem);
            }
        };
        if let Some(level) = &tests {
            self.check_whole(level, &name, verdict);
        }
        let level = self.levels.last_mut().expect("that was looked at");
        let due = level.tests.len() + 1;
        if number != due {
            self.problems
                .push(format!("{name}: test {number} where {due} was due"));
        }
        level.tests.push(Test {
            name,
            verdict,
            tests: tests.map(|level| level.tests),
        });
    }

    /// Holds the result of a test against what it consists of.
    fn check_whole(&mut self, level: &Level, name: &str, verdict: Verdict) {
        self.problems.extend(level.missing());
        if level.name.as_deref().is_some_and(|own| own != name) {
            self.problem(format!("the result of {} is that of {name}", level.name()));
        }
        match (verdict, level.is_any(Verdict::Failed)) {
            (Verdict::Failed, false) => {
                self.problem(format!("{name}: failed, and none of its tests did"));
            }
            (Verdict::Passed | Verdict::Skipped, true) => {
                self.problem(format!("{name}: did not fail, and some of its tests did"));
            }
            _ => {}
        }
    }

    /// Holds what the kernel has counted against what it has told.
    fn check_totals(&mut self, text: &str) {
        let Some(said) = self.totals.captures(text) else {
            return;
        };
        let Some(level) = self.levels.last() else {
            return;
        };
        let counted = match &said[1] {
            "Totals" => count(leaves(&level.tests).into_iter()),
            name if Some(name) == level.name.as_deref() => count(level.tests.iter()),
            _ => return,
        };
        let [passed, failed, skipped] = counted;
        let total = passed + failed + skipped;
        let numbers = [passed, failed, skipped, total];
        let is_said = |(n, number): (usize, &usize)| said[n + 2] == number.to_string();
        if !numbers.iter().enumerate().all(is_said) {
            let problem = format!(
                "{}: {}, and {passed}, {failed}, {skipped} of {total} were told",
                level.name(),
                &text[2..]
            );
            self.problem(problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reader;
    use super::Test;
    use crate::tap::Verdict;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::any;
    use proptest::prelude::prop;
    use proptest::prelude::Just;
    use proptest::prelude::Strategy;
    use proptest::prop_assert;
    use proptest::prop_assert_eq;
    use proptest::prop_oneof;
    use proptest::proptest;

    /// As the kernel prints it.
    const SUITE: &str = "\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: azihsm_a
    1..3
    ok 1 one
    # two: why it is slow
    ok 2 two
    ok 3 three # SKIP not here
# azihsm_a: pass:2 fail:0 skip:1 total:3
# Totals: pass:2 fail:0 skip:1 total:3
ok 1 azihsm_a
";

    fn read(text: &str) -> (Vec<Test>, Vec<String>) {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.push(line);
        }
        reader.finish()
    }

    fn problems(text: &str) -> Vec<String> {
        read(text).1
    }

    fn leaf(name: &str, verdict: Verdict) -> Test {
        Test {
            name: name.to_owned(),
            verdict,
            tests: None,
        }
    }

    #[test]
    fn a_suite_is_read() {
        let suite = Test {
            name: "azihsm_a".to_owned(),
            verdict: Verdict::Passed,
            tests: Some(vec![
                leaf("one", Verdict::Passed),
                leaf("two", Verdict::Passed),
                leaf("three", Verdict::Skipped),
            ]),
        };
        let none = Vec::<String>::new();
        assert_eq!(read(SUITE), (vec![suite.clone()], none.clone()));
        let other = SUITE.replace("azihsm_a", "azihsm_b");
        let (tests, problems) = read(&format!("{SUITE}{other}"));
        assert_eq!(problems, none);
        assert_eq!(tests.len(), 2);
        assert_eq!(tests[0], suite);
        assert_eq!(tests[1].name, "azihsm_b");
    }

    /// The examples of ktap.rst.
    #[test]
    fn examples_of_the_protocol_are_read() {
        let (tests, problems) = read(
            "\
KTAP version 1
1..1
  KTAP version 1
  1..3
    KTAP version 1
    1..1
    # test_1: initializing test_1
    ok 1 test_1
  ok 1 example_test_1
    KTAP version 1
    1..2
    ok 1 test_1 # SKIP test_1 skipped
    ok 2 test_2
  ok 2 example_test_2
    KTAP version 1
    1..3
    ok 1 test_1
    # test_2: FAIL
    not ok 2 test_2
    ok 3 test_3 # SKIP test_3 skipped
  not ok 3 example_test_3
not ok 1 main_test
",
        );
        assert_eq!(problems, Vec::<String>::new());
        let [main] = tests.as_slice() else {
            panic!("{tests:?}")
        };
        assert_eq!(main.verdict, Verdict::Failed);
        let examples = main.tests.as_ref().unwrap();
        assert_eq!(examples.len(), 3);
        assert_eq!(
            examples[2].tests.as_deref().unwrap(),
            [
                leaf("test_1", Verdict::Passed),
                leaf("test_2", Verdict::Failed),
                leaf("test_3", Verdict::Skipped),
            ]
        );
    }

    #[test]
    fn lines_of_others_mean_nothing() {
        let text = SUITE.replace(
            "    ok 2 two\n",
            "[    1.0] azihsm: said\n\tok\n      1 of 2\nok then\n    ok 2 two\n",
        );
        assert_eq!(read(&text), read(SUITE));
    }

    #[test]
    fn a_plan_that_is_not_met_is_a_problem() {
        let text = SUITE.replace("1..3", "1..4");
        assert_eq!(problems(&text), ["azihsm_a: 3 of 4 reported"]);
        let text = SUITE.replacen("1..1", "1..2", 1);
        assert_eq!(problems(&text), ["the tests: 1 of 2 reported"]);
    }

    #[test]
    fn a_result_without_a_plan_is_a_problem() {
        let text = SUITE.replace("    1..3\n", "");
        assert_eq!(problems(&text), ["azihsm_a: no plan"]);
    }

    #[test]
    fn a_plan_at_the_end_or_twice_is_a_problem() {
        let last = "# SKIP not here\n";
        let text = SUITE
            .replace("    1..3\n", "")
            .replace(last, &format!("{last}    1..3\n"));
        assert_eq!(
            problems(&text),
            ["azihsm_a: the plan is not at its beginning"]
        );
        let text = SUITE.replace("    1..3\n", "    1..3\n    1..3\n");
        assert_eq!(problems(&text), ["azihsm_a: more than one plan"]);
        assert_eq!(problems("1..0\n")[0], "a plan of 0 without a version line");
    }

    #[test]
    fn numbers_twice_or_in_another_order_are_a_problem() {
        let text = SUITE.replace("ok 2 two", "ok 1 two");
        assert_eq!(problems(&text), ["two: test 1 where 2 was due"]);
        let text = SUITE
            .replace("ok 2 two", "ok 9 x")
            .replace("ok 1 one", "ok 2 two")
            .replace("ok 9 x", "ok 1 one");
        assert_eq!(problems(&text).len(), 2);
    }

    #[test]
    fn a_verdict_that_does_not_follow_is_a_problem() {
        let text = SUITE.replace("\nok 1 azihsm_a", "\nnot ok 1 azihsm_a");
        assert_eq!(
            problems(&text),
            ["azihsm_a: failed, and none of its tests did"]
        );
        let text = SUITE
            .replace("ok 1 one", "not ok 1 one")
            .replace("pass:2 fail:0", "pass:1 fail:1");
        assert_eq!(
            problems(&text),
            ["azihsm_a: did not fail, and some of its tests did"]
        );
    }

    #[test]
    fn the_result_of_another_suite_is_a_problem() {
        let text = SUITE.replace("\nok 1 azihsm_a", "\nok 1 azihsm_b");
        assert_eq!(
            problems(&text),
            ["the result of azihsm_a is that of azihsm_b"]
        );
    }

    #[test]
    fn totals_that_do_not_add_up_are_a_problem() {
        for what in ["# azihsm_a", "# Totals"] {
            let text = SUITE.replace(&format!("{what}: pass:2"), &format!("{what}: pass:3"));
            let problems = problems(&text);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].ends_with("2, 0, 1 of 3 were told"));
        }
    }

    #[test]
    fn bail_out_is_a_problem() {
        let text = SUITE.replace("    ok 2 two", "    Bail out! no memory\n    ok 2 two");
        assert_eq!(problems(&text), ["bail out: no memory"]);
    }

    #[test]
    fn a_text_that_is_cut_off_is_a_problem() {
        let lines: Vec<_> = SUITE.lines().collect();
        for end in 0..lines.len() {
            let text = lines[..end].join("\n");
            assert!(!problems(&text).is_empty(), "{text}");
            // Another suite follows.
            if end > 0 {
                let text = format!("{text}\n{SUITE}");
                assert!(!problems(&text).is_empty(), "{text}");
            }
        }
        assert_eq!(problems(""), ["no results"]);
        assert_eq!(
            problems("KTAP version 1\n1..0\n  KTAP version 1\n"),
            ["the tests: ends in the middle"]
        );
    }

    #[test]
    fn a_level_without_a_result_is_a_problem() {
        let text =
            "KTAP version 1\n1..1\n  KTAP version 1\n  1..0\n  KTAP version 1\n  1..0\nok 1 a\n";
        assert_eq!(problems(text), ["the tests: no result of its own"]);
        assert_eq!(
            problems("  KTAP version 1\n  1..0\n"),
            ["the first version line is indented"]
        );
    }

    #[test]
    fn levels_have_an_end() {
        let mut text = String::new();
        for level in 0..1000 {
            text.push_str(&format!("{:level$}KTAP version 1\n", ""));
        }
        assert!(problems(&text).contains(&"more than 8 levels".to_owned()));
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop_oneof![
            Just(Verdict::Passed),
            Just(Verdict::Failed),
            Just(Verdict::Skipped)
        ]
    }

    fn tests() -> impl Strategy<Value = Vec<Test>> {
        let leaf = ("[a-z_]{1,8}", verdict()).prop_map(|(name, verdict)| leaf(&name, verdict));
        let test = leaf.prop_recursive(3, 20, 4, |inner| {
            ("[a-z_]{1,8}", vec(inner, 0..4)).prop_map(|(name, tests)| {
                let is_bad = tests.iter().any(|test| test.verdict == Verdict::Failed);
                Test {
                    name,
                    verdict: [Verdict::Passed, Verdict::Failed][usize::from(is_bad)],
                    tests: Some(tests),
                }
            })
        });
        vec(test, 0..4)
    }

    fn print(tests: &[Test], step: usize, depth: usize, lines: &mut Vec<String>) {
        let spaces = " ".repeat(step * depth);
        lines.push(format!("{spaces}KTAP version 1"));
        lines.push(format!("{spaces}1..{}", tests.len()));
        for (n, test) in tests.iter().enumerate() {
            if let Some(tests) = &test.tests {
                print(tests, step, depth + 1, lines);
            }
            let (word, directive) = match test.verdict {
                Verdict::Passed => ("ok", ""),
                Verdict::Failed => ("not ok", ""),
                Verdict::Skipped => ("ok", " # SKIP why"),
            };
            lines.push(format!("{spaces}{word} {} {}{directive}", n + 1, test.name));
        }
    }

    fn line() -> impl Strategy<Value = String> {
        let text = prop_oneof![
            Just("KTAP version 1".to_owned()),
            (0..3_usize).prop_map(|count| format!("1..{count}")),
            (0..3_usize, any::<bool>()).prop_map(|(number, ok)| {
                format!("{} {number} a", ["not ok", "ok"][usize::from(ok)])
            }),
            Just("# Subtest: a".to_owned()),
            Just("# Totals: pass:1 fail:0 skip:0 total:1".to_owned()),
            Just("# a: pass:1 fail:0 skip:0 total:1".to_owned()),
            Just("Bail out!".to_owned()),
            ".*",
        ];
        (0..4_usize, text).prop_map(|(depth, text)| format!("{}{text}", " ".repeat(depth * 2)))
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(tests in tests(), step in 1..5_usize) {
            let mut lines = Vec::new();
            print(&tests, step, 0, &mut lines);
            let (again, problems) = read(&lines.join("\n"));
            prop_assert_eq!(problems, Vec::<String>::new());
            prop_assert_eq!(again, tests);
        }

        #[test]
        fn no_line_can_be_missing(tests in tests(), which in any::<prop::sample::Index>()) {
            let mut lines = Vec::new();
            print(&tests, 4, 0, &mut lines);
            let line = lines.remove(which.index(lines.len()));
            prop_assert!(!problems(&lines.join("\n")).is_empty(), "without {}", line);
        }

        #[test]
        fn nothing_makes_it_panic(lines in vec(line(), 0..40), more in option::of(".*")) {
            let mut text = lines.join("\n");
            text.extend(more);
            read(&text);
        }
    }
}
