// SPDX-License-Identifier: GPL-2.0
//! The list of mutants.

use crate::rules;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The file, from the root of the checkout.
const FILE: &str = "tests/mutants/mutants.toml";

/// What `mutants.toml` holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// All mutants.
    #[serde(rename = "mutant")]
    pub mutants: Vec<Mutant>,
    /// Rules that have none.
    #[serde(default)]
    pub without: Vec<Without>,
}

/// One way to break the driver.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// What it is called.
    pub name: String,
    /// The rule that it breaks: document, section, and number of the row if the
    /// section has a table with numbers; then anything, after a colon.
    pub rule: String,
    /// File, from `src`.
    pub file: String,
    /// Text that is there exactly once.
    pub old: String,
    /// What takes its place.
    pub new: String,
    /// Parts of the names of tests, of which one at least has to fail.
    pub tests: Vec<String>,
    /// Options for the machine, if it has to be another one.
    #[serde(default)]
    pub options: Vec<String>,
}

/// A rule that no mutant breaks.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Without {
    /// As in a mutant.
    pub rule: String,
    /// The reason.
    pub why: String,
}

impl List {
    /// Reads the list of the checkout `source`.
    pub fn read(source: &Path) -> Result<Self> {
        let text = fs::read_to_string(source.join(FILE)).context(FILE)?;
        toml::from_str(&text).context(FILE)
    }

    /// Makes sure that the list fits the driver and its documentation.
    pub fn check(&self, source: &Path) -> Result<()> {
        let mut names = BTreeSet::new();
        for mutant in &self.mutants {
            ensure!(names.insert(&mutant.name), "two mutants {}", mutant.name);
            ensure!(!mutant.tests.is_empty(), "{}: no tests", mutant.name);
            let text = read(source, &mutant.file)?;
            mutant.apply(&text).with_context(|| mutant.name.clone())?;
        }
        let path = source.join("Documentation/abi.rst");
        let due = rules::due(&fs::read_to_string(&path).context("abi.rst")?);
        let broken = self.mutants.iter().map(|mutant| mutant.rule.as_str());
        let without = self.without.iter().map(|without| without.rule.as_str());
        let missing = rules::missing(&due, broken, without)?;
        if !missing.is_empty() {
            bail!("no mutant breaks {}", missing.join(", "));
        }
        Ok(())
    }
}

/// The content of `file`, from `src`.
fn read(source: &Path, file: &str) -> Result<String> {
    let path = source.join("src").join(file);
    fs::read_to_string(&path).with_context(|| format!("{}", path.display()))
}

impl Mutant {
    /// The broken version of `text`.
    pub fn apply(&self, text: &str) -> Result<String> {
        ensure!(self.old != self.new, "nothing is changed");
        match text.matches(&self.old).count() {
            1 => Ok(text.replacen(&self.old, &self.new, 1)),
            count => bail!("the old text is {count} times in {}", self.file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::List;
    use super::Mutant;
    use std::path::Path;

    fn mutant(old: &str, new: &str) -> Mutant {
        Mutant {
            name: "name".to_owned(),
            rule: "abi 1.1".to_owned(),
            file: "file".to_owned(),
            old: old.to_owned(),
            new: new.to_owned(),
            tests: vec!["test".to_owned()],
            options: Vec::new(),
        }
    }

    #[test]
    fn the_old_text_has_to_be_there_once() {
        assert_eq!(mutant("b", "x").apply("abc").unwrap(), "axc");
        assert!(mutant("b", "x").apply("abcb").is_err());
        assert!(mutant("d", "x").apply("abc").is_err());
        assert!(mutant("b", "b").apply("abc").is_err());
    }

    /// Whoever changes the driver or its rules has to change the list.
    #[test]
    fn the_list_fits_the_driver() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let list = List::read(&source).unwrap();
        list.check(&source).unwrap();
    }
}
