//! Workers in processes of their own: signals, shared work, lost leases, `kill -9`.

use std::time::{Duration, Instant};

use ezq::QueueName;
use ezq::sqlx::PgConnection;

use crate::child::{Job, Outcome, Process, Role, Waits, Worker, count, create_ledger};
use crate::database::{app, connection, scalar, server, snapshot, unique, until};

/// A queue with its ledger, and what its tests look with.
struct Scene {
    url: String,
    queue: QueueName,
    connection: PgConnection,
}

impl Scene {
    async fn with_jobs(numbers: std::ops::RangeInclusive<i64>) -> Self {
        let scene = Self::new().await;
        scene.publish(numbers).await;
        scene
    }

    async fn new() -> Self {
        let url = server().await.url();
        let mut scene = Self {
            queue: unique("processes"),
            connection: connection(&url).await,
            url,
        };
        create_ledger(&mut scene.connection, &scene.queue).await;
        scene
    }

    async fn publish(&self, numbers: std::ops::RangeInclusive<i64>) {
        let ezq = app(&self.url, []).await;
        ezq.engine(&self.queue)
            .ensure_queue(&self.queue)
            .await
            .unwrap();
        let jobs: Vec<Job> = numbers.map(|n| Job { n }).collect();
        ezq.publish_all(&jobs).queue(&self.queue).await.unwrap();
        ezq.close().await;
    }

    fn worker(&self, name: &str) -> Worker {
        Worker {
            queue: self.queue.to_string(),
            name: name.to_owned(),
            concurrency: 1,
            lease: Duration::from_secs(10),
            waits: Waits::For(Duration::ZERO),
            says: Outcome::Done,
        }
    }

    fn start(&self, worker: Worker) -> Process {
        Process::start(&self.url, &Role::Worker(worker))
    }

    async fn until(&mut self, condition: &str) {
        let question = format!("SELECT {condition} FROM pgmq.q_{}", self.queue);
        until(&mut self.connection, &question).await;
    }

    async fn ask<T>(&mut self, what: &str) -> T
    where
        T: Send
            + Unpin
            + for<'r> ezq::sqlx::Decode<'r, ezq::sqlx::Postgres>
            + ezq::sqlx::Type<ezq::sqlx::Postgres>,
    {
        scalar(&mut self.connection, &format!("SELECT {what}")).await
    }

    fn ledger(&self) -> String {
        format!("ledger_{}", self.queue)
    }
}

/// The first event was given to a handler, the second stood behind it and went back at the signal.
const SECOND_RETURNED: &str = "count(*) FILTER (WHERE headers ->> 'ezq-returned' = '1') = 1";

#[tokio::test]
async fn a_signal_lets_the_running_handler_finish() {
    for signal in ["TERM", "INT"] {
        let mut scene = Scene::with_jobs(1..=2).await;
        let mut child = scene.start(Worker {
            waits: Waits::Word,
            ..scene.worker("a")
        });
        child.hear("started 1").await;
        scene.until("count(*) FILTER (WHERE read_ct = 1) = 2").await;
        child.signal(signal).await;
        scene.until(SECOND_RETURNED).await;
        child.tell("go").await;
        child.hear("ended 1").await;

        let report = child.hear("report").await;
        assert!(report.starts_with("stopped by a signal"), "{report}");
        assert!(report.ends_with("1 handled, 0 retried, 0 dead-lettered, 0 cancelled, 1 returned"));
        assert_eq!(child.end().await.code(), Some(0));

        // The second is there for the next consumer, at once.
        scene
            .until("count(*) = 1 AND bool_and(vt <= clock_timestamp() AND read_ct = 1)")
            .await;
    }
}

#[tokio::test]
async fn a_second_signal_interrupts_the_running_handler() {
    let mut scene = Scene::with_jobs(1..=2).await;
    let mut child = scene.start(Worker {
        waits: Waits::Forever,
        ..scene.worker("a")
    });
    child.hear("started 1").await;
    scene.until("count(*) FILTER (WHERE read_ct = 1) = 2").await;
    child.signal("TERM").await;
    scene.until(SECOND_RETURNED).await;
    child.signal("TERM").await;
    child.hear("dropped 1").await;

    let report = child.hear("report").await;
    assert!(report.starts_with("stopped by a signal"), "{report}");
    assert!(report.ends_with("0 handled, 0 retried, 0 dead-lettered, 1 cancelled, 1 returned"));
    assert_eq!(child.end().await.code(), Some(0));

    let all: i64 = scene
        .ask(&format!("count(*) FROM pgmq.q_{}", scene.queue))
        .await;
    let due: i64 = scene
        .ask(&format!(
            "count(*) FROM pgmq.q_{} WHERE vt <= now()",
            scene.queue
        ))
        .await;
    assert_eq!((all, due), (2, 2));
}

/// A leases the event and is stopped in its handler; B takes it over and ends as told; then A goes
/// on and settles in its own way.
async fn a_stale_settlement(stale: Outcome, fresh: Outcome) {
    let mut scene = Scene::with_jobs(1..=1).await;
    let mut a = scene.start(Worker {
        lease: Duration::from_secs(1),
        waits: Waits::BlockingForWord,
        says: stale,
        ..scene.worker("a")
    });
    a.hear("started 1").await;
    a.signal("STOP").await;

    let mut b = scene.start(Worker {
        says: fresh,
        ..scene.worker("b")
    });
    b.hear("ended 1").await;

    match fresh {
        Outcome::Done => scene.until("count(*) = 0").await,
        Outcome::Retry => {
            scene
                .until("bool_and(vt > now() + interval '50 min')")
                .await
        }
        Outcome::Fatal => {
            let dead = format!(
                "SELECT count(*) = 1 FROM pgmq.q_{}",
                scene.queue.dead_letters()
            );
            until(&mut scene.connection, &dead).await;
        }
    }

    let left = snapshot(&mut scene.connection, &scene.queue).await;
    a.tell("go").await;
    a.signal("CONT").await;
    a.hear("ended 1").await;

    let report = a.stop().await;
    assert!(
        report.ends_with("0 handled, 0 retried, 0 dead-lettered, 0 cancelled, 0 returned, 1 lost"),
        "{stale:?} after {fresh:?}: {report}"
    );

    let stands = snapshot(&mut scene.connection, &scene.queue).await;
    assert_eq!(stands, left, "{stale:?} after {fresh:?}");

    let report = b.stop().await;
    let what = match fresh {
        Outcome::Done => "handled",
        Outcome::Retry => "retried",
        Outcome::Fatal => "dead-lettered",
    };
    assert_eq!(
        (count(&report, what), count(&report, "lost")),
        (1, 0),
        "{report}"
    );

    let ledger = scene.ledger();
    let workers: String = scene
        .ask(&format!(
            "string_agg(worker || deliveries || attempt, ' ') FROM {ledger}"
        ))
        .await;
    assert_eq!(
        workers, "b21",
        "B had the second delivery, of the first attempt"
    );
}

#[tokio::test]
async fn a_stale_worker_cannot_acknowledge() {
    tokio::join!(
        a_stale_settlement(Outcome::Done, Outcome::Retry),
        a_stale_settlement(Outcome::Done, Outcome::Fatal),
    );
}

#[tokio::test]
async fn a_stale_worker_cannot_retry() {
    tokio::join!(
        a_stale_settlement(Outcome::Retry, Outcome::Retry),
        a_stale_settlement(Outcome::Retry, Outcome::Done),
    );
}

#[tokio::test]
async fn a_stale_worker_cannot_dead_letter() {
    tokio::join!(
        a_stale_settlement(Outcome::Fatal, Outcome::Retry),
        a_stale_settlement(Outcome::Fatal, Outcome::Done),
    );
}

#[tokio::test]
async fn a_stale_worker_learns_it_and_its_handler_is_cancelled() {
    let mut scene = Scene::with_jobs(1..=1).await;
    let lease = Duration::from_secs(1);
    let mut a = scene.start(Worker {
        lease,
        waits: Waits::Forever,
        ..scene.worker("a")
    });
    a.hear("started 1").await;
    a.signal("STOP").await;

    let mut b = scene.start(scene.worker("b"));
    b.hear("ended 1").await;
    scene.until("count(*) = 0").await;
    a.signal("CONT").await;
    a.hear("dropped 1").await;
    assert_eq!(count(&a.stop().await, "lost"), 1);
    assert_eq!(count(&b.stop().await, "handled"), 1);
}

#[tokio::test]
async fn the_only_worker_takes_nothing_from_itself_after_it_was_stopped_for_longer_than_its_lease()
{
    let mut scene = Scene::with_jobs(1..=8).await;
    let waits = Waits::For(Duration::from_secs(2));
    let lease = Duration::from_secs(1);
    let mut a = scene.start(Worker {
        concurrency: 4,
        lease,
        waits,
        ..scene.worker("a")
    });

    for _ in 0..2 {
        a.hear("started").await;
    }

    a.signal("STOP").await;
    scene.until("bool_and(vt < now())").await;
    a.signal("CONT").await;
    scene.until("count(*) = 0").await;

    let report = a.stop().await;
    assert!(
        report.contains("8 handled, 0 retried, 0 dead-lettered, 0 cancelled"),
        "{report}"
    );
    assert_eq!(count(&report, "lost"), 0, "{report}");
}

#[tokio::test]
async fn two_workers_share_the_work_and_handle_nothing_twice() {
    const JOBS: i64 = 400;

    let mut scene = Scene::new().await;
    let waits = Waits::For(Duration::from_millis(10));
    let worker = |name: &str| Worker {
        concurrency: 4,
        waits,
        ..scene.worker(name)
    };

    let mut a = scene.start(worker("a"));
    let mut b = scene.start(worker("b"));
    a.hear("ready").await;
    b.hear("ready").await;
    scene.publish(1..=JOBS).await;

    let ledger = scene.ledger();
    until(
        &mut scene.connection,
        &format!("SELECT count(*) >= {JOBS} FROM {ledger}"),
    )
    .await;

    let reports = [a.stop().await, b.stop().await];
    let handled: Vec<u64> = reports
        .iter()
        .map(|report| count(report, "handled"))
        .collect();
    assert!(handled.iter().all(|handled| *handled > 0), "{reports:?}");
    assert_eq!(
        handled.iter().sum::<u64>(),
        JOBS.unsigned_abs(),
        "{reports:?}"
    );

    let rows: i64 = scene.ask(&format!("count(*) FROM {ledger}")).await;
    let events: i64 = scene.ask(&format!("count(DISTINCT n) FROM {ledger}")).await;
    assert_eq!((rows, events), (JOBS, JOBS));
    scene.until("count(*) = 0").await;
}

#[tokio::test]
async fn another_worker_takes_over_what_a_killed_one_held() {
    const JOBS: i64 = 10;

    let mut scene = Scene::with_jobs(1..=JOBS).await;
    let lease = Duration::from_secs(2);
    let worker = |name: &str| Worker {
        concurrency: 10,
        lease,
        ..scene.worker(name)
    };

    let mut a = scene.start(Worker {
        waits: Waits::Forever,
        ..worker("a")
    });
    for _ in 0..JOBS {
        a.hear("started").await;
    }

    let mut b = scene.start(worker("b"));
    b.hear("ready").await;
    a.kill().await;

    let killed = Instant::now();
    for _ in 0..JOBS {
        b.hear("ended").await;
    }

    println!(
        "taken over {:?} after the kill, lease {lease:?}",
        killed.elapsed()
    );
    scene.until("count(*) = 0").await;

    let report = b.stop().await;
    assert_eq!(
        (count(&report, "handled"), count(&report, "lost")),
        (10, 0),
        "{report}"
    );

    let ledger = scene.ledger();
    let rows = format!(
        "count(*) FROM {ledger} WHERE worker = 'b' AND ok AND deliveries = 2 AND attempt = 1"
    );
    assert_eq!(scene.ask::<i64>(&rows).await, JOBS);
    assert_eq!(
        scene
            .ask::<i64>(&format!("count(DISTINCT n) FROM {ledger}"))
            .await,
        JOBS
    );
}
