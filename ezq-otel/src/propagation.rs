//! Contexts in the headers of events: W3C trace context and baggage.

use ezq_core::message::headers::Headers;
use opentelemetry::Context;
use opentelemetry::propagation::{
    Extractor, Injector, TextMapCompositePropagator, TextMapPropagator,
};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};

/// `traceparent` with `tracestate`, and `baggage`.
pub(crate) fn w3c() -> TextMapCompositePropagator {
    TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(BaggagePropagator::new()),
    ])
}

pub(crate) fn extract(propagator: &dyn TextMapPropagator, headers: &Headers) -> Context {
    // Not on top of the current context: what runs there has nothing to do with the event.
    propagator.extract_with_context(&Context::new(), &Read(headers))
}

pub(crate) fn inject(propagator: &dyn TextMapPropagator, context: &Context) -> Headers {
    let mut headers = Headers::new();
    propagator.inject_context(context, &mut Write(&mut headers));
    headers
}

struct Read<'a>(&'a Headers);

impl Extractor for Read<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.text(key)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.as_object().keys().map(String::as_str).collect()
    }
}

struct Write<'a>(&'a mut Headers);

impl Injector for Write<'_> {
    fn set(&mut self, key: &str, value: String) {
        // An empty state says nothing, and most traces have none.
        if !value.is_empty() {
            self.0.insert(key, value);
        }
    }
}
