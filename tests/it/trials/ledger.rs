//! A trial: its queue, its workers, and the ledger that must come out even.

use std::time::{Duration, Instant};

use ezq::QueueName;
use ezq::sqlx::{self, AssertSqlSafe};

use super::STANDSTILL;
use super::worker::Plan;
use crate::child::{Job, Process, Role};
use crate::database::{app, connection, run, scalar, unique};
use crate::stress::seed_of_now;

/// A queue with its ledger, its events and its workers.
pub(super) struct Trial {
    pub(super) url: String,
    pub(super) queue: QueueName,
    pub(super) events: i64,
    pub(super) seed: u64,
    pub(super) plan: Plan,
    pub(super) workers: Vec<Process>,
    pub(super) started: usize,
}

impl Trial {
    pub(super) async fn new(url: &str, events: i64) -> Self {
        let seed = std::env::var("TRIAL_SEED")
            .ok()
            .map(|seed| seed.parse().unwrap());
        let seed = seed.unwrap_or_else(seed_of_now);
        println!("TRIAL_SEED={seed}");

        let queue = unique("trial");
        let plan = Plan {
            queue: queue.to_string(),
            worker: 0,
            seed,
            lease: Duration::from_secs(1),
            concurrency: 5,
            pool: 5,
            takes: Duration::from_millis(10),
        };

        let url = url.to_owned();
        let workers = Vec::new();
        let trial = Self {
            url,
            queue,
            events: 0,
            seed,
            plan,
            workers,
            started: 0,
        };

        let mut own = connection(&trial.url).await;
        let table = format!(
            "create table trial_{} (n bigint, who text, worker int, \
             at timestamptz default clock_timestamp())",
            trial.queue
        );
        run(&mut own, &table).await;

        let mut trial = trial;
        trial.publish(events).await;
        trial
    }

    /// Publishes so many events more.
    pub(super) async fn publish(&mut self, count: i64) {
        let ezq = app(&self.url, []).await;
        let jobs: Vec<Job> = (self.events..self.events + count)
            .map(|n| Job { n })
            .collect();

        ezq.engine(&self.queue)
            .ensure_queue(&self.queue)
            .await
            .unwrap();
        ezq.publish_all(&jobs).queue(&self.queue).await.unwrap();
        self.events += count;
        ezq.close().await;
    }

    pub(super) fn role(&mut self) -> Role {
        self.started += 1;
        Role::Trial(Plan {
            worker: self.started,
            ..self.plan.clone()
        })
    }

    pub(super) async fn start(&mut self, url: &str) -> usize {
        let role = self.role();
        let mut worker = Process::start(url, &role);
        worker.hear("ready").await;
        self.workers.push(worker);
        self.workers.len() - 1
    }

    pub(super) async fn start_several(&mut self, count: usize) {
        for _ in 0..count {
            let url = self.url.clone();
            self.start(&url).await;
        }
    }

    /// Kills a worker and starts another in its place.
    pub(super) async fn replace(&mut self, place: usize) {
        self.workers[place].kill().await;
        let role = self.role();
        self.workers[place] = Process::start(&self.url, &role);
    }

    /// A number below a limit, the same in every run of one seed.
    pub(super) fn lot(&self, of: u64, limit: u64) -> u64 {
        let mut z = self
            .seed
            .wrapping_add(of.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 31)) % limit
    }

    pub(super) async fn left(&self) -> i64 {
        let count = format!("select count(*) from pgmq.q_{}", self.queue);
        scalar(&mut connection(&self.url).await, &count).await
    }

    /// How far the work has come: the messages that are left, and the effects of `Tx` handlers, which
    /// every event has once. It changes with each event that is handled, and never turns back.
    async fn progress(&self) -> (i64, i64) {
        let progress = format!(
            "select (select count(*) from pgmq.q_{queue}),
                    (select count(*) from trial_{queue} where who <> 'plain')",
            queue = self.queue
        );
        sqlx::query_as(AssertSqlSafe(progress))
            .fetch_one(&mut connection(&self.url).await)
            .await
            .unwrap()
    }

    /// Waits until the queue is empty. A slow machine may take its time: what fails is work that
    /// stands still.
    pub(super) async fn work_off(&self) {
        let mut progress = self.progress().await;
        let mut since = Instant::now();
        while progress.0 > 0 {
            let stands_still = since.elapsed() > STANDSTILL;
            assert!(!stands_still, "{}", self.stuck().await);
            tokio::time::sleep(Duration::from_millis(50)).await;

            let now = self.progress().await;
            if now != progress {
                progress = now;
                since = Instant::now();
            }
        }
    }

    /// What is known of work that stands still: its messages, and what the server's sessions do.
    async fn stuck(&self) -> String {
        let mut own = connection(&self.url).await;
        let messages = format!(
            "select concat_ws(' ', count(*), 'left,', count(*) filter (where vt <= now()), 'due,',
                              'read_ct up to', max(read_ct), 'next due in', min(vt) - now())
             from pgmq.q_{}",
            self.queue
        );
        let sessions = "select coalesce(string_agg(concat_ws(' ', pid, state, wait_event_type,
                            wait_event, now() - state_change, pg_blocking_pids(pid)::text,
                            left(query, 120)), chr(10)), 'none')
                        from pg_stat_activity
                        where datname = current_database() and pid <> pg_backend_pid()";

        let messages: String = scalar(&mut own, &messages).await;
        let sessions: String = scalar(&mut own, sessions).await;
        format!(
            "seed {}: stuck: {messages}\nsessions:\n{sessions}",
            self.seed
        )
    }

    /// Waits until the queue is empty, and checks the ledger.
    pub(super) async fn settle(mut self) {
        self.work_off().await;
        for worker in &mut self.workers {
            worker.stop().await;
        }

        let tally = self.tally().await;
        println!("{tally}");
        tally.check(self.seed);
    }

    async fn tally(&self) -> Tally {
        let mut own = connection(&self.url).await;
        let mut ask = async |what: &str| -> i64 {
            let sql = format!("select {what}").replace("LEDGER", &format!("trial_{}", self.queue));
            scalar(&mut own, &sql).await
        };
        let rows = |who: &str| format!("(select count(*) from LEDGER where who = '{who}')");
        let events =
            |who: &str| format!("(select count(distinct n) from LEDGER where who = '{who}')");

        Tally {
            events: self.events,
            tx: (ask(&rows("tx")).await, ask(&events("tx")).await),
            followed: (ask(&rows("followed")).await, ask(&events("followed")).await),
            plain: (ask(&rows("plain")).await, ask(&events("plain")).await),
            dead: ask(&format!(
                "(select count(*) from pgmq.q_{})",
                self.queue.dead_letters()
            ))
            .await,
            workers: self.started,
        }
    }
}

/// What the ledger says: effects, and events that had one.
struct Tally {
    events: i64,
    tx: (i64, i64),
    followed: (i64, i64),
    plain: (i64, i64),
    dead: i64,
    workers: usize,
}

impl Tally {
    fn check(&self, seed: u64) {
        let events = self.events;
        assert_eq!(self.tx, (events, events), "seed {seed}: {self}");
        assert_eq!(self.followed, (events, events), "seed {seed}: {self}");
        assert_eq!(self.plain.1, events, "seed {seed}: {self}");
        assert_eq!(self.dead, 0, "seed {seed}: {self}");
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            events,
            tx,
            followed,
            plain,
            dead,
            workers,
        } = self;
        write!(
            f,
            "{events} events, {workers} workers; `Tx`: {} effects on {} events, of what it returned {} \
             on {}; without `Tx`: {} on {}; {dead} dead",
            tx.0, tx.1, followed.0, followed.1, plain.0, plain.1
        )
    }
}
