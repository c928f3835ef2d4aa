//! Dead letters keep what was known of them, and are redriven without their marks.

use std::time::Duration;

use chrono::{DateTime, Utc};
use ezq_core::ErrorKind;
use ezq_core::app::App;
use ezq_core::engine::{CopyState, DeadLetters as _, Death, Due, Engine, Settle, SettleOutcome};
use ezq_core::message::headers::{KEY, REDRIVEN};
use ezq_core::message::{
    HandlerMark, HandlerName, HandlerState, MessageId, Progress, Reason, ReasonKind,
};
use sqlx::Connection as _;

use crate::support::*;

fn mark(state: HandlerState) -> HandlerMark {
    HandlerMark::new(state).attempts(1)
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn keeps_reason_headers_and_times_and_goes_back_cleaned() {
    let (engine, queue) = engine_and_queue().await;
    let mut out = message(&queue, r#"{"a": 1}"#);
    out.headers.insert("mine", "x");
    engine.publish(vec![out]).await.unwrap();

    let delivery = lease_one(&engine, &queue).await;
    let reason = Reason::new(ReasonKind::MaxAttempts, "it failed".to_owned(), 5)
        .handler(HandlerName::from("b"));
    let marks = [("a", HandlerState::Done), ("b", HandlerState::Dead)];
    let marks = marks.map(|(name, state)| (HandlerName::from(name), mark(state)));
    let settle = Settle::DeadLetter {
        reason: reason.clone(),
        progress: marks.into_iter().collect(),
        outgoing: vec![message(&queue, "\"event\"")],
    };

    let outcomes = engine
        .settle(&queue, vec![(delivery.receipt.clone(), settle)])
        .await
        .unwrap();
    assert!(
        matches!(outcomes[..], [SettleOutcome::Done]),
        "{outcomes:?}"
    );

    let event = lease_one(&engine, &queue).await;
    assert_eq!(event.body, "\"event\"");

    engine
        .settle(&queue, vec![(event.receipt, ack())])
        .await
        .unwrap();

    let letters = engine.list(&queue, None, 10).await.unwrap();
    let [letter] = &letters[..] else {
        panic!("{letters:?}");
    };
    assert_eq!(letter.reason, Some(reason));
    assert_eq!(
        letter.original_id.as_ref(),
        Some(delivery.receipt.message_id())
    );
    assert_eq!(
        (letter.body.as_str(), letter.enqueued_at),
        (r#"{"a": 1}"#, delivery.enqueued_at)
    );
    assert!(letter.died_at >= delivery.leased_at);
    assert_eq!(Progress::from_headers(&letter.headers).len(), 2);
    assert!(
        engine
            .list(&queue, Some(&letter.id), 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        engine.find(&queue, &letter.id).await.unwrap().unwrap().id,
        letter.id
    );

    let moved = engine
        .redrive(&queue, std::slice::from_ref(&letter.id))
        .await
        .unwrap();
    assert_eq!(moved, std::slice::from_ref(&letter.id));
    assert!(
        engine
            .redrive(&queue, std::slice::from_ref(&letter.id))
            .await
            .unwrap()
            .is_empty()
    );
    assert!(engine.find(&queue, &letter.id).await.unwrap().is_none());

    let again = lease_one(&engine, &queue).await;
    assert_eq!((again.body.as_str(), again.deliveries), (r#"{"a": 1}"#, 1));

    let keys: Vec<_> = again
        .headers
        .as_object()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(keys, ["ezq-h:a", "ezq-redriven", "mine"]);

    let death = Death::read(again.headers.value(REDRIVEN).unwrap());
    assert_eq!(death.reason, letter.reason);
    assert_eq!(
        (death.died_at, death.enqueued_at),
        (Some(letter.died_at), Some(letter.enqueued_at))
    );

    let died = death.message_id.unwrap();
    let original = delivery.receipt.message_id();
    assert_eq!(died.as_number(), original.as_number());
    assert_eq!(
        again.enqueued_at, delivery.enqueued_at,
        "it was stored first then"
    );
}

#[tokio::test]
async fn keeps_headers_that_are_no_object() {
    let (engine, queue) = engine_and_queue().await;
    let sql =
        format!("INSERT INTO pgmq.q_{queue} (vt, message, headers) VALUES (now(), '1', '[7]')");
    run(&mut connection().await, &sql).await;

    let delivery = lease_one(&engine, &queue).await;
    engine
        .settle(&queue, vec![(delivery.receipt, dead())])
        .await
        .unwrap();

    let letter = engine.list(&queue, None, 1).await.unwrap().remove(0);
    let original = letter.headers.value("ezq-original-headers");
    assert_eq!(original, Some(&serde_json::json!([7])));
    assert_eq!(letter.reason.unwrap().error, "no\u{FFFD} good");
}

#[tokio::test]
async fn an_operator_gives_up_one_message_and_no_other() {
    let (engine, queue) = engine_and_queue().await;
    let app = App::builder()
        .without_discovered_handlers()
        .build(engine.clone())
        .unwrap();
    let event = |id: &str| {
        format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":1}}"#)
    };

    let [first, second] = ["given-up-1", "given-up-2"].map(|id| {
        let mut late = message(&queue, &event(id));
        late.headers.insert(KEY, "k");
        late.due(Due::After(TTL))
    });

    let ids: Vec<_> = engine
        .publish(vec![first, second])
        .await
        .unwrap()
        .into_iter()
        .map(stored)
        .collect();

    // The number alone is not enough: another message has it by now.
    let other_time = MessageId::Dated {
        number: ids[1].as_number().unwrap(),
        stored_at: ids[1].stored_at().unwrap() - chrono::TimeDelta::seconds(1),
    };
    assert!(
        !app.fail(&queue, &other_time, "another message")
            .await
            .unwrap()
    );
    assert!(app.fail(&queue, &ids[1], "a test → order").await.unwrap());

    let history = app.history("given-up-2").await.unwrap();
    let CopyState::Dead {
        reason: Some(reason),
        ..
    } = &history.copies[0].state
    else {
        panic!("{history}")
    };
    assert_eq!(
        (reason.kind, reason.error.as_str()),
        (ReasonKind::Operator, "a test → order")
    );
    assert_eq!(
        (history.copies[0].message_id.clone(), reason.attempts),
        (ids[1].clone(), 0)
    );

    let left = app.history("given-up-1").await.unwrap();
    assert!(
        matches!(left.copies[0].state, CopyState::Waiting { .. }),
        "{left}"
    );

    // A locked row is waited for, and the error names who holds it.
    let mut other = connection().await;
    let mut tx = other.begin().await.unwrap();
    run(&mut tx, &format!("SELECT FROM pgmq.q_{queue} FOR UPDATE")).await;

    let error = app.fail(&queue, &ids[0], "locked").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("held by pid"), "{error}");

    tx.rollback().await.unwrap();
    assert!(app.fail(&queue, &ids[0], "free again").await.unwrap());
}

#[tokio::test]
async fn an_event_that_is_not_failed_keeps_its_time_and_stays_unlocked() {
    let (engine, queue) = engine_and_queue().await;
    let app = App::builder()
        .without_discovered_handlers()
        .build(engine.clone())
        .unwrap();
    let late = message(&queue, "1").due(Due::After(Duration::from_secs(7 * 86_400)));
    let id = stored(engine.publish(vec![late]).await.unwrap().remove(0));
    let mut other = connection().await;
    let vt = format!("SELECT vt FROM pgmq.q_{queue}");
    let before: DateTime<Utc> = scalar(&mut other, &vt).await;

    // Its queue of dead letters refuses to be written.
    let refuse = format!("ALTER TABLE pgmq.q_{queue}_dlq ADD CHECK (false)");
    run(&mut other, &refuse).await;
    app.fail(&queue, &id, "refused").await.unwrap_err();
    assert_eq!(scalar::<DateTime<Utc>>(&mut other, &vt).await, before);

    // A worker has it: the refused call leaves nothing locked.
    expire(&queue).await;
    lease_one(&engine, &queue).await;
    let error = app.fail(&queue, &id, "held").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);

    run(
        &mut other,
        &format!("SELECT FROM pgmq.q_{queue} FOR UPDATE NOWAIT"),
    )
    .await;
}

#[tokio::test]
async fn a_missing_dead_letter_queue_is_created() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"]).await;

    let delivery = lease_one(&engine, &queue).await;
    run(
        &mut connection().await,
        &format!("SELECT pgmq.drop_queue('{queue}_dlq')"),
    )
    .await;

    let outcomes = engine
        .settle(&queue, vec![(delivery.receipt, dead())])
        .await
        .unwrap();
    assert!(
        matches!(outcomes[..], [SettleOutcome::Done]),
        "{outcomes:?}"
    );
    assert_eq!(engine.stats(&queue).await.unwrap().dead, 1);
}

/// Any client may write such headers.
#[tokio::test]
async fn a_redrive_keeps_a_time_and_ignores_what_is_none() {
    let (engine, queue) = engine_and_queue().await;
    let wanted = [
        (
            r#""2024-02-03T04:05:06.5+00:00""#,
            Some("2024-02-03T04:05:06.5Z"),
        ),
        (
            r#""2024-02-03T04:05:06+05:30""#,
            Some("2024-02-02T22:35:06Z"),
        ),
        (r#""2024-13-03T04:05:06+00:00""#, None),
        (r#""long ago""#, None),
        ("7", None),
    ];

    for (at, first_stored) in wanted {
        let dead = format!(
            r#"INSERT INTO pgmq.q_{} (vt, message, headers)
               VALUES (clock_timestamp(), '{{}}', '{{"ezq-dead": {{"enqueued_at": {at}}}}}')"#,
            queue.dead_letters()
        );
        run(&mut connection().await, &dead).await;

        let letter = engine.list(&queue, None, 10).await.unwrap().remove(0);
        engine
            .redrive(&queue, std::slice::from_ref(&letter.id))
            .await
            .unwrap();

        let again = lease_one(&engine, &queue).await;
        let first_stored = first_stored.map(|text| text.parse().unwrap());
        assert_eq!(
            again.enqueued_at,
            first_stored.unwrap_or(letter.enqueued_at),
            "{at}"
        );

        engine
            .settle(&queue, vec![(again.receipt, ack())])
            .await
            .unwrap();
    }
}
