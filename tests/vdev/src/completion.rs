// SPDX-License-Identifier: GPL-2.0

//! Finished commands on their way into the CQ.
//!
//! See Documentation/device.rst, sections 3.5 to 3.8.

use crate::bytes::get_u16;
use crate::bytes::put;
use crate::bytes::put_u16;
use crate::bytes::put_u32;
use crate::inject::Action;
use crate::model::Command;
use crate::model::Inflight;
use crate::model::Model;
use crate::model::Stage;
use crate::queue::Class;
use crate::reset::Transition;
use crate::strict::Rule;

impl Model {
    /// A CQE that carries a status and nothing else.
    pub(crate) fn bare_cqe(&self, command: &Command, status: u16, error: u16) -> Vec<u8> {
        let class = Class::of(command.queue);
        let mut cqe = vec![0; class.cqe_size()];
        match class {
            Class::Admin | Class::Hsm => put_u16(&mut cqe, 14, status << 1),
            Class::Aes => {
                put_u16(&mut cqe, 0, get_u16(&command.sqe, 4));
                // The hardware leaves bytes of the command here.
                if let Some(leftover) = command.sqe.get(76..92) {
                    put(&mut cqe, 4, leftover);
                }
                put_u16(&mut cqe, 60, error);
                put_u16(&mut cqe, 62, status << 1);
            }
        }
        cqe
    }

    /// A command is finished: its CQE is posted, unless a fault intervenes.
    pub(crate) fn complete(&mut self, command: Command, mut cqe: Vec<u8>) {
        let class = Class::of(command.queue);
        let plan = &command.plan;
        if plan.drop_completion || !matches!(self.transition, Transition::Idle) {
            self.trace(format!(
                "SQ {} CID {}: finished without CQE",
                command.queue, command.cid
            ));
            return;
        }
        if let Some((status, error, true)) = plan.status {
            let offset = class.cqe_size() - 2;
            put_u16(&mut cqe, offset, status << 1);
            if class == Class::Aes {
                put_u16(&mut cqe, offset - 2, error);
            }
        }
        if let Some(length) = plan.length {
            match class {
                Class::Hsm => put_u16(&mut cqe, 0, length as u16),
                Class::Aes => put_u32(&mut cqe, 52, length),
                Class::Admin => put_u32(&mut cqe, 0, length),
            }
        }
        if let (Class::Hsm, Some((flags, session, app_id))) = (class, plan.session) {
            if let Some(flags) = flags {
                put(&mut cqe, 2, &[flags]);
            }
            if let Some(session) = session {
                put_u16(&mut cqe, 4, session);
            }
            if let Some(app_id) = app_id {
                put(&mut cqe, 6, &[app_id]);
            }
        }
        if let Some((after, timeout)) = plan.hold {
            let until = self.clock.now().saturating_add(timeout);
            self.inflight.push(Inflight {
                command,
                stage: Stage::Held { cqe, after, until },
            });
            return;
        }
        self.post(&command, &cqe);
    }

    pub(crate) fn release_held(&mut self) -> bool {
        let now = self.clock.now();
        let ready = self.inflight.iter().position(|item| {
            matches!(item.stage, Stage::Held { after, until, .. } if after == 0 || until <= now)
        });
        let Some(position) = ready else {
            return false;
        };
        let item = self.inflight.remove(position);
        if let Stage::Held { cqe, .. } = item.stage {
            self.post(&item.command, &cqe);
        }
        true
    }

    pub(crate) fn post(&mut self, command: &Command, cqe: &[u8]) {
        self.post_once(command, cqe);
        if command.plan.duplicate {
            self.post_once(command, cqe);
        }
        for item in &mut self.inflight {
            if item.command.queue == command.queue {
                if let Stage::Held { after, .. } = &mut item.stage {
                    *after = after.saturating_sub(1);
                }
            }
        }
    }

    fn post_once(&mut self, command: &Command, cqe: &[u8]) {
        let queue = command.queue;
        let plan = &command.plan;
        let class = Class::of(queue);
        let head = match self.sqs.get_mut(&queue) {
            Some(sq) => {
                sq.unfinished.remove(&command.cid);
                sq.head as u16
            }
            None => return,
        };
        let Some(cq) = self.cqs.get_mut(&queue) else {
            return;
        };
        if !cq.online {
            return;
        }
        let Some((index, phase)) = cq.push() else {
            self.bus
                .strict
                .record(Rule::CqOverflow, format!("CQ {queue}"));
            return;
        };
        let address = cq
            .base
            .wrapping_add(u64::from(index) * class.cqe_size() as u64);
        let vector = cq.vector;
        let mut entry = cqe.to_vec();
        let cid = match plan.cid {
            Some(Some(cid)) => cid,
            Some(None) => !command.cid,
            None => command.cid,
        };
        let (cid_at, head_at, last) = match class {
            Class::Admin | Class::Hsm => (12, 8, 14),
            Class::Aes => (2, 56, 62),
        };
        put_u16(&mut entry, cid_at, cid);
        put_u16(&mut entry, head_at, plan.sqhd.unwrap_or(head));
        put_u16(&mut entry, head_at + 2, queue);
        let status = get_u16(&entry, last) & !1;
        put_u16(
            &mut entry,
            last,
            status | u16::from(phase != plan.wrong_phase),
        );
        for (offset, xor) in &plan.corrupt {
            if let Some(byte) = entry.get_mut(*offset) {
                *byte ^= xor;
            }
        }
        self.trace(format!(
            "SQ {queue} CID {}: posted, status {:#x}",
            command.cid,
            status >> 1
        ));
        // A CQE that cannot be written is lost; the device goes on.
        let _ = self
            .bus
            .publish(address, &entry, &format!("CQ {queue} entry {index}"));
        self.bus.counters.queue(queue).completions += 1;
        if let Some(vector) = vector {
            self.interrupt(vector, queue);
        }
    }

    fn interrupt(&mut self, vector: u16, queue: u16) {
        let lost = self.faults.use_up(
            queue,
            |action| matches!(action, Action::DropInterrupt { vector: only } if only.is_none_or(|only| only == vector)),
        );
        if lost.is_none() {
            self.bus.interrupt(vector);
        }
    }
}
