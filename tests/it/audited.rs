//! What operators do leaves an entry in the audit trail: each public method of what an operator calls is in
//! one of the lists here, and those that act are called. A new method that is in no list fails the test.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use ezq::admin::{DeadLetterFilter, DeadLetterSelection, EventFilter, EventRef, EventState};
use ezq::engine::{Cancel, Due};
use ezq::message::{MessageId, Retention};
use ezq::pgmq::DropQueue;
use ezq::prelude::*;
use ezq::schedule::Schedule;
use ezq::testing::TestDatabase;
use ezq::{Handler, QueueName, sqlx};

use crate::kit::Numbered;

/// The files that have the methods of operators, and the types on which they are.
const SOURCES: [&str; 6] = [
    "ezq-core/src/admin",
    "ezq-core/src/app/operating.rs",
    "ezq-pgmq/src/capture",
    "ezq-pgmq/src/replay",
    "ezq-pgmq/src/contract",
    "src/tables.rs",
];

/// Requests that are awaited, filters and answers: what they do is the act of whoever returned them.
const PARTS: [&str; 26] = [
    "AuditQuery",
    "Capture",
    "CancelRequest",
    "ConsumerHealth",
    "DeadLetterAction",
    "DeadLetterFilter",
    "DoctorRequest",
    "DropQueueRequest",
    "ErrorGroup",
    "EventAct",
    "FailRequest",
    "Follow",
    "Health",
    "HistoryRequest",
    "IngestHealth",
    "OperationRun",
    "PageQuery",
    "PartitionRequest",
    "PauseRequest",
    "PurgeRequest",
    "QueueSummary",
    "RecordedAct",
    "Replay",
    "ResumeRequest",
    "StopRequest",
    "UnreadableQueue",
];

/// What changes nothing, or returns what acts.
const LOOKS: [&str; 48] = [
    "App::audit",
    "App::blocked_keys",
    "App::dead_letters",
    "App::doctor",
    "App::events",
    "App::history",
    "App::operations",
    "App::stats",
    "Audit::is_read_only",
    "Audit::list",
    "BulkEvents::filter",
    "BulkEvents::previewed",
    "BulkOperations::get",
    "BulkOperations::list",
    "BulkRequest::by",
    "BulkRequest::preview",
    "BulkRequest::reason",
    "Captures::list",
    "Consumers::list",
    "DeadLetterQueue::get",
    "DeadLetterQueue::list",
    "DeadLetterQueue::list_after",
    "Events::all",
    "Events::errors",
    "Events::follow",
    "Events::page",
    "Ezq::capture",
    "Ezq::captures",
    "Ezq::replay",
    "Ezq::replays",
    "PgmqEngine::captures",
    "PgmqEngine::diagnose",
    "PgmqEngine::migrations",
    "PgmqEngine::partitions",
    "PgmqEngine::queue_contents",
    "PgmqEngine::replays",
    "Queues::get",
    "Queues::list",
    "Queues::names",
    "Queues::pauses",
    "Replays::list",
    "Schedules::list",
    "Sources::list",
    "Subscriptions::list",
    "Subscriptions::parties",
    "Subscriptions::test",
    // The operation was recorded when it began, and is when it ends.
    "BulkOperations::step",
    // `ezq.migrations` has each change with its time.
    "PgmqEngine::migrate",
];

/// What a program does to its own events in normal operation.
const OWN: [&str; 2] = ["App::cancel", "App::reschedule"];

/// The acts so far, and how many entries the trail had.
struct Walk {
    ezq: Ezq,
    entries: usize,
    acts: BTreeSet<&'static str>,
}

impl Walk {
    /// Does something, which leaves an entry of this action by Ada.
    async fn act<T: Debug>(
        &mut self,
        method: &'static str,
        action: &str,
        act: impl IntoFuture<Output = ezq::Result<T>>,
    ) -> T {
        let done = act.into_future().await;
        let done = done.unwrap_or_else(|failure| panic!("{method}: {failure}"));
        let trail = self.ezq.audit().list().limit(1000).await.unwrap();
        let newest: Vec<(&str, &str)> = trail
            .entries
            .iter()
            .take(trail.entries.len() - self.entries)
            .map(|entry| (entry.action.name(), entry.signature.by.as_str()))
            .collect();
        assert!(newest.contains(&(action, "Ada")), "{method}: {newest:?}");
        self.entries = trail.entries.len();
        self.acts.insert(method);
        done
    }
}

#[ezq::test]
async fn whatever_an_operator_does_leaves_an_entry(db: TestDatabase) {
    let ezq = stage(&db).await;
    let mut walk = Walk {
        ezq: ezq.clone(),
        entries: 0,
        acts: BTreeSet::new(),
    };
    of_queues_and_events(&mut walk, &ezq).await;
    of_bulk(&mut walk, &ezq).await;
    of_the_rest(&mut walk, &ezq, &db).await;

    let mut known = walk.acts;
    known.extend(LOOKS);
    known.extend(OWN);
    let found = methods();
    let unknown: Vec<&String> = found
        .iter()
        .filter(|method| !known.contains(method.as_str()))
        .collect();
    assert!(
        unknown.is_empty(),
        "does it act? Then it is recorded, and called here; or it is in one of the lists: {unknown:?}"
    );
    let gone: Vec<&&str> = known
        .iter()
        .filter(|method| !found.contains(**method))
        .collect();
    assert!(
        gone.is_empty(),
        "there is no such method any more: {gone:?}"
    );
}

#[ezq::test]
async fn what_a_program_does_to_its_own_events_leaves_none(db: TestDatabase) {
    let ezq = stage(&db).await;
    let hour = Duration::from_secs(3600);
    let published = ezq.publish(&Numbered { n: 1 }).queue("orders").after(hour);
    let published = published.await.unwrap();
    assert!(ezq.reschedule(&published, Due::After(hour)).await.unwrap());
    assert!(ezq.cancel(&published).await.unwrap());
    assert!(ezq.audit().list().await.unwrap().entries.is_empty());
}

/// A queue with events, an archive with one, another queue, a table and a schedule.
async fn stage(db: &TestDatabase) -> Ezq {
    let app = db
        .app(|app| {
            app.queue("archived")
                .retention("archived", Retention::ARCHIVE)
                .register(Handler::on("take", async |_: Numbered| {}))
        })
        .await
        .unwrap();
    app.publish(&Numbered { n: 1 })
        .queue("archived")
        .await
        .unwrap();
    app.drain_queue("archived").await.unwrap();
    app.close().await;

    let hourly = || Schedule::every(Duration::from_secs(3600));
    let builder = db.builder().without_discovered_handlers().app("shop");
    let ezq = builder
        .publishes::<Numbered>()
        .schedule("sweep", hourly(), &Numbered { n: 2 })
        .connect()
        .await
        .unwrap();
    ezq.announce().await.unwrap();
    for n in 1..=20 {
        ezq.publish(&Numbered { n }).queue("orders").await.unwrap();
    }
    ezq.publish(&Numbered { n: 0 }).queue("mail").await.unwrap();
    let table = "CREATE TABLE users (id bigint PRIMARY KEY)";
    sqlx::raw_sql(table).execute(ezq.pool()).await.unwrap();
    ezq
}

async fn of_queues_and_events(walk: &mut Walk, ezq: &Ezq) {
    let queues = ezq.queues();
    walk.act("Queues::pause", "pause", queues.pause("orders").by("Ada"))
        .await;
    walk.act(
        "Queues::resume",
        "resume",
        queues.resume("orders").by("Ada"),
    )
    .await;
    let pause = queues.pause_handler("orders", "mail").by("Ada");
    walk.act("Queues::pause_handler", "pause", pause).await;
    let resume = queues.resume_handler("orders", "mail").by("Ada");
    walk.act("Queues::resume_handler", "resume", resume).await;

    let name = QueueName::new("orders").unwrap();
    for n in 1..=4 {
        let fail = ezq.fail(&name, &MessageId::Number(n), "a test").by("Ada");
        assert!(walk.act("App::fail", "fail", fail).await);
    }
    let letters = ezq.dead_letters("orders").unwrap();
    let dead = letters.list(&DeadLetterFilter::all(), 10).await.unwrap();
    let one = |at: usize| DeadLetterSelection::Ids(vec![dead[at].id.clone()]);
    let redrive = letters.redrive(one(0)).by("Ada");
    walk.act("DeadLetterQueue::redrive", "redrive", redrive)
        .await;
    let discard = letters.discard(one(1)).by("Ada");
    walk.act("DeadLetterQueue::discard", "discard", discard)
        .await;

    let events = ezq.events("orders").unwrap();
    let redrive = events.redrive(&dead[2].id).by("Ada");
    assert!(walk.act("Events::redrive", "redrive", redrive).await);
    let cancel = events.cancel(&MessageId::Number(5), Cancel::Dead).by("Ada");
    walk.act("Events::cancel", "cancel", cancel).await;
    let discard = events.discard(&MessageId::Number(6)).by("Ada");
    assert!(walk.act("Events::discard", "discard", discard).await);
    let waiting = EventRef::Waiting(MessageId::Number(7));
    let move_to = events.move_to(waiting, "mail").by("Ada");
    assert!(walk.act("Events::move_to", "move", move_to).await);
    let later = "UPDATE pgmq.q_orders SET vt = now() + interval '1 hour' WHERE msg_id IN (8, 9)";
    sqlx::raw_sql(later).execute(ezq.pool()).await.unwrap();
    let retry = events.retry_now(&MessageId::Number(8)).by("Ada");
    assert!(walk.act("Events::retry_now", "retry_now", retry).await);
}

async fn of_bulk(walk: &mut Walk, ezq: &Ezq) {
    let events = ezq.events("orders").unwrap();
    let retry = events.all(EventState::Scheduled).retry_now().by("Ada");
    walk.act("BulkEvents::retry_now", "retry_now", retry).await;
    let redrive = events.all(EventState::Dead).redrive().by("Ada");
    walk.act("BulkEvents::redrive", "redrive", redrive).await;
    let none = EventFilter::all().event_type("no.such");
    let moved = events
        .all(EventState::Ready)
        .filter(none)
        .move_to("mail")
        .by("Ada");
    walk.act("BulkEvents::move_to", "move", moved).await;

    let discard = events.all(EventState::Ready).discard().by("Ada");
    let started = async { discard.start().await };
    let id = walk.act("BulkRequest::start", "discard", started).await.id;
    let operations = ezq.operations();
    let stop = operations.stop(&id).by("Ada");
    walk.act("BulkOperations::stop", "stop_operation", stop)
        .await;
    let resume = operations.resume(&id).by("Ada");
    walk.act("BulkOperations::resume", "resume_operation", resume)
        .await;
    let discard = events.all(EventState::Dead).discard().by("Ada");
    walk.act("BulkEvents::discard", "discard", discard).await;
}

async fn of_the_rest(walk: &mut Walk, ezq: &Ezq, db: &TestDatabase) {
    let schedules = ezq.schedules().unwrap();
    walk.act(
        "Schedules::pause",
        "pause",
        schedules.pause("sweep").by("Ada"),
    )
    .await;
    walk.act(
        "Schedules::resume",
        "resume",
        schedules.resume("sweep").by("Ada"),
    )
    .await;
    let run = schedules.run_now("sweep").by("Ada");
    walk.act("Schedules::run_now", "run_schedule", run).await;
    let without = db.builder().without_discovered_handlers().app("shop");
    let without = without.connect().await.unwrap();
    let prune = without.schedules().unwrap().prune().by("Ada");
    assert_eq!(
        walk.act("Schedules::prune", "prune", prune).await,
        ["sweep"]
    );
    schedules.pause("sweep").by("Ada").await.unwrap();
    let remove = schedules.remove("sweep").by("Ada");
    assert!(
        walk.act("Schedules::remove", "remove_schedule", remove)
            .await
    );

    let subscriptions = ezq.subscriptions().unwrap();
    let add = subscriptions.add("mail", "order.*").by("Ada");
    assert!(walk.act("Subscriptions::add", "subscribe", add).await);
    let remove = subscriptions.remove("mail", "order.*").by("Ada");
    assert!(
        walk.act("Subscriptions::remove", "unsubscribe", remove)
            .await
    );
    let forget = subscriptions.forget("shop", "test.numbered").by("Ada");
    assert!(walk.act("Subscriptions::forget", "forget", forget).await);
    for method in ["Subscriptions::prune", "Subscriptions::remove_app"] {
        subscriptions
            .add("mail", "order.#")
            .by("Ada")
            .await
            .unwrap();
        let remove = match method {
            "Subscriptions::prune" => subscriptions.prune(["mail"]),
            _ => subscriptions.remove_app("shop"),
        };
        assert_eq!(walk.act(method, "prune", remove.by("Ada")).await, 1);
    }

    let capture = ezq.capture("users").queue("mail").by("Ada");
    walk.act("PgmqEngine::capture", "capture", capture).await;
    let remove = ezq.captures().remove("users").by("Ada");
    assert!(walk.act("Captures::remove", "end_capture", remove).await);
    let replay = ezq.replay("again", "archived").by("Ada");
    walk.act("PgmqEngine::replay", "replay", replay).await;
    let remove = ezq.replays().remove("again").by("Ada");
    assert!(walk.act("Replays::remove", "forget_replay", remove).await);

    of_whole_queues(walk, ezq).await;
}

async fn of_whole_queues(walk: &mut Walk, ezq: &Ezq) {
    walk.act("App::purge", "purge", ezq.purge("mail").by("Ada"))
        .await;
    let name = QueueName::new("orders").unwrap();
    let partition = ezq.pgmq().partition_queue(&name, 4).by("Ada");
    walk.act("PgmqEngine::partition_queue", "partition", partition)
        .await;
    let drop_queue = ezq
        .pgmq()
        .drop_queue(&name, DropQueue::WithEvents)
        .by("Ada");
    walk.act("PgmqEngine::drop_queue", "drop_queue", drop_queue)
        .await;
}

/// The public methods of the types that an operator gets, as `Type::method`.
fn methods() -> BTreeSet<String> {
    let mut methods = BTreeSet::new();
    for source in SOURCES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        let files: Vec<_> = match path.is_dir() {
            true => std::fs::read_dir(&path)
                .unwrap()
                .map(|file| file.unwrap().path())
                .collect(),
            false => vec![path],
        };
        for file in files {
            methods_of(&std::fs::read_to_string(file).unwrap(), &mut methods);
        }
    }
    methods
}

fn methods_of(source: &str, methods: &mut BTreeSet<String>) {
    let mut of = String::new();
    for line in source.lines() {
        if line.starts_with("impl") {
            // `impl<'a> Queues<'a> {`, or `impl Trait for Queues<'_> {`.
            let head = line.split(" for ").last().unwrap_or_default();
            let words = head.trim_start_matches("impl").trim_start();
            let words = match words.strip_prefix('<') {
                Some(rest) => rest.split_once("> ").map_or(rest, |(_, name)| name),
                None => words,
            };
            of = words.chars().take_while(|c| c.is_alphanumeric()).collect();
        }
        let Some(rest) = line.strip_prefix("    pub ") else {
            continue;
        };
        let Some(rest) = rest.trim_start_matches("async ").strip_prefix("fn ") else {
            continue;
        };
        if !PARTS.contains(&of.as_str()) {
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            methods.insert(format!("{of}::{name}"));
        }
    }
}
