//! Publishing in a caller's transaction.

use ezq::prelude::*;
use ezq::{Envelope, ErrorKind, sqlx};

use super::dedupe::PAUSE;
use super::{connect, raw};
use crate::kit::{Numbered, drain, held, queue, soon};

#[tokio::test]
async fn an_event_in_a_transaction_is_seen_when_that_commits() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    let mut tx = ezq.pool().begin().await.unwrap();
    let published = ezq
        .publish(&Numbered { n: 1 })
        .within(&mut tx)
        .await
        .unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 0);

    tx.commit().await.unwrap();
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
    assert_eq!(published.queue, queue);
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(work.handled.take(), [1]);
}

#[tokio::test]
async fn an_event_in_a_transaction_that_rolls_back_never_was() {
    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let mut tx = ezq.pool().begin().await.unwrap();
    let event = Numbered { n: 1 };
    ezq.publish(&event).within(&mut tx).await.unwrap();

    ezq.publish(&event)
        .after(PAUSE)
        .within(&mut tx)
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn several_events_in_a_transaction_are_seen_in_their_order_when_that_commits() {
    let queue = queue();
    let (ezq, work) = connect(&queue).await;
    let events = [1, 2, 3].map(|n| Numbered { n });
    let envelope = Envelope::builder(Numbered::TYPE, "shop")
        .data(&Numbered { n: 4 })
        .unwrap();

    let mut tx = ezq.pool().begin().await.unwrap();
    let published = ezq.publish_all(&events).within(&mut tx).await.unwrap();
    ezq.publish_envelope(envelope.build().unwrap())
        .within(&mut tx)
        .await
        .unwrap();
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
    tx.commit().await.unwrap();

    assert_eq!(published.len(), 3);
    assert_eq!(held(&ezq, &queue).await, [4, 0, 0, 0]);
    drain(&ezq).await;
    assert_eq!(work.handled.take(), [1, 2, 3, 4]);

    let mut tx = ezq.pool().begin().await.unwrap();
    ezq.publish_all(&events).within(&mut tx).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn a_refused_one_of_several_events_in_a_transaction_harms_no_other() {
    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let events = [r#""first""#, r#""\u0000""#, r#""last""#].map(raw);
    let mut tx = ezq.pool().begin().await.unwrap();
    let failure = ezq.publish_all(&events).within(&mut tx).await.unwrap_err();
    tx.commit().await.unwrap();

    assert_eq!(failure.stored().count(), 2);
    let failed: Vec<_> = failure
        .failures()
        .map(|(place, error)| (place, error.kind()))
        .collect();
    assert_eq!(failed, [(1, ErrorKind::InvalidEvent)]);
    assert_eq!(held(&ezq, &queue).await, [2, 0, 0, 0]);
}

#[tokio::test]
async fn a_queue_that_the_transaction_itself_has_made_is_published_to() {
    let (ezq, work) = connect(&queue()).await;
    let made = queue();
    let mut tx = ezq.pool().begin().await.unwrap();
    let create = "select pgmq.create($1)";
    sqlx::query(create)
        .bind(made.as_str())
        .execute(&mut *tx)
        .await
        .unwrap();

    let publish = ezq.publish(&Numbered { n: 1 }).queue(&made);
    let published = soon(publish.within(&mut tx)).await.unwrap();
    tx.commit().await.unwrap();

    assert_eq!(published.queue, made);
    let report = soon(ezq.consumer().queue(&made).until_idle().run())
        .await
        .unwrap();
    assert_eq!(report.counts.handled, 1);
    assert_eq!(work.handled.take(), [1]);
}

#[tokio::test]
async fn a_refused_event_leaves_the_callers_transaction_usable() {
    let queue = queue();
    let (ezq, _) = connect(&queue).await;
    let mut tx = ezq.pool().begin().await.unwrap();
    ezq.publish(&Numbered { n: 1 })
        .within(&mut tx)
        .await
        .unwrap();

    for bad in [r#""\u0000""#, r#""\ud800""#] {
        let error = ezq.publish(&raw(bad)).within(&mut tx).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidEvent);
    }
    tx.commit().await.unwrap();
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
}
