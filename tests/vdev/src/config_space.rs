// SPDX-License-Identifier: GPL-2.0

//! PCI configuration space.  See Documentation/device.rst, section 1.

use crate::bytes::get_u8;
use crate::bytes::put_u16;
use crate::bytes::put_u32;

/// Size of the configuration space.
pub const SIZE: usize = 4096;

/// Vendor id.
pub const VENDOR: u16 = 0x1414;
/// Device id.
pub const DEVICE: u16 = 0xc003;
/// Class code: encryption controller, for other than network or entertainment.
pub const CLASS: u32 = 0x0010_8000;
/// Size of each BAR.
pub const BAR_SIZE: u32 = 0x1000;
/// Offset of the MSI-X table in BAR4.
pub const MSIX_TABLE: u32 = 0;
/// Offset of the MSI-X pending bits in BAR4.
pub const MSIX_PENDING: u32 = 0x800;
/// The most MSI-X vectors the hardware has.
pub const MAX_VECTORS: u16 = 32;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const SUBSYSTEM: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
const BARS: [usize; 6] = [0x10, 0x14, 0x18, 0x1c, 0x20, 0x24];
const BAR_64BIT: u32 = 4;
const BAR_INDEX_MSIX: u32 = 4;
const EXPRESS: usize = 0x40;
const MSIX: usize = 0x80;

const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_MASTER: u8 = 1 << 2;
const DEVCTL: usize = EXPRESS + 8;
const DEVCTL_FLR: u8 = 1 << 7;

/// What a write does besides changing the space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// It starts a function level reset.
    FunctionReset,
}

/// The configuration space of the function.
pub struct ConfigSpace {
    data: [u8; SIZE],
    writable: [u8; SIZE],
    vectors: u16,
    subsystem: u16,
}

impl ConfigSpace {
    /// The space after power-on, with this many MSI-X vectors.
    pub fn new(vectors: u16) -> Self {
        let mut space = Self {
            data: [0; SIZE],
            writable: [0; SIZE],
            vectors: vectors.clamp(1, MAX_VECTORS),
            subsystem: DEVICE,
        };
        space.fill();
        space
    }

    fn fill(&mut self) {
        let data = &mut self.data;
        put_u16(data, 0x00, VENDOR);
        put_u16(data, 0x02, DEVICE);
        put_u16(data, STATUS, 1 << 4);
        put_u32(data, 0x08, CLASS << 8);
        for bar in [0, 2, 4] {
            put_u32(data, BARS[bar], BAR_64BIT);
        }
        put_u16(data, 0x2c, VENDOR);
        put_u16(data, SUBSYSTEM, self.subsystem);
        data[CAPABILITIES] = EXPRESS as u8;

        // PCI Express endpoint, version 2.
        put_u16(data, EXPRESS, 0x10 | ((MSIX as u16) << 8));
        put_u16(data, EXPRESS + 2, 2);
        // Role-based error reporting, function level reset.
        put_u32(data, EXPRESS + 4, (1 << 15) | (1 << 28));
        // Relaxed ordering, no snoop, 512-byte read requests.
        put_u16(data, DEVCTL, 0x2810);
        // 8 GT/s, four lanes, as capability and as current state.
        put_u32(data, EXPRESS + 0x0c, 0x43);
        put_u16(data, EXPRESS + 0x12, 0x43);
        put_u32(data, EXPRESS + 0x2c, 0x0e);
        put_u16(data, EXPRESS + 0x30, 3);

        put_u16(data, MSIX, 0x11);
        put_u16(data, MSIX + 2, self.vectors - 1);
        put_u32(data, MSIX + 4, MSIX_TABLE | BAR_INDEX_MSIX);
        put_u32(data, MSIX + 8, MSIX_PENDING | BAR_INDEX_MSIX);

        let writable = &mut self.writable;
        put_u16(writable, COMMAND, 0x0546);
        writable[0x0c] = 0xff;
        writable[0x3c] = 0xff;
        for bar in [0, 2, 4] {
            put_u32(writable, BARS[bar], !(BAR_SIZE - 1));
            put_u32(writable, BARS[bar + 1], u32::MAX);
        }
        put_u16(writable, DEVCTL, 0x7fff);
        put_u16(writable, EXPRESS + 0x10, 0x0fc3);
        put_u16(writable, EXPRESS + 0x28, 0x001f);
        put_u16(writable, MSIX + 2, 0xc000);
    }

    /// Puts everything back to its state after power-on.
    pub fn reset(&mut self) {
        self.data = [0; SIZE];
        self.fill();
    }

    /// Reads bytes; there are zeros beyond the end.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = get_u8(&self.data, start.saturating_add(index));
        }
    }

    /// Writes bytes.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let mut effect = Effect::None;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, byte) in data.iter().enumerate() {
            let position = start.saturating_add(index);
            if position == DEVCTL + 1 && byte & DEVCTL_FLR != 0 {
                effect = Effect::FunctionReset;
            }
            if let (Some(old), Some(mask)) =
                (self.data.get_mut(position), self.writable.get(position))
            {
                *old = *old & !mask | byte & mask;
            }
        }
        effect
    }

    /// Whether the function answers accesses to its BARs.
    pub fn memory(&self) -> bool {
        self.data[COMMAND] & COMMAND_MEMORY != 0
    }

    /// Whether the function may use DMA and send interrupts.
    pub fn bus_master(&self) -> bool {
        self.data[COMMAND] & COMMAND_MASTER != 0
    }

    /// The subsystem identifier.
    pub fn subsystem(&self) -> u16 {
        self.subsystem
    }

    /// Changes the subsystem identifier.
    pub fn set_subsystem(&mut self, id: u16) {
        self.subsystem = id;
        put_u16(&mut self.data, SUBSYSTEM, id);
    }

    /// Number of MSI-X vectors.
    pub fn vectors(&self) -> u16 {
        self.vectors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::get_u16;
    use crate::bytes::get_u32;

    fn read32(space: &ConfigSpace, offset: u64) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn identity_is_as_documented() {
        let space = ConfigSpace::new(32);
        assert_eq!(read32(&space, 0), 0xc003_1414);
        assert_eq!(read32(&space, 8) >> 8, 0x10_8000);
        for bar in [0x10, 0x18, 0x20] {
            assert_eq!(read32(&space, bar), 4);
            assert_eq!(read32(&space, bar + 4), 0);
        }
    }

    #[test]
    fn msix_is_the_last_capability() {
        let space = ConfigSpace::new(20);
        let mut ids = Vec::new();
        let mut next = usize::from(space.data[CAPABILITIES]);
        while next != 0 {
            ids.push(space.data[next]);
            if space.data[next] == 0x11 {
                assert_eq!(get_u16(&space.data, next + 2), 19);
                assert_eq!(get_u32(&space.data, next + 4), 4);
                assert_eq!(get_u32(&space.data, next + 8), 0x804);
            }
            next = usize::from(space.data[next + 1]);
        }
        assert_eq!(ids, [0x10, 0x11]);
    }

    #[test]
    fn bars_tell_their_size() {
        let mut space = ConfigSpace::new(32);
        for bar in [0x10, 0x18, 0x20] {
            space.write(bar, &[0xff; 8]);
            assert_eq!(read32(&space, bar), 0xffff_f004);
            assert_eq!(read32(&space, bar + 4), 0xffff_ffff);
        }
    }

    #[test]
    fn identity_cannot_be_written() {
        let mut space = ConfigSpace::new(32);
        space.write(0, &[0; 16]);
        assert_eq!(read32(&space, 0), 0xc003_1414);
    }

    #[test]
    fn another_subsystem_stays_across_resets() {
        let mut space = ConfigSpace::new(32);
        assert_eq!(read32(&space, 0x2c), 0xc003_1414);
        space.set_subsystem(0xaa08);
        assert_eq!(read32(&space, 0x2c), 0xaa08_1414);
        space.reset();
        assert_eq!(read32(&space, 0x2c), 0xaa08_1414);
    }

    #[test]
    fn bus_mastering_follows_the_command_register() {
        let mut space = ConfigSpace::new(32);
        assert!(!space.bus_master());
        space.write(4, &[6, 0]);
        assert!(space.bus_master());
        space.write(4, &[2, 0]);
        assert!(!space.bus_master());
    }

    #[test]
    fn function_reset_is_offered_and_noticed() {
        let mut space = ConfigSpace::new(32);
        assert_ne!(read32(&space, 0x44) & (1 << 28), 0);
        assert_eq!(space.write(0x48, &[0x10, 0x28]), Effect::None);
        assert_eq!(space.write(0x48, &[0x10, 0xa8]), Effect::FunctionReset);
        assert_eq!(space.write(0x49, &[0x80]), Effect::FunctionReset);
        assert_eq!(read32(&space, 0x48) & 0x8000, 0);
    }

    #[test]
    fn accesses_beyond_the_end_are_harmless() {
        let mut space = ConfigSpace::new(32);
        let mut data = [1; 8];
        space.read(4092, &mut data);
        assert_eq!(data, [0; 8]);
        space.read(u64::MAX - 3, &mut [0; 4]);
        space.write(4094, &[0xff; 8]);
        space.write(u64::MAX - 3, &[0xff; 4]);
    }
}
