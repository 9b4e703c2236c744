// SPDX-License-Identifier: GPL-2.0

//! What the device tells about itself, and what can be changed from outside.

use crate::config_space::DEVICE;
use crate::engine::Engine;
use crate::groups::FUNCTIONS;
use crate::model::Model;
use crate::queue::Class;
use crate::registers::Registers;
use anyhow::bail;
use serde_json::json;
use serde_json::Value;

/// Subsystem identifier that drivers for tests take for that of a physical
/// function; the low byte is how many virtual functions it has in the beginning.
const PHYSICAL: u16 = 0xaa00;

impl Model {
    /// Everything there is to know, for a report.
    pub fn state(&self) -> Value {
        let registers = self.bus.front.registers();
        let memory = self.bus.memory.summary();
        let mut numbers: Vec<u16> = self.sqs.keys().chain(self.cqs.keys()).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let queues: Vec<Value> = numbers
            .iter()
            .map(|queue| {
                let sq = self.sqs.get(queue).map(|sq| {
                    json!({
                        "base": sq.base,
                        "entries": sq.entries,
                        "head": sq.head,
                        "tail": sq.tail,
                        "deleting": sq.deleting,
                        "unfinished": sq.unfinished,
                    })
                });
                let cq = self.cqs.get(queue).map(|cq| {
                    json!({
                        "base": cq.base,
                        "entries": cq.entries,
                        "head": cq.head,
                        "tail": cq.tail,
                        "phase": u8::from(cq.phase),
                        "vector": cq.vector,
                        "online": cq.online,
                    })
                });
                json!({"id": queue, "kind": Class::of(*queue).name(), "sq": sq, "cq": cq})
            })
            .collect();
        json!({
            "registers": {
                "cap": registers.cap(),
                "vs": registers.version,
                "cc": registers.cc,
                "fwcap": registers.firmware_capabilities,
                "csts": registers.csts,
                "aqa": registers.aqa,
                "asq": registers.asq,
                "acq": registers.acq,
            },
            "enabled": registers.enabled(),
            "ready": registers.ready(),
            "fatal": registers.fatal(),
            "gone": self.bus.front.gone(),
            "silent": self.bus.front.silent(),
            "bus_master": self.bus.front.bus_master(),
            "vectors": self.bus.front.vectors(),
            "listening": self.bus.interrupts.listening(),
            "controller": self.options.controller,
            "groups": self.group_count(),
            "subsystem": self.bus.front.subsystem(),
            "sessions": self.sessions.summary(),
            "keys": self.keys.summary(),
            "queues": queues,
            "commands_in_flight": self.inflight.len(),
            "dma": {"regions": memory.regions, "bytes": memory.bytes},
            "time_us": self.clock.now(),
        })
    }

    /// Gives the function another number of groups, now and at power-on.
    pub fn set_groups(&mut self, count: u8) -> anyhow::Result<()> {
        if !self.card.set(self.options.controller, count) {
            bail!("that many groups are not free");
        }
        self.options.groups = count;
        Ok(())
    }

    /// Makes the function another one of the device.
    pub fn set_controller(&mut self, controller: u16) -> anyhow::Result<()> {
        if controller >= FUNCTIONS {
            bail!("the largest controller id is 64");
        }
        if self.bus.front.registers().enabled() {
            bail!("the function is enabled");
        }
        if self.card.is_shared() && controller != self.options.controller {
            bail!("there are other functions");
        }
        self.card.rename(self.options.controller, controller);
        self.options.controller = controller;
        for key in &mut self.preloaded {
            key.owner = controller;
        }
        self.power_on();
        Ok(())
    }

    /// Turns the function off and on, as it was in the beginning but for its configuration, which
    /// nobody would write again.
    pub fn power_cycle(&mut self) -> anyhow::Result<()> {
        self.bus.front.reset_registers();
        let (controller, groups) = self.born;
        self.options.groups = groups;
        self.set_controller(controller)
    }

    /// Has a driver for tests take it for a physical function with so many virtual
    /// ones in the beginning, or not, when it is found the next time.
    pub fn set_physical(&mut self, functions: Option<u8>) {
        let subsystem = functions.map_or(DEVICE, |count| PHYSICAL | u16::from(count));
        self.bus.front.set_subsystem(subsystem);
    }

    /// Changes registers that the host cannot write.
    pub fn change_registers(&mut self, change: impl FnOnce(&mut Registers)) {
        self.bus.front.change_registers(change);
    }

    /// Lets an external engine execute HSM and AES commands.
    pub fn set_engine(&mut self, engine: Box<dyn Engine>) {
        self.engine = Some(engine);
    }
}
