//! Keeps leases with the server while their workers have them, and gives back what they let run out.
//!
//! The server waits the same time for every message of a queue, whatever a worker asked for. So a lease that
//! is longer is renewed here, for as long as it lasts. One that is shorter is given back when it ends; if
//! this process dies, the server's own time ends it.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_nats::Subject;
use async_nats::client::RequestErrorKind;
use bytes::Bytes;
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use tokio::time::{Instant, sleep_until, timeout};

use super::leases::{Key, Leases};
use super::state::State;
use crate::connection::ANSWER_LIMIT;

/// A message is handed on by a word from here only if the server keeps it for so much longer. Otherwise the
/// word might reach the server after another worker has the message.
const MARGIN: Duration = Duration::from_secs(1);
/// How long the keeper sleeps if nothing is leased.
const IDLE: Duration = Duration::from_secs(60);
/// How long the server has to confirm that it keeps a lease, before it is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// The words of a worker on a message.
pub(crate) const HANDLED: Bytes = Bytes::from_static(b"+ACK");
pub(crate) const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");
const GIVEN_BACK: Bytes = Bytes::from_static(b"-NAK");

/// What is to be done at one moment.
#[derive(Default)]
struct Due {
    /// Leases that the server is to keep, by queue.
    keep: BTreeMap<QueueName, Vec<(Key, Subject)>>,
    /// Messages that nobody has any more.
    give_back: Vec<Subject>,
    /// When the next one is due.
    next: Option<Instant>,
}

/// Runs until the engine is gone.
pub(crate) async fn keep(state: Weak<State>, leases: Arc<Leases>) {
    loop {
        let Some(state) = state.upgrade() else {
            return;
        };
        let due = state.due();
        for ack in due.give_back {
            // If it is lost, the server's own time ends the lease.
            let _ = state.connection.client.publish(ack, GIVEN_BACK).await;
        }
        for (queue, kept) in due.keep {
            // A server that is slow to confirm must not hold up what ends meanwhile.
            tokio::spawn(keep_on(Arc::clone(&state), queue, kept));
        }
        drop(state);

        let next = due.next.unwrap_or_else(|| Instant::now() + IDLE);
        tokio::select! {
            () = sleep_until(next) => {}
            () = leases.changed.notified() => {}
        }
    }
}

/// Keeps leases of one queue with the server.
async fn keep_on(state: Arc<State>, queue: QueueName, kept: Vec<(Key, Subject)>) {
    match state.renew(&kept, None).await {
        Err(error) if error.kind() == ErrorKind::QueueMissing => {
            state.leases.void(&queue);
            state.forget(&queue);
        }
        // It is asked for again while the lease lasts.
        _ => {}
    }
    state.leases.changed.notify_one();
}

impl State {
    fn due(&self) -> Due {
        let now = Instant::now();
        let mut due = Due::default();
        self.leases.held().retain(|key, held| {
            if held.is_settling {
                return true;
            }
            if !held.is_live(now) {
                if held.server_ends.saturating_duration_since(now) > MARGIN {
                    due.give_back.push(held.message.ack.clone());
                }
                return false;
            }

            // A lease that ends before the server's time needs no word.
            let is_short = held.ends <= held.server_ends;
            let mut next = if is_short { held.ends } else { held.renew_at() };
            if !is_short && next <= now {
                let kept = due.keep.entry(key.0.clone()).or_default();
                kept.push((key.clone(), held.message.ack.clone()));
                held.renew_again_at = now + PAUSE;
                next = held.renew_again_at;
            }
            due.next = Some(due.next.map_or(next, |earlier| earlier.min(next)));
            true
        });
        due
    }

    /// Says "in progress" for messages, and notes until when the server keeps them. With `ttl`, their
    /// workers have them for so long, too.
    pub(crate) async fn renew(
        &self,
        leases: &[(Key, Subject)],
        ttl: Option<Duration>,
    ) -> Result<()> {
        let asked = Instant::now();
        let acks = leases.iter().map(|(_, ack)| ack.clone()).collect();
        self.say(acks, IN_PROGRESS).await?;

        let mut all = self.leases.held();
        for (key, _) in leases {
            if let Some(held) = all.get_mut(key) {
                held.server_ends = asked + held.ack_wait;
                if let Some(ttl) = ttl {
                    held.ends = ends_after(asked, ttl);
                }
            }
        }
        Ok(())
    }

    /// Says a word on messages of one queue, and waits until the server has taken all of them.
    ///
    /// The server takes the words of one connection in their order, so only the last one is confirmed. If the
    /// connection changed meanwhile, some of them may be lost, and that is a failure.
    pub(crate) async fn say(&self, mut acks: Vec<Subject>, word: Bytes) -> Result<()> {
        let Some(last) = acks.pop() else {
            return Ok(());
        };
        let client = &self.connection.client;
        let before = client.server_info();
        let said = async {
            for ack in acks {
                client
                    .publish(ack, word.clone())
                    .await
                    .map_err(|error| self.unsaid(error))?;
            }
            let confirmed = client.request(last, word.clone()).await;
            confirmed.map_err(|error| match error.kind() {
                RequestErrorKind::NoResponders => {
                    let text = "the queue's stream is gone, and its messages with it";
                    Error::new(ErrorKind::QueueMissing, text)
                }
                _ => self.unsaid(error),
            })
        };

        let limit = timeout(ANSWER_LIMIT, said).await;
        limit.map_err(|error| self.unsaid(error))??;
        let after = client.server_info();
        if (before.server_id, before.client_id) != (after.server_id, after.client_id) {
            return Err(self.unsaid("the connection was lost meanwhile"));
        }
        Ok(())
    }

    fn unsaid(&self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        let address = self.address();
        let text = format!("the NATS server at {address} did not confirm what became of messages");
        Error::new(ErrorKind::Transient, text).with_source(why)
    }
}

/// A time from now on; very far away if there is no such moment.
pub(crate) fn ends_after(now: Instant, time: Duration) -> Instant {
    const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
    now + time.min(LONGEST)
}
