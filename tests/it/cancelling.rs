//! Cancelling events on PGMQ: in other processes, with transactions and batches, and after a worker is gone.

use std::time::Duration;

use ezq::admin::{Cancel, CancelOutcome};
use ezq::message::{MessageId, Progress, ReasonKind, Retention};
use ezq::prelude::*;
use ezq::sqlx::{self, AssertSqlSafe};
use ezq::{Handler, QueueName};

use crate::child::{Job, Outcome, Process, Role, Waits, Worker, create_ledger};
use crate::database;
use crate::kit::{Log, Numbered, Work, app, held, numbered, only_dead, queue, soon, until};

async fn connect(queue: &QueueName, handler: Handler) -> Ezq {
    let ezq = app(queue)
        .retention(queue.as_str(), Retention::ARCHIVE)
        .register(handler)
        .connect()
        .await
        .unwrap();
    ezq.engine(queue).ensure_queue(queue).await.unwrap();
    ezq
}

async fn publish(ezq: &Ezq, n: i64) -> MessageId {
    ezq.publish(&Numbered { n }).await.unwrap().id
}

async fn cancel(ezq: &Ezq, queue: &QueueName, id: &MessageId, what: Cancel) -> CancelOutcome {
    ezq.events(queue).unwrap().cancel(id, what).await.unwrap()
}

/// How many orders for a queue are kept.
async fn orders(ezq: &Ezq, queue: &QueueName) -> i64 {
    let sql = "SELECT count(*) FROM ezq.cancellations WHERE queue = $1";
    let query = sqlx::query_scalar(sql).bind(queue.as_str());
    query.fetch_one(ezq.pool()).await.unwrap()
}

/// How many messages are in the archive of a queue.
async fn archived(ezq: &Ezq, queue: &QueueName) -> i64 {
    let sql = format!("SELECT count(*) FROM pgmq.a_{queue}");
    let query = sqlx::query_scalar(AssertSqlSafe(sql));
    query.fetch_one(ezq.pool()).await.unwrap()
}

#[tokio::test]
async fn a_handler_that_sleeps_in_another_process_is_cut_off() {
    let url = database::server().await.url();
    let queue = database::unique("cancelling");
    let mut own = database::connection(&url).await;
    create_ledger(&mut own, &queue).await;
    let ezq = database::app(&url, []).await;
    ezq.engine(&queue).ensure_queue(&queue).await.unwrap();
    let start = |name: &str| {
        let worker = Worker {
            queue: queue.to_string(),
            name: name.to_owned(),
            concurrency: 2,
            lease: Duration::from_secs(5),
            waits: Waits::Forever,
            says: Outcome::Done,
        };
        Process::start(&url, &Role::Worker(worker))
    };
    let mut worker = start("a");
    let mut ids = Vec::new();
    for n in [1, 2] {
        let published = ezq.publish(&Job { n }).queue(&queue).await.unwrap();
        ids.push(published.id);
    }
    worker.hear("started").await;
    worker.hear("started").await;

    let events = ezq.events(&queue).unwrap();
    let asked = events.cancel(&ids[0], Cancel::Dead).by("Ada").await;
    assert_eq!(asked.unwrap(), CancelOutcome::Asked);
    assert_eq!(worker.hear("dropped").await, "1");
    until(async || held(&ezq, &queue).await == [0, 1, 0, 1]).await;
    let letter = only_dead(&ezq, &queue).await;
    let marks = Progress::from_headers(&letter.headers);
    assert!(
        marks.is_empty(),
        "it was cut off before its time was over: {marks:?}"
    );
    let reason = letter.reason.unwrap();
    assert_eq!(reason.kind, ReasonKind::Cancelled);
    assert_eq!(reason.error, "cancelled by Ada");
    let again = cancel(&ezq, &queue, &ids[0], Cancel::Dead).await;
    assert!(
        matches!(again, CancelOutcome::AlreadyDead { .. }),
        "{again:?}"
    );

    // The worker is gone without notice: once its lease has ended, another one carries the order out.
    worker.kill().await;
    let asked = cancel(&ezq, &queue, &ids[1], Cancel::Discard).await;
    assert_eq!(asked, CancelOutcome::Asked);
    let mut other = start("b");
    until(async || held(&ezq, &queue).await == [0, 0, 0, 1]).await;
    until(async || orders(&ezq, &queue).await == 0).await;
    assert!(other.stop().await.starts_with("stopped by a signal"));
    let handled = format!("SELECT count(*) FROM ledger_{queue}");
    assert_eq!(database::scalar::<i64>(&mut own, &handled).await, 0);
}

/// Makes the table of what handlers did.
async fn make_effects(ezq: &Ezq, queue: &QueueName) {
    let sql = format!("CREATE TABLE effects_{queue} (n bigint)");
    let query = sqlx::raw_sql(AssertSqlSafe(sql));
    query.execute(ezq.pool()).await.unwrap();
}

async fn effects(ezq: &Ezq, queue: &QueueName) -> Vec<i64> {
    let sql = format!("SELECT n FROM effects_{queue} ORDER BY n");
    let query = sqlx::query_scalar(AssertSqlSafe(sql));
    query.fetch_all(ezq.pool()).await.unwrap()
}

fn writes(queue: &QueueName) -> String {
    format!("INSERT INTO effects_{queue} SELECT unnest($1::bigint[])")
}

/// Waits for ever with what is negative, unless it was begun before.
async fn wait_if_new(numbers: &[i64], begun: &Log<i64>) {
    let is_new = begun.count() == 0;
    numbers.iter().for_each(|n| begun.push(*n));
    if is_new && numbers.iter().any(|n| *n < 0) {
        std::future::pending::<()>().await;
    }
}

#[tokio::test]
async fn a_transaction_is_rolled_back_and_nothing_is_archived() {
    let queue = queue();
    let begun = Log::new();
    let log = begun.clone();
    let sql = writes(&queue);
    let book = Handler::on("book", move |Numbered { n }: Numbered, mut tx: Tx| {
        let log = log.clone();
        let sql = sql.clone();
        async move {
            let insert = sqlx::query(AssertSqlSafe(sql)).bind(vec![n]);
            insert.execute(&mut *tx).await?;
            wait_if_new(&[n], &log).await;
            Ok::<_, HandlerError>(())
        }
    });
    let ezq = connect(&queue, book).await;
    make_effects(&ezq, &queue).await;
    let id = publish(&ezq, -1).await;
    let handle = ezq.consumer().concurrency(1).spawn();
    until(async || begun.count() == 1).await;
    // What waits behind it goes on.
    publish(&ezq, 2).await;

    let asked = cancel(&ezq, &queue, &id, Cancel::Discard).await;
    assert_eq!(asked, CancelOutcome::Asked);
    until(async || held(&ezq, &queue).await == [0, 0, 0, 0]).await;
    assert_eq!(effects(&ezq, &queue).await, [2]);
    assert_eq!(archived(&ezq, &queue).await, 1, "only what was handled");
    until(async || orders(&ezq, &queue).await == 0).await;
    let again = cancel(&ezq, &queue, &id, Cancel::Discard).await;
    assert_eq!(again, CancelOutcome::NotFound);
    handle.stop();
    let report = soon(handle).await.unwrap();
    assert_eq!(report.counts.lost, 0, "{report}");
}

#[tokio::test]
async fn the_others_of_a_batch_with_a_transaction_are_handled_without_it() {
    let queue = queue();
    let begun = Log::new();
    let log = begun.clone();
    let sql = writes(&queue);
    let book = Handler::on_batch("book", move |batch: Batch<Numbered>, mut tx: Tx| {
        let log = log.clone();
        let sql = sql.clone();
        async move {
            let numbers: Vec<i64> = batch.events().map(|event| event.n).collect();
            let insert = sqlx::query(AssertSqlSafe(sql)).bind(&numbers);
            insert.execute(&mut *tx).await?;
            wait_if_new(&numbers, &log).await;
            Ok::<_, HandlerError>(())
        }
    });
    let book = book.batch_size(3).batch_wait(Duration::from_secs(20));
    let ezq = connect(&queue, book).await;
    make_effects(&ezq, &queue).await;
    let published = ezq.publish_all(&numbered([-1, 2, 3])).await.unwrap();
    let handle = ezq.consumer().spawn();
    until(async || begun.count() == 3).await;

    let asked = cancel(&ezq, &queue, &published[0].id, Cancel::Dead).await;
    assert_eq!(asked, CancelOutcome::Asked);
    until(async || held(&ezq, &queue).await == [0, 0, 0, 1]).await;
    assert_eq!(effects(&ezq, &queue).await, [2, 3]);
    let letter = only_dead(&ezq, &queue).await;
    assert_eq!(letter.original_id.as_ref(), Some(&published[0].id));
    assert_eq!(letter.reason.unwrap().kind, ReasonKind::Cancelled);
    handle.stop();
    let report = soon(handle).await.unwrap();
    assert_eq!(report.counts.handled, 2, "{report}");
}

/// Whether a batch's own transaction has claimed it.
async fn is_claimed(
    tx: &mut Tx,
    queue: &QueueName,
    batch: &Batch<Numbered>,
) -> Result<bool, sqlx::Error> {
    let ids = batch.iter().map(|one| one.context.message_id().as_number());
    let ids: Vec<_> = ids.collect();
    let sql = format!("SELECT count(*) = 0 FROM pgmq.q_{queue} WHERE msg_id = ANY ($1)");
    let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(ids);
    query.fetch_one(&mut **tx).await
}

/// Nobody else sees whether it has the event: it is handled if the batch commits, and cancelled if not.
#[tokio::test]
async fn a_batch_that_claims_in_its_transaction_decides_over_a_cancelled_event() {
    for commits in [true, false] {
        let queue = queue();
        let begun = Log::new();
        let (open, gate) = tokio::sync::watch::channel(false);
        let log = begun.clone();
        let name = queue.clone();
        let sql = writes(&queue);
        let book = Handler::on_batch("book", move |batch: Batch<Numbered>, mut tx: Tx| {
            let log = log.clone();
            let name = name.clone();
            let sql = sql.clone();
            let mut gate = gate.clone();
            async move {
                let numbers: Vec<i64> = batch.events().map(|event| event.n).collect();
                let insert = sqlx::query(AssertSqlSafe(sql)).bind(&numbers);
                insert.execute(&mut *tx).await?;
                if numbers.contains(&150) && is_claimed(&mut tx, &name, &batch).await? {
                    log.push(150);
                    let _ = gate.wait_for(|is_open| *is_open).await;
                    if !commits {
                        return Err(HandlerError::retry("rolled back"));
                    }
                }
                Ok(())
            }
        });
        let ezq = connect(&queue, book.batch_size(20)).await;
        make_effects(&ezq, &queue).await;
        let all = Vec::from_iter(1..=300);
        let published = ezq.publish_all(&numbered(all.clone())).await.unwrap();
        let handle = ezq.consumer().spawn();
        until(async || begun.count() == 1).await;

        let asked = cancel(&ezq, &queue, &published[149].id, Cancel::Dead).await;
        assert_eq!(asked, CancelOutcome::Asked, "commits: {commits}");
        open.send_replace(true);
        let dead = u64::from(!commits);
        until(async || held(&ezq, &queue).await == [0, 0, 0, dead]).await;
        until(async || orders(&ezq, &queue).await == 0).await;
        let mut expected = all;
        expected.retain(|n| commits || *n != 150);
        assert_eq!(effects(&ezq, &queue).await, expected);
        handle.stop();
        soon(handle).await.unwrap();
    }
}

#[tokio::test]
async fn what_has_ended_before_its_worker_heard_of_it_stays_handled() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1]);
    let ezq = connect(&queue, handler).await;
    let id = publish(&ezq, 1).await;
    let handle = ezq.consumer().spawn();
    assert_eq!(work.started().await, 1);
    work.open();
    until(async || held(&ezq, &queue).await == [0, 0, 0, 0]).await;

    // As if it had been asked for just before.
    let asked = cancel(&ezq, &queue, &id, Cancel::Dead).await;
    assert_eq!(asked, CancelOutcome::NotFound);
    let other = publish(&ezq, 2).await;
    until(async || held(&ezq, &queue).await == [0, 0, 0, 0]).await;
    let asked = cancel(&ezq, &queue, &other, Cancel::Dead).await;
    assert_eq!(asked, CancelOutcome::NotFound);
    assert_eq!(work.handled.sorted(), [1, 2]);

    // A row that no message is left for is removed.
    let kept = publish(&ezq, 3).await;
    until(async || held(&ezq, &queue).await == [0, 0, 0, 0]).await;
    let engine = ezq.engine(&queue);
    let later = ezq
        .publish(&Numbered { n: 4 })
        .after(Duration::from_secs(3600));
    let later = later.await.unwrap().id;
    let order = ezq::engine::CancelOrder::new(Cancel::Dead, "Ada");
    let cancellations = engine.cancellations().unwrap();
    assert!(!cancellations.ask(&queue, &kept, &order).await.unwrap());
    assert!(cancellations.ask(&queue, &later, &order).await.unwrap());
    until(async || held(&ezq, &queue).await == [0, 0, 0, 1]).await;
    until(async || orders(&ezq, &queue).await == 0).await;
    handle.stop();
    soon(handle).await.unwrap();
}
