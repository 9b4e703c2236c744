// SPDX-License-Identifier: GPL-2.0
//! The HSMs of a machine, as its file systems show them.

use crate::error::Error;
use crate::error::Result;
use azihsm_uapi::Device;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

/// Where to look.
#[derive(Clone, Debug)]
pub struct Machine {
    dev: PathBuf,
    sys: PathBuf,
    proc: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self::at(Path::new("/"))
    }
}

impl Machine {
    /// The machine whose root directory is `root`.
    pub fn at(root: &Path) -> Self {
        Self {
            dev: root.join("dev"),
            sys: root.join("sys"),
            proc: root.join("proc"),
        }
    }

    /// Where the processes are.
    pub fn processes(&self) -> &Path {
        &self.proc
    }

    /// All HSMs, in the order of their numbers.
    pub fn hsms(&self) -> Result<Vec<Hsm>> {
        let path = self.sys.join("class/misc");
        let entries = fs::read_dir(&path).map_err(|error| Error::File { path, error })?;
        let mut found: Vec<Hsm> = entries
            .filter_map(|entry| self.hsm(entry.ok()?.file_name().to_str()?))
            .collect();
        found.sort_unstable_by_key(|hsm| hsm.number);
        Ok(found)
    }

    fn hsm(&self, name: &str) -> Option<Hsm> {
        let number = name.strip_prefix("azihsm")?.parse().ok()?;
        let device = self.sys.join("class/misc").join(name).join("device");
        let function = fs::canonicalize(device).ok();
        Some(Hsm {
            number,
            name: name.to_owned(),
            node: self.dev.join(name),
            pci: function
                .as_deref()
                .and_then(Path::file_name)
                .and_then(OsStr::to_str)
                .map(str::to_owned),
            function,
        })
    }

    /// The HSM that `wanted` names, or the only one.
    pub fn find(&self, wanted: Option<&str>) -> Result<Hsm> {
        let mut hsms = self.hsms()?;
        match wanted {
            Some(wanted) => hsms
                .into_iter()
                .find(|hsm| hsm.is_called(wanted))
                .ok_or_else(|| Error::Unknown(wanted.to_owned())),
            None if hsms.len() > 1 => Err(Error::Several(
                hsms.into_iter().map(|hsm| hsm.name).collect(),
            )),
            None => hsms.pop().ok_or(Error::NoDevice),
        }
    }
}

/// An HSM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hsm {
    number: u32,
    /// Its name, `azihsm<N>`.
    pub name: String,
    /// Its node.
    pub node: PathBuf,
    /// Its PCI address.
    pub pci: Option<String>,
    function: Option<PathBuf>,
}

impl Hsm {
    fn is_called(&self, wanted: &str) -> bool {
        wanted == self.name
            || Path::new(wanted) == self.node
            || self.pci.as_deref() == Some(wanted)
            || wanted.parse() == Ok(self.number)
    }

    /// Opens it.
    pub fn open(&self) -> Result<Device> {
        Device::open(&self.node).map_err(|error| {
            let path = self.node.clone();
            if error.kind() == io::ErrorKind::PermissionDenied {
                let advice = advice(
                    fs::metadata(&path)
                        .ok()
                        .map(|node| (node.mode(), node.gid())),
                );
                Error::Denied { path, advice }
            } else {
                Error::Open { path, error }
            }
        })
    }

    /// The memory node that it is next to, if there are several.
    pub fn numa_node(&self) -> Option<u32> {
        let path = self.function.as_ref()?.join("numa_node");
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// Where its counters are.
    pub fn counters(&self) -> Option<PathBuf> {
        Some(self.function.as_ref()?.join("azihsm"))
    }
}

/// What to do about a node with this mode and group that may not be opened.
fn advice(node: Option<(u32, u32)>) -> &'static str {
    match node {
        Some((mode, gid)) if mode & 0o060 == 0o060 && gid != 0 => {
            "be root, or a member of its group (usermod -aG azihsm USER, and log in again)"
        }
        _ => "be root, or let a group use it (see FILES in azihsm(4))",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::advice;
    use super::Machine;
    use crate::error::Error;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// A machine with these HSMs, by name and PCI address.
    pub(crate) fn machine(hsms: &[(&str, &str)]) -> (TempDir, Machine) {
        let root = TempDir::new().unwrap();
        let class = root.path().join("sys/class/misc");
        fs::create_dir_all(&class).unwrap();
        fs::create_dir_all(root.path().join("dev")).unwrap();
        for (name, pci) in hsms {
            let function = root.path().join("sys/devices/pci0000:00").join(pci);
            fs::create_dir_all(&function).unwrap();
            fs::write(function.join("numa_node"), "-1\n").unwrap();
            fs::create_dir(class.join(name)).unwrap();
            symlink(&function, class.join(name).join("device")).unwrap();
        }
        let machine = Machine::at(root.path());
        (root, machine)
    }

    #[test]
    fn hsms_are_found_in_numeric_order_and_nothing_else() {
        let (_root, machine) = machine(&[
            ("azihsm10", "0000:03:00.0"),
            ("azihsm2", "0000:02:00.0"),
            ("azihsm-mgmt0", "0000:02:00.0"),
            ("tun", "0000:04:00.0"),
        ]);
        let names: Vec<_> = machine
            .hsms()
            .unwrap()
            .into_iter()
            .map(|h| h.name)
            .collect();
        assert_eq!(names, ["azihsm2", "azihsm10"]);
    }

    #[test]
    fn an_hsm_has_many_names() {
        let (root, machine) = machine(&[("azihsm0", "0000:01:00.0"), ("azihsm1", "0001:01:00.0")]);
        let node = root.path().join("dev/azihsm1");
        for name in ["1", "azihsm1", node.to_str().unwrap(), "0001:01:00.0"] {
            assert_eq!(machine.find(Some(name)).unwrap().name, "azihsm1", "{name}");
        }
        for name in ["2", "azihsm", "azihsm2", "01:00.0", ""] {
            let error = machine.find(Some(name)).unwrap_err();
            assert!(matches!(error, Error::Unknown(_)), "{name}");
            assert_eq!(error.status(), 3);
        }
    }

    #[test]
    fn a_name_may_be_left_out_only_if_there_is_one() {
        let (_root, one) = machine(&[("azihsm3", "0000:01:00.0")]);
        let hsm = one.find(None).unwrap();
        assert_eq!(hsm.pci.as_deref(), Some("0000:01:00.0"));
        assert_eq!(hsm.numa_node(), None);

        let (_root, none) = machine(&[]);
        assert!(matches!(none.find(None), Err(Error::NoDevice)));

        let (_root, two) = machine(&[("azihsm0", "0000:01:00.0"), ("azihsm1", "0001:01:00.0")]);
        let error = two.find(None).unwrap_err();
        assert_eq!(error.status(), 2);
        assert!(error.to_string().ends_with("(azihsm0, azihsm1)"), "{error}");
    }

    #[test]
    fn a_node_that_is_not_there_is_no_question_of_permission() {
        let (_root, machine) = machine(&[("azihsm0", "0000:01:00.0")]);
        let error = machine.find(None).unwrap().open().unwrap_err();
        assert!(matches!(error, Error::Open { .. }), "{error}");
        assert_eq!(error.status(), 1);
    }

    #[test]
    fn advice_depends_on_whether_there_is_a_group() {
        assert!(advice(Some((0o20660, 990))).contains("usermod"));
        for node in [
            Some((0o20600, 0)),
            Some((0o20660, 0)),
            Some((0o20600, 990)),
            None,
        ] {
            assert!(advice(node).contains("let a group"), "{node:?}");
        }
    }
}
