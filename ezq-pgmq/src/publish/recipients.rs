//! The queues that got a copy of earlier broadcasts, so that the next one is a statement that names them.
//!
//! The statement compares the queues with who is subscribed when it runs, and stores nothing if they
//! differ. So what is known here may be outdated, but nobody is left out for that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ezq_core::engine::PublishOutcome;
use ezq_core::message::QueueName;

use crate::sql;

/// Types beyond so many are not known: a program that makes up types must not fill its memory.
const MOST_TYPES: usize = 1000;
/// An event for more queues is stored by the function, whose statement does not grow with them.
const MOST_QUEUES: usize = 100;

/// The recipients by type, sorted.
#[derive(Default)]
pub(crate) struct Recipients(Mutex<HashMap<String, Arc<[QueueName]>>>);

impl Recipients {
    pub(crate) fn of(&self, event_type: &str) -> Option<Arc<[QueueName]>> {
        self.types().get(event_type).cloned()
    }

    /// Notes who got a copy, if that is everyone who was to get one.
    pub(crate) fn learn(&self, event_type: &str, copies: &[(QueueName, PublishOutcome)]) {
        let are_all_stored = copies
            .iter()
            .all(|(_, outcome)| matches!(outcome, PublishOutcome::Stored(_)));
        let mut types = self.types();
        if copies.is_empty() || copies.len() > MOST_QUEUES || !are_all_stored {
            types.remove(event_type);
            return;
        }

        if types.len() >= MOST_TYPES && !types.contains_key(event_type) {
            types.clear();
        }
        let mut queues: Vec<QueueName> = copies.iter().map(|(queue, _)| queue.clone()).collect();
        queues.sort();
        types.insert(event_type.to_owned(), queues.into());
    }

    pub(crate) fn forget(&self, event_type: &str) {
        self.types().remove(event_type);
    }

    fn types(&self) -> MutexGuard<'_, HashMap<String, Arc<[QueueName]>>> {
        // Each step leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Stores a copy in each of these queues, if they are those that are subscribed. Answers with the place
/// and the id of each copy.
///
/// `$1` is the type, `$2` the names of the queues, `$3` the body, `$4` the headers, `$5` the delay in
/// microseconds, `$6` the earliest due time. `subscribed` is what the function `ezq.recipients` returns.
pub(crate) fn statement(queues: &[QueueName]) -> String {
    let due =
        "greatest(pg_catalog.clock_timestamp() + $5::bigint * interval '1 us', $6::timestamptz)";
    let enqueued_at = sql::bounded("c.enqueued_at");
    let mut inserts = String::new();
    let mut answers = Vec::with_capacity(queues.len());
    for (place, queue) in queues.iter().enumerate() {
        let table = sql::table(queue);
        inserts += &format!(
            ",
             copy_{place} AS (
               INSERT INTO {table} AS c (vt, message, headers)
               SELECT {due}, ($3::text)::jsonb, ($4::text)::jsonb FROM agreed
               RETURNING c.msg_id, {enqueued_at} AS enqueued_at)"
        );
        answers.push(format!(
            "SELECT {place}::bigint AS place, msg_id, enqueued_at FROM copy_{place}"
        ));
    }

    format!(
        "WITH subscribed AS (
           SELECT s.queue FROM ezq.subscriptions s WHERE s.pattern = $1
           UNION
           SELECT s.queue FROM ezq.subscriptions s
           WHERE s.regex IS NOT NULL AND '.' || $1 ~ s.regex),
         agreed AS MATERIALIZED (
           SELECT FROM (SELECT array_agg(s.queue ORDER BY s.queue) AS queues FROM subscribed s) a
           WHERE a.queues = $2::text[]){inserts}
         {}",
        answers.join(" UNION ALL ")
    )
}
