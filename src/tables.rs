//! What an application on PGMQ does with tables beside publishing: it captures changes of its own tables,
//! and replays events from archives.

use ezq_core::message::IntoQueueName;
use ezq_pgmq::{Capture, Captures, Replay, Replays};

use crate::Ezq;

impl Ezq {
    /// Captures the changes of a table, when awaited.
    ///
    /// Triggers store an event in the application's queue for each row that is inserted, updated or
    /// deleted. They do so in the writer's transaction, whatever program or language it is. Call this
    /// at each start: a capture that exists already is left as it is. See [`Capture`] for the options,
    /// and for what is not captured.
    ///
    /// The table's name is read as SQL reads it. For a table `users`, the events have the types
    /// `users.created`, `users.updated`, `users.deleted` and `users.truncated`. Their payload is a
    /// [`Change`](ezq_core::event::Change). A type that no handler takes is
    /// [unknown](ezq_core::config::Config::unknown_types), as for any event. So where tables are
    /// truncated, a handler must take that type as well.
    ///
    /// ```no_run
    /// use ezq::event::Change;
    /// use ezq::prelude::*;
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
            .by(&config.app)
    }

    /// Lists and removes captures.
    #[must_use]
    pub fn captures(&self) -> Captures<'_> {
        self.pgmq().captures()
    }

    /// Copies archived events of a queue back to a queue, when awaited, so that they are handled once
    /// more.
    ///
    /// It takes all events or some of them, to the same queue or to another one. Under one name a replay
    /// copies each event once, however often it is interrupted and run again; see [`Replay`]. The queue
    /// needs an archive; see [`Retention`](ezq_core::message::Retention).
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
    pub fn replay(&self, name: impl Into<String>, queue: impl IntoQueueName) -> Replay {
        self.pgmq().replay(name, queue).by(&self.config().app)
    }

    /// Lists the replays that were begun, and forgets them.
    #[must_use]
    pub fn replays(&self) -> Replays<'_> {
        self.pgmq().replays()
    }
}
