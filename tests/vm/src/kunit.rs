// SPDX-License-Identifier: GPL-2.0
//! The unit tests inside the kernel: which there are, and what came out.

use crate::ktap::Reader;
use crate::ktap::Test;
use crate::tap::Results;
use crate::tap::Verdict;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use regex::Regex;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The tests that the source of the driver has, each as `SUITE/TEST`.
#[derive(Clone, Debug)]
pub struct Expected(BTreeSet<String>);

impl Expected {
    /// Looks for them in all files below `source`.
    pub fn of_source(source: &Path) -> Result<Self> {
        let mut tests = BTreeSet::new();
        let mut directories = vec![source.to_owned()];
        while let Some(directory) = directories.pop() {
            let named = || format!("{}", directory.display());
            for entry in fs::read_dir(&directory).with_context(named)? {
                let path = entry?.path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    tests.append(&mut of_text(&fs::read_to_string(&path)?));
                }
            }
        }
        ensure!(!tests.is_empty(), "no unit tests in {}", source.display());
        Ok(Self(tests))
    }

    /// The results of what was read, and what is missing.
    pub fn results(&self, reader: Reader) -> Results {
        let (suites, mut problems) = reader.finish();
        let mut tests = Vec::new();
        for suite in suites {
            collect(suite, "", &mut tests);
        }
        let mut seen = BTreeSet::new();
        for (name, _) in &tests {
            if !seen.insert(name.as_str()) {
                problems.push(format!("kunit/{name}: reported twice"));
            }
        }
        for name in self.0.iter().filter(|name| !seen.contains(name.as_str())) {
            problems.push(format!("kunit/{name}: missing"));
        }
        let named = |(name, verdict)| (format!("kunit/{name}"), verdict);
        Results::of(tests.into_iter().map(named).collect(), problems)
    }
}

/// The tests that do not consist of others, with the names of all that they are in.
fn collect(test: Test, above: &str, tests: &mut Vec<(String, Verdict)>) {
    let name = format!("{above}{}", test.name);
    match test.tests {
        None => tests.push((name, test.verdict)),
        Some(inner) => {
            for test in inner {
                collect(test, &format!("{name}/"), tests);
            }
        }
    }
}

/// The tests of one file: those behind the name of a suite are of that.
fn of_text(text: &str) -> BTreeSet<String> {
    let each = Regex::new(
        r"(?m)^\s*#\[(?:[a-z:]+::)?kunit_tests\((\w+)\)\]|^\s*#\[test\]\s+(?:#\[.*\]\s+)*fn (\w+)",
    )
    .expect("constant");
    let mut tests = BTreeSet::new();
    let mut suite = None;
    for found in each.captures_iter(text) {
        match (found.get(1), found.get(2), suite) {
            (Some(name), ..) => suite = Some(name.as_str()),
            (None, Some(test), Some(suite)) => {
                tests.insert(format!("{suite}/{}", test.as_str()));
            }
            _ => {}
        }
    }
    tests
}

#[cfg(test)]
mod tests {
    use super::of_text;
    use super::Expected;
    use crate::ktap::Reader;
    use crate::tap::Results;
    use std::fs;

    const SOURCE: &str = "\
//! #[kunit_tests(not_this)]
fn no_test() {}
#[kunit_tests(azihsm_a)]
mod tests {
    #[test]
    fn one() {}

    fn no_test_either() {}
    #[test]
    #[expect(clippy::all)]
    fn two() -> Result {}
}
#[kernel::prelude::kunit_tests(azihsm_b)]
mod more {
    #[test]
    fn one() {}
}
";

    const A: &str = "\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: azihsm_a
    1..2
    ok 1 one
    not ok 2 two
not ok 1 azihsm_a
";

    const B: &str = "\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: azihsm_b
    1..1
    ok 1 one
ok 1 azihsm_b
";

    fn results(text: &str) -> Results {
        let mut reader = Reader::default();
        for line in text.lines() {
            reader.push(line);
        }
        Expected(of_text(SOURCE)).results(reader)
    }

    #[test]
    fn tests_are_found_in_the_source() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Expected::of_source(dir.path()).is_err());
        fs::create_dir(dir.path().join("inner")).unwrap();
        fs::write(dir.path().join("inner/a.rs"), SOURCE).unwrap();
        fs::write(
            dir.path().join("a.c"),
            "#[kunit_tests(c)]\n#[test]\nfn c() {}\n",
        )
        .unwrap();
        let Expected(tests) = Expected::of_source(dir.path()).unwrap();
        let tests: Vec<_> = tests.iter().map(String::as_str).collect();
        assert_eq!(tests, ["azihsm_a/one", "azihsm_a/two", "azihsm_b/one"]);
    }

    #[test]
    fn each_test_counts() {
        let results = results(&format!("{A}{B}"));
        assert_eq!(results.passed(), 2);
        assert_eq!(results.failed(), ["kunit/azihsm_a/two"]);
        assert_eq!(results.problems(), Vec::<String>::new());
    }

    #[test]
    fn a_suite_that_is_missing_is_a_problem() {
        assert_eq!(results(A).problems(), ["kunit/azihsm_b/one: missing"]);
    }

    #[test]
    fn a_test_that_is_missing_is_a_problem() {
        let without = A.replace("    not ok 2 two\n", "").replace("1..2", "1..1");
        let text = format!("{}{B}", without.replace("not ok 1", "ok 1"));
        assert_eq!(results(&text).problems(), ["kunit/azihsm_a/two: missing"]);
    }

    #[test]
    fn a_suite_that_was_not_run_is_a_problem() {
        let text = format!("KTAP version 1\n1..1\nok 1 azihsm_a # SKIP off\n{B}");
        assert_eq!(results(&text).problems().len(), 2);
    }

    #[test]
    fn a_suite_that_comes_twice_is_a_problem() {
        let text = format!("{A}{B}{B}");
        assert_eq!(
            results(&text).problems(),
            ["kunit/azihsm_b/one: reported twice"]
        );
    }
}
