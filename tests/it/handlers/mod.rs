//! What handlers see and say, and what becomes of their events.

mod dead_letters;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ezq::admin::DeadLetterFilter;
use ezq::config::UnknownTypes;
use ezq::consumer::Counts;
use ezq::handler::{Backoff, HandlerOptions, RetryPolicy};
use ezq::message::{HandlerName, HandlerState, Progress, ReasonKind};
use ezq::prelude::*;
use ezq::publish::Published;
use ezq::{ErrorKind, Handler, QueueName};
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;

use crate::kit::{
    Log, Numbered, app, dead, drain, held, numbered, only_dead, queue, send_batch, soon, until,
};

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[event(type = "test.named")]
struct Named {
    name: String,
}

fn named(name: &str) -> Named {
    Named {
        name: name.to_owned(),
    }
}

/// A handler that writes down its attempts and fails the first few.
fn failing(name: &str, failures: u32) -> (Handler, Log<u32>) {
    let log = Log::new();
    let attempts = log.clone();
    let handler = Handler::on(name, move |_: Numbered, context: Context| {
        attempts.push(context.attempt());
        async move {
            if context.attempt() <= failures {
                Err("not yet")
            } else {
                Ok(())
            }
        }
    });
    (handler, log)
}

async fn run_one(queue: &QueueName, handler: Handler) -> Ezq {
    let ezq = app(queue).register(handler).connect().await.unwrap();
    ezq.publish(&Numbered { n: 7 }).await.unwrap();
    drain(&ezq).await;
    ezq
}

#[tokio::test]
async fn only_the_handlers_that_failed_run_again() {
    let queue = queue();
    let (good, good_log) = failing("good", 0);
    let (bad, bad_log) = failing("bad", 1);
    let (worse, worse_log) = failing("worse", 3);
    let builder = app(&queue).register(good).register(bad).register(worse);
    let ezq = builder.connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.retried), (1, 3));
    assert_eq!(good_log.take(), [1]);
    assert_eq!(bad_log.take(), [1, 2]);
    assert_eq!(worse_log.take(), [1, 2, 3, 4]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn attempts_survive_the_consumer() {
    let queue = queue();
    let (good, good_log) = failing("good", 0);
    let (bad, bad_log) = failing("bad", 2);
    let bad = bad.backoff(Backoff::constant(Duration::from_secs(1)));

    for attempt in 1..=3 {
        let builder = app(&queue).register(good.clone()).register(bad.clone());
        let ezq = builder.connect().await.unwrap();
        if attempt == 1 {
            ezq.publish(&Numbered { n: 1 }).await.unwrap();
        }
        until(async || drain(&ezq).await.counts != Counts::default()).await;
        assert_eq!(bad_log.take(), [attempt]);
        ezq.close().await;
    }

    assert_eq!(good_log.take(), [1]);
    let ezq = app(&queue).connect().await.unwrap();
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn a_panic_is_a_failure_of_that_handler_alone() {
    let queue = queue();
    async fn panics(event: Numbered) {
        assert_ne!(event.n, 7, "boom");
    }

    let (good, good_log) = failing("good", 0);
    let builder = app(&queue)
        .register(good)
        .register(Handler::on("panics", panics));
    let ezq = builder.connect().await.unwrap();
    ezq.publish_all(&numbered(7..=8)).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!(
        (counts.handled, counts.retried, counts.dead_lettered),
        (1, 4, 1)
    );
    assert_eq!(good_log.take(), [1, 1], "once for each event");

    let reason = only_dead(&ezq, &queue).await.reason.unwrap();
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::MaxAttempts, 5));
    assert!(
        reason.error.starts_with("panicked: ") && reason.error.contains("boom"),
        "{reason:?}"
    );
}

#[tokio::test]
async fn a_timeout_ends_a_run_and_counts_as_a_failure() {
    let queue = queue();
    let dropped = Log::new();
    let log = dropped.clone();
    let hangs = Handler::on("hangs", move |_: Numbered| {
        let guard = OnDrop(log.clone());
        async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        }
    });

    let hangs = hangs
        .timeout(Some(Duration::from_millis(50)))
        .max_attempts(2);
    let ezq = run_one(&queue, hangs).await;
    let reason = only_dead(&ezq, &queue).await.reason.unwrap();
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::MaxAttempts, 2));
    assert_eq!(reason.error, "timed out after 50ms");
    assert_eq!(dropped.take(), [(), ()]);
}

struct OnDrop(Log<()>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.push(());
    }
}

#[derive(Debug)]
struct Outer(std::num::ParseIntError);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no amount")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn a_fatal_error_moves_the_event_to_the_dead_letters_with_all_that_is_known() {
    let queue = queue();
    let (good, good_log) = failing("good", 0);
    let fatal = Handler::on("fatal", |_: Numbered| async {
        let parsed: Result<i32, _> = "x".parse::<i32>().map_err(Outer);
        parsed.map(drop).fatal()
    });

    let ezq = app(&queue)
        .register(good)
        .register(fatal)
        .connect()
        .await
        .unwrap();

    let published = ezq
        .publish(&Numbered { n: 7 })
        .header("tenant", "acme")
        .correlation_id("flow-1")
        .await
        .unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!(
        (counts.dead_lettered, counts.retried, counts.handled),
        (1, 0, 0)
    );
    assert_eq!(good_log.take(), [1]);

    let letter = only_dead(&ezq, &queue).await;
    let reason = letter.reason.unwrap();
    assert_eq!(reason.kind, ReasonKind::Fatal);
    assert_eq!(reason.handler, Some(HandlerName::from("fatal")));
    assert_eq!(reason.error, "no amount: invalid digit found in string");
    assert_eq!(reason.attempts, 1);
    assert_eq!(letter.original_id, Some(published.id));
    assert!(letter.enqueued_at <= letter.died_at);
    assert_eq!(letter.headers.text("tenant"), Some("acme"));
    assert_eq!(letter.headers.text("correlation-id"), Some("flow-1"));

    let body: serde_json::Value = serde_json::from_str(&letter.body).unwrap();
    assert_eq!(body["id"], published.event_id);
    assert_eq!(body["data"]["n"], 7);

    let marks = Progress::from_headers(&letter.headers);
    let states: BTreeMap<_, _> = marks
        .iter()
        .map(|(name, mark)| (name.as_str(), mark.state))
        .collect();
    let expected = [("fatal", HandlerState::Dead), ("good", HandlerState::Done)];
    assert_eq!(states, BTreeMap::from(expected));
}

#[tokio::test]
async fn a_discarded_event_is_done() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let discards = Handler::on("discards", move |_: Numbered| {
        seen.push(());
        async { Err::<(), _>(HandlerError::discard("of no use")) }
    });
    let ezq = app(&queue).register(discards).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!(
        (counts.handled, counts.retried, counts.dead_lettered),
        (1, 0, 0)
    );
    assert_eq!(log.take().len(), 1);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

/// Runs a handler until its third run, which succeeds; the attempts it saw and the pauses between.
async fn three_runs(error: fn() -> HandlerError, attempts: u32) -> (Vec<u32>, Vec<Duration>) {
    let queue = queue();
    let log = Log::new();
    let runs = log.clone();
    let count = Arc::new(Mutex::new(0));

    let handler = Handler::on("thrice", move |_: Numbered, context: Context| {
        runs.push((context.attempt(), Instant::now()));
        let run = {
            let mut count = count.lock().unwrap();
            *count += 1;
            *count
        };
        async move { if run < 3 { Err(error()) } else { Ok(()) } }
    });

    let handler = handler
        .max_attempts(attempts)
        .backoff(Backoff::constant(Duration::from_secs(3600)));
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    let consumer = ezq.consumer().spawn();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    until(async || consumer.counts().handled == 1).await;
    assert_eq!(consumer.counts().retried, 2);

    consumer.stop();
    soon(consumer.wait()).await.unwrap();

    let runs = log.take();
    let pauses = runs.windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
    (
        runs.into_iter().map(|(attempt, _)| attempt).collect(),
        pauses,
    )
}

#[tokio::test]
async fn a_snooze_is_no_attempt() {
    let (attempts, pauses) =
        three_runs(|| HandlerError::snooze(Duration::from_millis(200)), 1).await;
    assert_eq!(attempts, [1, 1, 1]);
    for pause in pauses {
        assert!((200..5000).contains(&pause.as_millis()), "{pause:?}");
    }
}

#[tokio::test]
async fn retry_after_overrides_the_policy_and_counts() {
    let pause = Duration::from_millis(200);
    let (attempts, pauses) = three_runs(|| HandlerError::retry_after(PAUSE, "busy"), 3).await;
    assert_eq!(attempts, [1, 2, 3]);
    for between in pauses {
        assert!(
            between >= pause && between < Duration::from_secs(5),
            "{between:?}"
        );
    }
}

#[tokio::test]
async fn a_pause_beyond_every_calendar_is_kept_as_far_as_it_goes() {
    let queue = queue();
    let handler = Handler::on("long", |event: Numbered| async move {
        match event.n {
            1 => Err::<(), _>(HandlerError::snooze(Duration::MAX)),
            _ => Err(HandlerError::retry_after(Duration::MAX, "never")),
        }
    });

    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish_all(&numbered(1..=2)).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.retried, 2);
    assert_eq!(held(&ezq, &queue).await, [0, 2, 0, 0]);
}

const PAUSE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn exhausted_attempts_end_in_the_dead_letters_with_the_newest_errors() {
    let queue = queue();
    let handler = Handler::on("never", |_: Numbered, context: Context| async move {
        Err::<(), _>(format!("failure {}", context.attempt()))
    });
    let ezq = run_one(&queue, handler.max_attempts(4)).await;
    let letter = only_dead(&ezq, &queue).await;
    let reason = letter.reason.unwrap();
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::MaxAttempts, 4));
    assert_eq!(reason.error, "failure 4");

    let marks = Progress::from_headers(&letter.headers);
    let never = marks.get(&HandlerName::from("never")).unwrap();
    let errors: Vec<_> = never
        .errors
        .iter()
        .map(|record| (record.attempt, record.error.as_str()))
        .collect();
    assert_eq!(
        errors,
        [(2, "failure 2"), (3, "failure 3"), (4, "failure 4")]
    );
}

#[tokio::test]
async fn an_event_may_state_its_own_attempts() {
    for (attempts, expected) in [(2, vec![1, 2]), (7, vec![1, 2, 3, 4, 5, 6, 7])] {
        let queue = queue();
        let (never, log) = failing("never", u32::MAX);
        let ezq = app(&queue)
            .register(never.max_attempts(3))
            .connect()
            .await
            .unwrap();

        ezq.publish(&Numbered { n: 1 })
            .max_attempts(attempts)
            .await
            .unwrap();

        drain(&ezq).await;
        assert_eq!(log.take(), expected);
        assert_eq!(
            only_dead(&ezq, &queue).await.reason.unwrap().attempts,
            attempts
        );
    }
}

#[tokio::test]
async fn the_configuration_of_a_handler_wins_over_its_own() {
    let queue = queue();
    let (never, log) = failing("never", u32::MAX);
    let options = HandlerOptions::default().max_attempts(2);
    let builder = app(&queue)
        .register(never.max_attempts(4))
        .configure(|config| {
            config.handlers.insert("never".into(), options);
        });

    let ezq = builder.connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;
    assert_eq!(log.take(), [1, 2]);
}

#[tokio::test]
async fn an_error_of_any_text_and_length_is_kept_in_part() {
    let queue = queue();
    let handler = Handler::on("long", |_: Numbered| async {
        Err::<(), _>(HandlerError::fatal(format!("nul \0 {}", "ä".repeat(5000))))
    });
    let ezq = run_one(&queue, handler).await;
    let error = only_dead(&ezq, &queue).await.reason.unwrap().error;
    assert!(error.starts_with("nul \u{fffd} ää"), "{error}");
    assert!((990..=1010).contains(&error.len()), "{}", error.len());
}

#[tokio::test]
async fn handlers_run_in_their_order_and_those_of_one_order_together() {
    let queue = queue();
    let log = Log::new();

    let step = |name: &'static str, order: i32| {
        let log = log.clone();
        let handler = Handler::on(name, move |_: Numbered| {
            let log = log.clone();
            async move {
                log.push(format!("{name} begins"));
                tokio::time::sleep(Duration::from_millis(10)).await;
                log.push(format!("{name} ends"));
                if name == "first" {
                    Err("a failure holds up none")
                } else {
                    Ok(())
                }
            }
        });
        handler.order(order).max_attempts(1)
    };

    let meet = Arc::new(Barrier::new(2));

    let pair = |name: &'static str| {
        let meet = Arc::clone(&meet);
        let log = log.clone();
        let handler = Handler::on(name, move |_: Numbered| {
            let meet = Arc::clone(&meet);
            let log = log.clone();
            async move {
                // Neither passes unless both are here.
                meet.wait().await;
                log.push("pair met".to_owned());
            }
        });
        handler.order(5)
    };

    let builder = app(&queue)
        .register(step("last", 6))
        .register(pair("one"))
        .register(step("second", 0))
        .register(pair("other"))
        .register(step("first", -1));

    let ezq = builder.connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;

    let expected = [
        "first begins",
        "first ends",
        "second begins",
        "second ends",
        "pair met",
        "pair met",
        "last begins",
        "last ends",
    ];
    assert_eq!(log.take(), expected);
}

#[derive(EventSet, Debug)]
enum Either {
    Numbered(Numbered),
    Named(Named),
}

#[tokio::test]
async fn one_handler_takes_several_events_as_an_enum() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("either", move |event: Either| {
        seen.push(match event {
            Either::Numbered(Numbered { n }) => n.to_string(),
            Either::Named(Named { name }) => name,
        });
        async {}
    });

    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    ezq.publish(&named("two")).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 2);
    assert_eq!(log.sorted(), ["1", "two"]);
}

#[tokio::test]
async fn a_catch_all_takes_every_event_beside_the_others() {
    let queue = queue();
    let all = Log::new();
    let typed = Log::new();
    let all_seen = all.clone();
    let typed_seen = typed.clone();

    let ezq = app(&queue)
        .register(Handler::on("all", move |event: AnyEvent| {
            let number = event.decode::<Numbered>().ok().map(|event| event.n);
            all_seen.push((event.event_type().to_owned(), number));
            async {}
        }))
        .register(Handler::on("typed", move |event: Numbered| {
            typed_seen.push(event.n);
            async {}
        }))
        .connect()
        .await
        .unwrap();

    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    ezq.publish(&named("two")).await.unwrap();
    send_batch(&ezq, &queue, &[r#"{"_type": "Unheard", "n": 3}"#.into()]).await;
    assert_eq!(drain(&ezq).await.counts.handled, 3);

    let expected = [
        ("Unheard", Some(3)),
        ("test.named", None),
        ("test.numbered", Some(1)),
    ];
    assert_eq!(all.sorted(), expected.map(|(name, n)| (name.to_owned(), n)));
    assert_eq!(typed.take(), [1]);
}

#[tokio::test]
async fn a_handler_draws_state_publisher_and_context() {
    #[derive(Clone)]
    struct Plans(&'static str);

    let queue = queue();
    let contexts = Log::new();
    let seen = contexts.clone();
    let names = Log::new();
    let named_seen = names.clone();

    let handler = Handler::on(
        "draws",
        move |event: Numbered,
              State(plans): State<Plans>,
              publisher: Publisher,
              context: Context| {
            seen.push(context);
            async move {
                let name = format!("{} {}", plans.0, event.n);
                publisher.publish(&Named { name }).await?;
                Ok::<(), HandlerError>(())
            }
        },
    );

    let ezq = app(&queue)
        .configure(|config| config.app = "shop".into())
        .state(Plans("plan"))
        .register(handler.timeout(Some(Duration::from_secs(20))))
        .register(Handler::on(
            "named",
            move |event: Named, context: Context| {
                named_seen.push((event.name, context));
                async {}
            },
        ))
        .connect()
        .await
        .unwrap();

    let before = Instant::now();
    let published: Published = ezq.publish(&Numbered { n: 1 }).subject("s").await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 2);

    let context = contexts.take().remove(0);
    assert_eq!(context.event_id(), published.event_id);
    assert_eq!(context.message_id(), &published.id);
    assert_eq!(context.queue(), &queue);
    assert_eq!(context.event_type(), "test.numbered");
    assert_eq!(context.handler().as_str(), "draws");
    assert_eq!((context.attempt(), context.deliveries()), (1, 1));
    assert_eq!(context.envelope().source(), "shop");
    assert_eq!(context.envelope().subject(), Some("s"));
    assert!(!context.is_lease_expired() && !context.cancellation().is_cancelled());

    let deadline = context.deadline().unwrap().into_std() - before;
    assert!((20..50).contains(&deadline.as_secs()), "{deadline:?}");

    let (name, caused) = names.take().remove(0);
    assert_eq!(name, "plan 1");
    assert_eq!(
        caused.headers().text("causation-id"),
        Some(published.event_id.as_str())
    );
    assert_eq!(
        caused.headers().text("correlation-id"),
        Some(published.event_id.as_str())
    );
}

#[tokio::test]
async fn what_cannot_run_fails_when_the_application_is_built() {
    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "test.numbered")]
    struct Impostor {}

    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "test.other", alias = "test.numbered")]
    struct AliasImpostor {}

    async fn take<E>(_: E) {}

    let queue = queue();
    let kind = async |builder: ezq::EzqBuilder| builder.connect().await.unwrap_err().kind();
    let needs = Handler::on("needs", |_: Numbered, _: State<u128>| async {});
    assert_eq!(
        kind(app(&queue).register(needs)).await,
        ErrorKind::MissingState
    );

    let typed = || Handler::on("typed", take::<Numbered>);
    let twice = app(&queue).register(typed()).register(typed());
    assert_eq!(kind(twice).await, ErrorKind::DuplicateHandler);

    let impostor = Handler::on("impostor", take::<Impostor>);
    let both = app(&queue).register(typed()).register(impostor);
    assert_eq!(kind(both).await, ErrorKind::DuplicateEvent);

    let impostor = Handler::on("impostor", take::<AliasImpostor>);
    let both = app(&queue).register(typed()).register(impostor);
    assert_eq!(kind(both).await, ErrorKind::DuplicateEvent);

    let stray = app(&queue).register(typed()).configure(|config| {
        config
            .handlers
            .insert("typo".into(), HandlerOptions::default());
    });
    assert_eq!(kind(stray).await, ErrorKind::Configuration);

    let route = app(&queue).queue_engine(&queue, "kafka");
    assert_eq!(kind(route).await, ErrorKind::Configuration);
}

type Seen = (String, String, Option<String>, Option<String>);

/// Writes down every event: type, data, causation and correlation.
fn audit() -> (Handler, Log<Seen>) {
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("audit", move |event: AnyEvent, context: Context| {
        let header = |name: &str| context.headers().text(name).map(str::to_owned);
        let data: serde_json::Value = serde_json::from_str(event.data().unwrap()).unwrap();
        seen.push((
            event.event_type().to_owned(),
            data.to_string(),
            header("causation-id"),
            header("correlation-id"),
        ));
        async {}
    });
    (handler, log)
}

#[tokio::test]
async fn returned_events_are_published_with_their_cause() {
    let queue = queue();
    let (audit, log) = audit();

    let returns = Handler::on("returns", |event: Numbered| async move {
        match event.n {
            1 => Ok((
                named("one"),
                (
                    vec![Numbered { n: 2 }, Numbered { n: 3 }],
                    None::<Named>,
                    Some(named("some")),
                ),
            )),
            _ => Err(HandlerError::discard("enough")),
        }
    });

    let ezq = app(&queue)
        .register(audit)
        .register(returns)
        .connect()
        .await
        .unwrap();

    let first = ezq
        .publish(&Numbered { n: 1 })
        .correlation_id("flow")
        .await
        .unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 5);

    let cause = || Some(first.event_id.clone());
    let flow = || Some("flow".to_owned());
    let line = |name: &str, data: &str, cause| (name.to_owned(), data.to_owned(), cause, flow());
    let expected = [
        line("test.named", r#"{"name":"one"}"#, cause()),
        line("test.named", r#"{"name":"some"}"#, cause()),
        line("test.numbered", r#"{"n":1}"#, None),
        line("test.numbered", r#"{"n":2}"#, cause()),
        line("test.numbered", r#"{"n":3}"#, cause()),
    ];
    assert_eq!(log.sorted(), expected);
}

#[tokio::test]
async fn causes_are_chained_and_the_first_event_names_the_flow() {
    let queue = queue();
    let (audit, log) = audit();
    let counts = Handler::on("counts", |event: Numbered| async move {
        (event.n < 3).then_some(Numbered { n: event.n + 1 })
    });

    let ids = Log::new();
    let seen = ids.clone();
    let notes = Handler::on("notes", move |event: Numbered, context: Context| {
        seen.push((event.n, context.event_id().to_owned()));
        async {}
    });
    let builder = app(&queue).register(audit).register(counts).register(notes);
    let ezq = builder.connect().await.unwrap();
    let first = ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;

    let ids: BTreeMap<i64, String> = ids.take().into_iter().collect();
    let events = log.sorted();
    assert_eq!(events.len(), 3);
    assert_eq!((&events[0].2, &events[0].3), (&None, &None));
    assert_eq!(events[1].2.as_ref(), Some(&first.event_id));
    assert_eq!(events[2].2.as_ref(), Some(&ids[&2]));
    assert_eq!(events[2].3.as_ref(), Some(&first.event_id));
}

#[tokio::test]
async fn a_returned_event_is_published_once_although_another_handler_retries() {
    let queue = queue();
    let (bad, bad_log) = failing("bad", 3);
    let names = Log::new();
    let seen = names.clone();

    let ezq = app(&queue)
        .register(Handler::on("returns", |_: Numbered| async {
            named("once")
        }))
        .register(bad)
        .register(Handler::on("named", move |event: Named| {
            seen.push(event.name);
            async {}
        }))
        .connect()
        .await
        .unwrap();

    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;
    assert_eq!(bad_log.take(), [1, 2, 3, 4]);
    assert_eq!(names.take(), ["once"]);
}

#[tokio::test]
async fn a_returned_event_that_cannot_be_stored_costs_its_handler_the_event() {
    let queue = queue();
    let (good, good_log) = failing("good", 0);
    let returns = Handler::on("returns", |event: Numbered| async move {
        match event.n {
            1 => named("nul \0"),
            2 => named(&"x".repeat(2_000_000)),
            _ => named("fine"),
        }
    });

    let ignores = Handler::on("ignores", |_: Named| async {});
    let ezq = app(&queue)
        .register(good)
        .register(returns)
        .register(ignores);
    let ezq = ezq.connect().await.unwrap();
    ezq.publish_all(&numbered(1..=4)).await.unwrap();

    let counts = drain(&ezq).await.counts;
    assert_eq!((counts.handled, counts.dead_lettered), (4, 2), "{counts}");
    assert_eq!(good_log.take(), [1, 1, 1, 1]);

    for letter in dead(&ezq, &queue).await {
        let reason = letter.reason.unwrap();
        assert_eq!(reason.kind, ReasonKind::Fatal);
        assert_eq!(reason.handler.unwrap().as_str(), "returns");
    }

    // A redrive runs that handler again, and not the one that had done its part.
    let letters = ezq.dead_letters(&queue).unwrap();
    assert_eq!(
        letters
            .redrive(DeadLetterFilter::all())
            .await
            .unwrap()
            .len(),
        2
    );
    assert_eq!(drain(&ezq).await.counts.dead_lettered, 2);
    assert_eq!(good_log.take(), Vec::<u32>::new());
}

fn patiently(max_attempts: u32) -> UnknownTypes {
    UnknownTypes::Retry(RetryPolicy::new(
        max_attempts,
        Backoff::constant(Duration::ZERO),
    ))
}

#[tokio::test]
async fn an_unknown_type_is_retried_then_a_dead_letter_or_skipped() {
    let cases = [
        (patiently(3), (0, 2, 1)),
        (UnknownTypes::DeadLetter, (0, 0, 1)),
        (UnknownTypes::Skip, (1, 0, 0)),
    ];
    for (policy, expected) in cases {
        let queue = queue();
        let (handler, _) = failing("numbered", 0);
        let builder = app(&queue)
            .register(handler)
            .configure(|c| c.unknown_types = policy);
        let ezq = builder.connect().await.unwrap();
        ezq.publish(&named("unheard")).await.unwrap();

        let counts = drain(&ezq).await.counts;
        assert_eq!(
            (counts.handled, counts.retried, counts.dead_lettered),
            expected,
            "{policy:?}"
        );

        if expected.2 == 1 {
            let reason = only_dead(&ezq, &queue).await.reason.unwrap();
            assert_eq!(reason.kind, ReasonKind::UnknownType);
            assert_eq!(u64::from(reason.attempts), expected.1 + 1);
            assert!(reason.error.contains("test.named"), "{}", reason.error);
        }
    }
}

#[tokio::test]
async fn an_unknown_type_waits_for_a_process_that_knows_it() {
    let queue = queue();
    let policy = RetryPolicy::new(5, Backoff::constant(PAUSE));
    let old = app(&queue).configure(|config| config.unknown_types = UnknownTypes::Retry(policy));
    let old = old.connect().await.unwrap();
    old.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(drain(&old).await.counts.retried, 1);

    let (handler, log) = failing("numbered", 0);
    let new = app(&queue).register(handler).connect().await.unwrap();
    let consumer = new.consumer().spawn();
    until(async || consumer.counts().handled == 1).await;
    assert_eq!(log.take(), [1]);
    assert_eq!(held(&new, &queue).await, [0; 4]);
}

#[tokio::test]
async fn a_newer_version_is_not_guessed_at() {
    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "test.numbered", version = 2)]
    struct Newer {
        n: i64,
    }

    let cases = [
        (patiently(2), (0, 1, 1)),
        (UnknownTypes::DeadLetter, (0, 0, 1)),
        (UnknownTypes::Skip, (1, 0, 0)),
    ];

    for (policy, expected) in cases {
        let queue = queue();
        let (handler, log) = failing("old", 0);
        let builder = app(&queue)
            .register(handler)
            .configure(|c| c.unknown_types = policy);
        let ezq = builder.connect().await.unwrap();
        ezq.publish(&Newer { n: 1 }).await.unwrap();

        let counts = drain(&ezq).await.counts;
        assert_eq!(
            (counts.handled, counts.retried, counts.dead_lettered),
            expected,
            "{policy:?}"
        );
        assert!(log.take().is_empty());

        if expected.2 == 1 {
            let reason = only_dead(&ezq, &queue).await.reason.unwrap();
            assert_eq!(reason.kind, ReasonKind::NewerVersion);
            assert_eq!(reason.handler, Some(HandlerName::from("old")));
        }
    }

    // The other way round an older one is read.
    let queue = queue();
    let handler = Handler::on("new", |event: Newer| async move { assert_eq!(event.n, 5) });
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish(&Numbered { n: 5 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);
}

static DISCOVERED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

#[derive(Event, Serialize, Deserialize)]
#[event(type = "test.discovered")]
struct Discovered {
    by: String,
}

#[on_event(name = "it.discovered", timeout = "10s")]
async fn discovered(event: Discovered, context: Context) {
    DISCOVERED
        .lock()
        .unwrap()
        .push((event.by, context.handler().to_string()));
}

#[tokio::test]
async fn annotated_handlers_are_found_without_being_registered() {
    let queue = queue();
    let own = queue.clone();
    // Another annotated handler of this binary asks for this state.
    let builder = Ezq::builder()
        .configure(|config| config.queue = own)
        .state("");

    let ezq = builder.connect().await.unwrap();
    assert!(
        ezq.handlers()
            .any(|handler| handler.name().as_str() == "it.discovered")
    );

    ezq.publish(&Discovered {
        by: queue.to_string(),
    })
    .await
    .unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);

    let seen = DISCOVERED.lock().unwrap().clone();
    assert_eq!(seen, [(queue.to_string(), "it.discovered".to_owned())]);

    let without = app(&queue).connect().await.unwrap();
    assert_eq!(without.handlers().count(), 0);
    let explicit = app(&queue).handler::<discovered>().connect().await.unwrap();
    assert_eq!(explicit.handlers().count(), 1);
    assert_eq!(Discovered::TYPE, "test.discovered");
}
