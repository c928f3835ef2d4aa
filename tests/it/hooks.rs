//! Hooks: what becomes of events is told after the fact, and what hooks do changes nothing.

use std::sync::mpsc;
use std::time::Duration;

use ezq::message::{MessageId, ReasonKind};
use ezq::observe::{NOTICES_KEPT, Notice, NoticeKind, NoticeStream};
use ezq::prelude::*;
use ezq::{ErrorKind, EzqBuilder, Handler, QueueName, Schedule};
use serde::{Deserialize, Serialize};

use crate::kit::{Log, Numbered, app, drain, held, numbered, queue, send_batch, soon, until};

#[derive(Event, Serialize, Deserialize, Debug)]
#[event(type = "test.hooked")]
struct Hooked {
    n: i64,
}

fn kind(notice: &Notice) -> &'static str {
    match notice.kind {
        NoticeKind::Publishing => "publishing",
        NoticeKind::Published { .. } => "published",
        NoticeKind::PublishFailed { .. } => "publish failed",
        NoticeKind::Handled { .. } => "handled",
        NoticeKind::Retried { .. } => "retried",
        NoticeKind::DeadLettered { .. } => "dead-lettered",
        _ => "?",
    }
}

/// What was told so far, in order: what, and of which type.
fn told(notices: &mut NoticeStream) -> Vec<String> {
    let all = std::iter::from_fn(|| notices.try_recv());
    let line = |notice: std::sync::Arc<Notice>| {
        let event_type = notice
            .event_type
            .as_deref()
            .unwrap_or("?")
            .trim_start_matches("test.");
        format!("{event_type} {}", kind(&notice))
    };
    all.map(line).collect()
}

fn count(lines: &[String], line: &str) -> usize {
    lines.iter().filter(|found| *found == line).count()
}

/// Fails at first, then returns another event.
fn fails_once() -> Handler {
    Handler::on(
        "fails_once",
        |event: Numbered, context: Context| async move {
            if context.attempt() == 1 {
                Err("not yet")
            } else {
                Ok(Hooked { n: event.n })
            }
        },
    )
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn each_step_of_an_event_is_told_to_hooks_and_to_subscribers_in_order() {
    for codec in ["cloudevents", "raw"] {
        let queue = queue();
        let log = Log::new();
        let lines = log.clone();

        let ezq = app(&queue)
            .queue_codec(&queue, codec)
            .hook(move |notice| lines.push((kind(notice), notice.event_id.clone().unwrap())))
            .register(fails_once())
            .register(Handler::on("refuses", |_: Hooked| async {
                Err::<(), _>(HandlerError::fatal("no"))
            }))
            .connect()
            .await
            .unwrap();

        let mut notices = ezq.notices();
        let published = ezq.publish(&Numbered { n: 7 }).await.unwrap();
        drain(&ezq).await;
        let mut seen = Vec::new();

        while let Some(notice) = notices.try_recv() {
            assert_eq!(notice.queue, queue);

            match (&notice.kind, notice.event_type.as_deref().unwrap()) {
                (
                    NoticeKind::Published {
                        message_id,
                        is_duplicate,
                    },
                    "test.numbered",
                ) => {
                    assert_eq!((message_id, is_duplicate), (&published.id, &false));
                }
                (NoticeKind::Published { message_id, .. }, _) => {
                    assert_eq!(*message_id, MessageId::Pending);
                }
                (
                    NoticeKind::Retried {
                        message_id,
                        after,
                        progress,
                    },
                    _,
                ) => {
                    assert_eq!((message_id, after), (&published.id, &Duration::ZERO));
                    let mark = progress.iter().next().unwrap().1;
                    assert_eq!(
                        (mark.attempts, mark.errors[0].error.as_str()),
                        (1, "not yet")
                    );
                }
                (NoticeKind::Handled { message_id }, _) => assert_eq!(*message_id, published.id),
                (NoticeKind::DeadLettered { reason, .. }, _) => {
                    assert_eq!(reason.kind, ReasonKind::Fatal);
                }
                (NoticeKind::Publishing, _) => {}
                (other, _) => panic!("{other:?}"),
            }

            seen.push((kind(&notice), notice.event_id.clone().unwrap()));
        }

        let of_first: Vec<_> = seen
            .iter()
            .filter(|(_, id)| *id == published.event_id)
            .map(|(kind, _)| *kind)
            .collect();
        assert_eq!(
            of_first,
            ["publishing", "published", "retried", "handled"],
            "{codec}"
        );

        let of_other: Vec<_> = seen
            .iter()
            .filter(|(_, id)| *id != published.event_id)
            .map(|(kind, _)| *kind)
            .collect();
        assert_eq!(
            of_other,
            ["publishing", "published", "dead-lettered"],
            "{codec}"
        );

        // Closing waits for the hooks.
        ezq.close().await;
        assert_eq!(log.take(), seen, "{codec}");
    }
}

#[tokio::test]
async fn what_a_handler_s_transaction_publishes_is_told_only_once_it_committed() {
    let queue = queue();

    let handler = Handler::on(
        "tx",
        |event: Numbered, publisher: Publisher, context: Context, _: Tx| async move {
            publisher
                .publish(&Hooked { n: event.n })
                .await
                .map_err(HandlerError::fatal)?;
            if context.attempt() == 1 {
                Err(HandlerError::retry("not yet"))
            } else {
                Ok(())
            }
        },
    );

    let gone = Handler::on("gone", |_: Hooked| async {});
    let ezq = app(&queue)
        .register(handler)
        .register(gone)
        .connect()
        .await
        .unwrap();

    let mut notices = ezq.notices();
    ezq.publish(&Numbered { n: 7 }).await.unwrap();
    drain(&ezq).await;

    let told = told(&mut notices);
    assert_eq!(count(&told, "hooked publishing"), 2, "{told:?}");
    assert_eq!(count(&told, "hooked published"), 1, "{told:?}");
    assert_eq!(count(&told, "numbered handled"), 1, "{told:?}");

    let place = |line: &str| told.iter().position(|found| found == line).unwrap();
    assert!(
        place("numbered retried") < place("hooked published"),
        "{told:?}"
    );
}

#[tokio::test]
async fn what_is_published_in_a_caller_s_transaction_is_told_when_that_is_confirmed() {
    let queue = queue();
    let ezq = app(&queue).connect().await.unwrap();
    let mut notices = ezq.notices();

    let mut tx = ezq.pool().begin().await.unwrap();
    ezq.publish(&Numbered { n: 1 })
        .within(&mut tx)
        .await
        .unwrap();
    tx.rollback().await.unwrap();

    let mut tx = ezq.pool().begin().await.unwrap();
    let published = ezq
        .publish(&Numbered { n: 2 })
        .within(&mut tx)
        .await
        .unwrap();

    tx.commit().await.unwrap();
    assert_eq!(
        told(&mut notices),
        ["numbered publishing", "numbered publishing"]
    );

    ezq.confirm(&published);
    let notice = notices.try_recv().unwrap();
    assert_eq!(
        (kind(&notice), notice.event_id.as_ref()),
        ("published", Some(&published.event_id))
    );
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn a_confirmed_commit_wakes_consumers_that_look_seldom() {
    let queue = queue();
    let ezq = app(&queue)
        .configure(|config| {
            config.poll_min = Some(Duration::from_secs(3600));
            config.poll_max = Some(Duration::from_secs(3600));
        })
        .register(Handler::on("quick", |_: Numbered| async {}))
        .connect()
        .await
        .unwrap();

    let consumer = ezq.consumer().spawn();
    until(async || consumer.state() == ezq::consumer::ConsumerState::Running).await;

    for n in 1..=5 {
        // One notification goes along with a transaction, and this one is never seen. The next is
        // sent a moment later, and so before its own transaction commits.
        let mut tx = ezq.pool().begin().await.unwrap();
        ezq.publish(&Numbered { n }).within(&mut tx).await.unwrap();
        tx.rollback().await.unwrap();

        let mut tx = ezq.pool().begin().await.unwrap();
        let published = ezq.publish(&Numbered { n }).within(&mut tx).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        tx.commit().await.unwrap();
        ezq.confirm(&published);
        until(async || consumer.counts().handled == n.cast_unsigned()).await;
    }

    consumer.stop();
    soon(consumer).await.unwrap();
}

#[tokio::test]
async fn what_is_not_stored_is_told_with_its_error() {
    let queue = queue();
    let ezq = app(&queue).connect().await.unwrap();
    let mut notices = ezq.notices();
    let refused = ezq::Envelope::builder("test.refused", "it")
        .json(r#""\u0000""#)
        .unwrap();
    ezq.publish_envelope(refused.build().unwrap())
        .await
        .unwrap_err();
    assert_eq!(kind(&notices.try_recv().unwrap()), "publishing");

    let notice = notices.try_recv().unwrap();
    let NoticeKind::PublishFailed { kind, error } = &notice.kind else {
        panic!("{notice:?}")
    };
    assert_eq!(*kind, ErrorKind::InvalidEvent);
    assert!(!error.is_empty() && notice.event_type.as_deref() == Some("test.refused"));

    // What cannot be an event at all is no event to tell of.
    ezq.publish(&Numbered { n: 1 })
        .subject("\n")
        .await
        .unwrap_err();
    assert!(notices.try_recv().is_none());

    // A duplicate is told as one.
    for _ in 0..2 {
        ezq.publish(&Numbered { n: 1 })
            .dedupe_key("one")
            .await
            .unwrap();
    }

    let duplicates = std::iter::from_fn(|| notices.try_recv()).filter(|n| {
        matches!(
            n.kind,
            NoticeKind::Published {
                is_duplicate: true,
                ..
            }
        )
    });
    assert_eq!(duplicates.count(), 1);
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_told_without_a_name() {
    let queue = queue();
    let ezq = app(&queue).connect().await.unwrap();
    send_batch(&ezq, &queue, &["7".into()]).await;
    let mut notices = ezq.notices();
    drain(&ezq).await;
    assert_eq!(told(&mut notices), ["? dead-lettered"]);
}

#[tokio::test]
async fn batches_are_told_event_by_event_also_where_a_transaction_claims_them() {
    let queue = queue();
    let handler = Handler::on_batch("batch", |batch: Batch<Numbered>, _: Tx| async move {
        Hooked {
            n: batch.events().map(|event| event.n).sum(),
        }
    });

    let builder = app(&queue)
        .event_codec("test.hooked", "raw")
        .register(handler.batch_size(20));
    let ezq = builder.connect().await.unwrap();
    ezq.publish_all(&numbered(0..200)).await.unwrap();

    let mut notices = ezq.notices();
    soon(ezq.consumer().until_idle().run()).await.unwrap();
    let told = told(&mut notices);
    assert_eq!(count(&told, "numbered handled"), 200);

    let publishing = "hooked publishing";
    let published = "hooked published";
    assert!(count(&told, published) >= 10, "{told:?}");
    assert!(
        count(&told, publishing) >= count(&told, published),
        "{told:?}"
    );
}

fn quick(queue: &QueueName) -> EzqBuilder {
    app(queue).register(Handler::on("quick", |_: Numbered| async {}))
}

#[tokio::test]
async fn hooks_that_panic_or_hang_change_no_delivery_and_what_they_miss_is_counted() {
    let queue = queue();
    let (let_go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);

    let ezq = quick(&queue)
        .hook(|_| panic!("a hook"))
        .hook(move |_| {
            // Until the sender is gone.
            let _ = gate.lock().unwrap().recv();
        })
        .connect()
        .await
        .unwrap();

    let events = numbered(0..2000);
    ezq.publish_all(&events).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 2000);

    drop(let_go);
    // Of two notices of each publish and one of each handling, some were dropped.
    until(async || ezq.missed_notices() >= 6000 - 2 * NOTICES_KEPT as u64).await;
    assert!(ezq.missed_notices() < 6000);
}

#[tokio::test]
async fn a_subscriber_that_is_slow_is_told_how_many_it_missed_and_holds_up_nobody() {
    let queue = queue();
    let ezq = quick(&queue).connect().await.unwrap();
    let mut notices = ezq.notices();
    ezq.publish_all(&numbered(0..1000)).await.unwrap();
    drain(&ezq).await;

    let kept = told(&mut notices);
    assert_eq!(
        (kept.len() as u64 + notices.missed(), kept.len()),
        (3000, NOTICES_KEPT)
    );
    // The newest are kept.
    assert_eq!(count(&kept, "numbered handled"), 1000);

    drop(notices);
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);
}

#[tokio::test]
async fn each_copy_of_a_broadcast_is_told_and_confirmed_where_the_caller_commits_it() {
    let other = queue();
    let queue = queue();
    let ezq = app(&queue).connect().await.unwrap();
    let event_type = format!("test.{queue}");

    for queue in [&queue, &other] {
        ezq.engine(queue).ensure_queue(queue).await.unwrap();
        ezq.subscriptions()
            .unwrap()
            .add(queue, event_type.as_str())
            .await
            .unwrap();
    }

    let event = || ezq::Envelope::builder(&event_type, "it").build().unwrap();
    let mut notices = ezq.notices();
    ezq.broadcast_envelope(event()).await.unwrap();
    let mut queues = [&queue, &other].map(Clone::clone);
    queues.sort();

    let published = |notices: &mut NoticeStream| {
        let all = std::iter::from_fn(|| notices.try_recv());
        let mut queues: Vec<_> = all.map(|n| (kind(&n), n.queue.clone())).collect();
        queues.sort();
        queues
    };
    let wanted = queues.map(|queue| ("published", queue));
    assert_eq!(published(&mut notices).as_slice(), wanted.as_slice());

    // A queue that is missing is told beside them.
    let missing = crate::kit::queue();
    ezq.subscriptions()
        .unwrap()
        .add(&missing, event_type.as_str())
        .await
        .unwrap();
    assert_eq!(
        ezq.broadcast_envelope(event()).await.unwrap().missing,
        std::slice::from_ref(&missing)
    );

    let told = published(&mut notices);
    assert_eq!(
        (told.len(), &told[0]),
        (3, &("publish failed", missing.clone()))
    );

    ezq.subscriptions()
        .unwrap()
        .remove(&missing, event_type.as_str())
        .await
        .unwrap();

    let mut tx = ezq.pool().begin().await.unwrap();
    let broadcast = ezq.broadcast_envelope(event());
    let done = broadcast.within(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert!(notices.try_recv().is_none());

    done.copies.iter().for_each(|copy| ezq.confirm(copy));
    assert_eq!(published(&mut notices).as_slice(), wanted.as_slice());
}

#[tokio::test]
async fn an_event_of_a_schedule_is_told_by_whoever_stored_it() {
    let queue = queue();
    let hourly = Schedule::every("1h").queue(queue.as_str());
    let name = format!("hooked {queue}");
    let builder = app(&queue).schedule(&name, hourly, &Hooked { n: 1 });
    let ezq = builder.connect().await.unwrap();
    let mut notices = ezq.notices();

    let published = ezq.schedules().unwrap().run_now(&name).await.unwrap();
    let notice = notices.try_recv().unwrap();
    let NoticeKind::Published { message_id, .. } = &notice.kind else {
        panic!("{notice:?}")
    };
    assert_eq!((message_id, &notice.queue), (&published.id, &queue));
    assert_eq!(notice.event_id.as_ref(), Some(&published.event_id));
    assert!(notices.try_recv().is_none());
}
