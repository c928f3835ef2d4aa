//! Looks into idle queues: one statement for several, and none that one queue holds up.

use std::time::{Duration, Instant};

use ezq_core::engine::{Due, Engine as _, LookRequest, Looked, SharedLooks as _};
use ezq_core::message::QueueName;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::*;

const NOTHING: Looked = Looked::Nothing { next_due: None };
/// When looks are due.
const SOON: Duration = Duration::from_millis(200);
/// How long nothing takes here.
const CEILING: Duration = Duration::from_secs(60);

/// Queues, in the order in which they are looked into.
async fn queues<const N: usize>(engine: &PgmqEngine) -> [QueueName; N] {
    let queues = [(); N].map(|()| unique("idle"));
    for queue in &queues {
        engine.ensure_queue(queue).await.unwrap();
    }
    queues
}

/// Looks into queues as their consumers do, and returns the answers in the order of the queues.
async fn look_within(engine: &PgmqEngine, queues: &[(&QueueName, Duration)]) -> Vec<Looked> {
    let mut looks = JoinSet::new();
    for (place, (queue, patience)) in queues.iter().enumerate() {
        let engine = engine.clone();
        let request = LookRequest::new((*queue).clone(), TTL, *patience);
        looks.spawn(async move { (place, engine.look(request).await) });
    }
    let mut looked = timeout(CEILING, looks.join_all()).await.unwrap();
    looked.sort_by_key(|(place, _)| *place);
    looked.into_iter().map(|(_, looked)| looked).collect()
}

async fn look(engine: &PgmqEngine, queues: &[&QueueName]) -> Vec<Looked> {
    let queues: Vec<_> = queues.iter().map(|queue| (*queue, SOON)).collect();
    look_within(engine, &queues).await
}

/// An engine and its queues in a database in which nothing else runs, and a connection to it.
async fn alone<const N: usize>() -> (PgmqEngine, [QueueName; N], PgConnection) {
    let url = fresh_database().await;
    let engine = engine_at(&url).await;
    let queues = queues(&engine).await;
    let connection = PgConnection::connect(&url).await.unwrap();
    (engine, queues, connection)
}

fn next_due(looked: Looked) -> Option<Duration> {
    match looked {
        Looked::Nothing { next_due } => next_due,
        other => panic!("not empty: {other:?}"),
    }
}

#[tokio::test]
async fn they_tell_what_a_claim_would_find() {
    let engine = engine().await;
    let [empty, ready, scheduled, leased] = queues(&engine).await;
    publish(&engine, &ready, &["1"]).await;
    let later = message(&scheduled, "1").due(Due::After(Duration::from_secs(600)));
    engine.publish(vec![later]).await.unwrap();
    publish(&engine, &leased, &["1"]).await;
    lease_one(&engine, &leased).await;

    let looked = look(&engine, &[&empty, &ready, &scheduled, &leased]).await;
    assert_eq!(looked[0], NOTHING);
    assert_eq!(looked[1], Looked::Perhaps);
    let due = next_due(looked[2]).unwrap();
    assert!((540..=600).contains(&due.as_secs()), "{due:?}");
    // The lease may have ended on a busy machine, but not have begun anew.
    if let Looked::Nothing { next_due: due } = looked[3] {
        assert!(due.unwrap() <= TTL + Duration::from_secs(1), "{due:?}");
    }
}

#[tokio::test]
async fn any_due_time_can_be_told() {
    let engine = engine().await;
    let [never, always, other] = queues(&engine).await;
    publish(&engine, &never, &["1"]).await;
    publish(&engine, &always, &["1"]).await;
    let mut connection = connection().await;
    run(
        &mut connection,
        &format!(
            "UPDATE pgmq.q_{never} SET vt = 'infinity'; UPDATE pgmq.q_{always} SET vt = '-infinity'"
        ),
    )
    .await;

    let looked = look(&engine, &[&never, &always, &other]).await;
    let year = Duration::from_secs(365 * 24 * 3600);
    assert!(next_due(looked[0]).unwrap() >= year);
    assert_eq!(looked[1..], [Looked::Perhaps, NOTHING]);
}

#[tokio::test]
async fn one_that_looks_alone_is_left_to_its_claim_when_that_is_due() {
    let engine = engine().await;
    let [queue] = queues(&engine).await;
    let began = Instant::now();
    assert_eq!(look(&engine, &[&queue]).await, [Looked::Perhaps]);
    assert!(began.elapsed() >= SOON);
}

#[tokio::test]
async fn the_first_that_is_due_answers_those_that_wait() {
    let engine = engine().await;
    let [first, later, last] = queues(&engine).await;
    let began = Instant::now();
    let looks = [(&last, 2 * CEILING), (&later, CEILING), (&first, SOON)];
    assert_eq!(look_within(&engine, &looks).await, [NOTHING; 3]);
    assert!(began.elapsed() < CEILING);
}

#[tokio::test]
async fn two_consumers_of_one_queue_are_answered_both() {
    let engine = engine().await;
    let [queue, other] = queues(&engine).await;
    let looked = look(&engine, &[&queue, &other, &queue]).await;
    assert_eq!(looked, [NOTHING; 3]);
}

#[tokio::test]
async fn more_queues_than_one_statement_looks_into_are_answered_all() {
    let engine = engine().await;
    let queues: [QueueName; 120] = queues(&engine).await;
    publish(&engine, &queues[70], &["1"]).await;

    let looked = look(&engine, &queues.each_ref()).await;
    for (place, looked) in looked.into_iter().enumerate() {
        let expected = if place == 70 {
            Looked::Perhaps
        } else {
            NOTHING
        };
        assert_eq!(looked, expected, "{place}");
    }
}

#[tokio::test]
async fn a_missing_queue_leaves_the_others_to_their_claims() {
    let (engine, [first, missing, last], mut connection) = alone().await;
    run(&mut connection, &format!("DROP TABLE pgmq.q_{missing}")).await;
    let looked = look(&engine, &[&first, &missing, &last]).await;
    assert_eq!(looked, [Looked::Perhaps; 3]);

    // Nor are they looked into together again at once.
    let began = Instant::now();
    assert_eq!(look(&engine, &[&first, &last]).await, [Looked::Perhaps; 2]);
    assert!(began.elapsed() >= SOON);

    let [new, newer] = queues(&engine).await;
    assert_eq!(look(&engine, &[&new, &newer]).await, [NOTHING; 2]);
}

#[tokio::test]
async fn a_locked_queue_holds_up_no_look_and_no_session_that_locks_several() {
    let (engine, [first, locked, last], mut holder) = alone().await;
    // What the look says of a queue without a lock.
    assert_eq!(look(&engine, &[&first, &last]).await, [NOTHING; 2]);
    run(
        &mut holder,
        &format!(
            "SET lock_timeout = '20s'; BEGIN; LOCK TABLE pgmq.q_{locked} IN ACCESS EXCLUSIVE MODE"
        ),
    )
    .await;

    let looking = tokio::spawn(async move {
        let looked = look(&engine, &[&first, &locked, &last]).await;
        (looked, engine, first)
    });
    let (looked, _engine, first) = timeout(CEILING, looking).await.unwrap().unwrap();
    assert_eq!(looked, [Looked::Perhaps; 3]);
    // The look holds no lock any more.
    run(
        &mut holder,
        &format!("LOCK TABLE pgmq.q_{first} IN ACCESS EXCLUSIVE MODE; COMMIT"),
    )
    .await;
}

#[tokio::test]
async fn a_session_that_locks_what_a_look_has_read_is_not_the_victim() {
    let (engine, [first, locked], mut holder) = alone().await;
    // Any deadlock makes a victim of whoever notices it, and the holder notices it first.
    run(
        &mut holder,
        &format!(
            "SET deadlock_timeout = '500ms'; BEGIN;
             LOCK TABLE pgmq.q_{locked} IN ACCESS EXCLUSIVE MODE"
        ),
    )
    .await;
    let waits = format!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'pgmq.q_{locked}'::regclass AND NOT granted)"
    );

    let queue = first.clone();
    let looking = tokio::spawn(async move { look(&engine, &[&queue, &locked]).await });
    while !looking.is_finished() && !scalar::<bool>(&mut holder, &waits).await {}
    run(
        &mut holder,
        &format!("LOCK TABLE pgmq.q_{first} IN ACCESS EXCLUSIVE MODE; COMMIT"),
    )
    .await;
    let looked = timeout(CEILING, looking).await.unwrap().unwrap();
    assert_eq!(looked, [Looked::Perhaps; 2]);
}

#[tokio::test]
async fn where_nothing_may_be_written_a_claim_is_to_say_so() {
    let (engine, [first, last], mut connection) = alone().await;
    run(
        &mut connection,
        "DO $$ BEGIN
           EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database());
         END $$",
    )
    .await;
    // The connection that looks is opened now.
    assert_eq!(look(&engine, &[&first, &last]).await, [Looked::Perhaps; 2]);
}

#[tokio::test]
async fn a_queue_that_may_be_read_and_not_claimed_from_is_left_to_its_claim() {
    let url = fresh_database().await;
    let owner = engine_at(&url).await;
    let [allowed, refused] = queues(&owner).await;
    let role = unique("reader");
    let mut connection: PgConnection = PgConnection::connect(&url).await.unwrap();
    run(
        &mut connection,
        &format!(
            "CREATE ROLE {role} LOGIN;
             GRANT USAGE ON SCHEMA pgmq TO {role};
             GRANT SELECT ON ALL TABLES IN SCHEMA pgmq TO {role};
             GRANT UPDATE ON pgmq.q_{allowed} TO {role}"
        ),
    )
    .await;

    let options: PgConnectOptions = url.parse().unwrap();
    let config = PgmqConfig::options(options.username(role.as_str())).manage_schema(false);
    let engine = PgmqEngine::connect(config).await.unwrap();
    let looked = look(&engine, &[&allowed, &refused]).await;
    assert_eq!(looked, [NOTHING, Looked::Perhaps]);
}

#[tokio::test]
async fn a_partitioned_queue_is_left_to_its_claim() {
    let (engine, [whole, parted], _) = alone().await;
    engine.partition_queue(&parted, 4).await.unwrap();
    // The claim learns of the partitions.
    assert_eq!(lease(&engine, &parted).await.len(), 0);
    let [other] = queues(&engine).await;
    let looked = look(&engine, &[&whole, &parted, &other]).await;
    assert_eq!(looked, [NOTHING, Looked::Perhaps, NOTHING]);
}

#[tokio::test]
async fn a_queue_whose_front_is_slow_to_read_is_left_to_its_claims() {
    let (engine, [whole, slow, other], mut connection) = alone().await;
    // Rows that are gone stay in the index while a snapshot may see them.
    let mut snapshot = PgConnection::connect_with(&engine.pool().connect_options())
        .await
        .unwrap();
    run(
        &mut connection,
        &format!(
            "INSERT INTO pgmq.q_{slow} (vt, message) SELECT now(), '1' FROM generate_series(1, 300000)"
        ),
    )
    .await;
    run(
        &mut snapshot,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1",
    )
    .await;
    run(&mut connection, &format!("DELETE FROM pgmq.q_{slow}")).await;

    // Claims find out, once some in a row were slow.
    for _ in 0..4 {
        assert_eq!(lease(&engine, &slow).await.len(), 0);
    }
    let looked = look(&engine, &[&whole, &slow, &other]).await;
    assert_eq!(looked, [NOTHING, Looked::Perhaps, NOTHING]);
}

#[tokio::test]
async fn one_that_was_woken_meanwhile_holds_up_no_other() {
    let engine = engine().await;
    let [woken, first, last] = queues(&engine).await;
    let request = LookRequest::new(woken.clone(), TTL, Duration::ZERO);
    for _ in 0..100 {
        // Dropped at any time of the look.
        let _ = timeout(Duration::from_micros(500), engine.look(request.clone())).await;
    }
    assert_eq!(look(&engine, &[&first, &last]).await, [NOTHING; 2]);
}

#[tokio::test]
async fn a_closed_engine_answers() {
    let engine = engine().await;
    let [first, last] = queues(&engine).await;
    let looks = [(&first, CEILING), (&last, CEILING)];
    let began = Instant::now();
    let (looked, ()) = tokio::join!(look_within(&engine, &looks), async {
        tokio::time::sleep(SOON).await;
        engine.close().await;
    });
    assert_eq!(looked, [Looked::Perhaps; 2]);
    assert!(began.elapsed() < CEILING);
    assert_eq!(look(&engine, &[&first, &last]).await, [Looked::Perhaps; 2]);
}

#[tokio::test]
async fn an_engine_that_only_looks_is_noted_with_the_leases_of_its_consumers() {
    let (engine, [first, last], mut connection) = alone().await;
    assert_eq!(lease(&engine, &first).await.len(), 0);
    let longer = 2 * TTL;
    let looks = [&first, &last].map(|queue| {
        let request = LookRequest::new(queue.clone(), longer, SOON);
        let engine = engine.clone();
        async move { engine.look(request).await }
    });
    let [first, last] = looks;
    assert_eq!(tokio::join!(first, last), (NOTHING, NOTHING));

    // It looks for what is gone as long as it looks for events.
    let noted = format!(
        "SELECT EXISTS (SELECT FROM ezq.holders WHERE lease = interval '{} s')",
        longer.as_secs()
    );
    let began = Instant::now();
    while !scalar::<bool>(&mut connection, &noted).await {
        assert!(began.elapsed() < CEILING, "it was never noted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
