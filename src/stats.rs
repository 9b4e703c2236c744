// SPDX-License-Identifier: GPL-2.0

//! What administrators are shown of a function.
//!
//! Documentation/abi.rst 5.1. Nothing is kept for this: who reads a file passes the gate, as who
//! calls an ioctl does, and asks the controller. Files can therefore be there before the controller
//! is, and after it.

use core::fmt::Write;

use kernel::{
    device::{
        Bound,
        Device, //
    },
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::{
        CString,
        Formatter, //
    },
    sync::Arc, //
};

use crate::{
    account::{
        bucket_start,
        Figures,
        BUCKETS, //
    },
    ctrl::{
        Ctrl,
        CtrlFamily, //
    },
    recovery::Cause,
    regs::QueueId,
    sys::{
        debugfs,
        gate::Gate,
        sysfs::{
            Directory,
            Group,
            Show, //
        }, //
    },
};

/// A number of the function.
type OfFunction = fn(&Ctrl<'_>) -> u64;

/// A number of a queue.
type OfQueue = fn(&Figures) -> u64;

const ADMIN: [(&CStr, OfFunction); 3] = [
    (c"num_cpqs_created", |ctrl| ctrl.tally().hsm_queues()),
    (c"num_fpqs_created", |ctrl| ctrl.tally().aes_queues()),
    (c"num_q_delete_cmds", |ctrl| ctrl.tally().deletions()),
];

const GLOBAL: [(&CStr, OfFunction); 9] = [
    (c"total_submissions", |ctrl| {
        ctrl.sum(|queue| queue.submitted)
    }),
    (c"total_completions", |ctrl| {
        ctrl.sum(|queue| queue.completed)
    }),
    (c"total_error_completions", |ctrl| {
        ctrl.sum(|queue| queue.errors)
    }),
    (c"total_cmds_aborted", |ctrl| {
        ctrl.sum(|queue| queue.aborted)
    }),
    (c"total_lvl1_aborts", |ctrl| ctrl.sum(|queue| queue.aborts)),
    (c"total_lvl2_aborts", |ctrl| ctrl.tally().resets()),
    (c"quarantined_bytes", |ctrl| {
        ctrl.sum(|queue| queue.quarantined)
    }),
    (c"open_sessions", |ctrl| {
        ctrl.orphans().sessions().owned().into()
    }),
    (c"orphaned_sessions", |ctrl| {
        ctrl.orphans().sessions().orphaned().into()
    }),
];

const RECOVERY: [(&CStr, OfFunction); 10] = [
    (c"resets_requested", |ctrl| {
        ctrl.tally().resets_by(Cause::Asked)
    }),
    (c"resets_resumed", |ctrl| {
        ctrl.tally().resets_by(Cause::Resumed)
    }),
    (c"resets_fault", |ctrl| ctrl.tally().resets_by(Cause::Fault)),
    (c"resets_not_ready", |ctrl| {
        ctrl.tally().resets_by(Cause::ReadyLost)
    }),
    (c"resets_unresponsive", |ctrl| {
        ctrl.tally().resets_by(Cause::Unresponsive)
    }),
    (c"resets_retried", |ctrl| {
        ctrl.tally().resets_by(Cause::Retry)
    }),
    (c"resets_returned", |ctrl| {
        ctrl.tally().resets_by(Cause::Returned)
    }),
    (c"resets_failed", |ctrl| ctrl.tally().failures()),
    (c"absences", |ctrl| ctrl.tally().absences()),
    (c"cuts", |ctrl| ctrl.tally().cuts()),
];

const QUEUE: [(&CStr, OfQueue); 10] = [
    (c"num_cmds_pending_in_hw", |queue| queue.pending),
    (c"num_level1_aborts", |queue| queue.aborts),
    (c"min_time_to_complete_io", |queue| queue.shortest_ns),
    (c"max_time_to_complete_io", |queue| queue.longest_ns),
    (c"avg_time_to_complete_io", |queue| queue.mean_ns),
    (c"total_ios_in_error", |queue| queue.errors),
    (c"total_ios_submitted_to_hw", |queue| queue.submitted),
    (c"total_ios_completed_by_hw", |queue| queue.completed),
    (c"total_ios_timedout", |queue| queue.timed_out),
    (c"completions_per_sec", |queue| queue.per_second),
];

/// What a file says.
#[derive(Clone, Copy)]
enum What {
    /// In which state the controller is.
    State,
    Function(OfFunction),
    Queue(QueueId, OfQueue),
}

/// A file of the function behind the gate.
struct Content {
    gate: Arc<Gate<CtrlFamily>>,
    what: What,
}

impl Show for Content {
    fn show(&self, to: &mut Formatter<'_>) -> Result {
        let written = self.gate.with(|ctrl| {
            Ok(match self.what {
                What::State => to.write_fmt(fmt!("{}\n", ctrl.condition())),
                What::Function(value) => to.write_fmt(fmt!("{}\n", value(ctrl))),
                What::Queue(id, value) => {
                    let figures = ctrl.figures(id).ok_or(ENODEV)?;
                    to.write_fmt(fmt!("{}\n", value(&figures)))
                }
            })
        })?;
        Ok(written?)
    }
}

/// How long commands of a queue took.
struct Latency {
    gate: Arc<Gate<CtrlFamily>>,
    id: QueueId,
}

impl debugfs::Show for Latency {
    fn show(&self, to: &SeqFile) {
        // What is not there any more has nothing to say.
        let histogram = self.gate.with(|ctrl| ctrl.histogram(self.id).ok_or(ENODEV));
        for (index, count) in histogram.unwrap_or([0; BUCKETS]).iter().enumerate() {
            if *count != 0 {
                seq_print!(to, "{} {count}\n", bucket_start(index));
            }
        }
    }
}

/// All that is shown of a function, for as long as it is kept.
pub(crate) struct Stats {
    _sysfs: Directory<Content>,
    _debugfs: Option<debugfs::Directory<Latency>>,
}

impl Stats {
    /// Shows what there is to know of the function behind `gate`, which is `ctrl`. In debugfs it
    /// goes by `name`, if it has one.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EEXIST`.
    pub(crate) fn new(
        ctrl: &Ctrl<'_>,
        gate: &Arc<Gate<CtrlFamily>>,
        name: Option<&CStr>,
    ) -> Result<Self> {
        Ok(Self {
            _sysfs: sysfs(ctrl.device(), ctrl.queue_ids(), gate)?,
            _debugfs: name
                .map(|name| debugfs(ctrl.queue_ids(), gate, name))
                .transpose()?,
        })
    }
}

/// Returns the name of the directory of a queue.
fn queue_name(id: QueueId) -> Result<CString> {
    let class = if id.is_aes() { "fp" } else { "cp" };

    CString::try_from_fmt(fmt!("{class}_sq{}", id.get()))
}

fn sysfs(
    device: &Device<Bound>,
    queues: impl Iterator<Item = QueueId>,
    gate: &Arc<Gate<CtrlFamily>>,
) -> Result<Directory<Content>> {
    let content = |what| Content {
        gate: gate.clone(),
        what,
    };
    let mut groups = KVec::new();

    let mut top = Group::new(None);
    top.add(c"state", content(What::State))?;
    groups.push(top, GFP_KERNEL)?;

    let of_function: [(&str, &[(&'static CStr, OfFunction)]); 3] = [
        ("admin", &ADMIN),
        ("global", &GLOBAL),
        ("recovery", &RECOVERY),
    ];
    for (name, files) in of_function {
        let mut group = Group::new(Some(CString::try_from_fmt(fmt!("{name}"))?));
        for (name, value) in files {
            group.add(name, content(What::Function(*value)))?;
        }
        groups.push(group, GFP_KERNEL)?;
    }
    for id in queues {
        let mut group = Group::new(Some(queue_name(id)?));
        for (name, value) in QUEUE {
            group.add(name, content(What::Queue(id, value)))?;
        }
        groups.push(group, GFP_KERNEL)?;
    }
    Directory::new(device, c"azihsm", groups)
}

fn debugfs(
    queues: impl Iterator<Item = QueueId>,
    gate: &Arc<Gate<CtrlFamily>>,
    name: &CStr,
) -> Result<debugfs::Directory<Latency>> {
    let mut files = KVec::new();
    for id in queues {
        let gate = gate.clone();
        files.push((queue_name(id)?, Latency { gate, id }), GFP_KERNEL)?;
    }
    Ok(debugfs::Directory::new(name, c"latency", files))
}
