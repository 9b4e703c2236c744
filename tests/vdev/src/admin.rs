// SPDX-License-Identifier: GPL-2.0

//! Admin commands.  See Documentation/device.rst, sections 4 and 8.

use crate::aes::deleted_cqe;
use crate::bytes::get_u16;
use crate::bytes::get_u32;
use crate::bytes::get_u64;
use crate::bytes::get_u8;
use crate::clock::Micros;
use crate::groups::FUNCTIONS;
use crate::groups::GROUPS;
use crate::inject::Action;
use crate::migration;
use crate::model::Command;
use crate::model::Inflight;
use crate::model::Model;
use crate::model::Stage;
use crate::queue::Class;
use crate::queue::CompletionQueue;
use crate::queue::SubmissionQueue;
use crate::queue::FIRST_AES;
use crate::registers::MAX_QUEUE_ENTRIES;
use crate::strict::Rule;

/// Page size of the device.
const PAGE: u64 = 4096;

/// Status of a command that failed, with the do-not-retry flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum AdminError {
    /// The command or feature does not exist.
    InvalidOpcode = 0x4001,
    /// A field is wrong.
    InvalidField = 0x4002,
    /// Data could not be transferred.
    DataTransfer = 0x4004,
    /// Everything else.
    Internal = 0x4007,
    /// No CQ was named.
    InvalidCqId = 0x4100,
    /// There cannot be a queue of this number.
    InvalidQueueId = 0x4101,
    /// There cannot be a queue of this size.
    InvalidQueueSize = 0x4102,
    /// A queue of this class cannot use this vector.
    InvalidVector = 0x4108,
    /// The SQ has to be deleted first.
    InvalidDeletion = 0x410c,
}

/// What becomes of an admin command.
pub(crate) enum AdminOutcome {
    /// It is finished.
    Done { status: u16, result: u32 },
    /// It is finished once this queue is drained.
    Drain(u16),
}

const DELETE_SQ: u8 = 0x00;
const CREATE_SQ: u8 = 0x01;
const DELETE_CQ: u8 = 0x04;
const CREATE_CQ: u8 = 0x05;
const IDENTIFY: u8 = 0x06;
const SET_FEATURES: u8 = 0x09;
const GET_FEATURES: u8 = 0x0a;
const SET_RESOURCE_COUNT: u8 = 0xc3;
const GET_RESOURCE_COUNT: u8 = 0xc4;
const MIGRATION_PREPARE: u8 = 0xc5;
const MIGRATION_RESTORE: u8 = 0xc9;

const FEATURE_HSM_QUEUES: u8 = 0x07;
const FEATURE_AES_QUEUES: u8 = 0xc1;
const FEATURE_FIRMWARE: u8 = 0xc2;

impl Model {
    pub(crate) fn execute_admin(&mut self, command: &Command) -> AdminOutcome {
        let sqe = &command.sqe;
        let opcode = get_u8(sqe, 0);
        let result = match opcode {
            DELETE_SQ => match self.begin_delete_sq(sqe) {
                Ok(queue) => return AdminOutcome::Drain(queue),
                Err(error) => Err(error),
            },
            CREATE_SQ => self.create_sq(sqe),
            DELETE_CQ => self.delete_cq(sqe),
            CREATE_CQ => self.create_cq(sqe),
            IDENTIFY => self.identify(sqe),
            SET_FEATURES => self.features(sqe, true),
            GET_FEATURES => self.features(sqe, false),
            SET_RESOURCE_COUNT => self.set_resource_count(sqe),
            GET_RESOURCE_COUNT => self.get_resource_count(sqe),
            MIGRATION_PREPARE..=MIGRATION_RESTORE => self.migrate(opcode, sqe),
            _ => Err(AdminError::InvalidOpcode),
        };
        match result {
            Ok(result) => AdminOutcome::Done { status: 0, result },
            Err(error) => AdminOutcome::Done {
                status: error as u16,
                result: 0,
            },
        }
    }

    /// Whether the function may have a queue of this number.
    fn check_queue_id(&self, queue: u16) -> Result<(), AdminError> {
        let groups = u16::from(GROUPS);
        let index = match Class::of(queue) {
            Class::Hsm if queue <= groups => queue - 1,
            Class::Aes if queue < FIRST_AES + 2 * groups => (queue - FIRST_AES) / 2,
            _ => return Err(AdminError::InvalidQueueId),
        };
        if index >= u16::from(self.group_count()) {
            return Err(AdminError::Internal);
        }
        Ok(())
    }

    /// Records what is wrong with the place of a ring.
    pub(crate) fn check_ring(&self, name: &str, base: u64, entries: u32) {
        let strict = &self.bus.strict;
        if base % PAGE != 0 {
            strict.record(Rule::RingAlignment, format!("{name}: {base:#x}"));
        }
        if !(2..=MAX_QUEUE_ENTRIES).contains(&entries) {
            strict.record(Rule::QueueSize, format!("{name}: {entries}"));
        }
    }

    /// Records a CQ that holds entries of an earlier life.
    pub(crate) fn check_zeroed(&self, queue: u16, base: u64, entries: u32) {
        let size = Class::of(queue).cqe_size();
        let mut ring = vec![0; size * entries as usize];
        // The device itself does not look, so this is no DMA.
        if self.bus.memory.read(base, &mut ring).is_err() {
            return;
        }
        let stale = ring
            .chunks(size)
            .position(|entry| get_u16(entry, size - 2) & 1 != 0);
        if let Some(index) = stale {
            self.bus
                .strict
                .record(Rule::CqNotZeroed, format!("CQ {queue} entry {index}"));
        }
    }

    /// Records a CQ that its SQ can overflow.
    pub(crate) fn check_cq_covers_sq(&self, queue: u16, completions: u32, submissions: u32) {
        if completions < submissions {
            self.bus.strict.record(
                Rule::CqSmallerThanSq,
                format!("queue {queue}: {completions} for {submissions}"),
            );
        }
    }

    fn create_cq(&mut self, sqe: &[u8]) -> Result<u32, AdminError> {
        let base = get_u64(sqe, 24);
        let queue = get_u16(sqe, 40);
        let size = get_u16(sqe, 42);
        let flags = get_u16(sqe, 44);
        let vector = get_u16(sqe, 46);
        let interrupts = flags & 2 != 0;
        if flags & 1 == 0 {
            return Err(AdminError::Internal);
        }
        if size == 0 {
            return Err(AdminError::InvalidQueueSize);
        }
        if queue == 0 {
            return Err(AdminError::InvalidQueueId);
        }
        let vectors = match Class::of(queue) {
            Class::Aes => 16..=31,
            _ => 1..=15,
        };
        if interrupts && !vectors.contains(&vector) {
            return Err(AdminError::InvalidVector);
        }
        self.check_queue_id(queue)?;
        if self.cqs.contains_key(&queue) {
            return Err(AdminError::Internal);
        }
        let entries = u32::from(size) + 1;
        let name = format!("CQ {queue}");
        self.check_ring(&name, base, entries);
        self.check_zeroed(queue, base, entries);
        if interrupts && vector >= self.bus.front.vectors() {
            self.bus
                .strict
                .record(Rule::VectorBeyondTable, format!("{name}: {vector}"));
        }
        let vector = interrupts.then_some(vector);
        self.cqs
            .insert(queue, CompletionQueue::new(base, entries, vector));
        Ok(0)
    }

    fn create_sq(&mut self, sqe: &[u8]) -> Result<u32, AdminError> {
        let base = get_u64(sqe, 24);
        let queue = get_u16(sqe, 40);
        let size = get_u16(sqe, 42);
        let flags = get_u16(sqe, 44);
        let completions = get_u16(sqe, 46);
        if flags & 1 == 0 {
            return Err(AdminError::Internal);
        }
        if size == 0 {
            return Err(AdminError::InvalidQueueSize);
        }
        if completions == 0 {
            return Err(AdminError::InvalidCqId);
        }
        if queue == 0 {
            return Err(AdminError::InvalidQueueId);
        }
        self.check_queue_id(completions)?;
        if !self.cqs.contains_key(&completions) {
            return Err(AdminError::Internal);
        }
        self.check_queue_id(queue)?;
        if self.sqs.contains_key(&queue) {
            return Err(AdminError::Internal);
        }
        let entries = u32::from(size) + 1;
        let name = format!("SQ {queue}");
        self.check_ring(&name, base, entries);
        if completions != queue {
            self.bus
                .strict
                .record(Rule::CqIdMismatch, format!("{name}: CQ {completions}"));
        }
        if let Some(cq) = self.cqs.get(&queue) {
            self.check_cq_covers_sq(queue, cq.entries, entries);
        }
        self.sqs.insert(queue, SubmissionQueue::new(base, entries));
        Ok(0)
    }

    fn delete_cq(&mut self, sqe: &[u8]) -> Result<u32, AdminError> {
        let queue = get_u16(sqe, 40);
        self.check_queue_id(queue)?;
        if self.sqs.contains_key(&queue) {
            self.bus
                .strict
                .record(Rule::DeleteCqBeforeSq, format!("CQ {queue}"));
            return Err(AdminError::InvalidDeletion);
        }
        if self.cqs.remove(&queue).is_none() {
            return Err(AdminError::Internal);
        }
        Ok(0)
    }

    fn begin_delete_sq(&mut self, sqe: &[u8]) -> Result<u16, AdminError> {
        let queue = get_u16(sqe, 40);
        self.check_queue_id(queue)?;
        let sq = self.sqs.get_mut(&queue).ok_or(AdminError::Internal)?;
        sq.deleting = true;
        Ok(queue)
    }

    /// The deletion of an SQ begins: AES commands end, HSM commands go on.
    pub(crate) fn start_drain(&mut self, command: Command, queue: u16) {
        let (until, fault) = match self.faults.use_up(queue, |action| {
            matches!(action, Action::StallDeleteSq { .. })
        }) {
            Some((_, Action::StallDeleteSq { ms: Some(ms) })) => (
                self.clock.now().saturating_add(ms.saturating_mul(1000)),
                None,
            ),
            Some((id, _)) => (Micros::MIN, Some(id)),
            None => (Micros::MIN, None),
        };
        if Class::of(queue) == Class::Aes {
            let (ended, others) = std::mem::take(&mut self.inflight)
                .into_iter()
                .partition(|item| item.command.queue == queue);
            self.inflight = others;
            for item in ended {
                match item.stage {
                    Stage::Running(_) | Stage::External(..) => {
                        let cqe = deleted_cqe(&item.command);
                        self.complete(item.command, cqe.to_vec());
                    }
                    Stage::Held { cqe, .. } => self.post(&item.command, &cqe),
                    Stage::Fetched | Stage::Draining { .. } => {}
                }
            }
        }
        self.inflight.push(Inflight {
            command,
            stage: Stage::Draining {
                queue,
                until,
                fault,
            },
        });
    }

    pub(crate) fn finish_drains(&mut self) -> bool {
        let now = self.clock.now();
        let ready = self.inflight.iter().position(|item| match item.stage {
            Stage::Draining {
                queue,
                until,
                fault,
            } => {
                until <= now
                    && !fault.is_some_and(|fault| self.faults.exists(fault))
                    && !self
                        .inflight
                        .iter()
                        .any(|other| other.command.queue == queue)
            }
            _ => false,
        });
        let Some(position) = ready else {
            return false;
        };
        let item = self.inflight.remove(position);
        if let Stage::Draining { queue, .. } = item.stage {
            self.sqs.remove(&queue);
            self.trace(format!("SQ {queue}: deleted"));
        }
        self.complete(item.command, vec![0; 16]);
        true
    }

    fn identify(&mut self, sqe: &[u8]) -> Result<u32, AdminError> {
        let address = get_u64(sqe, 24);
        let mut page = self.options.identity.page(self.options.controller);
        if let Some((_, Action::Identify { offset, data })) = self
            .faults
            .use_up(0, |action| matches!(action, Action::Identify { .. }))
        {
            let bytes = hex::decode(data).unwrap_or_default();
            for (field, byte) in page.iter_mut().skip(offset).zip(bytes) {
                *field = byte;
            }
        }
        self.bus
            .write(address, &page, "identify page")
            .map_err(|_| AdminError::DataTransfer)?;
        Ok(0)
    }

    fn features(&mut self, sqe: &[u8], set: bool) -> Result<u32, AdminError> {
        let groups = u32::from(self.group_count());
        if groups == 0 {
            return Err(AdminError::InvalidField);
        }
        let both = |count: u32| {
            let field = count.wrapping_sub(1) & 0xffff;
            (field << 16) | field
        };
        match get_u8(sqe, 40) {
            FEATURE_HSM_QUEUES => Ok(both(groups)),
            FEATURE_AES_QUEUES => {
                let count = self.options.aes_queues.map(u32::from);
                Ok(both(count.unwrap_or(2 * groups)))
            }
            FEATURE_FIRMWARE if !set => Ok(self.options.features),
            _ => Err(AdminError::InvalidOpcode),
        }
    }

    fn set_resource_count(&mut self, sqe: &[u8]) -> Result<u32, AdminError> {
        let controller = get_u32(sqe, 40);
        let count = get_u32(sqe, 44);
        if self.options.controller != 0 {
            return Err(AdminError::InvalidOpcode);
        }
        if count > u32::from(GROUPS) || controller >= u32::from(FUNCTIONS) {
            return Err(AdminError::InvalidField);
        }
        let (controller, wanted) = (controller as u16, count as u8);
        let virtual_function = (controller != 0)
            .then(|| self.card.other(controller))
            .flatten();
        if let Some(function) = &virtual_function {
            function.set_enable(false);
        }
        let before = self.card.count(controller);
        if !self.card.set(controller, wanted) {
            return Err(AdminError::Internal);
        }
        if before == wanted {
            return Ok(count);
        }
        if wanted == 0 {
            match virtual_function {
                Some(function) => function.wipe(),
                None if controller == self.options.controller => self.wipe(),
                None => self.keys.erase(controller),
            }
        }
        Ok(0)
    }

    fn get_resource_count(&mut self, sqe: &[u8]) -> Result<u32, AdminError> {
        let controller = get_u32(sqe, 40);
        if controller >= u32::from(FUNCTIONS) {
            return Err(AdminError::InvalidField);
        }
        Ok(u32::from(self.card.count(controller as u16)))
    }

    fn migrate(&mut self, opcode: u8, sqe: &[u8]) -> Result<u32, AdminError> {
        let address = get_u64(sqe, 24);
        let controller = get_u32(sqe, 40);
        if self.options.controller != 0 || controller >= u32::from(FUNCTIONS) {
            return Err(AdminError::InvalidField);
        }
        if controller == 0 {
            return Err(AdminError::Internal);
        }
        let groups = self.card.count(controller as u16);
        match opcode {
            migration::SAVE => {
                let context = migration::idle_context(groups);
                self.bus
                    .write(address, &context, "migration context")
                    .map_err(|_| AdminError::DataTransfer)?;
            }
            migration::RESTORE => {
                let mut context = vec![0; migration::CONTEXT_SIZE];
                self.bus
                    .read(address, &mut context, "migration context")
                    .map_err(|_| AdminError::DataTransfer)?;
                if !migration::fits(&context, groups) {
                    return Err(AdminError::Internal);
                }
            }
            _ => {}
        }
        Ok(0)
    }
}
