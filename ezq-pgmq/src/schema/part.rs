//! The parts that ezq's own schema has.

/// What a table is for, and so in which databases it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// In the database that keeps the queues.
    Engine,
    /// There, too: subscriptions, and the functions that broadcast.
    Broadcast,
    /// There, too: when which schedule ticks.
    Schedules,
    /// There, too: how far which replay has come.
    Replays,
    /// There, too: what became of events that were deleted.
    Trail,
    /// In a database where handlers take effect.
    Inbox,
}
