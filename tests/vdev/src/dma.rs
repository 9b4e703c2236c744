// SPDX-License-Identifier: GPL-2.0

//! The guest's memory as the device sees it.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::RwLockWriteGuard;
use std::sync::Weak;
use thiserror::Error;
use vm_memory::mmap::MmapRegion;
use vm_memory::volatile_memory::VolatileMemory;
use vm_memory::Bytes;
use vm_memory::FileOffset;

/// Why memory cannot be reached.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum DmaError {
    /// No memory is mapped there.
    #[error("not mapped")]
    Unmapped,
    /// The mapping does not allow it.
    #[error("not permitted")]
    Denied,
    /// Bus mastering is off.
    #[error("bus mastering is off")]
    BusMasterOff,
}

/// How much is mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapSummary {
    /// Number of mappings.
    pub regions: usize,
    /// Their total size.
    pub bytes: u64,
}

/// Memory that can be reached by bus address.
pub trait GuestMemory: Send + Sync {
    /// Copies from memory.
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError>;

    /// Copies to memory.
    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError>;

    /// Stores a little-endian word so that whoever sees it also sees everything
    /// written before.
    fn publish(&self, address: u64, word: u32) -> Result<(), DmaError>;

    /// How much is mapped.
    fn summary(&self) -> MapSummary;
}

/// What a device may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// It may read.
    pub read: bool,
    /// It may write.
    pub write: bool,
}

struct Mapping {
    size: u64,
    access: Access,
    file: Arc<MmapRegion>,
    offset: u64,
}

/// What tells files apart: device and inode.
type FileId = (u64, u64);

/// Memory that was shared through file descriptors.
#[derive(Default)]
pub struct SharedMemory {
    mappings: RwLock<BTreeMap<u64, Mapping>>,
    /// Files in use.  An IOMMU makes thousands of mappings of the same one.
    files: Mutex<HashMap<FileId, Weak<MmapRegion>>>,
}

impl SharedMemory {
    /// Maps a part of a file; an older mapping in its place goes away.
    pub fn map(
        &self,
        address: u64,
        size: u64,
        access: Access,
        file: File,
        offset: u64,
    ) -> io::Result<()> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let end = offset.checked_add(size).ok_or_else(invalid)?;
        if size == 0 || address.checked_add(size).is_none() {
            return Err(invalid());
        }
        let mapping = Mapping {
            size,
            access,
            file: self.open(file, end)?,
            offset,
        };
        let mut mappings = self.lock();
        remove(&mut mappings, address, size);
        mappings.insert(address, mapping);
        Ok(())
    }

    /// The whole of a file, which has to reach to `end`.
    fn open(&self, file: File, end: u64) -> io::Result<Arc<MmapRegion>> {
        let metadata = file.metadata()?;
        // Touching a mapping beyond the end of its file is fatal.
        if end > metadata.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let id = (metadata.dev(), metadata.ino());
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let known = files
            .get(&id)
            .and_then(Weak::upgrade)
            .filter(|region| end <= region.size() as u64);
        if let Some(region) = known {
            return Ok(region);
        }
        let length = usize::try_from(metadata.len()).map_err(io::Error::other)?;
        let region = MmapRegion::from_file(FileOffset::new(file, 0), length)
            .map(Arc::new)
            .map_err(io::Error::other)?;
        files.retain(|_, region| region.strong_count() > 0);
        files.insert(id, Arc::downgrade(&region));
        Ok(region)
    }

    fn lock(&self) -> RwLockWriteGuard<'_, BTreeMap<u64, Mapping>> {
        self.mappings
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes all mappings that lie in a range.
    pub fn unmap(&self, address: u64, size: u64) {
        remove(&mut self.lock(), address, size);
    }

    /// Removes all mappings.
    pub fn unmap_all(&self) {
        self.lock().clear();
    }

    /// Calls `each` for every piece of a range with its mapping, the offset in
    /// its file, and the part of the range it covers.
    fn pieces(
        &self,
        address: u64,
        length: usize,
        mut each: impl FnMut(&Mapping, usize, std::ops::Range<usize>) -> Result<(), DmaError>,
    ) -> Result<(), DmaError> {
        let mappings = self.mappings.read().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < length {
            let position = address.checked_add(done as u64).ok_or(DmaError::Unmapped)?;
            let (start, mapping) = mappings
                .range(..=position)
                .next_back()
                .ok_or(DmaError::Unmapped)?;
            let offset = position - start;
            let left = mapping
                .size
                .checked_sub(offset)
                .filter(|left| *left > 0)
                .ok_or(DmaError::Unmapped)?;
            let count = usize::try_from(left).map_or(length - done, |left| left.min(length - done));
            let offset =
                usize::try_from(mapping.offset + offset).map_err(|_| DmaError::Unmapped)?;
            each(mapping, offset, done..done + count)?;
            done += count;
        }
        Ok(())
    }
}

fn remove(mappings: &mut BTreeMap<u64, Mapping>, address: u64, size: u64) {
    let end = address.saturating_add(size);
    mappings.retain(|start, mapping| *start >= end || start + mapping.size <= address);
}

impl GuestMemory for SharedMemory {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), DmaError> {
        self.pieces(address, data.len(), |mapping, offset, part| {
            if !mapping.access.read {
                return Err(DmaError::Denied);
            }
            let part = data.get_mut(part).ok_or(DmaError::Unmapped)?;
            mapping
                .file
                .as_volatile_slice()
                .read_slice(part, offset)
                .map_err(|_| DmaError::Unmapped)
        })
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), DmaError> {
        self.pieces(address, data.len(), |mapping, offset, part| {
            if !mapping.access.write {
                return Err(DmaError::Denied);
            }
            let part = data.get(part).ok_or(DmaError::Unmapped)?;
            mapping
                .file
                .as_volatile_slice()
                .write_slice(part, offset)
                .map_err(|_| DmaError::Unmapped)
        })
    }

    fn publish(&self, address: u64, word: u32) -> Result<(), DmaError> {
        if address % 4 != 0 {
            return self.write(address, &word.to_le_bytes());
        }
        self.pieces(address, 4, |mapping, offset, _| {
            if !mapping.access.write {
                return Err(DmaError::Denied);
            }
            mapping
                .file
                .as_volatile_slice()
                .store(word.to_le(), offset, Ordering::Release)
                .map_err(|_| DmaError::Unmapped)
        })
    }

    fn summary(&self) -> MapSummary {
        let mappings = self.mappings.read().unwrap_or_else(PoisonError::into_inner);
        MapSummary {
            regions: mappings.len(),
            bytes: mappings.values().map(|mapping| mapping.size).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const BOTH: Access = Access {
        read: true,
        write: true,
    };

    fn file() -> File {
        let mut file = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..0x4000u32).map(|n| (n / 16) as u8).collect();
        file.write_all(&data).unwrap();
        file
    }

    #[test]
    fn adjacent_mappings_are_read_as_one() {
        let memory = SharedMemory::default();
        memory.map(0x1000, 0x1000, BOTH, file(), 0x1000).unwrap();
        memory.map(0x2000, 0x1000, BOTH, file(), 0).unwrap();
        let mut data = [0; 4];
        memory.read(0x1ffe, &mut data).unwrap();
        assert_eq!(data, [0xff, 0xff, 0, 0]);
        memory.write(0x1ffe, &[1, 2, 3, 4]).unwrap();
        memory.read(0x1ffe, &mut data).unwrap();
        assert_eq!(data, [1, 2, 3, 4]);
        memory.publish(0x2ffc, 0x0403_0201).unwrap();
        memory.read(0x2ffc, &mut data).unwrap();
        assert_eq!(data, [1, 2, 3, 4]);
        assert_eq!(
            memory.summary(),
            MapSummary {
                regions: 2,
                bytes: 0x2000
            }
        );
    }

    #[test]
    fn what_is_not_mapped_cannot_be_reached() {
        let memory = SharedMemory::default();
        let mut data = [0; 4];
        assert_eq!(memory.read(0, &mut data), Err(DmaError::Unmapped));
        memory.map(0x1000, 0x1000, BOTH, file(), 0).unwrap();
        for address in [0xfff, 0x1ffd, 0x2000, u64::MAX, u64::MAX - 1] {
            assert_eq!(memory.read(address, &mut data), Err(DmaError::Unmapped));
            assert_eq!(memory.write(address, &data), Err(DmaError::Unmapped));
        }
        assert_eq!(memory.publish(0x2000, 0), Err(DmaError::Unmapped));
        memory.unmap(0x1000, 0x1000);
        assert_eq!(memory.read(0x1000, &mut data), Err(DmaError::Unmapped));
    }

    #[test]
    fn protection_is_honoured() {
        let memory = SharedMemory::default();
        let access = Access {
            read: true,
            write: false,
        };
        memory.map(0, 0x1000, access, file(), 0).unwrap();
        let mut data = [0; 4];
        assert_eq!(memory.read(0, &mut data), Ok(()));
        assert_eq!(memory.write(0, &data), Err(DmaError::Denied));
        assert_eq!(memory.publish(0, 1), Err(DmaError::Denied));
        let access = Access {
            read: false,
            write: true,
        };
        memory.map(0, 0x1000, access, file(), 0).unwrap();
        assert_eq!(memory.read(0, &mut data), Err(DmaError::Denied));
        assert_eq!(memory.write(0, &data), Ok(()));
    }

    #[test]
    fn a_wide_unmap_removes_what_it_covers() {
        let memory = SharedMemory::default();
        memory.map(0x1000, 0x1000, BOTH, file(), 0).unwrap();
        memory.map(0x5000, 0x1000, BOTH, file(), 0).unwrap();
        memory.map(0x9000, 0x1000, BOTH, file(), 0).unwrap();
        memory.unmap(0, 0x8000);
        assert_eq!(memory.summary().regions, 1);
        memory.unmap_all();
        assert_eq!(memory.summary(), MapSummary::default());
    }

    #[test]
    fn thousands_of_mappings_need_one_file() {
        let memory = SharedMemory::default();
        let file = file();
        for page in 0..5000u64 {
            memory
                .map(
                    page * 0x2000,
                    0x1000,
                    BOTH,
                    file.try_clone().unwrap(),
                    page % 4 * 0x1000,
                )
                .unwrap();
        }
        assert_eq!(memory.summary().regions, 5000);
        memory.write(0x2000, &[1]).unwrap();
        let mut data = [0];
        memory.read(0x2000 * 5, &mut data).unwrap();
        assert_eq!(data, [1], "the same page of the file");
        memory.unmap_all();
        assert!(memory
            .files
            .lock()
            .unwrap()
            .values()
            .all(|file| file.strong_count() == 0));
    }

    #[test]
    fn a_file_that_has_grown_is_mapped_again() {
        let memory = SharedMemory::default();
        let file = file();
        memory
            .map(0, 0x1000, BOTH, file.try_clone().unwrap(), 0)
            .unwrap();
        file.set_len(0x8000).unwrap();
        memory.map(0x1000, 0x1000, BOTH, file, 0x7000).unwrap();
        assert_eq!(memory.write(0x1000, &[1]), Ok(()));
    }

    #[test]
    fn impossible_mappings_are_refused() {
        let memory = SharedMemory::default();
        assert!(memory.map(0, 0, BOTH, file(), 0).is_err());
        assert!(memory.map(u64::MAX, 0x1000, BOTH, file(), 0).is_err());
        assert!(memory.map(0, 0x10_0000, BOTH, file(), 0).is_err());
    }
}
