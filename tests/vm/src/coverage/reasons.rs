// SPDX-License-Identifier: GPL-2.0
//! Why lines of the driver are not reached: `coverage.toml`.

use super::source::Line;
use super::source::Source;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use regex::Regex;
use serde::Deserialize;
use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// What `coverage.toml` holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reasons {
    #[serde(default, rename = "reason")]
    reasons: Vec<Reason>,
}

/// A reason for lines not to be reached.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    /// The reason.
    why: String,
    /// What does reach them; nothing if it is missing.
    by: Option<String>,
    /// The lines.
    lines: Vec<Place>,
}

/// Some lines.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    /// The file, from `src`; any if it is missing.
    file: Option<String>,
    /// The function that they are in, with what that is in, such as `Type::function`.
    function: Option<String>,
    /// What they have in them.
    text: Option<String>,
    /// What they are like, without the spaces around them.
    pattern: Option<Pattern>,
}

/// A regular expression.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Pattern(Regex);

impl TryFrom<String> for Pattern {
    type Error = regex::Error;

    fn try_from(text: String) -> Result<Self, regex::Error> {
        Ok(Self(Regex::new(&text)?))
    }
}

impl Place {
    /// Whether it has the line.
    fn has(&self, file: &str, line: &Line) -> bool {
        let in_function = |function: &String| {
            let rest = line.scope.strip_prefix(function.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let has_text = |text: &String| line.text.contains(text.as_str());
        let is_like = |pattern: &Pattern| pattern.0.is_match(&line.text);
        self.file.as_ref().is_none_or(|name| name == file)
            && self.function.as_ref().is_none_or(in_function)
            && self.text.as_ref().is_none_or(has_text)
            && self.pattern.as_ref().is_none_or(is_like)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pattern = self.pattern.as_ref().map(|pattern| pattern.0.as_str());
        let words = [
            self.file.as_deref(),
            self.function.as_deref(),
            self.text.as_deref(),
            pattern,
        ];
        let words: Vec<&str> = words.into_iter().flatten().collect();
        write!(f, "{}", words.join(", "))
    }
}

/// What becomes of lines that were not reached.
#[derive(Debug, Default)]
pub struct Judgement {
    /// The lines, by reason.
    pub text: String,
    /// How many have no reason.
    pub without: usize,
    /// How many have one, but there is no test that reaches them.
    pub untested: usize,
    /// Entries that no line needed.
    pub idle: Vec<String>,
}

impl Reasons {
    /// Reads `file`, and makes sure that it fits the source.
    pub fn read(file: &Path, source: &Source) -> Result<Self> {
        let named = || format!("{}", file.display());
        let text = fs::read_to_string(file).with_context(named)?;
        Self::of(&text, source).with_context(named)
    }

    fn of(text: &str, source: &Source) -> Result<Self> {
        let reasons: Self = toml::from_str(text)?;
        let places = || reasons.reasons.iter().flat_map(|reason| &reason.lines);
        for place in places() {
            let says_which = place.function.is_some() && place.file.is_some();
            ensure!(
                says_which || place.text.is_some() || place.pattern.is_some(),
                "{place:?}: does not say which lines"
            );
        }
        let is_stale = |place: &&Place| !source.lines().any(|(file, line)| place.has(file, line));
        let stale: Vec<String> = places().filter(is_stale).map(Place::to_string).collect();
        ensure!(
            stale.is_empty(),
            "there are no such lines: {}",
            stale.join("; ")
        );
        Ok(reasons)
    }

    /// Finds reasons for lines that were not reached, each a file and a number; the
    /// first that fits is it.
    pub fn judge(&self, missing: &[(String, u32)], source: &Source) -> Judgement {
        let mut without = Vec::new();
        let mut with: Vec<Vec<String>> = vec![Vec::new(); self.reasons.len()];
        let mut needed: Vec<Vec<bool>> = self
            .reasons
            .iter()
            .map(|reason| vec![false; reason.lines.len()])
            .collect();
        for (file, number) in missing {
            let none = Line::default();
            let line = source.line(file, *number).unwrap_or(&none);
            let Line { text, scope } = line;
            let mut first = None;
            for (index, reason) in self.reasons.iter().enumerate() {
                for (place, needed) in reason.lines.iter().zip(&mut needed[index]) {
                    if place.has(file, line) {
                        *needed = true;
                        first = first.or(Some(index));
                    }
                }
            }
            match first {
                Some(index) => with[index].push(format!("{file}:{number}: {text}")),
                None => without.push(format!("{file}:{number}: {text}    [{scope}]")),
            }
        }
        let mut judgement = Judgement {
            without: without.len(),
            ..Judgement::default()
        };
        judgement.section("WITHOUT A REASON", &without);
        for (reason, lines) in self.reasons.iter().zip(&with) {
            let by = reason.by.as_deref().unwrap_or("no test");
            judgement.section(&format!("{} -- {by}", reason.why.trim()), lines);
            if reason.by.is_none() {
                judgement.untested += lines.len();
            }
        }
        for (reason, needed) in self.reasons.iter().zip(&needed) {
            let idle = reason
                .lines
                .iter()
                .zip(needed)
                .filter(|(_, needed)| !**needed);
            judgement
                .idle
                .extend(idle.map(|(place, _)| place.to_string()));
        }
        judgement
    }
}

impl Judgement {
    fn section(&mut self, head: &str, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{head} ({})", lines.len());
        for line in lines {
            let _ = writeln!(self.text, "    {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reasons;
    use crate::coverage::source::Source;
    use std::path::Path;

    const CODE: &str = "\
impl Queue {
    fn stop(&self) {
        one();
        two();
    }

    fn stop_all(&self) {
        one();
    }
}
";

    const REASONS: &str = r#"
[[reason]]
why = "Rare."
by = "make chaos"
lines = [{ file = "queue.rs", function = "Queue::stop", text = "two" }]

[[reason]]
why = "Odd."
lines = [
    { file = "queue.rs", function = "Queue::stop" },
    { file = "queue.rs", text = "impl" },
]

[[reason]]
why = "Ends."
by = "others"
lines = [{ pattern = '^\}$' }]
"#;

    fn source() -> Source {
        Source::of(&[("queue.rs", CODE), ("other.rs", CODE)])
    }

    fn missing(lines: &[(&str, u32)]) -> Vec<(String, u32)> {
        let owned = |&(file, line): &(&str, u32)| (file.to_owned(), line);
        lines.iter().map(owned).collect()
    }

    #[test]
    fn lines_go_to_the_first_reason_that_fits() {
        let reasons = Reasons::of(REASONS, &source()).unwrap();
        let lines = missing(&[("queue.rs", 3), ("queue.rs", 4)]);
        let judgement = reasons.judge(&lines, &source());
        assert_eq!(judgement.without, 0);
        assert_eq!(judgement.untested, 1);
        assert_eq!(
            judgement.text,
            "Rare. -- make chaos (1)\n    queue.rs:4: two();\n\n\
             Odd. -- no test (1)\n    queue.rs:3: one();\n"
        );
        assert_eq!(judgement.idle, ["queue.rs, impl", r"^\}$"]);
    }

    #[test]
    fn lines_without_a_reason_come_first() {
        let reasons = Reasons::of(REASONS, &source()).unwrap();
        // Another function whose name begins alike, and another file.
        let lines = missing(&[("queue.rs", 3), ("queue.rs", 8), ("other.rs", 4)]);
        let judgement = reasons.judge(&lines, &source());
        assert_eq!(judgement.without, 2);
        assert_eq!(judgement.untested, 1);
        assert!(judgement.text.starts_with(
            "WITHOUT A REASON (2)\n    queue.rs:8: one();    [Queue::stop_all]\n    other.rs:4: "
        ));
        assert_eq!(judgement.idle.len(), 3);
    }

    #[test]
    fn a_pattern_may_be_for_all_files() {
        let reasons = Reasons::of(REASONS, &source()).unwrap();
        let lines = missing(&[("queue.rs", 5), ("queue.rs", 9), ("other.rs", 9)]);
        let judgement = reasons.judge(&lines, &source());
        assert_eq!((judgement.without, judgement.untested), (0, 1));
        assert!(judgement.text.contains("Ends. -- others (2)"));
    }

    #[test]
    fn a_reason_for_no_line_of_the_source_is_refused() {
        let refused = |text: &str| format!("{:#}", Reasons::of(text, &source()).unwrap_err());
        for (from, to, word) in [
            ("\"Queue::stop\" }", "\"Queue::halt\" }", "Queue::halt"),
            ("\"two\"", "\"three\"", "three"),
            ("text = \"impl\"", "text = \"Drop\"", "Drop"),
            ("\"queue.rs\", text", "\"gone.rs\", text", "gone.rs"),
            ("\"queue.rs\", text = \"impl\"", "\"queue.rs\"", "which"),
            (
                "file = \"queue.rs\", text = \"impl\"",
                "function = \"Queue\"",
                "which",
            ),
            (r"^\}$", r"^\]$", r"^\]$"),
            (r"^\}$", "(", "regex"),
        ] {
            assert!(REASONS.contains(from), "{from}");
            let error = refused(&REASONS.replacen(from, to, 1));
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_list_fits_the_driver() {
        let source = Source::read(Path::new("../../src")).unwrap();
        Reasons::read(Path::new("coverage.toml"), &source).unwrap();
    }
}
