//! What someone sees in the terminal who has set up no logging, and makes one mistake.

use std::time::Duration;

use ezq::Handler;
use ezq::config::UnknownTypes;
use ezq::handler::Backoff;
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

use crate::child::{Process, Role};
use crate::database::{server, unique};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mistake {
    None,
    FailingHandler,
    HandlerOfAnotherType,
    HandlerOfAnotherQueue,
    NoHandler,
    WrongQueue,
    NobodySubscribed,
    /// The handler fails, and the program has a subscriber of its own.
    HeardFailure,
    /// The handle of the consumer that cannot start is dropped.
    DroppedHandle,
    /// None, and the program is a test.
    TestKit,
}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.paid")]
struct Paid {}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.sent")]
struct Sent {}

/// The program that a child is, in a queue of its name.
pub(crate) async fn make(mistake: Mistake) {
    let queue = std::env::var("EZQ_QUEUE").unwrap();
    if mistake == Mistake::HeardFailure {
        tracing::subscriber::set_global_default(tracing::subscriber::NoSubscriber::new()).unwrap();
    }

    if mistake == Mistake::TestKit {
        let app = ezq::testing::TestApp::new(|app| app).unwrap();
        assert_eq!(*app.config(), ezq::Config::default());
        return;
    }

    let fails = matches!(mistake, Mistake::FailingHandler | Mistake::HeardFailure);
    let pay = Handler::on("pay", move |_: Paid| async move {
        if fails {
            Err(std::io::Error::other("the card is stolen"))
        } else {
            Ok(())
        }
    });

    let mut builder = Ezq::builder()
        .without_discovered_handlers()
        .configure(|config| {
            config.retry.max_attempts = 2;
            config.retry.backoff = Backoff::constant(Duration::ZERO);
            config.unknown_types = UnknownTypes::DeadLetter;
        });

    builder = match mistake {
        Mistake::NoHandler => builder,
        Mistake::HandlerOfAnotherType => builder.register(Handler::on("send", |_: Sent| async {})),
        Mistake::HandlerOfAnotherQueue => builder
            .register(pay.queue("payments"))
            .register(Handler::on("send", |_: Sent| async {})),
        _ => builder.register(pay),
    };

    let ezq = builder.connect().await.unwrap();
    if mistake == Mistake::NobodySubscribed {
        for _ in 0..2 {
            assert!(ezq.broadcast(&Paid {}).await.unwrap().reached_nobody());
        }
        return;
    }

    ezq.publish(&Paid {}).await.unwrap();
    let mut consumer = ezq.consumer().until_idle();
    if mistake == Mistake::WrongQueue {
        consumer = consumer.queue(format!("{queue}_other"));
    }

    if mistake == Mistake::DroppedHandle {
        drop(consumer.lease(Duration::ZERO).spawn());
        // Its end is seen by nobody but on stderr; anything it does comes before this round trip.
        return ezq.health_check().await.unwrap();
    }
    consumer.run().await.unwrap();
}

/// What the terminal shows.
async fn seen(mistake: Mistake, variables: &[(&str, &str)]) -> String {
    let queue = unique("newcomer");
    let url = server().await.database_url("postgres");
    let variables = [&[("EZQ_QUEUE", queue.as_str())], variables].concat();
    let output = Process::output(&url, &Role::Newcomer(mistake), &variables).await;
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text.replace(queue.as_str(), "QUEUE")
}

#[tokio::test]
async fn a_program_without_a_mistake_prints_nothing() {
    assert_eq!(seen(Mistake::None, &[]).await, "");
}

#[tokio::test]
async fn a_program_without_a_database_is_told_that_its_events_end_with_it() {
    let text = seen(Mistake::None, &[("DATABASE_URL", "")]).await;
    let line = text.lines().next().unwrap();
    assert!(
        line.starts_with("WARN") && line.contains("no database is configured"),
        "{text}"
    );
    assert!(
        line.contains("folder=/") && line.contains("/ezq-postgres-"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 2, "the hint and nothing else: {text}");
}

#[tokio::test]
async fn a_program_without_a_database_is_refused_where_none_may_stand_in() {
    let queue = unique("newcomer");
    let variables = [("EZQ_QUEUE", queue.as_str()), ("EZQ_EMBEDDED", "false")];
    let output = Process::output("", &Role::Newcomer(Mistake::None), &variables).await;
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && text.contains("set DATABASE_URL"),
        "{text}"
    );
}

#[tokio::test]
async fn a_failing_handler_is_seen_with_its_error_and_what_becomes_of_the_event() {
    let text = seen(Mistake::FailingHandler, &[]).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    for (line, level) in [(lines[0], "WARN"), (lines[2], "ERROR")] {
        assert!(line.starts_with(level), "{text}");
        assert!(
            line.contains("the card is stolen") && line.contains("pay"),
            "{text}"
        );
    }
    assert!(
        lines[1].contains("`EZQ_STDERR=false`"),
        "the hint comes once: {text}"
    );
    assert!(lines[2].contains("dead letters"), "{text}");
}

#[tokio::test]
async fn a_type_that_no_handler_takes_is_seen() {
    let text = seen(Mistake::HandlerOfAnotherType, &[]).await;
    assert!(
        text.contains("no handler here takes `order.paid`"),
        "{text}"
    );
    assert!(text.contains("use my_handlers as _;"), "{text}");
}

#[tokio::test]
async fn a_handler_of_another_queue_is_named() {
    let text = seen(Mistake::HandlerOfAnotherQueue, &[]).await;
    let said =
        "no handler of this queue takes `order.paid`, but `pay` of the queue `payments` does";
    assert!(text.contains(said), "{text}");
}

#[tokio::test]
async fn a_program_without_handlers_is_told_how_those_of_a_library_are_found() {
    let text = seen(Mistake::NoHandler, &[]).await;
    assert!(text.contains("use my_handlers as _;"), "{text}");
}

#[tokio::test]
async fn a_consumer_of_another_queue_than_its_events_go_to_says_so() {
    let text = seen(Mistake::WrongQueue, &[]).await;
    assert!(
        text.contains("QUEUE_other") && text.contains("`order.paid` to `QUEUE`"),
        "{text}"
    );
}

#[tokio::test]
async fn a_consumer_that_fails_is_seen_though_nobody_waits_for_it() {
    let text = seen(Mistake::DroppedHandle, &[]).await;
    assert!(text.contains("`lease` must be at least 1s"), "{text}");
}

#[tokio::test]
async fn a_broadcast_that_reaches_nobody_is_seen_once_for_its_type() {
    let text = seen(Mistake::NobodySubscribed, &[]).await;
    assert_eq!(text.matches("broadcast to nobody").count(), 1, "{text}");
    assert!(
        text.contains("order.paid") && text.contains(".subscribe()"),
        "{text}"
    );
}

#[tokio::test]
async fn a_misspelt_option_is_told_with_the_nearest_one_and_a_service_link_is_not() {
    let variables = [
        ("EZQ_LEASES", "hunter2"),
        ("EZQ_WORKER_SERVICE_HOST", "10.0.0.1"),
        ("EZQ_WORKER_PORT", "tcp://10.0.0.1:80"),
        ("EZQ_WORKER_PORT_80_TCP", "tcp://10.0.0.1:80"),
    ];

    let text = seen(Mistake::None, &variables).await;
    assert!(
        text.contains("EZQ_LEASES") && text.contains("is it `EZQ_LEASE`?"),
        "{text}"
    );
    assert!(
        !text.contains("EZQ_WORKER") && !text.contains("hunter2"),
        "{text}"
    );
}

#[tokio::test]
async fn the_test_kit_reads_no_environment() {
    assert_eq!(
        seen(
            Mistake::TestKit,
            &[("EZQ_LEASE", "long"), ("EZQ_LEASES", "2s")]
        )
        .await,
        ""
    );
}

#[tokio::test]
async fn nothing_is_printed_where_it_is_not_wanted_or_logging_is_set_up() {
    assert_eq!(
        seen(Mistake::FailingHandler, &[("EZQ_STDERR", "false")]).await,
        ""
    );
    assert_eq!(seen(Mistake::HeardFailure, &[]).await, "");
}
