// SPDX-License-Identifier: GPL-2.0
//! The list of mutants, for people to read: `LIST.md`.

use crate::list::By;
use crate::list::List;
use crate::list::Mutant;
use std::fmt::Write as _;

/// What is in front of the tables.
const HEAD: &str = "\
<!-- SPDX-License-Identifier: GPL-2.0 -->
# Mutants

Made from [mutants.toml](mutants.toml) by `azihsm-mutants list`: how the driver is broken, one
line for each mutant, and the tests of which one at least must notice.  `make mutants` runs them,
and leaves in build/mutants.txt which one did.

Tests are those in virtual machines, unless *model* says that it is one of tests/lockless, where
a model checker has the driver's files, *wire* that it is one of tests/wire, *debug* that it is run
on the kernel that checks locks, mappings and leaks, because only that notices, or *kunit* that it
is a unit test of the driver's.
";

/// The whole text of the file.
pub fn of(list: &List) -> String {
    let mut text = HEAD.to_owned();
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "\n{} mutants:\n\n| Mutant | Breaks | In src | Noticed by |\n|---|---|---|---|\n",
        list.mutants.len()
    );
    for mutant in &list.mutants {
        let Mutant {
            name, rule, file, ..
        } = mutant;
        let tests = tests(mutant);
        let _ = writeln!(text, "| {name} | {rule} | {file} | {tests} |");
    }
    text.push_str("\nRows and sections of abi.rst, chapters 3 and 4, that no mutant breaks:\n\n");
    text.push_str("| Rule | Why |\n|---|---|\n");
    for without in &list.without {
        let _ = writeln!(text, "| {} | {} |", without.rule, without.why);
    }
    text
}

/// The tests that are to notice, and what kind they are.
fn tests(mutant: &Mutant) -> String {
    let mut text = mutant.tests.join(" or ");
    if mutant.by != By::Vm {
        text = format!("*{}* {text}", mutant.by);
    }
    if !mutant.options.is_empty() {
        // Writing to a string does not fail.
        let _ = write!(text, " (`{}`)", mutant.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::list::List;
    use std::fs;
    use std::path::Path;

    /// Whoever changes the list has to renew the file.
    #[test]
    fn the_file_is_of_this_list() {
        let dir = Path::new(".");
        let file = fs::read_to_string(dir.join("LIST.md")).unwrap_or_default();
        let list = List::read(&dir.join("../..")).unwrap();
        assert!(
            of(&list) == file,
            "to renew tests/mutants/LIST.md: tests/toolchain/enter sh -c 'cd tests && \
             cargo run -q --release -p azihsm-mutants -- --source .. list >mutants/LIST.md'"
        );
    }
}
