//! What surrounds one run of one handler.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::engine::{MessageId, Receipt, UnitOfWork};
use crate::event::envelope::Envelope;
use crate::event::means;
use crate::message::headers::{Headers, TRACEPARENT};
use crate::publish::publisher::{Publisher, Services};
use crate::publish::transaction::Transaction;
use crate::{
    Error, ErrorKind, Event, EventDescriptor, HandlerError, HandlerName, QueueName, Result, Tick,
};

/// A worker's own view of its lease, on its own monotonic clock.
#[derive(Debug)]
pub(crate) struct Lease {
    start: Instant,
    ttl: Duration,
    /// Milliseconds from `start`.
    expires: AtomicU64,
    renewal: Notify,
    cancel: CancellationToken,
    /// A handler's transaction is about to settle the delivery: a renewal has nothing to say.
    settling: AtomicBool,
    /// The receipt of a newer delivery of the message that came to this worker itself.
    newer: Mutex<Option<Receipt>>,
}

impl Lease {
    /// A lease that runs for `ttl` from `start`, the time before the claim was sent.
    pub(crate) fn new(start: Instant, ttl: Duration) -> Self {
        Self {
            start,
            ttl,
            expires: AtomicU64::new(millis(ttl)),
            renewal: Notify::new(),
            cancel: CancellationToken::new(),
            settling: AtomicBool::new(false),
            newer: Mutex::default(),
        }
    }

    /// Notes that it was renewed for `ttl` from `now`, the time before the renewal was sent.
    pub(crate) fn renewed(&self, now: Instant, ttl: Duration) {
        self.expires.store(
            millis(now.duration_since(self.start).saturating_add(ttl)),
            Ordering::Relaxed,
        );
        self.renewal.notify_waiters();
    }

    /// When the newest renewal, or the claim, was sent.
    pub(crate) fn since(&self) -> Instant {
        let expires = Duration::from_millis(self.expires.load(Ordering::Relaxed));
        self.start + expires.saturating_sub(self.ttl)
    }

    /// Whether it has run out by this worker's own clock.
    pub(crate) fn is_expired(&self) -> bool {
        Instant::now() >= self.start + Duration::from_millis(self.expires.load(Ordering::Relaxed))
    }

    /// Waits while it has run out, until it is renewed or lost: a claim of this worker itself may be
    /// about to take the delivery, and a transaction could not go on under the newer receipt. After
    /// the time in which a renewal comes it waits no longer.
    pub(crate) async fn revived(&self) {
        if !self.is_expired() {
            return;
        }
        let revived = async {
            loop {
                let renewed = self.renewal.notified();
                if !self.is_expired() {
                    return;
                }
                renewed.await;
            }
        };
        tokio::select! {
            _ = timeout(self.ttl / 3, revived) => {}
            () = self.cancel.cancelled() => {}
        }
    }

    /// Says whether a handler's transaction settles the delivery just now.
    pub(crate) fn set_settling(&self, settling: bool) {
        self.settling.store(settling, Ordering::Release);
    }

    pub(crate) fn is_settling(&self) -> bool {
        self.settling.load(Ordering::Acquire)
    }

    /// Goes on under a newer receipt.
    pub(crate) fn go_on_as(&self, receipt: Receipt, first: &Receipt) {
        let mut newer = self.newer.lock().unwrap_or_else(PoisonError::into_inner);
        let receipt = receipt.covering(newer.as_ref().unwrap_or(first));
        *newer = Some(receipt);
    }

    /// The receipt that settles, of a delivery that came with this one.
    pub(crate) fn newest(&self, first: &Receipt) -> Receipt {
        self.newer().unwrap_or_else(|| first.clone())
    }

    /// The receipt that settles, where it is not the one with which the delivery came.
    pub(crate) fn newer(&self) -> Option<Receipt> {
        self.newer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

/// A delivery whose body was read.
#[derive(Debug)]
pub struct Received {
    pub(crate) envelope: Envelope,
    pub(crate) queue: QueueName,
    pub(crate) receipt: Receipt,
    pub(crate) headers: Headers,
    pub(crate) deliveries: u32,
    pub(crate) enqueued_at: DateTime<Utc>,
    pub(crate) lease: Arc<Lease>,
    /// What the spans of its handlers are children of: that of an inline dispatch, which awaits
    /// them. A consumer has none: the span it was started in may last as long as the process.
    pub(crate) parent: Span,
}

impl Received {
    /// The W3C trace context it came with, if it is one: a header may hold any text.
    pub(crate) fn traceparent(&self) -> Option<&str> {
        let text = self.headers.text(TRACEPARENT)?;
        let is_hex = text
            .split('-')
            .flat_map(str::bytes)
            .all(|byte| byte.is_ascii_hexdigit());
        // Version, trace id, parent id, flags.
        (is_hex && text.split('-').map(str::len).eq([2, 32, 16, 2])).then_some(text)
    }

    /// Whether it is an event of this type, of whatever version.
    pub(crate) fn is<E: Event>(&self) -> bool {
        means::<E>(self.envelope.event_type())
    }

    /// Which of these types it is to be read as, by its place among them: the one of its own
    /// version, else the next newer one, else the newest, which tells that it is too old.
    #[must_use]
    pub fn choose(&self, types: &[EventDescriptor]) -> Option<usize> {
        let name = self.envelope.event_type();
        let version = self.envelope.version().unwrap_or(u32::MAX);
        let distance = |event: &EventDescriptor| match event.version.checked_sub(version) {
            Some(newer) => (false, newer),
            None => (true, version.saturating_sub(event.version)),
        };
        let named = types
            .iter()
            .enumerate()
            .filter(|(_, event)| event.matches(name));
        named
            .min_by_key(|(_, event)| distance(event))
            .map(|(place, _)| place)
    }

    /// What settles it now.
    pub(crate) fn newest_receipt(&self) -> Receipt {
        self.lease.newest(&self.receipt)
    }

    /// How often it was delivered without being settled, this time included.
    pub(crate) fn unsettled_deliveries(&self) -> u32 {
        self.deliveries.saturating_sub(self.headers.returned())
    }

    /// Reads it as an event of this type.
    ///
    /// # Errors
    /// A fatal error when the data has another shape; one of its own when it is of a newer version.
    pub fn decode<E: Event>(&self) -> Result<E, HandlerError> {
        self.envelope.decode().map_err(|error| match error.kind() {
            ErrorKind::NewerVersion => HandlerError::newer_version(error),
            _ => HandlerError::undecodable(error),
        })
    }

    /// Reads a schedule's tick.
    pub(crate) fn tick(&self) -> Result<Tick, HandlerError> {
        let name = self.envelope.event_type();
        self.envelope
            .decode_data(name)
            .map_err(HandlerError::undecodable)
    }

    /// What to answer for an event that no variant takes.
    #[must_use]
    pub fn unexpected(&self) -> HandlerError {
        let name = self.envelope.event_type();
        HandlerError::undecodable(Error::new(
            ErrorKind::UnknownVariant,
            format!("no variant takes `{name}`"),
        ))
    }
}

/// What a handler may know about its delivery: ids, attempt, deadline, cancellation.
///
/// ```
/// use ezq_core::Context;
///
/// async fn handle(context: &Context) {
///     println!("attempt {} of {}", context.attempt(), context.event_id());
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    pub(crate) received: Arc<Received>,
    pub(crate) handler: HandlerName,
    pub(crate) attempt: u32,
    pub(crate) deadline: Option<Instant>,
}

impl Context {
    /// The event's id; the same on every delivery, fit to be an idempotency key.
    #[must_use]
    pub fn event_id(&self) -> &str {
        self.received.envelope.id()
    }

    /// The event's type name.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.received.envelope.event_type()
    }

    /// The event with all its attributes.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.received.envelope
    }

    /// The queue it came from.
    #[must_use]
    pub fn queue(&self) -> &QueueName {
        &self.received.queue
    }

    /// The message's id in that queue.
    #[must_use]
    pub fn message_id(&self) -> &MessageId {
        self.received.receipt.message_id()
    }

    /// The message's headers, as they were when it was delivered.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.received.headers
    }

    /// The name of the handler that runs.
    #[must_use]
    pub fn handler(&self) -> &HandlerName {
        &self.handler
    }

    /// Which attempt of this handler it is, from 1. An attempt that a crash cut short is not
    /// counted and runs again under the same number.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How often the message was delivered, this time included.
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.received.deliveries
    }

    /// When the message was stored, on the engine's clock.
    #[must_use]
    pub fn enqueued_at(&self) -> DateTime<Utc> {
        self.received.enqueued_at
    }

    /// When the handler's timeout ends it; `None` if it has none.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether, by this worker's own clock, the lease has run out without being renewed, as when
    /// the database does not answer. Another worker may take the event over: hold back what must
    /// not happen twice.
    #[must_use]
    pub fn is_lease_expired(&self) -> bool {
        self.received.lease.is_expired()
    }

    /// A token that fires when the handler is to stop: its lease is lost, or the consumer was
    /// interrupted. The handler's future is dropped at its next `.await`; hand the token to what it
    /// spawned. Each call gives a child of its own: to cancel it stops what listens to it, and
    /// changes nothing for the event.
    #[must_use]
    pub fn cancellation(&self) -> CancellationToken {
        self.received.lease.cancel().child_token()
    }
}

/// One run of one handler: what extractors draw from.
#[derive(Debug, Clone)]
pub struct Call {
    pub(crate) context: Context,
    pub(crate) services: Arc<Services>,
    pub(crate) transaction: Option<Arc<Transaction>>,
    /// It handles one event, which is the cause of what it publishes.
    pub(crate) is_single: bool,
}

impl Call {
    /// What surrounds the run.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// A publisher whose events name this one as their cause; for a batch, none.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        let publisher = if self.is_single {
            Publisher::caused_by(&self.services, &self.context.received)
        } else {
            Publisher::new(Arc::clone(&self.services))
        };
        publisher.within(self.transaction.as_ref())
    }

    /// Shows the handler's transaction to its engine's extractor: `None` unless one of the
    /// handler's extractors says that it [needs](crate::Extract::TRANSACTION) it.
    pub fn unit_of_work<R>(&self, show: impl FnOnce(&mut dyn UnitOfWork) -> R) -> Option<R> {
        self.transaction
            .as_ref()
            .and_then(|transaction| transaction.with(show))
    }

    /// The application's state of a type, if it was given one.
    #[must_use]
    pub fn state<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        self.services.states.find()
    }
}
