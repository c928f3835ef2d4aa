//! What operators did to a memory engine's events, and what they have under way.

use std::collections::BTreeMap;

use crate::engine::{AuditEntry, Operation};
use crate::error::Result;

/// What operators did, and what they have under way.
#[derive(Debug, Default)]
pub(super) struct Operated {
    pub(super) operations: BTreeMap<String, Operation>,
    /// By number: the oldest first.
    pub(super) trail: BTreeMap<u64, AuditEntry>,
    recorded: u64,
}

impl Operated {
    pub(super) fn record(&mut self, entry: AuditEntry) -> u64 {
        self.recorded += 1;
        self.trail.insert(self.recorded, entry);
        self.recorded
    }

    pub(super) fn operation(&mut self, id: &str) -> Result<&mut Operation> {
        self.operations
            .get_mut(id)
            .ok_or_else(|| Operation::missing(id))
    }
}
