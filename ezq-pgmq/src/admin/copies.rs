//! Stored messages as copies of events: in a queue, its archive, or its dead letters.

use chrono::{DateTime, Utc};
use ezq_core::engine::{CopyState, Death, EventCopy};
use ezq_core::message::QueueName;
use ezq_core::message::headers::DEAD;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::message::{headers, receipts};

/// The copy in a row with these columns: `place` (`q` for the queue, `a` for its archive, `d` for its dead
/// letters), `msg_id`, `read_ct`, `enqueued_at`, `at` (when it is due, or came there), `event_type`,
/// `headers`, `body` and `now`.
pub(crate) fn copy(queue: &QueueName, row: &PgRow) -> Result<EventCopy, sqlx::Error> {
    let headers = headers::read(row.try_get("headers")?);
    let id = receipts::message_id(row)?;
    let stored_at: DateTime<Utc> = row.try_get("enqueued_at")?;
    let at: DateTime<Utc> = row.try_get("at")?;
    let read_ct: i32 = row.try_get("read_ct")?;
    let deliveries = u32::try_from(read_ct).unwrap_or(0);

    let copy = |id, stored_at, state, deliveries| {
        EventCopy::new(queue, id, stored_at, &headers, state).deliveries(deliveries)
    };

    let copy = match row.try_get("place")? {
        "q" => {
            let state = CopyState::of(at, deliveries, &headers, row.try_get("now")?);
            copy(id, stored_at, state, deliveries)
        }
        "a" => copy(id, stored_at, CopyState::Archived { at }, deliveries),
        _ => {
            let death = headers.value(DEAD).map(Death::read).unwrap_or_default();
            let original = receipts::original(&death).unwrap_or_else(|| id.clone());
            let at = death.died_at.unwrap_or(at);
            let reason = death.reason;
            let state = CopyState::Dead {
                letter: id,
                at,
                reason,
            };

            let stored_at = death.enqueued_at.unwrap_or(stored_at);
            copy(original, stored_at, state, death.deliveries.unwrap_or(0))
        }
    };

    let event_type: Option<String> = row.try_get("event_type")?;
    let body: Option<String> = row.try_get("body")?;
    Ok(copy.event_type(event_type).body(body))
}
