//! `Tx`: what a handler writes, publishes and acknowledges commits together, or not at all.

use std::time::{Duration, Instant};

use ezq::handler::{Call, HandlerResult, Next};
use ezq::memory::MemoryEngine;
use ezq::message::{HandlerState, MessageId, Progress, ReasonKind};
use ezq::prelude::*;
use ezq::{ErrorKind, EventSet, Handler, QueueName, sqlx};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::database::{self, connection, run, server};
use crate::kit::{Log, Numbered, app, dead, drain, held, numbered, only_dead, queue, soon, until};

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(type = "test.booked", queue = "it_tx_booked")]
struct Booked {
    n: i64,
    by: String,
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(type = "test.made", queue = "it_tx_made")]
struct Made {
    n: i64,
}

/// A table of effects, one for each test.
#[derive(Clone)]
struct Ledger(String);

impl Ledger {
    async fn create(ezq: &Ezq, queue: &QueueName) -> Self {
        let ledger = Self(format!("public.ledger_{queue}"));
        let text = format!("create table {} (n bigint, who text)", ledger.0);
        sqlx::raw_sql(sqlx::AssertSqlSafe(text))
            .execute(ezq.pool())
            .await
            .unwrap();
        ledger
    }

    fn of(queue: &QueueName) -> Self {
        Self(format!("public.ledger_{queue}"))
    }

    async fn write(&self, tx: &mut Tx, n: i64, who: &str) -> Result<(), sqlx::Error> {
        let text = format!("insert into {} values ($1, $2)", self.0);
        let insert = sqlx::query(sqlx::AssertSqlSafe(text)).bind(n).bind(who);
        insert.execute(&mut **tx).await.map(|_| ())
    }

    async fn read(&self, ezq: &Ezq) -> Vec<(i64, String)> {
        let text = format!("select n, who from {} order by n, who", self.0);
        sqlx::query_as(sqlx::AssertSqlSafe(text))
            .fetch_all(ezq.pool())
            .await
            .unwrap()
    }
}

fn row(n: i64, who: &str) -> (i64, String) {
    (n, who.to_owned())
}

/// A handler that writes and returns an event.
fn books(queue: &QueueName, name: &'static str) -> Handler {
    let ledger = Ledger::of(queue);
    Handler::on(name, move |event: Numbered, mut tx: Tx| {
        let ledger = ledger.clone();
        async move {
            ledger.write(&mut tx, event.n, name).await?;
            Ok::<_, sqlx::Error>(Booked {
                n: event.n,
                by: name.to_owned(),
            })
        }
    })
}

/// How many events there are of one number in the queue that handlers publish to.
async fn booked(ezq: &Ezq, n: i64) -> Vec<String> {
    ezq.engine(&QueueName::new("it_tx_booked").unwrap())
        .ensure_queue(&QueueName::new("it_tx_booked").unwrap())
        .await
        .unwrap();

    let text = "select message -> 'data' ->> 'by' from pgmq.q_it_tx_booked \
                where message -> 'data' ->> 'n' = $1 order by msg_id";
    sqlx::query_scalar(text)
        .bind(n.to_string())
        .fetch_all(ezq.pool())
        .await
        .unwrap()
}

/// A number that no other test uses: all publish to one queue.
fn unique() -> i64 {
    let id = ezq::Envelope::builder("t", "t")
        .build()
        .unwrap()
        .id()
        .replace('-', "");
    i64::from_str_radix(&id[17..], 16).unwrap()
}

#[tokio::test]
async fn writes_events_and_the_acknowledgement_commit_together() {
    let queue = queue();
    let ezq = app(&queue)
        .register(books(&queue, "books"))
        .connect()
        .await
        .unwrap();

    let ledger = Ledger::create(&ezq, &queue).await;
    let n = unique();
    ezq.publish(&Numbered { n }).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.retried, counts.lost), (1, 0, 0));
    assert_eq!(ledger.read(&ezq).await, [row(n, "books")]);
    assert_eq!(booked(&ezq, n).await, ["books"]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn a_failed_attempt_leaves_nothing() {
    let queue = queue();
    let ledger = Ledger::of(&queue);

    let fails = Handler::on(
        "fails",
        move |event: Numbered, mut tx: Tx, publisher: Publisher, context: Context| {
            let ledger = ledger.clone();
            async move {
                ledger.write(&mut tx, event.n, "fails").await?;
                let by = format!("attempt {}", context.attempt());
                let published = publisher.publish(&Booked { n: event.n, by }).await?;
                assert_eq!(published.id, MessageId::Pending);

                if context.attempt() < 3 {
                    Err(HandlerError::retry("not yet"))
                } else {
                    Ok(())
                }
            }
        },
    );

    let ezq = app(&queue).register(fails).connect().await.unwrap();
    let ledger = Ledger::create(&ezq, &queue).await;
    let n = unique();
    ezq.publish(&Numbered { n }).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.retried), (1, 2));
    assert_eq!(ledger.read(&ezq).await, [row(n, "fails")]);
    assert_eq!(booked(&ezq, n).await, ["attempt 3"]);
}

#[tokio::test]
async fn each_handler_with_a_transaction_has_its_effect_once_whatever_the_others_do() {
    let queue = queue();
    let plain = Handler::on("plain", |event: Numbered, context: Context| async move {
        if context.attempt() < 3 {
            return Err("not yet");
        }
        Ok(Booked {
            n: event.n,
            by: "plain".to_owned(),
        })
    });

    let ledger = Ledger::of(&queue);
    let late = Handler::on(
        "late",
        move |event: Numbered, mut tx: Tx, context: Context| {
            let ledger = ledger.clone();
            async move {
                ledger.write(&mut tx, event.n, "late").await?;
                if context.attempt() < 2 {
                    Err(HandlerError::retry("not yet"))
                } else {
                    Ok(())
                }
            }
        },
    );

    let builder = app(&queue)
        .register(books(&queue, "books"))
        .register(plain)
        .register(late);
    let ezq = builder.connect().await.unwrap();
    let ledger = Ledger::create(&ezq, &queue).await;
    let n = unique();
    ezq.publish(&Numbered { n }).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.retried), (1, 2));
    assert_eq!(ledger.read(&ezq).await, [row(n, "books"), row(n, "late")]);
    assert_eq!(booked(&ezq, n).await, ["books", "plain"]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn the_last_transaction_takes_the_events_of_the_others_along() {
    let queue = queue();
    let plain = Handler::on("plain", |event: Numbered| async move {
        Booked {
            n: event.n,
            by: "plain".to_owned(),
        }
    });

    let ezq = app(&queue)
        .register(plain)
        .register(books(&queue, "first").order(1))
        .register(books(&queue, "last").order(2))
        .connect()
        .await
        .unwrap();

    let ledger = Ledger::create(&ezq, &queue).await;
    let n = unique();
    ezq.publish(&Numbered { n }).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.retried, counts.lost), (1, 0, 0));
    assert_eq!(ledger.read(&ezq).await, [row(n, "first"), row(n, "last")]);

    let mut by = booked(&ezq, n).await;
    by.sort();
    assert_eq!(by, ["first", "last", "plain"]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn a_mark_made_in_a_transaction_stays_with_a_dead_letter() {
    let queue = queue();
    let bad = Handler::on("bad", |_: Numbered| async {
        Err::<(), _>(HandlerError::fatal("never"))
    });

    let ezq = app(&queue)
        .register(bad)
        .register(books(&queue, "books"))
        .connect()
        .await
        .unwrap();

    let ledger = Ledger::create(&ezq, &queue).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;

    let letter = only_dead(&ezq, &queue).await;
    let marks = Progress::from_headers(&letter.headers);
    let state = |name: &str| {
        marks
            .get(&name.into())
            .map(|mark| (mark.state, mark.attempts))
    };
    assert_eq!(state("books"), Some((HandlerState::Done, 1)));
    assert_eq!(state("bad"), Some((HandlerState::Dead, 1)));

    ezq.dead_letters(&queue)
        .unwrap()
        .redrive(ezq::admin::DeadLetterFilter::all())
        .await
        .unwrap();

    drain(&ezq).await;
    assert_eq!(
        ledger.read(&ezq).await,
        [row(1, "books")],
        "a redrive runs what had failed"
    );
}

/// Another worker takes a message over, as after a lease that ran out.
async fn take_over(ezq: &Ezq, queue: &QueueName) {
    let text = format!("update pgmq.q_{queue} set read_ct = read_ct + 1");
    sqlx::raw_sql(sqlx::AssertSqlSafe(text))
        .execute(ezq.pool())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_worker_that_lost_its_lease_commits_nothing() {
    let queue = queue();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let ledger = Ledger::of(&queue);

    let slow = Handler::on("slow", move |event: Numbered, mut tx: Tx| {
        let ledger = ledger.clone();
        let started = started.clone();

        async move {
            ledger.write(&mut tx, event.n, "slow").await?;
            let (go, gone) = oneshot::channel::<()>();
            started.send(go).unwrap();

            // Nobody may tell, once the test has ended.
            let _ = gone.await;
            Ok::<_, sqlx::Error>(Booked {
                n: event.n,
                by: "slow".to_owned(),
            })
        }
    });

    let ezq = app(&queue).register(slow).connect().await.unwrap();
    let ledger = Ledger::create(&ezq, &queue).await;
    let n = unique();
    ezq.publish(&Numbered { n }).await.unwrap();

    let consumer = ezq.consumer().spawn();
    let go = soon(starts.recv()).await.unwrap();
    take_over(&ezq, &queue).await;
    go.send(()).unwrap();
    until(async || consumer.counts().lost == 1).await;

    consumer.stop();
    assert_eq!(soon(consumer.wait()).await.unwrap().counts.handled, 0);
    assert_eq!(ledger.read(&ezq).await, []);
    assert_eq!(booked(&ezq, n).await, [] as [String; 0]);
    assert_eq!(
        held(&ezq, &queue).await,
        [0, 1, 0, 0],
        "the other worker still has it"
    );
}

#[tokio::test]
async fn a_renewal_that_finds_the_lease_lost_ends_the_transaction() {
    let queue = queue();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let sleeps = Handler::on("sleeps", move |_: Numbered, mut tx: Tx| {
        let started = started.clone();
        async move {
            started.send(()).unwrap();
            sqlx::query("select pg_sleep(60)")
                .execute(&mut *tx)
                .await
                .map(|_| ())
        }
    });

    let ezq = app(&queue).register(sleeps).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let consumer = ezq.consumer().lease(Duration::from_secs(1)).spawn();
    soon(starts.recv()).await.unwrap();
    take_over(&ezq, &queue).await;
    until(async || consumer.counts().lost == 1).await;
    until(async || !sleeping(&ezq).await).await;
    consumer.stop();
    soon(consumer.wait()).await.unwrap();
}

/// Whether a transaction of a handler still sleeps in this database.
async fn sleeping(ezq: &Ezq) -> bool {
    let text = "select exists (select from pg_stat_activity where state = 'active' \
                and datname = current_database() and query = 'select pg_sleep(60)')";
    sqlx::query_scalar(text)
        .fetch_one(ezq.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_timeout_stops_the_statement_that_runs() {
    let queue = queue();
    let sleeps = Handler::on("sleeps", |_: Numbered, mut tx: Tx| async move {
        sqlx::query("select pg_sleep(61)")
            .execute(&mut *tx)
            .await
            .map(|_| ())
    });

    let sleeps = sleeps
        .timeout(Some(Duration::from_millis(100)))
        .max_attempts(2);
    let ezq = app(&queue).register(sleeps).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let since = Instant::now();
    drain(&ezq).await;
    assert!(
        since.elapsed() < Duration::from_secs(20),
        "{:?}",
        since.elapsed()
    );

    let reason = only_dead(&ezq, &queue).await.reason.unwrap();
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::MaxAttempts, 2));
    assert_eq!(reason.error, "timed out after 100ms");

    let text = "select count(*) from pg_stat_activity \
                where query = 'select pg_sleep(61)' and state = 'active'";
    let still: i64 = sqlx::query_scalar(text)
        .fetch_one(ezq.pool())
        .await
        .unwrap();
    assert_eq!(still, 0, "the server still sleeps");
}

/// Runs a handler that misuses its transaction, once; what its dead letter says. Nothing it wrote
/// may stand.
async fn misused(queue: &QueueName, handler: Handler) -> String {
    let ezq = app(queue)
        .register(handler.max_attempts(1))
        .connect()
        .await
        .unwrap();

    let ledger = Ledger::create(&ezq, queue).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;
    assert_eq!(ledger.read(&ezq).await, []);
    only_dead(&ezq, queue).await.reason.unwrap().error
}

#[tokio::test]
async fn a_transaction_that_is_not_given_back_is_a_failure() {
    let queue = queue();
    let ledger = Ledger::of(&queue);

    let moved = Handler::on("moved", move |event: Numbered, mut tx: Tx| {
        let ledger = ledger.clone();
        async move {
            ledger.write(&mut tx, event.n, "moved").await?;
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(30)).await;
                drop(tx);
            });
            Ok::<_, sqlx::Error>(())
        }
    });

    let error = misused(&queue, moved).await;
    assert!(
        error.starts_with("the handler did not give its `Tx` back"),
        "{error}"
    );
}

#[tokio::test]
async fn a_failed_statement_that_the_handler_hides_is_a_failure() {
    let queue = queue();
    let ledger = Ledger::of(&queue);
    let hides = Handler::on("hides", move |event: Numbered, mut tx: Tx| {
        let ledger = ledger.clone();
        async move {
            ledger.write(&mut tx, event.n, "hides").await?;
            let failed = sqlx::query("select 1 / 0").execute(&mut *tx).await;
            assert!(failed.is_err());
            Ok::<_, sqlx::Error>(())
        }
    });

    let error = misused(&queue, hides).await;
    assert!(
        error.starts_with("a statement of the handler failed in its `Tx`"),
        "{error}"
    );
}

#[tokio::test]
async fn a_handler_that_ends_its_transaction_is_told_not_to() {
    let queue = queue();
    let ends = Handler::on("ends", |_: Numbered, mut tx: Tx| async move {
        sqlx::raw_sql("rollback")
            .execute(&mut *tx)
            .await
            .map(|_| ())
    });

    let error = misused(&queue, ends).await;
    assert!(
        error.starts_with("the handler ended its transaction itself"),
        "{error}"
    );
}

async fn books_and_runs(
    statement: &'static str,
    n: i64,
    mut tx: Tx,
    publisher: Publisher,
) -> Result<(), HandlerError> {
    publisher
        .publish(&Booked {
            n,
            by: statement.to_owned(),
        })
        .await?;
    sqlx::raw_sql(statement).execute(&mut *tx).await?;
    Ok(())
}

/// What the transaction was to store would otherwise be stored at each attempt.
#[tokio::test]
async fn a_handler_that_ends_its_transaction_publishes_nothing() {
    for statement in ["rollback", "commit", "rollback; begin"] {
        let n = unique();
        let one = Handler::on("one", move |_: Numbered, tx: Tx, publisher: Publisher| {
            books_and_runs(statement, n, tx, publisher)
        });
        let batch = Handler::on_batch("all", move |_: Batch<Numbered>, tx: Tx, to: Publisher| {
            books_and_runs(statement, n, tx, to)
        });

        for handler in [one, batch] {
            let queue = queue();
            let ezq = app(&queue)
                .register(handler.max_attempts(1))
                .connect()
                .await
                .unwrap();
            ezq.publish(&Numbered { n }).await.unwrap();
            drain(&ezq).await;

            let error = only_dead(&ezq, &queue).await.reason.unwrap().error;
            assert!(
                error.starts_with("the handler ended its transaction itself"),
                "{error}"
            );
            assert_eq!(booked(&ezq, n).await, [""; 0]);
        }
    }
}

#[tokio::test]
async fn a_handler_that_resets_settings_or_keeps_a_role_is_told_not_to() {
    let queue = queue();
    let resets = Handler::on("resets", |_: Numbered, mut tx: Tx| async move {
        sqlx::raw_sql("reset all")
            .execute(&mut *tx)
            .await
            .map(|_| ())
    });
    let error = misused(&queue, resets).await;
    assert!(error.contains("or reset its settings"), "{error}");

    let role = database::unique("nobody");
    run(
        &mut connection(&server().await.url()).await,
        &format!("create role {role}"),
    )
    .await;

    let queue = self::queue();
    let keeps = Handler::on("keeps", move |_: Numbered, mut tx: Tx| {
        let set = format!("set local role {role}");
        async move {
            sqlx::raw_sql(sqlx::AssertSqlSafe(set))
                .execute(&mut *tx)
                .await
                .map(|_| ())
        }
    });

    let error = misused(&queue, keeps).await;
    assert!(
        error.contains("RESET ROLE before the handler returns"),
        "{error}"
    );
}

#[tokio::test]
async fn what_fails_only_at_the_commit_counts_as_a_failed_attempt() {
    let queue = queue();
    let table = format!("public.deferred_{queue}");
    let text = format!("insert into {table} values (1)");

    let defers = Handler::on("defers", move |_: Numbered, mut tx: Tx| {
        let text = text.clone();
        async move {
            sqlx::raw_sql(sqlx::AssertSqlSafe(text))
                .execute(&mut *tx)
                .await
                .map(|_| ())
        }
    });

    let ezq = app(&queue)
        .register(defers.max_attempts(2))
        .connect()
        .await
        .unwrap();

    let create = format!(
        "create table {table} (n int unique deferrable initially deferred); insert into {table} values (1)"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(create))
        .execute(ezq.pool())
        .await
        .unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;

    let reason = only_dead(&ezq, &queue).await.reason.unwrap();
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::MaxAttempts, 2));
    assert!(reason.error.contains("duplicate key"), "{}", reason.error);
}

#[tokio::test]
async fn savepoints_are_the_handlers_own() {
    let queue = queue();
    let ledger = Ledger::of(&queue);

    let tries = Handler::on("tries", move |event: Numbered, mut tx: Tx| {
        let ledger = ledger.clone();
        async move {
            ledger.write(&mut tx, event.n, "before").await?;
            let mut point = sqlx::Connection::begin(&mut *tx).await?;
            assert!(
                sqlx::query("select 1 / 0")
                    .execute(&mut *point)
                    .await
                    .is_err()
            );

            point.rollback().await?;
            ledger.write(&mut tx, event.n, "later").await
        }
    });

    let ezq = app(&queue).register(tries).connect().await.unwrap();
    let ledger = Ledger::create(&ezq, &queue).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(ledger.read(&ezq).await, [row(1, "before"), row(1, "later")]);
}

#[tokio::test]
async fn a_pool_of_one_is_enough_for_several_handlers() {
    let queue = queue();
    let first = app(&queue).connect().await.unwrap();
    let ledger = Ledger::create(&first, &queue).await;
    let options = first.pool().connect_options().as_ref().clone();
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options);

    let builder = app(&queue).pool(pool);
    let builder = builder
        .register(books(&queue, "one"))
        .register(books(&queue, "two"));
    let ezq = builder.connect().await.unwrap();
    ezq.publish_all(&numbered(1..=20)).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 20);

    let expected: Vec<_> = (1..=20)
        .flat_map(|n| [row(n, "one"), row(n, "two")])
        .collect();
    assert_eq!(ledger.read(&first).await, expected);
}

/// Fails its first attempt in one of four ways, and tells in which transaction it wrote.
fn stumbles(queue: &QueueName) -> Handler {
    let ledger = Ledger::of(queue);
    let once = format!("insert into public.once_{queue} values (0)");

    let handler = Handler::on(
        "stumbles",
        move |event: Numbered, mut tx: Tx, context: Context| {
            let ledger = ledger.clone();
            let once = once.clone();

            async move {
                let text =
                    "select pg_current_xact_id()::text || ' ' || current_setting('ezq.unit')";
                let unit: String = sqlx::query_scalar(text).fetch_one(&mut *tx).await?;
                ledger.write(&mut tx, event.n, &unit).await?;

                if context.attempt() > 1 {
                    return Ok(());
                }

                match event.n % 20 {
                    // Is refused by the commit.
                    1 | 8 => sqlx::raw_sql(sqlx::AssertSqlSafe(once))
                        .execute(&mut *tx)
                        .await
                        .map(|_| ()),
                    // Is cut off while a statement runs.
                    5 => sqlx::query("select pg_sleep(62)")
                        .execute(&mut *tx)
                        .await
                        .map(|_| ()),
                    9 | 10 => sqlx::query("select 1 / 0")
                        .execute(&mut *tx)
                        .await
                        .map(|_| ()),
                    14 => panic!("on purpose"),
                    _ => Ok(()),
                }
            }
        },
    );

    handler.timeout(Some(Duration::from_millis(500)))
}

/// What was cut off is rolled back beside what follows, so the last of it may take a moment.
async fn no_transaction_stays_open(ezq: &Ezq) {
    let open = "select count(*) from pg_stat_activity \
                where datname = current_database() and application_name like 'ezq-tx-%'";
    let closed = async {
        loop {
            let open: i64 = sqlx::query_scalar(open)
                .fetch_one(ezq.pool())
                .await
                .unwrap();
            if open == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };

    tokio::time::timeout(Duration::from_secs(30), closed)
        .await
        .expect("a transaction stays open");
}

#[tokio::test]
async fn transactions_on_a_connection_that_is_handed_on_are_strangers_to_each_other() {
    let queue = queue();
    // Many more than the pool has connections.
    let builder = app(&queue).configure(|config| config.concurrency = 64);
    let ezq = builder.register(stumbles(&queue)).connect().await.unwrap();
    let ledger = Ledger::create(&ezq, &queue).await;

    let create = format!(
        "create table public.once_{queue} (n int unique deferrable initially deferred);
         insert into public.once_{queue} values (0)"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(create))
        .execute(ezq.pool())
        .await
        .unwrap();
    ezq.publish_all(&numbered(0..400)).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!(
        (counts.handled, counts.retried, counts.dead_lettered),
        (400, 120, 0)
    );

    let rows = ledger.read(&ezq).await;
    assert_eq!(
        rows.iter().map(|(n, _)| *n).collect::<Vec<_>>(),
        (0..400).collect::<Vec<_>>()
    );

    let column = |i: usize| {
        rows.iter()
            .map(move |(_, unit)| unit.split(' ').nth(i).unwrap())
    };
    for i in [0, 1] {
        let units: std::collections::BTreeSet<_> = column(i).collect();
        assert_eq!(units.len(), 400, "each event has its transaction");
    }
    no_transaction_stays_open(&ezq).await;
}

#[tokio::test]
async fn a_publisher_that_outlives_its_handler_says_that_it_is_too_late() {
    let queue = queue();
    let late = Log::new();
    let log = late.clone();

    let leaks = Handler::on(
        "leaks",
        move |event: Numbered, _: Tx, publisher: Publisher| {
            let log = log.clone();
            async move {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    let event = Booked {
                        n: event.n,
                        by: "late".to_owned(),
                    };
                    log.push(
                        publisher
                            .publish(&event)
                            .await
                            .map_err(|error| (error.kind(), error.to_string())),
                    );
                });
            }
        },
    );

    let ezq = app(&queue).register(leaks).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    let said = late.take();
    let (kind, error) = said[0].as_ref().unwrap_err();
    assert_eq!(*kind, ErrorKind::TransactionEnded);
    assert!(
        error.contains("the handler's transaction has ended"),
        "{error}"
    );
}

#[tokio::test]
async fn an_interrupt_rolls_back_and_gives_the_event_back() {
    let queue = queue();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let ledger = Ledger::of(&queue);

    let slow = Handler::on("slow", move |event: Numbered, mut tx: Tx| {
        let ledger = ledger.clone();
        let started = started.clone();
        async move {
            ledger.write(&mut tx, event.n, "slow").await?;
            started.send(()).unwrap();
            sqlx::query("select pg_sleep(62)")
                .execute(&mut *tx)
                .await
                .map(|_| ())
        }
    });

    let ezq = app(&queue).register(slow).connect().await.unwrap();
    let ledger = Ledger::create(&ezq, &queue).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let consumer = ezq.consumer().spawn();
    soon(starts.recv()).await.unwrap();
    consumer.interrupt();

    let counts = soon(consumer.wait()).await.unwrap().counts;
    assert_eq!(counts.cancelled, 1);
    assert_eq!(ledger.read(&ezq).await, []);
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn a_target_queue_that_is_missing_is_created() {
    let queue = queue();
    let target = crate::kit::queue();
    let name = target.clone();
    let sends = Handler::on(
        "sends",
        move |event: Numbered, _: Tx, publisher: Publisher| {
            let name = name.clone();
            async move { publisher.publish(&event).queue(&name).await.map(|_| ()) }
        },
    );

    let ezq = app(&queue).register(sends).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(held(&ezq, &target).await, [1, 0, 0, 0]);
    assert!(dead(&ezq, &queue).await.is_empty());
}

#[derive(EventSet)]
enum WithEnd {
    Numbered(Numbered),
    End(End),
}

#[test]
fn what_cannot_have_a_transaction_is_refused_at_start() {
    let build = |handler: Handler, engine: MemoryEngine| {
        let builder = ezq::App::builder()
            .without_discovered_handlers()
            .register(handler);
        builder.build(engine).unwrap_err().to_string()
    };

    let once = Handler::on("once", |_: Numbered, _: Tx| async {});
    let error = build(once, MemoryEngine::new());
    assert!(
        error.contains("the engine `memory` has no transactions"),
        "{error}"
    );

    let twice = Handler::on("twice", |_: Numbered, _: Tx, _: Tx| async {});
    let error = build(twice, MemoryEngine::new());
    assert!(error.contains("takes its transaction twice"), "{error}");

    let ends = Handler::on("ends", |event: WithEnd, _: Tx| async move {
        match event {
            WithEnd::Numbered(event) => assert_eq!(event.n, 1),
            WithEnd::End(end) => assert_eq!(end.timeout, None),
        }
    });
    let error = build(ends, MemoryEngine::new());
    assert!(error.contains("takes a control event"), "{error}");
}

#[tokio::test]
async fn a_queue_on_an_engine_without_transactions_needs_none_for_handlers_of_others() {
    let own = queue();
    let elsewhere = queue();
    let log = Log::new();
    let seen = log.clone();
    let plain = Handler::on("plain", move |event: Numbered| {
        seen.push(event.n);
        async {}
    });

    let builder = app(&own)
        .register(books(&own, "books").queue(own.as_str()))
        .register(plain.queue(elsewhere.as_str()))
        .named_engine("memory", MemoryEngine::new())
        .queue_engine(&elsewhere, "memory");

    let ezq = builder.connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 })
        .queue(&elsewhere)
        .await
        .unwrap();

    let consumer = ezq.consumer().queue(&elsewhere).until_idle();
    assert_eq!(soon(consumer.run()).await.unwrap().counts.handled, 1);
    assert_eq!(log.take(), [1]);

    let wrong = app(&own)
        .register(books(&elsewhere, "books").queue(elsewhere.as_str()))
        .named_engine("memory", MemoryEngine::new())
        .queue_engine(&elsewhere, "memory");
    let error = wrong.connect().await.unwrap_err().to_string();
    assert!(
        error.contains("the engine `memory` has no transactions"),
        "{error}"
    );
}

#[tokio::test]
async fn an_event_is_returned_to_a_queue_that_the_transaction_itself_has_made() {
    let queue = queue();
    let makes = Handler::on("makes", |event: Numbered, mut tx: Tx| async move {
        sqlx::query("select pgmq.create('it_tx_made')")
            .execute(&mut *tx)
            .await?;
        Ok::<_, sqlx::Error>(Made { n: event.n })
    });
    let ezq = app(&queue).register(makes).connect().await.unwrap();
    ezq.publish(&Numbered { n: 7 }).await.unwrap();

    let report = soon(ezq.consumer().until_idle().run()).await.unwrap();
    assert_eq!(
        (report.counts.handled, report.counts.retried),
        (1, 0),
        "{report}"
    );

    let stored = "select message -> 'data' ->> 'n' from pgmq.q_it_tx_made";
    let stored: Vec<String> = sqlx::query_scalar(stored)
        .fetch_all(ezq.pool())
        .await
        .unwrap();
    assert_eq!(stored, ["7"]);
}

#[tokio::test]
async fn the_transaction_commits_only_if_the_layers_around_the_handler_succeed() {
    async fn refusing_even(call: Call, next: Next) -> HandlerResult {
        let event: Numbered = call.context().envelope().decode()?;
        let returned = next.run(call).await?;
        if event.n % 2 == 0 {
            return Err(HandlerError::fatal("even"));
        }
        Ok(returned)
    }

    let queue = queue();
    let ezq = app(&queue)
        .register(books(&queue, "books").layer(refusing_even))
        .connect()
        .await
        .unwrap();

    let ledger = Ledger::create(&ezq, &queue).await;
    let odd = unique() | 1;
    let even = odd + 1;
    for n in [odd, even] {
        ezq.publish(&Numbered { n }).await.unwrap();
    }

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.dead_lettered), (1, 1));
    assert_eq!(ledger.read(&ezq).await, [row(odd, "books")]);
    assert_eq!(booked(&ezq, odd).await, ["books"]);
    assert!(booked(&ezq, even).await.is_empty());
}
