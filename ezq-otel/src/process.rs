//! The span around a run of a handler, as a layer.

use ezq_core::handler::{Call, Context as Run, HandlerErrorKind, HandlerResult, Layer, Next};
use ezq_core::message::headers;
use opentelemetry::trace::{FutureExt, SpanBuilder, SpanKind, TraceContextExt};
use opentelemetry::{Context, KeyValue};

use crate::{MOST_LINKS, Otel, attributes, named};

impl Layer for Otel {
    async fn run(&self, call: Call, next: Next) -> HandlerResult {
        let ending = EndOnDrop(self.process(call.contexts()));
        let context = ending.0.clone();

        let mut result = next.run(call).with_context(context.clone()).await;
        match &mut result {
            // What it returns is published by a later step, as a part of this trace.
            Ok(returned) => returned.trace(&self.inject(&context)),
            Err(error) => {
                // These are decisions, and no failures.
                let is_decision = matches!(
                    error.kind(),
                    HandlerErrorKind::Snooze(_) | HandlerErrorKind::Discard
                );
                if !is_decision {
                    attributes::fail_as(&context, kind(error.kind()).to_owned(), error.to_string());
                }
            }
        }

        ending.end();
        result
    }
}

impl Otel {
    /// Begins the span of a run with these events. The context also has their publisher's baggage.
    fn process(&self, runs: &[Run]) -> Context {
        let Some(first) = runs.first() else {
            return Context::current();
        };
        let queue = Some(first.queue().as_str());
        let handler = first.handler().as_str().to_owned();
        let mut attributes = attributes::of("process", "process", queue);
        attributes.push(KeyValue::new(attributes::HANDLER, handler));

        let links = runs.iter().filter_map(|run| self.link(run.headers()));
        let builder = SpanBuilder::from_name(named("process", queue)).with_kind(SpanKind::Consumer);
        if let [run] = runs {
            attributes.extend(of_event(run));
            let publisher = self.extract(run.headers());
            let builder = builder.with_attributes(attributes);
            if run.attempt() == 1 {
                return self.start(builder, &publisher);
            }

            // A retry may come hours later: it begins a trace of its own.
            let retried = self.start(builder.with_links(links.collect()), &Context::new());
            return within(&publisher, &retried);
        }

        attributes.push(attributes::batch(runs.len()));
        let links = links.take(MOST_LINKS).collect();
        let builder = builder.with_attributes(attributes).with_links(links);
        self.start(builder, &Context::new())
    }
}

/// The publisher's context, baggage included, with another span.
fn within(publisher: &Context, span: &Context) -> Context {
    use opentelemetry::baggage::BaggageExt;
    let baggage = publisher.baggage().iter();
    let baggage = baggage.map(|(key, (value, metadata))| {
        opentelemetry::baggage::KeyValueMetadata::new(key.clone(), value.clone(), metadata.clone())
    });
    span.with_baggage(baggage.collect::<Vec<_>>())
}

/// What a span says of the one event that it is about.
fn of_event(run: &Run) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new(attributes::MESSAGE_ID, run.message_id().to_string()),
        KeyValue::new(attributes::EVENT_ID, run.event_id().to_owned()),
        KeyValue::new(attributes::EVENT_TYPE, run.event_type().to_owned()),
        KeyValue::new(attributes::ATTEMPT, i64::from(run.attempt())),
    ];
    if let Some(correlation) = run.headers().text(headers::CORRELATION_ID) {
        let correlation = correlation.to_owned();
        attributes.push(KeyValue::new(attributes::CONVERSATION_ID, correlation));
    }
    attributes
}

fn kind(kind: HandlerErrorKind) -> &'static str {
    match kind {
        HandlerErrorKind::Fatal => "fatal",
        HandlerErrorKind::Undecodable => "undecodable",
        HandlerErrorKind::NewerVersion => "newer_version",
        HandlerErrorKind::Snooze(_) => "snooze",
        HandlerErrorKind::Discard => "discard",
        _ => "retry",
    }
}

/// Ends the span of a run. One that is dropped before was cut off: by its timeout, a lost lease, or a
/// panic.
struct EndOnDrop(Context);

impl EndOnDrop {
    fn end(self) {
        self.0.span().end();
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if self.0.span().is_recording() {
            let what = if std::thread::panicking() {
                "panic"
            } else {
                "cut_off"
            };
            attributes::fail_as(&self.0, what.to_owned(), "the run did not end".to_owned());
            self.0.span().end();
        }
    }
}
