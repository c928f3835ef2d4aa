//! What an operator sees: spans that name what they are about, and each failure once.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, LazyLock, Mutex};

use ezq::Handler;
use ezq::config::UnknownTypes;
use ezq::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::subscriber::{DefaultGuard, set_default};
use tracing::{Dispatch, Event, Instrument, Level, Subscriber, info_span};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::kit::{Numbered, PATIENCE, Work, app, drain, numbered, queue, send_batch};

type Fields = BTreeMap<&'static str, String>;

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A span as it began, or an event with what the spans around it add.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    name: &'static str,
    level: Level,
    fields: Fields,
    /// The span around it.
    parent: Option<&'static str>,
}

impl Record {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields
            .get(name)
            .unwrap_or_else(|| panic!("no `{name}` in {self:?}"))
    }

    pub(crate) fn says(&self, text: &str) -> bool {
        let message = self.fields.get("message");
        message.is_some_and(|message| message.contains(text))
    }
}

/// Keeps what ezq's crates and this test record.
#[derive(Clone, Default)]
pub(crate) struct Capture {
    spans: Arc<Mutex<Vec<Record>>>,
    events: Arc<Mutex<Vec<Record>>>,
}

impl Capture {
    /// Captures on this thread, on which all of a test runs.
    pub(crate) fn begin() -> (Self, DefaultGuard) {
        // While there is one dispatcher alone, a place in the code that a thread without one meets
        // first counts as unwanted by all.
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Registry::default()));
        LazyLock::force(&SECOND);
        let capture = Self::default();
        let guard = set_default(Registry::default().with(capture.clone()));
        (capture, guard)
    }

    fn spans(&self, name: &str) -> Vec<Record> {
        self.spans
            .lock()
            .unwrap()
            .iter()
            .filter(|span| span.name == name)
            .cloned()
            .collect()
    }

    pub(crate) fn at(&self, level: Level) -> Vec<Record> {
        self.events
            .lock()
            .unwrap()
            .iter()
            .filter(|event| event.level == level)
            .cloned()
            .collect()
    }
}

struct Read<'a>(&'a mut Fields);

impl Visit for Read<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}

fn is_ours(target: &str) -> bool {
    target.starts_with("ezq") || target.starts_with(module_path!())
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: LayerContext<'_, S>) {
        let mut fields = Fields::new();
        attributes.record(&mut Read(&mut fields));
        let metadata = attributes.metadata();
        let span = context.span(id).unwrap();
        span.extensions_mut().insert(fields.clone());

        if is_ours(metadata.target()) {
            let parent = span.parent().map(|parent| parent.name());
            let record = Record {
                name: metadata.name(),
                level: *metadata.level(),
                fields,
                parent,
            };
            self.spans.lock().unwrap().push(record);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: LayerContext<'_, S>) {
        let metadata = event.metadata();
        if !is_ours(metadata.target()) {
            return;
        }

        let mut fields = Fields::new();
        for span in context.event_scope(event).into_iter().flatten() {
            fields.extend(
                span.extensions()
                    .get::<Fields>()
                    .cloned()
                    .unwrap_or_default(),
            );
        }

        event.record(&mut Read(&mut fields));
        let parent = context.event_span(event).map(|span| span.name());
        let record = Record {
            name: metadata.name(),
            level: *metadata.level(),
            fields,
            parent,
        };
        self.events.lock().unwrap().push(record);
    }
}

#[tokio::test]
async fn publishing_leasing_and_handling_have_a_span_each() {
    let (capture, _guard) = Capture::begin();
    let queue = queue();
    let handler = Handler::on("speaks", |_: Numbered| async {
        tracing::info!("the handler speaks");
    });
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    let published = ezq.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);

    let spans = capture.spans("ezq.publish");
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(spans[0].field("queue"), queue.as_str());
    assert_eq!(spans[0].field("event_id"), published.event_id);
    assert_eq!(spans[0].field("event_type"), "test.numbered");

    let spans = capture.spans("ezq.lease");
    assert!(spans.len() > 1, "{spans:?}");
    assert!(
        spans
            .iter()
            .all(|span| span.field("queue") == queue.as_str())
    );

    let said = |event: &Record| event.fields["message"] == "the handler speaks";
    let said = capture.at(Level::INFO).into_iter().find(said).unwrap();
    let spans = capture.spans("ezq.handle");
    assert_eq!(spans.len(), 1, "{spans:?}");
    for record in [&spans[0], &said] {
        assert_eq!(record.field("event_id"), published.event_id);
        assert_eq!(record.field("event_type"), "test.numbered");
        assert_eq!(record.field("queue"), queue.as_str());
        assert_eq!(record.field("handler"), "speaks");
        assert_eq!(record.field("attempt"), "1");
    }
}

#[tokio::test]
async fn a_consumer_lists_its_handlers_when_it_starts() {
    let (capture, _guard) = Capture::begin();
    let queue = queue();
    let mail = Handler::on("mail", |_: Numbered| async {});
    let audit = Handler::on("audit", |_: AnyEvent| async {});

    let ezq = app(&queue)
        .register(mail)
        .register(audit)
        .connect()
        .await
        .unwrap();
    drain(&ezq).await;

    let started = |event: &Record| event.fields["message"] == "consumer started";
    let started = capture.at(Level::INFO).into_iter().find(started).unwrap();
    assert_eq!(started.field("queue"), queue.as_str());
    assert_eq!(started.field("handlers"), r#"["audit", "mail"]"#);
}

#[tokio::test]
async fn a_batch_is_published_in_one_span() {
    let (capture, _guard) = Capture::begin();
    let ezq = app(&queue()).connect().await.unwrap();
    ezq.publish_all(&numbered(1..=3)).await.unwrap();
    let spans = capture.spans("ezq.publish");
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(spans[0].field("count"), "3");
}

#[tokio::test]
async fn what_goes_well_warns_of_nothing() {
    let (capture, _guard) = Capture::begin();
    let ezq = app(&queue()).register(Handler::on("fine", |_: Numbered| async {}));
    let ezq = ezq.connect().await.unwrap();
    ezq.publish_all(&numbered(1..=3)).await.unwrap();
    ezq.publish(&End::default()).await.unwrap();
    ezq.consumer().run().await.unwrap();
    ezq.close().await;

    assert!(
        capture.at(Level::WARN).is_empty(),
        "{:?}",
        capture.at(Level::WARN)
    );
    assert!(
        capture.at(Level::ERROR).is_empty(),
        "{:?}",
        capture.at(Level::ERROR)
    );
}

#[tokio::test]
async fn a_failure_is_logged_once_as_a_warning_and_the_last_once_as_an_error() {
    let (capture, _guard) = Capture::begin();
    let queue = queue();
    let handler = Handler::on("fails", |_: Numbered, context: Context| async move {
        Err::<(), _>(format!("failure {}", context.attempt()))
    });
    let fine = Handler::on("fine", |_: Numbered| async {});
    let ezq = app(&queue).register(handler.max_attempts(3)).register(fine);
    let ezq = ezq.connect().await.unwrap();
    let published = ezq.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.dead_lettered, 1);

    let warnings = capture.at(Level::WARN);
    assert_eq!(warnings.len(), 2, "{warnings:?}");

    let errors = capture.at(Level::ERROR);
    assert_eq!(errors.len(), 1, "{errors:?}");
    for (record, attempt) in warnings.iter().zip(["1", "2"]) {
        assert_eq!(record.field("attempt"), attempt);
        assert_eq!(record.field("error"), format!("failure {attempt}"));
    }
    assert_eq!(errors[0].field("reason"), "max_attempts");
    assert_eq!(errors[0].field("attempts"), "3");
    assert_eq!(errors[0].field("error"), "failure 3");
    for record in warnings.iter().chain(&errors) {
        assert_eq!(record.field("handler"), "fails");
        assert_eq!(record.field("event_id"), published.event_id);
        assert_eq!(record.field("event_type"), "test.numbered");
        assert_eq!(record.field("queue"), queue.as_str());
        assert_eq!(record.field("message_id"), published.id.to_string());
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_logged_once_as_an_error() {
    let (capture, _guard) = Capture::begin();
    let queue = queue();
    let ezq = app(&queue)
        .register(Work::quick().0)
        .connect()
        .await
        .unwrap();

    let ids = send_batch(&ezq, &queue, &["[]".into()]).await;
    assert_eq!(drain(&ezq).await.counts.dead_lettered, 1);
    assert!(
        capture.at(Level::WARN).is_empty(),
        "{:?}",
        capture.at(Level::WARN)
    );

    let errors = capture.at(Level::ERROR);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].field("reason"), "undecodable");
    assert_eq!(errors[0].field("queue"), queue.as_str());
    assert_eq!(errors[0].field("message_id"), ids[0].to_string());
}

#[tokio::test]
async fn an_unknown_type_is_logged_once_for_each_time_it_came() {
    let (capture, _guard) = Capture::begin();
    let queue = queue();
    let ezq = app(&queue).configure(|config| {
        config.unknown_types = UnknownTypes::Retry(ezq::handler::RetryPolicy::new(
            2,
            config.retry.backoff.clone(),
        ));
    });

    let ezq = ezq.connect().await.unwrap();
    let published = ezq.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.dead_lettered, 1);

    let mut warnings = capture.at(Level::WARN);
    let errors = capture.at(Level::ERROR);

    // Others are about the application: that it has no handler.
    warnings.retain(|warning| warning.fields.contains_key("event_id"));
    assert_eq!(
        (warnings.len(), errors.len()),
        (1, 1),
        "{warnings:?} {errors:?}"
    );
    for record in [&warnings[0], &errors[0]] {
        assert_eq!(record.field("event_id"), published.event_id);
        assert_eq!(record.field("event_type"), "test.numbered");
        assert_eq!(record.field("queue"), queue.as_str());
    }
}

#[tokio::test]
async fn an_error_that_is_returned_is_not_logged_too() {
    let (capture, _guard) = Capture::begin();
    let ezq = app(&queue())
        .configure(|config| config.message_limit = 10)
        .connect()
        .await
        .unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap_err();

    assert!(
        capture.at(Level::WARN).is_empty(),
        "{:?}",
        capture.at(Level::WARN)
    );
    assert!(
        capture.at(Level::ERROR).is_empty(),
        "{:?}",
        capture.at(Level::ERROR)
    );
}

#[tokio::test]
async fn spans_of_a_consumers_work_have_no_parent_and_name_their_trace() {
    let (capture, _guard) = Capture::begin();
    let handler = Handler::on("handles", |event: Numbered| async move {
        // Some go on in a task of their own, some end where they began.
        if event.n % 2 == 0 {
            tokio::task::yield_now().await;
        }
    });

    let ezq = app(&queue()).register(handler).connect().await.unwrap();
    for n in 1..=6 {
        ezq.publish(&Numbered { n })
            .header("traceparent", TRACE)
            .await
            .unwrap();
    }

    ezq.publish(&Numbered { n: 7 }).await.unwrap();
    ezq.publish(&Numbered { n: 8 })
        .header("traceparent", "no\ntrace")
        .await
        .unwrap();

    assert_eq!(
        drain(&ezq)
            .instrument(info_span!("caller"))
            .await
            .counts
            .handled,
        8
    );

    for name in ["ezq.lease", "ezq.handle", "ezq.settle"] {
        let spans = capture.spans(name);
        assert!(!spans.is_empty(), "no {name}");
        assert!(spans.iter().all(|span| span.parent.is_none()), "{spans:?}");
    }

    let spans = capture.spans("ezq.handle");
    assert_eq!(spans.len(), 8, "{spans:?}");

    let traced: Vec<_> = spans
        .iter()
        .filter_map(|span| span.fields.get("traceparent"))
        .collect();
    assert_eq!(traced, [TRACE; 6], "{spans:?}");
}

#[tokio::test]
async fn the_span_of_a_batch_has_no_parent_and_names_each_of_its_traces_once() {
    let (capture, _guard) = Capture::begin();
    let other = TRACE.replace("4bf9", "5bf9");
    let handler = Handler::on_batch("collects", |_: Batch<Numbered>| async {});
    let handler = handler.batch_size(3).batch_wait(PATIENCE);
    let ezq = app(&queue()).register(handler).connect().await.unwrap();

    for (n, trace) in (1..).zip([TRACE, &other, TRACE]) {
        ezq.publish(&Numbered { n })
            .header("traceparent", trace)
            .await
            .unwrap();
    }

    assert_eq!(
        drain(&ezq)
            .instrument(info_span!("caller"))
            .await
            .counts
            .handled,
        3
    );

    let spans = capture.spans("ezq.handle_batch");
    assert!(spans.iter().all(|span| span.parent.is_none()), "{spans:?}");
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(spans[0].field("count"), "3");
    assert_eq!(
        spans[0].field("traceparents"),
        format!("{{{TRACE:?}, {other:?}}}")
    );
}

#[tokio::test]
async fn handlers_of_what_is_dispatched_inline_are_in_its_span() {
    let (capture, _guard) = Capture::begin();
    let one = Handler::on("one", |_: Numbered| async {});
    let many = Handler::on_batch("many", |_: Batch<Numbered>| async {});
    let ezq = app(&queue())
        .register(one)
        .register(many)
        .connect()
        .await
        .unwrap();

    let dispatched = ezq.dispatch_inline(&Numbered { n: 1 });
    let report = dispatched.instrument(info_span!("caller")).await.unwrap();
    assert_eq!(report.outcomes.len(), 2, "{report:?}");

    for (name, parent) in [
        ("ezq.dispatch_inline", "caller"),
        ("ezq.handle", "ezq.dispatch_inline"),
        ("ezq.handle_batch", "ezq.dispatch_inline"),
    ] {
        let spans = capture.spans(name);
        assert_eq!(spans.len(), 1, "{spans:?}");
        assert_eq!(spans[0].parent, Some(parent), "{spans:?}");
    }
}

#[tokio::test]
async fn what_a_consumer_logs_of_an_event_is_in_the_span_that_runs_it() {
    let (capture, _guard) = Capture::begin();
    let handler = Handler::on("fails", |event: Numbered| async move {
        if event.n % 2 == 0 {
            tokio::task::yield_now().await;
        }
        Err::<(), _>("broken")
    });

    let ezq = app(&queue())
        .register(handler.max_attempts(1))
        .connect()
        .await
        .unwrap();
    ezq.publish_all(&numbered(1..=4)).await.unwrap();

    let report = drain(&ezq).instrument(info_span!("caller")).await;
    assert_eq!(report.counts.dead_lettered, 4);

    let errors = capture.at(Level::ERROR);
    assert_eq!(errors.len(), 4, "{errors:?}");
    assert!(
        errors.iter().all(|error| error.parent == Some("caller")),
        "{errors:?}"
    );
}
