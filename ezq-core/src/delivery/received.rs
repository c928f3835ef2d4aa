//! A delivery whose body is decoded. It owns the receipt.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tracing::Span;

use crate::clock::EngineClock;
use crate::delivery::lease::Lease;
use crate::engine::{Delivery, Position, Receipt};
use crate::event::envelope::Envelope;
use crate::event::{Event, EventDescriptor, means};
use crate::message::headers::{Headers, TRACEPARENT};
use crate::message::queue_name::QueueName;

/// A delivery whose body is decoded, as handlers and event sets see it.
#[derive(Debug)]
pub struct Received {
    pub(crate) envelope: Envelope,
    /// Its body, if that is the whole event in structured mode and a relay may send it.
    pub(crate) body: Option<Arc<String>>,
    pub(crate) queue: QueueName,
    pub(crate) receipt: Receipt,
    pub(crate) headers: Headers,
    pub(crate) deliveries: u32,
    pub(crate) enqueued_at: DateTime<Utc>,
    /// When it became readable; with the id, its place in the queue.
    pub(crate) due: DateTime<Utc>,
    pub(crate) clock: EngineClock,
    pub(crate) lease: Arc<Lease>,
    /// The parent of its handlers' spans. An inline dispatch awaits its handlers, so its own span is the
    /// parent. A consumer has none: the span it was started in may last as long as the process.
    pub(crate) parent: Span,
}

impl Received {
    /// A delivery with its decoded event.
    pub(crate) fn new(
        delivery: Delivery,
        envelope: Envelope,
        queue: QueueName,
        lease: Arc<Lease>,
    ) -> Self {
        Self {
            envelope,
            body: None,
            queue,
            receipt: delivery.receipt,
            headers: delivery.headers,
            deliveries: delivery.deliveries,
            enqueued_at: delivery.enqueued_at,
            due: delivery.due,
            clock: EngineClock {
                at: delivery.leased_at,
                read: Instant::now(),
            },
            lease,
            parent: Span::none(),
        }
    }

    /// Its place in the queue.
    pub(crate) fn position(&self) -> Position {
        Position {
            due: self.due,
            message_id: self.receipt.message_id().clone(),
        }
    }

    /// The W3C trace context in its headers. `None` if it has none, or the header holds other text.
    pub(crate) fn traceparent(&self) -> Option<&str> {
        let text = self.headers.text(TRACEPARENT)?;
        let is_hex = text
            .split('-')
            .flat_map(str::bytes)
            .all(|byte| byte.is_ascii_hexdigit());
        // Version, trace id, parent id, flags.
        (is_hex && text.split('-').map(str::len).eq([2, 32, 16, 2])).then_some(text)
    }

    /// Whether it is an event of type `E`, of any version.
    pub(crate) fn is<E: Event>(&self) -> bool {
        means::<E>(self.envelope.event_type())
    }

    /// Which of `types` the event is to be decoded as; returns its index. That is the type of the event's
    /// own version, else of the next newer version, else of the newest, whose error then says that the
    /// type is too old for the event.
    #[must_use]
    pub fn choose(&self, types: &[EventDescriptor]) -> Option<usize> {
        let name = self.envelope.event_type();
        let version = self.envelope.version().unwrap_or(u32::MAX);
        let named = types
            .iter()
            .enumerate()
            .filter(|(_, event)| event.matches(name));

        let nearest = named.min_by_key(|(_, event)| match event.version.checked_sub(version) {
            Some(newer) => (false, newer),
            None => (true, version.saturating_sub(event.version)),
        });
        nearest.map(|(index, _)| index)
    }

    /// The receipt that settles it now.
    pub(crate) fn newest_receipt(&self) -> Receipt {
        self.lease.newest(&self.receipt)
    }

    /// How often it was delivered without being settled, this delivery included.
    pub(crate) fn unsettled_deliveries(&self) -> u32 {
        self.deliveries.saturating_sub(self.headers.returned())
    }
}
