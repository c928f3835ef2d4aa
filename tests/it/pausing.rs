//! Pauses on PGMQ: for every process, across restarts, with leases, transactions and control events as
//! they are there.

use std::time::Duration;

use ezq::consumer::StopReason;
use ezq::prelude::*;
use ezq::sqlx::{self, AssertSqlSafe};
use ezq::{Handler, QueueName};

use crate::child::{Job, Outcome, Process, Role, Waits, Worker, create_ledger};
use crate::database;
use crate::kit::{Log, Numbered, Work, app, drain, held, numbered, queue, soon, until};

async fn connect(queue: &QueueName, handlers: impl IntoIterator<Item = Handler>) -> Ezq {
    let builder = handlers
        .into_iter()
        .fold(app(queue), |app, handler| app.register(handler));
    let ezq = builder.connect().await.unwrap();
    ezq.engine(queue).ensure_queue(queue).await.unwrap();
    ezq
}

async fn publish(ezq: &Ezq, numbers: impl IntoIterator<Item = i64>) {
    ezq.publish_all(&numbered(numbers)).await.unwrap();
}

/// How often messages of a queue were delivered so far.
async fn deliveries(ezq: &Ezq, queue: &QueueName) -> i64 {
    let sql = format!("SELECT coalesce(sum(read_ct), 0)::bigint FROM pgmq.q_{queue}");
    let query = sqlx::query_scalar(AssertSqlSafe(sql));
    query.fetch_one(ezq.pool()).await.unwrap()
}

#[tokio::test]
async fn workers_in_other_processes_pause_and_go_on_also_when_they_are_started_again() {
    let url = database::server().await.url();
    let queue = database::unique("pausing");
    let mut own = database::connection(&url).await;
    create_ledger(&mut own, &queue).await;
    let ezq = database::app(&url, []).await;
    ezq.engine(&queue).ensure_queue(&queue).await.unwrap();
    let publish = async |numbers: std::ops::Range<i64>| {
        let jobs: Vec<Job> = numbers.map(|n| Job { n }).collect();
        ezq.publish_all(&jobs).queue(&queue).await.unwrap();
    };
    let start = |name: &str| {
        let worker = Worker {
            queue: queue.to_string(),
            name: name.to_owned(),
            concurrency: 2,
            lease: Duration::from_secs(10),
            waits: Waits::For(Duration::ZERO),
            says: Outcome::Done,
        };
        Process::start(&url, &Role::Worker(worker))
    };

    let mut workers = [start("a"), start("b")];
    publish(0..10).await;
    let is_empty = format!("SELECT count(*) = 0 FROM pgmq.q_{queue}");
    database::until(&mut own, &is_empty).await;

    assert!(ezq.queues().pause(&queue).by("the test").await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    publish(10..30).await;
    // One is ended without notice and started again: it must know of the pause.
    workers[0].kill().await;
    workers[0] = start("c");
    workers[0].hear("ready").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let untouched = format!("SELECT count(*) = 20 AND max(read_ct) = 0 FROM pgmq.q_{queue}");
    assert!(
        database::scalar::<bool>(&mut own, &untouched).await,
        "something was claimed from a paused queue"
    );

    assert!(ezq.queues().resume(&queue).await.unwrap());
    database::until(&mut own, &is_empty).await;
    let each_once = format!("SELECT count(*) = 30 AND count(DISTINCT n) = 30 FROM ledger_{queue}");
    database::until(&mut own, &each_once).await;

    // A signal stops one while the queue is paused, and an `End` the other.
    ezq.queues().pause(&queue).await.unwrap();
    // Until it is heard, a worker may still claim what is published.
    tokio::time::sleep(Duration::from_secs(1)).await;
    publish(30..31).await;
    let [first, second] = &mut workers;
    assert!(first.stop().await.starts_with("stopped by a signal"));
    ezq.publish(&End::default()).queue(&queue).await.unwrap();
    assert!(second.hear("report").await.starts_with("stopped by End"));
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn a_pause_during_claims_loses_nothing_and_handles_nothing_twice() {
    let queue = queue();
    let (handler, work) = Work::quick();
    let ezq = connect(&queue, [handler]).await;
    publish(&ezq, 0..5000).await;
    let handles = [ezq.consumer().spawn(), ezq.consumer().spawn()];

    // While claims, handlers and settlements of a backlog are under way.
    for _ in 0..10 {
        ezq.queues().pause(&queue).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        ezq.queues().resume(&queue).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    until(async || held(&ezq, &queue).await == [0, 0, 0, 0]).await;

    assert_eq!(work.handled.sorted(), Vec::from_iter(0..5000));
    for handle in handles {
        handle.stop();
        let report = soon(handle).await.unwrap();
        assert_eq!(
            (report.counts.lost, report.counts.retried),
            (0, 0),
            "{report}"
        );
    }
}

#[tokio::test]
async fn what_runs_when_its_queue_is_paused_keeps_its_lease_and_is_settled() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1]);
    let ezq = connect(&queue, [handler]).await;
    publish(&ezq, [1, 2]).await;
    let handle = ezq
        .consumer()
        .concurrency(1)
        .lease(Duration::from_secs(1))
        .spawn();
    assert_eq!(work.started().await, 1);

    ezq.queues().pause(&queue).await.unwrap();
    // Far longer than the lease.
    tokio::time::sleep(Duration::from_secs(4)).await;
    work.open();
    until(async || held(&ezq, &queue).await == [1, 0, 0, 0]).await;
    assert_eq!(work.handled.take(), [1]);

    handle.stop();
    let report = soon(handle).await.unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (1, 0),
        "{report}"
    );
}

#[tokio::test]
async fn control_events_stop_consumers_of_a_paused_queue() {
    let queue = queue();
    let ezq = connect(&queue, [Work::quick().0]).await;
    publish(&ezq, [1]).await;
    ezq.queues().pause(&queue).await.unwrap();

    // As Python ezq writes it as well.
    let flat = r#"{"_type": "EZQEndEvent"}"#;
    crate::kit::send_batch(&ezq, &queue, &[flat.to_owned()]).await;
    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);

    let handles: Vec<_> = (0..3).map(|_| ezq.consumer().spawn()).collect();
    for handle in &handles {
        let mut states = handle.states();
        let running = states.wait_for(|state| *state == ezq::consumer::ConsumerState::Running);
        soon(running).await.unwrap();
    }
    // None may begin after the `End` was stored: it would leave that to the others.
    tokio::time::sleep(Duration::from_secs(1)).await;
    ezq.stop_all(&queue, None).await.unwrap();
    for handle in handles {
        assert_eq!(soon(handle).await.unwrap().reason, StopReason::End);
    }
    assert_eq!(
        deliveries(&ezq, &queue).await,
        deliveries_of_ends(&ezq, &queue).await
    );
}

/// How often control events of a queue were delivered.
async fn deliveries_of_ends(ezq: &Ezq, queue: &QueueName) -> i64 {
    let sql = format!(
        "SELECT coalesce(sum(read_ct), 0)::bigint FROM pgmq.q_{queue} WHERE message ->> 'type' = 'ezq.end'"
    );
    let query = sqlx::query_scalar(AssertSqlSafe(sql));
    query.fetch_one(ezq.pool()).await.unwrap()
}

#[tokio::test]
async fn a_paused_handler_holds_up_no_transaction_of_the_others() {
    let queue = queue();
    let mailed = Log::new();
    let booked = Log::new();
    let mail = {
        let mailed = mailed.clone();
        Handler::on("mail", move |Numbered { n }: Numbered| {
            mailed.push(n);
            async {}
        })
    };
    let book = {
        let booked = booked.clone();
        Handler::on("book", move |Numbered { n }: Numbered, _: Tx| {
            booked.push(n);
            async {}
        })
    };
    let ezq = connect(&queue, [mail, book]).await;
    ezq.queues().pause_handler(&queue, "mail").await.unwrap();
    publish(&ezq, 0..20).await;
    let report = drain(&ezq).await;

    // The last transaction that commits must not acknowledge what another handler is still to do.
    assert_eq!(report.counts.handled, 0, "{report}");
    assert_eq!(
        (booked.sorted(), mailed.take()),
        (Vec::from_iter(0..20), vec![])
    );
    assert_eq!(held(&ezq, &queue).await, [0, 20, 0, 0]);

    ezq.queues().resume_handler(&queue, "mail").await.unwrap();
    assert_eq!(held(&ezq, &queue).await, [20, 0, 0, 0]);
    let report = drain(&ezq).await;
    assert_eq!(report.counts.handled, 20, "{report}");
    assert_eq!(
        (mailed.sorted(), booked.take()),
        (Vec::from_iter(0..20), vec![])
    );
}

#[tokio::test]
async fn a_batch_that_claims_in_its_transaction_begins_nothing_while_it_is_paused() {
    let queue = queue();
    let handled = Log::new();
    let seen = handled.clone();
    let book = Handler::on_batch("book", move |batch: Batch<Numbered>, _: Tx| {
        let numbers: Vec<i64> = batch.events().map(|event| event.n).collect();
        numbers.into_iter().for_each(|n| seen.push(n));
        tokio::time::sleep(Duration::from_millis(20))
    });
    let book = book.batch_size(10).batch_wait(Duration::from_millis(20));
    let ezq = connect(&queue, [book]).await;
    publish(&ezq, 0..2000).await;
    let handle = ezq.consumer().spawn();
    tokio::time::sleep(Duration::from_millis(500)).await;

    ezq.queues().pause_handler(&queue, "book").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = held(&ezq, &queue).await;
    handled.take();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(held(&ezq, &queue).await, before);
    assert_eq!(handled.take(), Vec::<i64>::new());
    assert!(before[0] > 0 && before[0] < 2000, "{before:?}");

    ezq.queues().resume_handler(&queue, "book").await.unwrap();
    until(async || held(&ezq, &queue).await == [0, 0, 0, 0]).await;
    handle.stop();
    let report = soon(handle).await.unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (2000, 0),
        "{report}"
    );
}
