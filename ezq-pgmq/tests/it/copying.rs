//! Many messages in one call are copied into their table, and nobody can tell them from inserted ones.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use ezq_core::ErrorKind;
use ezq_core::engine::{Due, Engine, Outgoing, PublishOutcome};
use ezq_core::message::QueueName;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::support::*;

/// More than are inserted by one statement.
const MANY: u32 = 1200;

/// Messages with and without headers, keys, delays and times, of which some are equal.
fn messages(queue: &QueueName) -> Vec<Outgoing> {
    let later = Utc::now() + TimeDelta::days(1);
    let message = |n: u32| {
        let body = format!("{{\"n\": {n}, \"text\": \"ä\\n\"}}");
        match n % 5 {
            0 => message(queue, &body),
            1 => keyed(queue, &body, &format!("key {n}")),
            2 => message(queue, &body).due(Due::After(Duration::from_secs(7200))),
            3 => message(queue, &body).due(Due::At(later + TimeDelta::seconds(i64::from(n / 100)))),
            _ => message(queue, &body).due(Due::At(DateTime::UNIX_EPOCH)),
        }
    };
    (0..MANY).map(message).collect()
}

/// What is stored, by id. A time is told as far as it does not depend on when the message was stored.
async fn rows(queue: &QueueName) -> Vec<(String, Option<String>, i32, Option<DateTime<Utc>>)> {
    let sql = format!(
        "SELECT message::text, headers::text, read_ct, nullif(greatest(vt, '2999-01-01'), '2999-01-01')
         FROM pgmq.q_{queue} ORDER BY msg_id"
    );
    sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(&mut connection().await)
        .await
        .unwrap()
}

/// The numbers in the order in which they are due, with the minutes until then.
async fn order(queue: &QueueName) -> Vec<(i32, i32)> {
    let sql = format!(
        "SELECT (message->>'n')::int, round(extract(epoch FROM vt - enqueued_at) / 60)::int
         FROM pgmq.q_{queue} ORDER BY vt, msg_id"
    );
    sqlx::query_as(AssertSqlSafe(sql))
        .fetch_all(&mut connection().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn copied_messages_are_as_inserted_ones() {
    let (engine, inserted) = engine_and_queue().await;
    let copied = unique("copied");
    engine.ensure_queue(&copied).await.unwrap();
    let all = messages(&copied);
    let mut one_by_one = Vec::new();
    let parts: Vec<Vec<Outgoing>> = messages(&inserted)
        .chunks(100)
        .map(<[Outgoing]>::to_vec)
        .collect();
    for part in parts {
        one_by_one.extend(engine.publish(part).await.unwrap());
    }

    let outcomes = engine.publish(all).await.unwrap();

    let ids = outcomes
        .into_iter()
        .map(|outcome| stored(outcome).as_number());
    let others = one_by_one
        .into_iter()
        .map(|outcome| stored(outcome).as_number());
    assert!(ids.eq(others), "the ids rise with the places");
    assert_eq!(rows(&copied).await, rows(&inserted).await);
    let copied_order = order(&copied).await;
    // Those that are due at once, in their order, and then the others.
    assert_eq!(copied_order.len(), 1200);
    assert_eq!(copied_order[..4], [(0, 0), (1, 0), (4, 0), (5, 0)]);
    assert_eq!(copied_order[720], (2, 120));
    let last: Vec<i32> = copied_order[960..].iter().map(|(n, _)| *n).collect();
    assert!(
        last.is_sorted() && last.iter().all(|n| n % 5 == 3),
        "{last:?}"
    );
}

#[tokio::test]
async fn a_copied_message_is_told_by_the_id_of_its_row() {
    let (engine, queue) = engine_and_queue().await;
    let all = (0..MANY).map(|n| message(&queue, &n.to_string())).collect();
    let outcomes = engine.publish(all).await.unwrap();
    let ids: Vec<_> = outcomes.into_iter().map(stored).collect();

    let mut leased = Vec::new();
    while leased.len() < ids.len() {
        let more = lease(&engine, &queue).await;
        assert!(!more.is_empty(), "only {} are there", leased.len());
        leased.extend(more);
    }
    let bodies: Vec<u32> = leased.iter().map(|one| one.body.parse().unwrap()).collect();
    assert!(bodies.into_iter().eq(0..MANY));
    let receipts = leased.iter().map(|one| one.receipt.message_id());
    assert!(receipts.eq(&ids));
}

#[tokio::test]
async fn one_bad_message_of_many_harms_no_other() {
    let (engine, queue) = engine_and_queue().await;
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let body = |n: u32| {
        if n == 777 {
            deep.clone()
        } else {
            n.to_string()
        }
    };
    let all = (0..MANY).map(|n| message(&queue, &body(n))).collect();

    let outcomes = engine.publish(all).await.unwrap();

    for (n, outcome) in (0_u32..).zip(&outcomes) {
        match outcome {
            PublishOutcome::Failed(error) if n == 777 => {
                assert_eq!(error.kind(), ErrorKind::InvalidEvent);
            }
            PublishOutcome::Stored(_) if n != 777 => {}
            other => panic!("{n}: {other:?}"),
        }
    }
    let sql = format!("SELECT count(DISTINCT message) FROM pgmq.q_{queue}");
    let count: i64 = scalar(&mut connection().await, &sql).await;
    assert_eq!(count, i64::from(MANY) - 1);
}

/// What a role can store of many messages that has these rights.
async fn stored_with(rights: &str) -> i64 {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    let mut own = PgConnection::connect(&url).await.unwrap();
    let role = unique("role");
    let rights = rights
        .replace("{role}", role.as_str())
        .replace("{table}", &format!("pgmq.q_{queue}"));
    let sql = format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgmq TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA pgmq TO {role}; {rights}"
    );
    run(&mut own, &sql).await;

    let limited = engine_at(&url.replace("//postgres@", &format!("//{role}@"))).await;
    let all = (0..MANY).map(|n| message(&queue, &n.to_string())).collect();
    let outcomes = limited.publish(all).await.unwrap();
    let ids: Vec<_> = outcomes.into_iter().map(stored).collect();
    assert!(ids.is_sorted_by_key(|id| id.as_number()));
    scalar(&mut own, &format!("SELECT count(*) FROM pgmq.q_{queue}")).await
}

#[tokio::test]
async fn a_role_without_the_sequence_stores_many_messages_too() {
    let rights = "REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgmq FROM PUBLIC, {role}";
    assert_eq!(stored_with(rights).await, i64::from(MANY));
}

#[tokio::test]
async fn many_messages_pass_the_policies_of_their_table() {
    let rights = "GRANT ALL ON ALL SEQUENCES IN SCHEMA pgmq TO {role};
                  ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
                  CREATE POLICY everything ON {table} USING (true) WITH CHECK (true)";
    assert_eq!(stored_with(rights).await, i64::from(MANY));
}

#[tokio::test]
async fn the_sequence_is_held_until_its_ids_are_stored() {
    let (engine, queue) = engine_and_queue().await;
    let mut holder = connection().await;
    run(
        &mut holder,
        &format!("BEGIN; LOCK TABLE pgmq.q_{queue} IN SHARE MODE"),
    )
    .await;
    let all = (0..MANY).map(|n| message(&queue, &n.to_string())).collect();
    let publishing = tokio::spawn(async move { engine.publish(all).await });

    let mut own = connection().await;
    let waits = format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'pgmq.q_{queue}'::regclass)"
    );
    while !scalar::<bool>(&mut own, &waits).await {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let holds = format!(
        "SELECT count(*) FROM pg_locks
         WHERE granted AND relation = 'pgmq.q_{queue}_msg_id_seq'::regclass"
    );
    assert_eq!(scalar::<i64>(&mut own, &holds).await, 1);

    run(&mut holder, "COMMIT").await;
    let outcomes = publishing.await.unwrap().unwrap();
    assert_eq!(outcomes.into_iter().map(stored).count(), 1200);
}
