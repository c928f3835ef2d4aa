//! How a consumer stops, one way at a time.

mod end;
mod interrupt;
mod programs;

use std::time::Duration;

use ezq::consumer::{Counts, StopReason};
use ezq::engine::Outgoing;
use ezq::prelude::*;
use ezq::{Handler, HandlerError, QueueName};
use serde::Serialize;

use crate::kit::{Log, Numbered, Work, app, dead, drain, held, numbered, queue, send_batch, soon};

/// Far longer than a test may take: what is readable sooner was given back.
const LONG_LEASE: Duration = Duration::from_secs(120);

async fn connect(queue: &QueueName, handler: Handler) -> Ezq {
    let app = app(queue).configure(|config| config.lease = LONG_LEASE);
    app.register(handler).connect().await.unwrap()
}

/// A message as [`Ezq::publish`] would store it.
fn outgoing(ezq: &Ezq, event: &impl Event) -> Outgoing {
    ezq.publish(event).prepare().unwrap().outgoing
}

fn flat(event_type: &str, data: &impl Serialize) -> String {
    let mut body = serde_json::to_value(data).unwrap();
    body["_type"] = event_type.into();
    body.to_string()
}

fn all_settled(counts: Counts, expected: [u64; 5]) {
    let Counts {
        handled,
        retried,
        dead_lettered,
        cancelled,
        returned,
        lost,
        ..
    } = counts;

    assert_eq!(
        [handled, retried, dead_lettered, cancelled, returned],
        expected,
        "{counts}"
    );
    assert_eq!(lost, 0, "{counts}");
}

#[tokio::test]
async fn control_events_of_python_ezq_stop_a_consumer() {
    let queue = queue();
    let (handler, mut work) = Work::waiting_for([1]);
    let ezq = connect(&queue, handler).await;

    // By the names of its package `ezq`, and by those of the later one, `ezvent`.
    for (name, reason) in [
        ("EZQEndEvent", StopReason::End),
        ("EZEndEvent", StopReason::End),
        ("EZQInterruptEvent", StopReason::Interrupt),
        ("EZInterruptEvent", StopReason::Interrupt),
    ] {
        send_batch(&ezq, &queue, &[format!(r#"{{"_type": "{name}"}}"#)]).await;
        assert_eq!(
            soon(ezq.consumer().until_idle().run())
                .await
                .unwrap()
                .reason,
            reason,
            "{name}"
        );
    }

    let bodies = [
        flat("test.numbered", &Numbered { n: 1 }),
        flat("EZQEndEvent", &Timeout(0.2)),
    ];
    send_batch(&ezq, &queue, &bodies).await;

    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);

    all_settled(report.counts, [0, 0, 0, 1, 0]);
    assert_eq!(work.started().await, 1);
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
}

#[tokio::test]
async fn control_events_without_data_stop_a_consumer() {
    let queue = queue();
    let ezq = connect(&queue, Work::quick().0).await;

    for (event_type, reason) in [
        (End::TYPE, StopReason::End),
        (Interrupt::TYPE, StopReason::Interrupt),
    ] {
        let envelope = ezq::Envelope::builder(event_type, "it").build().unwrap();
        ezq.publish_envelope(envelope).await.unwrap();
        assert_eq!(
            soon(ezq.consumer().until_idle().run())
                .await
                .unwrap()
                .reason,
            reason
        );
        assert_eq!(held(&ezq, &queue).await, [0; 4]);
    }
}

struct Timeout(f64);

impl Serialize for Timeout {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        serde_json::json!({ "timeout": self.0 }).serialize(to)
    }
}

#[tokio::test]
async fn an_end_that_cannot_be_read_is_a_dead_letter_and_stops_nothing() {
    let queue = queue();
    let (handler, work) = Work::quick();
    let ezq = connect(&queue, handler).await;
    let bodies = [
        flat("EZQEndEvent", &Timeout(-1.0)),
        flat("test.numbered", &Numbered { n: 1 }),
    ];
    send_batch(&ezq, &queue, &bodies).await;

    all_settled(drain(&ezq).await.counts, [1, 0, 1, 0, 0]);
    assert_eq!(work.handled.take(), [1]);
    let reason = dead(&ezq, &queue).await.remove(0).reason.unwrap();
    assert_eq!(reason.kind, ezq::message::ReasonKind::Undecodable);
}

#[tokio::test]
async fn handlers_of_control_events_run_and_cannot_prevent_the_stop() {
    let queue = queue();
    let log = Log::new();
    let on_end = log.clone();
    let on_interrupt = log.clone();

    async fn panics(_: Interrupt) {
        panic!("no");
    }

    let ezq = app(&queue)
        .register(Handler::on("fails", |_: End| async { Err::<(), _>("no") }))
        .register(Handler::on("panics", panics))
        .register(Handler::on("says_end", move |_: End| {
            on_end.push("end");
            async {}
        }))
        .register(Handler::on(
            "says_interrupt",
            move |_: Interrupt, context: Context| {
                on_interrupt.push("interrupt");
                async move { assert_eq!(context.attempt(), 1) }
            },
        ))
        .connect()
        .await
        .unwrap();

    ezq.publish(&End::default()).await.unwrap();

    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    all_settled(report.counts, [0; 5]);
    assert_eq!(log.take(), ["end"]);

    ezq.publish(&Interrupt::default()).await.unwrap();
    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::Interrupt);

    all_settled(report.counts, [0; 5]);
    assert_eq!(log.take(), ["interrupt"]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn handlers_of_control_events_are_bounded_by_their_timeout() {
    let queue = queue();
    let hangs = Handler::on("hangs", |_: End| std::future::pending::<()>())
        .timeout(Some(Duration::from_millis(50)));
    let ezq = connect(&queue, hangs).await;
    ezq.publish(&End::default()).await.unwrap();
    assert_eq!(
        soon(ezq.consumer().run()).await.unwrap().reason,
        StopReason::End
    );
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn catch_alls_do_not_see_control_events() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("all", move |event: AnyEvent| {
        seen.push(event.event_type().to_owned());
        async {}
    });
    let ezq = connect(&queue, handler).await;

    for stop in [StopReason::End, StopReason::Interrupt] {
        ezq.publish(&Numbered { n: 1 }).await.unwrap();
        match stop {
            StopReason::End => ezq.publish(&End::default()).await.unwrap(),
            _ => {
                all_settled(drain(&ezq).await.counts, [1, 0, 0, 0, 0]);
                ezq.publish(&Interrupt::default()).await.unwrap()
            }
        };
        assert_eq!(soon(ezq.consumer().run()).await.unwrap().reason, stop);
        assert_eq!(log.take(), ["test.numbered"]);
    }
}

#[tokio::test]
async fn a_report_counts_exactly() {
    let queue = queue();
    let handler = Handler::on("mixed", |event: Numbered, context: Context| async move {
        match event.n {
            1..=3 => Ok(()),
            4 if context.attempt() > 2 => Ok(()),
            4 => Err(HandlerError::retry("not yet")),
            _ => Err(HandlerError::fatal("never")),
        }
    });

    let ezq = connect(&queue, handler).await;
    ezq.publish_all(&numbered(1..=6)).await.unwrap();
    send_batch(&ezq, &queue, &["[]".into()]).await;

    let report = drain(&ezq).await;
    all_settled(report.counts, [4, 2, 3, 0, 0]);
    assert_eq!(held(&ezq, &queue).await, [0, 0, 0, 3]);
}

#[tokio::test]
async fn a_handler_that_publishes_an_end_stops_its_own_consumer() {
    let queue = queue();
    let handler = Handler::on("ends", |_: Numbered, publisher: Publisher| async move {
        publisher.publish(&End::default()).await?;
        Ok::<(), HandlerError>(())
    });
    let ezq = connect(&queue, handler).await;
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let report = soon(ezq.consumer().run()).await.unwrap();
    assert_eq!(report.reason, StopReason::End);
    all_settled(report.counts, [1, 0, 0, 0, 0]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn a_handler_that_returns_a_control_event_stops_its_own_consumer() {
    let queue = queue();
    let ezq = app(&queue)
        .register(Handler::on("ends", |event: Numbered| async move {
            match event.n {
                1 => (Some(End::default()), None),
                _ => (None, Some(Interrupt::default())),
            }
        }))
        .connect()
        .await
        .unwrap();

    for (n, reason) in [(1, StopReason::End), (2, StopReason::Interrupt)] {
        ezq.publish(&Numbered { n }).await.unwrap();
        let report = soon(ezq.consumer().run()).await.unwrap();
        assert_eq!(report.reason, reason);
        all_settled(report.counts, [1, 0, 0, 0, 0]);
        assert_eq!(held(&ezq, &queue).await, [0; 4]);
    }
}
