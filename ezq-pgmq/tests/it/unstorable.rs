//! Texts that a database cannot hold, in what operators ask and do: nothing matches them, or the answer is
//! a typed error. None is an error of the server.

use ezq_core::admin::{Cancel, DeadLetterFilter, EventFilter, EventState};
use ezq_core::app::App;
use ezq_core::engine::Engine as _;
use ezq_core::message::{MessageId, QueueName};
use ezq_core::{ErrorKind, Result};
use ezq_pgmq::PgmqEngine;
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

/// A text with a NUL, and one with a character that LATIN1 lacks.
const TEXTS: [&str; 3] = ["\0", "a\0b", "größe →"];

async fn database(encoding: &str) -> (PgmqEngine, QueueName, PgConnection) {
    let name = unique("db");
    let queue = unique("q");
    let create = format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' \
         LC_COLLATE 'C' LC_CTYPE 'C'"
    );
    run(&mut connection().await, &create).await;
    let url = server().await.database_url(name.as_str());
    let engine = engine_at(&url).await;
    engine.ensure_queue(&queue).await.unwrap();
    (engine, queue, PgConnection::connect(&url).await.unwrap())
}

/// What was asked is answered, or refused as something of the caller's.
#[track_caller]
fn is_typed<T: std::fmt::Debug>(what: &str, text: &str, answer: Result<T>) {
    let Err(error) = answer else { return };
    let is_typed = matches!(
        error.kind(),
        ErrorKind::Configuration
            | ErrorKind::InvalidEvent
            | ErrorKind::InvalidPattern
            | ErrorKind::InvalidQueueName
            | ErrorKind::OperationMissing
            | ErrorKind::QueueMissing
            | ErrorKind::ScheduleMissing
            | ErrorKind::Unsupported
    );
    assert!(is_typed, "{what} of {text:?}: {:?}: {error}", error.kind());
}

#[tokio::test]
async fn what_a_database_cannot_hold_matches_nothing_and_fails_nothing() {
    for encoding in ["UTF8", "LATIN1"] {
        let (engine, queue, mut own) = database(encoding).await;
        let app = App::builder().without_discovered_handlers();
        let app = app.build(engine.clone()).unwrap();
        publish(&engine, &queue, &["1", "2", "3", "4", "5", "6", "7", "8"]).await;
        for text in TEXTS {
            selects_nothing(&app, &queue, text).await;
            looks(&app, &engine, &queue, text).await;
            acts(&app, &engine, &queue, text).await;
        }
        // None of these filters has touched an event.
        let left: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT count(*) FROM pgmq.q_{queue}"
        )))
        .fetch_one(&mut own)
        .await
        .unwrap();
        assert_eq!(
            left,
            8 - 2 * 3,
            "{encoding}: one failed and one cancelled for each text"
        );
    }
}

async fn selects_nothing(app: &App, queue: &QueueName, text: &str) {
    let all = EventFilter::all;
    let filters = [
        all().event_type(text),
        all().key(text),
        all().handler(text),
        all().error(text),
        all().died_by(text),
    ];
    let events = app.events(queue).unwrap();
    for filter in filters {
        for state in [EventState::Ready, EventState::Dead] {
            let page = events.page(state).filter(filter.clone()).await;
            let page = page.unwrap_or_else(|error| panic!("{filter:?}: {error}"));
            assert!(page.events.is_empty(), "{filter:?}");
            let bulk = events.all(state).filter(filter.clone()).discard();
            assert_eq!(bulk.preview().await.unwrap().count, 0, "{filter:?}");
            assert_eq!(
                bulk.by(text).reason(text).await.unwrap().done,
                0,
                "{filter:?}"
            );
        }
    }
    let letters = app.dead_letters(queue).unwrap();
    for filter in [
        DeadLetterFilter::all().event_type(text),
        DeadLetterFilter::all().handler(text),
    ] {
        assert!(letters.list(&filter, 10).await.unwrap().is_empty());
        assert_eq!(letters.discard(filter).by(text).await.unwrap(), []);
    }
}

async fn looks(app: &App, engine: &PgmqEngine, queue: &QueueName, text: &str) {
    let typed = |what: &str, answer| is_typed(what, text, answer);
    typed("history", app.history(text).await.map(drop));
    typed("history", app.history(text).queue(queue).await.map(drop));
    let subscriptions = app.subscriptions().unwrap();
    typed("test", subscriptions.test(text).await.map(drop));
    typed("parties", subscriptions.parties(text).await.map(drop));
    typed("operation", app.operations().get(text).await.map(drop));
    typed("audit", app.audit().list().by(text).await.map(drop));
    typed("queue", app.queues().get(text).await.map(drop));
    let replay = engine.replay(text, queue).dry_run();
    typed("dry run", replay.await.map(drop));
}

async fn acts(app: &App, engine: &PgmqEngine, queue: &QueueName, text: &str) {
    let typed = |what: &str, answer| is_typed(what, text, answer);
    let queues = app.queues();
    typed(
        "pause",
        queues.pause(queue).by(text).reason(text).await.map(drop),
    );
    typed("resume", queues.resume(queue).by(text).await.map(drop));
    typed(
        "pause",
        queues.pause_handler(queue, text).by(text).await.map(drop),
    );
    typed(
        "resume",
        queues.resume_handler(queue, text).by(text).await.map(drop),
    );

    let schedules = app.schedules().unwrap();
    typed("pause", schedules.pause(text).by(text).await);
    typed("run", schedules.run_now(text).by(text).await.map(drop));
    typed("remove", schedules.remove(text).by(text).await.map(drop));
    let subscriptions = app.subscriptions().unwrap();
    typed(
        "subscribe",
        subscriptions.add(queue, text).by(text).await.map(drop),
    );
    typed(
        "unsubscribe",
        subscriptions.remove(queue, text).by(text).await.map(drop),
    );
    typed(
        "forget",
        subscriptions.forget(text, text).by(text).await.map(drop),
    );
    typed(
        "prune",
        subscriptions.remove_app(text).by(text).await.map(drop),
    );

    let operations = app.operations();
    typed("step", operations.step(text).await.map(drop));
    typed("stop", operations.stop(text).by(text).await.map(drop));
    typed("resume", operations.resume(text).by(text).await.map(drop));
    typed(
        "replay",
        engine.replay(text, queue).by(text).await.map(drop),
    );
    typed(
        "forget",
        engine.replays().remove(text).by(text).await.map(drop),
    );
    typed(
        "capture",
        engine.capture(text, queue).by(text).await.map(drop),
    );
    typed(
        "end",
        engine.captures().remove(text).by(text).await.map(drop),
    );

    let page = app.events(queue).unwrap().page(EventState::Ready).await;
    let ids: Vec<MessageId> = page
        .unwrap()
        .events
        .iter()
        .map(|one| one.message_id.clone())
        .collect();
    let fail = app.fail(queue, &ids[0], text).by(text);
    typed("fail", fail.await.map(drop));
    let events = app.events(queue).unwrap();
    let cancel = events.cancel(&ids[1], Cancel::Dead).by(text).reason(text);
    typed("cancel", cancel.await.map(drop));
}
