//! What an application on PGMQ can do with tables beside publishing: capture the changes of its own,
//! and replay what the archives hold.

use ezq_core::{Error, QueueName};
use ezq_pgmq::{Capture, Captures, Replay, Replays};

use crate::Ezq;

impl Ezq {
    /// Captures the changes of a table, when awaited: triggers store an event in the application's
    /// queue for each row that is inserted, updated or deleted, in the transaction of whoever does
    /// it, in whatever language. Call it at each start: what stands already is left as it is. See
    /// [`Capture`] for what may be said, and what is not captured.
    ///
    /// The table's name is read as SQL reads it. The events are of the types `users.created`,
    /// `users.updated`, `users.deleted` and `users.truncated`; their payload is a
    /// [`Change`](ezq_core::Change). A type that no handler takes is
    /// [unknown](ezq_core::Config::unknown_types) here as everywhere: where tables are truncated, let
    /// a handler take that as well.
    ///
    /// ```no_run
    /// use ezq::prelude::*;
    /// use ezq::Change;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct User { id: i64, name: String }
    ///
    /// #[derive(Event, Serialize, Deserialize)]
    /// #[event(type = "users.updated", alias = "users.created", alias = "users.deleted")]
    /// struct UserChanged(Change<User>);
    ///
    /// #[on_event]
    /// async fn index(UserChanged(change): UserChanged) {
    ///     match (change.old, change.new) {
    ///         (_, Some(user)) => println!("{} is {} now: {:?}", user.id, user.name, change.changed),
    ///         (Some(user), None) => println!("{} is gone", user.id),
    ///         (None, None) => {}
    ///     }
    /// }
    ///
    /// # async fn example(ezq: Ezq) -> ezq::Result<()> {
    /// ezq.capture("public.users").without(["password"]).key("id").await?;
    /// # Ok(()) }
    /// ```
    pub fn capture(&self, table: impl Into<String>) -> Capture {
        let config = self.config();
        self.pgmq()
            .capture(table, &config.queue)
            .source(&config.app)
    }

    /// The tables whose changes are captured: listed, and removed.
    #[must_use]
    pub fn captures(&self) -> Captures<'_> {
        self.pgmq().captures()
    }

    /// Hands archived events of a queue over once more, when awaited: to the same queue or another,
    /// all of them or some. Each is handed over once under the replay's name, however often the
    /// replay is interrupted and run again; see [`Replay`]. The queue needs an archive: see
    /// [`Retention`](ezq_core::Retention).
    ///
    /// ```no_run
    /// # async fn example(ezq: ezq::Ezq) -> ezq::Result<()> {
    /// use ezq::chrono::{Duration, Utc};
    ///
    /// let mail = || {
    ///     ezq.replay("receipts again", "orders")
    ///         .event_type("order.*")
    ///         .published_after(Utc::now() - Duration::days(1))
    ///         .to_queue("mail")
    /// };
    /// println!("{} events would be handed over", mail().dry_run().await?);
    /// let done = mail().rate(50).on_progress(|p| println!("{} so far", p.handed_over)).await?;
    /// println!("{} were", done.handed_over);
    /// # Ok(()) }
    /// ```
    pub fn replay(
        &self,
        name: impl Into<String>,
        queue: impl TryInto<QueueName, Error = Error>,
    ) -> Replay {
        self.pgmq().replay(name, queue)
    }

    /// The replays that were begun: listed, and forgotten.
    #[must_use]
    pub fn replays(&self) -> Replays<'_> {
        self.pgmq().replays()
    }
}
