// SPDX-License-Identifier: GPL-2.0

//! Doorbells, and commands on their way from the SQ into an engine.
//!
//! See Documentation/device.rst, sections 3.2 to 3.9.

use crate::aes::AES_SLOTS;
use crate::bytes::get_u16;
use crate::checks::check_sqe;
use crate::clock::Micros;
use crate::inject::Action;
use crate::model::Command;
use crate::model::Inflight;
use crate::model::Model;
use crate::model::Stage;
use crate::queue::Class;
use crate::reset::Transition;
use crate::strict::Rule;
use std::sync::Arc;

impl Model {
    pub(crate) fn doorbell(&mut self, queue: u16, completion: bool, value: u32) {
        let strict = Arc::clone(&self.bus.strict);
        let exists = if completion {
            self.cqs.contains_key(&queue)
        } else {
            self.sqs.contains_key(&queue)
        };
        let name = if completion { "CQ" } else { "SQ" };
        if !exists {
            // A stopped function has its own rule, and the host cannot know of
            // queues that the firmware lost.
            if !self.queues_lost && !self.bus.front.stopped_by_host() {
                strict.record(Rule::DoorbellMissingQueue, format!("{name} {queue}"));
            }
            return;
        }
        let counters = self.bus.counters.queue(queue);
        if completion {
            counters.cq_doorbells += 1;
        } else {
            counters.sq_doorbells += 1;
        }
        if let (true, Some(cq)) = (completion, self.cqs.get_mut(&queue)) {
            if let Err(rule) = cq.ring(value) {
                strict.record(
                    rule,
                    format!(
                        "CQ {queue}: {value:#x}, head {}, tail {}, {} entries",
                        cq.head, cq.tail, cq.entries
                    ),
                );
            }
        }
        if let (false, Some(sq)) = (completion, self.sqs.get_mut(&queue)) {
            if sq.deleting {
                strict.record(Rule::DoorbellAfterDeleteSq, format!("SQ {queue}"));
                return;
            }
            if let Err(rule) = sq.ring(value) {
                strict.record(
                    rule,
                    format!(
                        "SQ {queue}: {value:#x}, head {}, tail {}, {} entries",
                        sq.head, sq.tail, sq.entries
                    ),
                );
            }
            let outstanding = sq.outstanding();
            if outstanding >= sq.entries as usize {
                strict.record(
                    Rule::SqOutstanding,
                    format!("SQ {queue}: {outstanding} of {}", sq.entries),
                );
            }
            counters.max_depth = counters.max_depth.max(outstanding);
        }
    }

    /// Whether commands are being fetched at all.
    fn fetching(&self) -> bool {
        matches!(self.transition, Transition::Idle) && self.clock.now() >= self.paused_until
    }

    pub(crate) fn fetch_all(&mut self) -> bool {
        let mut progress = false;
        if !self.fetching() {
            return false;
        }
        let queues: Vec<u16> = self.sqs.keys().copied().collect();
        for queue in queues {
            while self.fetch(queue) {
                progress = true;
            }
        }
        progress
    }

    fn fetch(&mut self, queue: u16) -> bool {
        let class = Class::of(queue);
        let fetched = self
            .inflight
            .iter()
            .filter(|item| item.command.queue == queue && !matches!(item.stage, Stage::Held { .. }))
            .count();
        let Some(sq) = self.sqs.get_mut(&queue) else {
            return false;
        };
        if sq.deleting {
            sq.head = sq.tail;
            return false;
        }
        if fetched >= class.credits() || self.faults.lasts(queue, &Action::StopFetch) {
            return false;
        }
        let Some(index) = sq.take() else {
            return false;
        };
        let mut sqe = vec![0; class.sqe_size()];
        let address = sq
            .base
            .wrapping_add(u64::from(index) * class.sqe_size() as u64);
        if self
            .bus
            .read(address, &mut sqe, &format!("SQ {queue} entry {index}"))
            .is_err()
        {
            return true;
        }
        let cid = get_u16(&sqe, class.cid_offset());
        for (rule, detail) in check_sqe(class, &sqe) {
            self.bus
                .strict
                .record(rule, format!("SQ {queue} CID {cid}: {detail}"));
        }
        if let Some(sq) = self.sqs.get_mut(&queue) {
            if !sq.unfinished.insert(cid) {
                self.bus
                    .strict
                    .record(Rule::CidReused, format!("SQ {queue} CID {cid}"));
            }
        }
        self.bus.counters.queue(queue).commands += 1;
        let opcode = match class {
            Class::Admin => get_u16(&sqe, 0) & 0xff,
            Class::Hsm => get_u16(&sqe, 0) & 0x3ff,
            Class::Aes => get_u16(&sqe, 4) & 1,
        };
        self.trace(format!("SQ {queue} CID {cid} opcode {opcode:#x}: fetched"));
        let plan = self.faults.plan(queue, opcode);
        if plan.drop_command {
            self.trace(format!("SQ {queue} CID {cid}: dropped"));
            return true;
        }
        self.last_serial += 1;
        let command = Command {
            serial: self.last_serial,
            queue,
            cid,
            sqe,
            plan,
            keys_seen: false,
        };
        let stage = match class {
            Class::Aes => Stage::Fetched,
            Class::Admin => Stage::Running(self.due(self.options.latency.admin, &command)),
            Class::Hsm => Stage::Running(self.due(self.options.latency.hsm, &command)),
        };
        self.inflight.push(Inflight { command, stage });
        true
    }

    fn due(&self, latency: Micros, command: &Command) -> Micros {
        self.clock
            .now()
            .saturating_add(latency)
            .saturating_add(command.plan.delay)
    }

    /// Hands fetched AES commands to the engine, high priority first.
    pub(crate) fn start_aes(&mut self) -> bool {
        let mut progress = false;
        loop {
            let inside = self
                .inflight
                .iter()
                .filter(|item| {
                    Class::of(item.command.queue) == Class::Aes
                        && matches!(item.stage, Stage::Running(_) | Stage::External(..))
                })
                .count();
            if inside >= AES_SLOTS {
                return progress;
            }
            let Some(position) = self
                .inflight
                .iter()
                .enumerate()
                .filter(|(_, item)| matches!(item.stage, Stage::Fetched))
                .min_by_key(|(_, item)| (item.command.queue % 2, item.command.serial))
                .map(|(position, _)| position)
            else {
                return progress;
            };
            let mut item = self.inflight.remove(position);
            item.command.keys_seen = self.has_keys(&item.command.sqe);
            item.stage = Stage::Running(self.due(self.options.latency.aes, &item.command));
            self.inflight.push(item);
            progress = true;
        }
    }
}
