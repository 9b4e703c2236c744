// SPDX-License-Identifier: GPL-2.0

//! Commands that an engine executes, or that come back from the external one.

use crate::admin::AdminOutcome;
use crate::aes::AesOutcome;
use crate::aes::ERROR_FATAL;
use crate::aes::STATUS_ENGINE;
use crate::bytes::put_u16;
use crate::bytes::put_u32;
use crate::engine::Reply;
use crate::engine::Token;
use crate::hsm::HsmOutcome;
use crate::hsm::STATUS_INTERNAL;
use crate::model::Command;
use crate::model::Inflight;
use crate::model::Model;
use crate::model::Stage;
use crate::queue::Class;

impl Model {
    pub(crate) fn run_due(&mut self) -> bool {
        let now = self.clock.now();
        let next = self
            .inflight
            .iter()
            .enumerate()
            .filter_map(|(position, item)| match item.stage {
                Stage::Running(due) | Stage::External(_, due) if due <= now => {
                    Some((due, item.command.serial, position))
                }
                _ => None,
            })
            .min();
        let Some((_, _, position)) = next else {
            return false;
        };
        let item = self.inflight.remove(position);
        if let Stage::External(token, _) = item.stage {
            self.trace(format!("external engine did not answer {token}"));
            self.engine_timed_out(item.command);
        } else {
            self.execute(item.command);
        }
        true
    }

    fn execute(&mut self, command: Command) {
        let class = Class::of(command.queue);
        if let Some((status, error, false)) = command.plan.status {
            let cqe = self.bare_cqe(&command, status, error);
            self.complete(command, cqe);
            return;
        }
        match class {
            Class::Admin => match self.execute_admin(&command) {
                AdminOutcome::Done { status, result } => {
                    let mut cqe = vec![0; 16];
                    put_u32(&mut cqe, 0, result);
                    put_u16(&mut cqe, 14, status << 1);
                    self.complete(command, cqe);
                }
                AdminOutcome::Drain(queue) => self.start_drain(command, queue),
            },
            Class::Hsm => match self.execute_hsm(&command) {
                HsmOutcome::Done(cqe) => self.complete(command, cqe.to_vec()),
                HsmOutcome::External(token) => self.hand_over(command, token),
            },
            Class::Aes => match self.execute_aes(&command) {
                AesOutcome::Done(cqe) => self.complete(command, cqe.to_vec()),
                AesOutcome::External(token) => self.hand_over(command, token),
            },
        }
    }

    fn hand_over(&mut self, command: Command, token: Token) {
        let until = self.clock.now().saturating_add(self.options.engine_timeout);
        self.inflight.push(Inflight {
            command,
            stage: Stage::External(token, until),
        });
    }

    pub(crate) fn take_replies(&mut self) -> bool {
        let replies: Vec<Reply> = self
            .engine
            .as_mut()
            .map(|engine| engine.replies())
            .unwrap_or_default();
        let mut progress = false;
        for reply in replies {
            let position = self.inflight.iter().position(
                |item| matches!(item.stage, Stage::External(token, _) if token == reply.token),
            );
            // An answer may come for a command that was given up.
            if let Some(position) = position {
                let item = self.inflight.remove(position);
                self.engine_answered(item.command, reply);
                progress = true;
            }
        }
        progress
    }

    fn engine_timed_out(&mut self, command: Command) {
        let cqe = match Class::of(command.queue) {
            Class::Aes => self.bare_cqe(&command, STATUS_ENGINE, ERROR_FATAL),
            _ => self.bare_cqe(&command, STATUS_INTERNAL, 0),
        };
        self.complete(command, cqe);
    }

    fn engine_answered(&mut self, command: Command, reply: Reply) {
        let cqe = match Class::of(command.queue) {
            Class::Aes => self.finish_aes_externally(&command, &reply).to_vec(),
            _ => self.finish_hsm_externally(&command, &reply).to_vec(),
        };
        self.complete(command, cqe);
    }
}
