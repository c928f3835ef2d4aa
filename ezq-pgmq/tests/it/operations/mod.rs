//! Operations on all events that match: several operators, operators that die, rows that vanish or are
//! locked, and roles that lack rights.

mod locked;
mod operators;
mod recording;
mod rights;
mod selecting;

use ezq_core::admin::{EventFilter, EventState};
use ezq_core::app::App;
use ezq_core::engine::{AuditEntry, Engine as _, Operation};
use ezq_core::message::QueueName;
use ezq_pgmq::PgmqEngine;
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

/// An application that handles nothing: an operator's.
async fn application(url: &str) -> App {
    application_of(engine_at(url).await)
}

fn application_of(engine: PgmqEngine) -> App {
    let builder = App::builder().without_discovered_handlers();
    builder.build(engine).unwrap()
}

/// A database of the test's own, with a queue that has so many dead letters.
struct Stage {
    url: String,
    app: App,
    queue: QueueName,
    own: PgConnection,
}

impl Stage {
    async fn new(dead: u64) -> Self {
        let url = fresh_database().await;
        let engine = engine_at(&url).await;
        let queue = unique("q");
        engine.ensure_queue(&queue).await.unwrap();
        let mut own = PgConnection::connect(&url).await.unwrap();
        bury(&mut own, &queue, dead).await;
        let app = application_of(engine);
        Self {
            url,
            app,
            queue,
            own,
        }
    }

    /// Another connection.
    async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }
}

/// Stores dead letters with the numbers from 1 to `count`.
async fn bury(own: &mut PgConnection, queue: &QueueName, count: u64) {
    let insert = format!(
        "INSERT INTO pgmq.q_{queue}_dlq (vt, message, headers)
         SELECT now(),
           jsonb_build_object('specversion', '1.0', 'id', n::text, 'source', '/s',
             'type', 'order.paid', 'data', jsonb_build_object('n', n)),
           jsonb_build_object('x-pgmq-group', 'k-' || n, 'ezq-dead', jsonb_build_object(
             'died_at', '2026-01-01T00:00:00Z', 'reason', jsonb_build_object(
               'kind', 'fatal', 'attempts', 1, 'handler', 'mail', 'error', 'no route ' || n)))
         FROM generate_series(1, {count}) n"
    );
    run(own, &insert).await;
}

/// How many messages a queue has, and how many different numbers they have.
async fn stored_numbers(own: &mut PgConnection, queue: &QueueName) -> (i64, i64) {
    let count = |what: &str| format!("SELECT count({what}) FROM pgmq.q_{queue}");
    let number = "DISTINCT message #>> '{data,n}'";
    (
        scalar(own, &count("*")).await,
        scalar(own, &count(number)).await,
    )
}

async fn dead(own: &mut PgConnection, queue: &QueueName) -> i64 {
    scalar(own, &format!("SELECT count(*) FROM pgmq.q_{queue}_dlq")).await
}

fn counts(operation: &Operation) -> (u64, u64, u64) {
    (operation.done, operation.skipped, operation.failed)
}

/// What is told of a queue, oldest first.
async fn told(app: &App, queue: &QueueName) -> Vec<AuditEntry> {
    let page = app.audit().list().queue(queue).await.unwrap();
    let mut entries = page.entries;
    entries.reverse();
    entries
}

/// A redrive of all dead letters, which has begun and taken no step.
async fn begin(app: &App, queue: &QueueName) -> Operation {
    let events = app.events(queue).unwrap();
    let letters = events.all(EventState::Dead).filter(EventFilter::all());
    let bulk = letters.redrive().by("Ada").reason("the route is back");
    bulk.start().await.unwrap()
}
