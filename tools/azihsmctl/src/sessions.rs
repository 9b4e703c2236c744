// SPDX-License-Identifier: GPL-2.0
//! Who has an HSM open, as the processes of the machine show it.

use crate::error::Result;
use crate::machine::Hsm;
use crate::machine::Machine;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// A descriptor of an HSM.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Descriptor {
    /// The process that has it.
    pub pid: u32,
    /// What that process is called.
    pub command: String,
    /// Its number there.
    pub fd: u32,
    /// The session of the descriptor, if it has one.
    pub session: Option<u64>,
    /// HSM commands that were completed.
    pub hsm_commands: Option<u64>,
    /// AES commands.
    pub aes_commands: Option<u64>,
}

impl Descriptor {
    /// The descriptors of `hsm`, of those processes that the caller may look at.
    pub fn of(machine: &Machine, hsm: &Hsm) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for (pid, process) in numbered(machine.processes()) {
            for (fd, link) in numbered(&process.join("fd")) {
                if fs::read_link(link).ok().as_deref() != Some(&hsm.node) {
                    continue;
                }
                let info = process.join("fdinfo").join(fd.to_string());
                let figures = figures(&fs::read_to_string(info).unwrap_or_default());
                let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
                found.push(Self {
                    pid,
                    command: command.trim_end().to_owned(),
                    fd,
                    session: figures.get("azihsm-session").copied(),
                    hsm_commands: figures.get("azihsm-hsm-commands").copied(),
                    aes_commands: figures.get("azihsm-aes-commands").copied(),
                });
            }
        }
        Ok(found)
    }
}

/// Entries of a directory whose names are numbers, by number; none if it cannot be
/// read, as those of others cannot.
fn numbered(path: &Path) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    found.sort_unstable();
    found
}

fn figures(info: &str) -> BTreeMap<String, u64> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::Descriptor;
    use crate::counters::tests::put;
    use crate::machine::tests::machine;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn descriptors_are_found_by_what_they_are_of() {
        let (root, machine) = machine(&[("azihsm0", "0000:01:00.0")]);
        let hsm = machine.find(None).unwrap();
        let process = root.path().join("proc/12");
        put(&process.join("comm"), "a client\n");
        put(
            &process.join("fdinfo/5"),
            "pos:\t0\nazihsm-session:\t3\nazihsm-hsm-commands:\t7\nazihsm-aes-commands:\t0\n",
        );
        fs::create_dir_all(process.join("fd")).unwrap();
        symlink(&hsm.node, process.join("fd/5")).unwrap();
        symlink("/dev/null", process.join("fd/6")).unwrap();
        symlink(&hsm.node, process.join("fd/7")).unwrap();
        put(&root.path().join("proc/version"), "none of a process\n");

        let found = Descriptor::of(&machine, &hsm).unwrap();
        let [first, second] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!((first.pid, first.fd), (12, 5));
        assert_eq!(first.command, "a client");
        assert_eq!((first.session, first.hsm_commands), (Some(3), Some(7)));
        // Without a line there is nothing to say.
        assert_eq!((second.fd, second.session), (7, None));
    }
}
