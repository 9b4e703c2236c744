// SPDX-License-Identifier: GPL-2.0
//! The guest's root file system.

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use cpio::newc::trailer;
use cpio::newc::Builder;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// First process of the guest.
const INIT: &str = include_str!("init");

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// Directories that init and the programs expect.
const DIRECTORIES: &[&str] = &["bin", "dev", "lib", "proc", "sys", "tmp"];

/// An archive in the making.
pub struct Initramfs {
    archive: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    /// An archive with init, `busybox` and `command`, a shell script that init
    /// runs once the guest is up.
    pub fn new(busybox: &Path, command: &str) -> Result<Self> {
        let mut initramfs = Self {
            archive: Vec::new(),
            entries: 0,
        };
        for directory in DIRECTORIES {
            initramfs.add(directory, DIRECTORY, &[])?;
        }
        initramfs.add("init", FILE, INIT.as_bytes())?;
        initramfs.add("command", FILE, command.as_bytes())?;
        initramfs.file("bin/busybox", busybox)?;
        Ok(initramfs)
    }

    /// Adds the file `source` under the name `name`.
    pub fn file(&mut self, name: &str, source: &Path) -> Result<()> {
        let content = fs::read(source).with_context(|| format!("{}", source.display()))?;
        self.add(name, FILE, &content)
    }

    /// Adds all programs in the directory `source` to `bin`.
    pub fn programs(&mut self, source: &Path) -> Result<()> {
        let mut paths = Vec::new();
        let directory = fs::read_dir(source).with_context(|| format!("{}", source.display()))?;
        for entry in directory {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
                paths.push(entry.path());
            }
        }
        ensure!(!paths.is_empty(), "no programs in {}", source.display());
        paths.sort();
        for path in paths {
            let name = path.file_name().context("file has no name")?;
            self.file(&format!("bin/{}", name.to_string_lossy()), &path)?;
        }
        Ok(())
    }

    /// Writes the archive to `target`.
    pub fn write(self, target: &Path) -> Result<()> {
        let archive = trailer(self.archive)?;
        fs::write(target, archive).with_context(|| format!("{}", target.display()))
    }

    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).context("file too large for the archive")?;
        let mut writer = Builder::new(name)
            .ino(self.entries)
            .mode(mode)
            .nlink(1)
            .write(&mut self.archive, size);
        writer.write_all(content)?;
        writer.finish()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Initramfs;
    use super::DIRECTORY;
    use super::FILE;
    use cpio::newc::Reader;
    use std::collections::BTreeMap;
    use std::fs;
    use std::fs::Permissions;
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    /// The modes and contents in an archive by their names.
    fn read(archive: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
        let archive = fs::read(archive).unwrap();
        let mut rest = archive.as_slice();
        let mut entries = BTreeMap::new();
        loop {
            let mut reader = Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            let entry = reader.entry();
            entries.insert(entry.name().to_owned(), (entry.mode(), content));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn archive_holds_what_was_added() {
        let dir = tempfile::tempdir().unwrap();
        let programs = dir.path().join("programs");
        fs::create_dir(&programs).unwrap();
        fs::write(programs.join("one"), b"program").unwrap();
        fs::set_permissions(programs.join("one"), Permissions::from_mode(0o755)).unwrap();
        fs::write(programs.join("other"), b"no program").unwrap();
        let busybox = dir.path().join("busybox");
        fs::write(&busybox, b"busybox").unwrap();

        let mut initramfs = Initramfs::new(&busybox, "true\n").unwrap();
        initramfs.programs(&programs).unwrap();
        initramfs.file("lib/m.ko", &busybox).unwrap();
        let target = dir.path().join("initramfs");
        initramfs.write(&target).unwrap();

        let entries = read(&target);
        assert_eq!(entries["dev"], (DIRECTORY, vec![]));
        assert_eq!(entries["command"], (FILE, b"true\n".to_vec()));
        assert!(!entries.contains_key("bin/other"));
        assert_eq!(entries["bin/one"], (FILE, b"program".to_vec()));
        assert_eq!(entries["bin/busybox"].1, b"busybox");
        assert_eq!(entries["lib/m.ko"].1, b"busybox");
        assert!(entries["init"].1.starts_with(b"#!/bin/busybox sh\n"));
    }

    #[test]
    fn missing_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let error = Initramfs::new(&missing, "").err().unwrap();
        assert!(error.to_string().contains("missing"), "{error}");
    }

    #[test]
    fn empty_directory_of_programs_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let busybox = dir.path().join("busybox");
        fs::write(&busybox, b"busybox").unwrap();
        let programs = dir.path().join("programs");
        fs::create_dir(&programs).unwrap();
        let mut initramfs = Initramfs::new(&busybox, "").unwrap();
        assert!(initramfs.programs(&programs).is_err());
    }
}
