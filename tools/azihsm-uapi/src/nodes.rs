// SPDX-License-Identifier: GPL-2.0
//! Finding the device nodes.

use std::io;
use std::path::Path;
use std::path::PathBuf;

/// The HSM nodes, `/dev/azihsm<N>`, in the order of their numbers.
pub fn hsm_nodes() -> io::Result<Vec<PathBuf>> {
    find(Path::new("/dev"), "azihsm")
}

/// The management nodes, `/dev/azihsm-mgmt<N>`, in the order of their numbers.
pub fn management_nodes() -> io::Result<Vec<PathBuf>> {
    find(Path::new("/dev"), "azihsm-mgmt")
}

/// The entries of `dir` that are `prefix` and a number.
fn find(dir: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix));
        if let Some(number) = number.and_then(|number| number.parse::<u32>().ok()) {
            found.push((number, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use super::find;
    use std::fs;

    #[test]
    fn finds_only_numbered_nodes_in_numeric_order() {
        let dir = std::env::temp_dir().join(format!("azihsm-nodes-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for name in [
            "azihsm10",
            "azihsm2",
            "azihsm",
            "azihsm-mgmt0",
            "azihsmx",
            "tty0",
        ] {
            fs::write(dir.join(name), "").unwrap();
        }
        let hsm = find(&dir, "azihsm").unwrap();
        let management = find(&dir, "azihsm-mgmt").unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(hsm, [dir.join("azihsm2"), dir.join("azihsm10")]);
        assert_eq!(management, [dir.join("azihsm-mgmt0")]);
    }
}
