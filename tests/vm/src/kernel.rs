// SPDX-License-Identifier: GPL-2.0
//! The kernel image.
//!
//! QEMU boots an uncompressed image through its PVH entry, which saves the
//! emulated processor the work of decompressing it at each boot.

use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

/// Where the setup header of a bzImage starts.
const HEADER: usize = 0x1f1;
/// Its magic number, at 0x202.
const MAGIC: &[u8] = b"HdrS";

/// Tools that decompress, and what their input begins with.
const TOOLS: &[(&[u8], &str)] = &[
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (&[0x1f, 0x8b], "gzip"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
];

/// Returns an image that boots quickly: `kernel` itself if it is not
/// compressed, or else what is in it, kept in `work` for the next time.
pub fn prepare(kernel: &Path, work: &Path) -> Result<PathBuf> {
    let image = fs::read(kernel).with_context(|| format!("{}", kernel.display()))?;
    if image.starts_with(b"\x7fELF") {
        return Ok(kernel.to_owned());
    }
    let name = kernel.file_name().context("kernel has no name")?;
    let target = work.join(format!("{}.elf", name.to_string_lossy()));
    if is_newer(&target, kernel)? {
        return Ok(target);
    }
    let elf = decompress(payload(&image)?)?;
    ensure!(
        elf.starts_with(b"\x7fELF"),
        "no ELF image in {}",
        kernel.display()
    );
    let partial = target.with_extension(format!("{}", std::process::id()));
    fs::write(&partial, elf)?;
    fs::rename(&partial, &target)?;
    Ok(target)
}

fn is_newer(target: &Path, source: &Path) -> Result<bool> {
    match fs::metadata(target) {
        Ok(target) => Ok(target.modified()? >= fs::metadata(source)?.modified()?),
        Err(_) => Ok(false),
    }
}

/// The compressed part of a bzImage.
fn payload(image: &[u8]) -> Result<&[u8]> {
    ensure!(
        image.get(0x202..0x206) == Some(MAGIC),
        "neither ELF nor bzImage"
    );
    let field = |at: usize| -> Result<usize> {
        let bytes = image.get(at..at + 4).context("short bzImage")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    let sectors = match image[HEADER] {
        0 => 4,
        count => count as usize,
    };
    let start = (sectors + 1) * 512 + field(0x248)?;
    let length = field(0x24c)?;
    image.get(start..start + length).context("short bzImage")
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>> {
    let (_, tool) = TOOLS
        .iter()
        .find(|(magic, _)| payload.starts_with(magic))
        .context("kernel compressed in an unknown way")?;
    // The four bytes after the compressed data are its size.
    let payload = payload[..payload.len() - 4].to_vec();
    let mut child = Command::new(tool)
        .args(["-d", "-c", "-q"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {tool}"))?;
    let mut input = child.stdin.take().context("no pipe")?;
    let feeder = std::thread::spawn(move || input.write_all(&payload));
    let output = child.wait_with_output()?;
    feeder.join().expect("does not panic")?;
    ensure!(output.status.success(), "{tool}: {}", output.status);
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::payload;
    use super::prepare;
    use std::fs;
    use std::process::Command;

    /// A bzImage of one setup sector with `payload` in it.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(&[0xcc; 16]);
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn payload_is_found() {
        assert_eq!(payload(&bzimage(b"abc")).unwrap(), b"abc");
    }

    #[test]
    fn other_files_are_refused() {
        assert!(payload(b"abc").is_err());
        assert!(payload(&[0; 2048]).is_err());
        let mut short = bzimage(b"abc");
        short.pop();
        assert!(payload(&short).is_err());
    }

    #[test]
    fn compressed_image_is_unpacked_once() {
        let dir = tempfile::tempdir().unwrap();
        let elf = dir.path().join("elf");
        fs::write(&elf, b"\x7fELFrest").unwrap();
        let gzip = Command::new("gzip").arg("-c").arg(&elf).output().unwrap();
        let mut packed = gzip.stdout;
        packed.extend_from_slice(&8_u32.to_le_bytes());
        let kernel = dir.path().join("vmlinuz");
        fs::write(&kernel, bzimage(&packed)).unwrap();

        let unpacked = prepare(&kernel, dir.path()).unwrap();
        assert_eq!(fs::read(&unpacked).unwrap(), b"\x7fELFrest");
        fs::write(&unpacked, b"\x7fELFkept").unwrap();
        assert_eq!(prepare(&kernel, dir.path()).unwrap(), unpacked);
        assert_eq!(fs::read(&unpacked).unwrap(), b"\x7fELFkept");
        assert_eq!(prepare(&elf, dir.path()).unwrap(), elf);
    }

    #[test]
    fn image_without_a_kernel_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("vmlinuz");
        fs::write(&kernel, bzimage(b"none of the formats")).unwrap();
        assert!(prepare(&kernel, dir.path()).is_err());
    }
}
