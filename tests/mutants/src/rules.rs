// SPDX-License-Identifier: GPL-2.0
//! The rules of the documentation that a mutant has to break: all sections on
//! ioctls and sessions, and each row of their numbered tables.

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use std::collections::BTreeSet;

/// Chapters of abi.rst whose sections are rules.
const CHAPTERS: &[&str] = &["3.", "4."];

/// Documents that rules are in; those of the kernel are below its own Documentation.
const DOCUMENTS: &[&str] = &["abi", "architecture", "device", "kernel", "recovery"];

/// The rules in the text of abi.rst: `3.1/2` is row 2 of the table in 3.1.
pub fn due(text: &str) -> Vec<String> {
    let mut rules = Vec::new();
    let mut section = None;
    let mut in_table = false;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let word = line.split(' ').next().unwrap_or_default();
        let underlined = lines.peek().is_some_and(|next| next.starts_with("---"));
        if underlined {
            section = CHAPTERS
                .iter()
                .any(|chapter| word.starts_with(chapter))
                .then(|| word.to_owned());
            rules.extend(section.clone());
        } else if line.is_empty() {
            in_table = false;
        } else if line.starts_with("No. ") {
            in_table = true;
        } else if let (Some(section), true, Ok(number)) = (&section, in_table, word.parse::<u32>())
        {
            rules.push(format!("{section}/{number}"));
        }
    }
    // A section with numbered rows is broken row by row.
    let with_rows: BTreeSet<String> = rules
        .iter()
        .filter_map(|rule| rule.split_once('/'))
        .map(|(section, _)| section.to_owned())
        .collect();
    rules.retain(|rule| !with_rows.contains(rule));
    rules
}

/// Which of the rules `due` are neither among `broken` nor `without` a mutant.
/// These name a document first; whole sections may be without.
pub fn missing<'a>(
    due: &[String],
    broken: impl Iterator<Item = &'a str>,
    without: impl Iterator<Item = &'a str>,
) -> Result<Vec<String>> {
    let known = places(due, broken)?;
    let excused = places(due, without)?;
    Ok(due
        .iter()
        .filter(|rule| {
            let section = rule
                .split_once('/')
                .map_or(rule.as_str(), |(section, _)| section);
            !known.contains(*rule) && !excused.contains(*rule) && !excused.contains(section)
        })
        .cloned()
        .collect())
}

/// The sections and rows of abi.rst that `rules` name.
fn places<'a>(due: &[String], rules: impl Iterator<Item = &'a str>) -> Result<BTreeSet<String>> {
    let mut known = BTreeSet::new();
    for rule in rules {
        let (document, rest) = rule.split_once(' ').context("rule without a section")?;
        ensure!(DOCUMENTS.contains(&document), "no document {document:?}");
        let place = rest.split_once(':').map_or(rest, |(place, _)| place);
        if document == "abi" {
            ensure!(
                !place.contains('/') || due.iter().any(|rule| rule == place),
                "abi.rst has no row {place}"
            );
            known.insert(place.to_owned());
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::due;
    use super::missing;
    use super::places;

    const TEXT: &str = "\
2 Structures
============

2.1 Numbers
-----------

===  =====
No.  Check
===  =====
1    not a rule of these chapters
===  =====

3 What the ioctls do
====================

3.1 Before
----------

===  =====
No.  Check
===  =====
1    first
2    second, which goes
     on
===  =====

8 sessions for all.

3.2 Text
--------

=====  =====
Value  Name
=====  =====
1      not the number of a row
=====  =====

5 Counters
==========

5.1 Counters
------------

===  =====
No.  Check
===  =====
1    not a rule of these chapters
===  =====
";

    #[test]
    fn rows_and_sections_are_found() {
        assert_eq!(due(TEXT), ["3.1/1", "3.1/2", "3.2"]);
    }

    #[test]
    fn what_is_not_broken_is_missing() {
        let due = due(TEXT);
        let missing = |broken: &[&'static str], without: &[&'static str]| {
            let (broken, without) = (broken.iter().copied(), without.iter().copied());
            missing(&due, broken, without).unwrap()
        };
        let some = ["abi 3.1/2", "architecture 3.2", "abi 3.1: all"];
        assert_eq!(missing(&some, &[]), ["3.1/1", "3.2"]);
        assert_eq!(missing(&some, &["abi 3.2"]), ["3.1/1"]);
        assert_eq!(missing(&some, &["abi 3.1"]), ["3.2"]);
        let all = ["abi 3.1/1: one", "abi 3.1/2", "abi 3.2: text"];
        assert!(missing(&all, &[]).is_empty());
    }

    #[test]
    fn rows_that_do_not_exist_are_refused() {
        let due = due(TEXT);
        for rule in ["abi 3.1/3", "abi 3.2/1", "manual 3.2", "abi"] {
            assert!(places(&due, [rule].into_iter()).is_err(), "{rule}");
        }
    }
}
