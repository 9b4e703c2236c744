// SPDX-License-Identifier: GPL-2.0

//! The session table.  See Documentation/device.rst, section 5.7.

use serde::Serialize;

/// Number of sessions of a function.
pub const SESSIONS: usize = 8;

/// A session that was opened and neither closed nor flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The short application id it was opened for.
    pub app_id: u8,
    /// A reset happened since it was opened.
    pub renegotiate: bool,
}

/// What `state` tells about a session.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SessionSummary {
    id: u16,
    app_id: u8,
    needs_renegotiation: bool,
}

/// The sessions of a function.
#[derive(Clone, Debug, Default)]
pub struct SessionTable([Option<Session>; SESSIONS]);

impl SessionTable {
    /// Opens a session under the lowest free id.
    pub fn open(&mut self, app_id: u8) -> Option<u16> {
        let (id, slot) = (0..)
            .zip(&mut self.0)
            .find(|(_, session)| session.is_none())?;
        *slot = Some(Session {
            app_id,
            renegotiate: false,
        });
        Some(id)
    }

    /// The session with this id.
    pub fn get(&mut self, id: u16) -> Option<&mut Session> {
        self.0.get_mut(usize::from(id))?.as_mut()
    }

    /// Frees an id.
    pub fn close(&mut self, id: u16) -> Option<Session> {
        self.0.get_mut(usize::from(id))?.take()
    }

    /// A reset: every session has to be renegotiated.
    pub fn lose(&mut self) {
        for session in self.0.iter_mut().flatten() {
            session.renegotiate = true;
        }
    }

    /// Frees all ids.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What there is.
    pub fn summary(&self) -> Vec<SessionSummary> {
        (0..)
            .zip(&self.0)
            .filter_map(|(id, session)| {
                session.map(|session| SessionSummary {
                    id,
                    app_id: session.app_id,
                    needs_renegotiation: session.renegotiate,
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_id_is_handed_out() {
        let mut table = SessionTable::default();
        for id in 0..8 {
            assert_eq!(table.open(1), Some(id));
        }
        assert_eq!(table.open(1), None);
        assert!(table.close(5).is_some());
        assert!(table.close(2).is_some());
        assert!(table.close(2).is_none());
        assert!(table.close(8).is_none());
        assert_eq!(table.open(1), Some(2));
        assert_eq!(table.open(1), Some(5));
    }

    #[test]
    fn a_reset_keeps_the_ids_reserved() {
        let mut table = SessionTable::default();
        table.open(3);
        table.lose();
        assert_eq!(table.open(3), Some(1));
        assert!(table.get(0).unwrap().renegotiate);
        assert!(!table.get(1).unwrap().renegotiate);
        assert!(table.get(8).is_none());
        table.clear();
        assert!(table.get(0).is_none());
    }
}
