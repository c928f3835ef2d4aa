//! What belongs to a replay: what was archived when it began, and nothing later.

use ezq_core::message::Retention;
use sqlx::Connection as _;

use super::{archive, count, fill};
use crate::support::*;

#[tokio::test]
async fn what_is_archived_after_it_began_is_not_part_of_it() {
    let (engine, queue, mut own) = archive(3).await;
    let name = queue.to_string();
    assert_eq!(engine.replay(&name, &queue).await.unwrap().handed_over, 3);
    fill(&mut own, &queue, 5).await;
    assert_eq!(engine.replay(&name, &queue).await.unwrap().handed_over, 3);
    let later = engine.replay(format!("{name} later"), &queue);
    assert_eq!(later.dry_run().await.unwrap(), 8);
}

#[tokio::test]
async fn what_is_archived_while_it_is_interrupted_is_not_part_of_it() {
    let (engine, queue, mut own) = archive(3).await;
    let name = queue.to_string();

    // Dropped after the first of them.
    let (told, mut tell) = tokio::sync::mpsc::unbounded_channel();
    let first = engine
        .replay(&name, &queue)
        .rate(1)
        .on_progress(move |progress| {
            let _ = told.send(progress.handed_over);
        });

    tokio::select! {
        _ = first.into_future() => panic!("it ended"),
        one = tell.recv() => assert_eq!(one, Some(1)),
    }

    // A message with an earlier id than the last is acknowledged only now.
    let late = format!(
        "UPDATE pgmq.a_{queue} SET archived_at = clock_timestamp()
         WHERE msg_id = (SELECT max(msg_id) - 1 FROM pgmq.a_{queue})"
    );
    run(&mut own, &late).await;

    let rest = engine.replay(&name, &queue).await.unwrap();
    assert_eq!((rest.handed_over, count(&mut own, &queue).await), (2, 2));
}

#[tokio::test]
async fn what_is_not_committed_when_it_begins_is_not_part_of_it() {
    let (engine, queue, mut own) = archive(3).await;
    let target = unique("target");
    let name = queue.to_string();

    // Another transaction is about to archive the second one.
    let mut open = connection().await;
    run(
        &mut own,
        &format!("CREATE TABLE kept AS SELECT * FROM pgmq.a_{queue}"),
    )
    .await;

    run(
        &mut own,
        &format!("DELETE FROM pgmq.a_{queue} WHERE message ->> 'id' = 'e-2'"),
    )
    .await;

    let mut tx = open.begin().await.unwrap();
    let put_back = "SELECT * FROM kept WHERE message ->> 'id' = 'e-2'; DROP TABLE kept";
    run(&mut tx, &format!("INSERT INTO pgmq.a_{queue} {put_back}")).await;

    let (began, mut has_begun) = tokio::sync::mpsc::channel(1);
    let replay = engine.replay(&name, &queue).to_queue(&target).rate(1);
    let replay = replay.on_progress(move |_| {
        let _ = began.try_send(());
    });
    tokio::select! {
        ended = replay.into_future() => panic!("{ended:?}"),
        Some(()) = has_begun.recv() => {}
    }
    tx.commit().await.unwrap();

    let left = engine
        .replay(&name, &queue)
        .to_queue(&target)
        .dry_run()
        .await
        .unwrap();
    assert_eq!(left, 1, "one of the two that it means");

    let done = engine
        .replay(&name, &queue)
        .to_queue(&target)
        .await
        .unwrap();
    assert_eq!((done.handed_over, count(&mut own, &target).await), (2, 2));

    let anew = engine
        .replay(format!("{name} anew"), &queue)
        .to_queue(&target)
        .await
        .unwrap();
    assert_eq!(anew.handed_over, 3, "it was committed when this one began");
}

#[tokio::test]
async fn a_copy_that_comes_back_from_another_queue_is_not_replayed_where_it_came_from() {
    let (engine, queue, mut own) = archive(2).await;
    // Without keys, so that both can be leased at once.
    run(
        &mut own,
        &format!("UPDATE pgmq.a_{queue} SET headers = NULL"),
    )
    .await;

    let other = unique("q");
    let third = unique("q");
    let other_engine = archiving_at(&server().await.url(), &other, Retention::ARCHIVE).await;

    engine
        .replay(format!("{queue} out"), &queue)
        .to_queue(&other)
        .await
        .unwrap();
    assert_eq!(acknowledge_all(&other_engine, &other).await, 2);

    let back = engine
        .replay(format!("{queue} back"), &other)
        .to_queue(&queue);
    assert_eq!(back.await.unwrap().handed_over, 2);

    let origin = format!(
        "SELECT bool_and(headers #>> '{{ezq-replay,queue}}' = '{queue}') FROM pgmq.q_{queue}"
    );
    assert!(scalar::<bool>(&mut own, &origin).await);
    assert_eq!(
        (
            acknowledge_all(&engine, &queue).await,
            archived(&queue).await
        ),
        (2, 4)
    );

    let again = engine
        .replay(format!("{queue} again"), &queue)
        .to_queue(&third);
    assert_eq!(again.await.unwrap().handed_over, 2);
}
