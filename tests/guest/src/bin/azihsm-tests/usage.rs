// SPDX-License-Identifier: GPL-2.0
//! What the kernel has in use, to see what is never given back.

use crate::check_eq;
use anyhow::ensure;
use anyhow::Context;
use anyhow::Result;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Areas that come and go with the rest of the system: those that are already
/// given back, and stacks of threads.
const NO_LEAK: &[&str] = &["unpurged", "dup_task_struct", "alloc_thread_stack"];

/// How many batches of rounds there are.
pub const BATCHES: usize = 4;

/// What the kernel has in use.
pub struct Usage {
    free_pages: i64,
    slab: i64,
    vmalloc_areas: i64,
    /// Lines of interrupts that are the driver's.
    pub interrupts: usize,
    misc: BTreeSet<String>,
    majors: String,
    entries: BTreeMap<String, usize>,
}

impl Usage {
    /// What it has now.
    pub fn measure() -> Result<Self> {
        // Caches that are there to be reclaimed are not leaks.
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let field = |name: &str| -> Result<i64> {
            let line = memory.lines().find_map(|line| line.strip_prefix(name));
            let text = line.with_context(|| format!("no {name}"))?;
            let number = text.split_whitespace().next().context("no number")?;
            Ok(number.parse()?)
        };
        // What processors keep for themselves is free as well, and may be thousands of pages.
        let kept: i64 = fs::read_to_string("/proc/zoneinfo")?
            .lines()
            .filter_map(|line| {
                line.trim()
                    .strip_prefix("count:")?
                    .trim()
                    .parse::<i64>()
                    .ok()
            })
            .sum();
        let lines = |path: &str| -> Result<usize> {
            let text = fs::read_to_string(path)?;
            Ok(text.lines().filter(|line| line.contains("azihsm")).count())
        };
        let misc = fs::read_to_string("/proc/misc")?;
        let mut entries = BTreeMap::new();
        for directory in ["/sys/module", "/sys/class/misc", "/sys/bus/pci/drivers"] {
            entries.insert(directory.to_owned(), fs::read_dir(directory)?.count());
        }
        Ok(Self {
            free_pages: field("MemFree:")? / 4 + kept,
            slab: field("SUnreclaim:")?,
            vmalloc_areas: fs::read_to_string("/proc/vmallocinfo")?
                .lines()
                .filter(|line| !NO_LEAK.iter().any(|text| line.contains(text)))
                .count() as i64,
            interrupts: lines("/proc/interrupts")?,
            misc: misc.lines().map(str::to_owned).collect(),
            majors: fs::read_to_string("/proc/devices")?,
            entries,
        })
    }

    /// Makes sure that what is counted exactly is as it was.
    pub fn check_same(&self, before: &Self) -> Result<()> {
        check_eq!(self.misc, before.misc, "/proc/misc");
        check_eq!(self.majors, before.majors, "/proc/devices");
        check_eq!(
            self.interrupts,
            before.interrupts,
            "lines of /proc/interrupts"
        );
        check_eq!(self.entries, before.entries, "entries in sysfs");
        Ok(())
    }
}

/// What the kernel has more of in use after a batch of rounds.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// Pages that are not free any more.
    pub pages: i64,
    /// KiB of slab.
    pub slab: i64,
    /// Areas of virtual memory.
    pub areas: i64,
}

/// Runs `batch` a few times, and returns what grows each time, and how much at
/// least.
///
/// The rest of the system takes and gives memory as well: what is lost in one
/// batch and not in another is no leak.
pub fn growth(mut batch: impl FnMut() -> Result<()>) -> Result<Growth> {
    let mut usages = vec![Usage::measure()?];
    for _ in 0..BATCHES {
        batch()?;
        let usage = Usage::measure()?;
        usage.check_same(&usages[0])?;
        usages.push(usage);
    }
    let least = |growth: fn(&Usage, &Usage) -> i64| {
        let pairs = usages.iter().zip(&usages[1..]);
        pairs
            .map(|(before, after)| growth(before, after))
            .min()
            .unwrap_or(0)
    };
    Ok(Growth {
        pages: least(|before, after| before.free_pages - after.free_pages),
        slab: least(|before, after| after.slab - before.slab),
        areas: least(|before, after| after.vmalloc_areas - before.vmalloc_areas),
    })
}

/// Repeats `round` many times, after as many as fill all caches, and makes sure
/// that nothing grows with each batch of them.
pub fn check_no_growth(warm_up: i64, batch: i64, round: impl Fn() -> Result<()>) -> Result<()> {
    for _ in 0..warm_up {
        round()?;
    }
    let Growth { pages, slab, areas } = growth(|| (0..batch).try_for_each(|_| round()))?;
    // Less than a page, a kilobyte and an area for each round.
    ensure!(
        pages < batch * 3 / 4,
        "{pages} pages lost in every {batch} rounds"
    );
    ensure!(
        slab < batch,
        "slab grew by {slab} KiB in every {batch} rounds"
    );
    ensure!(
        areas < batch / 2,
        "{areas} vmalloc areas more in every {batch} rounds"
    );
    Ok(())
}

/// How long the kernel must not have used memory to call it leaked.
const LEAK_AGE: Duration = Duration::from_secs(6);

/// Finds memory that nothing points to; nothing if the kernel cannot do it.
pub struct LeakFinder(&'static Path);

impl LeakFinder {
    /// Begins to look: what was leaked before does not count.
    pub fn new() -> Result<Option<Self>> {
        let finder = Self(Path::new("/sys/kernel/debug/kmemleak"));
        // Looking only when told to is refused where it cannot look at all;
        // forgetting what was found before is not.
        match fs::write(finder.0, "scan=off").and_then(|()| fs::write(finder.0, "clear")) {
            Ok(()) => Ok(Some(finder)),
            Err(error) => match error.kind() {
                // Where it was told to, it has to.
                _ if fs::read_to_string("/proc/cmdline")?.contains("kmemleak=on") => {
                    Err(error).context("the kernel does not look for leaks any more")
                }
                ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::ResourceBusy => {
                    Ok(None)
                }
                _ => Err(error.into()),
            },
        }
    }

    /// What was leaked, each with where it is from.
    pub fn leaks(&self) -> Result<Vec<String>> {
        // Twice, as what moved meanwhile may not have been seen.
        for _ in 0..2 {
            thread::sleep(LEAK_AGE);
            fs::write(self.0, "scan")?;
        }
        let text = fs::read_to_string(self.0)?;
        let parts = text.split("unreferenced object").skip(1);
        Ok(parts.map(|part| part.trim().to_owned()).collect())
    }
}
