//! Traces of ezq's events, by OpenTelemetry's conventions for messaging.
//!
//! ```
//! # use ezq_core::app::App;
//! # use ezq_core::memory::MemoryEngine;
//! // The program has set a tracer provider: `opentelemetry::global::set_tracer_provider(..)`.
//! let app = App::builder().tracer(ezq_otel::Otel::global()).build(MemoryEngine::new())?;
//! # Ok::<(), ezq_core::Error>(())
//! ```
//!
//! `Ezq::builder()` takes it by the same method.
//!
//! | span | kind | when |
//! |---|---|---|
//! | `publish orders` | PRODUCER | a call that publishes one or several events |
//! | `receive orders` | CLIENT | a claim that brought events or failed, with a link to each event's publisher |
//! | `process orders` | CONSUMER | a run of a handler |
//!
//! The headers `traceparent`, `tracestate` and `baggage` carry the context from the publisher's span to
//! the handler's. The first attempt of a handler is a child of the publisher's span. A retry is a new
//! root with a link to it, and a batch is a new root with a link to each of its events. What a handler
//! publishes and returns is a part of its own trace.
//!
//! # Source files
//!
//! `propagation.rs` reads and writes headers, `attributes.rs` names what a span says, and `process.rs`
//! is the layer around handlers.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod attributes;
mod process;
mod propagation;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use ezq_core::Error;
use ezq_core::message::MessageId;
use ezq_core::message::headers::Headers;
use ezq_core::observe::{PublishSpan, Publishing, Receiving, Tracer};
use opentelemetry::global::{self, BoxedTracer};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Link, SpanBuilder, SpanKind, TraceContextExt, Tracer as _, TracerProvider,
};
use opentelemetry::{Context, KeyValue};

use crate::propagation::{extract, inject, w3c};

/// The name under which the spans are made.
const SCOPE: &str = "ezq";
/// How many events a span links to at most: as many as the SDK keeps by default.
const MOST_LINKS: usize = 128;

/// Makes the spans; cheap to clone.
#[derive(Clone)]
pub struct Otel {
    inner: Arc<Inner>,
}

struct Inner {
    tracer: BoxedTracer,
    propagator: Box<dyn TextMapPropagator + Send + Sync>,
}

impl Otel {
    /// Spans of the global tracer provider, as it is now: set it before.
    #[must_use]
    pub fn global() -> Self {
        Self::new(global::tracer(SCOPE))
    }

    /// Spans of this provider.
    pub fn of<P>(provider: &P) -> Self
    where
        P: TracerProvider,
        P::Tracer: Send + Sync + 'static,
        <P::Tracer as opentelemetry::trace::Tracer>::Span: Send + Sync + 'static,
    {
        Self::new(BoxedTracer::new(Box::new(provider.tracer(SCOPE))))
    }

    fn new(tracer: BoxedTracer) -> Self {
        Self::with(tracer, Box::new(w3c()))
    }

    fn with(tracer: BoxedTracer, propagator: Box<dyn TextMapPropagator + Send + Sync>) -> Self {
        let inner = Inner { tracer, propagator };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The context in an event's headers.
    fn extract(&self, headers: &Headers) -> Context {
        extract(&*self.inner.propagator, headers)
    }

    /// The headers of a context.
    fn inject(&self, context: &Context) -> Headers {
        inject(&*self.inner.propagator, context)
    }

    /// A link to the publisher's span, if the headers have one.
    fn link(&self, headers: &Headers) -> Option<Link> {
        let context = self.extract(headers);
        let span_context = context.span().span_context().clone();
        span_context
            .is_valid()
            .then(|| Link::with_context(span_context))
    }

    fn start(&self, builder: SpanBuilder, parent: &Context) -> Context {
        let span = self.inner.tracer.build_with_context(builder, parent);
        parent.with_span(span)
    }
}

impl fmt::Debug for Otel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Otel").finish_non_exhaustive()
    }
}

/// `publish orders`, or `publish` where there are several queues.
fn named(operation: &'static str, queue: Option<&str>) -> Cow<'static, str> {
    match queue {
        Some(queue) => Cow::Owned(format!("{operation} {queue}")),
        None => Cow::Borrowed(operation),
    }
}

impl Tracer for Otel {
    fn publish(&self, publishing: &Publishing<'_>) -> Box<dyn PublishSpan> {
        let queue = publishing.queue.map(|queue| queue.as_str());
        let mut attributes = attributes::of("publish", "send", queue);
        if publishing.count > 1 {
            attributes.push(attributes::batch(publishing.count));
        }
        if let Some(event_type) = publishing.event_type {
            attributes.push(KeyValue::new(attributes::EVENT_TYPE, event_type.to_owned()));
        }

        let builder = SpanBuilder::from_name(named("publish", queue))
            .with_kind(SpanKind::Producer)
            .with_attributes(attributes);
        let context = self.start(builder, &Context::current());
        Box::new(Published {
            headers: self.inject(&context),
            context,
        })
    }

    fn receive(&self, receiving: &Receiving<'_>) {
        let queue = Some(receiving.queue.as_str());
        let mut attributes = attributes::of("receive", "receive", queue);
        attributes.push(attributes::batch(receiving.deliveries.len()));
        let deliveries = receiving.deliveries.iter();
        let links = deliveries.filter_map(|delivery| self.link(&delivery.headers));

        let now = SystemTime::now();
        let began = now.checked_sub(receiving.took).unwrap_or(now);
        let builder = SpanBuilder::from_name(named("receive", queue))
            .with_kind(SpanKind::Client)
            .with_start_time(began)
            .with_attributes(attributes)
            .with_links(links.take(MOST_LINKS).collect());
        // A claim is made for no event in particular, so it is a root.
        let context = self.start(builder, &Context::new());
        if let Some(error) = receiving.error {
            attributes::fail(&context, error);
        }
        context.span().end();
    }
}

/// The span of a call that publishes.
struct Published {
    context: Context,
    headers: Headers,
}

impl PublishSpan for Published {
    fn headers(&self) -> Headers {
        self.headers.clone()
    }

    fn end(&mut self, message_id: Option<&MessageId>, error: Option<&Error>) {
        let span = self.context.span();
        if let Some(id) = message_id {
            span.set_attribute(KeyValue::new(attributes::MESSAGE_ID, id.to_string()));
        }
        if let Some(error) = error {
            attributes::fail(&self.context, error);
        }
        span.end();
    }
}
