//! A message that the server cannot send becomes a dead letter, and blocks no other.

use ezq_core::engine::Engine;
use ezq_core::message::{QueueName, ReasonKind};
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::support::*;

/// Claims until nothing comes, and acknowledges. Returns what came.
async fn drain(engine: &PgmqEngine, queue: &QueueName) -> Vec<String> {
    let mut bodies = Vec::new();
    for _ in 0..20 {
        let deliveries = lease(engine, queue).await;
        bodies.extend(deliveries.iter().map(|one| one.body.clone()));
        let batch = deliveries
            .into_iter()
            .map(|one| (one.receipt, ack()))
            .collect();
        engine.settle(queue, batch).await.unwrap();
    }

    bodies.sort();
    bodies
}

async fn is_a_dead_letter(engine: &PgmqEngine, queue: &QueueName, count: usize) {
    let letters = engine
        .dead_letters()
        .unwrap()
        .list(queue, None, 10)
        .await
        .unwrap();
    assert_eq!(letters.len(), count);
    for letter in letters {
        let reason = letter.reason.unwrap();
        assert_eq!(reason.kind, ReasonKind::Undecodable);
        assert!(reason.error.contains("cannot send"), "{}", reason.error);
    }
    assert_eq!(engine.stats(queue).await.unwrap().ready, 0);
}

/// A database without an encoding, in which another client has stored a Latin-1 byte.
async fn without_encoding() -> (PgmqEngine, QueueName, PgConnection) {
    let name = unique("db");
    let queue = unique("q");
    let create = format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    );
    run(&mut connection().await, &create).await;

    let url = server().await.database_url(name.as_str());
    let engine = PgmqEngine::connect(PgmqConfig::url(&url).unwrap())
        .await
        .unwrap();
    engine.ensure_queue(&queue).await.unwrap();
    (engine, queue, PgConnection::connect(&url).await.unwrap())
}

#[tokio::test]
async fn bytes_that_are_no_text() {
    let (engine, queue, mut own) = without_encoding().await;
    publish(&engine, &queue, &["1", "2", "3"]).await;

    for _ in 0..2 {
        run(
            &mut own,
            &format!("SELECT pgmq.send('{queue}', to_jsonb(chr(233)))"),
        )
        .await;
    }

    publish(&engine, &queue, &["4", "5", "6"]).await;
    assert_eq!(drain(&engine, &queue).await, ["1", "2", "3", "4", "5", "6"]);
    is_a_dead_letter(&engine, &queue, 2).await;

    // It is kept unchanged.
    let kept =
        format!("SELECT count(*) FROM pgmq.q_{queue}_dlq WHERE message = to_jsonb(chr(233))");
    assert_eq!(scalar::<i64>(&mut own, &kept).await, 2);
}

#[tokio::test]
async fn bytes_that_are_no_text_beside_ordering_keys() {
    let (engine, queue, mut own) = without_encoding().await;
    let mut first = message(&queue, "1");
    first.headers.insert(ezq_core::message::headers::KEY, "a");

    let mut second = message(&queue, "2");
    second.headers.insert(ezq_core::message::headers::KEY, "b");
    engine.publish(vec![first]).await.unwrap();

    let odd = format!(
        "SELECT pgmq.send('{queue}', to_jsonb(chr(233)), '{{\"x-pgmq-group\": \"b\"}}'::jsonb)"
    );
    run(&mut own, &odd).await;
    engine.publish(vec![second]).await.unwrap();
    publish(&engine, &queue, &["3"]).await;
    assert_eq!(drain(&engine, &queue).await, ["1", "2", "3"]);
    is_a_dead_letter(&engine, &queue, 1).await;
}

#[tokio::test]
async fn a_read_count_at_its_limit() {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1", "2", "3"]).await;
    let worn = format!(
        "UPDATE pgmq.q_{queue} SET read_ct = 2147483647, last_read_at = now() WHERE message = '2'"
    );
    run(&mut connection().await, &worn).await;
    assert_eq!(drain(&engine, &queue).await, ["1", "3"]);
    is_a_dead_letter(&engine, &queue, 1).await;
}

#[tokio::test]
async fn the_history_of_an_event_of_which_one_copy_cannot_be_sent() {
    let (engine, queue, mut own) = without_encoding().await;
    let event = r#"{"specversion":"1.0","id":"e","source":"/s","type":"t","data":1}"#;
    publish(&engine, &queue, &[event]).await;

    for (table, headers) in [("q", "'{}'"), ("a", "jsonb_build_object('h', chr(233))")] {
        // An archive draws no ids.
        let given = if table == "q" {
            "OVERRIDING SYSTEM VALUE"
        } else {
            ""
        };

        let copy = format!(
            "INSERT INTO pgmq.{table}_{queue} (msg_id, vt, message, headers) {given}
             SELECT 7, now(), jsonb_build_object('specversion', '1.0', 'id', 'e', 'type', chr(233)),
                    {headers}"
        );
        run(&mut own, &copy).await;
    }

    let history = engine.history("e", Some(&queue)).await.unwrap();
    let types: Vec<_> = history
        .copies
        .iter()
        .map(|copy| copy.event_type.as_deref())
        .collect();
    assert_eq!(
        types.iter().flatten().collect::<Vec<_>>(),
        [&"t"],
        "{history}"
    );
    assert_eq!(types.len(), 3, "{history}");
    assert_eq!(history.unread.len(), 2, "{history}");

    let told = format!("the message 7 in the archive of the queue `{queue}`");
    assert!(history.to_string().contains(&told), "{history}");
}
