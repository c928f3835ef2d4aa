//! A web service that mounts the dashboard and exports metrics, all on one port of this machine:
//! `cargo run -p ezq-ui --features ezq/metrics --example orders_dashboard`.
//!
//! - `POST /orders` publishes an order, which a handler ships. Some orders fail, and become dead letters.
//! - `/ops` is the dashboard. It lets everybody look who reaches it, and nobody act. It answers to
//!   addresses and `localhost` only, so no page of a foreign site reaches it by a name of DNS.
//! - `/metrics` is what Prometheus reads.
//!
//! With `-- --wait` the service runs until Ctrl-C, for a browser of your own. The example needs no database:
//! without `DATABASE_URL` it starts one.

use axum::extract::{Form, State as Shared};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Router, serve};
use ezq::observe::metrics::{SECONDS_BUCKETS, SIZE_BUCKETS, describe};
use ezq::prelude::*;
use ezq_ui::{Access, Dashboard};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.placed", queue = "orders_dashboard_example")]
struct OrderPlaced {
    customer: String,
    cents: u64,
}

#[on_event]
async fn ship(event: OrderPlaced) -> std::result::Result<(), HandlerError> {
    match event.cents {
        0 => Err(HandlerError::fatal("nothing was ordered")),
        _ => Ok(()),
    }
}

async fn place(Shared(ezq): Shared<Ezq>, Form(order): Form<OrderPlaced>) -> (StatusCode, String) {
    match ezq.publish(&order).await {
        Ok(_) => (StatusCode::CREATED, "thank you\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// The routes of the service: its own, the dashboard, and the metrics.
fn routes(ezq: &Ezq, exporter: PrometheusHandle) -> Router {
    let dashboard = Dashboard::new(ezq.clone(), Access::read_only())
        // Other names than `localhost` would stand here.
        .hosts([""; 0]);
    let metrics = move || async move {
        // Forgets what is too old to be shown.
        exporter.run_upkeep();
        exporter.render()
    };
    Router::new()
        .route("/orders", post(place))
        .with_state(ezq.clone())
        .route("/metrics", get(metrics))
        .nest("/ops", dashboard.router())
}

#[tokio::main]
async fn main() -> Result<()> {
    // Before the application: it keeps the handles that it gets first.
    let exporter = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &SIZE_BUCKETS)?
        .install_recorder()?;
    describe();

    let ezq = Ezq::connect().await?;
    let consumer = ezq.consumer().queue("orders_dashboard_example").spawn();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = serve(listener, routes(&ezq, exporter));
    let server = tokio::spawn(async move { service.await });

    let at = address.to_string();
    for form in ["customer=ada&cents=1250", "customer=grace&cents=0"] {
        let answer = request(&at, "POST", "/orders", form).await?;
        println!(
            "POST /orders {form}: {}",
            answer.lines().next().unwrap_or_default()
        );
    }
    wait_for(&at, "/metrics", "ezq_attempts_total{").await?;
    for line in request(&at, "GET", "/metrics", "").await?.lines() {
        if line.starts_with("ezq_attempts_total") {
            println!("GET /metrics: {line}");
        }
    }
    wait_for(&at, "/ops", "orders_dashboard_example").await?;
    println!("GET /ops: the dashboard shows the queue orders_dashboard_example");

    if std::env::args().any(|argument| argument == "--wait") {
        println!("http://{address}/ops is the dashboard, until Ctrl-C");
        tokio::signal::ctrl_c().await?;
    }
    server.abort();
    consumer.stop();
    println!("{}", consumer.await?);
    Ok(())
}

/// Waits until a page has a text: the consumer works beside this.
async fn wait_for(address: &str, path: &str, text: &str) -> Result<()> {
    for _ in 0..600 {
        if request(address, "GET", path, "").await?.contains(text) {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Err(format!("{path} does not show `{text}`").into())
}

/// One request, without a crate for it.
async fn request(address: &str, method: &str, path: &str, form: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
        form.len()
    );
    stream.write_all(format!("{head}{form}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
