// SPDX-License-Identifier: GPL-2.0
//! The clock of the guest.
//!
//! An emulated processor counts time as the host's does, but a guest that is
//! slow at the moment when it compares the count with another timer gets a wrong
//! idea of its speed, and all its timeouts are off.  So it is told.

/// A word of the kernel's command line that tells the speed of the processor's
/// time stamp counter, if it is known.
#[cfg(target_arch = "x86_64")]
pub fn argument() -> Option<String> {
    use std::arch::x86_64::_rdtsc;
    use std::sync::OnceLock;
    use std::thread;
    use std::time::Duration;
    use std::time::Instant;

    const LONG: Duration = Duration::from_millis(100);
    static KHZ: OnceLock<u64> = OnceLock::new();

    let khz = KHZ.get_or_init(|| {
        // SAFETY: Each processor that runs 64-bit programs has the instruction.
        let read = || (Instant::now(), unsafe { _rdtsc() });
        let (begin, first) = read();
        thread::sleep(LONG);
        let (end, last) = read();
        let micros = u64::try_from((end - begin).as_micros()).unwrap_or(u64::MAX);
        last.wrapping_sub(first).saturating_mul(1000) / micros.max(1)
    });
    (*khz != 0).then(|| format!("tsc_early_khz={khz}"))
}

/// As above, where it is not known.
#[cfg(not(target_arch = "x86_64"))]
pub fn argument() -> Option<String> {
    None
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::argument;

    #[test]
    fn the_speed_is_that_of_a_processor() {
        let word = argument().expect("it is known here");
        let khz: u64 = word["tsc_early_khz=".len()..].parse().unwrap();
        assert!((100_000..20_000_000).contains(&khz), "{khz}");
    }
}
