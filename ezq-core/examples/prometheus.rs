//! Prints what ezq measured, as Prometheus reads it.
//!
//! `cargo run -p ezq-core --features metrics --example prometheus`. It has the memory engine; a program
//! with Postgres differs in the engine only, and lets the exporter listen in place of printing.
#![allow(missing_docs)]

use ezq_core::app::App;
use ezq_core::event::Event;
use ezq_core::handler::Handler;
use ezq_core::memory::MemoryEngine;
use ezq_core::observe::metrics::{SECONDS_BUCKETS, SIZE_BUCKETS, describe};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct OrderPlaced {
    order: u32,
}

impl Event for OrderPlaced {
    const TYPE: &'static str = "order.placed";
}

async fn ship(_: OrderPlaced) {}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Before the application: it keeps the handles that it gets first.
    let exporter = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &SIZE_BUCKETS)?
        .install_recorder()?;
    describe();

    let app = App::builder()
        .queue("orders")
        .register(Handler::on("ship", ship))
        .build(MemoryEngine::new())?;
    for order in 0..10 {
        app.publish(&OrderPlaced { order }).await?;
    }
    app.consumer().until_idle().run().await?;

    println!("{}", exporter.render());
    Ok(())
}
