//! The parts of ezq's own schema.

/// A part of the schema, by what its tables are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Dedupe keys, in the database of the queues.
    Engine,
    /// Subscriptions and the functions that broadcast, in the same database.
    Broadcast,
    /// Schedules, in the same database.
    Schedules,
    /// Replays, in the same database.
    Replays,
    /// The trail, in the same database.
    Trail,
    /// Pauses, in the same database.
    Controls,
    /// Cancellations, in the same database.
    Cancellations,
    /// The presence of consumers, in the same database.
    Presence,
    /// Operations and the audit trail, in the same database.
    Operations,
    /// The positions of sources, in the same database.
    Positions,
    /// The engines that lease, in the same database.
    Holders,
    /// The inbox, in a database where handlers take effect.
    Inbox,
}

impl Part {
    /// All of them.
    pub(crate) const ALL: [Self; 12] = [
        Self::Engine,
        Self::Broadcast,
        Self::Schedules,
        Self::Replays,
        Self::Trail,
        Self::Controls,
        Self::Cancellations,
        Self::Operations,
        Self::Presence,
        Self::Positions,
        Self::Holders,
        Self::Inbox,
    ];
}
