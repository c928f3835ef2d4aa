//! What operators did to a memory engine's events, and what they have under way.

use std::collections::BTreeMap;

use crate::engine::{AuditEntry, Operation};
use crate::error::Result;

/// What operators did, and what they have under way.
#[derive(Debug, Default)]
pub(super) struct Operated {
    pub(super) operations: BTreeMap<String, Operation>,
    /// Oldest first.
    pub(super) trail: Vec<AuditEntry>,
}

impl Operated {
    pub(super) fn record(&mut self, entry: AuditEntry) {
        self.trail.push(entry);
    }

    pub(super) fn operation(&mut self, id: &str) -> Result<&mut Operation> {
        self.operations
            .get_mut(id)
            .ok_or_else(|| Operation::missing(id))
    }
}
