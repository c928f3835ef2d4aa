//! When a handler runs again: its attempts, its timeout, what it asks for, and where it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ezq::Handler;
use ezq::consumer::Counts;
use ezq::handler::{Backoff, HandlerOptions};
use ezq::message::{HandlerName, HandlerState, Progress, ReasonKind};
use ezq::prelude::*;

use super::{failing, run_one};
use crate::kit::{Log, Numbered, app, drain, held, numbered, only_dead, queue, soon, until};

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
    soon(consumer).await.unwrap();

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

#[derive(Debug)]
struct Busy;

impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("busy")
    }
}

impl std::error::Error for Busy {}

#[tokio::test]
async fn a_custom_backoff_decides_by_attempt_and_typed_error() {
    let queue = queue();
    let asked = Log::new();
    let log = asked.clone();
    let backoff = Backoff::custom(move |failed| {
        let is_busy = failed.error.source().is::<Busy>();
        log.push((failed.number, is_busy));
        if is_busy {
            Duration::ZERO
        } else {
            Duration::MAX
        }
    });
    let handler = Handler::on("fails", |event: Numbered| async move {
        match event.n {
            1 => Err::<(), HandlerError>(Busy.into()),
            _ => Err("busy".into()),
        }
    });

    let builder = app(&queue).register(handler.max_attempts(3).backoff(backoff));
    let ezq = builder.connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;
    assert_eq!(asked.take(), [(1, true), (2, true)]);
    assert_eq!(only_dead(&ezq, &queue).await.reason.unwrap().attempts, 3);

    ezq.publish(&Numbered { n: 2 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.retried, 1);
    assert_eq!(asked.take(), [(1, false)]);
    assert_eq!(held(&ezq, &queue).await, [0, 1, 0, 1]);
}

pub(super) const PAUSE: Duration = Duration::from_millis(200);

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
