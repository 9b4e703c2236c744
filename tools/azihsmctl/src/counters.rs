// SPDX-License-Identifier: GPL-2.0
//! The counters that the driver has in sysfs (Documentation/abi.rst 5.1).

use crate::error::Error;
use crate::error::Result;
use crate::machine::Hsm;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Counters by name.
pub type Group = BTreeMap<String, i64>;

/// All counters of an HSM, at about the same time.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counters {
    /// What the controller is doing, if the driver says so.
    pub state: Option<String>,
    /// By directory; those of queues are in `queues`.
    pub groups: BTreeMap<String, Group>,
    /// By directory: `cp_sq<id>` for HSM queues and `fp_sq<id>` for AES queues.
    pub queues: BTreeMap<String, Group>,
}

impl Counters {
    /// Reads the counters of `hsm`.
    pub fn read(hsm: &Hsm) -> Result<Self> {
        let path = hsm.counters().ok_or(Error::NoDevice)?;
        if !path.is_dir() {
            return Err(Error::NoCounters(path));
        }
        let state = fs::read_to_string(path.join("state")).ok();
        let mut counters = Self {
            state: state.map(|state| state.trim_end().to_owned()),
            ..Self::default()
        };
        for (name, path) in list(&path)? {
            if !path.is_dir() {
                continue;
            }
            let group = read_group(&path)?;
            if is_queue(&name) {
                counters.queues.insert(name, group);
            } else {
                counters.groups.insert(name, group);
            }
        }
        Ok(counters)
    }

    /// The counter `name` of `group`; 0 if there is none.
    pub fn get(&self, group: &str, name: &str) -> i64 {
        let group = self.groups.get(group);
        group
            .and_then(|group| group.get(name))
            .copied()
            .unwrap_or(0)
    }

    /// The sum of the counter `name` of all queues.
    pub fn sum(&self, name: &str) -> i64 {
        self.queues
            .values()
            .filter_map(|queue| queue.get(name))
            .sum()
    }
}

fn is_queue(name: &str) -> bool {
    name.starts_with("cp_sq") || name.starts_with("fp_sq")
}

fn read_group(path: &Path) -> Result<Group> {
    let mut group = Group::new();
    for (name, path) in list(path)? {
        let text = fs::read_to_string(&path).map_err(|error| Error::File {
            path: path.clone(),
            error,
        })?;
        let value = text.trim().parse().map_err(|_| Error::File {
            error: std::io::Error::other(format!("'{}' is no number", text.trim())),
            path,
        })?;
        group.insert(name, value);
    }
    Ok(group)
}

fn list(path: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let failed = |error| Error::File {
        path: path.to_owned(),
        error,
    };
    fs::read_dir(path)
        .map_err(failed)?
        .map(|entry| {
            let entry = entry.map_err(failed)?;
            Ok((
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            ))
        })
        .collect()
}

/// What happened between two looks, for people.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Commands submitted, per second.
    pub submitted_per_second: f64,
    /// Commands completed, per second.
    pub completed_per_second: f64,
    /// Completions with a status other than 0.
    pub errors: i64,
    /// Commands that timed out.
    pub timeouts: i64,
    /// Commands ended by recoveries.
    pub aborted: i64,
    /// Recoveries of queues.
    pub queue_recoveries: i64,
    /// Recoveries of the function.
    pub recoveries: i64,
    /// Commands that the device has now.
    pub pending: i64,
}

impl Change {
    /// What happened from `before` to `after` in `seconds`.
    pub fn between(before: &Counters, after: &Counters, seconds: f64) -> Self {
        let change = |name| after.get("global", name) - before.get("global", name);
        let rate = |name| change(name) as f64 / seconds;
        let timed_out = "total_ios_timedout";
        Self {
            submitted_per_second: rate("total_submissions"),
            completed_per_second: rate("total_completions"),
            errors: change("total_error_completions"),
            timeouts: after.sum(timed_out) - before.sum(timed_out),
            aborted: change("total_cmds_aborted"),
            queue_recoveries: change("total_lvl1_aborts"),
            recoveries: change("total_lvl2_aborts"),
            pending: after.sum("num_cmds_pending_in_hw"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::Change;
    use super::Counters;
    use crate::error::Error;
    use crate::machine::tests::machine;
    use std::fs;
    use std::path::Path;

    pub(crate) fn put(path: &Path, value: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
    }

    #[test]
    fn counters_are_read_by_directory() {
        let (_root, machine) = machine(&[("azihsm0", "0000:01:00.0")]);
        let hsm = machine.find(None).unwrap();
        let dir = hsm.counters().unwrap();
        put(&dir.join("global/total_submissions"), "12\n");
        put(&dir.join("cp_sq1/num_cmds_pending_in_hw"), "3");
        put(&dir.join("fp_sq256/num_cmds_pending_in_hw"), "4\n");
        put(&dir.join("fp_sq256/completions_per_sec"), "5\n");

        let counters = Counters::read(&hsm).unwrap();
        assert_eq!(counters.get("global", "total_submissions"), 12);
        assert_eq!(counters.get("global", "unknown"), 0);
        assert_eq!(counters.get("unknown", "unknown"), 0);
        assert_eq!(counters.sum("num_cmds_pending_in_hw"), 7);
        assert_eq!(counters.queues["fp_sq256"]["completions_per_sec"], 5);
    }

    #[test]
    fn a_driver_without_counters_is_told_from_an_error() {
        let (_root, machine) = machine(&[("azihsm0", "0000:01:00.0")]);
        let hsm = machine.find(None).unwrap();
        let error = Counters::read(&hsm).unwrap_err();
        assert!(matches!(error, Error::NoCounters(_)), "{error}");

        put(
            &hsm.counters().unwrap().join("global/total_submissions"),
            "many",
        );
        let error = Counters::read(&hsm).unwrap_err();
        assert!(
            error.to_string().ends_with("'many' is no number"),
            "{error}"
        );
    }

    #[test]
    fn changes_are_differences_and_rates() {
        let mut before = Counters::default();
        let global = before.groups.entry("global".into()).or_default();
        global.insert("total_submissions".into(), 100);
        global.insert("total_completions".into(), 90);
        global.insert("total_lvl2_aborts".into(), 1);
        let mut after = before.clone();
        let global = after.groups.get_mut("global").unwrap();
        global.insert("total_submissions".into(), 300);
        global.insert("total_completions".into(), 191);
        let queue = after.queues.entry("cp_sq1".into()).or_default();
        queue.insert("num_cmds_pending_in_hw".into(), 109);
        queue.insert("total_ios_timedout".into(), 2);

        let change = Change::between(&before, &after, 2.0);
        assert_eq!(change.submitted_per_second, 100.0);
        assert_eq!(change.completed_per_second, 50.5);
        assert_eq!(change.recoveries, 0);
        assert_eq!((change.pending, change.timeouts), (109, 2));
    }
}
