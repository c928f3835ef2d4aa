//! Inline dispatch: handlers run here and now; what would need a queue is refused or told.

use std::time::Duration;

use ezq::app::{InlineOutcome, InlineReport};
use ezq::error::error_chain;
use ezq::memory::MemoryEngine;
use ezq::message::MessageId;
use ezq::observe::NoticeKind;
use ezq::prelude::*;
use ezq::{Envelope, ErrorKind, Handler, HandlerError, QueueName, sqlx};
use serde::{Deserialize, Serialize};

use crate::kit::{Log, Numbered, app, drain, held, queue, soon};

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[event(type = "test.inlined")]
struct Inlined {
    n: i64,
}

/// What each handler did, by name.
fn outcomes(report: &InlineReport) -> Vec<(&str, &InlineOutcome)> {
    report
        .outcomes
        .iter()
        .map(|(name, outcome)| (name.as_str(), outcome))
        .collect()
}

fn failed(error: &str, is_fatal: bool) -> InlineOutcome {
    InlineOutcome::Failed {
        error: error.to_owned(),
        is_fatal,
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn every_handler_runs_in_its_order_and_each_outcome_is_told() {
    let queue = queue();
    let log = Log::new();

    let writes = |name: &'static str| {
        let log = log.clone();
        Handler::on(name, move |_: Numbered, context: Context| {
            assert_eq!(
                (context.attempt(), context.message_id()),
                (1, &MessageId::Pending)
            );
            assert!(!context.is_lease_expired());

            // The one that is to be first takes its time.
            let pause = Duration::from_millis(if name == "first" { 50 } else { 0 });
            let log = log.clone();
            async move {
                tokio::time::sleep(pause).await;
                log.push(name);
            }
        })
    };

    async fn panics(_: Numbered) {
        panic!("oh no");
    }

    let minute = Duration::from_secs(60);

    let ezq = app(&queue)
        .register(writes("last").order(2))
        .register(writes("first"))
        .register(Handler::on("fails", |_: Numbered| async { Err::<(), _>("not yet") }).order(1))
        .register(
            Handler::on("fatal", |_: Numbered| async {
                Err::<(), _>(HandlerError::fatal("never"))
            })
            .order(1),
        )
        .register(
            Handler::on("hangs", |_: Numbered| std::future::pending::<()>())
                .timeout(Some(Duration::from_millis(20)))
                .order(1),
        )
        .register(
            Handler::on("later", move |_: Numbered| async move {
                Err::<(), _>(HandlerError::snooze(minute))
            })
            .order(1),
        )
        .register(
            Handler::on("no_use", |_: Numbered| async {
                Err::<(), _>(HandlerError::discard("old"))
            })
            .order(1),
        )
        .register(Handler::on("panics", panics).order(1))
        .register(Handler::on("other", |_: Inlined| async {}))
        .register(writes("elsewhere").queue("it_inline_elsewhere"))
        .connect()
        .await
        .unwrap();

    let report = soon(ezq.dispatch_inline(&Numbered { n: 1 })).await.unwrap();
    assert_eq!(
        outcomes(&report),
        [
            ("first", &InlineOutcome::Done),
            ("fails", &failed("not yet", false)),
            ("fatal", &failed("never", true)),
            ("hangs", &failed("timed out after 20ms", false)),
            (
                "later",
                &InlineOutcome::PutOff {
                    after: minute,
                    error: "snoozed".into()
                }
            ),
            ("no_use", &InlineOutcome::Discarded("old".into())),
            ("panics", &failed("panicked: oh no", false)),
            ("last", &InlineOutcome::Done),
        ]
    );
    assert_eq!(log.take(), ["first", "last"]);
    assert_eq!(report.failures().count(), 5);

    let error = report.into_result().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::HandlerFailed);
    assert!(
        error
            .to_string()
            .contains("`panics` failed: panicked: oh no"),
        "{error}"
    );

    // Nothing went through the queue.
    ezq.engine(&queue).ensure_queue(&queue).await.unwrap();
    assert_eq!(held(&ezq, &queue).await, [0; 4]);

    let elsewhere = ezq.publish(&Numbered { n: 1 }).queue("it_inline_elsewhere");
    let report = ezq.dispatch_inline(elsewhere).await.unwrap();
    assert_eq!(outcomes(&report), [("elsewhere", &InlineOutcome::Done)]);

    let unknown = Envelope::builder("test.unknown", "it").build().unwrap();
    let report = ezq
        .dispatch_inline(ezq.publish_envelope(unknown))
        .await
        .unwrap();
    assert!(report.is_done() && report.outcomes.is_empty());
    report.into_result().unwrap();
}

#[tokio::test]
async fn under_every_codec_a_handler_gets_what_a_queue_would_give_it_and_its_events_are_published()
{
    for codec in ["cloudevents", "flat", "raw"] {
        let queue = queue();
        let log = Log::new();
        let causes = log.clone();
        let double = Handler::on("double", |event: Numbered, context: Context| async move {
            assert_eq!(context.headers().text("shop"), Some("berlin"));
            Inlined { n: 2 * event.n }
        });

        let told = Handler::on("told", move |event: Inlined, context: Context| {
            causes.push((
                event.n,
                context.headers().text("causation-id").unwrap().to_owned(),
            ));
            async {}
        });

        let builder = app(&queue)
            .queue_codec(&queue, codec)
            .register(double)
            .register(told);
        let ezq = builder.connect().await.unwrap();
        let mut notices = ezq.notices();
        let event = ezq.publish(&Numbered { n: 7 }).header("shop", "berlin");

        let report = ezq.dispatch_inline(event).await.unwrap();
        assert!(report.is_done(), "{report}");
        assert_eq!(
            report.event_id.len(),
            36,
            "an id of its own: {}",
            report.event_id
        );

        let told = std::iter::from_fn(|| notices.try_recv());
        let told = told.filter(|notice| matches!(notice.kind, NoticeKind::Published { .. }));
        assert_eq!(told.count(), 1, "{codec}");
        assert_eq!(drain(&ezq).await.counts.handled, 1);
        assert_eq!(log.take(), [(14, report.event_id)], "{codec}");
    }
}

async fn ledger(ezq: &Ezq, queue: &QueueName) -> String {
    let name = format!("public.inline_{queue}");
    let create = format!("create table {name} (n bigint)");
    sqlx::raw_sql(sqlx::AssertSqlSafe(create))
        .execute(ezq.pool())
        .await
        .unwrap();
    name
}

async fn written(ezq: &Ezq, table: &str) -> Vec<i64> {
    let read = format!("select n from {table} order by n");
    sqlx::query_scalar(sqlx::AssertSqlSafe(read))
        .fetch_all(ezq.pool())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_handler_s_transaction_commits_with_its_events_or_leaves_nothing() {
    let queue = queue();
    let insert = format!("insert into public.inline_{queue} values ($1)");
    let one = insert.clone();

    let single = Handler::on(
        "single",
        move |event: Numbered, publisher: Publisher, mut tx: Tx| {
            let insert = sqlx::query(sqlx::AssertSqlSafe(one.clone())).bind(event.n);
            async move {
                insert.execute(&mut *tx).await?;
                publisher.publish(&Inlined { n: event.n }).await?;
                if event.n < 0 {
                    Err(HandlerError::retry("negative"))
                } else {
                    Ok(Inlined { n: 10 * event.n })
                }
            }
        },
    );

    let batch = Handler::on_batch("batch", move |batch: Batch<Inlined>, mut tx: Tx| {
        let numbers: Vec<i64> = batch.events().map(|event| event.n).collect();
        let insert = sqlx::query(sqlx::AssertSqlSafe(insert.clone())).bind(numbers[0]);

        async move {
            assert_eq!(numbers.len(), 1);
            insert.execute(&mut *tx).await?;
            if numbers[0] < 0 {
                Err(HandlerError::fatal("negative"))
            } else {
                Ok(())
            }
        }
    });

    let ezq = app(&queue)
        .register(single)
        .register(batch)
        .connect()
        .await
        .unwrap();
    let table = ledger(&ezq, &queue).await;
    let mut notices = ezq.notices();

    let report = ezq.dispatch_inline(&Numbered { n: -1 }).await.unwrap();
    assert_eq!(outcomes(&report), [("single", &failed("negative", false))]);
    assert!(written(&ezq, &table).await.is_empty());

    let report = ezq.dispatch_inline(&Inlined { n: -1 }).await.unwrap();
    assert_eq!(outcomes(&report), [("batch", &failed("negative", true))]);
    assert!(written(&ezq, &table).await.is_empty());
    assert_eq!(held(&ezq, &queue).await, [0; 4]);

    ezq.dispatch_inline(&Numbered { n: 1 })
        .await
        .unwrap()
        .into_result()
        .unwrap();

    ezq.dispatch_inline(&Inlined { n: 2 })
        .await
        .unwrap()
        .into_result()
        .unwrap();
    assert_eq!(written(&ezq, &table).await, [1, 2]);
    // What the handler published and what it returned.
    assert_eq!(held(&ezq, &queue).await, [2, 0, 0, 0]);

    let told = std::iter::from_fn(|| notices.try_recv());
    let told = told.filter(|notice| matches!(notice.kind, NoticeKind::Published { .. }));
    assert_eq!(told.count(), 2);

    drain(&ezq).await;
    assert_eq!(written(&ezq, &table).await, [1, 1, 2, 10]);

    // Its connections are given back.
    for n in 0..30 {
        ezq.dispatch_inline(&Inlined { n })
            .await
            .unwrap()
            .into_result()
            .unwrap();
    }
}

#[tokio::test]
async fn a_dropped_dispatch_rolls_its_transactions_back() {
    let queue = queue();
    let insert = format!("insert into public.inline_{queue} values ($1)");
    let hangs = Handler::on("hangs", move |event: Numbered, mut tx: Tx| {
        let insert = sqlx::query(sqlx::AssertSqlSafe(insert.clone())).bind(event.n);
        async move {
            insert.execute(&mut *tx).await.unwrap();
            std::future::pending::<()>().await;
        }
    });

    let ezq = app(&queue)
        .register(hangs.timeout(None))
        .connect()
        .await
        .unwrap();
    let table = ledger(&ezq, &queue).await;

    let dispatch = ezq.dispatch_inline(&Numbered { n: 1 });
    assert!(
        tokio::time::timeout(Duration::from_millis(500), dispatch)
            .await
            .is_err()
    );
    assert!(written(&ezq, &table).await.is_empty());

    let lock = format!("lock table {table} in access exclusive mode");
    let mut tx = ezq.pool().begin().await.unwrap();
    // Nothing holds it any more.
    soon(sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *tx))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_only_a_queue_can_do_is_refused_and_runs_nothing() {
    let other = queue();
    let queue = queue();
    let log = Log::new();
    let runs = log.clone();
    let handler = Handler::on("tx", move |_: Numbered, _: Tx| {
        runs.push(());
        async {}
    });

    let ends = log.clone();
    let on_end = Handler::on("end", move |_: End| {
        ends.push(());
        async {}
    });

    let ezq = app(&queue)
        .register(handler)
        .register(on_end)
        .named_engine("memory", MemoryEngine::new())
        .queue_engine(&other, "memory")
        .connect()
        .await
        .unwrap();
    let event = || ezq.publish(&Numbered { n: 1 });

    for (publish, kind, says) in [
        (
            event().after(Duration::from_secs(1)),
            ErrorKind::InvalidEvent,
            "delay",
        ),
        (
            event().dedupe_key("k"),
            ErrorKind::InvalidEvent,
            "dedupe key",
        ),
        (event().subject("\n"), ErrorKind::InvalidEvent, "subject"),
        (
            event().queue("Orders!"),
            ErrorKind::InvalidQueueName,
            "Orders!",
        ),
        (
            event().queue(&other),
            ErrorKind::Unsupported,
            "`memory` has no transactions",
        ),
    ] {
        let error = ezq.dispatch_inline(publish).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(
            error_chain(&error).contains(says),
            "{}",
            error_chain(&error)
        );
    }

    let error = ezq.dispatch_inline(&End::default()).await.unwrap_err();
    assert!(error.to_string().contains("control event"), "{error}");
    assert!(log.take().is_empty());
}

#[tokio::test]
async fn an_event_that_cannot_be_published_fails_the_handler_that_returned_it() {
    let queue = queue();
    let bad = Handler::on("bad", |_: Numbered| async { Bad { text: "\0".into() } });
    let ezq = app(&queue).register(bad).connect().await.unwrap();
    let report = ezq.dispatch_inline(&Numbered { n: 1 }).await.unwrap();
    assert!(
        matches!(report.outcomes[0].1, InlineOutcome::Failed { .. }),
        "{report}"
    );
}

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(type = "test.bad")]
struct Bad {
    text: String,
}
