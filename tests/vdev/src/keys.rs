// SPDX-License-Identifier: GPL-2.0

//! The store of the AES keys.  See Documentation/device.rst, section 6.3.

use serde::Deserialize;
use serde::Serialize;
use std::collections::btree_map::Entry;
use std::collections::BTreeMap;

/// AES keys of one resource group.
pub const KEYS_PER_GROUP: u32 = 7;
/// The first index that is not valid.
pub const INDICES: u32 = 462;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// Half of what an XTS command needs.
    Xts,
    /// GCM with IVs that the device makes.
    GcmApproved,
    /// GCM with IVs that the host makes.
    Gcm,
}

/// A key of 256 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// What it is for.
    pub kind: KeyKind,
    /// The key itself.
    pub bytes: [u8; 32],
    /// The function that owns it.
    pub owner: u16,
    /// The short application id that may use it.
    pub app_id: u8,
    /// The session it lives and may be used in, if it is a session-only key.
    pub session: Option<u16>,
}

/// What `state` tells about a key.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KeySummary {
    key_id: u32,
    kind: KeyKind,
    owner: u16,
    app_id: u8,
    session: Option<u16>,
}

/// The index that a key id means.
pub fn index_of(key_id: u32) -> u64 {
    u64::from(key_id >> 3) * u64::from(KEYS_PER_GROUP) + u64::from(key_id & 7)
}

/// The key id that means a slot of a resource group.
pub fn key_id(group: u8, slot: u32) -> u32 {
    (u32::from(group) << 3) | slot
}

/// The AES keys of the device.
#[derive(Clone, Debug, Default)]
pub struct KeyStore(BTreeMap<u64, (u32, Key)>);

impl KeyStore {
    /// Stores a key in the first free slot of these groups.
    pub fn add(&mut self, groups: impl Iterator<Item = u8>, key: Key) -> Option<u32> {
        for group in groups {
            for slot in 0..KEYS_PER_GROUP {
                let id = key_id(group, slot);
                if let Entry::Vacant(entry) = self.0.entry(index_of(id)) {
                    entry.insert((id, key));
                    return Some(id);
                }
            }
        }
        None
    }

    /// The key at an index.
    pub fn get(&self, index: u64) -> Option<&Key> {
        self.0.get(&index).map(|(_, key)| key)
    }

    /// Deletes a key.
    pub fn delete(&mut self, key_id: u32) -> bool {
        self.0.remove(&index_of(key_id)).is_some()
    }

    /// Deletes the session-only keys of a session.
    pub fn close_session(&mut self, function: u16, session: u16) {
        self.0
            .retain(|_, (_, key)| key.owner != function || key.session != Some(session));
    }

    /// Deletes all keys of a function.
    pub fn erase(&mut self, function: u16) {
        self.0.retain(|_, (_, key)| key.owner != function);
    }

    /// Deletes all keys.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What there is.
    pub fn summary(&self) -> Vec<KeySummary> {
        self.0
            .values()
            .map(|(key_id, key)| KeySummary {
                key_id: *key_id,
                kind: key.kind,
                owner: key.owner,
                app_id: key.app_id,
                session: key.session,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(owner: u16, session: Option<u16>) -> Key {
        Key {
            kind: KeyKind::Gcm,
            bytes: [0; 32],
            owner,
            app_id: 1,
            session,
        }
    }

    #[test]
    fn ids_are_coded_as_documented() {
        assert_eq!(key_id(0, 6), 6);
        assert_eq!(key_id(65, 6), (65 << 3) | 6);
        assert_eq!(index_of(6), 6);
        assert_eq!(index_of(1 << 3), 7);
        assert_eq!(index_of(key_id(65, 6)), 461);
        assert!(index_of(key_id(66, 0)) >= u64::from(INDICES));
        assert!(index_of(u32::MAX) >= u64::from(INDICES));
    }

    #[test]
    fn a_group_holds_seven_keys() {
        let mut store = KeyStore::default();
        let ids: Vec<_> = (0..15)
            .map_while(|_| store.add([3, 5].into_iter(), key(0, None)))
            .collect();
        assert_eq!(
            ids,
            [24, 25, 26, 27, 28, 29, 30, 40, 41, 42, 43, 44, 45, 46]
        );
        assert!(store.delete(26));
        assert!(!store.delete(26));
        assert_eq!(store.add([3, 5].into_iter(), key(0, None)), Some(26));
    }

    #[test]
    fn keys_are_erased_by_owner_and_by_session() {
        let mut store = KeyStore::default();
        let all = || [0u8].into_iter();
        store.add(all(), key(0, None));
        store.add(all(), key(0, Some(2)));
        store.add(all(), key(1, Some(2)));
        store.close_session(0, 2);
        assert_eq!(store.summary().len(), 2);
        store.erase(0);
        assert_eq!(store.summary().len(), 1);
        store.clear();
        assert!(store.summary().is_empty());
    }
}
