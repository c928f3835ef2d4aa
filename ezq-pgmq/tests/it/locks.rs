//! Other sessions' locks: what is locked waits, and nothing else; what was given up has ended on
//! the server.

use std::time::Duration;

use ezq_core::engine::{Delivery, Engine, ExtendOutcome, LeaseRequest, Settle, SettleOutcome};
use ezq_core::error::error_chain;
use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind};
use ezq_pgmq::embedded::EmbeddedPostgres;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::time::timeout;

use crate::support::*;

const CEILING: Duration = Duration::from_secs(60);

/// A session that holds a lock until it is dropped, and its process id.
async fn holder(lock: &str) -> (PgConnection, i32) {
    let mut holder = connection().await;
    let pid = scalar(&mut holder, "SELECT pg_backend_pid()").await;
    run(&mut holder, &format!("BEGIN; {lock}")).await;
    (holder, pid)
}

/// The id of a delivery in the middle, and the statement that locks its row.
fn row_of(queue: &QueueName, deliveries: &[Delivery]) -> (i64, String) {
    let id = deliveries[deliveries.len() / 2]
        .receipt
        .message_id()
        .as_number()
        .unwrap();
    (
        id,
        format!("SELECT FROM pgmq.q_{queue} WHERE msg_id = {id} FOR UPDATE"),
    )
}

fn request(queue: &QueueName) -> LeaseRequest {
    LeaseRequest::new(queue.clone(), 100, TTL).keys(100)
}

async fn ids(queue: &QueueName) -> Vec<i64> {
    let ids =
        format!("SELECT coalesce(array_agg(msg_id ORDER BY msg_id), '{{}}') FROM pgmq.q_{queue}");
    scalar(&mut connection().await, &ids).await
}

/// Twenty settlements of a queue, one of whose rows is locked.
async fn settles_all_but_the_locked_row(settle: impl Fn(usize) -> Settle) {
    let (engine, queue) = engine_and_queue().await;
    publish(&engine, &queue, &["1"; 20]).await;
    let deliveries = lease(&engine, &queue).await;
    let (locked, lock) = row_of(&queue, &deliveries);
    let (mut holder, pid) = holder(&lock).await;

    // Twice: the second time it is known that something is locked.
    let mut open: Vec<_> = deliveries.iter().map(|one| one.receipt.clone()).collect();
    let mut done = 0;

    for half in [10, 20] {
        let batch = open.split_off(open.len() - half.min(open.len()));
        let batch = batch
            .into_iter()
            .enumerate()
            .map(|(n, receipt)| (receipt, settle(n)));

        let outcomes = timeout(CEILING, engine.settle(&queue, batch.collect()))
            .await
            .unwrap();

        for outcome in outcomes.unwrap() {
            match outcome {
                SettleOutcome::Done => done += 1,
                SettleOutcome::Failed { receipt, error } => {
                    assert_eq!(receipt.message_id().as_number(), Some(locked));
                    assert_eq!(error.kind(), ErrorKind::Transient);

                    let text = error_chain(&error);
                    assert_eq!(
                        text.matches(&format!("lock held by pid {pid}")).count(),
                        1,
                        "{text}"
                    );

                    open.push(receipt);
                }
                other => panic!("nobody took it: {other:?}"),
            }
        }
    }

    assert_eq!((done, open.len()), (19, 1));
    run(&mut holder, "ROLLBACK").await;

    let again = vec![(open.remove(0), settle(0))];
    let outcomes = engine.settle(&queue, again).await.unwrap();
    assert!(
        matches!(outcomes[..], [SettleOutcome::Done]),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn all_but_a_locked_row_is_acknowledged() {
    settles_all_but_the_locked_row(|_| ack()).await;
}

#[tokio::test]
async fn all_but_a_locked_row_is_returned_or_buried_or_publishes() {
    let target = unique("q");
    engine().await.ensure_queue(&target).await.unwrap();
    settles_all_but_the_locked_row(|n| match n % 4 {
        0 => retry(TTL),
        1 => dead(),
        2 => Settle::Ack {
            outgoing: vec![message(&target, "2")],
        },
        _ => ack(),
    })
    .await;
}

#[tokio::test]
async fn what_publishes_to_a_locked_queue_holds_up_nothing_else() {
    let (engine, queue) = engine_and_queue().await;
    let target = unique("q");
    engine.ensure_queue(&target).await.unwrap();
    publish(&engine, &queue, &["1"; 3]).await;

    let deliveries = lease(&engine, &queue).await;
    let (mut holder, _) = holder(&format!("LOCK TABLE pgmq.q_{target} IN SHARE MODE")).await;
    let sends = Settle::Ack {
        outgoing: vec![message(&target, "2")],
    };
    let settles = [ack(), sends.clone(), dead()];
    let batch = deliveries
        .into_iter()
        .map(|one| one.receipt)
        .zip(settles)
        .collect();

    let outcomes = timeout(CEILING, engine.settle(&queue, batch))
        .await
        .unwrap()
        .unwrap();

    let [
        SettleOutcome::Done,
        SettleOutcome::Failed { receipt, error },
        SettleOutcome::Done,
    ] = &outcomes[..]
    else {
        panic!("{outcomes:?}")
    };
    assert_eq!(error.kind(), ErrorKind::Transient);
    run(&mut holder, "ROLLBACK").await;

    let outcomes = engine
        .settle(&queue, vec![(receipt.clone(), sends)])
        .await
        .unwrap();
    assert!(
        matches!(outcomes[..], [SettleOutcome::Done]),
        "{outcomes:?}"
    );
    assert_eq!(lease(&engine, &target).await.len(), 1);
}

#[tokio::test]
async fn a_locked_queue_holds_up_no_other() {
    let engine = engine().await;
    let locked = unique("q");
    let free = unique("q");
    for queue in [&locked, &free] {
        engine.ensure_queue(queue).await.unwrap();
        publish(&engine, queue, &["1", "2"]).await;
    }

    let held = lease(&engine, &locked).await;
    let receipts: Vec<_> = held.iter().map(|one| one.receipt.clone()).collect();
    let (mut holder, pid) = holder(&format!("LOCK TABLE pgmq.q_{locked} IN SHARE MODE")).await;
    let failed = |error: Error| {
        let text = error_chain(&error);
        assert_eq!(error.kind(), ErrorKind::Transient, "{text}");
        assert_eq!(
            text.matches(&format!("lock held by pid {pid}")).count(),
            1,
            "{text}"
        );
    };

    let acknowledge = || {
        receipts
            .iter()
            .map(|receipt| (receipt.clone(), ack()))
            .collect()
    };

    let waiting = async {
        let claims = async { failed(engine.lease(request(&locked)).await.unwrap_err()) };
        let renews = async { failed(engine.extend(&locked, &receipts, TTL).await.unwrap_err()) };
        let settles = async { failed(engine.settle(&locked, acknowledge()).await.unwrap_err()) };
        tokio::join!(claims, renews, settles);
    };

    let others = async {
        // Until all of them wait.
        let waits = format!(
            "SELECT count(DISTINCT l.pid) FROM pg_locks l
             WHERE NOT l.granted AND l.relation = 'pgmq.q_{locked}'::regclass"
        );

        let mut own = connection().await;
        while scalar::<i64>(&mut own, &waits).await < 3 {}
        let mine = lease(&engine, &free).await;
        let receipts: Vec<_> = mine.iter().map(|one| one.receipt.clone()).collect();
        let extended = engine.extend(&free, &receipts, TTL).await.unwrap();
        assert_eq!(extended, [ExtendOutcome::Extended; 2]);

        let batch = receipts
            .into_iter()
            .map(|receipt| (receipt, ack()))
            .collect();

        let outcomes = engine.settle(&free, batch).await.unwrap();
        assert!(matches!(
            outcomes[..],
            [SettleOutcome::Done, SettleOutcome::Done]
        ));
        engine.health_check().await.unwrap();
    };

    timeout(CEILING, async { tokio::join!(waiting, others) })
        .await
        .unwrap();
    run(&mut holder, "ROLLBACK").await;

    let outcomes = engine.settle(&locked, acknowledge()).await.unwrap();
    assert!(
        matches!(outcomes[..], [SettleOutcome::Done, SettleOutcome::Done]),
        "{outcomes:?}"
    );
}

/// How many statements of an application still run or wait.
/// How many statements of an engine are running, beside its look for workers that are gone.
async fn active(name: &str) -> i64 {
    let active = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE application_name = '{name}' AND state = 'active' AND query NOT LIKE '%ezq.holders%'"
    );
    scalar(&mut connection().await, &active).await
}

async fn named() -> (PgmqEngine, QueueName, QueueName) {
    let name = unique("app");
    let queue = unique("q");
    let config = PgmqConfig::url(&server().await.url())
        .unwrap()
        .application_name(name.as_str());
    let engine = PgmqEngine::connect(config).await.unwrap();
    engine.ensure_queue(&queue).await.unwrap();
    (engine, queue, name)
}

#[tokio::test]
async fn a_claim_that_was_given_up_leases_nothing_later() {
    let (engine, queue, name) = named().await;
    publish(&engine, &queue, &["1"]).await;
    let lock = format!("LOCK TABLE pgmq.q_{queue} IN ACCESS EXCLUSIVE MODE");
    let (mut holder, _) = holder(&lock).await;
    let error = engine.lease(request(&queue)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}");
    assert_eq!(active(name.as_str()).await, 0);

    run(&mut holder, "ROLLBACK").await;
    assert_eq!(lease_one(&engine, &queue).await.deliveries, 1);
}

#[tokio::test]
async fn an_acknowledgement_that_was_given_up_succeeds_never() {
    let (engine, queue, name) = named().await;
    publish(&engine, &queue, &["1"]).await;

    let delivery = lease_one(&engine, &queue).await;
    let (_, lock) = row_of(&queue, std::slice::from_ref(&delivery));
    let (mut holder, _) = holder(&lock).await;

    let settled = engine
        .settle(&queue, vec![(delivery.receipt, ack())])
        .await
        .unwrap();
    assert!(
        matches!(settled[..], [SettleOutcome::Failed { .. }]),
        "{settled:?}"
    );
    assert_eq!(active(name.as_str()).await, 0);

    run(&mut holder, "ROLLBACK").await;
    assert_eq!(ids(&queue).await.len(), 1);
}

#[tokio::test]
async fn a_statement_whose_answer_nobody_waits_for_is_stopped() {
    let (engine, queue, name) = named().await;
    let url = server().await.url();
    let config = PgmqConfig::url(&url)
        .unwrap()
        .application_name(name.as_str());
    let impatient = config.statement_timeout(Duration::from_millis(1500));
    let impatient = PgmqEngine::connect(impatient).await.unwrap();
    publish(&engine, &queue, &["1"]).await;

    let receipt = lease_one(&engine, &queue).await.receipt;
    let receipts = std::slice::from_ref(&receipt);
    let slow = format!(
        "CREATE FUNCTION slow_{queue}() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE UPDATE ON pgmq.q_{queue}
         FOR EACH ROW EXECUTE FUNCTION slow_{queue}()"
    );
    run(&mut connection().await, &slow).await;

    let renewed = timeout(CEILING, impatient.extend(&queue, receipts, TTL))
        .await
        .unwrap();
    let error = renewed.unwrap_err();
    assert!(error.is_transient(), "{error:?}");

    let ended = async { while active(name.as_str()).await > 0 {} };
    timeout(CEILING, ended)
        .await
        .expect("it has ended on the server");
    run(
        &mut connection().await,
        &format!("DROP TRIGGER slow ON pgmq.q_{queue}"),
    )
    .await;

    let extended = engine.extend(&queue, receipts, TTL).await.unwrap();
    assert_eq!(extended, [ExtendOutcome::Extended]);
}

/// Publishing through this pool gives up on a locked queue, and has ended then.
async fn publishes_nothing_later(config: PgmqConfig) {
    let name = unique("app");
    let queue = unique("q");
    let config = config.application_name(name.as_str());
    let engine = PgmqEngine::connect(config.statement_timeout(Duration::from_secs(1))).await;
    let engine = engine.unwrap();
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["1"]).await;
    let (mut holder, pid) = holder(&format!("LOCK TABLE pgmq.q_{queue} IN SHARE MODE")).await;

    let one = vec![message(&queue, "2")];
    let key = vec![keyed(&queue, "3", "key")];
    let many = vec![message(&queue, "5"); 1000];
    for messages in [one, key, many] {
        let error = timeout(CEILING, engine.publish(messages))
            .await
            .unwrap()
            .unwrap_err();
        let text = error_chain(&error);
        assert_eq!(error.kind(), ErrorKind::Transient, "{text}");
        assert_eq!(
            text.matches(&format!("lock held by pid {pid}")).count(),
            1,
            "{text}"
        );
    }

    let waits = format!(
        "SELECT count(*) FROM pg_locks
         WHERE NOT granted AND relation = 'pgmq.q_{queue}'::regclass"
    );
    assert_eq!(scalar::<i64>(&mut connection().await, &waits).await, 0);

    run(&mut holder, "ROLLBACK").await;
    publish(&engine, &queue, &["4"]).await;
    assert_eq!(ids(&queue).await.len(), 2);
}

#[tokio::test]
async fn a_publish_that_was_given_up_stores_nothing_later() {
    publishes_nothing_later(PgmqConfig::url(&server().await.url()).unwrap()).await;
}

#[tokio::test]
async fn a_publish_on_the_applications_pool_that_was_given_up_stores_nothing_later() {
    let pool = sqlx::PgPool::connect(&server().await.url()).await.unwrap();
    publishes_nothing_later(PgmqConfig::pool(pool)).await;
}

/// If it were cancelled, its commit would report success.
#[tokio::test]
async fn a_publish_whose_standby_does_not_answer_is_not_told_of_as_stored() {
    let server = EmbeddedPostgres::builder()
        .durable(true)
        .setting("synchronous_standby_names", "nobody")
        .setting("synchronous_commit", "local");

    let server = server.start().await.unwrap();
    let queue = unique("q");
    engine_at(&server.url())
        .await
        .ensure_queue(&queue)
        .await
        .unwrap();

    let mut own = PgConnection::connect(&server.url()).await.unwrap();
    run(
        &mut own,
        "ALTER ROLE CURRENT_USER SET synchronous_commit = on",
    )
    .await;

    let config = PgmqConfig::url(&server.url())
        .unwrap()
        .statement_timeout(Duration::from_secs(1));
    let engine = PgmqEngine::connect(config).await.unwrap();
    let published = timeout(CEILING, engine.publish(vec![message(&queue, "1")]))
        .await
        .unwrap();
    assert!(published.is_err(), "{published:?}");

    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert_eq!(scalar::<i64>(&mut own, waiting).await, 1);
}

#[tokio::test]
async fn a_login_whose_role_is_another_stops_its_own_statements() {
    let url = fresh_database().await;
    let login = unique("login");
    let owner = unique("owner");

    let mut own = PgConnection::connect(&url).await.unwrap();
    let database: String = scalar(&mut own, "SELECT current_database()").await;
    let sql = format!(
        "CREATE ROLE {owner}; CREATE ROLE {login} LOGIN; GRANT {owner} TO {login};
         GRANT CREATE ON DATABASE {database} TO {owner}; ALTER ROLE {login} SET role = {owner}"
    );
    run(&mut own, &sql).await;

    let name = unique("app");
    let config = PgmqConfig::url(&url.replace("postgres@", &format!("{login}@"))).unwrap();
    let config = config
        .application_name(name.as_str())
        .statement_timeout(Duration::from_secs(1));

    let engine = PgmqEngine::connect(config).await.unwrap();
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    run(
        &mut own,
        &format!("BEGIN; LOCK TABLE pgmq.q_{queue} IN SHARE MODE"),
    )
    .await;

    let published = timeout(CEILING, engine.publish(vec![message(&queue, "1")]))
        .await
        .unwrap();
    let text = error_chain(&published.unwrap_err());
    assert_eq!(text.matches("lock held by pid").count(), 1, "{text}");

    run(&mut own, "ROLLBACK").await;
    assert_eq!(active(name.as_str()).await, 0);
    let stored = format!("SELECT count(*) FROM pgmq.q_{queue}");
    assert_eq!(scalar::<i64>(&mut own, &stored).await, 0);
}
