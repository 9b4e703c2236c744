// SPDX-License-Identifier: GPL-2.0
//! Which tests run in which machine.

use crate::machine::Config;
use clap::ValueEnum;
use std::fmt::Write as _;

/// Which kernel the guest runs: that of the distribution, or one of those that
/// `tests/kernel/build` makes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Variant {
    /// As users have it.
    #[default]
    Stock,
    /// As users have it whose distribution is behind: the oldest that the driver
    /// is for.
    Old,
    /// Looks after locks, DMA mappings, objects and leaks.
    Debug,
    /// Checks each access to memory, too.
    Kasan,
    /// That of `Debug`, with the driver built in: there is no module.
    Builtin,
}

impl Variant {
    /// Gives the machine what such a kernel needs.
    ///
    /// Unit tests run where the driver is loaded first, unless told not to;
    /// once is enough.
    pub fn equip(self, config: &mut Config) {
        config.built_in = self == Self::Builtin;
        let (memory, words, boot) = match self {
            Self::Stock | Self::Old => return,
            Self::Debug | Self::Builtin => (1024, "kmemleak=on", 3),
            Self::Kasan => (2048, KASAN, 5),
        };
        config.memory = config.memory.max(memory);
        config.append.extend(words.split(' ').map(str::to_owned));
        if !config.kunit {
            config.append.push("kunit.enable=0".to_owned());
        }
        config.boot_patience *= boot;
    }
}

/// What the allocator and objects check is slow, and much the same as what is checked anyway.
const KASAN: &str = "kmemleak=on no5lvl kasan_multi_shot slab_debug=- no_debug_objects";

/// Groups whose outcome depends on processors, vectors and the IOMMU.
const OF_MACHINE: &[&str] = &["node", "hsm", "session", "aes", "load", "reset"];

/// Tests of those groups that between them use all there is: every kind of
/// queue, interrupts, signals, memory that is mapped and memory that is not.
const SAMPLE: &[&str] = &[
    "session/open-use-close",
    "session/kill-flushes",
    "session/one-of-sixteen-opens-wins",
    "session/commands-run-side-by-side",
    "aes/gcm-every-short-text",
    "aes/gcm-at-any-address-large",
    "aes/xts-units-large",
    "aes/hole-in-the-middle",
    "aes/eight-threads-at-once",
    "aes/random",
    "aes/killed-meanwhile",
    "load/128-threads",
    "load/32-threads",
    "load/killed-while-opening",
    "load/killed-with-large-aes-data",
];

/// Tests without memory that are about functions of a card.
const STARVE_CARD: &[&str] = &[
    "starve/management-open",
    "starve/management-ioctls",
    "starve/virtual-functions",
    "starve/bind-some-physical",
    "starve/bind-all-physical",
];

/// Tests that are about more than one device.
const TWO_DEVICES: &[&str] = &[
    "node/numbers-are-dense",
    "node/one-node-for-each-function",
    "node/load-prints-one-line",
    "info/devices-differ",
    "life/two-devices",
];

/// One machine and the tests that run in it.
#[derive(Clone, Debug)]
pub struct Boot {
    /// What it is called; its directory is, too.
    pub name: &'static str,
    /// The machine.
    pub config: Config,
    /// Groups of tests; all if empty.
    pub groups: Vec<String>,
    /// Parts of the names of tests; all if empty.
    pub filters: Vec<String>,
    /// Which part of the tests, and of how many.
    pub part: (usize, usize),
    /// With long tests.
    pub long: bool,
    /// What random tests draw from.
    pub seed: Option<u64>,
    /// How many seconds the tests of group soak run for, or the fuzzer.
    pub seconds: Option<u64>,
    /// What runs instead of the tests.
    pub instead: Option<Instead>,
}

/// What a guest runs that is not one of the tests; its results are in TAP, too, if
/// nothing else is said.
#[derive(Clone, Copy, Debug)]
pub enum Instead {
    /// A shell script, in which `MODULE` stands for the module.
    Script(&'static str),
    /// Such a script that prints what the kernel tells of its unit tests, in KTAP.
    Kunit(&'static str),
    /// Calls of all kinds.
    Fuzz,
}

/// Loads the module, which runs its unit tests. If it is of interest what these reach, it does
/// nothing else.
const KUNIT: &str = r#"
[ -z "$AZIHSM_COVERAGE" ] || echo 0 >/sys/bus/pci/drivers_autoprobe
/bin/azihsm-load MODULE || exit
/bin/busybox cat /sys/kernel/debug/kunit/*/results || exit
/bin/busybox rmmod azihsm
"#;

/// Unit tests that are built in have run when the first process starts.
const KUNIT_BUILT_IN: &str = "
/bin/busybox cat /sys/kernel/debug/kunit/*/results
";

/// The driver that is built in, from boot on.
const BUILT_IN: &str = r#"
b=/bin/busybox
tests=0
check() {
	tests=$((tests + 1))
	if eval "$2"; then echo "ok $tests - builtin/$1"; else echo "not ok $tests - builtin/$1"; fi
}
node() { [ "$($b ls /dev | $b grep -c '^azihsm[0-9]')" -eq "$1" ]; }
ready() { [ "$($b dmesg | $b grep -c 'azihsm .*: HSM ready as azihsm0')" -eq "$1" ]; }
serves() { /bin/roundtrip /dev/azihsm0 && /bin/azihsm-demo --runs 10; }
driver=/sys/bus/pci/drivers/azihsm
address=$($b basename "$($b ls -d $driver/0000:*)")
echo TAP version 14
check there-is-no-module '! $b grep -q azihsm /proc/modules && [ ! -e /sys/module/azihsm/refcnt ]'
check bound-at-boot '[ -e "$driver/$address" ] && node 1 && ready 1'
check serves-a-client serves
check cannot-be-unloaded '! $b rmmod azihsm 2>/dev/null && node 1'
echo "$address" >$driver/unbind
check no-node-when-unbound 'node 0'
echo "$address" >$driver/bind
check bound-again 'node 1 && ready 2'
check serves-again serves
echo "1..$tests"
"#;

/// Megabytes that the guest needs for the longest buffers in all processes.
const FUZZ_MEMORY: usize = 2048;

/// A function with a window of the wrong size is refused, and says so.
const ODD_BAR: &str = r#"
echo 1..2
/bin/azihsm-load MODULE
said='azihsm .*: BAR 0 has 8192 bytes, not 4096'
if [ "$(/bin/busybox dmesg | /bin/busybox grep -c "$said")" -eq 1 ]; then
	echo 'ok 1 - a BAR of the wrong size is named'
else
	echo 'not ok 1 - a BAR of the wrong size is named'
fi
if [ -d /sys/bus/pci/drivers/azihsm ] && [ ! -e /dev/azihsm0 ]; then
	echo 'ok 2 - and its function gets no node'
else
	echo 'not ok 2 - and its function gets no node'
fi
/bin/busybox rmmod azihsm
"#;

/// The driver's way with SR-IOV, of a device that can do it.
const SRIOV: &str = r#"
b=/bin/busybox
tests=0
check() {
	tests=$((tests + 1))
	if eval "$2"; then echo "ok $tests - sriov/$1"; else echo "not ok $tests - sriov/$1"; fi
}
said() { $b dmesg | $b grep -q "$1"; }
there() { [ "$($b ls -d "$pf"/virtfn* 2>/dev/null | $b wc -l)" -eq "$1" ] && [ "$($b cat "$pf/sriov_numvfs")" -eq "$1" ]; }
bound() { [ "$($b ls -d "$pf"/virtfn*/driver 2>/dev/null | $b wc -l)" -eq "$1" ]; }
set_to() { echo "$1" 2>/dev/null >"$pf/sriov_numvfs"; }
cycle() {
	for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
		set_to $((i % 2 + 1)) && there $((i % 2 + 1)) && set_to 0 && there 0 || return 1
	done
}
pf=$($b dirname /sys/bus/pci/devices/*/sriov_totalvfs)
address=$($b basename "$pf")
driver=/sys/bus/pci/drivers/azihsm_sriov
echo TAP version 14
/bin/azihsm-load MODULE
check bound-without 'bound 0 && there 0 && said "bound, 0 virtual"'
check enabled-and-bound 'set_to 2 && there 2 && bound 2 && said "following 2, there are 2"'
check another-number-is-refused '! set_to 3 && there 2'
check the-same-number-is-no-change 'set_to 2 && there 2'
check disabled 'set_to 0 && there 0 && said "following 0, there are 0"'
check more-than-there-may-be '! set_to 100 && there 0'
check come-and-go cycle
check number-is-told '! said "VFs requested"'
set_to 2
echo "$address" >$driver/unbind
check gone-when-unbound 'there 0 && said "all taken: true" && ! said "left SR-IOV enabled"'
echo "$address" >$driver/bind
check none-when-bound-again 'there 0 && set_to 1 && there 1'
$b rmmod azihsm_sriov
check gone-when-unloaded 'there 0 && ! said "left SR-IOV enabled"'
/bin/azihsm-load MODULE refused=1
check none-if-the-rest-fails '! set_to 2 && there 0 && bound 0'
$b rmmod azihsm_sriov
/bin/azihsm-load MODULE assigned=1
check in-use-stay 'set_to 2 && ! set_to 0 && there 2 && bound 2'
echo "$address" >$driver/unbind
check in-use-stay-when-unbound 'there 2 && said "all taken: false"'
echo "$address" >$driver/bind
check left-by-another-driver 'there 2 && said "bound, 2 virtual"'
echo "1..$tests"
"#;

impl Boot {
    /// Two processors and one device with all its vectors.
    fn new(name: &'static str, groups: &[&str]) -> Self {
        Self {
            name,
            config: Config::default(),
            groups: strings(groups),
            filters: Vec::new(),
            part: (0, 1),
            long: false,
            seed: None,
            seconds: None,
            instead: None,
        }
    }

    fn odd_bar() -> Self {
        let mut boot = Self::new("odd-bar", &[]);
        boot.config.bar0_size = 8192;
        boot.instead = Some(Instead::Script(ODD_BAR));
        boot
    }

    /// Whether it has the module that users have, and no other.
    fn is_common(&self) -> bool {
        !self.config.card && !self.config.sriov && !self.config.neighbour
    }

    fn sriov() -> Self {
        let mut boot = Self::new("sriov", &[]);
        boot.config.sriov = true;
        boot.instead = Some(Instead::Script(SRIOV));
        boot
    }

    /// A physical function that is not the only device behind its port.
    fn neighbour() -> Self {
        let mut boot = Self::new("neighbour", &[])
            .card(0)
            .only(&["recovery/error-with-a-reset"]);
        boot.config.neighbour = true;
        boot
    }

    fn kunit() -> Self {
        Self::unit_tests("kunit", KUNIT)
    }

    fn builtin_kunit() -> Self {
        Self::unit_tests("builtin-kunit", KUNIT_BUILT_IN)
    }

    fn unit_tests(name: &'static str, script: &'static str) -> Self {
        let mut boot = Self::new(name, &[]);
        boot.config.kunit = true;
        boot.instead = Some(Instead::Kunit(script));
        boot
    }

    fn builtin() -> Self {
        let mut boot = Self::new("builtin", &[]);
        boot.instead = Some(Instead::Script(BUILT_IN));
        boot
    }

    /// Calls of all kinds for so many seconds.
    pub fn fuzz(seconds: u64, seed: Option<u64>) -> Self {
        let mut boot = Self::new("fuzz", &[]);
        boot.config.memory = FUZZ_MEMORY;
        boot.instead = Some(Instead::Fuzz);
        boot.seconds = Some(seconds);
        boot.seed = seed;
        boot
    }

    fn devices(mut self, devices: usize) -> Self {
        self.config.devices = devices;
        self
    }

    /// A physical function with so many virtual ones, for a driver that can tell.
    fn card(mut self, virtual_functions: usize) -> Self {
        self.config.card = true;
        self.config.devices = 1 + virtual_functions;
        self
    }

    fn smp(mut self, smp: usize) -> Self {
        self.config.smp = smp;
        self
    }

    fn vectors(mut self, vectors: usize) -> Self {
        self.config.vectors = vectors;
        self
    }

    fn iommu(mut self) -> Self {
        self.config.iommu = true;
        self
    }

    fn part(mut self, part: usize, parts: usize) -> Self {
        self.part = (part, parts);
        self
    }

    fn only(mut self, filters: &[&str]) -> Self {
        self.filters.extend(strings(filters));
        self
    }

    fn long(mut self) -> Self {
        self.long = true;
        self
    }

    fn seconds(mut self, seconds: u64) -> Self {
        self.seconds = Some(seconds);
        self
    }

    /// What the guest's shell runs.
    pub fn command(&self, module: &str) -> String {
        // The plugin has to know where the module is.
        let coverage = if self.config.plugin.is_some() {
            "export AZIHSM_COVERAGE=1\n"
        } else {
            ""
        };
        format!("{coverage}{}", self.program(module))
    }

    fn program(&self, module: &str) -> String {
        match self.instead {
            Some(Instead::Script(script) | Instead::Kunit(script)) => {
                return script.replace("MODULE", module);
            }
            Some(Instead::Fuzz) => {
                let option = |name, value: Option<u64>| match value {
                    Some(value) => format!(" --{name} {value}"),
                    None => String::new(),
                };
                let seconds = option("seconds", self.seconds);
                let seed = option("seed", self.seed);
                return format!("exec /bin/azihsm-fuzz --module {module}{seconds}{seed}\n");
            }
            None => {}
        }
        let Config {
            vectors, devices, ..
        } = self.config;
        let (part, parts) = self.part;
        let card = if self.config.card {
            "export AZIHSM_CARD=1\n"
        } else {
            ""
        };
        let neighbour = if self.config.neighbour {
            "/bin/busybox insmod /lib/azihsm_sriov.ko || exit 1\nexport AZIHSM_NEIGHBOUR=1\n"
        } else {
            ""
        };
        let mut command = format!(
            "{card}{neighbour}exec /bin/azihsm-tests --module {module} --vectors {vectors} --devices {devices} \
             --part {part} --parts {parts}"
        );
        // Writing to a string does not fail.
        for group in &self.groups {
            let _ = write!(command, " --group '{group}'");
        }
        for filter in &self.filters {
            let _ = write!(command, " --filter '{filter}'");
        }
        if self.long {
            command.push_str(" --long");
        }
        if let Some(seed) = self.seed {
            let _ = write!(command, " --seed {seed}");
        }
        if let Some(seconds) = self.seconds {
            let _ = write!(command, " --seconds {seconds}");
        }
        command.push('\n');
        command
    }

    /// The machine in words.
    pub fn describe(&self) -> String {
        let Config {
            smp,
            iommu,
            vectors,
            devices,
            card,
            memory,
            ..
        } = self.config;
        let iommu = if iommu { ", IOMMU" } else { "" };
        let card = if card { ", functions of one" } else { "" };
        let mut text = format!(
            "processors: {smp}, devices: {devices}, vectors: {vectors}, {memory} MiB{iommu}{card}"
        );
        for words in &self.config.append {
            text.push(' ');
            text.push_str(words);
        }
        text
    }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

/// The machines that run on such a kernel, the longest first: after each change,
/// or all that there are.
pub fn of(variant: Variant, full: bool) -> Vec<Boot> {
    let mut boots = match (variant, full) {
        (Variant::Stock, false) => everyday(),
        (Variant::Stock, true) => self::full(),
        (Variant::Old, false) => old(),
        (Variant::Old, true) => everyday().into_iter().filter(Boot::is_common).collect(),
        (Variant::Debug, false) => debug_everyday(),
        (Variant::Debug, true) => debug_full(),
        (Variant::Kasan, _) => kasan(),
        (Variant::Builtin, _) => vec![Boot::builtin_kunit(), Boot::builtin()],
    };
    for boot in &mut boots {
        variant.equip(&mut boot.config);
    }
    boots
}

fn everyday() -> Vec<Boot> {
    vec![
        Boot::new("recovery-1", &["recovery"]).part(0, 3),
        Boot::new("recovery-2", &["recovery"]).part(1, 3),
        Boot::new("recovery-3", &["recovery"]).part(2, 3),
        Boot::new("matrix", &["matrix"]),
        Boot::new("life", &["life"]),
        Boot::new("fault-1", &["fault"]).part(0, 2),
        Boot::new("fault-2", &["fault"]).part(1, 2),
        Boot::new("load", &["load", "reset", "steady"]),
        Boot::new(
            "abi",
            &[
                "node", "info", "stats", "trace", "unknown", "hsm", "session",
            ],
        ),
        Boot::new("aes", &["aes"]),
        Boot::new("one-processor-16-vectors", &[])
            .smp(1)
            .vectors(16)
            .only(SAMPLE),
        Boot::new("four-processors", &[]).smp(4).only(SAMPLE),
        Boot::new("iommu-3-vectors-two-devices", &[])
            .iommu()
            .vectors(3)
            .devices(2)
            .only(SAMPLE)
            .only(TWO_DEVICES),
        Boot::new("card", &["mgmt", "vfs"]).card(8),
        Boot::sriov(),
        Boot::neighbour(),
        Boot::fuzz(10, Some(1)),
        Boot::odd_bar(),
    ]
}

/// What may differ between kernels: nodes, files, interrupts, unbinding.
fn old() -> Vec<Boot> {
    vec![
        Boot::new("old-life", &["life", "reset"]),
        Boot::new("old-abi", &["node", "info", "stats", "trace", "session"]),
        Boot::new("old-sample", &[]).only(SAMPLE),
    ]
}

fn debug_everyday() -> Vec<Boot> {
    vec![
        Boot::new("debug-matrix", &["matrix"]),
        Boot::new("debug-starve", &["starve"]),
        Boot::new("debug", &["session", "reset"]),
        Boot::new("debug-sample", &[]).only(SAMPLE),
        Boot::kunit(),
    ]
}

fn full() -> Vec<Boot> {
    vec![
        Boot::new("matrix-1", &["matrix"]).part(0, 4).long(),
        Boot::new("matrix-2", &["matrix"]).part(1, 4).long(),
        Boot::new("matrix-3", &["matrix"]).part(2, 4).long(),
        Boot::new("matrix-4", &["matrix"]).part(3, 4).long(),
        Boot::new("recovery-1", &["recovery"]).part(0, 3).long(),
        Boot::new("recovery-2", &["recovery"]).part(1, 3).long(),
        Boot::new("recovery-3", &["recovery"]).part(2, 3).long(),
        Boot::new("fault-1", &["fault"]).part(0, 3).long(),
        Boot::new("fault-2", &["fault"]).part(1, 3).long(),
        Boot::new("fault-3", &["fault"]).part(2, 3).long(),
        Boot::new("life", &["life"]).devices(2).long(),
        Boot::new(
            "all",
            &[
                "node", "info", "stats", "trace", "unknown", "hsm", "session", "aes", "load",
                "reset", "steady",
            ],
        )
        .devices(2)
        .long(),
        Boot::new("iommu", OF_MACHINE).iommu().long(),
        // What a device accesses late is what an IOMMU knows of.
        Boot::new("iommu-recovery", &["recovery", "fault"]).iommu(),
        Boot::new("four-processors", OF_MACHINE).smp(4),
        Boot::new("one-processor", OF_MACHINE).smp(1).long(),
        Boot::new("16-vectors", OF_MACHINE).vectors(16),
        Boot::new("3-vectors", OF_MACHINE).vectors(3),
        Boot::new("1-vector", OF_MACHINE).vectors(1),
        Boot::new("soak", &["soak"]).long(),
        Boot::new("card", &["mgmt", "vfs"]).card(8).long(),
        Boot::sriov(),
        Boot::neighbour(),
        Boot::fuzz(60, Some(1)),
        Boot::odd_bar(),
    ]
}

fn debug_full() -> Vec<Boot> {
    vec![
        Boot::new("debug-starve-1", &["starve"]).part(0, 2).long(),
        Boot::new("debug-starve-2", &["starve"]).part(1, 2).long(),
        Boot::new("debug-matrix", &["matrix"]),
        Boot::new("debug-recovery-1", &["recovery"])
            .part(0, 2)
            .long(),
        Boot::new("debug-recovery-2", &["recovery"])
            .part(1, 2)
            .long(),
        Boot::new("debug-fault", &["fault"]),
        Boot::new("debug-life", &["life"]),
        Boot::new(
            "debug-abi",
            &[
                "node", "info", "stats", "trace", "unknown", "hsm", "session",
            ],
        ),
        Boot::new("debug-load", &["aes", "load", "reset"]),
        Boot::new("debug-one-processor", OF_MACHINE).smp(1),
        Boot::new("debug-four-processors", OF_MACHINE).smp(4),
        Boot::new("debug-card", &["mgmt", "vfs"]).card(8),
        Boot::new("debug-starve-card", &[])
            .card(2)
            .only(STARVE_CARD)
            .long(),
        Boot::new("debug-soak", &["soak"]).long().seconds(60),
        Boot::new("debug-chaos", &["chaos"]).long().seconds(60),
        Boot::kunit(),
    ]
}

fn kasan() -> Vec<Boot> {
    vec![
        Boot::new("kasan-matrix-1", &["matrix"]).part(0, 4).long(),
        Boot::new("kasan-matrix-2", &["matrix"]).part(1, 4).long(),
        Boot::new("kasan-matrix-3", &["matrix"]).part(2, 4).long(),
        Boot::new("kasan-matrix-4", &["matrix"]).part(3, 4).long(),
        Boot::new("kasan-recovery", &["recovery"]),
        Boot::new("kasan-soak", &["soak"]).long().seconds(60),
        Boot::new("kasan-life", &["life"]),
        Boot::new("kasan-load", &["load", "reset"]),
        Boot::new("kasan-fault", &["fault"]),
        Boot::new("kasan-aes", &["aes"]),
        Boot::new("kasan-steady", &["steady"]),
        Boot::new("kasan-starve-iommu", &["starve"]).iommu(),
        Boot::new("kasan-starve-mapping", &[])
            .iommu()
            .only(&["starve/bind-all-mapping"])
            .long(),
        Boot::new(
            "kasan-abi",
            &[
                "node", "info", "stats", "trace", "unknown", "hsm", "session",
            ],
        ),
        Boot::new("kasan-card", &["mgmt", "vfs"]).card(8),
        Boot::new("kasan-iommu", &[])
            .iommu()
            .vectors(3)
            .only(SAMPLE),
        Boot::fuzz(60, Some(1)),
        Boot::kunit(),
    ]
}

#[cfg(test)]
mod tests {
    use super::of;
    use super::Boot;
    use super::Variant;
    use clap::ValueEnum;
    use std::collections::BTreeSet;

    /// All plans.
    fn plans() -> Vec<Vec<Boot>> {
        Variant::value_variants()
            .iter()
            .flat_map(|&variant| [of(variant, false), of(variant, true)])
            .collect()
    }

    #[test]
    fn names_are_unique_and_fit_a_directory() {
        for plan in plans() {
            let names: BTreeSet<_> = plan.iter().map(|boot| boot.name).collect();
            assert_eq!(names.len(), plan.len());
            assert!(names.iter().all(|name| !name.contains('/')));
        }
    }

    #[test]
    fn every_part_is_there() {
        for plan in plans() {
            for boot in &plan {
                let parts: BTreeSet<_> = plan
                    .iter()
                    .filter(|other| other.groups == boot.groups && other.part.1 == boot.part.1)
                    .map(|other| other.part.0)
                    .collect();
                assert_eq!(parts.len(), boot.part.1, "{}", boot.name);
            }
        }
    }

    #[test]
    fn command_says_what_to_run() {
        let plan = of(Variant::Stock, false);
        let boot = plan.iter().find(|boot| boot.name == "fault-2").unwrap();
        assert_eq!(
            boot.command("/m.ko"),
            "exec /bin/azihsm-tests --module /m.ko --vectors 32 --devices 1 \
             --part 1 --parts 2 --group 'fault'\n"
        );
    }

    #[test]
    fn unit_tests_run_in_their_own_machine_only() {
        for variant in [Variant::Debug, Variant::Kasan, Variant::Builtin] {
            for boot in of(variant, true) {
                let off = boot
                    .config
                    .append
                    .iter()
                    .any(|word| word == "kunit.enable=0");
                assert_ne!(off, boot.name.ends_with("kunit"), "{}", boot.name);
                assert!(boot.config.memory >= 1024);
            }
        }
        assert!(of(Variant::Stock, true)
            .iter()
            .all(|boot| boot.config.append.is_empty()));
    }

    #[test]
    fn command_says_what_to_run_instead() {
        let command = |seed| Boot::fuzz(7, seed).command("/m.ko");
        let expected = "exec /bin/azihsm-fuzz --module /m.ko --seconds 7";
        assert_eq!(command(None), format!("{expected}\n"));
        assert_eq!(command(Some(3)), format!("{expected} --seed 3\n"));
        assert_eq!(Boot::odd_bar().command("/m.ko").matches("/m.ko").count(), 1);
    }
}
