//! Handlers that misuse their transaction: each is told, and nothing is stored.

use std::time::Duration;

use ezq::memory::MemoryEngine;
use ezq::prelude::*;
use ezq::{ErrorKind, EventSet, Handler, QueueName, sqlx};

use super::{Booked, Ledger, booked, unique};
use crate::database::{self, connection, run, server};
use crate::kit::{Log, Numbered, app, drain, only_dead, queue};

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
