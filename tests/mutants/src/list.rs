// SPDX-License-Identifier: GPL-2.0
//! The list of mutants.

use crate::rules;
use anyhow::bail;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use clap::ValueEnum;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;
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
    /// Parts of the names of tests, of which one at least has to fail; names of functions if the
    /// tests are that.
    pub tests: Vec<String>,
    /// What kind of tests these are.
    #[serde(default)]
    pub by: By,
    /// Options for the machine, if it has to be another one.
    #[serde(default)]
    pub options: Vec<String>,
}

/// Where tests run.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// In a virtual machine, with the module.
    #[default]
    Vm,
    /// The same, on the kernel that checks locks, mappings and leaks.
    Debug,
    /// In that kernel: the driver's unit tests.
    Kunit,
    /// On the host: `src/lockless` under the model checker.
    Model,
    /// On the host: `src/wire` with any values at all.
    Wire,
}

impl By {
    /// The package of the tests, if they run on the host.
    pub fn package(self) -> Option<&'static str> {
        match self {
            Self::Vm | Self::Debug | Self::Kunit => None,
            Self::Model => Some("azihsm-lockless"),
            Self::Wire => Some("azihsm-wire"),
        }
    }

    /// Whether the kernel is that of our own.
    pub fn is_on_debug(self) -> bool {
        matches!(self, Self::Debug | Self::Kunit)
    }

    /// Where the files are that these tests can see, from `src`, and where the tests are, from the
    /// root of the checkout; if the tests are functions.
    fn places(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Vm | Self::Debug => None,
            Self::Kunit => Some(("", "src")),
            Self::Model => Some(("lockless/", "tests/lockless/src")),
            Self::Wire => Some(("wire/", "tests/wire/src")),
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vm => "vm",
            Self::Debug => "debug",
            Self::Kunit => "kunit",
            Self::Model => "model",
            Self::Wire => "wire",
        })
    }
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
            mutant.check_functions(source)?;
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

/// The text of all files in `dir`.
fn read_all(dir: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        text += &if path.is_dir() {
            read_all(&path)?
        } else {
            fs::read_to_string(path)?
        };
    }
    Ok(text)
}

impl Mutant {
    /// Makes sure that tests which are functions can see the mutant, and that there are such tests.
    fn check_functions(&self, source: &Path) -> Result<()> {
        let Some((files, tests)) = self.by.places() else {
            return Ok(());
        };
        let name = &self.name;
        ensure!(
            self.file.starts_with(files),
            "{name}: {} does not see src/{}",
            self.by,
            self.file
        );
        ensure!(self.options.is_empty(), "{name}: the machine is given");
        let text = read_all(&source.join(tests))?;
        for test in &self.tests {
            ensure!(
                text.contains(&format!("fn {test}(")),
                "{name}: no test is called {test:?}"
            );
        }
        Ok(())
    }

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
    use super::By;
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
            by: By::Vm,
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
        let source = Path::new("../..");
        let list = List::read(source).unwrap();
        list.check(source).unwrap();
    }
}
