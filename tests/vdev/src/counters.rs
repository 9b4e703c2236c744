// SPDX-License-Identifier: GPL-2.0

//! What the device counts.

use crate::front::AccessCounters;
use crate::queue::Class;
use serde_json::json;
use serde_json::Value;
use std::collections::BTreeMap;

/// What is counted for each queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueCounters {
    /// SQ doorbells.
    pub sq_doorbells: u64,
    /// CQ doorbells.
    pub cq_doorbells: u64,
    /// Commands that were fetched.
    pub commands: u64,
    /// Completions that were posted.
    pub completions: u64,
    /// The most commands that were unfinished at a time.
    pub max_depth: usize,
}

/// What is counted for the function.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Interrupts that were sent.
    pub interrupts: u64,
    /// Bytes that were read from the guest.
    pub dma_read_bytes: u64,
    /// Bytes that were written to the guest.
    pub dma_write_bytes: u64,
    /// Times the function was enabled.
    pub enables: u64,
    /// Times the function was disabled.
    pub disables: u64,
    /// NSSR writes that were carried out.
    pub subsystem_resets: u64,
    /// Function level resets.
    pub function_resets: u64,
    /// Bus resets.
    pub bus_resets: u64,
    /// Times the client disconnected.
    pub disconnects: u64,
    /// Times it did so while the function was enabled.
    pub left_enabled: u64,
    /// HSM sessions that were opened.
    pub sessions_opened: u64,
    /// HSM sessions that were closed or flushed.
    pub sessions_closed: u64,
    /// Flush commands.
    pub flushes: u64,
    /// For each queue.
    pub queues: BTreeMap<u16, QueueCounters>,
}

impl Counters {
    /// The counters of a queue.
    pub fn queue(&mut self, queue: u16) -> &mut QueueCounters {
        self.queues.entry(queue).or_default()
    }

    /// All counters, for a report.
    pub fn to_json(&self, access: AccessCounters, outstanding: impl Fn(u16) -> usize) -> Value {
        let commands = |class: Class| -> u64 {
            self.queues
                .iter()
                .filter(|(queue, _)| Class::of(**queue) == class)
                .map(|(_, counters)| counters.commands)
                .sum()
        };
        let queues: Vec<Value> = self
            .queues
            .iter()
            .map(|(queue, counters)| {
                json!({
                    "id": queue,
                    "kind": Class::of(*queue).name(),
                    "sq_doorbells": counters.sq_doorbells,
                    "cq_doorbells": counters.cq_doorbells,
                    "commands": counters.commands,
                    "completions": counters.completions,
                    "max_depth": counters.max_depth,
                    "outstanding": outstanding(*queue),
                })
            })
            .collect();
        json!({
            "sq_doorbells": access.sq_doorbells,
            "cq_doorbells": access.cq_doorbells,
            "mmio_reads": access.reads,
            "mmio_writes": access.writes,
            "interrupts": self.interrupts,
            "dma_read_bytes": self.dma_read_bytes,
            "dma_write_bytes": self.dma_write_bytes,
            "commands": {
                "admin": commands(Class::Admin),
                "hsm": commands(Class::Hsm),
                "aes": commands(Class::Aes),
            },
            "enables": self.enables,
            "disables": self.disables,
            "subsystem_resets": self.subsystem_resets,
            "function_resets": self.function_resets,
            "bus_resets": self.bus_resets,
            "disconnects": self.disconnects,
            "left_enabled": self.left_enabled,
            "sessions_opened": self.sessions_opened,
            "sessions_closed": self.sessions_closed,
            "flushes": self.flushes,
            "queues": queues,
        })
    }
}
