// SPDX-License-Identifier: GPL-2.0

//! Where the data of an AES command is: SGLs and PRPs.
//!
//! See Documentation/device.rst, section 6.4.

use crate::bus::Bus;
use crate::bytes::get_u32;
use crate::bytes::get_u64;
use crate::bytes::get_u8;
use crate::bytes::is_zero;
use crate::dma::DmaError;
use crate::strict::Rule;

/// Page size of the device.
const PAGE: u64 = 4096;
/// Size of an SGL descriptor.
const DESCRIPTOR: usize = 16;
/// Size of a PRP.
const PRP: u64 = 8;
/// The most pieces that data is taken in, to end lists that link to themselves.
const MAX_EXTENTS: usize = 1 << 20;
/// The most descriptors a chunk of data may need.
const MAX_PER_CHUNK: u32 = 4;
/// Chunk sizes that are tried in turn.
const CHUNKS: [u64; 3] = [4096, 512, 128];

const TYPE_DATA: u8 = 0;
const TYPE_SEGMENT: u8 = 2;
const TYPE_LAST_SEGMENT: u8 = 3;

/// Status and error code of a command that failed.
pub type Failure = (u16, u16);

/// Which of the two a descriptor describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is read.
    Source,
    /// What is written.
    Destination,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Destination => "destination",
        }
    }

    fn pick(self, destination: Failure, source: Failure) -> Failure {
        match self {
            Side::Source => source,
            Side::Destination => destination,
        }
    }

    fn structure(self) -> Failure {
        self.pick((4, 5), (4, 6))
    }

    fn prp(self) -> Failure {
        self.pick((4, 1), (4, 3))
    }

    fn descriptor_read(self) -> Failure {
        self.pick((3, 1), (3, 2))
    }
}

/// A piece of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its bus address.
    pub address: u64,
    /// Its length.
    pub length: u64,
}

/// Data that lies in pieces, and a position in it.
#[derive(Clone, Debug, Default)]
pub struct Data {
    extents: Vec<Extent>,
    index: usize,
    offset: u64,
}

impl Data {
    /// Data in these pieces.
    pub fn new(extents: Vec<Extent>) -> Self {
        Self {
            extents,
            index: 0,
            offset: 0,
        }
    }

    /// Takes the next so many bytes, piece by piece.
    fn advance(
        &mut self,
        length: usize,
        mut each: impl FnMut(u64, std::ops::Range<usize>) -> Result<(), DmaError>,
    ) -> Result<(), DmaError> {
        let mut done = 0;
        while done < length {
            let Some(extent) = self.extents.get(self.index) else {
                return Err(DmaError::Unmapped);
            };
            let left = extent.length - self.offset;
            if left == 0 {
                self.index += 1;
                self.offset = 0;
                continue;
            }
            let count = left.min((length - done) as u64);
            let end = done + count as usize;
            each(extent.address.wrapping_add(self.offset), done..end)?;
            self.offset += count;
            done = end;
        }
        Ok(())
    }

    /// Reads the next bytes.
    pub fn read(&mut self, bus: &mut Bus, data: &mut [u8]) -> Result<(), DmaError> {
        self.advance(data.len(), |address, part| match data.get_mut(part) {
            Some(part) => bus.read(address, part, "AES source"),
            None => Err(DmaError::Unmapped),
        })
    }

    /// Writes the next bytes.
    pub fn write(&mut self, bus: &mut Bus, data: &[u8]) -> Result<(), DmaError> {
        self.advance(data.len(), |address, part| match data.get(part) {
            Some(part) => bus.write(address, part, "AES destination"),
            None => Err(DmaError::Unmapped),
        })
    }
}

/// Finds the data that the descriptor in an SQE describes.
pub fn locate(
    bus: &mut Bus,
    descriptor: &[u8; DESCRIPTOR],
    side: Side,
    sgl: bool,
    length: u32,
) -> Result<Data, Failure> {
    if length == 0 {
        return Ok(Data::default());
    }
    let extents = if sgl {
        walk_sgl(bus, descriptor, side, u64::from(length))?
    } else {
        walk_prps(bus, descriptor, side, u64::from(length))?
    };
    check_fragmentation(bus, &extents, side)?;
    Ok(Data::new(extents))
}

fn walk_sgl(
    bus: &mut Bus,
    first: &[u8; DESCRIPTOR],
    side: Side,
    length: u64,
) -> Result<Vec<Extent>, Failure> {
    let mut extents = Vec::new();
    let mut total = 0;
    let mut descriptor = first.to_vec();
    let mut inline = true;
    let broken = |bus: &Bus, rule: Rule, detail: String| {
        bus.strict
            .record(rule, format!("{}: {detail}", side.name()));
        side.structure()
    };
    loop {
        let address = get_u64(&descriptor, 0);
        let size = u64::from(get_u32(&descriptor, 8));
        let kind = get_u8(&descriptor, 15) >> 4;
        check_reserved(bus, &descriptor, side)?;
        let last = match kind {
            TYPE_SEGMENT => false,
            TYPE_LAST_SEGMENT => true,
            TYPE_DATA if inline => {
                bus.strict
                    .record(Rule::SglInlineData, side.name().to_string());
                if size != length {
                    let detail = format!("{size} of {length}");
                    return Err(broken(bus, Rule::SglLengthMismatch, detail));
                }
                return Ok(vec![Extent { address, length }]);
            }
            _ => return Err(broken(bus, Rule::SglType, format!("type {kind}"))),
        };
        inline = false;
        if size == 0 {
            return Err(broken(bus, Rule::SglZeroLength, "segment".into()));
        }
        if size % DESCRIPTOR as u64 != 0 {
            return Err(broken(bus, Rule::SglSegmentLength, format!("{size}")));
        }
        if address % DESCRIPTOR as u64 != 0 {
            let detail = format!("{address:#x}");
            return Err(broken(bus, Rule::SglSegmentAlignment, detail));
        }
        if address % PAGE + size > PAGE {
            let detail = format!("{size} bytes at {address:#x}");
            return Err(broken(bus, Rule::SglSegmentCrossesPage, detail));
        }
        let mut segment = vec![0; size as usize];
        bus.read(address, &mut segment, "SGL segment")
            .map_err(|_| side.descriptor_read())?;
        let count = segment.len() / DESCRIPTOR;
        let mut link = None;
        for (index, entry) in segment.chunks_exact(DESCRIPTOR).enumerate() {
            let size = u64::from(get_u32(entry, 8));
            match get_u8(entry, 15) >> 4 {
                TYPE_DATA => {
                    check_reserved(bus, entry, side)?;
                    if size == 0 {
                        return Err(broken(bus, Rule::SglZeroLength, "data block".into()));
                    }
                    total += size;
                    if total > length || extents.len() == MAX_EXTENTS {
                        let detail = format!("more than {length}");
                        return Err(broken(bus, Rule::SglLengthMismatch, detail));
                    }
                    extents.push(Extent {
                        address: get_u64(entry, 0),
                        length: size,
                    });
                }
                TYPE_SEGMENT | TYPE_LAST_SEGMENT if index == 0 => {
                    return Err(broken(bus, Rule::SglSegmentFirst, String::new()));
                }
                TYPE_SEGMENT | TYPE_LAST_SEGMENT if index + 1 != count => {
                    return Err(broken(bus, Rule::SglSegmentNotLast, format!("{index}")));
                }
                TYPE_SEGMENT | TYPE_LAST_SEGMENT if last => {
                    return Err(broken(bus, Rule::SglLastSegmentLinks, String::new()));
                }
                TYPE_SEGMENT | TYPE_LAST_SEGMENT => link = Some(entry.to_vec()),
                kind => return Err(broken(bus, Rule::SglType, format!("type {kind}"))),
            }
        }
        match link {
            Some(next) => descriptor = next,
            None if last => break,
            None => return Err(broken(bus, Rule::SglUnterminated, String::new())),
        }
    }
    if total != length {
        let detail = format!("{total} of {length}");
        return Err(broken(bus, Rule::SglLengthMismatch, detail));
    }
    Ok(extents)
}

/// Reserved bytes only break a rule; an unknown sub-type is an error.
fn check_reserved(bus: &Bus, descriptor: &[u8], side: Side) -> Result<(), Failure> {
    let subtype = get_u8(descriptor, 15) & 0xf;
    if subtype == 0 && is_zero(descriptor, 12..15) {
        return Ok(());
    }
    bus.strict.record(
        Rule::SglReserved,
        format!("{}: {descriptor:02x?}", side.name()),
    );
    if subtype == 0 {
        Ok(())
    } else {
        Err(side.structure())
    }
}

fn walk_prps(
    bus: &mut Bus,
    descriptor: &[u8; DESCRIPTOR],
    side: Side,
    length: u64,
) -> Result<Vec<Extent>, Failure> {
    let first = get_u64(descriptor, 0);
    let second = get_u64(descriptor, 8);
    if first == 0 {
        bus.strict.record(Rule::PrpZero, side.name().to_string());
        return Err(side.prp());
    }
    if first % 4 != 0 {
        bus.strict
            .record(Rule::PrpAlignment, format!("{}: {first:#x}", side.name()));
        return Err(side.prp());
    }
    let in_first = length.min(PAGE - first % PAGE);
    let mut extents = vec![Extent {
        address: first,
        length: in_first,
    }];
    let mut left = length - in_first;
    if left == 0 {
        return Ok(extents);
    }
    let page = |bus: &Bus, address: u64, left: u64| -> Result<Extent, Failure> {
        let rule = if address == 0 {
            Rule::PrpZero
        } else if address % PAGE != 0 {
            Rule::PrpAlignment
        } else {
            return Ok(Extent {
                address,
                length: left.min(PAGE),
            });
        };
        bus.strict
            .record(rule, format!("{}: {address:#x}", side.name()));
        Err(side.prp())
    };
    if left <= PAGE {
        extents.push(page(bus, second, left)?);
        return Ok(extents);
    }
    let mut list = second;
    while left > 0 {
        if list == 0 || list % PRP != 0 {
            let rule = if list == 0 {
                Rule::PrpZero
            } else {
                Rule::PrpAlignment
            };
            bus.strict
                .record(rule, format!("{} list: {list:#x}", side.name()));
            return Err(side.prp());
        }
        let room = (PAGE - list % PAGE) / PRP;
        let pages = left.div_ceil(PAGE);
        let entries = room.min(pages);
        let chained = pages > room;
        let mut data = vec![0; (entries * PRP) as usize];
        bus.read(list, &mut data, "PRP list")
            .map_err(|_| side.descriptor_read())?;
        let data_entries = if chained { entries - 1 } else { entries };
        for index in 0..data_entries {
            let extent = page(bus, get_u64(&data, (index * PRP) as usize), left)?;
            left -= extent.length;
            extents.push(extent);
        }
        if chained {
            list = get_u64(&data, (data_entries * PRP) as usize);
            if data_entries == 0 && list % PAGE != 0 {
                return Err(side.prp());
            }
        }
    }
    Ok(extents)
}

/// Whether no chunk of this size needs too many descriptors.
fn fits_chunks(extents: &[Extent], chunk: u64) -> bool {
    let mut position = 0;
    let mut current = None;
    let mut count = 0;
    for extent in extents {
        let first = position / chunk;
        let last = (position + extent.length - 1) / chunk;
        if current == Some(first) {
            count += 1;
        } else {
            count = 1;
        }
        if count > MAX_PER_CHUNK {
            return false;
        }
        if last != first {
            count = 1;
        }
        current = Some(last);
        position += extent.length;
    }
    true
}

fn check_fragmentation(bus: &Bus, extents: &[Extent], side: Side) -> Result<(), Failure> {
    let retries = CHUNKS.iter().position(|chunk| fits_chunks(extents, *chunk));
    match retries {
        Some(0) => Ok(()),
        Some(retries) => {
            bus.strict.record(
                Rule::SglFragmented,
                format!("{}: {retries} retries", side.name()),
            );
            Ok(())
        }
        None => {
            bus.strict
                .record(Rule::SglTooFragmented, side.name().to_string());
            Err((9, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(lengths: &[u64]) -> Vec<Extent> {
        lengths
            .iter()
            .map(|length| Extent {
                address: 0,
                length: *length,
            })
            .collect()
    }

    #[test]
    fn four_descriptors_fit_a_chunk_and_five_do_not() {
        assert!(fits_chunks(&extents(&[1024; 16]), 4096));
        assert!(!fits_chunks(&extents(&[800; 20]), 4096));
        assert!(fits_chunks(&extents(&[800; 20]), 512));
        // A piece that spans chunks counts in each of them.
        assert!(fits_chunks(&extents(&[4000, 100, 100, 100]), 4096));
        assert!(!fits_chunks(&extents(&[8000, 48, 48, 48, 48]), 4096));
        assert!(fits_chunks(&extents(&[32; 8]), 128));
        assert!(!fits_chunks(&extents(&[16; 8]), 128));
    }
}
