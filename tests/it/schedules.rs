//! Schedules across processes of their own: each tick fires once, whoever is killed when.
//!
//! A tick says when the one before it was due. So the ticks in a queue are a chain: one that was
//! lost leaves a gap in it, one that fired twice a fork.

use std::time::Duration;

use ezq::pgmq::embedded::EmbeddedPostgres;
use ezq::prelude::*;
use ezq::sqlx::PgConnection;
use ezq::{__private, Config, ErrorKind, Event, Handler};
use serde::{Deserialize, Serialize};

use crate::child::{Process, Role, say};
use crate::database::{connection, run, scalar, server, unique, until};
use crate::kit::soon;
use crate::skip;

/// What a scheduling process is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Timekeeper {
    every: String,
    app: String,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "reminder", queue = "reminders")]
struct Reminder {}

/// The chain, in the order of the queue, as problems with it.
const GAPS: &str = "
    SELECT array_agg(format('%s after %s', due, before)) FROM (
      SELECT message->'data'->>'due' AS due, message->'data'->>'previous' AS previous,
             lag(message->'data'->>'due') OVER (ORDER BY msg_id) AS before
      FROM pgmq.q_ticks) chain
    WHERE previous IS DISTINCT FROM before";

/// Takes a schedule's ticks from a queue that nobody here consumes.
fn keeper(every: &str) -> Handler {
    let schedule = Schedule::every(every);
    let never =
        |_: ezq::handler::Call| -> __private::HandlerFuture { Box::pin(async { Ok(Vec::new()) }) };
    __private::scheduled("chain", "ezq.tick.chain", schedule, never).queue("ticks")
}

async fn connect(every: &str, configure: impl FnOnce(&mut Config)) -> Ezq {
    let builder = Ezq::builder()
        .without_discovered_handlers()
        .register(keeper(every));
    builder.configure(configure).connect().await.unwrap()
}

pub(crate) async fn keep_time(told: Timekeeper) {
    let ezq = connect(&told.every, |config| config.app = told.app).await;
    let consumer = ezq.consumer().queue("idle").stop_on_signals().spawn();
    say("ready");
    say(&format!("report {}", consumer.await.unwrap()));
}

struct Scene {
    url: String,
    own: PgConnection,
}

impl Scene {
    async fn new() -> Self {
        let server: &EmbeddedPostgres = server().await;
        let name = unique("clock");
        run(
            &mut connection(&server.url()).await,
            &format!("CREATE DATABASE {name}"),
        )
        .await;

        let url = server.database_url(name.as_str());
        let ezq = Ezq::builder()
            .database_url(&url)
            .without_discovered_handlers();
        let ezq = ezq.connect().await.unwrap();
        for queue in ["ticks", "idle", "reminders"] {
            let queue = ezq::QueueName::new(queue).unwrap();
            ezq.engine(&queue).ensure_queue(&queue).await.unwrap();
        }

        ezq.close().await;
        Self {
            own: connection(&url).await,
            url,
        }
    }

    async fn start(&self, every: &str) -> Process {
        let told = Timekeeper {
            every: every.to_owned(),
            app: "clock".to_owned(),
        };
        let mut child = Process::start(&self.url, &Role::Timekeeper(told));
        child.hear("ready").await;
        child
    }

    async fn count(&mut self) -> i64 {
        scalar(&mut self.own, "SELECT count(*) FROM pgmq.q_ticks").await
    }

    async fn until_ticks(&mut self, count: i64) {
        until(
            &mut self.own,
            &format!("SELECT count(*) >= {count} FROM pgmq.q_ticks"),
        )
        .await;
    }

    /// No tick was lost and none fired twice.
    async fn assert_chain(&mut self) {
        let gaps: Option<Vec<String>> = scalar(&mut self.own, GAPS).await;
        assert_eq!(gaps, None);
        // The row says the same.
        let last = "SELECT (SELECT last_tick FROM ezq.schedules WHERE name = 'chain') =
                           (SELECT (message->'data'->>'due')::timestamptz FROM pgmq.q_ticks
                            ORDER BY msg_id DESC LIMIT 1)";
        assert!(scalar::<bool>(&mut self.own, last).await);
    }
}

#[tokio::test]
async fn five_processes_fire_each_tick_once() {
    let mut scene = Scene::new().await;
    let mut children = Vec::new();
    for _ in 0..5 {
        children.push(scene.start("1s").await);
    }

    scene.until_ticks(10).await;
    for child in &mut children {
        child.stop().await;
    }

    scene.assert_chain().await;
    let steps = "SELECT bool_and(extract(epoch FROM due - before)::numeric % 1 = 0) FROM (
                   SELECT (message->'data'->>'due')::timestamptz AS due,
                          (message->'data'->>'previous')::timestamptz AS before
                   FROM pgmq.q_ticks) chain WHERE before IS NOT NULL";
    assert!(scalar::<bool>(&mut scene.own, steps).await);

    // By the database's clock: none came before its time.
    let early = "SELECT count(*) FROM pgmq.q_ticks
                 WHERE enqueued_at < (message->'data'->>'due')::timestamptz";
    assert_eq!(scalar::<i64>(&mut scene.own, early).await, 0);
}

#[tokio::test]
async fn a_process_that_is_killed_at_a_tick_neither_loses_nor_doubles_it() {
    let mut scene = Scene::new().await;
    let mut first = scene.start("1s").await;
    let mut second = scene.start("1s").await;

    for round in 0..8_u64 {
        let count = scene.count().await;
        scene.until_ticks(count + 1).await;
        // Around the next tick: a little earlier in each round than in the one before.
        tokio::time::sleep(Duration::from_millis(1010 - round * 8)).await;
        first.kill().await;

        // Every other time nobody is left.
        if round % 2 == 0 {
            second.kill().await;
            second = scene.start("1s").await;
        }
        first = scene.start("1s").await;
    }

    let count = scene.count().await;
    scene.until_ticks(count + 1).await;
    first.stop().await;
    second.stop().await;
    scene.assert_chain().await;
}

#[tokio::test]
async fn a_process_whose_clock_is_wrong_ticks_by_that_of_the_database() {
    let test = "schedules::a_process_whose_clock_is_wrong_ticks_by_that_of_the_database";
    let Some(_) = skip::program("faketime", "faketime", test) else {
        return;
    };
    let mut scene = Scene::new().await;

    for offset in ["+1d", "-1d"] {
        let count = scene.count().await;
        let told = Timekeeper {
            every: "1s".to_owned(),
            app: "clock".to_owned(),
        };
        let mut child = Process::start_at(offset, &scene.url, &Role::Timekeeper(told)).await;
        scene.until_ticks(count + 3).await;
        child.stop().await;
    }

    scene.assert_chain().await;
    let off = "SELECT count(*) FROM pgmq.q_ticks
               WHERE abs(extract(epoch FROM enqueued_at - (message->>'time')::timestamptz)) > 3600";
    assert_eq!(scalar::<i64>(&mut scene.own, off).await, 0);
}

#[tokio::test]
async fn ticks_go_on_after_a_restart_where_they_were() {
    let mut scene = Scene::new().await;
    let mut child = scene.start("2s").await;
    scene.until_ticks(1).await;
    child.stop().await;

    let next = "SELECT next_at::text FROM ezq.schedules";
    let due: String = scalar(&mut scene.own, next).await;
    let mut child = scene.start("2s").await;
    scene.until_ticks(2).await;
    child.stop().await;
    scene.assert_chain().await;

    // Unless the machine was so slow that later ones had come, it is the very tick.
    let second = format!(
        "SELECT (message->'data'->>'due')::timestamptz >= '{due}' AND
                extract(epoch FROM (message->'data'->>'due')::timestamptz - '{due}')::numeric % 2 = 0
         FROM pgmq.q_ticks ORDER BY msg_id OFFSET 1 LIMIT 1"
    );
    assert!(scalar::<bool>(&mut scene.own, &second).await);
}

#[tokio::test]
async fn two_versions_at_once_do_not_fight_and_the_last_that_began_decides() {
    let mut scene = Scene::new().await;
    let mut old = scene.start("1s").await;
    scene.until_ticks(2).await;

    let mut new = scene.start("365d").await;
    until(
        &mut scene.own,
        "SELECT definition LIKE 'every 31536000s%' FROM ezq.schedules",
    )
    .await;

    let count = scene.count().await;
    // The old version lives, and is silent.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.count().await, count);
    new.stop().await;

    // As two minutes later.
    let gone = "UPDATE ezq.schedules SET seen_at = seen_at - interval '3 min'";
    run(&mut scene.own, gone).await;
    until(
        &mut scene.own,
        "SELECT definition LIKE 'every 1s%' FROM ezq.schedules",
    )
    .await;

    scene.until_ticks(count + 1).await;
    old.stop().await;
    scene.assert_chain().await;
}

#[tokio::test]
async fn schedules_are_changed_from_another_process() {
    let mut scene = Scene::new().await;
    let mut child = scene.start("1s").await;
    scene.until_ticks(1).await;

    let builder = Ezq::builder()
        .database_url(&scene.url)
        .without_discovered_handlers();
    let remind = Schedule::cron("0 9 * * MON").tz("Europe/Paris");
    let ezq = builder
        .schedule("Erinnerung \"A\"", remind, &Reminder {})
        .connect()
        .await
        .unwrap();

    let schedules = ezq.schedules().unwrap();
    schedules.pause("chain").await.unwrap();
    let paused = schedules.list().await.unwrap();
    assert!(paused[0].is_paused && paused[0].last_tick.is_some() && !paused[0].is_known);

    let count = scene.count().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(scene.count().await, count);

    schedules.resume("chain").await.unwrap();
    scene.until_ticks(count + 1).await;
    child.stop().await;

    // Its own, which nobody has fired yet, and another's, whose tick is that of now.
    let published = schedules.run_now("Erinnerung \"A\"").await.unwrap();
    assert_eq!(published.queue.as_str(), "reminders");
    let before = schedules.list().await.unwrap().remove(1);
    let published = schedules.run_now("chain").await.unwrap();
    let after = schedules.list().await.unwrap().remove(1);
    assert_eq!(
        (after.next_at, after.last_tick),
        (before.next_at, before.last_tick)
    );
    let tick = format!(
        "SELECT message->'data' FROM pgmq.q_{} WHERE message->>'id' = '{}'",
        published.queue, published.event_id
    );
    let tick: serde_json::Value = scalar(&mut scene.own, &tick).await;
    let tick: Tick = serde_json::from_value(tick).unwrap();
    assert_eq!(tick.schedule, "chain");
    assert_eq!(tick.previous, before.last_tick);
    assert!(
        before.last_tick.is_some_and(|last| tick.due > last),
        "{tick:?}"
    );
    assert_eq!(
        schedules.run_now("chian").await.unwrap_err().kind(),
        ErrorKind::ScheduleMissing
    );

    let [mine, _] = &schedules.list().await.unwrap()[..] else {
        panic!()
    };
    assert!(mine.is_known && mine.next_at.is_some() && mine.fired_at.is_some());
    assert!(schedules.remove("chain").await.unwrap());
    assert_eq!(schedules.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn another_application_s_schedule_of_the_same_name_goes_on_and_the_second_does_not_start() {
    let mut scene = Scene::new().await;
    let mut shop = scene.start("1s").await;
    scene.until_ticks(1).await;

    let mail = || {
        let builder = Ezq::builder()
            .database_url(&scene.url)
            .without_discovered_handlers();
        let other = Schedule::every("1s").queue("reminders");
        builder
            .app("mail")
            .schedule("chain", other, &Reminder {})
            .connect()
    };

    let mail = mail().await.unwrap();
    let refused = soon(mail.consumer().queue("idle").run()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ScheduleTaken);
    assert!(
        refused
            .to_string()
            .contains("`clock` has a schedule `chain`"),
        "{refused}"
    );

    let refused = mail
        .schedules()
        .unwrap()
        .run_now("chain")
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ScheduleTaken);

    let count = scene.count().await;
    scene.until_ticks(count + 2).await;
    shop.stop().await;
    scene.assert_chain().await;
    assert_eq!(
        scalar::<i64>(&mut scene.own, "SELECT count(*) FROM pgmq.q_reminders").await,
        0
    );

    // Removed by hand, it is the second's.
    assert!(mail.schedules().unwrap().remove("chain").await.unwrap());

    let consumer = mail.consumer().queue("idle").spawn();
    until(&mut scene.own, "SELECT count(*) >= 1 FROM pgmq.q_reminders").await;
    consumer.stop();
    soon(consumer).await.unwrap();
}

#[tokio::test]
async fn a_consumer_that_may_not_make_the_table_does_not_start() {
    let scene = Scene::new().await;
    let builder = Ezq::builder()
        .database_url(&scene.url)
        .without_discovered_handlers();
    let builder = builder.register(keeper("1s")).manage_schema(false);
    let ezq = builder.connect().await.unwrap();
    let run = ezq.consumer().queue("idle").run();
    let error = soon(run).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SchemaMissing);
}
