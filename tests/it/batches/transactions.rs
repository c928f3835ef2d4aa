//! Batches that commit with a transaction, claimed in it or leased before.

use std::time::Duration;

use ezq::prelude::*;
use ezq::{Handler, QueueName, sqlx};

use super::{Summed, numbers};
use crate::kit::{Log, Numbered, app, drain, held, numbered, only_dead, queue, soon, until};

/// A table with one row for each effect.
pub(super) async fn ledger(ezq: &Ezq, queue: &QueueName) -> String {
    let name = format!("public.batches_{queue}");
    let text = format!("create table {name} (n bigint)");
    sqlx::raw_sql(sqlx::AssertSqlSafe(text))
        .execute(ezq.pool())
        .await
        .unwrap();
    name
}

pub(super) async fn effects(ezq: &Ezq, queue: &QueueName) -> Vec<i64> {
    let text = format!("select n from public.batches_{queue} order by n");
    sqlx::query_scalar(sqlx::AssertSqlSafe(text))
        .fetch_all(ezq.pool())
        .await
        .unwrap()
}

/// A handler that writes every number of its batch, and then fails for the numbers named.
fn writes(queue: &QueueName, log: &Log<Vec<i64>>, bad: &'static [i64]) -> Handler {
    let text = format!("insert into public.batches_{queue} select unnest($1::bigint[])");
    let log = log.clone();

    let handler = Handler::on_batch("writes", move |batch: Batch<Numbered>, mut tx: Tx| {
        let text = text.clone();
        let log = log.clone();

        async move {
            let numbers = numbers(&batch);
            log.push(numbers.clone());
            let insert = sqlx::query(sqlx::AssertSqlSafe(text)).bind(&numbers);
            insert.execute(&mut *tx).await?;
            if let Some(bad) = numbers.iter().find(|n| bad.contains(n)) {
                return Err(HandlerError::retry(format!("{bad} is bad")));
            }
            Ok(())
        }
    });

    handler
        .batch_size(10)
        .batch_wait(Duration::from_millis(100))
}

#[tokio::test]
async fn a_batch_commits_its_effects_once_and_a_bad_event_holds_up_no_other() {
    let queue = queue();
    let log = Log::new();
    let handler = writes(&queue, &log, &[17]).max_attempts(2);
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ledger(&ezq, &queue).await;
    ezq.publish_all(&numbered(1..=40)).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.dead_lettered), (39, 1));

    let expected: Vec<i64> = (1..=40).filter(|n| *n != 17).collect();
    assert_eq!(effects(&ezq, &queue).await, expected);
    assert_eq!(held(&ezq, &queue).await, [0, 0, 0, 1]);
    assert!(
        log.take().iter().any(|batch| batch.len() == 10),
        "no batch was full"
    );
}

#[tokio::test]
async fn a_batch_in_a_transaction_beside_other_handlers_marks_its_events() {
    let queue = queue();
    let log = Log::new();
    let other = Handler::on("other", |_: Numbered, context: Context| async move {
        if context.attempt() < 2 {
            Err("not yet")
        } else {
            Ok(())
        }
    });

    let builder = app(&queue)
        .register(writes(&queue, &log, &[]))
        .register(other);
    let ezq = builder.connect().await.unwrap();
    ledger(&ezq, &queue).await;
    ezq.publish_all(&numbered(1..=8)).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.retried), (8, 8));
    assert_eq!(effects(&ezq, &queue).await, (1..=8).collect::<Vec<_>>());
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn a_lease_lost_in_the_middle_of_a_batch_costs_the_others_nothing() {
    let queue = queue();
    let text = format!("insert into public.batches_{queue} select unnest($1::bigint[])");
    let steal = format!("update pgmq.q_{queue} set read_ct = read_ct + 1 where msg_id = 2");

    let handler = Handler::on_batch(
        "robbed",
        move |batch: Batch<Numbered>, State(pool): State<sqlx::PgPool>, mut tx: Tx| {
            let text = text.clone();
            let steal = steal.clone();

            async move {
                let numbers = numbers(&batch);
                if numbers.len() > 1 {
                    sqlx::raw_sql(sqlx::AssertSqlSafe(steal))
                        .execute(&pool)
                        .await?;
                }
                let insert = sqlx::query(sqlx::AssertSqlSafe(text)).bind(&numbers);
                insert.execute(&mut *tx).await.map(|_| ())
            }
        },
    );

    let handler = handler.batch_size(3).batch_wait(Duration::from_secs(1));
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ledger(&ezq, &queue).await;
    ezq.publish_all(&numbered(1..=3)).await.unwrap();

    let consumer = ezq.consumer().spawn();
    until(async || consumer.counts().handled == 2 && consumer.counts().lost == 1).await;
    consumer.stop();
    soon(consumer).await.unwrap();
    assert_eq!(effects(&ezq, &queue).await, [1, 3]);
    assert_eq!(held(&ezq, &queue).await, [0, 1, 0, 0]);
}

/// Whether the transaction has taken its events out of the queue itself, without a lease.
async fn took(
    tx: &mut Tx,
    queue: &QueueName,
    batch: &Batch<Numbered>,
) -> Result<bool, sqlx::Error> {
    let ids: Vec<_> = batch
        .iter()
        .map(|item| item.context.message_id().as_number())
        .collect();
    let text = format!("select count(*) = 0 from pgmq.q_{queue} where msg_id = any($1)");
    sqlx::query_scalar(sqlx::AssertSqlSafe(text))
        .bind(ids)
        .fetch_one(&mut **tx)
        .await
}

/// A handler that says how it got each batch and fails once at a number.
pub(super) fn direct(queue: &QueueName, log: &Log<bool>, fails_at: i64) -> Handler {
    let queue = queue.clone();
    let log = log.clone();
    let text = format!("insert into public.batches_{queue} select unnest($1::bigint[])");
    let failed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));

    Handler::on_batch("direct", move |batch: Batch<Numbered>, mut tx: Tx| {
        let queue = queue.clone();
        let log = log.clone();
        let text = text.clone();
        let failed = failed.clone();

        async move {
            let took = took(&mut tx, &queue, &batch).await?;
            let numbers = numbers(&batch);
            let insert = sqlx::query(sqlx::AssertSqlSafe(text)).bind(&numbers);
            insert.execute(&mut *tx).await?;

            let fails = numbers.contains(&fails_at);
            if fails && !failed.swap(true, std::sync::atomic::Ordering::SeqCst) {
                assert!(took, "the batch that is to fail was leased");
                return Err(HandlerError::retry("once"));
            }

            log.push(took);
            Ok(Summed {
                sum: numbers.iter().sum(),
            })
        }
    })
}

#[tokio::test]
async fn a_backlog_is_claimed_inside_the_transaction_once_a_leased_batch_succeeded() {
    let queue = queue();
    let log = Log::new();
    let handler = direct(&queue, &log, 250).batch_size(20);
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ledger(&ezq, &queue).await;
    ezq.publish_all(&numbered(1..=500)).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.lost), (500, 0));
    assert_eq!(effects(&ezq, &queue).await, (1..=500).collect::<Vec<_>>());
    assert_eq!(held(&ezq, &queue).await, [0; 4]);

    let took = log.take();
    assert!(!took[0], "the first batch is leased");
    assert!(took.iter().filter(|took| **took).count() > 10, "{took:?}");

    let failed = took
        .iter()
        .skip_while(|took| !**took)
        .skip_while(|took| **took);
    assert!(
        failed.clone().any(|took| !took) && failed.clone().any(|took| *took),
        "{took:?}"
    );
}

#[tokio::test]
async fn an_end_stops_a_consumer_in_the_middle_of_a_backlog() {
    let queue = queue();
    let log = Log::new();
    let handler = direct(&queue, &log, 0).batch_size(20);
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ledger(&ezq, &queue).await;
    ezq.publish_all(&numbered(1..=250)).await.unwrap();
    ezq.publish(&End::default()).await.unwrap();
    ezq.publish_all(&numbered(251..=400)).await.unwrap();

    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, ezq::consumer::StopReason::End);
    assert_eq!(effects(&ezq, &queue).await, (1..=250).collect::<Vec<_>>());
    assert_eq!(held(&ezq, &queue).await, [150, 0, 0, 0]);
    assert!(log.take().contains(&true));
}

#[tokio::test]
async fn a_batch_whose_transaction_is_spoiled_does_not_count_as_done() {
    for (spoils, says) in [
        (
            "select 1 / 0",
            "a statement of the handler failed in its `Tx`",
        ),
        ("rollback", "the handler ended its transaction itself"),
    ] {
        let queue = queue();
        let handler = Handler::on_batch(
            "spoils",
            move |batch: Batch<Numbered>, mut tx: Tx| async move {
                if batch.events().any(|event| event.n == 150) {
                    // Its failure is hidden.
                    let _ = sqlx::raw_sql(spoils).execute(&mut *tx).await;
                }
            },
        );

        let handler = handler.batch_size(20).max_attempts(1);
        let ezq = app(&queue).register(handler).connect().await.unwrap();
        ezq.publish_all(&numbered(1..=300)).await.unwrap();

        let counts = drain(&ezq).await.counts;
        assert_eq!((counts.handled, counts.dead_lettered), (299, 1), "{spoils}");
        let reason = only_dead(&ezq, &queue).await.reason.unwrap();
        assert!(reason.error.starts_with(says), "{}", reason.error);
    }
}
