//! Prints the spans of an order: the request, the publishing, the handler, and what that returns.
//!
//! `cargo run -p ezq-otel --example orders`. It has the memory engine, and prints where a program would
//! export to a collector.
#![allow(missing_docs)]

use ezq_core::app::App;
use ezq_core::event::Event;
use ezq_core::handler::Handler;
use ezq_core::memory::MemoryEngine;
use ezq_otel::Otel;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    order: u32,
}

impl Event for OrderPlaced {
    const TYPE: &'static str = "order.placed";
}

async fn ship(event: OrderPlaced) {
    println!("order {} is shipped", event.order);
}

/// Prints each span that ends.
#[derive(Debug)]
struct Print;

impl SpanExporter for Print {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        for span in spans {
            let trace = span.span_context.trace_id();
            println!("{trace} {:?} {}", span.span_kind, span.name);
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> ezq_core::Result<()> {
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(Print)
        .build();
    let app = App::builder()
        .queue("orders")
        .register(Handler::on("ship", ship))
        .tracer(Otel::of(&provider))
        .build(MemoryEngine::new())?;

    app.publish(&OrderPlaced { order: 7 }).await?;
    app.consumer().until_idle().run().await?;
    Ok(())
}
