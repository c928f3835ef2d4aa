//! Who gets a connection, and in what state.

use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinSet;

use super::*;
use crate::config::PgmqConfig;
use crate::embedded::EmbeddedPostgres;

async fn pool(connections: u32) -> Arc<Pool> {
    let url = EmbeddedPostgres::shared().await.unwrap().url();
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false);
    let connector = Connector::new(&PgmqConfig::url(&url).unwrap());
    Arc::new(Pool::new(
        pool.connect(&url).await.unwrap(),
        true,
        connector,
    ))
}

fn begin(name: &str) -> String {
    format!("BEGIN; SET LOCAL application_name = '{name}'")
}

async fn name(connection: &mut PgConnection) -> String {
    let asked = sqlx::query_scalar("SELECT current_setting('application_name')");
    asked.fetch_one(connection).await.unwrap()
}

async fn is_in_transaction(connection: &mut PgConnection) -> bool {
    sqlx::raw_sql("SAVEPOINT here")
        .execute(connection)
        .await
        .is_ok()
}

/// One use of a connection, of one kind or another.
async fn use_one(pool: &Arc<Pool>, n: u32) {
    if n.is_multiple_of(7) {
        let mut lease = pool.acquire().await.unwrap();
        assert_eq!(lease.depth(), 0);
        assert!(!is_in_transaction(&mut lease).await);
        return lease.give_back();
    }
    if n.is_multiple_of(11) {
        let mut direct = pool.pool.acquire().await.unwrap();
        return assert!(!is_in_transaction(&mut direct).await);
    }
    let own = format!("unit-{n}");
    let mut lease = pool.begin(begin(&own)).await.unwrap();
    assert_eq!(name(&mut lease).await, own);
    if n.is_multiple_of(13) {
        // As one that was begun for someone who is gone.
        return lease.give_back();
    }
    let next = lease.commit(None).await.unwrap();
    lease.pass_to(next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_a_connection_has_it_alone_and_in_its_own_transaction() {
    let pool = pool(3).await;
    let mut tasks = JoinSet::new();
    for n in 1..=2000_u32 {
        let pool = Arc::clone(&pool);
        tasks.spawn(async move {
            if n.is_multiple_of(5) {
                // Gives up at any point.
                let patience = Duration::from_micros(rand::random_range(0..20_000));
                let _ = timeout(patience, use_one(&pool, n)).await;
            } else {
                use_one(&pool, n).await;
            }
        });
    }
    let all = async { while tasks.join_next().await.transpose().unwrap().is_some() {} };
    timeout(Duration::from_secs(60), all)
        .await
        .expect("nobody is left waiting");
    // What went back in the background is there again.
    let mut free = Vec::new();
    for _ in 0..3 {
        free.push(
            timeout(Duration::from_secs(10), pool.pool.acquire())
                .await
                .unwrap()
                .unwrap(),
        );
    }
    for connection in &mut free {
        assert!(!name(connection).await.starts_with("unit-"));
    }
}

#[tokio::test]
async fn who_waits_keeps_its_turn_when_a_commit_fails() {
    let pool = pool(1).await;
    let mut fails = pool.begin(begin("fails")).await.unwrap();
    let deferred = "CREATE TEMP TABLE once (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
                    INSERT INTO once VALUES (1), (1)";
    sqlx::raw_sql(deferred).execute(&mut *fails).await.unwrap();
    let mut tasks = JoinSet::new();
    let order = Arc::new(Mutex::new(Vec::new()));
    for n in 0..5 {
        let held = Arc::clone(&pool);
        let order = Arc::clone(&order);
        tasks.spawn(async move {
            let mut lease = held.begin(begin("waits")).await.unwrap();
            order.lock().unwrap().push(n);
            let next = lease.commit(None).await.unwrap();
            lease.pass_to(next);
        });
        while pool.waiting().len() <= n {
            tokio::task::yield_now().await;
        }
    }
    assert!(fails.commit(None).await.is_err());
    PgTransactionManager::rollback(&mut fails).await.unwrap();
    fails.give_back();
    while tasks.join_next().await.transpose().unwrap().is_some() {}
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn who_waits_no_longer_is_forgotten() {
    let pool = pool(1).await;
    let held = pool.acquire().await.unwrap();
    for _ in 0..100 {
        let waits = timeout(Duration::from_micros(10), pool.begin(begin("waits")));
        assert!(waits.await.is_err());
    }
    assert_eq!(pool.waiting().len(), 1);
    held.give_back();
    pool.begin(begin("waits")).await.unwrap().give_back();
}

async fn backend(connection: &mut PgConnection) -> i32 {
    let asked = sqlx::query_scalar("SELECT pg_backend_pid()");
    asked.fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn a_connection_rests_before_it_goes_back_and_only_where_another_is_left() {
    let few = pool(1).await;
    few.acquire().await.unwrap().give_back();
    assert_eq!(few.resting().connections.len(), 0);

    let pool = pool(2).await;
    let mut lease = pool.acquire().await.unwrap();
    let first = backend(&mut lease).await;
    lease.give_back();
    let mut again = pool.acquire().await.unwrap();
    assert_eq!((backend(&mut again).await, again.handovers), (first, 1));
    again.give_back();

    // Unused it goes back, and so does one that has rested often enough.
    let is_back = async {
        while pool.pool.num_idle() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let is_back = timeout(Duration::from_secs(10), is_back).await;
    is_back.expect("it goes back");
    assert_eq!(pool.resting().connections.len(), 0);
    let mut lease = pool.acquire().await.unwrap();
    lease.handovers = MAX_HANDOVERS;
    lease.give_back();
    assert_eq!(pool.resting().connections.len(), 0);
}

#[tokio::test]
async fn a_connection_in_a_transaction_does_not_rest() {
    let pool = pool(2).await;
    pool.begin(begin("left")).await.unwrap().give_back();
    assert_eq!(pool.resting().connections.len(), 0);
}

#[test]
fn connections_that_rest_when_the_runtime_ends_are_dropped_with_it() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let pool = runtime.block_on(async {
        let pool = pool(2).await;
        pool.acquire().await.unwrap().give_back();
        assert_eq!(pool.resting().connections.len(), 1);
        pool
    });
    drop(runtime);
    let resting = pool.resting();
    assert!(resting.connections.is_empty() && !resting.is_watched);
}

#[tokio::test]
async fn what_rests_beside_another_runtime_goes_back_when_that_ends() {
    let pool = pool(2).await;
    let other = Arc::clone(&pool);
    let publishing = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async { other.acquire().await.unwrap().give_back() });
    });
    publishing.await.unwrap();
    let closed = timeout(Duration::from_secs(10), pool.pool.close()).await;
    closed.expect("every connection is back");
}
