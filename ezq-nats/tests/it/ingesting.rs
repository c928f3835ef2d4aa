//! An ingest from a real server into a real queue, in processes that are killed, with a server that is killed:
//! each message becomes one row.

use async_nats::jetstream::Context;
use ezq::engine::Engine as _;
use ezq::message::QueueName;
use ezq::sqlx::{self, Connection as _, PgConnection};
use ezq::testing::{TestDatabase, TestEzq};
use ezq_nats::{NatsSink, NatsSource};

use crate::processes::{Worker, until};
use crate::server::{BOTH, Server, Version};
use crate::workers::INGEST;

/// How many rows `orders` has, and of how many numbers or events.
pub(crate) async fn rows(test: &mut PgConnection) -> (u64, u64) {
    let counted = sqlx::query_as::<_, (i64, i64)>(
        "SELECT count(*), count(DISTINCT coalesce(message #>> '{data,n}', message ->> 'data'))
           FROM pgmq.q_orders",
    );
    let (rows, different) = counted.fetch_one(test).await.unwrap();
    (rows.unsigned_abs(), different.unsigned_abs())
}

/// An application with the queue `orders`, and a connection of the test's own.
pub(crate) async fn orders(db: &TestDatabase) -> (TestEzq, PgConnection) {
    let app = db.app(|app| app.queue("outbox")).await.unwrap();
    let queue = QueueName::new("orders").unwrap();
    app.pgmq().ensure_queue(&queue).await.unwrap();
    let test = PgConnection::connect(&db.url()).await.unwrap();
    (app, test)
}

async fn make_stream(server: &Server) {
    let sink = NatsSink::connect(&server.url()).await.unwrap();
    sink.stream("OUTBOX", &["outbox"]).await.unwrap();
}

/// Stores numbers in the stream, each confirmed.
async fn put(context: &Context, numbers: std::ops::Range<u64>) {
    let mut sent = Vec::new();
    for n in numbers {
        let confirmation = context.publish("outbox", n.to_string().into()).await;
        sent.push(confirmation.unwrap());
    }
    for confirmation in sent {
        confirmation.await.unwrap();
    }
}

async fn kill_both(test: &str, version: Version, db: &TestDatabase) {
    let Some(mut server) = Server::start(test, version, "") else {
        return;
    };
    make_stream(&server).await;
    let (_app, mut database) = orders(db).await;
    let mut sent = 0;

    // Killed at any step, and always two at once.
    for _ in 0..4 {
        put(&server.jetstream().await, sent..sent + 400).await;
        sent += 400;
        let begun = rows(&mut database).await.0;
        let workers = [(), ()].map(|()| Worker::start(INGEST, &db.url(), &server.url()));
        until("messages are stored", async || {
            rows(&mut database).await.0 > begun
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        drop(workers);
    }

    let worker = Worker::start(INGEST, &db.url(), &server.url());
    for _ in 0..2 {
        put(&server.jetstream().await, sent..sent + 400).await;
        sent += 400;
        server.kill();
        server.restart();
        until("all is stored", async || {
            rows(&mut database).await.0 >= sent
        })
        .await;
    }
    drop(worker);

    let (rows, different) = rows(&mut database).await;
    eprintln!(
        "{version:?}: {sent} messages, 8 kills of ingests, 2 of the server: {rows} rows of {different}"
    );
    assert_eq!((rows, different), (sent, sent));
}

#[ezq::test]
async fn ingests_and_servers_that_are_killed_store_each_message_once(db: TestDatabase) {
    let test = "ingesting::ingests_and_servers_that_are_killed_store_each_message_once";
    kill_both(test, Version::V2_15, &db).await;
}

#[ezq::test]
async fn ingests_and_servers_of_the_older_version_store_each_message_once(db: TestDatabase) {
    let test = "ingesting::ingests_and_servers_of_the_older_version_store_each_message_once";
    kill_both(test, Version::V2_9, &db).await;
}

#[ezq::test]
async fn a_stream_that_is_made_anew_stops_the_ingest_and_is_read_by_the_next(db: TestDatabase) {
    let test = "ingesting::a_stream_that_is_made_anew_stops_the_ingest_and_is_read_by_the_next";
    let Some(server) = Server::start(test, BOTH[1], "") else {
        return;
    };
    make_stream(&server).await;
    let (app, mut database) = orders(&db).await;
    let context = server.jetstream().await;
    put(&context, 0..30).await;
    let ingest = |source| app.ingest(source).into("orders").plain("number");
    let source = || NatsSource::new(&server.url(), "OUTBOX").unwrap();
    let report = ingest(source()).until_idle().run().await.unwrap();
    assert_eq!(report.stored, 30);

    context.delete_stream("OUTBOX").await.unwrap();
    make_stream(&server).await;
    put(&context, 30..45).await;
    let report = ingest(source()).until_idle().run().await.unwrap();
    assert_eq!(
        report.stored, 15,
        "the new stream is read from its beginning"
    );
    assert_eq!(rows(&mut database).await, (45, 45));
}
