//! What holds after a dump and restore, by Postgres' own programs.

use std::path::PathBuf;
use std::process::Command;

use ezq_core::engine::{BroadcastMessage, Broadcasts, Dedupe, Engine, Original, PublishOutcome};
use ezq_core::event::Pattern;
use ezq_core::message::MessageId;
use ezq_core::message::headers::Headers;
use sqlx::{Connection as _, PgConnection};

use crate::skip;
use crate::support::*;

/// One of the programs that come with the server, or alone; `None` where the test is to be skipped.
async fn program(name: &str) -> Option<PathBuf> {
    let folder = "SELECT setting FROM pg_config WHERE name = 'BINDIR'";
    let folder: String = scalar(&mut connection().await, folder).await;
    let beside = PathBuf::from(folder).join(name);
    match beside.is_file() {
        true => Some(beside),
        false => skip::program(name, "postgresql-client", "restored"),
    }
}

/// Dumps a database and restores it as another one, and returns that one's URL.
async fn restored(url: &str) -> Option<String> {
    let target = fresh_database().await;
    let mut dump = Command::new(program("pg_dump").await?);
    let dump = dump.args(["-Fc", "--dbname", url]).output().unwrap();
    assert!(
        dump.status.success(),
        "{}",
        String::from_utf8_lossy(&dump.stderr)
    );

    let file = std::env::temp_dir().join(format!("{}-{}.dump", std::process::id(), unique("ezq")));
    std::fs::write(&file, dump.stdout).unwrap();

    let mut restore = Command::new(program("pg_restore").await?);
    let restored = restore
        .args(["--exit-on-error", "--dbname", &target])
        .arg(&file)
        .output();
    std::fs::remove_file(&file).unwrap();

    let restored = restored.unwrap();
    assert!(
        restored.status.success(),
        "{}",
        String::from_utf8_lossy(&restored.stderr)
    );

    Some(target)
}

fn original(outcome: PublishOutcome) -> MessageId {
    match outcome {
        PublishOutcome::Duplicate(Some(Original { message_id, .. })) => message_id,
        other => panic!("no duplicate: {other:?}"),
    }
}

fn event(key: &str) -> BroadcastMessage {
    let event_type = "order.created".to_owned();
    let body = "1".to_owned();
    let headers = Headers::new();
    let dedupe = Some(Dedupe::new(key, TTL * 100, "e").unwrap());
    BroadcastMessage::new(event_type, body, headers).dedupe(dedupe)
}

#[tokio::test]
async fn dedupe_keys_hold_and_name_their_messages() {
    let url = fresh_database().await;
    let queue = unique("q");
    let engine = engine_at(&url).await;
    engine.ensure_queue(&queue).await.unwrap();
    engine
        .subscribe("shop", &queue, &[Pattern::new("#").unwrap()])
        .await
        .unwrap();

    let published = stored(
        engine
            .publish(vec![keyed(&queue, "1", "a")])
            .await
            .unwrap()
            .remove(0),
    );
    let broadcast = stored(engine.broadcast(event("b")).await.unwrap().remove(0).1);
    engine.close().await;

    let Some(url) = restored(&url).await else {
        return;
    };
    let mut own = PgConnection::connect(&url).await.unwrap();
    let of_this_table =
        format!("SELECT bool_and(queue_table = 'pgmq.q_{queue}'::regclass::oid) FROM ezq.dedupe");
    assert!(
        !scalar::<bool>(&mut own, &of_this_table).await,
        "the table has another oid"
    );

    let engine = engine_at(&url).await;
    for (key, first) in [("a", &published), ("b", &broadcast)] {
        let again = engine
            .publish(vec![keyed(&queue, "2", key)])
            .await
            .unwrap()
            .remove(0);
        assert_eq!(original(again), *first);
        let again = engine.broadcast(event(key)).await.unwrap().remove(0).1;
        assert_eq!(original(again), *first);
    }

    // An older process takes a key of another table for free.
    assert!(scalar::<bool>(&mut own, &of_this_table).await);

    for id in [&published, &broadcast] {
        assert!(engine.cancel(&queue, id).await.unwrap());
    }
}
