//! Errors of handlers: whatever their type, their chain of sources is seen as it is.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use ::anyhow::Context as _;
use ezq::admin::DeadLetterFilter;
use ezq::handler::{Handler, HandlerErrorKind, HandlerOutput};
use ezq::observe::NoticeKind;
use ezq::prelude::*;
use ezq::testing::TestApp;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(type = "test.ordered")]
struct Ordered {
    n: i64,
}

/// An error as programs have them, with a source.
#[derive(Debug)]
enum ShopError {
    Stock(io::Error),
}

impl fmt::Display for ShopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stock does not answer")
    }
}

impl StdError for ShopError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let Self::Stock(source) = self;
        Some(source)
    }
}

fn reserve() -> Result<(), ShopError> {
    Err(ShopError::Stock(io::Error::other("connection refused")))
}

async fn with_an_enum(_: Ordered) -> Result<(), ShopError> {
    reserve()
}

async fn with_anyhow(ordered: Ordered) -> anyhow::Result<()> {
    reserve().with_context(|| format!("order {}", ordered.n))
}

async fn with_eyre(ordered: Ordered) -> eyre::Result<()> {
    use eyre::WrapErr as _;

    reserve().wrap_err_with(|| format!("order {}", ordered.n))
}

async fn with_a_box(_: Ordered) -> Result<(), Box<dyn StdError + Send + Sync>> {
    Ok(reserve()?)
}

async fn with_a_handler_error(_: Ordered) -> Result<(), HandlerError> {
    reserve()?;
    Ok(())
}

async fn with_a_panic(_: Ordered) {
    reserve()
        .map_err(|error| anyhow::Error::new(error).context("order 7"))
        .unwrap();
}

/// Runs a handler that fails once, and returns how a hook, the dead letter and the history tell why.
async fn told(handler: Handler) -> [String; 3] {
    let app = TestApp::new(|app| app.register(handler.max_attempts(1))).unwrap();
    let mut notices = app.notices();
    let ordered = app.publish(&Ordered { n: 7 }).await.unwrap();
    assert_eq!(app.drain().await.unwrap().counts.dead_lettered, 1);

    let noticed = std::iter::from_fn(|| notices.try_recv());
    let noticed = noticed.filter_map(|notice| match &notice.kind {
        NoticeKind::DeadLettered { reason, .. } => Some(reason.error.clone()),
        _ => None,
    });
    let letters = app.dead_letters(&app.config().queue).unwrap();
    let letter = letters
        .list(&DeadLetterFilter::default(), 1)
        .await
        .unwrap()
        .remove(0);
    let history = app.history(&ordered.event_id).await.unwrap();
    [
        noticed.last().unwrap(),
        letter.reason.unwrap().error,
        history.last_error().unwrap().to_owned(),
    ]
}

async fn tells<F, Fut, O>(function: F, expected: &str)
where
    F: Fn(Ordered) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = O> + Send + 'static,
    O: HandlerOutput,
{
    for text in told(Handler::on("fails", function)).await {
        assert_eq!(text, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_chain_of_sources_is_told_as_it_is_whatever_type_the_error_has() {
    let stock = "the stock does not answer: connection refused";
    tells(with_an_enum, stock).await;
    tells(with_a_box, stock).await;
    tells(with_a_handler_error, stock).await;
    let order = &format!("order 7: {stock}");
    tells(with_anyhow, order).await;
    tells(with_eyre, order).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_and_a_timeout_tell_what_they_can() {
    for text in told(Handler::on("panics", with_a_panic)).await {
        for part in [
            "panicked: ",
            "order 7",
            "the stock does not answer",
            "connection refused",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    }
    let endless = Handler::on("endless", |_: Ordered| std::future::pending::<()>());
    for text in told(endless.timeout(Some(Duration::from_secs(5)))).await {
        assert_eq!(text, "timed out after 5s");
    }
}

/// Says of each error what it means. It is no `Error` itself, so it may convert as it likes.
enum Refusal {
    NotYet,
    Never,
}

impl From<Refusal> for HandlerError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotYet => Self::snooze(Duration::from_secs(60)),
            Refusal::Never => Self::fatal("sold out"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_enum_of_ones_own_says_what_becomes_of_the_event() {
    let refuse = |ordered: Ordered| async move {
        match ordered.n {
            7 => Err::<(), _>(Refusal::Never),
            _ => Err(Refusal::NotYet),
        }
    };
    let app = TestApp::new(|app| app.register(Handler::on("refuse", refuse))).unwrap();
    app.publish(&Ordered { n: 7 }).await.unwrap();
    app.publish(&Ordered { n: 8 }).await.unwrap();
    let counts = app.drain_queue("ezq").await.unwrap().counts;
    assert_eq!((counts.dead_lettered, counts.retried), (1, 1));
}

#[test]
fn an_error_says_what_it_asks_for() {
    use HandlerErrorKind::{Discard, Fatal, Retry, RetryAfter, Snooze};

    let minute = Duration::from_secs(60);
    let cases = [
        (reserve().map_err(HandlerError::from), Retry, None),
        (
            reserve().retry_after(minute),
            RetryAfter(minute),
            Some(minute),
        ),
        (reserve().snooze(minute), Snooze(minute), Some(minute)),
        (reserve().fatal(), Fatal, None),
        (reserve().discard(), Discard, None),
    ];
    for (result, kind, pause) in cases {
        let error = result.unwrap_err();
        assert_eq!((error.kind(), error.pause()), (kind, pause));
        assert_eq!(error.is_fatal(), kind == Fatal);
        assert_eq!(
            error.to_string(),
            "the stock does not answer: connection refused"
        );
        let ShopError::Stock(source) = error.source().downcast_ref().unwrap();
        assert_eq!(source.kind(), io::ErrorKind::Other);
    }
}

#[tokio::test(start_paused = true)]
async fn a_snoozed_error_counts_no_attempt() {
    let later = |_: Ordered| async { reserve().snooze(Duration::from_secs(60)) };
    let handler = Handler::on("later", later).max_attempts(1);
    let app = TestApp::new(|app| app.register(handler)).unwrap();
    app.publish(&Ordered { n: 7 }).await.unwrap();
    for _ in 0..3 {
        let report = app.drain_queue("ezq").await.unwrap();
        assert_eq!(report.counts.retried, 1);
        tokio::time::advance(Duration::from_secs(61)).await;
    }
}
