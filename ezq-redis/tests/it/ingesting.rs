//! An ingest from a real server into a real queue, in processes that are killed, with a server and a database
//! that go away: each entry becomes one row.

use std::collections::HashMap;
use std::time::Duration;

use ezq::sqlx::{self, Connection as _, PgConnection};
use ezq::testing::{TestDatabase, TestEzq};
use ezq_redis::RedisSource;
use redis::Connection;

use crate::processes::{Worker, until};
use crate::server::Server;
use crate::workers::ingest;

fn add(connection: &mut Connection, from: usize, to: usize) {
    let mut pipeline = redis::pipe();
    for n in from..to {
        pipeline
            .cmd("XADD")
            .arg(&["orders", "*", "cloud_event", &n.to_string()])
            .ignore();
    }
    pipeline.query::<()>(connection).unwrap();
}

async fn stored(test: &mut PgConnection) -> usize {
    let counted = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM pgmq.q_orders")
        .fetch_one(test)
        .await;
    usize::try_from(counted.unwrap()).unwrap()
}

/// How often each entry was stored, by its number.
async fn ledger(test: &mut PgConnection) -> HashMap<i64, usize> {
    let rows =
        sqlx::query_scalar::<_, i64>("SELECT (message -> 'data')::bigint FROM pgmq.q_orders")
            .fetch_all(test)
            .await
            .unwrap();
    let mut times = HashMap::new();
    for n in rows {
        *times.entry(n).or_default() += 1;
    }
    times
}

/// An application, and a connection of the test's own.
pub(crate) async fn app(db: &TestDatabase) -> (TestEzq, PgConnection) {
    let app = db.app(|app| app.queue("orders")).await.unwrap();
    let queue = ezq::QueueName::new("orders").unwrap();
    app.engine(&queue).ensure_queue(&queue).await.unwrap();
    let test = PgConnection::connect(&db.url()).await.unwrap();
    (app, test)
}

#[ezq::test]
async fn ingests_and_servers_that_are_killed_store_each_entry_once(db: TestDatabase) {
    let name = "ingesting::ingests_and_servers_that_are_killed_store_each_entry_once";
    let Some(mut server) = Server::start(name, &[]) else {
        return;
    };
    let (_app, mut test) = app(&db).await;
    let mut sent = 0;
    let mut more = |server: &Server, count: usize| {
        add(&mut server.connection(), sent, sent + count);
        sent += count;
        sent
    };

    // Killed at any step, and always two at once.
    for _ in 0..4 {
        let all = more(&server, 1_500);
        let workers = [(), ()].map(|()| Worker::start(&ingest("orders"), &db.url(), &server.url()));
        let begun = stored(&mut test).await;
        until("entries are stored", async || {
            stored(&mut test).await > begun
        })
        .await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        drop(workers);
        assert!(stored(&mut test).await <= all);
    }

    let worker = Worker::start(&ingest("orders"), &db.url(), &server.url());
    for _ in 0..2 {
        let all = more(&server, 1_000);
        server.kill();
        server.restart();
        until("all is stored", async || stored(&mut test).await >= all).await;
    }
    drop(worker);

    let ledger = ledger(&mut test).await;
    let twice = ledger.values().filter(|times| **times > 1).count();
    eprintln!(
        "{sent} entries, 8 kills of ingests, 2 of the server: {} stored, {twice} more than once",
        ledger.len()
    );
    assert_eq!(ledger.len(), sent);
    assert_eq!(twice, 0);
}

#[ezq::test]
async fn a_database_that_cuts_connections_stores_each_entry_once(db: TestDatabase) {
    let name = "ingesting::a_database_that_cuts_connections_stores_each_entry_once";
    let Some(server) = Server::start(name, &[]) else {
        return;
    };
    let (app, mut test) = app(&db).await;
    let source = RedisSource::connect(&server.url(), ["orders"])
        .await
        .unwrap();
    let ingest = app
        .ingest(source)
        .into("orders")
        .plain("n")
        .batch_size(20)
        .spawn();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let mut cuts = 0;
    for part in 0..20 {
        add(&mut server.connection(), part * 100, (part + 1) * 100);
        tokio::time::sleep(Duration::from_millis(30)).await;
        let done = sqlx::query(cut).execute(&mut test).await.unwrap();
        cuts += done.rows_affected();
    }
    until("all is stored", async || stored(&mut test).await >= 2_000).await;
    ingest.stop();
    let report = ingest.await.unwrap();

    let ledger = ledger(&mut test).await;
    eprintln!(
        "{report}; {cuts} connections cut, {} entries once",
        ledger.len()
    );
    assert_eq!(ledger.len(), 2_000);
    assert!(ledger.values().all(|times| *times == 1));
}

#[ezq::test]
async fn an_entry_of_an_unknown_type_is_the_consumers_affair(db: TestDatabase) {
    let name = "ingesting::an_entry_of_an_unknown_type_is_the_consumers_affair";
    let Some(server) = Server::start(name, &[]) else {
        return;
    };
    let (app, mut test) = app(&db).await;
    add(&mut server.connection(), 0, 1);
    redis::cmd("XADD")
        .arg(&["orders", "*", "cloud_event", "{not json"])
        .query::<()>(&mut server.connection())
        .unwrap();
    let source = RedisSource::connect(&server.url(), ["orders"])
        .await
        .unwrap();
    let ingest = app.ingest(source).into("orders").plain("nobody.knows");
    let report = ingest.until_idle().run().await.unwrap();
    assert_eq!((report.stored, report.dead_lettered), (1, 1));

    let queue = ezq::QueueName::new("orders").unwrap();
    let positions = app.engine(&queue).positions().unwrap();
    let listed = positions.list().await.unwrap();
    assert_eq!(listed[0].partition, "orders");
    let letters = sqlx::query_scalar::<_, String>(
        "SELECT convert_from(decode(message #>> '{}', 'base64'), 'UTF8') FROM pgmq.q_orders_dlq",
    );
    assert_eq!(letters.fetch_all(&mut test).await.unwrap(), ["{not json"]);

    let consumed = app.consumer().until_idle().run().await.unwrap();
    let counts = consumed.counts;
    assert_eq!(counts.retried + counts.dead_lettered, 1, "{consumed}");
}
