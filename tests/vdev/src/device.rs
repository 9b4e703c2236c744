// SPDX-License-Identifier: GPL-2.0

//! The whole device: the bus side, the engines, and the thread they run on.

use crate::bytes::get_u8;
use crate::card::Card;
use crate::clock::Clock;
use crate::config_space::MAX_VECTORS;
use crate::config_space::MSIX_PENDING;
use crate::dma::Access;
use crate::dma::SharedMemory;
use crate::engine::Engine;
use crate::front::Front;
use crate::intr::EventLines;
use crate::model::Model;
use crate::model::Parts;
use crate::options::Options;
use crate::strict::Recorder;
use crate::transport::DmaMap;
use crate::transport::PciDevice;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;

/// What threads share of a device.
#[derive(Clone)]
pub struct Device {
    /// The bus side.
    pub front: Arc<Front>,
    /// The rules that were broken.
    pub strict: Arc<Recorder>,
    /// The guest's memory.
    pub memory: Arc<SharedMemory>,
    lines: Arc<EventLines>,
    model: Arc<Mutex<Model>>,
}

impl Device {
    /// A device after power-on.
    pub fn new(clock: Arc<dyn Clock>, options: Options, vectors: u16) -> Self {
        Self::on(&Arc::default(), clock, options, vectors)
    }

    /// A function of a device that has others, after power-on.
    pub fn on(card: &Arc<Card>, clock: Arc<dyn Clock>, options: Options, vectors: u16) -> Self {
        let strict = Arc::new(Recorder::new(Arc::clone(&clock)));
        let front = Arc::new(Front::new(Arc::clone(&clock), Arc::clone(&strict), vectors));
        let memory = Arc::new(SharedMemory::default());
        let lines = Arc::new(EventLines::default());
        card.join(options.controller, Arc::clone(&front));
        let model = Model::new(Parts {
            front: Arc::clone(&front),
            strict: Arc::clone(&strict),
            memory: memory.clone(),
            interrupts: lines.clone(),
            clock,
            options,
            card: Arc::clone(card),
            engine: None,
            random: Box::new(|iv| {
                // Only a broken kernel has no random numbers; the IV then
                // stays what the host sent.
                let _ = getrandom::fill(iv);
            }),
        });
        Self {
            front,
            strict,
            memory,
            lines,
            model: Arc::new(Mutex::new(model)),
        }
    }

    /// Lets an external engine execute HSM and AES commands.
    pub fn set_engine(&self, engine: Box<dyn Engine>) {
        self.model().set_engine(engine);
    }

    /// The engines; they stand still meanwhile.
    pub fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs the engines on a thread of their own, for ever.
    pub fn start(&self) -> io::Result<()> {
        let device = self.clone();
        thread::Builder::new()
            .name("engines".into())
            .spawn(move || loop {
                let next = device.model().step();
                device.front.wait(next);
            })?;
        Ok(())
    }

    /// Reads pending bits, which are all that QEMU leaves to the device.
    fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let pending: u32 = (0..MAX_VECTORS)
            .filter(|vector| self.lines.pending(*vector))
            .map(|vector| 1 << vector)
            .sum();
        let Some(start) = offset.checked_sub(u64::from(MSIX_PENDING)) else {
            return;
        };
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        for (index, byte) in data.iter_mut().enumerate() {
            *byte = get_u8(&pending.to_le_bytes(), start.saturating_add(index));
        }
    }

    /// The client is gone: nothing it shared is used any more.
    pub fn disconnect(&self) {
        let enabled = self.front.registers().enabled();
        self.model().count_disconnect(enabled);
        self.front.set_gone(false);
        self.front.set_unreachable(false);
        self.front.bus_reset();
        self.lines.disconnect_all();
        self.memory.unmap_all();
    }
}

impl PciDevice for Device {
    fn config_read(&mut self, offset: u64, data: &mut [u8]) {
        self.front.config_read(offset, data);
    }

    fn config_write(&mut self, offset: u64, data: &[u8]) {
        self.front.config_write(offset, data);
    }

    fn bar_read(&mut self, bar: u32, offset: u64, data: &mut [u8]) {
        self.front.bar_read(bar, offset, data);
        if bar == 4 && !self.front.silent() {
            self.read_pending(offset, data);
        }
    }

    fn bar_write(&mut self, bar: u32, offset: u64, data: &[u8]) {
        self.front.bar_write(bar, offset, data);
    }

    fn bus_reset(&mut self) {
        self.front.bus_reset();
    }

    fn dma_map(&mut self, map: DmaMap) -> io::Result<()> {
        let access = Access {
            read: map.read,
            write: map.write,
        };
        let (file, offset) = map.file;
        self.memory.map(map.address, map.size, access, file, offset)
    }

    fn dma_unmap(&mut self, range: Option<(u64, u64)>) {
        match range {
            Some((address, size)) => self.memory.unmap(address, size),
            None => self.memory.unmap_all(),
        }
    }

    fn set_vector(&mut self, vector: u16, event: Option<File>) {
        match event {
            Some(event) => self.lines.connect(vector, event),
            None => self.lines.disconnect(vector),
        }
    }

    fn disconnect_vectors(&mut self) {
        self.lines.disconnect_all();
    }
}
