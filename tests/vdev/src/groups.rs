// SPDX-License-Identifier: GPL-2.0

//! Resource groups.  See Documentation/device.rst, section 8.

/// Number of groups of the whole device.
pub const GROUPS: u8 = 65;
/// Number of functions of the whole device, which is one more than the
/// largest controller id.
pub const FUNCTIONS: u16 = 65;

/// Which function owns which group.
#[derive(Clone, Debug)]
pub struct GroupTable([Option<u16>; GROUPS as usize]);

impl Default for GroupTable {
    fn default() -> Self {
        Self([None; GROUPS as usize])
    }
}

impl GroupTable {
    /// The groups of a function, lowest first.
    pub fn of(&self, function: u16) -> impl Iterator<Item = u8> + '_ {
        (0..GROUPS)
            .zip(&self.0)
            .filter(move |(_, owner)| **owner == Some(function))
            .map(|(group, _)| group)
    }

    /// How many groups a function has.
    pub fn count(&self, function: u16) -> u8 {
        self.of(function).count() as u8
    }

    /// Gives a function another number of groups.
    ///
    /// A function that grows gets the lowest free groups, one that shrinks
    /// loses its lowest ones.  Fails if not enough are free.
    pub fn set(&mut self, function: u16, count: u8) -> bool {
        let now = self.count(function);
        let (from, to, change) = if count >= now {
            (None, Some(function), count - now)
        } else {
            (Some(function), None, now - count)
        };
        let change = usize::from(change);
        if self.0.iter().filter(|owner| **owner == from).count() < change {
            return false;
        }
        for owner in self
            .0
            .iter_mut()
            .filter(|owner| **owner == from)
            .take(change)
        {
            *owner = to;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(table: &GroupTable, function: u16) -> Vec<u8> {
        table.of(function).collect()
    }

    #[test]
    fn groups_are_taken_from_the_lowest_and_lost_from_the_lowest() {
        let mut table = GroupTable::default();
        assert!(table.set(0, 2));
        assert!(table.set(5, 3));
        assert_eq!(groups(&table, 0), [0, 1]);
        assert_eq!(groups(&table, 5), [2, 3, 4]);
        assert!(table.set(0, 1));
        assert_eq!(groups(&table, 0), [1]);
        assert!(table.set(5, 4));
        assert_eq!(groups(&table, 5), [0, 2, 3, 4]);
        assert!(table.set(5, 0));
        assert_eq!(table.count(5), 0);
    }

    #[test]
    fn there_are_65_groups() {
        let mut table = GroupTable::default();
        assert!(table.set(1, 60));
        assert!(!table.set(2, 6));
        assert_eq!(table.count(2), 0);
        assert!(table.set(2, 5));
        assert!(table.set(1, 0));
        assert!(table.set(2, 65));
        assert!(!table.set(1, 1));
    }
}
