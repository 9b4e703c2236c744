// SPDX-License-Identifier: GPL-2.0

//! Records every rule of the hardware that the driver breaks.

use crate::clock::Clock;
use crate::clock::Micros;
use serde::Serialize;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

/// How bad it is to break a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The driver is wrong.
    Error,
    /// Allowed, but better avoided.
    Note,
}

macro_rules! rules {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $severity:ident;)*) => {
        /// A rule the driver has to keep.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rule {
            $($(#[$doc])* $variant,)*
        }

        impl Rule {
            /// All of them.
            pub const ALL: &'static [Rule] = &[$(Rule::$variant),*];

            /// The name in reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Rule::$variant => $name,)*
                }
            }

            /// How bad it is to break the rule.
            pub fn severity(self) -> Severity {
                match self {
                    $(Rule::$variant => Severity::$severity,)*
                }
            }
        }
    };
}

rules! {
    /// DMA was needed although bus mastering is off and the function is enabled.
    DmaBusMasterOff = "dma-bus-master-off", Error;
    /// DMA was needed after the driver had asked for a stop and turned bus mastering off.
    DmaAfterStopRequest = "dma-after-stop-request", Note;
    /// DMA went to an address that is not mapped, or against its protection.
    DmaUnmapped = "dma-unmapped", Error;
    /// A register was accessed with a size or at an offset it does not have.
    MmioBadAccess = "mmio-bad-access", Error;
    /// A read-only register was written.
    MmioReadOnly = "mmio-read-only", Error;
    /// A reserved offset was accessed.
    MmioReserved = "mmio-reserved", Error;
    /// A register was written that has no use with MSI-X.
    MmioUnusedRegister = "mmio-unused-register", Note;
    /// Reserved bits of CC were set.
    CcReservedBits = "cc-reserved-bits", Error;
    /// A shutdown was requested through CC.SHN, which does nothing.
    CcShutdown = "cc-shutdown", Note;
    /// CC.EN was changed before CSTS.RDY had followed the last change.
    EnableNotAwaited = "enable-not-awaited", Error;
    /// AQA, ASQ or ACQ was written while CC.EN is set.
    AdminRegistersWhileEnabled = "admin-registers-while-enabled", Error;
    /// NSSR was written with something else than its signature.
    NssrSignature = "nssr-signature", Error;
    /// A doorbell was rung after the driver disabled or reset the function.
    DoorbellWhileDisabled = "doorbell-while-disabled", Error;
    /// A doorbell was rung before CSTS.RDY was set.
    DoorbellBeforeReady = "doorbell-before-ready", Error;
    /// A doorbell was read.
    DoorbellRead = "doorbell-read", Error;
    /// A doorbell of a queue that does not exist was rung.
    DoorbellMissingQueue = "doorbell-missing-queue", Error;
    /// The doorbell of an SQ was rung after its deletion had been requested.
    DoorbellAfterDeleteSq = "doorbell-after-delete-sq", Error;
    /// The index is not below the size of the queue, or reserved bits are set.
    DoorbellOutOfRange = "doorbell-out-of-range", Error;
    /// The doorbell already had this value.
    DoorbellSameValue = "doorbell-same-value", Error;
    /// An SQ tail moved past the head.
    SqOverfill = "sq-overfill", Error;
    /// More than size - 1 commands of an SQ are unfinished.
    SqOutstanding = "sq-outstanding", Error;
    /// A CQ head moved past the entries that were posted.
    CqHeadPastTail = "cq-head-past-tail", Error;
    /// There was no room for a completion.
    CqOverflow = "cq-overflow", Error;
    /// A CQ ring had a phase bit set when it was created.
    CqNotZeroed = "cq-not-zeroed", Error;
    /// A ring does not start on a page.
    RingAlignment = "ring-alignment", Error;
    /// A queue has fewer than two entries, or more than CAP.MQES allows.
    QueueSize = "queue-size", Error;
    /// A CQ is smaller than its SQ.
    CqSmallerThanSq = "cq-smaller-than-sq", Note;
    /// An SQ was given another CQ than the one of its own number.
    CqIdMismatch = "cq-id-mismatch", Error;
    /// A CQ interrupts through a vector that MSI-X does not have.
    VectorBeyondTable = "vector-beyond-table", Error;
    /// A CQ was to be deleted before its SQ.
    DeleteCqBeforeSq = "delete-cq-before-sq", Error;
    /// A CID was used again while its command is unfinished.
    CidReused = "cid-reused", Error;
    /// A PSDT field is not zero.
    SqePsdt = "sqe-psdt", Error;
    /// A reserved field of an SQE is not zero.
    SqeReserved = "sqe-reserved", Error;
    /// A field that the command does not use is not zero.
    SqeUnusedField = "sqe-unused-field", Error;
    /// The command type or frame type of an AES command is wrong.
    AesType = "aes-type", Error;
    /// The lengths of source and destination do not go together.
    AesLengths = "aes-lengths", Error;
    /// The AAD is padded as no known client pads it, which is its own business.
    AesAadPadding = "aes-aad-padding", Note;
    /// An AES command uses PRPs, which no known host does.
    AesPrp = "aes-prp", Note;
    /// A PRP is not aligned to a page.
    PrpAlignment = "prp-alignment", Error;
    /// A PRP that is needed is zero.
    PrpZero = "prp-zero", Error;
    /// An HSM command has no destination page.
    HsmDestinationZero = "hsm-destination-zero", Error;
    /// A flush has no destination page for the response of a rare failure.
    FlushDestinationZero = "flush-destination-zero", Note;
    /// An SGL descriptor is of a type that does not exist or is not supported.
    SglType = "sgl-type", Error;
    /// Reserved bits of an SGL descriptor are set.
    SglReserved = "sgl-reserved", Error;
    /// An SGL descriptor describes nothing.
    SglZeroLength = "sgl-zero-length", Error;
    /// The SQE holds a data block descriptor, which no known host uses.
    SglInlineData = "sgl-inline-data", Error;
    /// A segment is not aligned to its entries.
    SglSegmentAlignment = "sgl-segment-alignment", Error;
    /// The length of a segment is not a multiple of its entries.
    SglSegmentLength = "sgl-segment-length", Error;
    /// A segment crosses a page.
    SglSegmentCrossesPage = "sgl-segment-crosses-page", Error;
    /// A segment starts with a link to another one.
    SglSegmentFirst = "sgl-segment-first", Error;
    /// A link is not the last descriptor of its segment.
    SglSegmentNotLast = "sgl-segment-not-last", Error;
    /// The last segment links to another one.
    SglLastSegmentLinks = "sgl-last-segment-links", Error;
    /// A segment that is not the last one links to none.
    SglUnterminated = "sgl-unterminated", Error;
    /// The descriptors describe more or less than the length in the SQE.
    SglLengthMismatch = "sgl-length-mismatch", Error;
    /// The list is so fragmented that the device has to try again.
    SglFragmented = "sgl-fragmented", Note;
    /// The list is so fragmented that the device gives up.
    SglTooFragmented = "sgl-too-fragmented", Error;
}

/// A rule that was broken.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// When, in microseconds since the start.
    pub time: Micros,
    /// Name of the rule.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What happened.
    pub detail: String,
}

#[derive(Default)]
struct Log {
    list: Vec<Violation>,
    errors: u64,
    notes: u64,
}

/// Collects [`Violation`]s.
pub struct Recorder {
    clock: Arc<dyn Clock>,
    log: Mutex<Log>,
}

/// How many violations of each severity are kept; further ones are only counted.
const KEPT: u64 = 4096;

impl Recorder {
    /// A recorder without violations.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            log: Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a rule was broken.
    pub fn record(&self, rule: Rule, detail: impl Into<String>) {
        let violation = Violation {
            time: self.clock.now(),
            rule: rule.name(),
            severity: rule.severity(),
            detail: detail.into(),
        };
        log::warn!("{}: {}", violation.rule, violation.detail);
        let mut log = self.lock();
        let count = match violation.severity {
            Severity::Error => &mut log.errors,
            Severity::Note => &mut log.notes,
        };
        *count += 1;
        // Notes take no room from errors.
        if *count <= KEPT {
            log.list.push(violation);
        }
    }

    /// The violations so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.lock().list.clone()
    }

    /// How many violations there were that are errors.
    pub fn errors(&self) -> u64 {
        self.lock().errors
    }

    /// How many violations there were that are mere notes.
    pub fn notes(&self) -> u64 {
        self.lock().notes
    }

    /// Forgets all violations.
    pub fn clear(&self) {
        *self.lock() = Log::default();
    }
}

#[cfg(test)]
mod tests {
    use super::Recorder;
    use super::Rule;
    use super::KEPT;
    use crate::clock::HostClock;
    use std::sync::Arc;

    #[test]
    fn notes_take_no_room_from_errors() {
        let recorder = Recorder::new(Arc::new(HostClock::start()));
        for _ in 0..=KEPT {
            recorder.record(Rule::AesPrp, "");
        }
        recorder.record(Rule::AesType, "");
        let list = recorder.violations();
        assert_eq!(list.len() as u64, KEPT + 1);
        assert_eq!(list.last().map(|last| last.rule), Some("aes-type"));
        assert_eq!((recorder.errors(), recorder.notes()), (1, KEPT + 1));
    }
}
