// SPDX-License-Identifier: GPL-2.0

//! Faults that a test asks the device to show.

use crate::clock::Micros;
use crate::queue::Class;
use serde::Deserialize;
use serde::Serialize;

/// Names a fault that was injected.
pub type FaultId = u64;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Action {
    /// The command is executed, but no CQE is posted.
    DropCompletion,
    /// The command is fetched and forgotten.
    DropCommand,
    /// The command takes longer.
    Delay {
        /// By how much.
        ms: u64,
    },
    /// The CQE is posted only after others of the same queue.
    Reorder {
        /// How many others.
        #[serde(default = "one")]
        after: u32,
        /// When to give up waiting for them.
        #[serde(default = "second")]
        ms: u64,
    },
    /// The CQE is posted twice.
    DuplicateCompletion,
    /// Bits of the CQE are flipped.
    CorruptCqe {
        /// Of which byte.
        offset: usize,
        /// Which ones.
        xor: u8,
    },
    /// The CQE carries another CID.
    WrongCid {
        /// This one, or else the right one with all bits flipped.
        cid: Option<u16>,
    },
    /// The CQE carries the phase of the last pass.
    WrongPhase,
    /// The CQE carries another SQ head.
    WrongSqhd {
        /// This one.
        sqhd: u16,
    },
    /// The command is not executed, and its CQE carries a status.
    Status {
        /// The status, as it stands in the field.
        status: u16,
        /// The error code, for AES commands.
        #[serde(default)]
        error: u16,
        /// The command is executed all the same.
        #[serde(default)]
        execute: bool,
    },
    /// The CQE of an HSM command carries other session fields.
    CqeSession {
        /// The session flags.
        flags: Option<u8>,
        /// The session id.
        session: Option<u16>,
        /// The short application id.
        app_id: Option<u8>,
    },
    /// The CQE carries another length.
    CqeLength {
        /// This one.
        length: u32,
    },
    /// The identify data is different.
    Identify {
        /// From this byte on.
        offset: usize,
        /// With these bytes, in hexadecimal.
        data: String,
    },
    /// Delete SQ does not complete for a while, or until the fault is cleared.
    StallDeleteSq {
        /// For how long.
        ms: Option<u64>,
    },
    /// An interrupt is lost.
    DropInterrupt {
        /// Only this vector.
        vector: Option<u16>,
    },
    /// RDY is set later.
    SlowEnable {
        /// By how much.
        ms: u64,
    },
    /// RDY is cleared later.
    SlowDisable {
        /// By how much.
        ms: u64,
    },
    /// RDY is not set until the fault is cleared.
    StuckEnable,
    /// RDY is not cleared until the fault is cleared; the device stays alive.
    StuckDisable,
    /// The function cannot be enabled; RDY stays clear.
    FailEnable,
    /// RDY is set, but the admin queue does not exist.
    DeadAdminQueue,
    /// RDY is set, but the bus does not answer the next reads of registers: ones are seen.
    VanishEnabled {
        /// How many.
        reads: u32,
    },
    /// No commands are fetched until the fault is cleared.
    StopFetch,
}

fn one() -> u32 {
    1
}

fn second() -> u64 {
    1000
}

impl Action {
    /// Whether it concerns a command that was fetched.
    fn is_of_command(&self) -> bool {
        matches!(
            self,
            Action::DropCompletion
                | Action::DropCommand
                | Action::Delay { .. }
                | Action::Reorder { .. }
                | Action::DuplicateCompletion
                | Action::CorruptCqe { .. }
                | Action::WrongCid { .. }
                | Action::WrongPhase
                | Action::WrongSqhd { .. }
                | Action::Status { .. }
                | Action::CqeSession { .. }
                | Action::CqeLength { .. }
        )
    }
}

/// Something that happens at once.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Incident {
    /// An interrupt without reason.
    SpuriousInterrupt {
        /// Its vector.
        vector: u16,
    },
    /// The firmware crashes and restarts.
    Crash,
    /// The device disappears from the bus, or comes back as after power-on.
    Gone {
        /// It disappears.
        #[serde(default = "yes")]
        on: bool,
    },
    /// The bus does not reach the device for a while, which does not know and
    /// works on: reads see ones, writes are lost.
    Unreachable {
        /// It is not reached any more.
        #[serde(default = "yes")]
        on: bool,
    },
    /// The bus does not answer some reads of registers: ones are seen.
    LostReads {
        /// How many.
        count: u32,
    },
    /// The function asks to try again later when it is looked for, and answers nothing
    /// else, as in a function level reset, but works on.
    Retry {
        /// How long.
        ms: u64,
    },
    /// The physical function changes this function's resource count, which
    /// disables it first.
    ForceDisable {
        /// The new count; the groups stay as they are if it is missing.
        groups: Option<u8>,
    },
    /// An impactless update: nothing is fetched for a while.
    Pause {
        /// For how long.
        ms: u64,
    },
    /// Live migration: the function goes on, idle, on another device, which has
    /// its sessions but not their keys.
    Migrate,
}

fn yes() -> bool {
    true
}

/// A request for a fault.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Injection {
    /// What goes wrong.
    #[serde(flatten)]
    pub action: Action,
    /// Only in this queue.
    pub queue: Option<u16>,
    /// Only in queues of this class: `admin`, `hsm` or `aes`.
    pub class: Option<String>,
    /// Only commands with this opcode; for AES, 0 is encrypt and 1 decrypt.
    pub opcode: Option<u16>,
    /// How often; for ever if it is missing.
    pub count: Option<u64>,
    /// How many matches are left alone first.
    #[serde(default)]
    pub skip: u64,
}

/// A fault that is waiting for its time.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    /// Names it.
    pub id: FaultId,
    /// What was asked for, less what has been used up.
    #[serde(flatten)]
    pub injection: Injection,
    /// How often it happened.
    pub hits: u64,
}

/// What the faults do to one command.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The command is forgotten.
    pub drop_command: bool,
    /// The CQE is not posted.
    pub drop_completion: bool,
    /// The command takes so much longer.
    pub delay: Micros,
    /// The CQE waits for so many others, but no longer than this.
    pub hold: Option<(u32, Micros)>,
    /// The CQE is posted twice.
    pub duplicate: bool,
    /// Bits of the CQE to flip.
    pub corrupt: Vec<(usize, u8)>,
    /// The CID is this one, or all bits of it are flipped.
    pub cid: Option<Option<u16>>,
    /// The phase is inverted.
    pub wrong_phase: bool,
    /// The SQ head is this one.
    pub sqhd: Option<u16>,
    /// Status, error code, and whether the command is executed.
    pub status: Option<(u16, u16, bool)>,
    /// Session flags, session id and short application id.
    pub session: Option<(Option<u8>, Option<u16>, Option<u8>)>,
    /// The length is this one.
    pub length: Option<u32>,
}

impl Plan {
    fn apply(&mut self, action: &Action) {
        match action {
            Action::DropCompletion => self.drop_completion = true,
            Action::DropCommand => self.drop_command = true,
            Action::Delay { ms } => {
                self.delay = self.delay.saturating_add(ms.saturating_mul(1000));
            }
            Action::Reorder { after, ms } => self.hold = Some((*after, ms.saturating_mul(1000))),
            Action::DuplicateCompletion => self.duplicate = true,
            Action::CorruptCqe { offset, xor } => self.corrupt.push((*offset, *xor)),
            Action::WrongCid { cid } => self.cid = Some(*cid),
            Action::WrongPhase => self.wrong_phase = true,
            Action::WrongSqhd { sqhd } => self.sqhd = Some(*sqhd),
            Action::Status {
                status,
                error,
                execute,
            } => self.status = Some((*status, *error, *execute)),
            Action::CqeSession {
                flags,
                session,
                app_id,
            } => self.session = Some((*flags, *session, *app_id)),
            Action::CqeLength { length } => self.length = Some(*length),
            _ => {}
        }
    }
}

/// The faults that are waiting for their time.
#[derive(Debug, Default)]
pub struct Faults {
    list: Vec<Fault>,
    last: FaultId,
}

impl Faults {
    /// Adds one.
    pub fn add(&mut self, injection: Injection) -> FaultId {
        self.last += 1;
        self.list.push(Fault {
            id: self.last,
            injection,
            hits: 0,
        });
        self.last
    }

    /// Removes one.
    pub fn remove(&mut self, id: FaultId) -> bool {
        let before = self.list.len();
        self.list.retain(|fault| fault.id != id);
        self.list.len() != before
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// What there is.
    pub fn list(&self) -> &[Fault] {
        &self.list
    }

    /// Whether a fault has not been removed.
    pub fn exists(&self, id: FaultId) -> bool {
        self.list.iter().any(|fault| fault.id == id)
    }

    /// What happens to a command that was just fetched.
    pub fn plan(&mut self, queue: u16, opcode: u16) -> Plan {
        let mut plan = Plan::default();
        for fault in &mut self.list {
            if fault.injection.action.is_of_command()
                && fault.concerns(queue)
                && fault.injection.opcode.is_none_or(|wanted| wanted == opcode)
                && fault.hit()
            {
                plan.apply(&fault.injection.action);
            }
        }
        plan
    }

    /// Uses a fault that is not about a command.
    pub fn use_up(
        &mut self,
        queue: u16,
        matches: impl Fn(&Action) -> bool,
    ) -> Option<(FaultId, Action)> {
        for fault in &mut self.list {
            if matches(&fault.injection.action) && fault.concerns(queue) && fault.hit() {
                return Some((fault.id, fault.injection.action.clone()));
            }
        }
        None
    }

    /// Whether there is a fault that lasts, without using it up.
    pub fn lasts(&self, queue: u16, action: &Action) -> bool {
        self.list
            .iter()
            .any(|fault| fault.injection.action == *action && fault.concerns(queue))
    }
}

impl Fault {
    fn concerns(&self, queue: u16) -> bool {
        self.injection.queue.is_none_or(|wanted| wanted == queue)
            && self
                .injection
                .class
                .as_deref()
                .is_none_or(|class| class == Class::of(queue).name())
    }

    fn hit(&mut self) -> bool {
        if self.injection.skip > 0 {
            self.injection.skip -= 1;
            return false;
        }
        match &mut self.injection.count {
            Some(0) => return false,
            Some(count) => *count -= 1,
            None => {}
        }
        self.hits += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn injection(action: Action) -> Injection {
        Injection {
            action,
            queue: None,
            class: None,
            opcode: None,
            count: None,
            skip: 0,
        }
    }

    #[test]
    fn skip_and_count_bound_a_fault() {
        let mut faults = Faults::default();
        faults.add(Injection {
            count: Some(2),
            skip: 1,
            ..injection(Action::DropCommand)
        });
        let dropped: Vec<_> = (0..5).map(|_| faults.plan(1, 0).drop_command).collect();
        assert_eq!(dropped, [false, true, true, false, false]);
        assert_eq!(faults.list()[0].hits, 2);
    }

    #[test]
    fn a_fault_hits_only_what_it_names() {
        let mut faults = Faults::default();
        faults.add(Injection {
            queue: Some(2),
            ..injection(Action::DropCommand)
        });
        faults.add(Injection {
            class: Some("aes".into()),
            opcode: Some(1),
            ..injection(Action::DropCompletion)
        });
        assert!(!faults.plan(1, 0).drop_command);
        assert!(faults.plan(2, 0).drop_command);
        assert!(!faults.plan(2, 1).drop_completion);
        assert!(!faults.plan(256, 0).drop_completion);
        assert!(faults.plan(256, 1).drop_completion);
    }

    #[test]
    fn faults_add_up() {
        let mut faults = Faults::default();
        faults.add(injection(Action::Delay { ms: 2 }));
        faults.add(injection(Action::Delay { ms: 3 }));
        faults.add(injection(Action::WrongPhase));
        let plan = faults.plan(0, 0);
        assert_eq!(plan.delay, 5000);
        assert!(plan.wrong_phase);
    }

    #[test]
    fn removed_faults_are_gone() {
        let mut faults = Faults::default();
        let first = faults.add(injection(Action::StopFetch));
        let second = faults.add(injection(Action::StuckEnable));
        assert!(faults.lasts(3, &Action::StopFetch));
        assert!(faults.remove(first));
        assert!(!faults.remove(first));
        assert!(!faults.lasts(3, &Action::StopFetch));
        assert!(faults.exists(second));
        faults.clear();
        assert!(!faults.exists(second));
    }

    #[test]
    fn requests_are_read_from_json() {
        let parsed: Injection =
            serde_json::from_str(r#"{"fault":"status","status":9,"queue":256,"count":1}"#).unwrap();
        assert_eq!(
            parsed,
            Injection {
                queue: Some(256),
                count: Some(1),
                ..injection(Action::Status {
                    status: 9,
                    error: 0,
                    execute: false
                })
            }
        );
        assert!(serde_json::from_str::<Injection>(r#"{"fault":"delay"}"#).is_err());
        assert!(serde_json::from_str::<Injection>(r#"{"fault":"nonsense"}"#).is_err());
    }
}
