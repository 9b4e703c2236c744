// SPDX-License-Identifier: GPL-2.0

//! What can be chosen about the device.

use crate::bytes::put;
use crate::bytes::put_u16;
use crate::bytes::put_u32;
use crate::bytes::put_u64;
use crate::clock::Micros;
use crate::config_space::VENDOR;

/// Size of the identify data.
pub const IDENTIFY_SIZE: usize = 102;

/// How long the engines take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latency {
    /// For an admin command.
    pub admin: Micros,
    /// For an HSM command.
    pub hsm: Micros,
    /// For an AES command.
    pub aes: Micros,
    /// From CC.EN being set to RDY being set.
    pub enable: Micros,
    /// From CC.EN being cleared to RDY being cleared.
    pub disable: Micros,
}

/// What the identify page tells.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Serial number.
    pub serial: [u8; 32],
    /// Firmware revision.
    pub firmware: [u8; 32],
    /// Security version number of the firmware.
    pub svn: u64,
    /// Size of the HSM SQ entries, as a pair of nibbles.
    pub hsm_sqe_size: u8,
    /// Size of the HSM CQ entries, likewise.
    pub hsm_cqe_size: u8,
    /// Size of the AES SQ entries, likewise.
    pub aes_sqe_size: u8,
    /// Size of the AES CQ entries, likewise.
    pub aes_cqe_size: u8,
}

/// Text in a field, padded with zeros.
pub fn text_field(text: &str) -> [u8; 32] {
    let mut field = [0; 32];
    for (byte, character) in field.iter_mut().zip(text.bytes()) {
        *byte = character;
    }
    field
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            serial: text_field("VDEV000000000001"),
            firmware: text_field("vdev-1.0"),
            svn: 1,
            hsm_sqe_size: 0x66,
            hsm_cqe_size: 0x44,
            aes_sqe_size: 0x77,
            aes_cqe_size: 0x66,
        }
    }
}

impl Identity {
    /// The identify page of a function.
    pub fn page(&self, controller: u16) -> [u8; IDENTIFY_SIZE] {
        let mut page = [0; IDENTIFY_SIZE];
        put_u16(&mut page, 0, VENDOR);
        put_u16(&mut page, 2, VENDOR);
        put(&mut page, 4, &self.serial);
        put(&mut page, 36, &self.firmware);
        page[72] = 13;
        put_u16(&mut page, 74, controller);
        page[77] = self.hsm_sqe_size;
        page[78] = self.hsm_cqe_size;
        put_u16(&mut page, 80, 2);
        page[82] = 13;
        page[83] = self.aes_sqe_size;
        page[84] = self.aes_cqe_size;
        put_u16(&mut page, 86, 4);
        put_u64(&mut page, 88, self.svn);
        put_u32(&mut page, 96, 0x0001_0400);
        page[100] = 1;
        page
    }
}

/// What can be chosen about the device.
#[derive(Clone, Debug)]
pub struct Options {
    /// Controller id; 0 is the physical function.
    pub controller: u16,
    /// Resource groups at power-on.
    pub groups: u8,
    /// Short application id that sessions are opened for.
    pub app_id: u8,
    /// The function's FIPS indicator.
    pub fips: u8,
    /// What feature 0xC2 tells.
    pub features: u32,
    /// AES queues that feature 0xC1 tells of, if not two for each group.
    pub aes_queues: Option<u16>,
    /// A credential has been established.
    pub provisioned: bool,
    /// How long the engines take.
    pub latency: Latency,
    /// What the identify page tells.
    pub identity: Identity,
    /// How long an external engine may take.
    pub engine_timeout: Micros,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            controller: 0,
            groups: 2,
            app_id: 1,
            fips: 1,
            features: 1,
            aes_queues: None,
            provisioned: true,
            latency: Latency::default(),
            identity: Identity::default(),
            engine_timeout: 5_000_000,
        }
    }
}
