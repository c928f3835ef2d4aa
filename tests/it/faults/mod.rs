//! The database goes away, comes back, refuses: consumers go on by themselves.

mod dropped;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ezq::consumer::Counts;
use ezq::pgmq::embedded::EmbeddedPostgres;
use ezq::prelude::*;
use ezq::{ErrorKind, Handler};
use tokio::sync::watch;

use crate::child::Job;
use crate::database::{CEILING, app, connection, run, scalar, server, unique, until};

/// How often each event was handled.
#[derive(Clone)]
struct Seen(Arc<watch::Sender<BTreeMap<i64, u32>>>);

impl Seen {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }

    fn add(&self, n: i64) {
        self.0.send_modify(|seen| *seen.entry(n).or_default() += 1);
    }

    async fn until(&self, enough: impl Fn(&BTreeMap<i64, u32>) -> bool) {
        let mut seen = self.0.subscribe();
        let waited = tokio::time::timeout(CEILING, seen.wait_for(|seen| enough(seen))).await;
        waited
            .unwrap_or_else(|_| panic!("handled only {:?}", self.0.borrow()))
            .unwrap();
    }

    async fn until_has(&self, n: i64) {
        self.until(|seen| seen.contains_key(&n)).await;
    }

    /// A handler that notes the event once it ends.
    fn handler(&self, takes: Duration) -> Handler {
        let seen = self.clone();
        Handler::on("note", move |job: Job| {
            let seen = seen.clone();
            async move {
                tokio::time::sleep(takes).await;
                seen.add(job.n);
            }
        })
    }

    fn twice(&self) -> Vec<i64> {
        let seen = self.0.borrow();
        seen.iter()
            .filter(|(_, times)| **times > 1)
            .map(|(n, _)| *n)
            .collect()
    }
}

/// Publishes one event after another until told to stop; the numbers of those that were stored
/// without doubt, and the errors of the others.
async fn publish_meanwhile(
    ezq: Ezq,
    queue: ezq::QueueName,
    mut stop: watch::Receiver<bool>,
) -> (Vec<i64>, Vec<ezq::Error>) {
    let mut stored = Vec::new();
    let mut errors = Vec::new();

    for n in 1.. {
        if *stop.borrow_and_update() {
            break;
        }
        match ezq.publish(&Job { n }).queue(&queue).await {
            Ok(_) => stored.push(n),
            Err(error) => errors.push(error),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }

    (stored, errors)
}

async fn goes_on_after_restarts(immediate: bool) {
    // A crash may not lose what was committed.
    let server = EmbeddedPostgres::builder()
        .durable(true)
        .start()
        .await
        .unwrap();

    let queue = unique("faults");
    let seen = Seen::new();
    let ezq = app(&server.url(), [seen.handler(Duration::from_millis(20))]).await;
    let lease = Duration::from_secs(5);

    let handle = ezq
        .consumer()
        .queue(&queue)
        .concurrency(8)
        .lease(lease)
        .spawn();

    let publisher = app(&server.url(), []).await;
    let (stop, stopped) = watch::channel(false);
    let publishing = tokio::spawn(publish_meanwhile(publisher, queue.clone(), stopped));
    let mut outage = Duration::ZERO;

    for _ in 0..2 {
        let before = seen.0.borrow().len();
        seen.until(|seen| seen.len() > before + 20).await;
        let down = Instant::now();
        server.stop(immediate).await.unwrap();

        // The publisher meets a server that is not there.
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.start_again().await.unwrap();

        let before = seen.0.borrow().len();
        seen.until(|seen| seen.len() > before).await;
        outage = outage.max(down.elapsed());
    }

    let before = seen.0.borrow().len();
    seen.until(|seen| seen.len() > before + 20).await;
    stop.send_replace(true);

    let (stored, errors) = publishing.await.unwrap();
    assert!(!errors.is_empty(), "no publisher met the outage");
    for error in &errors {
        assert!(error.is_transient(), "{error:?}");
    }

    seen.until(|seen| stored.iter().all(|n| seen.contains_key(n)))
        .await;
    let mut own = connection(&server.url()).await;
    until(
        &mut own,
        &format!("SELECT count(*) = 0 FROM pgmq.q_{queue}"),
    )
    .await;
    handle.stop();

    let report = handle.await.unwrap();
    println!(
        "immediate {immediate}: {} stored, {} refused while away, longest {outage:.1?} from stop to \
         the next handled event; {report}",
        stored.len(),
        errors.len()
    );

    // Holders renew before anyone claims, so not even the restart makes a handler run twice.
    assert!(seen.twice().is_empty(), "{:?}", seen.twice());
}

#[tokio::test]
async fn goes_on_after_a_restart_of_the_server() {
    goes_on_after_restarts(false).await;
}

#[tokio::test]
async fn goes_on_after_a_crash_of_the_server() {
    goes_on_after_restarts(true).await;
}

#[tokio::test]
async fn goes_on_when_all_its_connections_are_cut() {
    const JOBS: i64 = 300;

    let name = unique("faults_cut");
    let url = format!("{}&application_name={name}", server().await.url());
    let mut own = connection(&server().await.url()).await;
    let queue = unique("faults");
    let seen = Seen::new();
    let ezq = app(&url, [seen.handler(Duration::from_millis(20))]).await;
    let jobs: Vec<Job> = (1..=JOBS).map(|n| Job { n }).collect();
    ezq.publish_all(&jobs).queue(&queue).await.unwrap();

    let handle = ezq
        .consumer()
        .queue(&queue)
        .concurrency(4)
        .lease(Duration::from_secs(5))
        .spawn();

    let cut = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE application_name = '{name}'"
    );
    let mut cuts = 0;
    for round in 1..=8 {
        seen.until(|seen| seen.len() >= 20 * round).await;
        cuts += scalar::<i64>(&mut own, &cut).await;
    }

    seen.until(|seen| seen.len() == 300).await;
    until(
        &mut own,
        &format!("SELECT count(*) = 0 FROM pgmq.q_{queue}"),
    )
    .await;
    handle.stop();

    let report = handle.await.unwrap();
    println!("{cuts} connections cut in 8 rounds; {report}");
    assert!(cuts >= 8, "not every round cut something: {cuts}");
    assert!(seen.twice().is_empty(), "{:?}", seen.twice());

    let Counts { handled, lost, .. } = report.counts;
    // An acknowledgement whose answer was cut off is found done by somebody when it is repeated.
    assert_eq!(handled + lost, JOBS.unsigned_abs(), "{report}");
}

#[tokio::test]
async fn goes_on_after_a_read_only_time() {
    let database = unique("faults_read_only").to_string();
    let mut own = connection(&server().await.url()).await;
    run(&mut own, &format!("CREATE DATABASE {database}")).await;

    let url = server().await.database_url(&database);
    let queue = unique("faults");
    let seen = Seen::new();
    let ezq = app(&url, [seen.handler(Duration::ZERO)]).await;
    let handle = ezq.consumer().queue(&queue).spawn();

    ezq.publish(&Job { n: 1 }).queue(&queue).await.unwrap();
    seen.until_has(1).await;
    run(
        &mut own,
        &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"),
    )
    .await;

    let cut = format!(
        "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
         WHERE datname = '{database}'"
    );
    assert!(scalar::<i64>(&mut own, &cut).await > 0);

    // The first may still meet a connection that was cut.
    let refused = loop {
        let error = ezq.publish(&Job { n: 2 }).queue(&queue).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        if error.kind() == ErrorKind::Transient {
            break error;
        }
    };
    assert!(
        ezq::error::error_chain(&refused).contains("read-only"),
        "{refused:?}"
    );
    assert!(handle.is_running());

    // Lifted for new connections: those that stand were opened read-only and stay so.
    run(
        &mut own,
        &format!("ALTER DATABASE {database} RESET default_transaction_read_only"),
    )
    .await;

    let lifted = Instant::now();
    while let Err(error) = ezq.publish(&Job { n: 3 }).queue(&queue).await {
        assert!(
            error.is_transient() && lifted.elapsed() < CEILING / 2,
            "{error:?}"
        );
    }

    seen.until_has(3).await;
    println!("handled {:?} after the read-only time", lifted.elapsed());
    handle.stop();

    let report = handle.await.unwrap();
    assert_eq!(report.counts.handled, 2, "{report}");
}

#[tokio::test]
async fn stops_though_the_server_stays_away() {
    let server = EmbeddedPostgres::builder().start().await.unwrap();
    let queue = unique("faults");
    let (go, gate) = watch::channel(false);
    let handler = Handler::on("gated", move |_: Job| {
        let mut gate = gate.clone();
        async move { drop(gate.wait_for(|go| *go).await) }
    });
    let builder = Ezq::builder()
        .database_url(server.url())
        .without_discovered_handlers();

    // Each settlement is a batch of its own, and they wait behind one another.
    let builder = builder
        .register(handler)
        .configure(|config| config.settle_batch = 1);
    let ezq = builder.connect().await.unwrap();
    let jobs: Vec<Job> = (1..=4).map(|n| Job { n }).collect();
    ezq.publish_all(&jobs).queue(&queue).await.unwrap();

    let lease = Duration::from_secs(1);
    let handle = ezq
        .consumer()
        .queue(&queue)
        .concurrency(4)
        .lease(lease)
        .spawn();

    let mut own = connection(&server.url()).await;
    until(
        &mut own,
        &format!("SELECT sum(read_ct) = 4 FROM pgmq.q_{queue}"),
    )
    .await;

    server.stop(false).await.unwrap();
    go.send_replace(true);
    handle.stop();

    let stopping = Instant::now();
    let report = tokio::time::timeout(CEILING, handle)
        .await
        .expect("it stops")
        .unwrap();
    println!(
        "stopped {:?} after it was told: {report}",
        stopping.elapsed()
    );

    assert_eq!(
        (report.counts.handled, report.counts.lost),
        (0, 4),
        "{report}"
    );
}
