//! The trail: what it holds of an event that was handled and deleted, and for how long.

use std::time::Duration;

use chrono::Utc;
use ezq_core::ErrorKind;
use ezq_core::engine::{CopyState, Engine, Settle, SettleOutcome};
use ezq_core::message::{
    ErrorRecord, HandlerMark, HandlerName, HandlerState, Progress, QueueName, Retention,
};
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

fn event(id: &str) -> String {
    format!(
        r#"{{"specversion": "1.0", "id": "{id}", "source": "s", "type": "paid", "data": "hush"}}"#
    )
}

/// An immediate retry of a handler that failed.
fn failed(error: &str) -> Settle {
    let errors = vec![ErrorRecord::new(Utc::now(), 1, error.to_owned())];
    let state = HandlerState::Retry;
    let mark = HandlerMark::new(state).attempts(1).errors(errors);
    let progress = Progress::from_iter([(HandlerName::from("shop::a"), mark)]);
    Settle::Retry {
        after: Duration::ZERO,
        progress,
        outgoing: Vec::new(),
    }
}

async fn lines(own: &mut PgConnection, queue: &QueueName) -> i64 {
    scalar(
        own,
        &format!("SELECT count(*) FROM ezq.trail WHERE queue = '{queue}'"),
    )
    .await
}

/// Writes and reads a trail in a new database.
pub(crate) async fn trails(url: &str) {
    let queue = unique("q");
    let engine = archiving_at(url, &queue, Retention::TRAIL).await;
    publish(
        &engine,
        &queue,
        &[&event("e-1"), r#"{"_type": "EZQEndEvent"}"#],
    )
    .await;
    assert_eq!(acknowledge_all(&engine, &queue).await, 2);

    let history = engine.history("e-1", None).await.unwrap();
    assert!(
        matches!(history.copies[0].state, CopyState::Handled { .. }),
        "{history}"
    );

    let mut own = PgConnection::connect(url).await.unwrap();
    assert_eq!(lines(&mut own, &queue).await, 1);
}

#[tokio::test]
async fn an_event_that_was_handled_and_deleted_is_still_known() {
    let (engine, queue) = archiving(Retention::TRAIL).await;
    let mut own = connection().await;
    let ids = publish(
        &engine,
        &queue,
        &[&event("trail-1"), r#"{"_type": "Paid", "order": 7}"#],
    )
    .await;
    let mut first = lease(&engine, &queue).await;
    let published = first[0].enqueued_at;

    // Released once, so that it is delivered twice.
    let settled = engine
        .settle(&queue, vec![(first.remove(0).receipt, failed("no answer"))])
        .await;
    assert!(matches!(settled.unwrap()[..], [SettleOutcome::Done]));

    let flat = engine
        .settle(&queue, vec![(first.remove(0).receipt, ack())])
        .await;
    assert!(matches!(flat.unwrap()[..], [SettleOutcome::Done]));
    assert_eq!(acknowledge_all(&engine, &queue).await, 1);
    assert_eq!(archived(&queue).await, 0);

    let history = engine.history("trail-1", None).await.unwrap();
    let [copy] = &history.copies[..] else {
        panic!("{history}")
    };
    assert!(
        matches!(copy.state, CopyState::Handled { at } if at >= copy.published_at),
        "{copy:?}"
    );
    assert_eq!(
        (copy.event_type.as_deref(), copy.deliveries),
        (Some("paid"), 2)
    );
    assert_eq!((&copy.message_id, &copy.queue), (&ids[0], &queue));
    assert_eq!(copy.published_at, published);

    // Why its handler was tried again.
    assert_eq!(history.last_error(), Some("no answer"));
    assert!(
        history.to_string().contains("handled and deleted"),
        "{history}"
    );

    let flat = engine
        .history(&format!("{queue}:{}", ids[1]), Some(&queue))
        .await
        .unwrap();
    assert_eq!(flat.copies[0].event_type.as_deref(), Some("Paid"));

    // Nothing of its body.
    let all = format!("SELECT string_agg(t::text, '') FROM ezq.trail t WHERE queue = '{queue}'");
    assert!(!scalar::<String>(&mut own, &all).await.contains("hush"));
}

#[tokio::test]
async fn what_another_codec_wrote_is_known_by_the_id_in_its_headers() {
    let (engine, queue) = archiving(Retention::TRAIL).await;
    let mut own = connection().await;
    let id = unique("beside");
    let insert = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message, headers)
         VALUES (now(), '7', '{{\"ezq-codec\": \"raw\", \"ce-id\": \"{id}\", \"ce-type\": \"paid\"}}')"
    );
    run(&mut own, &insert).await;
    assert_eq!(acknowledge_all(&engine, &queue).await, 1);

    let history = engine.history(id.as_str(), None).await.unwrap();
    assert_eq!(
        history.copies[0].event_type.as_deref(),
        Some("paid"),
        "{history}"
    );
}

#[tokio::test]
async fn a_queue_without_one_writes_none_and_needs_no_table() {
    let url = fresh_database().await;
    let queue = unique("q");
    let engine = archiving_at(&url, &queue, Retention::Delete).await;
    publish(&engine, &queue, &[&event("e-1")]).await;
    acknowledge_all(&engine, &queue).await;
    assert!(engine.history("e-1", None).await.unwrap().is_empty());
    let mut own = PgConnection::connect(&url).await.unwrap();
    assert!(scalar::<bool>(&mut own, "SELECT to_regclass('ezq.trail') IS NULL").await);
}

#[tokio::test]
async fn a_late_acknowledgement_leaves_no_line() {
    let (engine, queue) = archiving(Retention::TRAIL).await;
    publish(&engine, &queue, &[&event("e-1")]).await;

    let late = lease_one(&engine, &queue).await;
    expire(&queue).await;

    let current = lease_one(&engine, &queue).await;
    let outcome = engine
        .settle(&queue, vec![(late.receipt, ack())])
        .await
        .unwrap();
    assert!(matches!(outcome[..], [SettleOutcome::LeaseLost]));

    let mut own = connection().await;
    assert_eq!(lines(&mut own, &queue).await, 0);

    let settle: Vec<(_, Settle)> = vec![(current.receipt, ack())];
    engine.settle(&queue, settle).await.unwrap();
    assert_eq!(lines(&mut own, &queue).await, 1);
}

#[tokio::test]
async fn lines_that_are_past_their_time_are_swept() {
    let (engine, queue) = archiving(Retention::trail_for(MONTH)).await;
    let mut own = connection().await;
    for id in ["e-1", "e-2"] {
        publish(&engine, &queue, &[&event(id)]).await;
    }
    acknowledge_all(&engine, &queue).await;

    let age = format!(
        "UPDATE ezq.trail SET ended_at = ended_at - interval '31 days'
         WHERE queue = '{queue}' AND event_id = 'e-1'"
    );
    run(&mut own, &age).await;
    assert_eq!(engine.sweep().await.unwrap(), 1);
    assert_eq!(lines(&mut own, &queue).await, 1);
    assert!(
        !engine
            .history("e-2", Some(&queue))
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn what_a_trail_needs_is_said_and_a_dropped_table_is_made_again() {
    let url = fresh_database().await;
    let queue = unique("q");
    engine_at(&url).await.ensure_queue(&queue).await.unwrap();

    let config = PgmqConfig::url(&url)
        .unwrap()
        .retention(&queue, Retention::TRAIL);
    let engine = PgmqEngine::connect(config.manage_schema(false))
        .await
        .unwrap();
    let error = engine.ensure_queue(&queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMissing, "{error:?}");

    let mut own = PgConnection::connect(&url).await.unwrap();
    run(&mut own, error.to_string().split_once('\n').unwrap().1).await;
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &[&event("e-1")]).await;
    acknowledge_all(&engine, &queue).await;

    let engine = archiving_at(&url, &queue, Retention::TRAIL).await;
    run(&mut own, "DROP SCHEMA ezq CASCADE").await;
    publish(&engine, &queue, &[&event("e-2")]).await;

    let delivery = lease_one(&engine, &queue).await;
    let mut outcomes = engine
        .settle(&queue, vec![(delivery.receipt, ack())])
        .await
        .unwrap();

    // The consumer repeats a settlement that failed.
    if let Some(SettleOutcome::Failed { receipt, .. }) = outcomes.pop() {
        outcomes = engine.settle(&queue, vec![(receipt, ack())]).await.unwrap();
    }

    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, SettleOutcome::Done)),
        "{outcomes:?}"
    );
    assert_eq!(engine.history("e-2", None).await.unwrap().copies.len(), 1);
}
