//! What an engine can do. An application that needs more is refused when it is built.

/// What an engine can do, beyond what every engine can.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The engine's name in logs and errors.
    pub name: &'static str,
    /// What is published and settled survives a crash of the store.
    pub durable: bool,
    /// A message can be stored now and become readable later: [`Due`](crate::engine::Due) is
    /// honoured.
    pub delayed: bool,
    /// A message that was never delivered can be [cancelled](crate::engine::Engine::cancel) and
    /// [moved](crate::engine::Engine::reschedule) by its id.
    pub movable: bool,
    /// A queue stores one message for each [`Dedupe`](crate::engine::Dedupe) key within its window.
    pub dedupe: bool,
    /// Messages are handed out by due time, and `before` and `after` of
    /// [`LeaseRequest`](crate::engine::LeaseRequest) are honoured.
    pub ordered: bool,
    /// Messages of one ordering key ([`KEY`](crate::message::headers::KEY)) are handed out one after
    /// another, by the rules of [`Engine::lease`](crate::engine::Engine::lease).
    pub keys: bool,
    /// [`Engine::begin`](crate::engine::Engine::begin) works, so handlers can take `Tx`.
    pub transactions: bool,
    /// Acknowledged messages can be archived, or noted in a trail, by
    /// [`Engine::set_retention`](crate::engine::Engine::set_retention).
    pub archive: bool,
    /// [`Engine::schedules`](crate::engine::Engine::schedules) keeps schedules, so applications can
    /// have them.
    pub schedules: bool,
    /// Bodies come back byte for byte. This is false for PGMQ, which stores `jsonb`: values stay
    /// exact; key order, white space and duplicate keys do not.
    pub exact_bodies: bool,
    /// The store cannot tell a worker whose lease has ended from the one that has the message now, so the
    /// engine refuses receipts by the clock of the worker: a receipt settles in the process that leased it,
    /// and until its lease ends there. An engine without this holds a receipt until the message is handed
    /// out again, and takes it from any client of the store.
    pub fenced_by_clock: bool,
    /// The largest body that the store takes, in bytes; `None` if it has no limit of its own.
    pub max_body: Option<usize>,
}

impl Capabilities {
    /// The capabilities of an engine that can do nothing optional.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            durable: false,
            delayed: false,
            movable: false,
            dedupe: false,
            ordered: false,
            keys: false,
            transactions: false,
            archive: false,
            schedules: false,
            exact_bodies: false,
            fenced_by_clock: false,
            max_body: None,
        }
    }
}
