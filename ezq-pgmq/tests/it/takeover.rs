//! What a worker held that is gone is due again within seconds; what a living one holds stays with it.
//!
//! Here a worker is an engine. A dropped engine closes its sockets without a word, as a killed process does.
//! The trials of the root crate kill, stop and cut off real processes.

use std::time::{Duration, Instant};

use ezq_core::engine::{Delivery, Engine as _, ExtendOutcome, Settle, SettleOutcome};
use ezq_core::message::QueueName;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::postgres::PgConnection;

use crate::support::*;

/// Far more than a takeover takes, and far less than the lease.
const PATIENCE: Duration = Duration::from_secs(15);
/// More than a takeover takes.
const LONG_ENOUGH: Duration = Duration::from_secs(4);

/// Leases until there is something, as a consumer does.
async fn lease_soon(engine: &PgmqEngine, queue: &QueueName, count: usize) -> Vec<Delivery> {
    let began = Instant::now();
    let mut leased = Vec::new();
    while leased.len() < count {
        leased.extend(lease(engine, queue).await);
        assert!(
            began.elapsed() < PATIENCE,
            "only {} of {count}",
            leased.len()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    leased
}

/// Leases for longer than a takeover takes, and expects nothing.
async fn lease_nothing(engine: &PgmqEngine, queue: &QueueName) {
    let began = Instant::now();
    while began.elapsed() < LONG_ENOUGH {
        assert_eq!(
            lease(engine, queue).await.len(),
            0,
            "after {:?}",
            began.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn settle_one(
    engine: &PgmqEngine,
    queue: &QueueName,
    delivery: Delivery,
    settle: Settle,
) -> SettleOutcome {
    let settled = engine.settle(queue, vec![(delivery.receipt, settle)]).await;
    settled.unwrap().remove(0)
}

/// The sign that an engine's leases carry, read from a message that it holds.
async fn sign_of(connection: &mut PgConnection, queue: &QueueName) -> i32 {
    let sql = format!(
        "SELECT ((extract(epoch FROM vt) * 1000000)::bigint % 262144)::integer FROM pgmq.q_{queue}"
    );
    scalar(connection, &sql).await
}

async fn is_entered(connection: &mut PgConnection, sign: i32) -> bool {
    let sql = format!("SELECT EXISTS (SELECT FROM ezq.holders WHERE sign = {sign})");
    scalar(connection, &sql).await
}

/// Leases a message, and renews the lease until it carries a sign: on a busy machine the engine may get its
/// sign after the first claim.
async fn signed_lease(engine: &PgmqEngine, queue: &QueueName) -> Delivery {
    let mut own = connection().await;
    let held = lease_one(engine, queue).await;
    let began = Instant::now();
    loop {
        let sign = sign_of(&mut own, queue).await;
        if is_entered(&mut own, sign).await {
            return held;
        }

        assert!(began.elapsed() < PATIENCE);
        let receipts = std::slice::from_ref(&held.receipt);
        let extended = engine.extend(queue, receipts, TTL).await;
        assert_eq!(extended.unwrap(), [ExtendOutcome::Extended]);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A worker with a name by which its sessions can be found.
async fn named(name: &str) -> PgmqEngine {
    let url = format!("{}&application_name={name}", server().await.url());
    PgmqEngine::connect(PgmqConfig::url(&url).unwrap())
        .await
        .unwrap()
}

async fn end_sessions(name: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = '{name}') ended"
    );
    scalar(&mut connection().await, &sql).await
}

#[tokio::test]
async fn what_a_dropped_engine_held_is_taken_over() {
    let (survivor, queue) = engine_and_queue().await;
    let gone = engine().await;
    let ids = publish(&survivor, &queue, &["1", "2", "3"]).await;
    assert_eq!(lease(&gone, &queue).await.len(), 3);
    assert_eq!(lease(&survivor, &queue).await.len(), 0);

    drop(gone);
    let taken = lease_soon(&survivor, &queue, 3).await;
    let held: Vec<_> = taken.iter().map(|one| one.receipt.message_id()).collect();
    assert_eq!(held, ids.iter().collect::<Vec<_>>(), "in their order");
    assert!(taken.iter().all(|one| one.deliveries == 2), "{taken:?}");
}

#[tokio::test]
async fn a_worker_that_starts_after_the_death_takes_over_as_well() {
    let (gone, queue) = engine_and_queue().await;
    publish(&gone, &queue, &["1"]).await;
    lease_one(&gone, &queue).await;
    drop(gone);

    lease_soon(&engine().await, &queue, 1).await;
}

#[tokio::test]
async fn an_engine_that_closes_leaves_what_it_held_to_others() {
    let (survivor, queue) = engine_and_queue().await;
    let leaving = engine().await;
    publish(&survivor, &queue, &["1"]).await;
    lease_one(&leaving, &queue).await;

    leaving.close().await;
    lease_soon(&survivor, &queue, 1).await;
}

#[tokio::test]
async fn ordering_keys_of_a_dropped_engine_are_free_again() {
    let (survivor, queue) = engine_and_queue().await;
    let gone = engine().await;
    for body in ["1", "2"] {
        let mut message = message(&queue, body);
        message.headers.insert("x-pgmq-group", "ada");
        survivor.publish(vec![message]).await.unwrap();
    }
    assert_eq!(lease(&gone, &queue).await.len(), 2);

    drop(gone);
    let taken = lease_soon(&survivor, &queue, 2).await;
    let bodies: Vec<_> = taken.iter().map(|one| one.body.as_str()).collect();
    assert_eq!(bodies, ["1", "2"]);
}

#[tokio::test]
async fn a_worker_whose_sessions_are_all_cut_keeps_its_messages() {
    let (survivor, queue) = engine_and_queue().await;
    let name = format!("cut_{queue}");
    let holder = named(&name).await;
    publish(&survivor, &queue, &["1"]).await;
    let held = lease_one(&holder, &queue).await;

    assert!(end_sessions(&name).await >= 2);
    lease_nothing(&survivor, &queue).await;

    let extended = holder
        .extend(&queue, std::slice::from_ref(&held.receipt), TTL)
        .await;
    assert_eq!(extended.unwrap(), [ExtendOutcome::Extended]);
    let outcome = settle_one(&holder, &queue, held, ack()).await;
    assert!(matches!(outcome, SettleOutcome::Done), "{outcome:?}");
}

#[tokio::test]
async fn a_worker_that_lost_some_of_its_sessions_keeps_its_messages() {
    let (survivor, queue) = engine_and_queue().await;
    let name = format!("partly_{queue}");
    let holder = named(&name).await;
    publish(&survivor, &queue, &["1"]).await;
    lease_one(&holder, &queue).await;

    // Again and again: of all its sessions, those that hold the sign longest.
    for _ in 0..8 {
        let oldest = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = '{name}' ORDER BY backend_start LIMIT 1"
        );
        run(&mut connection().await, &oldest).await;
        let request = ezq_core::engine::LeaseRequest::new(queue.clone(), 1, TTL);
        // The holder asks on; a call over a session that was just cut may fail.
        let _ = holder.lease(request).await;
        assert_eq!(lease(&survivor, &queue).await.len(), 0);
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
}

#[tokio::test]
async fn a_late_receipt_is_valid_until_the_message_is_claimed_again() {
    let (survivor, queue) = engine_and_queue().await;
    let gone = engine().await;
    publish(&survivor, &queue, &["1", "2"]).await;
    let mut held = lease(&gone, &queue).await;
    lease_nothing_held(&survivor, &queue).await;
    drop(gone);

    // Made due, and not claimed: the survivor asks for one only.
    let request = ezq_core::engine::LeaseRequest::new(queue.clone(), 1, TTL);
    let began = Instant::now();
    let taken = loop {
        let mut leased = survivor.lease(request.clone()).await.unwrap().deliveries;
        if let Some(taken) = leased.pop() {
            break taken;
        }
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let claimed_again = held
        .iter()
        .position(|one| one.receipt.message_id() == taken.receipt.message_id());
    let claimed_again = held.remove(claimed_again.unwrap());

    let other = engine().await;
    let late = settle_one(&other, &queue, claimed_again, ack()).await;
    assert!(matches!(late, SettleOutcome::LeaseLost), "{late:?}");
    let due_only = settle_one(&other, &queue, held.remove(0), ack()).await;
    assert!(matches!(due_only, SettleOutcome::Done), "{due_only:?}");
    let outcome = settle_one(&survivor, &queue, taken, ack()).await;
    assert!(matches!(outcome, SettleOutcome::Done), "{outcome:?}");
}

async fn lease_nothing_held(engine: &PgmqEngine, queue: &QueueName) {
    assert_eq!(lease(engine, queue).await.len(), 0);
}

#[tokio::test]
async fn what_others_lease_or_wait_for_is_left_alone() {
    let (survivor, queue) = engine_and_queue().await;
    let mut own = connection().await;
    let gone = engine().await;
    publish(&survivor, &queue, &["1", "2", "3"]).await;
    let leased = lease(&gone, &queue).await;
    let mut leased = leased.into_iter();

    // The first waits for its retry; another client reads the second, without a sign.
    settle_one(&gone, &queue, leased.next().unwrap(), retry(TTL)).await;
    settle_one(&gone, &queue, leased.next().unwrap(), Settle::Release).await;
    let read = format!("SELECT count(*) FROM pgmq.read('{queue}', 30, 1)");
    assert_eq!(scalar::<i64>(&mut own, &read).await, 1);
    lease_nothing_held(&survivor, &queue).await;

    drop(gone);
    let taken = lease_soon(&survivor, &queue, 1).await;
    assert_eq!(taken[0].body, "3");
    lease_nothing(&survivor, &queue).await;
}

#[tokio::test]
async fn leases_carry_the_sign_of_their_engine_and_last_as_long_as_asked() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    publish(&engine, &queue, &["1"]).await;
    let held = signed_lease(&engine, &queue).await;
    let sign = sign_of(&mut own, &queue).await;

    for ttl in [TTL, Duration::from_secs(2)] {
        let extended = engine
            .extend(&queue, std::slice::from_ref(&held.receipt), ttl)
            .await;
        assert_eq!(extended.unwrap(), [ExtendOutcome::Extended]);
        assert_eq!(sign_of(&mut own, &queue).await, sign);
        let lasts = format!(
            "SELECT extract(epoch FROM vt - clock_timestamp())::float8 FROM pgmq.q_{queue}"
        );
        let lasts: f64 = scalar(&mut own, &lasts).await;
        let asked = ttl.as_secs_f64();
        assert!(
            lasts > asked - 1.0 && lasts < asked + 0.3,
            "{lasts} of {asked}"
        );
    }
}

#[tokio::test]
async fn a_short_lease_carries_no_sign() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    publish(&engine, &queue, &["1"]).await;
    lease_for(&engine, &queue, Duration::from_millis(1900)).await;
    let sign = sign_of(&mut own, &queue).await;
    assert!(!is_entered(&mut own, sign).await);
}

#[tokio::test]
async fn a_role_that_must_not_write_the_table_leases_without_a_sign() {
    let url = fresh_database().await;
    let owner = engine_at(&url).await;
    let queue = unique("q");
    owner.ensure_queue(&queue).await.unwrap();
    publish(&owner, &queue, &["1"]).await;
    let mut own = <PgConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    let role = unique("plain");
    let grants = format!(
        "CREATE ROLE {role} LOGIN;
         GRANT USAGE ON SCHEMA pgmq TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON pgmq.q_{queue}, pgmq.q_{queue}_dlq TO {role};
         GRANT SELECT ON pgmq.meta TO {role};"
    );
    run(&mut own, &grants).await;

    let config = PgmqConfig::url(&url.replace("postgres@", &format!("{role}@"))).unwrap();
    let engine = PgmqEngine::connect(config.manage_schema(false))
        .await
        .unwrap();
    let began = Instant::now();
    let held = lease_one(&engine, &queue).await;
    // Known at once: the first lease does not wait until its patience ends.
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
    let sign = sign_of(&mut own, &queue).await;
    let outcome = settle_one(&engine, &queue, held, ack()).await;
    assert!(matches!(outcome, SettleOutcome::Done), "{outcome:?}");
    let table = "SELECT to_regclass('ezq.holders') IS NULL";
    assert!(scalar::<bool>(&mut own, table).await, "sign {sign}");
}

#[tokio::test]
async fn an_engine_that_the_others_forgot_enters_again() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    publish(&engine, &queue, &["1"]).await;
    let held = signed_lease(&engine, &queue).await;
    let sign = sign_of(&mut own, &queue).await;
    run(
        &mut own,
        &format!("DELETE FROM ezq.holders WHERE sign = {sign}"),
    )
    .await;

    let began = Instant::now();
    while !is_entered(&mut own, sign).await {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    settle_one(&engine, &queue, held, ack()).await;
}

#[tokio::test]
async fn a_dropped_table_of_holders_stops_no_lease_and_is_made_again() {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["1"]).await;
    lease_one(&engine, &queue).await;

    let mut own = <PgConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    run(&mut own, "DROP TABLE ezq.holders").await;
    publish(&engine, &queue, &["2"]).await;
    lease_one(&engine, &queue).await;

    let began = Instant::now();
    while scalar::<bool>(&mut own, "SELECT to_regclass('ezq.holders') IS NULL").await {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
