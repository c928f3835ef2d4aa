//! The ordering keys of one queue: the messages of each key in order, and which of them are delivered
//! and not settled.

use std::collections::{BTreeMap, BTreeSet};

/// The ids of the messages that have a key, by key.
#[derive(Debug, Default)]
pub(super) struct Keys {
    groups: BTreeMap<String, Group>,
}

#[derive(Debug, Default)]
struct Group {
    ids: BTreeSet<i64>,
    /// Those that were delivered and not settled. Their leases may have ended.
    open: BTreeSet<i64>,
}

impl Keys {
    pub(super) fn insert(&mut self, key: &str, id: i64) {
        self.groups
            .entry(key.to_owned())
            .or_default()
            .ids
            .insert(id);
    }

    pub(super) fn remove(&mut self, key: &str, id: i64) {
        let Some(group) = self.groups.get_mut(key) else {
            return;
        };
        group.ids.remove(&id);
        group.open.remove(&id);
        // Most keys are used for a while and never again; their empty groups would stay for ever.
        if group.ids.is_empty() {
            self.groups.remove(key);
        }
    }

    pub(super) fn set_open(&mut self, key: &str, id: i64, open: bool) {
        let Some(group) = self.groups.get_mut(key) else {
            return;
        };
        if open {
            group.open.insert(id);
        } else {
            group.open.remove(&id);
        }
    }

    pub(super) fn clear(&mut self) {
        self.groups.clear();
    }

    /// The first message of a key.
    pub(super) fn first(&self, key: &str) -> Option<i64> {
        self.groups.get(key)?.ids.first().copied()
    }

    /// The message that follows another of its key.
    pub(super) fn next(&self, key: &str, id: i64) -> Option<i64> {
        self.groups
            .get(key)?
            .ids
            .range(id.saturating_add(1)..)
            .next()
            .copied()
    }

    /// The messages of a key that were delivered and not settled.
    pub(super) fn open(&self, key: &str) -> impl Iterator<Item = i64> + '_ {
        self.groups
            .get(key)
            .into_iter()
            .flat_map(|group| group.open.iter().copied())
    }

    /// Every key with its first message, and how many messages wait behind it.
    pub(super) fn firsts(&self) -> impl Iterator<Item = (&str, i64, usize)> {
        self.groups.iter().filter_map(|(key, group)| {
            Some((key.as_str(), *group.ids.first()?, group.ids.len() - 1))
        })
    }
}
