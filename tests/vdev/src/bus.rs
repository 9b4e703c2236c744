// SPDX-License-Identifier: GPL-2.0

//! The device as a bus master: DMA and interrupts.

use crate::counters::Counters;
use crate::dma::DmaError;
use crate::dma::GuestMemory;
use crate::front::Front;
use crate::intr::Interrupts;
use crate::strict::Recorder;
use crate::strict::Rule;
use std::sync::Arc;

/// See the module.
pub struct Bus {
    /// What the bus sees of the device.
    pub front: Arc<Front>,
    /// Records broken rules.
    pub strict: Arc<Recorder>,
    /// The guest's memory.
    pub memory: Arc<dyn GuestMemory>,
    /// The guest's interrupts.
    pub interrupts: Arc<dyn Interrupts>,
    /// What is counted.
    pub counters: Counters,
}

impl Bus {
    fn check(&self, address: u64, length: usize, purpose: &str) -> Result<(), DmaError> {
        if self.front.bus_master() {
            return Ok(());
        }
        let rule = if self.front.cut_off() {
            Rule::DmaAfterStopRequest
        } else {
            Rule::DmaBusMasterOff
        };
        self.strict
            .record(rule, format!("{purpose}: {length} bytes at {address:#x}"));
        Err(DmaError::BusMasterOff)
    }

    fn report(
        &self,
        result: Result<(), DmaError>,
        address: u64,
        length: usize,
        purpose: &str,
    ) -> Result<(), DmaError> {
        if let Err(error) = result {
            self.strict.record(
                Rule::DmaUnmapped,
                format!("{purpose}: {length} bytes at {address:#x}: {error}"),
            );
        }
        result
    }

    /// Reads the guest's memory.
    pub fn read(&mut self, address: u64, data: &mut [u8], purpose: &str) -> Result<(), DmaError> {
        self.check(address, data.len(), purpose)?;
        let result = self.memory.read(address, data);
        self.report(result, address, data.len(), purpose)?;
        self.counters.dma_read_bytes += data.len() as u64;
        Ok(())
    }

    /// Writes the guest's memory.
    pub fn write(&mut self, address: u64, data: &[u8], purpose: &str) -> Result<(), DmaError> {
        self.check(address, data.len(), purpose)?;
        let result = self.memory.write(address, data);
        self.report(result, address, data.len(), purpose)?;
        self.counters.dma_write_bytes += data.len() as u64;
        Ok(())
    }

    /// Writes the guest's memory so that the last four bytes appear last.
    pub fn publish(&mut self, address: u64, data: &[u8], purpose: &str) -> Result<(), DmaError> {
        let Some((body, last)) = data.split_last_chunk::<4>() else {
            return self.write(address, data, purpose);
        };
        self.write(address, body, purpose)?;
        let address = address.wrapping_add(body.len() as u64);
        let result = self.memory.publish(address, u32::from_le_bytes(*last));
        self.report(result, address, last.len(), purpose)?;
        self.counters.dma_write_bytes += last.len() as u64;
        Ok(())
    }

    /// Sends an interrupt.
    pub fn interrupt(&mut self, vector: u16) {
        if self.front.bus_master() && vector < self.front.vectors() {
            self.interrupts.raise(vector);
            self.counters.interrupts += 1;
        }
    }
}
