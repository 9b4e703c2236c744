// SPDX-License-Identifier: GPL-2.0

//! MSI-X interrupts.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

/// Something that takes interrupts.
pub trait Interrupts: Send + Sync {
    /// Raises a vector; tells whether anybody listens.
    fn raise(&self, vector: u16) -> bool;

    /// The vectors that somebody listens to.
    fn listening(&self) -> Vec<u16>;
}

#[derive(Default)]
struct Lines {
    events: BTreeMap<u16, File>,
    pending: BTreeSet<u16>,
}

/// Interrupts that are signalled through event file descriptors.
#[derive(Default)]
pub struct EventLines(Mutex<Lines>);

impl EventLines {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects a vector, and raises it if it was raised in vain before.
    pub fn connect(&self, vector: u16, event: File) {
        let mut lines = self.lock();
        if lines.pending.remove(&vector) {
            signal(&event);
        }
        lines.events.insert(vector, event);
    }

    /// Disconnects one vector.
    pub fn disconnect(&self, vector: u16) {
        self.lock().events.remove(&vector);
    }

    /// Disconnects all vectors and forgets what is pending.
    pub fn disconnect_all(&self) {
        *self.lock() = Lines::default();
    }

    /// Whether a vector was raised with nobody listening.
    pub fn pending(&self, vector: u16) -> bool {
        self.lock().pending.contains(&vector)
    }
}

fn signal(mut event: &File) -> bool {
    event.write_all(&1u64.to_ne_bytes()).is_ok()
}

impl Interrupts for EventLines {
    fn raise(&self, vector: u16) -> bool {
        let mut lines = self.lock();
        let sent = lines.events.get(&vector).is_some_and(signal);
        if !sent {
            lines.pending.insert(vector);
        }
        sent
    }

    fn listening(&self) -> Vec<u16> {
        self.lock().events.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::io::Seek;

    fn signals(file: &mut File) -> u64 {
        file.rewind().unwrap();
        let mut data = Vec::new();
        file.read_to_end(&mut data).unwrap();
        data.len() as u64 / 8
    }

    #[test]
    fn raised_vectors_signal_their_event() {
        let lines = EventLines::default();
        let mut file = tempfile::tempfile().unwrap();
        lines.connect(3, file.try_clone().unwrap());
        assert!(lines.raise(3));
        assert!(!lines.raise(4));
        assert_eq!(lines.listening(), [3]);
        assert!(lines.pending(4));
        assert_eq!(signals(&mut file), 1);
    }

    #[test]
    fn a_vector_raised_in_vain_is_raised_once_connected() {
        let lines = EventLines::default();
        assert!(!lines.raise(7));
        assert!(!lines.raise(7));
        let mut file = tempfile::tempfile().unwrap();
        lines.connect(7, file.try_clone().unwrap());
        assert_eq!(signals(&mut file), 1);
        assert!(!lines.pending(7));
        lines.disconnect(7);
        assert!(!lines.raise(7));
        lines.disconnect_all();
        assert!(!lines.pending(7));
    }
}
