// SPDX-License-Identifier: GPL-2.0
//! Reading what the plugin of QEMU wrote (`tests/bench/plugin`).

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use std::collections::BTreeMap;

/// What was executed in one interval.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Interval {
    /// Instructions of each lap in user and in kernel mode.
    pub laps: Vec<(u64, u64)>,
    /// Bytes that were copied in kernel mode.
    pub copied: u64,
    /// Bytes that were filled in kernel mode.
    pub filled: u64,
    /// Blocks that were executed.
    pub blocks: Vec<Block>,
}

/// Instructions that are executed in one piece.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Block {
    /// Where they are.
    pub address: u64,
    /// Bytes of each instruction.
    pub lengths: Vec<u8>,
    /// How often they were executed.
    pub times: u64,
}

impl Block {
    /// Addresses of the instructions.
    pub fn addresses(&self) -> impl Iterator<Item = u64> + '_ {
        self.lengths.iter().scan(self.address, |next, &length| {
            let address = *next;
            *next += u64::from(length);
            Some(address)
        })
    }

    /// How many instructions were executed.
    fn executed(&self) -> u64 {
        self.lengths.len() as u64 * self.times
    }
}

/// Takes the file of counts apart.
pub fn intervals(text: &str) -> Result<Vec<Interval>> {
    let mut intervals = Vec::new();
    let mut current = None;
    for line in text.lines() {
        read(line, &mut current, &mut intervals).with_context(|| line.to_owned())?;
    }
    if current.is_some() {
        bail!("the last interval has no end");
    }
    Ok(intervals)
}

/// Bytes of instructions, a digit for each.
fn lengths(digits: &str) -> Result<Vec<u8>> {
    let digit = |c: char| c.to_digit(16).context("no digit");
    digits.chars().map(|c| Ok(digit(c)? as u8)).collect()
}

fn read(line: &str, current: &mut Option<Interval>, intervals: &mut Vec<Interval>) -> Result<()> {
    let mut words = line.split(' ');
    let first = words.next();
    let words: Vec<&str> = words.collect();
    let decimal = |index: usize| -> Result<u64> {
        let word: &&str = words.get(index).context("line is cut short")?;
        Ok(word.parse()?)
    };
    if first == Some("interval") {
        *current = Some(Interval::default());
        return Ok(());
    }
    let interval = current.as_mut().context("outside of an interval")?;
    match first {
        Some("lap") => interval.laps.push((decimal(0)?, decimal(1)?)),
        Some("count") => {
            interval.copied += decimal(3)?;
            interval.filled += decimal(4)?;
        }
        Some("block") => interval.blocks.push(Block {
            address: u64::from_str_radix(words.first().context("no address")?, 16)?,
            lengths: lengths(words.get(1).context("no lengths")?)?,
            times: decimal(2)?,
        }),
        Some("end") => intervals.extend(current.take()),
        _ => bail!("unknown line"),
    }
    Ok(())
}

/// Functions of the kernel and its modules by their addresses.
#[derive(Debug, Default)]
pub struct Symbols {
    functions: BTreeMap<u64, String>,
    /// Where the code of the module that was measured is.
    pub text: u64,
}

impl Symbols {
    /// The functions in the file of text for each module that was measured.
    pub fn read(text: &str) -> Result<BTreeMap<String, Self>> {
        let mut all = BTreeMap::new();
        let mut current: Option<&mut Self> = None;
        for line in text.lines() {
            if let Some(module) = line.strip_prefix("module ") {
                let (name, text) = module.split_once(" 0x").context("no address")?;
                let symbols: &mut Self = all.entry(name.to_owned()).or_default();
                symbols.text = u64::from_str_radix(text, 16)?;
                current = Some(symbols);
            } else if !line.is_empty() {
                let symbols = current.as_mut().context("functions of no module")?;
                symbols.add(line).with_context(|| line.to_owned())?;
            }
        }
        Ok(all)
    }

    /// Adds a line of `/proc/kallsyms`.
    fn add(&mut self, line: &str) -> Result<()> {
        let mut words = line.split_whitespace();
        let mut word = || words.next().context("line is cut short");
        let address = u64::from_str_radix(word()?, 16)?;
        let (_, name) = (word()?, word()?);
        let name = format!("{:#}", rustc_demangle::demangle(name));
        let name = match word() {
            Ok(module) => format!("{name} {module}"),
            Err(_) => name,
        };
        self.functions.entry(address).or_insert(name);
        Ok(())
    }

    /// The function that `address` is in, and where it begins.
    fn find(&self, address: u64) -> Option<(u64, &str)> {
        let (start, name) = self.functions.range(..=address).next_back()?;
        Some((*start, name))
    }
}

/// What was spent on a function.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Spent {
    /// Instructions.
    pub instructions: u64,
    /// How often it was called.
    pub calls: u64,
}

/// What was spent on each function.
pub fn by_function(blocks: &[Block], symbols: &Symbols) -> BTreeMap<String, Spent> {
    let mut spent: BTreeMap<String, Spent> = BTreeMap::new();
    for block in blocks {
        let (start, name) = match block.address >> 63 {
            0 => (None, "(user)"),
            _ => match symbols.find(block.address) {
                Some((start, name)) => (Some(start), name),
                None => (None, "(unknown)"),
            },
        };
        let entry = spent.entry(name.to_owned()).or_default();
        entry.instructions += block.executed();
        // A call leads to a block that begins where the function does.
        if start == Some(block.address) {
            entry.calls += block.times;
        }
    }
    spent
}

#[cfg(test)]
mod tests {
    use super::by_function;
    use super::intervals;
    use super::Block;
    use super::Spent;
    use super::Symbols;

    const COUNTS: &str = "\
interval 0 2
lap 10 20
lap 11 21
count 0 30 41 5 6
count 1 0 0 1 0
block ffffffff81000000 13f 2
block 401000 1111111 1
end
";

    #[test]
    fn intervals_are_read() {
        let intervals = intervals(COUNTS).unwrap();
        assert_eq!(intervals.len(), 1);
        let interval = &intervals[0];
        assert_eq!(interval.laps, [(10, 20), (11, 21)]);
        assert_eq!((interval.copied, interval.filled), (6, 6));
        assert_eq!(
            interval.blocks[0],
            Block {
                address: 0xffff_ffff_8100_0000,
                lengths: vec![1, 3, 15],
                times: 2,
            }
        );
        let addresses: Vec<u64> = interval.blocks[0].addresses().collect();
        let offsets: Vec<u64> = addresses.iter().map(|at| at & 0xff).collect();
        assert_eq!(offsets, [0, 1, 4]);
    }

    #[test]
    fn half_an_interval_is_none() {
        assert!(intervals("interval 0 1\nlap 1 2\n").is_err());
        assert!(intervals("lap 1 2\n").is_err());
        assert!(intervals("interval 0 1\nlap 1\nend\n").is_err());
        assert!(intervals("interval 0 1\nnonsense\nend\n").is_err());
    }

    #[test]
    fn instructions_go_to_the_function_they_are_in() {
        let text = "module m 0xffffffffc0000000\nffffffff81000000 T first\nffffffff81000010 t second\t[m]\n\n\n";
        let symbols = &Symbols::read(text).unwrap()["m"];
        assert_eq!(symbols.text, 0xffff_ffff_c000_0000);
        let block = |address, instructions, times| Block {
            address,
            lengths: vec![2; instructions],
            times,
        };
        let spent = by_function(
            &[
                block(0xffff_ffff_8100_0000, 3, 2),
                block(0xffff_ffff_8100_0008, 1, 4),
                block(0xffff_ffff_8100_0010, 5, 1),
                block(0x40_1000, 7, 1),
                block(0xffff_ffff_8000_0000, 1, 1),
            ],
            symbols,
        );
        let of = |name: &str| spent[name].clone();
        let expected = |instructions, calls| Spent {
            instructions,
            calls,
        };
        assert_eq!(of("first"), expected(10, 2));
        assert_eq!(of("second [m]"), expected(5, 1));
        assert_eq!(of("(user)"), expected(7, 0));
        assert_eq!(of("(unknown)"), expected(1, 0));
    }

    #[test]
    fn names_of_rust_are_readable() {
        let text = "module m 0x1000\nffffffff81000000 t _RNvCs1234_7mycrate3foo\n";
        let symbols = &Symbols::read(text).unwrap()["m"];
        let name = symbols.find(0xffff_ffff_8100_0000).unwrap().1;
        assert_eq!(name, "mycrate::foo");
    }
}
