// SPDX-License-Identifier: GPL-2.0

//! What the functions of one device share.  See Documentation/device.rst,
//! section 8.

use crate::front::Front;
use crate::groups::GroupTable;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

/// The resource groups, and the bus sides of all functions.
///
/// Nothing else is locked while this is.
#[derive(Default)]
pub struct Card(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    groups: GroupTable,
    functions: BTreeMap<u16, Arc<Front>>,
}

impl Card {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a function one of several of the device.
    pub fn join(&self, function: u16, front: Arc<Front>) {
        self.lock().functions.insert(function, front);
    }

    /// The function is another one from now on.
    pub fn rename(&self, from: u16, to: u16) {
        let mut inner = self.lock();
        if let Some(front) = inner.functions.remove(&from) {
            inner.functions.insert(to, front);
        }
    }

    /// Whether there are others than the one that asks.
    pub fn is_shared(&self) -> bool {
        self.lock().functions.len() > 1
    }

    /// The bus side of another function, if it is here.
    pub fn other(&self, function: u16) -> Option<Arc<Front>> {
        self.lock().functions.get(&function).map(Arc::clone)
    }

    /// The bus sides of all functions but one.
    pub fn others(&self, function: u16) -> Vec<Arc<Front>> {
        let inner = self.lock();
        let others = inner.functions.iter().filter(|(id, _)| **id != function);
        others.map(|(_, front)| Arc::clone(front)).collect()
    }

    /// The groups of a function, lowest first.
    pub fn groups(&self, function: u16) -> Vec<u8> {
        self.lock().groups.of(function).collect()
    }

    /// How many groups a function has.
    pub fn count(&self, function: u16) -> u8 {
        self.lock().groups.count(function)
    }

    /// Gives a function another number of groups, if they are free.
    pub fn set(&self, function: u16, count: u8) -> bool {
        self.lock().groups.set(function, count)
    }

    /// No function has groups any more.
    pub fn clear(&self) {
        self.lock().groups = GroupTable::default();
    }
}
