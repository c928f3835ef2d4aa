//! Queues with every kind of name that ezq accepts; PGMQ's own functions see the same queue.

use ezq_core::ErrorKind;
use ezq_core::admin::DeadLetterFilter;
use ezq_core::engine::{BroadcastMessage, Broadcasts, Engine};
use ezq_core::event::Pattern;
use ezq_core::message::headers::{Headers, KEY};
use ezq_core::message::{QueueName, Retention};
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

fn names() -> [String; 5] {
    [
        "my-queue".into(),
        "MyQueue".into(),
        "user.events".into(),
        "a:b/c@d".into(),
        "L-".repeat(23),
    ]
}

fn name(text: &str) -> QueueName {
    QueueName::new(text).unwrap()
}

fn event(id: &str) -> String {
    format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"order.paid","data":{{}}}}"#)
}

async fn database() -> (String, PgConnection) {
    let url = fresh_database().await;
    engine_at(&url).await.close().await;
    let own = PgConnection::connect(&url).await.unwrap();
    (url, own)
}

/// How many messages PGMQ itself sees.
async fn seen_by_pgmq(own: &mut PgConnection, name: &str) -> i64 {
    scalar(
        own,
        &format!("SELECT queue_length FROM pgmq.metrics('{name}')"),
    )
    .await
}

#[tokio::test]
async fn what_pgmq_made_and_sent_is_consumed_kept_and_told() {
    let (url, mut own) = database().await;

    for text in names() {
        run(&mut own, &format!("SELECT pgmq.create('{text}')")).await;
        let send = format!(
            "SELECT pgmq.send('{text}', '{}'::jsonb)",
            event(&format!("by {text}"))
        );
        run(&mut own, &send).await;

        let queue = name(&text);
        let engine = archiving_at(&url, &queue, Retention::ARCHIVE).await;

        let mut with_key = message(&queue, &event(&format!("with {text}")));
        with_key.headers.insert(KEY, "k");
        stored(engine.publish(vec![with_key]).await.unwrap().remove(0));
        let dedupe = keyed(&queue, &event("once"), &text);
        engine.publish(vec![dedupe.clone(), dedupe]).await.unwrap();

        let mut tx = own.begin().await.unwrap();
        engine
            .publish_in(&mut tx, vec![message(&queue, &event("in"))])
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(seen_by_pgmq(&mut own, &text).await, 4, "{text}");

        let deliveries = lease(&engine, &queue).await;
        assert_eq!(deliveries.len(), 4, "{text}");

        let settlements = deliveries.into_iter().enumerate();
        let settlements = settlements
            .map(|(n, delivery)| (delivery.receipt, if n == 0 { dead() } else { ack() }));
        engine.settle(&queue, settlements.collect()).await.unwrap();

        let archive = format!("SELECT count(*) FROM pgmq.\"a_{queue}\"");
        assert_eq!(scalar::<i64>(&mut own, &archive).await, 3, "{text}");
        assert_eq!(
            seen_by_pgmq(&mut own, &queue.dead_letters()).await,
            1,
            "{text}"
        );

        for of in [None, Some(&queue)] {
            let history = engine.history(&format!("by {text}"), of).await.unwrap();
            assert_eq!(history.copies.len(), 1, "{history}");
            assert_eq!(history.copies[0].queue, queue);
        }

        let letters = ezq_core::app::App::builder()
            .without_discovered_handlers()
            .build(engine.clone());
        let letters = letters.unwrap();

        let redriven = letters
            .dead_letters(&queue)
            .unwrap()
            .redrive(DeadLetterFilter::all())
            .await;
        assert_eq!(redriven.unwrap().len(), 1, "{text}");

        let replayed = engine.replay(&text, &queue).await.unwrap();
        assert_eq!(replayed.handed_over, 3, "{text}");
        assert_eq!(acknowledge_all(&engine, &queue).await, 4, "{text}");
        assert_eq!(engine.purge(&queue).await.unwrap(), 0);
    }

    let made = "SELECT count(*) FROM pg_class WHERE relnamespace = 'pgmq'::regnamespace
                AND relname ~ '^q_' AND relkind = 'r'";
    assert_eq!(
        scalar::<i64>(&mut own, made).await,
        10,
        "a queue and its dead letters each"
    );
}

#[tokio::test]
async fn a_change_of_a_table_and_a_broadcast_reach_them() {
    let (url, mut own) = database().await;
    let engine = engine_at(&url).await;

    for (n, text) in names().into_iter().enumerate() {
        let queue = name(&text);
        run(&mut own, &format!("CREATE TABLE captured_{n} (id int)")).await;
        engine
            .capture(format!("captured_{n}"), &queue)
            .await
            .unwrap();
        run(&mut own, &format!("INSERT INTO captured_{n} VALUES (1)")).await;
        engine
            .subscribe("shop", &queue, &[Pattern::new("order.*").unwrap()])
            .await
            .unwrap();
    }

    let broadcast = BroadcastMessage::new("order.paid".to_owned(), event("e"), Headers::new())
        .dedupe(ezq_core::engine::Dedupe::new("k", TTL, "e").unwrap());
    assert_eq!(
        engine.broadcast(broadcast).await.unwrap().len(),
        names().len()
    );
    assert!(
        engine
            .subscriptions()
            .await
            .unwrap()
            .iter()
            .all(|one| one.queue_exists)
    );

    for text in names() {
        assert_eq!(lease(&engine, &name(&text)).await.len(), 2, "{text}");
    }

    run(&mut own, "CREATE TABLE broadcast (id int)").await;
    let queue = name("My-Changes");
    engine.ensure_queue(&queue).await.unwrap();
    engine
        .subscribe("shop", &queue, &[Pattern::new("broadcast.*").unwrap()])
        .await
        .unwrap();

    engine
        .capture("broadcast", &queue)
        .broadcast()
        .await
        .unwrap();
    run(&mut own, "INSERT INTO broadcast VALUES (1)").await;
    assert_eq!(lease(&engine, &queue).await.len(), 1);
}

#[tokio::test]
async fn two_spellings_are_one_queue() {
    let (url, mut own) = database().await;
    run(
        &mut own,
        "SELECT pgmq.create('MyQueue'), pgmq.create('myqueue')",
    )
    .await;

    let engine = engine_at(&url).await;
    publish(&engine, &name("MyQueue"), &[&event("e")]).await;
    assert_eq!(lease(&engine, &name("myqueue")).await.len(), 1);
    let history = engine.history("e", None).await.unwrap();
    assert_eq!(history.copies.len(), 1, "told once: {history}");
}

#[tokio::test]
async fn an_administrator_prepares_them_for_a_role_without_rights() {
    let (url, mut own) = database().await;
    let queues = names().map(|text| name(&text));
    let setup = ezq_pgmq::setup_sql(&queues, Some("namer")).unwrap();

    run(&mut own, "CREATE ROLE namer LOGIN").await;
    run(
        &mut own,
        &setup.replace("create extension if not exists pgmq;", ""),
    )
    .await;
    run(&mut own, &ezq_pgmq::ordering_sql(&queues).unwrap()).await;

    let config = PgmqConfig::url(&url.replace("postgres@", "namer@"))
        .unwrap()
        .manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();

    for queue in &queues {
        let mut with_key = keyed(queue, &event("e"), "k");
        with_key.headers.insert(KEY, "k");
        stored(engine.publish(vec![with_key]).await.unwrap().remove(0));
        assert_eq!(acknowledge_all(&engine, queue).await, 1, "{queue}");
    }
}

#[tokio::test]
async fn an_error_names_the_queue_as_pgmq_has_it() {
    let (url, _own) = database().await;
    let config = PgmqConfig::url(&url).unwrap().manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();
    let error = engine.ensure_queue(&name("My-Queue")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QueueMissing);
    let text = error.to_string();
    assert!(text.contains("pgmq.create('my-queue')"), "{text}");
    assert!(text.contains("pgmq.create('my-queue_dlq')"), "{text}");
}

#[tokio::test]
async fn an_index_that_was_left_half_done_is_made_anew() {
    let (url, mut own) = database().await;
    for text in names() {
        let queue = name(&text);
        engine_at(&url).await.ensure_queue(&queue).await.unwrap();
        run(&mut own, &ezq_pgmq::ordering_sql([&queue]).unwrap()).await;

        let valid = format!("WHERE indexrelid = 'pgmq.\"q_{queue}_ezq_keys\"'::regclass");
        run(
            &mut own,
            &format!("UPDATE pg_index SET indisvalid = false {valid}"),
        )
        .await;

        let engine = engine_at(&url).await;
        let mut with_key = message(&queue, &event("e"));
        with_key.headers.insert(KEY, "k");
        stored(engine.publish(vec![with_key]).await.unwrap().remove(0));
        let stands = format!("SELECT indisvalid FROM pg_index {valid}");
        assert!(scalar::<bool>(&mut own, &stands).await, "{text}");
    }
}
