//! `Tx`: what a handler writes, publishes and acknowledges commits together, or not at all.

mod connections;
mod cut_off;
mod misuse;

use ezq::handler::{Call, HandlerResult, Next};
use ezq::memory::MemoryEngine;
use ezq::message::{HandlerState, MessageId, Progress, ReasonKind};
use ezq::prelude::*;
use ezq::{Handler, QueueName, sqlx};
use serde::{Deserialize, Serialize};

use crate::kit::{Log, Numbered, app, dead, drain, held, only_dead, queue, soon};

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
