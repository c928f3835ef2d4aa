//! Batches: one run of a handler on several events, with and without a transaction.

mod transactions;

use std::time::Duration;

use ezq::message::ReasonKind;
use ezq::prelude::*;
use ezq::{Handler, QueueName, sqlx};
use serde::{Deserialize, Serialize};

use self::transactions::{direct, effects, ledger};
use crate::child::{Process, Role, say};
use crate::database::server;
use crate::kit::{
    Log, Numbered, app, dead, drain, held, numbered, only_dead, queue, send_batch, soon,
};

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(type = "test.summed", queue = "it_batches_summed")]
struct Summed {
    sum: i64,
}

fn numbers(batch: &Batch<Numbered>) -> Vec<i64> {
    batch.events().map(|event| event.n).collect()
}

/// A handler that writes down each batch it gets.
fn collects(size: usize) -> (Handler, Log<Vec<i64>>) {
    let log = Log::new();
    let batches = log.clone();
    let handler = Handler::on_batch("collects", move |batch: Batch<Numbered>| {
        batches.push(numbers(&batch));
        async {}
    });

    (
        handler
            .batch_size(size)
            .batch_wait(Duration::from_millis(300)),
        log,
    )
}

#[tokio::test]
async fn a_batch_is_as_full_as_it_can_be_and_in_order() {
    let queue = queue();
    let (handler, log) = collects(10);
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish_all(&numbered(1..=25)).await.unwrap();

    // Waiting for a batch takes no place among what is handled at once.
    let report = soon(ezq.consumer().concurrency(1).until_idle().run())
        .await
        .unwrap();
    assert_eq!(report.counts.handled, 25);

    let expected: Vec<Vec<i64>> =
        vec![(1..=10).collect(), (11..=20).collect(), (21..=25).collect()];
    assert_eq!(log.take(), expected);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn each_event_of_a_batch_may_have_an_outcome_of_its_own() {
    let queue = queue();
    let log = Log::new();
    let batches = log.clone();

    let handler = Handler::on_batch("picky", move |batch: Batch<Numbered>| {
        batches.push(numbers(&batch));
        async move {
            let outcome = |item: ezq::handler::BatchItem<Numbered>| match item.event.n {
                2 if item.context.attempt() == 1 => Err(HandlerError::retry("once more")),
                3 => Err(HandlerError::fatal("never")),
                n => Ok(Summed { sum: n }),
            };
            batch.into_iter().map(outcome).collect::<Vec<_>>()
        }
    });

    let handler = handler.batch_wait(Duration::from_millis(300));
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish_all(&numbered(1..=4)).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!(
        (counts.handled, counts.retried, counts.dead_lettered),
        (3, 1, 1)
    );
    assert_eq!(
        log.take(),
        [vec![1, 2, 3, 4], vec![2]],
        "what failed comes alone"
    );

    let letter = only_dead(&ezq, &queue).await;
    assert_eq!(letter.reason.unwrap().kind, ReasonKind::Fatal);
}

#[tokio::test]
async fn a_failed_batch_falls_back_to_single_events() {
    let queue = queue();
    let log = Log::new();
    let batches = log.clone();

    let handler = Handler::on_batch("fails", move |batch: Batch<Numbered>| {
        let numbers = numbers(&batch);
        batches.push(numbers.clone());

        async move {
            if numbers.contains(&2) {
                Err("2 is bad")
            } else {
                Ok(())
            }
        }
    });

    let handler = handler
        .batch_wait(Duration::from_millis(300))
        .max_attempts(2);
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish_all(&numbered(1..=3)).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!(
        (counts.handled, counts.retried, counts.dead_lettered),
        (2, 1, 1)
    );
    assert_eq!(
        log.take(),
        [vec![1, 2, 3], vec![1], vec![2], vec![3], vec![2]]
    );

    let reason = only_dead(&ezq, &queue).await.reason.unwrap();
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::MaxAttempts, 2));
}

#[tokio::test]
async fn an_event_that_cannot_be_read_fails_alone() {
    let queue = queue();
    let (handler, log) = collects(10);
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    let body = |n: &str| format!(r#"{{"_type":"test.numbered","n":{n}}}"#);
    send_batch(&ezq, &queue, &[body("1"), body("\"two\""), body("3")]).await;

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.dead_lettered), (2, 1));
    assert_eq!(log.take(), [vec![1, 3]]);
    assert_eq!(
        only_dead(&ezq, &queue).await.reason.unwrap().kind,
        ReasonKind::Undecodable
    );
}

#[tokio::test]
async fn a_number_of_results_that_does_not_fit_is_a_failure() {
    let queue = queue();
    let handler = Handler::on_batch("short", |_: Batch<Numbered>| async {
        Vec::<Result<(), HandlerError>>::new()
    });
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;

    let error = only_dead(&ezq, &queue).await.reason.unwrap().error;
    assert_eq!(
        error,
        "a batch of 1 events got 0 results: return one for each event, in their order"
    );
}

#[tokio::test]
async fn a_batch_that_is_interrupted_goes_back() {
    let queue = queue();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let handler = Handler::on_batch("hangs", move |batch: Batch<Numbered>| {
        started.send(batch.len()).unwrap();
        std::future::pending::<()>()
    });
    let handler = handler.batch_size(3).batch_wait(Duration::from_secs(1));
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish_all(&numbered(1..=3)).await.unwrap();

    let consumer = ezq.consumer().spawn();
    assert_eq!(soon(starts.recv()).await, Some(3));

    consumer.interrupt();
    assert_eq!(soon(consumer).await.unwrap().counts.cancelled, 3);
    assert_eq!(held(&ezq, &queue).await, [3, 0, 0, 0]);
    assert!(dead(&ezq, &queue).await.is_empty());
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(type = "test.counted")]
struct Counted {
    n: i64,
}

/// Found at link time by other tests as well, so it asks for no state.
static COUNTED: std::sync::Mutex<Vec<usize>> = std::sync::Mutex::new(Vec::new());

#[on_event(batch(size = 4, wait = "300ms"))]
async fn sum(batch: Batch<Counted>) -> Result<Summed, HandlerError> {
    COUNTED.lock().unwrap().push(batch.len());
    Ok(Summed {
        sum: batch.events().map(|event| event.n).sum(),
    })
}

#[tokio::test]
async fn the_attribute_makes_a_handler_of_batches() {
    let queue = queue();
    let ezq = app(&queue).handler::<sum>().connect().await.unwrap();
    let events: Vec<Counted> = (1..=8).map(|n| Counted { n }).collect();
    ezq.publish_all(&events).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 8);
    assert_eq!(*COUNTED.lock().unwrap(), [4, 4]);
}

#[tokio::test]
async fn a_handler_with_a_queue_of_its_own_shares_it_with_nobody() {
    let shared = queue();
    let own = queue();
    let log = Log::new();
    let own_log = Log::new();
    let handler = direct(&own, &own_log, 0).batch_size(10).queue(own.as_str());
    let seen = log.clone();
    let other = Handler::on("other", move |event: Numbered| {
        seen.push(event.n);
        async {}
    });

    let ezq = app(&shared)
        .register(handler)
        .register(other)
        .connect()
        .await
        .unwrap();

    ledger(&ezq, &own).await;
    ezq.publish_all(&numbered(1..=2)).await.unwrap();
    ezq.publish_all(&numbered(101..=200))
        .queue(&own)
        .await
        .unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 2);

    let report = soon(ezq.consumer().queue(&own).until_idle().run())
        .await
        .unwrap();
    assert_eq!(report.counts.handled, 100);
    assert_eq!(log.sorted(), [1, 2]);
    assert_eq!(effects(&ezq, &own).await, (101..=200).collect::<Vec<_>>());
    assert!(
        own_log.take().contains(&true),
        "alone in its queue, it claims by itself"
    );

    let wrong = Handler::on("wrong", |_: Numbered| async {}).queue("No Such Queue");
    let error = app(&shared).register(wrong).connect().await.unwrap_err();
    assert_eq!(error.kind(), ezq::ErrorKind::InvalidQueueName, "{error}");
}

/// A process whose handler is killed by a number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Importer {
    queue: String,
    killed_by: i64,
}

/// What such a process runs: until nothing is due.
pub(crate) async fn import(importer: Importer) {
    let Importer { queue, killed_by } = importer;
    let queue = QueueName::new(&queue).unwrap();
    let text = format!("insert into public.batches_{queue} select unnest($1::bigint[])");

    let handler = Handler::on_batch("import", move |batch: Batch<Numbered>, mut tx: Tx| {
        let text = text.clone();
        async move {
            let numbers = numbers(&batch);
            let insert = sqlx::query(sqlx::AssertSqlSafe(text)).bind(&numbers);
            insert.execute(&mut *tx).await?;
            if numbers.contains(&killed_by) {
                std::process::abort();
            }
            Ok::<_, sqlx::Error>(())
        }
    });

    let builder = app(&queue).register(handler.batch_size(20));
    let ezq = builder
        .configure(|config| config.max_deliveries = 20)
        .connect()
        .await
        .unwrap();

    let consumer = ezq.consumer().concurrency(2).lease(Duration::from_secs(1));
    let report = consumer.until_idle().run().await.unwrap();
    say(&format!("report {report}"));
}

#[tokio::test]
async fn an_event_that_kills_its_process_ends_in_the_dead_letters_and_harms_no_other() {
    let url = server().await.url();
    let queue = queue();
    let ezq = Ezq::builder()
        .database_url(&url)
        .without_discovered_handlers()
        .configure(|config| config.queue = queue.clone())
        .connect()
        .await
        .unwrap();
    ledger(&ezq, &queue).await;
    ezq.publish_all(&numbered(1..=300)).await.unwrap();

    let importer = Importer {
        queue: queue.to_string(),
        killed_by: 117,
    };
    let mut deaths = 0;

    // Suspects run one by one, picked at random. One of the 40 that comes after it in each of 16 runs dies
    // with it: a chance of 1 in 1,600.
    while held(&ezq, &queue).await != [0, 0, 0, 1] {
        let dead = held(&ezq, &queue).await[3];
        assert!(dead <= 1, "{dead} dead letters");
        let mut child = Process::start(&url, &Role::Importer(importer.clone()));
        deaths += u32::from(!child.end().await.success());
        assert!(deaths < 60, "it dies again and again");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }

    assert!(deaths >= 20, "{deaths}");
    let letter = only_dead(&ezq, &queue).await;
    assert_eq!(letter.reason.unwrap().kind, ReasonKind::MaxDeliveries);
    assert!(letter.body.contains("117"), "{}", letter.body);
    let expected: Vec<i64> = (1..=300).filter(|n| *n != 117).collect();
    assert_eq!(effects(&ezq, &queue).await, expected);
}
