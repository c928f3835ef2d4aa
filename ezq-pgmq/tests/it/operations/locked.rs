//! Rows and tables that another session has locked.

use std::time::Duration;

use ezq_core::ErrorKind;
use sqlx::{Connection as _, PgConnection};

use super::*;

/// Waits until so many sessions wait for a lock in the database of a connection.
async fn blocked(own: &mut PgConnection, count: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let found = async {
        while scalar::<i64>(own, waiting).await < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, found)
        .await
        .expect("none waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_another_session_removes_during_the_step_is_skipped() {
    let stage = Stage::new(250).await;
    let mut other = stage.connection().await;
    let Stage {
        app,
        queue,
        mut own,
        ..
    } = stage;
    let id = begin(&app, &queue).await.id;
    let mut tx = other.begin().await.unwrap();
    run(
        &mut tx,
        &format!("DELETE FROM pgmq.q_{queue}_dlq WHERE msg_id = 7"),
    )
    .await;

    let step = tokio::spawn({
        let (app, id) = (app.clone(), id.clone());
        async move { app.operations().step(&id).await }
    });
    blocked(&mut own, 1).await;
    tx.commit().await.unwrap();
    let stepped = step.await.unwrap().unwrap();
    assert_eq!(counts(&stepped), (99, 1, 0));
    let ended = app.operations().resume(&id).await.unwrap();
    assert_eq!(counts(&ended), (249, 1, 0));
    assert_eq!(stored_numbers(&mut own, &queue).await, (249, 249));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_stays_locked_is_passed_over_and_counts_as_failed() {
    let stage = Stage::new(250).await;
    let mut other = stage.connection().await;
    let Stage {
        app,
        queue,
        mut own,
        ..
    } = stage;
    let id = begin(&app, &queue).await.id;
    let mut tx = other.begin().await.unwrap();
    let lock = format!("SELECT msg_id FROM pgmq.q_{queue}_dlq WHERE msg_id IN (3, 120) FOR UPDATE");
    run(&mut tx, &lock).await;

    let ended = app.operations().resume(&id).await.unwrap();
    assert_eq!(counts(&ended), (248, 0, 2));
    tx.rollback().await.unwrap();
    assert_eq!(dead(&mut own, &queue).await, 2, "they are as they were");

    // Another operation takes them.
    let again = begin(&app, &queue).await;
    let again = app.operations().resume(&again.id).await.unwrap();
    assert_eq!((again.total, counts(&again)), (Some(2), (2, 0, 0)));
    assert_eq!(stored_numbers(&mut own, &queue).await, (250, 250));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_queue_makes_a_step_err_and_the_next_one_goes_on() {
    let stage = Stage::new(250).await;
    let mut other = stage.connection().await;
    let Stage {
        app,
        queue,
        mut own,
        ..
    } = stage;
    let id = begin(&app, &queue).await.id;
    app.operations().step(&id).await.unwrap();

    for table in [format!("q_{queue}_dlq"), format!("q_{queue}")] {
        let mut tx = other.begin().await.unwrap();
        run(&mut tx, &format!("LOCK TABLE pgmq.{table}")).await;
        let operations = app.operations();
        let step = tokio::time::timeout(Duration::from_secs(30), operations.step(&id));
        let refused = step.await;
        let refused = refused.expect("it waits for ever").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Transient, "{refused:#?}");
        tx.rollback().await.unwrap();
    }

    let found = app.operations().get(&id).await.unwrap();
    assert_eq!(counts(&found), (100, 0, 0), "it changed nothing");
    let ended = app.operations().resume(&id).await.unwrap();
    assert_eq!(counts(&ended), (250, 0, 0));
    assert_eq!(stored_numbers(&mut own, &queue).await, (250, 250));
}

/// Waiting for another operator's step says nothing about the events.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_operation_makes_a_step_err_and_passes_over_no_event() {
    let stage = Stage::new(250).await;
    let mut other = stage.connection().await;
    let Stage {
        app,
        queue,
        mut own,
        ..
    } = stage;
    let id = begin(&app, &queue).await.id;
    let mut tx = other.begin().await.unwrap();
    run(&mut tx, "SELECT FROM ezq.operations FOR UPDATE").await;
    let refused = app.operations().step(&id).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Transient, "{refused:#?}");
    tx.rollback().await.unwrap();
    let ended = app.operations().resume(&id).await.unwrap();
    assert_eq!(counts(&ended), (250, 0, 0));
    assert_eq!(stored_numbers(&mut own, &queue).await, (250, 250));
}
