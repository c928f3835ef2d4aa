//! Dropped tables and functions of ezq's own: the next calls create them again, or report what is
//! missing and what to run.

use std::collections::BTreeSet;
use std::error::Error as _;

use chrono::{TimeDelta, Utc};
use ezq_core::engine::{
    Advance, BroadcastMessage, Broadcasts, Cancel, CancelOrder, Cancellations, ConsumerPresence,
    Dedupe, Due, Engine, EventAction, EventParty, EventRef, EventRole, EventState, Firing,
    Operations, PauseTarget, Pauses, Presence, Registration, ScheduleStore, Selection, Settle,
    SettleOutcome, Signature,
};
use ezq_core::event::Pattern;
use ezq_core::message::headers::Headers;
use ezq_core::message::{QueueName, Retention};
use ezq_core::{Error, ErrorKind};
use ezq_pgmq::{Inbox, PgmqConfig, PgmqEngine};
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

/// What an application does, and what it needs of ezq's own tables.
const USES: [(&str, &str, Use); 23] = [
    ("ezq.dedupe", "TABLE", Use::PublishWithKey),
    ("ezq.dedupe", "TABLE", Use::PublishInWithKey),
    ("ezq.dedupe", "TABLE", Use::SettleWithKey),
    ("ezq.dedupe", "TABLE", Use::BroadcastWithKey),
    ("ezq.trail", "TABLE", Use::Acknowledge),
    ("ezq.subscriptions", "TABLE", Use::Broadcast),
    ("ezq.subscriptions", "TABLE", Use::BroadcastIn),
    ("ezq.subscriptions", "TABLE", Use::Subscribe),
    ("ezq.recipients", "FUNCTION", Use::Broadcast),
    ("ezq.store_copies", "FUNCTION", Use::Broadcast),
    ("ezq.event_parties", "TABLE", Use::Record),
    ("ezq.schedules", "TABLE", Use::Look),
    ("ezq.schedules", "TABLE", Use::Register),
    ("ezq.schedules", "TABLE", Use::Fire),
    ("ezq.replays", "TABLE", Use::Replay),
    ("ezq.controls", "TABLE", Use::Pause),
    ("ezq.controls", "TABLE", Use::Resume),
    ("ezq.cancellations", "TABLE", Use::Cancel),
    ("ezq.consumers", "TABLE", Use::NoteConsumer),
    ("ezq.positions", "TABLE", Use::BeginPartition),
    ("ezq.audit", "TABLE", Use::Pause),
    ("ezq.audit", "TABLE", Use::Act),
    ("ezq.operations", "TABLE", Use::Operate),
];

#[derive(Debug, Clone, Copy)]
enum Use {
    PublishWithKey,
    PublishInWithKey,
    SettleWithKey,
    BroadcastWithKey,
    Acknowledge,
    Broadcast,
    BroadcastIn,
    Subscribe,
    Record,
    Look,
    Register,
    Fire,
    Replay,
    Pause,
    Resume,
    Cancel,
    NoteConsumer,
    BeginPartition,
    Act,
    Operate,
}

fn event(key: Option<&str>) -> BroadcastMessage {
    let event_type = "order.created".to_owned();
    let body = "1".to_owned();
    let headers = Headers::new();
    let dedupe = key.map(|key| Dedupe::new(key, TTL, "e").unwrap());
    BroadcastMessage::new(event_type, body, headers).dedupe(dedupe)
}

fn whole(queue: &QueueName) -> PauseTarget {
    PauseTarget::queue(queue.clone())
}

async fn begin_partition(engine: &PgmqEngine) -> Result<(), Error> {
    let positions = engine.positions().unwrap();
    positions.begin("s", "p", None).await.map(drop)
}

fn consumer(queue: &QueueName) -> ConsumerPresence {
    let id = "0196f0c1-0000-7000-8000-000000000000";
    ConsumerPresence::new(id, "shop", queue.clone(), "host", 1)
}

impl Use {
    /// Does it once.
    async fn run(self, engine: &PgmqEngine, queue: &QueueName) -> Result<(), Error> {
        let key = unique("key");
        let key = key.as_str();

        match self {
            Self::PublishWithKey => {
                stored(
                    engine
                        .publish(vec![keyed(queue, "1", key)])
                        .await?
                        .remove(0),
                );
            }
            Self::PublishInWithKey => {
                let mut tx = engine.pool().begin().await.unwrap();
                engine
                    .publish_in(&mut tx, vec![keyed(queue, "1", key)])
                    .await?;
                tx.commit().await.unwrap();
            }
            Self::SettleWithKey => {
                let outgoing = vec![keyed(&unique_target(engine).await, "1", key)];
                settle_one(engine, queue, Settle::Ack { outgoing }).await?;
            }
            Self::BroadcastWithKey => {
                engine
                    .subscribe("shop", queue, &[Pattern::new("order.*").unwrap()])
                    .await?;
                assert!(!engine.broadcast(event(Some(key))).await?.is_empty());
            }
            Self::Acknowledge => settle_one(engine, queue, ack()).await?,
            Self::Broadcast => drop(engine.broadcast(event(None)).await?),
            Self::BroadcastIn => {
                let mut tx = engine.pool().begin().await.unwrap();
                engine.broadcast_in(&mut tx, event(None)).await?;
                tx.commit().await.unwrap();
            }
            Self::Subscribe => {
                // A name that subscriptions accept since a later migration.
                let queue = QueueName::new(&format!("eu.{key}")).unwrap();
                engine
                    .subscribe("shop", &queue, &[Pattern::new("order.*").unwrap()])
                    .await?;
            }
            Self::Record => engine.record(&[party()]).await?,
            Self::Look => drop(engine.look(&[("a", "daily")]).await?),
            Self::Register => drop(register(engine, key).await?),
            Self::Fire => {
                let from = Utc::now() - TimeDelta::days(1);
                let tick = Advance::new("daily", from, Utc::now()).due(from);
                let message = Some(message(queue, "1"));
                engine
                    .fire(Firing::new(key).tick(tick).message(message))
                    .await?;
            }
            Self::Replay => drop(engine.replay(key, queue).await?),
            Self::Pause => drop(Pauses::pause(engine, &whole(queue), "Ada", None).await?),
            Self::Resume => drop(Pauses::resume(engine, &whole(queue), "Ada").await?),
            Self::Cancel => {
                let outcome = engine.publish(vec![message(queue, "1").due(Due::After(TTL))]);
                let id = stored(outcome.await?.remove(0));
                let order = CancelOrder::new(Cancel::Dead, "Ada");
                assert!(engine.ask(queue, &id, &order).await?);
                engine.finish(queue, &[id]).await?;
            }
            Self::Act | Self::Operate => self.operate(engine, queue, key).await?,
            Self::NoteConsumer => engine.note(&[consumer(queue)]).await?,
            Self::BeginPartition => begin_partition(engine).await?,
        }

        Ok(())
    }

    /// Acts on an event, or starts an operation.
    async fn operate(self, engine: &PgmqEngine, queue: &QueueName, key: &str) -> Result<(), Error> {
        let by = Signature::new("Ada");
        if let Self::Operate = self {
            let selection = Selection::new(queue.clone(), EventState::Dead);
            let started = engine.start(key, &EventAction::Redrive, &selection, &by);
            return started.await.map(drop);
        }

        let id = publish(engine, queue, &["1"]).await.remove(0);
        let event = [EventRef::from(&id)];
        let acted = engine.act(queue, &EventAction::Discard, &event, &by);
        acted.await.map(drop)
    }

    /// Does it as a caller that tries again after a transient error.
    async fn patiently(
        self,
        engine: &PgmqEngine,
        queue: &QueueName,
        what: &str,
    ) -> Result<(), Error> {
        for _ in 0..3 {
            let Err(error) = self.run(engine, queue).await else {
                return Ok(());
            };
            let told = ezq_core::error::error_chain(&error);
            assert!(told.contains(what), "{self:?} without {what}: {told}");
            if !error.is_transient() || told.contains("administrator") {
                return Err(error);
            }
        }
        panic!("{self:?} without {what} fails for ever");
    }
}

fn party() -> EventParty {
    let event_type = "order.created".to_owned();
    let app = "shop".to_owned();
    EventParty::new(event_type, EventRole::Owner, app)
}

async fn register(engine: &PgmqEngine, name: &str) -> Result<bool, Error> {
    let next_at = Utc::now() - TimeDelta::days(1);
    let new = Registration::new(name, "shop", "daily", next_at);
    engine.register(new, None).await
}

async fn unique_target(engine: &PgmqEngine) -> QueueName {
    let target = unique("target");
    engine.ensure_queue(&target).await.unwrap();
    target
}

/// Publishes a message and settles it.
async fn settle_one(engine: &PgmqEngine, queue: &QueueName, settle: Settle) -> Result<(), Error> {
    publish(engine, queue, &["1"]).await;
    let receipt = lease(engine, queue).await.pop().unwrap().receipt;

    match engine
        .settle(queue, vec![(receipt, settle)])
        .await?
        .remove(0)
    {
        SettleOutcome::Done => Ok(()),
        SettleOutcome::Failed { error, .. } => Err(error),
        other => panic!("{other:?}"),
    }
}

/// An engine on a queue that keeps a trail.
async fn connect(url: &str, queue: &QueueName, manage: bool) -> PgmqEngine {
    let config = PgmqConfig::url(url)
        .unwrap()
        .retention(queue, Retention::TRAIL);
    PgmqEngine::connect(config.manage_schema(manage))
        .await
        .unwrap()
}

/// A database in which everything has been used.
async fn database() -> (String, QueueName, PgConnection) {
    let url = fresh_database().await;
    let queue = unique("q");
    let engine = connect(&url, &queue, true).await;
    engine.ensure_queue(&queue).await.unwrap();

    for (_, _, does) in USES {
        does.run(&engine, &queue).await.unwrap();
    }

    let mut own = PgConnection::connect(&url).await.unwrap();
    Inbox::create(&mut own).await.unwrap();
    engine.close().await;
    (url, queue, own)
}

/// The statements that an error says to run.
fn to_run(error: &Error) -> String {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(told) = cause {
        let told_text = told.to_string();
        if let Some((text, sql)) = told_text.split_once('\n')
            && text.ends_with("administrator")
        {
            return sql.to_owned();
        }
        cause = told.source();
    }

    panic!("it does not say what to run: {error:?}");
}

#[tokio::test]
async fn what_was_dropped_is_made_again_by_the_calls_that_need_it() {
    let (url, queue, mut own) = database().await;
    let running = connect(&url, &queue, true).await;

    for (name, kind, does) in USES {
        does.run(&running, &queue).await.unwrap();
        let starting = connect(&url, &queue, true).await;
        starting.ensure_queue(&queue).await.unwrap();
        for engine in [&running, &starting] {
            run(&mut own, &format!("DROP {kind} {name}")).await;
            does.patiently(engine, &queue, name).await.unwrap();
        }
        starting.close().await;
    }
}

#[tokio::test]
async fn what_is_not_to_be_made_again_is_told_by_name_with_what_to_run() {
    let (url, queue, mut own) = database().await;
    let engine = connect(&url, &queue, false).await;

    for (name, kind, does) in USES {
        if matches!(does, Use::SettleWithKey) {
            // Where queues for events are not created either.
            continue;
        }

        does.run(&engine, &queue).await.unwrap();
        run(&mut own, &format!("DROP {kind} {name}")).await;
        let error = does.patiently(&engine, &queue, name).await.unwrap_err();

        // A handled message waits for its trail.
        let kind = if name == "ezq.trail" {
            ErrorKind::Transient
        } else {
            ErrorKind::SchemaMissing
        };
        assert_eq!(error.kind(), kind, "{does:?}: {error:?}");

        run(&mut own, &to_run(&error)).await;
        does.patiently(&engine, &queue, name).await.unwrap();
    }
}

#[tokio::test]
async fn every_table_of_the_schema_is_among_those_that_were_dropped() {
    let (_, _, mut own) = database().await;
    let tables = "SELECT array_agg('ezq.' || relname) FROM pg_class
                  WHERE relnamespace = 'ezq'::regnamespace AND relkind = 'r'";
    let stand: BTreeSet<String> = scalar::<Vec<String>>(&mut own, tables)
        .await
        .into_iter()
        .collect();

    let tables = USES
        .iter()
        .filter(|(_, kind, _)| *kind == "TABLE")
        .map(|(name, ..)| *name);

    // These have tests of their own.
    let tables = tables
        .chain(["ezq.holders", "ezq.inbox", "ezq.migrations"])
        .map(str::to_owned);
    assert_eq!(stand, tables.collect());
}

#[tokio::test]
async fn without_its_record_of_changes_all_is_as_before() {
    let (url, queue, mut own) = database().await;
    let running = connect(&url, &queue, true).await;
    stored(
        running
            .publish(vec![keyed(&queue, "1", "kept")])
            .await
            .unwrap()
            .remove(0),
    );
    run(&mut own, "DROP TABLE ezq.migrations").await;

    let passive = connect(&url, &queue, false).await;
    let error = Use::PublishWithKey.run(&passive, &queue).await.unwrap_err();
    assert!(error.to_string().contains("ezq.migrations"), "{error}");

    for engine in [&running, &connect(&url, &queue, true).await] {
        for (_, _, does) in USES {
            does.run(engine, &queue).await.unwrap();
        }
    }

    let kept = "SELECT count(*) FROM ezq.dedupe WHERE key = 'kept'";
    assert_eq!(scalar::<i64>(&mut own, kept).await, 1);

    run(&mut own, "DROP TABLE ezq.migrations").await;
    run(&mut own, &to_run(&error)).await;
    Use::PublishWithKey.run(&passive, &queue).await.unwrap();
}

#[tokio::test]
async fn an_inbox_that_was_dropped_is_created_again() {
    let (_, _, mut own) = database().await;
    let stands = "SELECT to_regclass('ezq.inbox') IS NOT NULL";
    for made_by_hand in [false, true] {
        run(&mut own, "DROP TABLE ezq.inbox").await;
        match made_by_hand {
            false => Inbox::create(&mut own).await.unwrap(),
            true => run(&mut own, &Inbox::setup_sql(None)).await,
        }
        assert!(scalar::<bool>(&mut own, stands).await);
    }
}

#[tokio::test]
async fn what_a_newer_ezq_changed_of_a_dropped_table_is_left_to_that() {
    let (url, queue, mut own) = database().await;
    let newer = "INSERT INTO ezq.migrations (version, name) VALUES (1000, 'of the future');
                 DROP TABLE ezq.dedupe";
    run(&mut own, newer).await;
    let engine = connect(&url, &queue, true).await;
    Use::PublishWithKey.run(&engine, &queue).await.unwrap();

    // The newer version must apply its change again.
    let recorded = "SELECT max(version) < 1000 FROM ezq.migrations";
    assert!(scalar::<bool>(&mut own, recorded).await);
}

#[tokio::test]
async fn a_table_that_a_trigger_asks_for_is_not_taken_for_a_queue() {
    let (engine, queue) = engine_and_queue().await;
    let mut own = connection().await;
    let trigger = format!(
        "CREATE FUNCTION audit_{queue}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO public.no_such_audit VALUES (1); RETURN NULL; END $$;
         CREATE TRIGGER audit AFTER DELETE OR INSERT ON pgmq.q_{queue}
           EXECUTE FUNCTION audit_{queue}()"
    );
    publish(&engine, &queue, &["1"]).await;

    let receipt = lease_one(&engine, &queue).await.receipt;
    run(&mut own, &trigger).await;
    let published = engine.publish(vec![message(&queue, "2")]).await.map(drop);

    let settled = engine
        .settle(&queue, vec![(receipt, ack())])
        .await
        .map(drop);
    for error in [published.unwrap_err(), settled.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Engine, "{error:?}");
        assert!(
            error
                .source()
                .unwrap()
                .to_string()
                .contains("no_such_audit"),
            "{error:?}"
        );
    }
}
