//! Connections that die without a word: no reset and no close, only silence. What waits on them must
//! give up in bounded time, and nothing of the application may stay occupied by them.
//!
//! Over the network the kernel ends such a connection after a quarter of an hour; the sockets of
//! these tests never do.

use std::time::{Duration, Instant};

use ezq::engine::{Engine as _, LeaseRequest, Outgoing, SettleOutcome};
use ezq::pgmq::{PgmqConfig, PgmqEngine};
use ezq::prelude::*;
use ezq::sqlx::{self, AssertSqlSafe};
use ezq::{Handler, QueueName};
use tokio::sync::mpsc;

use crate::child::Job;
use crate::database::{app, connection, run, scalar, server, unique, until};
use crate::kit::{Log, soon};
use crate::proxy::Proxy;

/// What a test waits for longer than this is stuck.
const STUCK: Duration = Duration::from_secs(25);

fn message(queue: &QueueName) -> Outgoing {
    let headers = ezq::message::headers::Headers::new();
    Outgoing::new(queue.clone(), "1".to_owned(), headers)
}

/// Tries until it works; how long that took.
async fn until_it_works<T, F: Future<Output = ezq::Result<T>>>(work: impl Fn() -> F) -> Duration {
    let began = Instant::now();
    while let Err(error) = work().await {
        assert!(error.is_transient(), "{error:?}");
        assert!(
            began.elapsed() < STUCK,
            "still: {}",
            ezq::error::error_chain(&error)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    began.elapsed()
}

/// An engine behind a proxy, with a pool of one connection, and a queue of its own.
async fn engine_of_one() -> (Proxy, PgmqEngine, QueueName) {
    let (proxy, proxied) = Proxy::before(&server().await.url());
    let config = PgmqConfig::url(&proxied).unwrap().max_connections(1);
    let config = config.statement_timeout(Duration::from_millis(500));
    let engine = PgmqEngine::connect(config).await.unwrap();
    let queue = unique("partition");
    engine.ensure_queue(&queue).await.unwrap();
    (proxy, engine, queue)
}

#[tokio::test]
async fn a_publish_without_an_answer_occupies_no_connection_of_the_pool() {
    let (proxy, engine, queue) = engine_of_one().await;
    engine.publish(vec![message(&queue)]).await.unwrap();
    // The pool has its connection back.
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxy.strand();
    engine.publish(vec![message(&queue)]).await.unwrap_err();
    let took = until_it_works(|| engine.publish(vec![message(&queue)])).await;
    println!("published again after {took:.1?}");
}

#[tokio::test]
async fn a_connection_that_dies_on_its_way_back_to_the_pool_occupies_none_of_it() {
    let (proxy, engine, queue) = engine_of_one().await;
    engine.publish(vec![message(&queue)]).await.unwrap();
    proxy.strand();

    let took = until_it_works(|| engine.publish(vec![message(&queue)])).await;
    println!("published again after {took:.1?}");

    let unit = engine.begin(&queue, None).await.unwrap();
    let finished = unit.finish(Vec::new(), Vec::new()).await.unwrap();
    assert!(matches!(finished, SettleOutcome::Done));

    proxy.strand();
    let took = until_it_works(|| engine.publish(vec![message(&queue)])).await;
    println!("published again after {took:.1?} behind a transaction");
}

#[tokio::test]
async fn a_transaction_whose_connection_died_occupies_no_connection_of_the_pool() {
    let (proxy, engine, queue) = engine_of_one().await;
    let unit = engine.begin(&queue, None).await.unwrap();
    proxy.strand();

    let error = unit
        .finish(Vec::new(), vec![message(&queue)])
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error:?}");

    let took = until_it_works(|| engine.begin(&queue, None)).await;
    println!("begun again after {took:.1?}");
}

#[tokio::test]
async fn a_transaction_that_could_not_begin_occupies_no_connection_of_the_pool() {
    let (proxy, engine, queue) = engine_of_one().await;
    engine.publish(vec![message(&queue)]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxy.strand();

    let Err(error) = engine.begin(&queue, None).await else {
        panic!("it has begun")
    };
    assert!(error.is_transient(), "{error:?}");

    let took = until_it_works(|| engine.begin(&queue, None)).await;
    println!("begun again after {took:.1?}");
}

#[tokio::test]
async fn an_idle_worker_hears_of_events_again_soon_after_its_connections_died() {
    let url = server().await.url();
    let (proxy, proxied) = Proxy::before(&url);
    let queue = unique("partition");
    let (ran, mut runs) = mpsc::unbounded_channel();
    let handler = Handler::on("tell", move |job: Job| {
        ran.send(job.n).unwrap();
        std::future::ready(())
    });
    let ezq = app(&proxied, [handler]).await;

    let consumer = ezq
        .consumer()
        .queue(&queue)
        .lease(Duration::from_secs(2))
        .spawn();

    let publisher = app(&url, []).await;
    publisher
        .publish(&Job { n: 1 })
        .queue(&queue)
        .await
        .unwrap();
    assert_eq!(soon(runs.recv()).await, Some(1));

    proxy.strand();
    let died = Instant::now();
    publisher
        .publish(&Job { n: 2 })
        .queue(&queue)
        .await
        .unwrap();

    let heard = tokio::time::timeout(STUCK, runs.recv()).await;
    assert_eq!(heard.expect("it stays deaf"), Some(2));

    println!(
        "heard of the next event {:.1?} after its connections died",
        died.elapsed()
    );
    consumer.stop();
    assert_eq!(consumer.await.unwrap().counts.handled, 2);
}

#[tokio::test]
async fn a_worker_whose_connection_dies_while_it_is_set_up_is_not_deaf_for_good() {
    let (proxy, engine, queue) = engine_of_one().await;
    // So short that nothing but the claim opens such a connection.
    let request = || LeaseRequest::new(queue.clone(), 1, Duration::from_secs(1)).keys(1);
    proxy.strand_at("enable_seqscan");
    let first = tokio::time::timeout(STUCK, engine.lease(request())).await;
    let error = first.expect("it never gives up").unwrap_err();
    assert!(error.is_transient() && proxy.has_stranded(), "{error:?}");
    let took = until_it_works(|| engine.lease(request())).await;
    println!("claimed again after {took:.1?}");
}

/// The worst moment of all: the transaction commits, and nobody is told.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn a_commit_whose_answer_is_lost_leaves_one_effect() {
    let url = server().await.url();
    let (proxy, proxied) = Proxy::before(&url);
    let queue = unique("partition");

    let mut own = connection(&url).await;
    run(
        &mut own,
        &format!("create table effects_{queue} (n bigint)"),
    )
    .await;

    let insert = format!("insert into effects_{queue} values ($1)");
    let ran = Log::new();
    let runs = ran.clone();

    let handler = Handler::on("book", move |job: Job, mut tx: Tx| {
        let insert = insert.clone();
        runs.push(job.n);
        async move {
            let insert = sqlx::query(AssertSqlSafe(insert)).bind(job.n);
            insert.execute(&mut *tx).await.map(|_| ())
        }
    });

    let config = PgmqConfig::url(&proxied)
        .unwrap()
        .statement_timeout(Duration::from_secs(1));
    let engine = PgmqEngine::connect(config).await.unwrap();
    let builder = ezq::App::builder()
        .without_discovered_handlers()
        .register(handler);
    let worker = builder.build(engine).unwrap();

    let consumer = worker
        .consumer()
        .queue(&queue)
        .lease(Duration::from_secs(1))
        .spawn();

    let publisher = app(&url, []).await;
    let effects = |n: i64| format!("select count(*) = {n} from effects_{queue}");
    publisher
        .publish(&Job { n: 1 })
        .queue(&queue)
        .await
        .unwrap();

    until(&mut own, &effects(1)).await;
    proxy.strand_at("COMMIT");
    publisher
        .publish(&Job { n: 2 })
        .queue(&queue)
        .await
        .unwrap();

    until(&mut own, &effects(2)).await;
    publisher
        .publish(&Job { n: 3 })
        .queue(&queue)
        .await
        .unwrap();
    until(&mut own, &effects(3)).await;
    assert!(proxy.has_stranded(), "no commit was met");

    until(
        &mut own,
        &format!("select count(*) = 0 from pgmq.q_{queue}"),
    )
    .await;

    // Long enough for whoever believes that nothing was committed.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let twice = format!(
        "select count(*) from (select from effects_{queue} group by n having count(*) > 1) d"
    );
    assert_eq!(scalar::<i64>(&mut own, &twice).await, 0);
    assert_eq!(ran.sorted(), [1, 2, 3]);
    consumer.stop();

    let counts = consumer.await.unwrap().counts;
    assert_eq!(
        (counts.handled + counts.lost, counts.dead_lettered),
        (3, 0),
        "{counts}"
    );
}
