//! The tables of subscriptions, and of the applications that own or publish a type of event.

use ezq_core::engine::{EventParty, EventRole, QueueSubscription};
use ezq_core::event::Pattern;
use ezq_core::message::QueueName;
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::message::encoding::{self, Encoding};
use crate::wake::feeds::CHANNEL;

const SUBSCRIBE: &str = "
    INSERT INTO ezq.subscriptions (app, queue, pattern)
    SELECT $1, $2, p FROM unnest($3::text[]) p ORDER BY p COLLATE \"C\"
    ON CONFLICT DO NOTHING";
/// Rows are locked in the order in which every other statement locks them.
const UNSUBSCRIBE: &str = "
    WITH goes AS MATERIALIZED (
      SELECT s.pattern, s.queue, s.app
      FROM ezq.subscriptions s JOIN unnest($2::text[], $3::text[]) w(queue, pattern)
        ON s.queue = w.queue COLLATE \"C\" AND s.pattern = w.pattern COLLATE \"C\"
      WHERE s.app = $1 ORDER BY s.pattern, s.queue FOR UPDATE OF s)
    DELETE FROM ezq.subscriptions s USING goes g
    WHERE (s.pattern, s.queue, s.app) = (g.pattern, g.queue, g.app)";
const LIST: &str = "
    SELECT app, queue, pattern, since, to_regclass('pgmq.' || quote_ident('q_' || queue)) IS NOT NULL AS queue_exists
    FROM ezq.subscriptions ORDER BY queue, pattern, app";
const RECORD: &str = "
    INSERT INTO ezq.event_parties (event_type, role, app)
    SELECT t, r, a FROM unnest($1::text[], $2::text[], $3::text[]) p(t, r, a) ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING";
const PARTIES: &str = "
    SELECT event_type, role, app FROM ezq.event_parties
    WHERE ($1::text IS NULL OR event_type = $1) AND ($2::text IS NULL OR app = $2)
    ORDER BY event_type, role, app";
const FORGET: &str = "
    WITH goes AS MATERIALIZED (
      SELECT p.event_type, p.role, p.app
      FROM ezq.event_parties p JOIN unnest($1::text[], $2::text[], $3::text[]) w(event_type, role, app)
        ON (p.event_type, p.role, p.app)
           = (w.event_type COLLATE \"C\", w.role COLLATE \"C\", w.app COLLATE \"C\")
      ORDER BY 1, 2, 3 FOR UPDATE OF p)
    DELETE FROM ezq.event_parties p USING goes g
    WHERE (p.event_type, p.role, p.app) = (g.event_type, g.role, g.app)";

/// Subscribes a queue to patterns. Returns how many subscriptions are new.
pub(crate) async fn subscribe(
    connection: &mut PgConnection,
    app: &str,
    queue: &QueueName,
    patterns: &[&str],
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(SUBSCRIBE)
        .bind(app)
        .bind(queue.as_str())
        .bind(patterns)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Tells listeners that captures may feed another queue.
pub(crate) async fn announce(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_notify($1, '')")
        .bind(CHANNEL)
        .execute(connection)
        .await
        .map(drop)
}

/// Removes subscriptions, pair by pair. Returns how many there were.
pub(crate) async fn unsubscribe(
    connection: &mut PgConnection,
    app: &str,
    queues: &[&str],
    patterns: &[&str],
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(UNSUBSCRIBE)
        .bind(app)
        .bind(queues)
        .bind(patterns)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// All subscriptions.
pub(crate) async fn list(
    connection: &mut PgConnection,
) -> Result<Vec<QueueSubscription>, sqlx::Error> {
    let rows = sqlx::query(LIST).fetch_all(connection).await?;
    rows.iter().map(subscription).collect()
}

/// Parties column by column, as statements bind them.
pub(crate) struct PartyColumns<'a> {
    types: Vec<&'a str>,
    roles: Vec<&'a str>,
    apps: Vec<std::borrow::Cow<'a, str>>,
}

impl<'a> PartyColumns<'a> {
    pub(crate) fn of(parties: &'a [EventParty], encoding: Encoding) -> Self {
        let types = parties.iter().map(|party| party.event_type.as_str());
        let roles = parties.iter().map(|party| role(party.role));
        let apps = parties.iter().map(|party| encoding.name(&party.app));
        Self {
            types: types.collect(),
            roles: roles.collect(),
            apps: apps.collect(),
        }
    }
}

/// Records parties.
pub(crate) async fn record(
    connection: &mut PgConnection,
    parties: &PartyColumns<'_>,
) -> Result<u64, sqlx::Error> {
    change_parties(connection, RECORD, parties).await
}

/// Removes parties. Returns how many there were.
pub(crate) async fn forget(
    connection: &mut PgConnection,
    parties: &PartyColumns<'_>,
) -> Result<u64, sqlx::Error> {
    change_parties(connection, FORGET, parties).await
}

async fn change_parties(
    connection: &mut PgConnection,
    statement: &'static str,
    parties: &PartyColumns<'_>,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(statement)
        .bind(&parties.types)
        .bind(&parties.roles)
        .bind(&parties.apps)
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// The parties of a type of event, of an application, or all of them.
pub(crate) async fn parties(
    connection: &mut PgConnection,
    event_type: Option<&str>,
    app: Option<&str>,
) -> Result<Vec<EventParty>, sqlx::Error> {
    let rows = sqlx::query(PARTIES)
        .bind(event_type)
        .bind(app)
        .fetch_all(connection)
        .await?;
    rows.iter().map(party).collect()
}

fn party(row: &PgRow) -> Result<EventParty, sqlx::Error> {
    let role = match row.try_get("role")? {
        "owner" => EventRole::Owner,
        _ => EventRole::Publisher,
    };
    let event_type: &str = row.try_get("event_type")?;
    Ok(EventParty::new(
        event_type,
        role,
        original(row.try_get("app")?),
    ))
}

fn role(role: EventRole) -> &'static str {
    match role {
        EventRole::Owner => "owner",
        _ => "publisher",
    }
}

fn subscription(row: &PgRow) -> Result<QueueSubscription, sqlx::Error> {
    let pattern: &str = row.try_get("pattern")?;
    let pattern = Pattern::new(pattern).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let app = original(row.try_get("app")?);
    let queue: &str = row.try_get("queue")?;
    let queue = QueueName::new(queue).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;

    let mut subscription = QueueSubscription::new(&app, &queue, &pattern, row.try_get("since")?);
    subscription.queue_exists = row.try_get("queue_exists")?;
    Ok(subscription)
}

/// The name of an application as it was given.
fn original(written: &str) -> String {
    encoding::original(written).into_owned()
}
