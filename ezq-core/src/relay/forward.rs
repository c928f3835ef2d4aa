//! One batch on its way to the broker.
//!
//! A call that fails as a whole says that the broker is sick. The batch then waits here, leased, and is
//! sent again: nothing is written for it. After [`PATIENCE`] its events are put off, so that a consumer
//! that is to stop need not wait for the broker. Neither counts an attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::broker::{Outbound, SendOutcome, Sink};
use crate::delivery::received::Received;
use crate::error::{Error, ErrorKind, Result, error_chain};

use crate::handler::{Batch, FromEvent, HandlerError, Subscription};
use crate::logging::warn;
use crate::relay::pace::Pace;
use crate::relay::topics::Topics;

/// How long a batch waits for a sick broker before its events are put off.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause before a batch is sent again. It doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an event is put off that was not stored.
const PUT_OFF: Duration = Duration::from_secs(5);

/// An event of any type. The relay reads it from the context, so it is not copied twice.
pub(super) struct Relayed;

impl FromEvent for Relayed {
    fn subscription() -> Subscription {
        Subscription::All
    }

    fn from_event(_: &Received) -> Result<Self, HandlerError> {
        Ok(Self)
    }
}

/// What a relay does with its batches.
pub(super) struct Forward {
    pub(super) queue: String,
    pub(super) sink: Arc<dyn Sink>,
    pub(super) topics: Topics,
    pub(super) pace: Option<Pace>,
    pub(super) send_timeout: Duration,
    /// The last call failed as a whole.
    pub(super) is_failing: AtomicBool,
}

impl Forward {
    /// Sends a batch; one result for each event.
    pub(super) async fn run(&self, batch: &Batch<Relayed>) -> Vec<Result<(), HandlerError>> {
        let messages: Vec<Outbound> = batch
            .iter()
            .map(|item| {
                let envelope = item.context.envelope();
                let message = Outbound::new(self.topics.of(envelope), envelope.clone());
                let message = message.with_stored(item.context.received().body.clone());
                message.with_headers(item.context.headers())
            })
            .collect();
        if let Some(pace) = &self.pace {
            pace.wait_for(messages.len()).await;
        }

        // The leases are renewed meanwhile. If one is lost, the handler is cancelled, and what was sent by
        // then is sent again by whoever has the lease: at least once.
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.send(&messages).await {
                Ok(outcomes) => {
                    self.note_recovery();
                    return outcomes.into_iter().map(|one| self.conclude(one)).collect();
                }
                Err(error) => self.note_failure(&error),
            }
            // Nobody tells a handler that its consumer drains, so it may not wait for ever.
            if began.elapsed() >= PATIENCE {
                return put_off(messages.len());
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Sends a batch once; one outcome for each message. A batch of which nothing was stored and nothing
    /// refused is a failure of the call.
    async fn send(&self, messages: &[Outbound]) -> Result<Vec<SendOutcome>> {
        let limit = self.sink.capabilities().max_message;
        let is_too_large = |message: &Outbound| {
            let data = message.envelope().data().map_or(0, str::len);
            limit.is_some_and(|limit| data > limit)
        };
        if !messages.iter().any(is_too_large) {
            return self.send_all(messages).await;
        }

        // Some brokers cut the connection on such a message, which would fail the whole batch for ever.
        let sent: Vec<Outbound> = messages
            .iter()
            .filter(|message| !is_too_large(message))
            .cloned()
            .collect();
        let answered = match sent.is_empty() {
            true => Vec::new(),
            false => self.send_all(&sent).await?,
        };
        let mut answered = answered.into_iter();
        let outcomes = messages.iter().map(|message| match is_too_large(message) {
            true => SendOutcome::Rejected(too_large(message, limit.unwrap_or_default())),
            false => answered.next().unwrap_or(SendOutcome::Sent),
        });
        Ok(outcomes.collect())
    }

    async fn send_all(&self, messages: &[Outbound]) -> Result<Vec<SendOutcome>> {
        let name = self.sink.capabilities().name;
        let sent = timeout(self.send_timeout, self.sink.send(messages)).await;
        let mut outcomes = sent.map_err(|_| {
            let limit = self.send_timeout;
            let text = format!("the sink `{name}` did not answer within {limit:?}");
            Error::new(ErrorKind::Transient, text)
        })??;

        if outcomes.len() != messages.len() {
            let text = format!(
                "the sink `{name}` answered {} outcomes for {} messages: it must answer one for each",
                outcomes.len(),
                messages.len()
            );
            return Err(Error::new(ErrorKind::Engine, text));
        }
        // A broker that is out of memory answers each message by itself, and is as sick as one that is away.
        let all_failed = outcomes
            .iter()
            .all(|outcome| matches!(outcome, SendOutcome::Failed(_)));
        match outcomes.pop() {
            Some(SendOutcome::Failed(error)) if all_failed => Err(error),
            last => {
                outcomes.extend(last);
                Ok(outcomes)
            }
        }
    }

    fn conclude(&self, outcome: SendOutcome) -> Result<(), HandlerError> {
        match outcome {
            SendOutcome::Sent => Ok(()),
            SendOutcome::Rejected(error) => Err(HandlerError::fatal(error)),
            SendOutcome::Failed(error) => {
                let queue = &self.queue;
                let error = error_chain(&error);
                warn!(queue, error = %error, "an event was not stored by the broker: it is sent again");
                Err(HandlerError::snooze(PUT_OFF))
            }
        }
    }

    /// Logs the first failure of an outage.
    fn note_failure(&self, error: &Error) {
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            let queue = &self.queue;
            let sink = self.sink.capabilities().name;
            let error = error_chain(error);
            warn!(queue, sink, error = %error, "the broker takes no events: they wait in their queue");
        }
    }

    fn note_recovery(&self) {
        if self.is_failing.swap(false, Ordering::Relaxed) {
            let queue = &self.queue;
            let sink = self.sink.capabilities().name;
            tracing::info!(queue, sink, "the broker takes events again");
        }
    }
}

fn too_large(message: &Outbound, limit: usize) -> Error {
    let data = message.envelope().data().map_or(0, str::len);
    let text = format!("the event has {data} bytes of data, and the broker takes {limit} at most");
    Error::new(ErrorKind::TooLarge, text)
}

fn put_off(count: usize) -> Vec<Result<(), HandlerError>> {
    (0..count)
        .map(|_| Err(HandlerError::snooze(PUT_OFF)))
        .collect()
}
