//! Failures of connecting are reported in time, with what to do and without the password.

mod errors;
mod passwords;
mod targets;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::Engine as _;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection};

use self::errors::refused;
use crate::support::*;

#[tokio::test]
async fn a_pool_of_one_works_while_a_transaction_holds_it() {
    let url = server().await.url();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&url)
        .await
        .unwrap();

    let engine = PgmqEngine::connect(PgmqConfig::pool(pool.clone()))
        .await
        .unwrap();
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["1", "2"]).await;

    let mut tx = pool.begin().await.unwrap();
    engine
        .publish_in(&mut tx, vec![message(&queue, "3")])
        .await
        .unwrap();

    let deliveries = lease(&engine, &queue).await;
    let receipts: Vec<_> = deliveries.iter().map(|d| d.receipt.clone()).collect();
    engine.extend(&queue, &receipts, TTL).await.unwrap();

    let event = ezq_core::engine::Settle::Ack {
        outgoing: vec![message(&queue, "4")],
    };
    engine
        .settle(
            &queue,
            vec![(receipts[0].clone(), event), (receipts[1].clone(), dead())],
        )
        .await
        .unwrap();
    engine.health_check().await.unwrap();
    assert!(engine.wakeups(&queue).await.unwrap().is_some());

    tx.commit().await.unwrap();
    assert_eq!(engine.stats(&queue).await.unwrap().ready, 2);

    engine.close().await;
    // The pool is the application's.
    assert!(!pool.is_closed());
}

#[tokio::test]
async fn a_connection_that_passes_from_hand_to_hand_comes_back_for_others() {
    let config = PgmqConfig::url(&server().await.url())
        .unwrap()
        .max_connections(1);
    let engine = PgmqEngine::connect(config).await.unwrap();
    let queues: Vec<_> = (0..6).map(|_| unique("q")).collect();
    for queue in &queues {
        engine.ensure_queue(queue).await.unwrap();
    }

    let stop = Arc::new(AtomicBool::new(false));
    let publishers = queues.iter().map(|queue| {
        let engine = engine.clone();
        let queue = queue.clone();
        let stop = Arc::clone(&stop);

        tokio::spawn(async move {
            let mut published = 0;
            while !stop.load(Ordering::Relaxed) {
                publish(&engine, &queue, &["1"]).await;
                published += 1;
            }
            published
        })
    });

    let publishers: Vec<_> = publishers.collect();
    let mut pids = BTreeSet::new();
    for _ in 0..20 {
        let acquired = tokio::time::timeout(Duration::from_secs(5), engine.pool().acquire());
        let mut connection = acquired.await.expect("others get their turn").unwrap();
        pids.insert(scalar::<i32>(&mut connection, "SELECT pg_backend_pid()").await);
    }

    // Waiters that are dropped take no connection with them.
    for _ in 0..50 {
        let cut_off = engine.publish(vec![message(&queues[0], "2")]);
        let _ = tokio::time::timeout(Duration::from_micros(300), cut_off).await;
    }

    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        let published = tokio::time::timeout(Duration::from_secs(5), publisher).await;
        assert!(published.expect("none is left waiting").unwrap() > 0);
    }

    assert_eq!(pids.len(), 1, "the connection stays open: {pids:?}");
    engine.close().await;
}

#[tokio::test]
async fn own_connections_judge_rows_as_they_are_now() {
    let url = fresh_database().await;
    let name = url
        .split_once("5432/")
        .unwrap()
        .1
        .split('?')
        .next()
        .unwrap()
        .to_owned();

    let sql =
        format!("ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'");
    run(&mut connection().await, &sql).await;

    let first = engine_at(&url).await;
    let second = engine_at(&url).await;
    let queue = unique("q");
    first.ensure_queue(&queue).await.unwrap();
    let bodies: Vec<&str> = std::iter::repeat_n("1", 200).collect();
    publish(&first, &queue, &bodies).await;

    let request = || ezq_core::engine::LeaseRequest::new(queue.clone(), 5, TTL).keys(5);
    let mut got = 0;
    for _ in 0..20 {
        let (a, b) = tokio::join!(first.lease(request()), second.lease(request()));
        got += a.unwrap().deliveries.len() + b.unwrap().deliveries.len();
    }
    assert_eq!(got, 200);
}

#[tokio::test]
async fn the_server_looks_whether_the_peers_of_the_engines_own_pool_still_stand() {
    let engine = engine().await;
    let asked = sqlx::query_scalar("SELECT current_setting('client_connection_check_interval')");
    let interval: String = asked.fetch_one(engine.pool()).await.unwrap();
    assert_eq!(interval, "10s");
}

/// A session that holds the lock under which ezq changes schemas.
async fn busy_schema(url: &str) -> PgConnection {
    let mut holder = PgConnection::connect(url).await.unwrap();
    run(
        &mut holder,
        &format!("BEGIN; SELECT pg_advisory_xact_lock({})", 0x65_7a_71_01),
    )
    .await;
    holder
}

#[tokio::test]
async fn the_connect_timeout_bounds_the_wait_for_an_installation() {
    let url = fresh_database().await;
    let mut holder = busy_schema(&url).await;
    let config = || {
        PgmqConfig::url(&url)
            .unwrap()
            .connect_timeout(Duration::from_secs(2))
    };

    let error = refused(config()).await;
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    run(&mut holder, "ROLLBACK").await;
    PgmqEngine::connect(config()).await.unwrap().close().await;
}

#[tokio::test]
async fn health_and_the_end_of_a_transaction_wait_for_no_queue_in_the_making() {
    let (engine, queue) = engine_and_queue().await;
    let url = server().await.url();
    let mut holder = busy_schema(&url).await;
    let late = unique("q");

    let creating = tokio::spawn({
        let engine = engine.clone();
        let late = late.clone();
        async move { engine.ensure_queue(&late).await }
    });

    let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'advisory')";
    let mut own = connection().await;
    while !scalar::<bool>(&mut own, waits).await {}

    let others = async {
        engine.health_check().await.unwrap();
        let unit = engine.begin(&queue, None).await.unwrap();
        unit.abandon().await;
        engine.stats(&queue).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(10), others)
        .await
        .expect("they wait for nothing");
    assert!(!creating.is_finished());

    run(&mut holder, "ROLLBACK").await;
    creating.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_purge_of_many_goes_in_steps_between_which_others_have_their_turn() {
    let (engine, queue) = engine_and_queue().await;
    let fill = format!(
        "INSERT INTO pgmq.q_{queue} (vt, message) SELECT now(), '1' FROM generate_series(1, 25000);
         CREATE TABLE public.steps_{queue} (tx xid8, removed bigint);
         CREATE FUNCTION public.step_{queue}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO public.steps_{queue} SELECT pg_current_xact_id(), count(*) FROM gone;
           RETURN NULL; END $$;
         CREATE TRIGGER step AFTER DELETE ON pgmq.q_{queue} REFERENCING OLD TABLE AS gone
           FOR EACH STATEMENT EXECUTE FUNCTION public.step_{queue}()"
    );
    run(&mut connection().await, &fill).await;
    assert_eq!(engine.purge(&queue).await.unwrap(), 25_000);

    let steps = format!(
        "SELECT array_agg(removed ORDER BY removed)::text FROM public.steps_{queue} WHERE removed > 0"
    );
    let steps: String = scalar(&mut connection().await, &steps).await;
    assert_eq!(steps, "{5000,10000,10000}");
    assert_eq!(engine.purge(&queue).await.unwrap(), 0);
}

#[tokio::test]
async fn what_was_cut_while_it_was_idle_is_opened_again_and_the_call_repeated() {
    let url = fresh_database().await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    let database: String = scalar(&mut own, "SELECT current_database()").await;
    let cuts = format!("ALTER DATABASE {database} SET idle_session_timeout = '700ms'");
    run(&mut own, &cuts).await;

    let engine = engine_at(&url).await;
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();

    let sessions = "SELECT count(*) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid()";
    run(&mut own, "SET idle_session_timeout = 0").await;

    for _ in 0..5 {
        publish(&engine, &queue, &["1"]).await;
        let receipts: Vec<_> = lease(&engine, &queue)
            .await
            .into_iter()
            .map(|d| d.receipt)
            .collect();
        engine.extend(&queue, &receipts, TTL).await.unwrap();

        let batch = receipts
            .into_iter()
            .map(|receipt| (receipt, ack()))
            .collect();

        let outcomes = engine.settle(&queue, batch).await.unwrap();
        assert!(
            matches!(outcomes[..], [ezq_core::engine::SettleOutcome::Done]),
            "{outcomes:?}"
        );

        engine.stats(&queue).await.unwrap();
        engine
            .dead_letters()
            .unwrap()
            .list(&queue, None, 1)
            .await
            .unwrap();
        engine.health_check().await.unwrap();

        while scalar::<i64>(&mut own, sessions).await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Runs on a runtime of its own, which ends with it.
fn on_its_own<T: Send + 'static>(run: impl Future<Output = T> + Send + 'static) -> T {
    let alone = || tokio::runtime::Runtime::new().unwrap().block_on(run);
    std::thread::spawn(alone).join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_whose_runtime_has_ended_says_so() {
    let url = server().await.url();
    let queue = unique("q");
    let of_ended = queue.clone();
    let engine = on_its_own(async move {
        let engine = engine_at(&url).await;
        engine.ensure_queue(&of_ended).await.unwrap();
        publish(&engine, &of_ended, &["1"]).await;
        engine
    });

    for error in [
        engine
            .publish(vec![message(&queue, "2")])
            .await
            .unwrap_err(),
        engine.stats(&queue).await.unwrap_err(),
        engine.health_check().await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::RuntimeEnded, "{error:?}");
        assert!(error.to_string().contains("runtime"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_not_healthy() {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    engine.health_check().await.unwrap();
    let mut own = PgConnection::connect(&url).await.unwrap();

    for (state, is_healthy) in [("on", false), ("off", true)] {
        run(
            &mut own,
            &format!(
                "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {state}',
                                            current_database()); END $$;
                 SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ),
        )
        .await;

        // The first call may find that its connection was cut.
        let _ = engine.health_check().await;
        let health = engine.health_check().await;
        assert_eq!(health.is_ok(), is_healthy, "{health:?}");
        if let Err(error) = health {
            assert!(error.to_string().contains("takes no writes"), "{error}");
        }
    }
}
