//! Which events an operation acts on.

use ezq_core::engine::OperationStatus;
use ezq_core::message::MessageId;
use ezq_core::message::headers::KEY;

use super::*;

#[tokio::test]
async fn an_event_that_vanishes_after_the_preview_counts_for_nothing() {
    let (engine, queue) = engine_and_queue().await;
    let app = application_of(engine);
    let mut own = connection().await;
    bury(&mut own, &queue, 3).await;
    let events = app.events(&queue).unwrap();
    let bulk = events.all(EventState::Dead);
    let preview = bulk.clone().redrive().preview().await.unwrap();
    assert_eq!(preview.count, 3);

    // One before the operation starts, one behind that.
    let take = |n: i64| format!("DELETE FROM pgmq.q_{queue}_dlq WHERE msg_id = {n}");
    run(&mut own, &take(1)).await;
    let started = bulk.previewed(&preview).redrive().start().await.unwrap();
    run(&mut own, &take(2)).await;
    let ended = app.operations().resume(&started.id).await.unwrap();
    assert_eq!((started.total, counts(&ended)), (Some(2), (1, 0, 0)));
    assert_eq!(stored_numbers(&mut own, &queue).await, (1, 1));

    // By its id, it is not there.
    let gone = MessageId::Number(2);
    assert!(!events.redrive(&gone).await.unwrap());
}

#[tokio::test]
async fn a_filter_that_matches_nothing_ends_with_its_first_step() {
    let (engine, queue) = engine_and_queue().await;
    let app = application_of(engine);
    let mut own = connection().await;
    bury(&mut own, &queue, 500).await;
    let events = app.events(&queue).unwrap();
    let none = EventFilter::all().event_type("order.lost");
    let bulk = events.all(EventState::Dead).filter(none).discard();
    assert_eq!(bulk.preview().await.unwrap().count, 0);

    let started = bulk.start().await.unwrap();
    assert_eq!(started.total, Some(0));
    let ended = app.operations().step(&started.id).await.unwrap();
    assert_eq!(ended.status, OperationStatus::Ended);
    assert_eq!(counts(&ended), (0, 0, 0));
    assert_eq!(dead(&mut own, &queue).await, 500);

    // So does one on a queue that is empty.
    let empty = events.all(EventState::Ready).discard().await.unwrap();
    assert_eq!(counts(&empty), (0, 0, 0));
}

#[tokio::test]
async fn what_is_stored_after_the_start_is_left_alone() {
    let (engine, queue) = engine_and_queue().await;
    let app = application_of(engine.clone());
    let mut own = connection().await;
    publish(&engine, &queue, &["1"; 1200]).await;
    let events = app.events(&queue).unwrap();
    let bulk = events.all(EventState::Ready).discard();
    let started = bulk.start().await.unwrap();

    app.operations().step(&started.id).await.unwrap();
    publish(&engine, &queue, &["2"; 50]).await;
    let mut steps = 1;
    let run = app.operations().resume(&started.id);
    let ended = run.on_progress(|_| steps += 1).await.unwrap();
    assert!(steps > 10, "{steps} steps");
    assert_eq!(counts(&ended), (1200, 0, 0));
    let left = format!("SELECT array_agg(DISTINCT message::text) FROM pgmq.q_{queue}");
    assert_eq!(scalar::<Vec<String>>(&mut own, &left).await, ["2"]);
}

#[tokio::test]
async fn a_worker_that_leases_an_event_meanwhile_keeps_it() {
    let (engine, queue) = engine_and_queue().await;
    let app = application_of(engine.clone());
    publish(&engine, &queue, &["1", "2", "3"]).await;
    let events = app.events(&queue).unwrap();
    let bulk = events.all(EventState::Ready).discard();
    let started = bulk.start().await.unwrap();
    let held = lease(&engine, &queue).await;
    assert_eq!(held.len(), 3);

    let ended = app.operations().resume(&started.id).await.unwrap();
    assert_eq!((started.total, ended.done), (Some(3), 0), "{ended:?}");
    let settlements = held.into_iter().map(|one| (one.receipt, ack())).collect();
    let settled = engine.settle(&queue, settlements).await.unwrap();
    assert_eq!(settled.len(), 3);
}

/// Texts that mean something to SQL, to patterns, to HTML or to JSON, and one that looks like each but for
/// the character.
const NAMES: [(&str, &str); 7] = [
    ("a<b>'c'", "a<b>'d'"),
    ("50%", "500"),
    ("a_b", "axb"),
    ("\"; DROP TABLE ezq.audit; --", "\"; drop"),
    ("ünï→😀", "uni→😀"),
    ("back\\slash", "backslash"),
    ("{\"a\": 1}", "{\"a\":1}"),
];

#[tokio::test]
async fn names_are_compared_as_they_are() {
    let Stage {
        url,
        app,
        queue,
        mut own,
    } = Stage::new(0).await;
    let engine = engine_at(&url).await;

    for (name, like) in NAMES {
        for text in [name, like] {
            let body = serde_json::json!({
                "specversion": "1.0", "id": "e", "source": "/s", "type": text, "data": {"n": text}
            });
            let mut event = message(&queue, &body.to_string());
            event.headers.insert(KEY, text);
            stored(engine.publish(vec![event]).await.unwrap().remove(0));
            let headers = serde_json::json!({"ezq-dead": {"died_at": "2026-01-01T00:00:00Z",
                "reason": {"kind": "fatal", "attempts": 1, "handler": text, "error": text}},
                (format!("ezq-h:{text}")): {"state": "dead", "attempts": 1}});
            let insert = format!(
                "INSERT INTO pgmq.q_{queue}_dlq (vt, message, headers) VALUES (now(), $1, $2)"
            );
            sqlx::query(sqlx::AssertSqlSafe(insert))
                .bind(body)
                .bind(headers)
                .execute(&mut own)
                .await
                .unwrap();
        }

        let events = app.events(&queue).unwrap();
        let all = EventFilter::all;
        for (state, filter) in [
            (EventState::Ready, all().event_type(name)),
            (EventState::Ready, all().key(name)),
            (EventState::Dead, all().handler(name)),
            (EventState::Dead, all().error(name)),
        ] {
            let found = events.all(state).filter(filter.clone()).discard();
            let preview = found.preview().await.unwrap();
            assert_eq!(preview.count, 1, "{state} {filter:?}");
        }

        let filter = all().error(name).handler(name);
        let redrive = events
            .all(EventState::Dead)
            .filter(filter.clone())
            .redrive();
        let ended = redrive.by(name).reason(name).await.unwrap();
        assert_eq!(counts(&ended), (1, 0, 0), "{name}");
        assert_eq!(ended.selection.filter, filter);
        let last = told(&app, &queue).await.pop().unwrap();
        assert_eq!(last.signature.by, name);
        assert_eq!(last.signature.reason.as_deref(), Some(name));
        assert_eq!(last.selection, Some((EventState::Dead, filter)));

        let all = events
            .all(EventState::Ready)
            .filter(EventFilter::all().key(like));
        assert_eq!(counts(&all.discard().await.unwrap()), (1, 0, 0), "{like}");
        for state in [EventState::Ready, EventState::Dead] {
            events.all(state).discard().await.unwrap();
        }
    }
}
