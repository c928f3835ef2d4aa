//! Filters on messages and dead letters, as conditions of statements.

use ezq_core::engine::{EventFilter, EventState};
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use crate::message::encoding::Encoding;
use crate::sql;

/// The conditions on a row `q`: its state, apart from whether it is due, and the filter's, whose values are
/// the parameters `$4` to `$12` ([`bind`]). Of the filter's group of errors it is a
/// part of the condition only: the rest is for [`EventFilter::matches`].
pub(crate) fn conditions(state: EventState) -> String {
    let event_type = sql::event_type("q.message", "q.headers");
    let returned = sql::returned("q.headers");
    let state = match state {
        EventState::Leased => format!("q.read_ct > 0 AND {returned} < q.read_ct"),
        EventState::Retrying => format!("q.read_ct > 0 AND {returned} >= q.read_ct"),
        EventState::Scheduled => "q.read_ct = 0".to_owned(),
        _ => "true".to_owned(),
    };
    let newest = "(h.value #>> '{errors,-1,error}')";
    let marks = "SELECT FROM jsonb_each(CASE jsonb_typeof(q.headers) WHEN 'object' THEN q.headers
                       ELSE '{}'::jsonb END) h WHERE starts_with(h.key, 'ezq-h:')";

    let has_error = |text: &str| {
        format!(
            "position({text} IN coalesce(q.headers #>> '{{ezq-dead,reason,error}}', '')) > 0
             OR EXISTS ({marks} AND position({text} IN coalesce({newest}, '')) > 0)"
        )
    };
    let has_part = has_error("$7");
    let has_failed_so = has_error("$10");

    format!(
        "{state}
             AND ($4::text[] IS NULL OR {event_type} = ANY ($4))
             AND ($5::text[] IS NULL OR q.headers ->> 'x-pgmq-group'::text = ANY ($5))
             AND ($6::text IS NULL OR coalesce(q.headers -> $6 ->> 'state'::text, 'done') <> 'done')
             AND ($7::text IS NULL OR {has_part})
             AND ($8::timestamptz IS NULL OR q.enqueued_at >= $8)
             AND ($9::timestamptz IS NULL OR q.enqueued_at < $9)
             AND ($10::text IS NULL OR {has_failed_so})
             AND ($11::text IS NULL OR q.headers #>> '{{ezq-dead,reason,handler}}' = $11)
             AND ($12::text IS NULL OR q.headers #>> '{{ezq-dead,reason,kind}}' = $12)"
    )
}

/// Whether a row `q` is due as messages in a state are. Of dead letters all are.
pub(crate) fn is_due(state: EventState) -> &'static str {
    match state {
        EventState::Dead => "true",
        EventState::Ready => "q.vt <= statement_timestamp()",
        _ => "q.vt > statement_timestamp()",
    }
}

/// Binds the values of a filter. Three are bound before.
pub(crate) fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    filter: &EventFilter,
    encoding: Encoding,
) -> Query<'q, Postgres, PgArguments> {
    let handler = filter.handler.as_ref().map(|handler| {
        let mark = format!("ezq-h:{handler}");
        encoding.name(&mark).into_owned()
    });
    let error = filter.error.as_deref();
    // One value; none if the database cannot hold it, so that nothing matches.
    let one = |value: &Option<String>| -> Option<Vec<String>> {
        let value = value.as_ref()?;
        let held = encoding.may_hold(value).then(|| value.clone());
        Some(held.into_iter().collect())
    };
    query
        .bind(one(&filter.event_type))
        .bind(one(&filter.key))
        .bind(handler)
        .bind(error.map(|text| encoding.text(text).into_owned()))
        .bind(filter.stored_after)
        .bind(filter.stored_before)
        .bind(
            filter
                .failure
                .as_ref()
                .map(|key| encoding.text(key.longest_part()).into_owned()),
        )
        .bind(
            filter
                .died_by
                .as_ref()
                .map(|handler| encoding.name(handler.as_str()).into_owned()),
        )
        .bind(filter.died_of.map(|kind| kind.to_string()))
}
