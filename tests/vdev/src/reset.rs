// SPDX-License-Identifier: GPL-2.0

//! Enable, disable and the various resets.
//!
//! See Documentation/device.rst, sections 2.8, 2.9, 5.7 and 7.7.

use crate::clock::Micros;
use crate::engine::ResetKind;
use crate::inject::Action;
use crate::inject::FaultId;
use crate::inject::Incident;
use crate::keys::Key;
use crate::model::Model;
use crate::model::Stage;
use crate::queue::Class;
use crate::queue::CompletionQueue;
use crate::queue::SubmissionQueue;
use std::sync::Arc;

/// What the state machine of the function is doing.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transition {
    /// Nothing; commands are served if RDY is set.
    Idle,
    /// Setting RDY.
    Enabling { due: Micros, fault: Option<FaultId> },
    /// Clearing RDY.
    Disabling {
        due: Micros,
        fault: Option<FaultId>,
        kind: ResetKind,
    },
}

impl Transition {
    pub(crate) fn deadline(&self) -> Option<Micros> {
        match self {
            Transition::Idle => None,
            Transition::Enabling { due, .. } | Transition::Disabling { due, .. } => Some(*due),
        }
    }
}

impl Model {
    /// Brings everything but the bus side to its state after power-on.
    pub(crate) fn power_on(&mut self) {
        self.drop_queues();
        self.transition = Transition::Idle;
        self.enable_event = false;
        self.subsystem_reset_event = false;
        self.queues_lost = false;
        self.paused_until = 0;
        self.sessions.clear();
        self.keys.clear();
        // What other functions have is theirs, unless this one only keeps a list of it.
        if !self.card.is_shared() {
            self.card.clear();
        }
        self.card.set(self.options.controller, self.options.groups);
        for key in self.preloaded.clone() {
            self.store_key(key);
        }
    }

    /// Adds a key that is there after every power-on and bus reset.
    pub fn preload_key(&mut self, key: Key) -> Option<u32> {
        self.preloaded.push(key.clone());
        self.store_key(key)
    }

    /// Adds a key to the groups of the function.
    pub fn store_key(&mut self, key: Key) -> Option<u32> {
        let groups = self.card.groups(self.options.controller);
        self.keys.add(groups.into_iter(), key)
    }

    fn drop_queues(&mut self) {
        self.sqs.clear();
        self.cqs.clear();
        self.inflight.clear();
    }

    pub(crate) fn advance_transition(&mut self) -> bool {
        let now = self.clock.now();
        match self.transition {
            Transition::Idle => self.serve_register_events(),
            Transition::Enabling { due, fault } => {
                if now < due || self.pending(fault) {
                    return false;
                }
                self.finish_enable();
                true
            }
            Transition::Disabling { due, fault, kind } => {
                let busy = self
                    .inflight
                    .iter()
                    .any(|item| Class::of(item.command.queue) == Class::Hsm);
                if now < due || busy || self.pending(fault) {
                    return false;
                }
                self.finish_disable(kind);
                true
            }
        }
    }

    fn pending(&self, fault: Option<FaultId>) -> bool {
        fault.is_some_and(|fault| self.faults.exists(fault))
    }

    /// Looks at the registers as they are now, whatever was written before.
    fn serve_register_events(&mut self) -> bool {
        let registers = self.bus.front.registers();
        if self.enable_event {
            self.enable_event = false;
            match (registers.ready(), registers.enabled()) {
                (false, true) => self.start_enable(),
                (true, false) => self.start_disable(ResetKind::Disable),
                _ => {}
            }
            return true;
        }
        if self.subsystem_reset_event {
            self.subsystem_reset_event = false;
            if registers.ready() {
                self.start_disable(ResetKind::Subsystem);
            }
            return true;
        }
        false
    }

    fn start_enable(&mut self) {
        if let Some((_, action)) = self
            .faults
            .use_up(0, |action| matches!(action, Action::FailEnable))
        {
            self.trace(format!("enable: {action:?}"));
            return;
        }
        let fault = self
            .faults
            .use_up(0, |action| matches!(action, Action::StuckEnable))
            .map(|(id, _)| id);
        let extra = match self
            .faults
            .use_up(0, |action| matches!(action, Action::SlowEnable { .. }))
        {
            Some((_, Action::SlowEnable { ms })) => ms.saturating_mul(1000),
            _ => 0,
        };
        let due = self
            .clock
            .now()
            .saturating_add(self.options.latency.enable)
            .saturating_add(extra);
        self.trace("enable".into());
        self.transition = Transition::Enabling { due, fault };
    }

    fn finish_enable(&mut self) {
        self.transition = Transition::Idle;
        self.queues_lost = false;
        let registers = self.bus.front.registers();
        let dead = self
            .faults
            .use_up(0, |action| matches!(action, Action::DeadAdminQueue))
            .is_some();
        self.drop_queues();
        if dead {
            self.queues_lost = true;
        } else {
            let completions = u32::from(registers.admin_cq_size()) + 1;
            let submissions = u32::from(registers.admin_sq_size()) + 1;
            // A host that has thought better of it meanwhile, as one does that
            // waited long enough, has taken its rings back.
            if registers.enabled() {
                self.check_ring("admin CQ", registers.acq, completions);
                self.check_ring("admin SQ", registers.asq, submissions);
                self.check_zeroed(0, registers.acq, completions);
                self.check_cq_covers_sq(0, completions, submissions);
            }
            self.cqs
                .insert(0, CompletionQueue::new(registers.acq, completions, Some(0)));
            self.sqs
                .insert(0, SubmissionQueue::new(registers.asq, submissions));
        }
        self.bus.counters.enables += 1;
        if let Some((_, Action::VanishEnabled { reads })) = self
            .faults
            .use_up(0, |action| matches!(action, Action::VanishEnabled { .. }))
        {
            self.bus.front.lose_reads(reads);
        }
        self.bus.front.set_ready(true);
        self.notify_engine(ResetKind::Enable);
        self.trace("ready".into());
    }

    fn start_disable(&mut self, kind: ResetKind) {
        let fault = self
            .faults
            .use_up(0, |action| matches!(action, Action::StuckDisable))
            .map(|(id, _)| id);
        let extra = match self
            .faults
            .use_up(0, |action| matches!(action, Action::SlowDisable { .. }))
        {
            Some((_, Action::SlowDisable { ms })) => ms.saturating_mul(1000),
            _ => 0,
        };
        let due = self
            .clock
            .now()
            .saturating_add(self.options.latency.disable)
            .saturating_add(extra);
        self.trace(format!("{kind:?}"));
        // An HSM command that is being executed runs to its end, and the rest
        // waits for it; everything else is torn down at once.
        self.inflight.retain(|item| {
            Class::of(item.command.queue) == Class::Hsm && !matches!(item.stage, Stage::Held { .. })
        });
        self.transition = Transition::Disabling { due, fault, kind };
    }

    fn finish_disable(&mut self, kind: ResetKind) {
        self.transition = Transition::Idle;
        self.queues_lost = !self.bus.front.stopped_by_host();
        self.drop_queues();
        self.sessions.lose();
        self.keys.erase(self.options.controller);
        match kind {
            ResetKind::Subsystem => self.bus.counters.subsystem_resets += 1,
            _ => self.bus.counters.disables += 1,
        }
        self.bus.front.set_ready(false);
        self.notify_engine(kind);
        self.trace("not ready".into());
    }

    /// A function level reset, which waits for nothing.
    pub(crate) fn function_reset(&mut self) {
        self.trace("function level reset".into());
        self.bus.counters.function_resets += 1;
        self.drop_queues();
        self.transition = Transition::Idle;
        self.enable_event = false;
        self.subsystem_reset_event = false;
        self.queues_lost = false;
        if self.options.controller == 0 {
            self.sessions.clear();
            self.keys.clear();
            self.card.clear();
            for other in self.card.others(self.options.controller) {
                other.set_enable(false);
                other.wipe();
            }
        } else {
            self.sessions.lose();
            self.keys.erase(self.options.controller);
        }
        self.bus.front.reset_registers();
        self.notify_engine(ResetKind::Function);
    }

    /// A reset of the bus, or a new client: everything is as after power-on.
    pub(crate) fn bus_reset(&mut self) {
        self.trace("bus reset".into());
        self.bus.counters.bus_resets += 1;
        self.power_on();
        // The registers were reset at once, and the next client may have enabled the
        // device since.
        self.bus.front.set_ready(false);
        self.notify_engine(ResetKind::Bus);
    }

    fn notify_engine(&mut self, kind: ResetKind) {
        if let Some(engine) = self.engine.as_mut() {
            engine.reset(kind);
        }
    }

    /// Lets something happen to the device at once.
    pub fn incident(&mut self, incident: &Incident) {
        self.trace(format!("{incident:?}"));
        match incident {
            Incident::SpuriousInterrupt { vector } => self.bus.interrupt(*vector),
            Incident::Crash => self.crash(),
            Incident::Gone { on: true } => self.bus.front.set_gone(true),
            Incident::Gone { on: false } => self.come_back(),
            Incident::Unreachable { on } => self.bus.front.set_unreachable(*on),
            Incident::LostReads { count } => self.bus.front.lose_reads(*count),
            Incident::Retry { ms } => self.bus.front.ask_to_retry(ms.saturating_mul(1000)),
            Incident::ForceDisable { groups } => self.force_disable(*groups),
            Incident::Migrate => {
                self.sessions.lose();
                self.keys.erase(self.options.controller);
            }
            Incident::Pause { ms } => {
                self.paused_until = self.clock.now().saturating_add(ms.saturating_mul(1000));
            }
        }
        let front = Arc::clone(&self.bus.front);
        front.kick();
    }

    /// A device that was gone had no power, or its link was down.
    fn come_back(&mut self) {
        if self.bus.front.gone() {
            self.bus.front.set_gone(false);
            self.bus.front.bus_reset();
        }
    }

    /// The firmware restarts after a fault: registers survive, queues and keys
    /// do not.
    fn crash(&mut self) {
        self.drop_queues();
        self.transition = Transition::Idle;
        self.keys.clear();
        self.queues_lost = true;
        self.bus.front.set_fatal();
        self.notify_engine(ResetKind::Crash);
    }

    fn force_disable(&mut self, groups: Option<u8>) {
        self.bus.front.set_enable(false);
        if let Some(count) = groups {
            self.card.set(self.options.controller, count);
            if count == 0 {
                self.wipe();
            }
        }
    }

    /// The function loses what it keeps across resets.
    pub(crate) fn wipe(&mut self) {
        self.sessions.clear();
        self.keys.erase(self.options.controller);
    }
}
