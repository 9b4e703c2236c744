// SPDX-License-Identifier: GPL-2.0

//! Entries of the admin queue, and the identify page.
//!
//! Documentation/device.rst 4.

use super::facade::{
    static_assert,
    DmaAddress,
    FromBytes,
    Immutable,
    IntoBytes, //
};

/// A submission queue entry (4.1).
#[derive(Clone, Copy, Default, FromBytes, Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct Sqe {
    opcode: u8,
    flags: u8,
    cid: u16,
    reserved: [u32; 5],
    prp1: u64,
    prp2: u64,
    dw10: u32,
    dw11: u32,
    dw12: [u32; 4],
}
static_assert!(size_of::<Sqe>() == 64);
static_assert!(core::mem::offset_of!(Sqe, prp1) == 24);
static_assert!(core::mem::offset_of!(Sqe, dw10) == 40);

/// A completion queue entry (4.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Completion {
    /// Result of the command.
    pub(crate) dw0: u32,
    /// Command identifier.
    pub(crate) cid: u16,
    /// Status, 15 bits (4.3).
    pub(crate) status: u16,
}

impl From<&[u64; 2]> for Completion {
    fn from(words: &[u64; 2]) -> Self {
        // CAST: Each takes the bits that the field has.
        Self {
            dw0: words[0] as u32,
            cid: (words[1] >> 32) as u16,
            status: (words[1] >> 49) as u16,
        }
    }
}

impl Sqe {
    fn new(opcode: Opcode) -> Self {
        Self {
            // CAST: The discriminants are the opcodes.
            opcode: opcode as u8,
            ..Self::default()
        }
    }

    /// Identifies the controller (4.4).
    pub(crate) fn identify() -> Self {
        Self {
            dw10: 1u32.to_le(),
            ..Self::new(Opcode::Identify)
        }
    }

    /// Asks for a feature (4.9).
    pub(crate) fn feature(feature: Feature) -> Self {
        Self {
            // CAST: The discriminants are the numbers.
            dw10: (feature as u32).to_le(),
            ..Self::new(Opcode::GetFeatures)
        }
    }

    /// Creates the completion queue `id` of `size` entries at `ring`, with interrupts if there is a
    /// `vector` (4.5).
    pub(crate) fn create_cq(id: u16, size: u16, ring: DmaAddress, vector: Option<u16>) -> Self {
        const INTERRUPTS: u32 = 1 << 1;

        let interrupts = match vector {
            Some(vector) => INTERRUPTS | u32::from(vector) << 16,
            None => 0,
        };
        Self {
            prp1: ring.to_le(),
            dw10: id_and_size(id, size).to_le(),
            dw11: (interrupts | PHYSICALLY_CONTIGUOUS).to_le(),
            ..Self::new(Opcode::CreateCq)
        }
    }

    /// Creates the submission queue `id` of `size` entries at `ring`, for the completion queue of
    /// the same number (4.6).
    pub(crate) fn create_sq(id: u16, size: u16, ring: DmaAddress) -> Self {
        Self {
            prp1: ring.to_le(),
            dw10: id_and_size(id, size).to_le(),
            dw11: (u32::from(id) << 16 | PHYSICALLY_CONTIGUOUS).to_le(),
            ..Self::new(Opcode::CreateSq)
        }
    }

    /// Deletes the submission queue `id` (4.7).
    pub(crate) fn delete_sq(id: u16) -> Self {
        Self {
            dw10: u32::from(id).to_le(),
            ..Self::new(Opcode::DeleteSq)
        }
    }

    /// Deletes the completion queue `id` (4.8).
    pub(crate) fn delete_cq(id: u16) -> Self {
        Self {
            dw10: u32::from(id).to_le(),
            ..Self::new(Opcode::DeleteCq)
        }
    }

    /// Gives the function `controller` that many resource groups (8.2).
    pub(crate) fn set_resource_count(controller: u16, count: u16) -> Self {
        Self {
            dw10: u32::from(controller).to_le(),
            dw11: u32::from(count).to_le(),
            ..Self::new(Opcode::SetResourceCount)
        }
    }

    /// Asks how many resource groups the function `controller` has (8.2).
    pub(crate) fn get_resource_count(controller: u16) -> Self {
        Self {
            dw10: u32::from(controller).to_le(),
            ..Self::new(Opcode::GetResourceCount)
        }
    }

    /// Has the device write to the page at `address`.
    pub(crate) fn with_page(self, address: DmaAddress) -> Self {
        Self {
            prp1: address.to_le(),
            ..self
        }
    }

    /// Puts the command identifier in.
    pub(crate) fn set_cid(&mut self, cid: u16) {
        self.cid = cid.to_le();
    }
}

/// Opcodes (4.4 to 4.10).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Opcode {
    DeleteSq = 0x00,
    CreateSq = 0x01,
    DeleteCq = 0x04,
    CreateCq = 0x05,
    Identify = 0x06,
    GetFeatures = 0x0a,
    SetResourceCount = 0xc3,
    GetResourceCount = 0xc4,
}

/// Features (4.9).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum Feature {
    HsmQueues = 0x07,
    AesQueues = 0xc1,
    Firmware = 0xc2,
}

/// Bytes of the identify page (4.4).
pub(crate) const IDENTIFY_LEN: usize = 102;

/// The identify page, as far as it is of interest (4.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Identify {
    /// Controller identifier: 0 is the physical function, n + 1 the virtual function n.
    pub(crate) controller: u16,
    /// Serial number, any bytes.
    pub(crate) serial: [u8; 32],
    /// Firmware revision, any bytes.
    pub(crate) firmware: [u8; 32],
}

impl Identify {
    /// Parses an identify page.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn parse(page: &[u8; IDENTIFY_LEN]) -> Result<Self, &'static str> {
        const SERIAL: usize = 4;
        const FIRMWARE: usize = 36;
        const CONTROLLER: usize = 74;
        // Offset and log2 of the size that the driver uses, which the low nibble must be.
        const ENTRY_SIZES: [(usize, u8, &str); 4] = [
            (77, 6, "HSM SQE size is not 64 bytes"),
            (78, 4, "HSM CQE size is not 16 bytes"),
            (83, 7, "AES SQE size is not 128 bytes"),
            (84, 6, "AES CQE size is not 64 bytes"),
        ];
        const MAX_CONTROLLER: u16 = 64;

        for (offset, log2, what) in ENTRY_SIZES {
            if page[offset] & 0xf != log2 {
                return Err(what);
            }
        }
        let controller = u16::from_le_bytes([page[CONTROLLER], page[CONTROLLER + 1]]);
        if controller > MAX_CONTROLLER {
            return Err("controller identifier is above 64");
        }
        let mut this = Self {
            controller,
            serial: [0; 32],
            firmware: [0; 32],
        };
        for (to, from) in this.serial.iter_mut().zip(&page[SERIAL..]) {
            *to = *from;
        }
        for (to, from) in this.firmware.iter_mut().zip(&page[FIRMWARE..]) {
            *to = *from;
        }
        Ok(this)
    }
}

/// Queues are not scattered (4.5, 4.6).
const PHYSICALLY_CONTIGUOUS: u32 = 1 << 0;

/// Encodes the number of a queue, and its last entry (4.5, 4.6).
fn id_and_size(id: u16, size: u16) -> u32 {
    u32::from(size.saturating_sub(1)) << 16 | u32::from(id)
}

/// Decodes the result of a queue count feature (4.9): both counts are less one, in 16 bits, so that
/// all ones are none.
pub(crate) fn queue_count(dw0: u32, most: u16) -> u16 {
    // CAST: Each takes the bits that the field has.
    let (sqs, cqs) = (dw0 as u16, (dw0 >> 16) as u16);
    sqs.wrapping_add(1).min(cqs.wrapping_add(1)).min(most)
}
