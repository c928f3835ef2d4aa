//! A fail-over to a standby that lags: what it never received is lost, and its sequences issue the
//! numbers of lost messages again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq::pgmq::embedded::EmbeddedPostgres;
use ezq::{ErrorKind, Ezq, Handler, QueueName};
use tokio::sync::watch;

use crate::child::Job;
use crate::database::{CEILING, app, connection, run, scalar, unique, until};

/// A sequence is ahead of its standby's by at most 32 numbers that its log has set aside: more
/// messages than that are lost, so that the numbers of some are issued again.
const LOST: i64 = 100;
const AFTER: i64 = 80;

/// A primary, its standby, and the one address by which applications reach whichever serves.
pub(crate) struct Pair {
    pub(crate) primary: EmbeddedPostgres,
    pub(crate) standby: EmbeddedPostgres,
    address: PathBuf,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        let primary = EmbeddedPostgres::builder().start().await.unwrap();
        let standby = EmbeddedPostgres::builder().start().await.unwrap();
        let folders = [folder(&primary).await, folder(&standby).await];
        let address = folders[0].join("address");
        let pair = Self {
            primary,
            standby,
            address,
        };
        pair.point_at(&folders[0]);

        let connects_to = format!("host={} user=postgres", folders[0].display());
        let mut own = connection(&pair.primary.url()).await;
        run(
            &mut own,
            &format!("ALTER SYSTEM SET primary_conninfo = '{connects_to}'"),
        )
        .await;

        drop(own);
        pair.primary.stop(false).await.unwrap();
        pair.standby.stop(false).await.unwrap();
        let [from, to] = folders.map(|folder| folder.join("data"));
        std::fs::remove_dir_all(&to).unwrap();

        let copied = Command::new("cp")
            .arg("-a")
            .args([&from, &to])
            .status()
            .unwrap();
        assert!(copied.success());

        std::fs::write(to.join("standby.signal"), "").unwrap();
        pair.primary.start_again().await.unwrap();
        pair.standby.start_again().await.unwrap();
        pair
    }

    /// The URL of whichever serves.
    fn url(&self) -> String {
        format!(
            "postgres://postgres@localhost/postgres?host={}",
            self.address.display()
        )
    }

    fn point_at(&self, folder: &Path) {
        // Replaced in one step: whoever connects finds one of them.
        let new = self.address.with_extension("new");
        std::os::unix::fs::symlink(folder, &new).unwrap();
        std::fs::rename(&new, &self.address).unwrap();
    }

    async fn is_caught_up(&self) {
        let mut own = connection(&self.primary.url()).await;
        let question = "SELECT count(*) = 1 FROM pg_stat_replication
                        WHERE state = 'streaming' AND replay_lsn = pg_current_wal_lsn()";
        until(&mut own, question).await;
    }

    /// What the primary writes from now on never reaches the standby.
    async fn cut(&self) {
        let mut own = connection(&self.standby.url()).await;
        run(&mut own, "ALTER SYSTEM SET primary_conninfo = ''").await;
        run(&mut own, "SELECT pg_reload_conf()").await;
        until(&mut own, "SELECT count(*) = 0 FROM pg_stat_wal_receiver").await;
    }

    async fn fail_over(&self) {
        self.primary.stop(true).await.unwrap();
        let mut own = connection(&self.standby.url()).await;
        assert!(
            scalar::<bool>(&mut own, "SELECT pg_promote()").await,
            "not promoted in time"
        );
        self.point_at(&folder(&self.standby).await);
    }
}

async fn folder(server: &EmbeddedPostgres) -> PathBuf {
    let mut own = connection(&server.url()).await;
    let data: String = scalar(&mut own, "SHOW data_directory").await;
    Path::new(&data).parent().unwrap().to_owned()
}

/// How often each event was handled, and a gate at which the handler waits.
#[derive(Clone)]
struct Seen {
    begun: Arc<watch::Sender<usize>>,
    handled: Arc<Mutex<BTreeMap<i64, u32>>>,
    open: Arc<watch::Sender<bool>>,
}

impl Seen {
    fn handler(&self) -> Handler {
        let seen = self.clone();
        Handler::on("seen", move |job: Job| {
            let seen = seen.clone();
            async move {
                seen.begun.send_modify(|begun| *begun += 1);
                // The sender lives as long as the handler.
                let _ = seen.open.subscribe().wait_for(|open| *open).await;
                *seen.handled.lock().unwrap().entry(job.n).or_default() += 1;
            }
        })
    }

    fn new(open: bool) -> Self {
        let begun = Arc::new(watch::Sender::new(0));
        let handled = Arc::default();
        Self {
            begun,
            handled,
            open: Arc::new(watch::Sender::new(open)),
        }
    }
}

async fn publish(url: &str, queue: &QueueName, numbers: impl Iterator<Item = i64>) {
    let publisher = app(url, []).await;
    let jobs: Vec<Job> = numbers.map(|n| Job { n }).collect();
    publisher.publish_all(&jobs).queue(queue).await.unwrap();
    publisher.close().await;
}

#[tokio::test]
async fn a_url_that_asks_for_the_primary_is_refused_by_a_standby() {
    let pair = Pair::start().await;
    app(&pair.url(), []).await.close().await;
    pair.is_caught_up().await;

    for target in ["primary", "read-write"] {
        let standby = format!("{}&target_session_attrs={target}", pair.standby.url());
        let error = Ezq::builder()
            .database_url(&standby)
            .connect()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{target}: {error}");
        assert!(error.to_string().contains("takes no writes"), "{error}");

        let primary = format!("{}&target_session_attrs={target}", pair.primary.url());
        app(&primary, []).await.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn what_is_published_after_a_fail_over_is_handled_whatever_older_workers_still_hold() {
    let pair = Pair::start().await;
    let url = pair.url();
    let queue = unique("failover");

    // Holds all that will be lost, until after the fail-over.
    let old = Seen::new(false);
    let old_app = app(&url, [old.handler()]).await;
    let lease = Duration::from_secs(600);
    let consumer = old_app.consumer().grace(lease);
    publish(&url, &queue, 0..1).await;

    let held = usize::try_from(LOST).unwrap() + 1;
    let holder = consumer
        .queue(&queue)
        .concurrency(held)
        .lease(lease)
        .spawn();

    old.begun
        .subscribe()
        .wait_for(|begun| *begun == 1)
        .await
        .unwrap();

    pair.is_caught_up().await;
    pair.cut().await;
    publish(&url, &queue, 1..=LOST).await;

    tokio::time::timeout(
        CEILING,
        old.begun.subscribe().wait_for(|begun| *begun == held),
    )
    .await
    .expect("all are leased")
    .unwrap();

    // It begins nothing new, and goes on with what it holds.
    holder.stop();

    pair.fail_over().await;
    publish(&url, &queue, 1001..=1000 + AFTER).await;

    let mut own = connection(&url).await;
    let reissued = format!("SELECT min(msg_id) FROM pgmq.q_{queue} WHERE msg_id > 1");
    let first: i64 = scalar(&mut own, &reissued).await;
    assert!(
        first <= LOST,
        "no number is issued again: the first is {first}"
    );

    // Another worker has the new messages when the first acknowledges the old ones.
    let new = Seen::new(false);
    let new_app = app(&url, [new.handler()]).await;

    let taker = new_app
        .consumer()
        .queue(&queue)
        .concurrency(held)
        .lease(lease)
        .spawn();

    let all = usize::try_from(AFTER).unwrap();
    tokio::time::timeout(
        CEILING,
        new.begun.subscribe().wait_for(|begun| *begun >= all),
    )
    .await
    .expect("the new messages are leased")
    .unwrap();
    old.open.send_replace(true);

    let lost = holder.await.unwrap();
    println!("the worker of before: {lost}");

    let left: i64 = scalar(&mut own, &format!("SELECT count(*) FROM pgmq.q_{queue}")).await;
    assert!(
        left >= AFTER,
        "late acknowledgements removed {} messages",
        AFTER - left
    );

    new.open.send_replace(true);
    until(
        &mut own,
        &format!("SELECT count(*) = 0 FROM pgmq.q_{queue}"),
    )
    .await;

    taker.stop();
    taker.await.unwrap();

    let handled = new.handled.lock().unwrap().clone();
    for n in 1001..=1000 + AFTER {
        assert_eq!(
            handled.get(&n),
            Some(&1),
            "event {n} of after the fail-over"
        );
    }
}
