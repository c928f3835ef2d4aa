//! What works alike under every codec.

use ezq::admin::{CopyState, DeadLetterFilter};
use ezq::consumer::StopReason;
use ezq::message::Retention;
use ezq::prelude::*;
use ezq::{Handler, QueueName};
use serde::{Deserialize, Serialize};

use super::bytes::Packed;
use super::{Hidden, with};
use crate::kit::{Log, Numbered, Work, app, drain, held, numbered, queue, send_batch, soon};

/// Every shipped codec, and two of one's own: one hides what it writes, and one writes bytes.
const EVERY: [&str; 5] = ["cloudevents", "flat", "raw", "hidden", "packed"];

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(type = "test.doubled")]
pub(super) struct Doubled {
    pub(super) n: i64,
}

#[tokio::test]
async fn under_every_codec_events_are_handled_returned_and_committed_with_a_transaction() {
    for codec in EVERY {
        let queue = queue();
        let log = Log::new();
        let seen = log.clone();
        let told = log.clone();
        let table = format!("public.codecs_{queue}");
        let insert = format!("insert into {table} values ($1)");

        let ezq = with(&queue, codec)
            .register(Handler::on("double", move |event: Numbered, mut tx: Tx| {
                let insert = insert.clone();
                async move {
                    let insert = ezq::sqlx::query(ezq::sqlx::AssertSqlSafe(insert));
                    insert.bind(event.n).execute(&mut *tx).await?;
                    Ok::<_, ezq::sqlx::Error>(Doubled { n: 2 * event.n })
                }
            }))
            .register(Handler::on(
                "fails_once",
                move |event: Numbered, context: Context| {
                    seen.push(format!("{} at {}", event.n, context.attempt()));
                    async move {
                        if context.attempt() > 1 {
                            Ok(())
                        } else {
                            Err("not yet")
                        }
                    }
                },
            ))
            .register(Handler::on("told", move |event: Doubled| {
                told.push(format!("doubled {}", event.n));
                async {}
            }))
            .connect()
            .await
            .unwrap();

        let create = format!("create table {table} (n bigint)");
        ezq::sqlx::raw_sql(ezq::sqlx::AssertSqlSafe(create))
            .execute(ezq.pool())
            .await
            .unwrap();

        let mut tx = ezq.pool().begin().await.unwrap();
        ezq.publish(&Numbered { n: 7 })
            .within(&mut tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        drain(&ezq).await;
        assert_eq!(log.sorted(), ["7 at 1", "7 at 2", "doubled 14"], "{codec}");

        let count = format!("select count(*) from {table} where n = 7");
        let count: i64 = ezq::sqlx::query_scalar(ezq::sqlx::AssertSqlSafe(count))
            .fetch_one(ezq.pool())
            .await
            .unwrap();
        assert_eq!((count, held(&ezq, &queue).await), (1, [0; 4]), "{codec}");
    }
}

#[tokio::test]
async fn under_every_codec_batches_are_claimed_leased_or_in_their_transaction() {
    for codec in EVERY {
        let queue = queue();
        let log = Log::new();
        let numbers = log.clone();
        let sum = Handler::on_batch("sum", move |batch: Batch<Numbered>, _: Tx| {
            batch.events().for_each(|event| numbers.push(event.n));
            async {}
        });

        let ezq = with(&queue, codec)
            .register(sum.batch_size(10))
            .connect()
            .await
            .unwrap();
        ezq.publish_all(&numbered(0..60)).await.unwrap();

        drain(&ezq).await;
        assert_eq!(log.sorted(), Vec::from_iter(0..60), "{codec}");
        assert_eq!(held(&ezq, &queue).await, [0; 4], "{codec}");
    }
}

#[tokio::test]
async fn under_every_codec_keys_order_duplicates_are_told_and_headers_are_kept() {
    for codec in EVERY {
        let queue = queue();
        let log = Log::new();
        let seen = log.clone();
        let from = queue.clone();

        let first_fails = Handler::on("ordered", move |event: Numbered, context: Context| {
            let headers = context.headers();
            assert_eq!(headers.text("shop"), Some("berlin"));
            assert_eq!(headers.text("correlation-id"), Some("flow"));
            assert_eq!(
                (headers.key().as_deref(), context.queue()),
                (Some("k"), &from)
            );

            let fails = event.n == 1 && context.attempt() == 1;
            if !fails {
                seen.push(event.n);
            }

            async move { if fails { Err("not yet") } else { Ok(()) } }
        });

        let ezq = with(&queue, codec)
            .register(first_fails)
            .connect()
            .await
            .unwrap();

        let publish = |n| {
            let publish = ezq.publish(&Numbered { n }).key("k").correlation_id("flow");
            publish
                .header("shop", "berlin")
                .dedupe_key(format!("n-{n}"))
        };
        let first = publish(1).await.unwrap();
        assert!(publish(1).await.unwrap().is_duplicate, "{codec}");

        for n in 2..5 {
            assert!(!publish(n).await.unwrap().is_duplicate, "{codec}");
        }

        assert_eq!(held(&ezq, &queue).await, [4, 0, 0, 0], "{codec}: {first:?}");
        drain(&ezq).await;
        assert_eq!(log.take(), [1, 2, 3, 4], "{codec}");
    }
}

#[tokio::test]
async fn under_every_codec_history_tells_of_an_event_in_the_queue_the_archive_and_the_dead_letters()
{
    for codec in EVERY {
        let queue_dead = queue();
        let queue = queue();
        let build = |queue: &QueueName, handler| {
            with(queue, codec)
                .register(handler)
                .retention(queue, Retention::ARCHIVE)
                .connect()
        };

        let ezq = build(&queue, Work::quick().0).await.unwrap();
        let published = ezq.publish(&Numbered { n: 1 }).await.unwrap();
        // The id of an event in the flat form is its place.
        let id = match codec {
            "flat" => format!("{queue}:{}", published.id),
            _ => published.event_id.clone(),
        };

        let copy = async |ezq: &Ezq, id: &str| {
            let mut history = ezq.history(id).await.unwrap();
            assert_eq!(history.copies.len(), 1, "{codec}: {history}");
            let copy = history.copies.remove(0);
            assert_eq!(copy.event_type.as_deref(), Some("test.numbered"), "{codec}");
            copy.state
        };
        assert!(
            matches!(copy(&ezq, &id).await, CopyState::Waiting { .. }),
            "{codec}"
        );

        drain(&ezq).await;
        assert!(
            matches!(copy(&ezq, &id).await, CopyState::Archived { .. }),
            "{codec}"
        );

        let fatal = Handler::on("fatal", |_: Numbered, context: Context| async move {
            match context.headers().value("ezq-redriven") {
                None => Err(HandlerError::fatal("no")),
                Some(_) => Ok(()),
            }
        });

        let ezq = build(&queue_dead, fatal).await.unwrap();
        let published = ezq.publish(&Numbered { n: 2 }).await.unwrap();
        let id = match codec {
            "flat" => format!("{queue_dead}:{}", published.id),
            _ => published.event_id.clone(),
        };

        drain(&ezq).await;
        assert!(
            matches!(copy(&ezq, &id).await, CopyState::Dead { .. }),
            "{codec}"
        );

        // Found by its type, and read again after it was redriven.
        let letters = ezq.dead_letters(&queue_dead).unwrap();
        let other = DeadLetterFilter::all().event_type("test.doubled");
        assert_eq!(letters.list(&other, 10).await.unwrap().len(), 0, "{codec}");
        let ours = DeadLetterFilter::all().event_type("test.numbered");
        assert_eq!(letters.redrive(ours).await.unwrap().len(), 1, "{codec}");

        drain(&ezq).await;
        assert!(
            matches!(copy(&ezq, &id).await, CopyState::Archived { .. }),
            "{codec}"
        );
    }
}

#[tokio::test]
async fn control_events_stop_a_consumer_under_every_codec() {
    for (codec, exclusive) in EVERY
        .map(|codec| (codec, false))
        .into_iter()
        .chain([("hidden", true)])
    {
        let queue = queue();
        let (handler, work) = Work::quick();
        let ezq = app(&queue)
            .codec(Hidden {
                exclusive,
                ..Hidden::default()
            })
            .codec(Packed)
            .queue_codec(&queue, codec)
            .retention(&queue, Retention::ARCHIVE)
            .register(handler)
            .connect()
            .await
            .unwrap();

        ezq.publish(&Numbered { n: 1 }).await.unwrap();
        let end = ezq.publish(&End::default()).await.unwrap();
        ezq.publish(&Interrupt::default()).await.unwrap();

        for reason in [StopReason::End, StopReason::Interrupt] {
            assert_eq!(
                soon(ezq.consumer().run()).await.unwrap().reason,
                reason,
                "{codec}"
            );
        }

        assert_eq!(work.handled.take(), [1], "{codec}");
        // As everywhere, a control event is not archived.
        assert!(
            ezq.history(&end.event_id).await.unwrap().is_empty(),
            "{codec}"
        );

        send_batch(&ezq, &queue, &[r#"{"_type": "EZQEndEvent"}"#.into()]).await;
        assert_eq!(
            soon(ezq.consumer().run()).await.unwrap().reason,
            StopReason::End,
            "{codec}"
        );

        ezq.stop_all(&queue, None).await.unwrap();
        assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0], "{codec}");
    }
}
