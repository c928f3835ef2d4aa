//! What an engine can do, probed when it connects; an application that needs more fails at build.

/// What an engine can do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The engine's name in logs and errors.
    pub name: &'static str,
    /// What is published and settled survives a crash of the server.
    pub durable: bool,
    /// A message can be stored now and become readable later.
    pub delayed: bool,
    /// A queue stores one message for each [`Dedupe`](crate::engine::Dedupe) key and window.
    pub dedupe: bool,
    /// Messages are handed out by due time, and `before` and `after` of
    /// [`LeaseRequest`](crate::engine::LeaseRequest) are honoured.
    pub ordered: bool,
    /// Messages of one ordering key ([`KEY`](crate::message::headers::KEY)) are handed out one after another;
    /// see [`Engine::lease`](crate::engine::Engine::lease).
    pub keys: bool,
    /// [`Engine::begin`](crate::engine::Engine::begin) works: handlers may take `Tx`.
    pub transactions: bool,
    /// [`Engine::set_retention`](crate::engine::Engine::set_retention) can have acknowledged
    /// messages archived, or told of in a trail.
    pub archive: bool,
    /// [`Engine::schedules`](crate::engine::Engine::schedules) keeps schedules: an application may
    /// have some.
    pub schedules: bool,
    /// Bodies come back byte by byte. PGMQ stores `jsonb`: values stay exact, but key order, white
    /// space and duplicate keys do not.
    pub exact_bodies: bool,
    /// The most bytes of one body the store takes, if it has a limit of its own.
    pub max_body: Option<usize>,
}

impl Capabilities {
    /// An engine with a name that can do nothing optional.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            durable: false,
            delayed: false,
            dedupe: false,
            ordered: false,
            keys: false,
            transactions: false,
            archive: false,
            schedules: false,
            exact_bodies: false,
            max_body: None,
        }
    }
}
