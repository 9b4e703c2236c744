// SPDX-License-Identifier: GPL-2.0
//! Which lines of a module's source its instructions come from.

use crate::bench::plugin::Block;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::thread;

/// A place in the source.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    /// The function.
    pub function: String,
    /// File and line.
    pub place: String,
}

/// Where an instruction comes from, the innermost function first.
pub type Frames = Vec<Frame>;

/// Code that is further away from the start of a module than this is not its.
const REACH: u64 = 16 << 20;

/// How often each instruction of the module whose code is at `text` was
/// executed, by their offsets.
pub fn by_offset(blocks: &[Block], text: u64) -> BTreeMap<u64, u64> {
    let mut times = BTreeMap::new();
    for block in blocks {
        let near = block.address.checked_sub(text);
        if near.is_some_and(|offset| offset < REACH) {
            for address in block.addresses() {
                *times.entry(address - text).or_default() += block.times;
            }
        }
    }
    times
}

/// Asks the debug information of `module`.
pub fn locate(module: &Path, offsets: impl Iterator<Item = u64>) -> Result<BTreeMap<u64, Frames>> {
    let mut child = Command::new("addr2line")
        .args(["--addresses", "--inlines", "--functions", "--demangle"])
        .args(["--section", ".text", "--exe"])
        .arg(module)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start addr2line")?;
    let offsets: Vec<String> = offsets.map(|offset| format!("{offset:#x}")).collect();
    let mut pipe = child.stdin.take().context("no pipe")?;
    let feeder = thread::spawn(move || pipe.write_all(offsets.join("\n").as_bytes()));
    let output = child.wait_with_output()?;
    feeder.join().expect("does not panic")?;
    ensure!(output.status.success(), "addr2line: {}", output.status);
    parse(&String::from_utf8_lossy(&output.stdout))
}

/// A path without the directories that it goes back from.
fn direct(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

fn parse(output: &str) -> Result<BTreeMap<u64, Frames>> {
    let mut located = BTreeMap::new();
    let mut current: Option<&mut Frames> = None;
    let mut lines = output.lines();
    while let Some(line) = lines.next() {
        if let Some(offset) = line.strip_prefix("0x") {
            let offset = u64::from_str_radix(offset, 16)?;
            current = Some(located.entry(offset).or_default());
            continue;
        }
        let place = lines.next().context("function without a place")?;
        let place = place.split(" (discriminator").next().unwrap_or(place);
        let frames = current.as_mut().context("place of no address")?;
        frames.push(Frame {
            function: line.to_owned(),
            place: direct(place),
        });
    }
    Ok(located)
}

/// What was spent in the module, in two ways: by innermost function, and by the
/// line of the files in `source` that had it done. Each is sorted.
pub fn of_module(
    blocks: &[Block],
    text: u64,
    module: &Path,
    source: &Path,
) -> Result<[Vec<(String, u64)>; 2]> {
    let source = format!("{}/", source.display());
    let times = by_offset(blocks, text);
    let located = locate(module, times.keys().copied())?;
    let mut functions: BTreeMap<String, u64> = BTreeMap::new();
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    for (offset, times) in times {
        let frames = located.get(&offset).map_or(&[][..], Vec::as_slice);
        let innermost = frames.first().map_or("?", |frame| &frame.function);
        *functions.entry(innermost.to_owned()).or_default() += times;
        let own = frames
            .iter()
            .find_map(|frame| frame.place.strip_prefix(&source));
        *places.entry(own.unwrap_or("?").to_owned()).or_default() += times;
    }
    Ok([functions, places].map(|map| {
        let mut list: Vec<_> = map.into_iter().collect();
        list.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        list
    }))
}

#[cfg(test)]
mod tests {
    use super::by_offset;
    use super::direct;
    use super::parse;
    use crate::bench::plugin::Block;

    #[test]
    fn instructions_are_counted_one_by_one() {
        let block = |address, lengths: &[u8], times| Block {
            address,
            lengths: lengths.to_vec(),
            times,
        };
        let blocks = [
            block(0x1010, &[1, 4], 3),
            block(0x1011, &[4, 2], 2),
            block(0x10, &[1], 9),
            block(0x9000_0000, &[1], 9),
        ];
        let times: Vec<(u64, u64)> = by_offset(&blocks, 0x1000).into_iter().collect();
        assert_eq!(times, [(0x10, 3), (0x11, 5), (0x15, 2)]);
    }

    #[test]
    fn inlined_functions_are_frames() {
        let output = "0x0000000000000010\ninner\n/x/build/../src/a.rs:1 (discriminator 3)\nouter\n\
                      /x/src/b.rs:2\n0x0000000000000011\n??\n??:0\n";
        let located = parse(output).unwrap();
        let frames = &located[&0x10];
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0].place, "/x/src/a.rs:1");
        assert_eq!(frames[1].function, "outer");
        assert_eq!(located[&0x11].len(), 1);
        assert!(parse("0x10\ninner\n").is_err());
    }

    #[test]
    fn a_place_is_named_by_the_shortest_way() {
        assert_eq!(direct("/t/k/../../s/a.rs:1"), "/s/a.rs:1");
        assert_eq!(direct("??:0"), "??:0");
    }
}
