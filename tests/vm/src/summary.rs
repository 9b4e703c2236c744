// SPDX-License-Identifier: GPL-2.0
//! A row for each machine of the table that `tests/run` makes.

use crate::machine::Config;
use crate::plan::Variant;
use crate::report::Totals;
use anyhow::Context;
use anyhow::Result;
use clap::ValueEnum;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Adds what came out of the machine `name` to `file`: columns with tabs between them.
pub fn add(
    file: &Path,
    name: &str,
    variant: Variant,
    config: &Config,
    totals: &Totals,
    time: Duration,
) -> Result<()> {
    let row = row(name, variant, config, totals, time);
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .and_then(|mut file| file.write_all(row.as_bytes()))
        .with_context(|| format!("{}", file.display()))
}

fn row(name: &str, variant: Variant, config: &Config, totals: &Totals, time: Duration) -> String {
    let kernel = variant.to_possible_value();
    let kernel = kernel.as_ref().map_or("", |value| value.get_name());
    let Config {
        smp,
        iommu,
        vectors,
        devices,
        ..
    } = config;
    let iommu = if *iommu { "yes" } else { "no" };
    let Totals { passed, failed } = totals;
    let minutes = time.as_secs_f64() / 60.0;
    format!(
        "{name}\t{kernel}\t{smp}\t{iommu}\t{vectors}\t{devices}\t{passed}\t{failed}\t{minutes:.1}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::add;
    use crate::machine::Config;
    use crate::plan::Variant;
    use crate::report::Totals;
    use std::fs;
    use std::time::Duration;

    #[test]
    fn rows_are_added() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("summary");
        let totals = Totals {
            passed: 7,
            failed: 1,
        };
        let time = Duration::from_secs(90);
        let plain = Config::default();
        add(&file, "life", Variant::Stock, &plain, &totals, time).unwrap();
        let other = Config {
            smp: 4,
            iommu: true,
            ..Config::default()
        };
        add(&file, "more", Variant::Debug, &other, &totals, time).unwrap();
        assert_eq!(
            fs::read_to_string(file).unwrap(),
            "life\tstock\t2\tno\t32\t1\t7\t1\t1.5\nmore\tdebug\t4\tyes\t32\t1\t7\t1\t1.5\n"
        );
    }
}
