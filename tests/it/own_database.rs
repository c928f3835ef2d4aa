//! `#[ezq::test]`: a database for each test, and the test kit on it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ezq::chrono::Utc;
use ezq::handler::{Backoff, Handler};
use ezq::message::ReasonKind;
use ezq::prelude::*;
use ezq::sqlx::{self, PgPool};
use ezq::testing::{TestDatabase, TestEzq};
use ezq::{ErrorKind, EzqBuilder};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(type = "own.ordered")]
struct Ordered {
    id: i64,
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(type = "own.booked", queue = "books")]
struct Booked {
    id: i64,
}

/// Writes in the transaction of the acknowledgement, at the third attempt.
fn book(attempts: Arc<AtomicU32>) -> Handler {
    Handler::on(
        "book",
        move |event: Ordered, context: Context, mut tx: Tx| {
            let attempts = Arc::clone(&attempts);
            async move {
                attempts.fetch_add(1, Ordering::Relaxed);
                sqlx::query("INSERT INTO bookings VALUES ($1)")
                    .bind(event.id)
                    .execute(&mut *tx)
                    .await?;
                if context.attempt() < 3 {
                    return Err(HandlerError::from("the bank does not answer"));
                }
                Ok::<_, HandlerError>(Booked { id: event.id })
            }
        },
    )
}

async fn bookings(app: &TestEzq) -> Vec<i64> {
    sqlx::query_scalar("SELECT id FROM bookings ORDER BY id")
        .fetch_all(app.pool())
        .await
        .unwrap()
}

async fn with_bookings(db: &TestDatabase, handlers: Vec<Handler>) -> TestEzq {
    let app = db
        .app(|app| {
            let hour = Backoff::constant(Duration::from_secs(3600));
            let app = app.configure(|config| config.retry.backoff = hour);
            handlers.into_iter().fold(app, EzqBuilder::register)
        })
        .await
        .unwrap();
    sqlx::query("CREATE TABLE bookings (id bigint)")
        .execute(app.pool())
        .await
        .unwrap();
    app
}

#[ezq::test]
async fn transactions_commit_and_retries_run_in_moved_time(db: TestDatabase) -> ezq::Result<()> {
    let attempts = Arc::<AtomicU32>::default();
    let file = Handler::on("file", |_: Booked| async { Err::<(), _>("no paper") });
    let handlers = vec![book(Arc::clone(&attempts)), file];
    let app = with_bookings(&db, handlers).await;

    app.publish(&Ordered { id: 7 }).await?;
    app.publish(&Ordered { id: 8 })
        .after(Duration::from_secs(3600))
        .await?;
    let report = app.drain().await?;

    assert_eq!(attempts.load(Ordering::Relaxed), 3);
    assert_eq!(bookings(&app).await, [7], "of three attempts one committed");
    assert_eq!(
        report.queues.len(),
        2,
        "the queue of an event is drained as well"
    );
    assert_eq!(app.assert_published::<Booked>().id, 7);
    assert_eq!(app.published::<Ordered>().len(), 2);

    let letter = app.assert_dead_lettered::<Booked>();
    assert_eq!(letter.event::<Booked>()?.id, 7);
    assert_eq!(letter.reason.unwrap().kind, ReasonKind::MaxAttempts);
    let (waiting, due) = app.assert_scheduled::<Ordered>();
    assert_eq!(waiting.id, 8);
    assert!(due > Utc::now());
    Ok(())
}

#[ezq::test]
async fn what_a_rolled_back_transaction_published_was_never_published(db: TestDatabase) {
    let app = with_bookings(&db, Vec::new()).await;
    let mut tx = app.pool().begin().await.unwrap();
    app.publish_many()
        .add(&Ordered { id: 1 })
        .add(&Booked { id: 1 })
        .within(&mut tx)
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    app.assert_not_published::<Ordered>();
    app.assert_not_published::<Booked>();

    let mut tx = app.pool().begin().await.unwrap();
    let several = app
        .publish_many()
        .add(&Ordered { id: 2 })
        .add(&Booked { id: 2 });
    several.within(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(app.assert_published::<Ordered>().id, 2);
    assert_eq!(app.assert_published::<Booked>().id, 2);
    app.assert_no_dead_letters();
}

#[ezq::test]
async fn an_event_that_no_handler_takes_is_an_error_of_drain(db: TestDatabase) {
    let app = with_bookings(&db, Vec::new()).await;
    app.publish(&Ordered { id: 1 }).await.unwrap();
    let error = app.drain().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoHandler);
    assert!(error.to_string().contains("own.ordered"), "{error}");
}

#[ezq::test]
async fn a_test_takes_what_it_needs(
    db: TestDatabase,
    pool: PgPool,
    builder: EzqBuilder,
    ezq: Ezq,
    app: TestEzq,
) {
    let name: String = sqlx::query_scalar("SELECT current_database()::text")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert!(db.url().contains(&name), "{} has no {name}", db.url());
    assert!(
        name.starts_with("ezq_test_a_test_takes_what_it_needs_"),
        "{name}"
    );

    // They have the handlers that this program finds at link time.
    assert!(ezq.handlers().count() > 0 && app.handlers().count() > 0);
    ezq.publish(&Ordered { id: 3 }).await.unwrap();
    assert_eq!(app.assert_published::<Ordered>().id, 3);
    let other = builder.without_discovered_handlers();
    assert_eq!(other.connect().await.unwrap().handlers().count(), 0);
}

#[ezq::test]
#[should_panic(expected = "as it should")]
async fn a_test_may_expect_a_panic(_db: TestDatabase) {
    panic!("as it should");
}

/// Whether a database of this URL can be connected to.
async fn exists(url: &str) -> bool {
    PgPool::connect(url).await.is_ok()
}

/// Runs a test by hand. On a thread of its own, since this one has a runtime.
fn run(name: &'static str, fails: bool) -> (String, bool) {
    let test = move || {
        let url = Arc::new(std::sync::Mutex::new(String::new()));
        let told = Arc::clone(&url);
        let body = |db: TestDatabase| async move {
            *told.lock().unwrap() = db.url();
            if fails { Err("as asked") } else { Ok(()) }
        };
        let ended = catch_unwind(AssertUnwindSafe(|| ezq::testing::run(name, false, body)));
        let url = url.lock().unwrap().clone();
        (url, matches!(ended, Ok(Ok(()))))
    };
    std::thread::spawn(test).join().unwrap()
}

#[tokio::test]
async fn a_database_is_kept_when_its_test_fails_and_dropped_when_it_succeeds() {
    let name = "own_database by hand::kept_or_dropped";
    let (url, is_success) = tokio::task::spawn_blocking(move || run(name, true))
        .await
        .unwrap();
    assert!(!is_success && exists(&url).await, "{url} is kept");

    // The next run has a new one of the same name.
    let (again, is_success) = tokio::task::spawn_blocking(move || run(name, false))
        .await
        .unwrap();
    assert_eq!(again, url);
    assert!(is_success && !exists(&url).await, "{url} is dropped");
}

#[test]
fn a_test_that_fails_while_it_holds_a_lock_ends() {
    let (end, has_ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let body = |db: TestDatabase| async move {
            let app = db.app(|app| app.queue("orders")).await.unwrap();
            app.publish(&Ordered { id: 1 }).await.unwrap();
            let mut held = app.pool().begin().await.unwrap();
            let lock = sqlx::query("LOCK TABLE pgmq.q_orders");
            lock.execute(&mut *held).await.unwrap();
            // It waits for the lock, and fails after some seconds.
            drop(app.published::<Ordered>());
        };
        let name = "own_database by hand::locked";
        let ended = catch_unwind(AssertUnwindSafe(|| ezq::testing::run(name, false, body)));
        // The receiver is gone once the test has failed.
        let _ = end.send(ended.is_err());
    });
    let limit = Duration::from_secs(60);
    assert_eq!(
        has_ended.recv_timeout(limit),
        Ok(true),
        "it hangs, or succeeds"
    );
}

/// The tests of this file run at once, each with a queue of this name.
#[ezq::test]
async fn databases_are_apart(db: TestDatabase) {
    let app = db.app(|app| app.queue("ezq")).await.unwrap();
    assert!(app.published::<Ordered>().is_empty());
    app.publish(&Ordered { id: 1 }).await.unwrap();
    assert_eq!(app.stats("ezq").await.unwrap().ready, 1);
}
