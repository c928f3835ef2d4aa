//! Databases whose encoding is not UTF-8. ezq's own texts can be stored in each, and a publisher's
//! text is stored or refused, never half of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use ezq_core::admin::{DeadLetterFilter, EventFilter, EventState};
use ezq_core::app::App;
use ezq_core::engine::{
    BroadcastMessage, Broadcasts, CopyState, Engine, Registration, ScheduleStore,
};
use ezq_core::event::Pattern;
use ezq_core::handler::{AnyEvent, Backoff, Handler};
use ezq_core::message::headers::Headers;
use ezq_core::message::{QueueName, ReasonKind};
use ezq_core::{Error, ErrorKind};
use ezq_pgmq::{PgmqEngine, Tx};
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

/// A handler's name with characters that LATIN1 lacks, some that it has, and one that looks like an
/// escape.
const NAME: &str = r"größe→\u{2192}";
const PAUSE: Duration = Duration::from_millis(300);

fn event(id: &str, data: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":"{data}"}}"#)
}

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

fn app(engine: &PgmqEngine, handler: Handler) -> App {
    let app = App::builder()
        .without_discovered_handlers()
        .register(handler);
    app.build(engine.clone()).unwrap()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn a_failure_is_counted_paused_and_told_whatever_its_text() {
    for (encoding, shown) in [
        ("LATIN1", r"Zürich \u{2192} ?"),
        ("WIN1252", r"Z\u{fc}rich \u{2192} ?"),
        ("SQL_ASCII", "Zürich → ?"),
        ("UTF8", "Zürich → ?"),
    ] {
        let (engine, queue, _own) = database(encoding).await;
        let runs: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let seen = Arc::clone(&runs);
        let fails = Handler::on(NAME, move |_: AnyEvent| {
            seen.lock().unwrap().push(Instant::now());
            async { Err::<(), _>("Zürich → ?") }
        });

        let app = app(
            &engine,
            fails.max_attempts(3).backoff(Backoff::constant(PAUSE)),
        );
        publish(&engine, &queue, &[&event("e", "x")]).await;

        let handle = app.consumer().queue(queue.as_str()).spawn();
        let letters = app.dead_letters(&queue).unwrap();
        let begun = Instant::now();

        let letter = loop {
            let found = letters.list(&DeadLetterFilter::all(), 10).await.unwrap();
            if let Some(letter) = found.into_iter().next() {
                break letter;
            }

            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{encoding}: no dead letter"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        };

        handle.stop();
        handle.await.unwrap();

        let runs = std::mem::take(&mut *runs.lock().unwrap());
        assert_eq!(runs.len(), 3, "{encoding}");
        assert!(
            runs.windows(2).all(|two| two[1] - two[0] >= PAUSE),
            "{encoding}: {runs:?}"
        );

        let reason = letter.reason.unwrap();
        assert_eq!(
            (reason.kind, reason.attempts),
            (ReasonKind::MaxAttempts, 3),
            "{encoding}"
        );
        assert_eq!(reason.handler.unwrap().as_str(), NAME, "{encoding}");
        assert_eq!(reason.error, shown, "{encoding}");

        // As an operator asks for it, and after a redrive.
        let by_handler = DeadLetterFilter::all().handler(NAME);
        assert_eq!(
            letters.redrive(by_handler).await.unwrap().len(),
            1,
            "{encoding}"
        );

        let history = app.history("e").await.unwrap();
        let died = history.copies[0]
            .died_before
            .clone()
            .unwrap()
            .reason
            .unwrap();
        assert_eq!(
            died.handler.unwrap().as_str(),
            NAME,
            "{encoding}: {history}"
        );
        assert!(
            matches!(history.copies[0].state, CopyState::Waiting { .. }),
            "{history}"
        );
    }
}

#[tokio::test]
async fn a_handler_whose_name_the_encoding_lacks_is_done_once() {
    for encoding in ["LATIN1", "SQL_ASCII", "UTF8"] {
        let (engine, queue, _own) = database(encoding).await;
        let (plain, within, other) = <(Arc<AtomicU32>, Arc<AtomicU32>, Arc<AtomicU32>)>::default();
        let count = |runs: &Arc<AtomicU32>| {
            let runs = Arc::clone(runs);
            move || runs.fetch_add(1, Ordering::Relaxed) + 1
        };
        let plain_ran = count(&plain);

        let within_ran = count(&within);
        let other_ran = count(&other);
        let named = Handler::on(NAME, move |_: AnyEvent| {
            plain_ran();
            async {}
        });

        let in_transaction = Handler::on("Tx →", move |_: AnyEvent, _tx: Tx| {
            within_ran();
            async {}
        });
        let again = Handler::on("again", move |_: AnyEvent| {
            let first = other_ran() == 1;
            async move { if first { Err("not yet") } else { Ok(()) } }
        });
        let again = again.backoff(Backoff::constant(Duration::from_millis(1)));

        let app = App::builder().without_discovered_handlers().register(named);
        let app = app
            .register(in_transaction)
            .register(again)
            .build(engine.clone())
            .unwrap();
        publish(&engine, &queue, &[&event("e", "x")]).await;

        let handle = app.consumer().queue(queue.as_str()).spawn();
        let begun = Instant::now();
        while engine.stats(&queue).await.unwrap() != ezq_core::engine::QueueStats::default() {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "{encoding}: it is still there"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }

        handle.stop();
        handle.await.unwrap();
        let runs = [plain, within, other].map(|runs| runs.load(Ordering::Relaxed));
        assert_eq!(runs, [1, 1, 2], "{encoding}");
    }
}

#[tokio::test]
async fn an_event_is_stored_or_refused_with_the_reason() {
    for (encoding, good, bad) in [
        (
            "LATIN1",
            &["ü", r"\u00fc", r"\\u2192"][..],
            &["→", r"\u2192", r"\ud83d\ude00"][..],
        ),
        ("WIN1252", &["ü", "€"], &["→", r"\u2192"]),
        ("SQL_ASCII", &["ü", "→", r"\u0041"], &[r"\u00fc"]),
        (
            "UTF8",
            &["ü", "→", r"\u2192"],
            &[r"\ud83d", r"\u0000", "\0"],
        ),
    ] {
        let (engine, queue, mut own) = database(encoding).await;
        for data in good {
            let told = format!("{encoding}: {data}");
            engine
                .check(&message(&queue, &event("e", data)))
                .expect(&told);
            publish(&engine, &queue, &[&event("e", data)]).await;
        }

        for data in bad {
            let told = format!("{encoding}: {data}");
            let refused = message(&queue, &event("e", data));
            let outcomes = engine
                .publish(vec![refused, message(&queue, "1")])
                .await
                .unwrap();

            let [
                ezq_core::engine::PublishOutcome::Failed(error),
                ezq_core::engine::PublishOutcome::Stored(_),
            ] = &outcomes[..]
            else {
                panic!("{told}: {outcomes:?}")
            };
            assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{told}");
            assert!(error.to_string().contains("cannot keep"), "{told}: {error}");

            if encoding != "WIN1252" {
                // Found before anything is sent: the caller's transaction can go on.
                let mut tx = own.begin().await.unwrap();
                let refused = vec![message(&queue, &event("e", data))];
                let error = engine.publish_in(&mut tx, refused).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{told}");
                run(&mut tx, "SELECT 1").await;
                tx.rollback().await.unwrap();
            }
        }

        let mut in_a_header = message(&queue, "1");
        in_a_header.headers.insert("h", "→");
        assert_eq!(
            engine.check(&in_a_header).is_err(),
            encoding == "LATIN1",
            "{encoding}"
        );

        let count = format!("SELECT count(*) FROM pgmq.q_{queue}");
        let stored = i64::try_from(good.len() + bad.len()).unwrap();
        assert_eq!(scalar::<i64>(&mut own, &count).await, stored, "{encoding}");
    }
}

#[tokio::test]
async fn a_dedupe_key_is_stored_or_refused_with_the_reason() {
    for (encoding, good, bad) in [
        ("LATIN1", "ü", Some("→")),
        ("WIN1252", "€", Some("→")),
        ("UTF8", "→", None),
    ] {
        let (engine, queue, mut own) = database(encoding).await;
        stored(
            engine
                .publish(vec![keyed(&queue, "1", good)])
                .await
                .unwrap()
                .remove(0),
        );

        let Some(bad) = bad else { continue };
        let with_bad = || vec![keyed(&queue, "2", bad)];
        let refused = |error: Error| {
            assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{encoding}: {error}");
            let text = error.to_string();
            assert!(
                text.contains("the database's encoding lacks"),
                "{encoding}: {text}"
            );
        };

        let outcome = engine.publish(with_bad()).await.unwrap().remove(0);
        let ezq_core::engine::PublishOutcome::Failed(error) = outcome else {
            panic!("{outcome:?}")
        };
        refused(error);

        let mut tx = own.begin().await.unwrap();
        refused(engine.publish_in(&mut tx, with_bad()).await.unwrap_err());

        if encoding == "LATIN1" {
            // Found before anything is sent: the caller's transaction can go on.
            run(&mut tx, "SELECT 1").await;
            refused(engine.check(&with_bad()[0]).unwrap_err());
        }

        tx.rollback().await.unwrap();
        let broadcast = BroadcastMessage::new("t".to_owned(), event("e", "x"), Headers::new())
            .dedupe(with_bad().remove(0).dedupe);
        refused(engine.broadcast(broadcast).await.unwrap_err());
    }
}

#[tokio::test]
async fn names_in_the_tables_of_ezq_read_as_they_were_given() {
    for encoding in ["LATIN1", "WIN1252", "SQL_ASCII", "UTF8"] {
        let (engine, queue, _own) = database(encoding).await;
        let next_at = Utc::now() + TimeDelta::days(1);
        let new = Registration::new(NAME, "app →", "→", next_at);
        assert!(engine.register(new, None).await.unwrap(), "{encoding}");

        let again = Registration::new(NAME, "app →", "→→", next_at);
        assert!(
            engine.register(again, Some("→")).await.unwrap(),
            "{encoding}"
        );

        let kept = engine.look(&[(NAME, "→→")]).await.unwrap().rows.remove(0);
        let names = [&*kept.name, &*kept.application, &*kept.definition];
        assert_eq!(names, [NAME, "app →", "→→"], "{encoding}");
        assert!(engine.pause(NAME, true).await.unwrap(), "{encoding}");
        assert!(engine.remove(NAME).await.unwrap(), "{encoding}");

        assert_eq!(
            engine.replay(NAME, &queue).await.unwrap().name,
            NAME,
            "{encoding}"
        );
        assert_eq!(
            engine.replays().list().await.unwrap()[0].name,
            NAME,
            "{encoding}"
        );
        assert!(engine.replays().remove(NAME).await.unwrap(), "{encoding}");

        let pattern = [Pattern::new("order.*").unwrap()];
        engine.subscribe("app →", &queue, &pattern).await.unwrap();
        assert_eq!(
            engine.subscriptions().await.unwrap()[0].app,
            "app →",
            "{encoding}"
        );

        let which = [(queue.clone(), pattern[0].clone())];
        assert_eq!(
            engine.unsubscribe("app →", &which).await.unwrap(),
            1,
            "{encoding}"
        );
    }
}

#[tokio::test]
async fn an_operation_acts_on_what_its_filter_names() {
    for encoding in ["LATIN1", "WIN1252", "SQL_ASCII", "UTF8"] {
        let (engine, queue, _own) = database(encoding).await;
        let fails = Handler::on(NAME, |_: AnyEvent| async { Err::<(), _>("no") });
        let app = app(&engine, fails.max_attempts(1));
        publish(&engine, &queue, &[&event("e", "x")]).await;
        app.consumer()
            .queue(&queue)
            .until_idle()
            .run()
            .await
            .unwrap();

        let filter = EventFilter::all().died_by(NAME);
        let dead = app.events(&queue).unwrap().all(EventState::Dead);
        let ended = dead.filter(filter.clone()).redrive().await.unwrap();
        assert_eq!(ended.done, 1, "{encoding}");

        let entry = &app.audit().list().await.unwrap().entries[0];
        let selection = entry.selection.as_ref().unwrap();
        assert_eq!(selection.1, filter, "{encoding}");
    }
}
