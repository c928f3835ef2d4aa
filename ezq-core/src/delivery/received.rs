//! A delivery whose body was read.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use tracing::Span;

use crate::delivery::lease::Lease;
use crate::engine::Receipt;
use crate::event::envelope::Envelope;
use crate::event::{Event, EventDescriptor, means};
use crate::message::headers::{Headers, TRACEPARENT};
use crate::message::queue_name::QueueName;

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
}
