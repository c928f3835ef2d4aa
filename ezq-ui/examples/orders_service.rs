//! A web service whose rows and events commit together, with the dashboard and metrics on the same port, and
//! a second application that gets its events:
//! `cargo run -p ezq-ui --features ezq/metrics --example orders_service`.
//!
//! This is the usual shape of a system on ezq. No event is lost or left over when a request fails, and
//! neither application knows the other one's code.
//!
//! `POST /orders` writes a row and publishes `order.placed` in one transaction. One handler of the shop
//! charges the order and broadcasts `order.paid` in one commit; another one tells the customer. The program
//! starts itself a second time as the application `shipping`, which has a queue of its own and subscribes
//! to `order.paid`.
//!
//! - `/ops` is the dashboard. It lets everybody look who reaches it, and nobody act. It answers to addresses
//!   and `localhost` only, so no page of a foreign site reaches it by a name of DNS.
//! - `/metrics` is what Prometheus reads.
//! - `/ready` is for a load balancer.
//!
//! With `-- --wait` the shop runs until Ctrl-C, for requests of your own. The example needs no database:
//! without `DATABASE_URL` it starts one.

use std::process::Stdio;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use ezq::admin::Recipient;
use ezq::consumer::ConsumerState;
use ezq::observe::metrics::{SECONDS_BUCKETS, SIZE_BUCKETS, describe};
use ezq::prelude::*;
use ezq::{CancellationToken, sqlx};
use ezq_ui::{Access, Dashboard};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SHOP: &str = "orders_example_shop";
const SHIPPING: &str = "orders_example_shipping";

#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.placed", queue = "orders_example_shop")]
struct OrderPlaced {
    order: i64,
    customer: String,
    cents: i64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.paid")]
struct OrderPaid {
    order: i64,
}

#[derive(Deserialize)]
struct NewOrder {
    customer: String,
    cents: i64,
}

// The row and the event are stored together, or neither is.
async fn place(Shared(ezq): Shared<Ezq>, Json(new): Json<NewOrder>) -> (StatusCode, String) {
    let placed = async {
        let mut tx = ezq.pool().begin().await?;
        let insert = "insert into orders_example (customer, cents) values ($1, $2) returning id";
        let order = sqlx::query_scalar(insert)
            .bind(&new.customer)
            .bind(new.cents)
            .fetch_one(&mut *tx)
            .await?;

        let event = OrderPlaced {
            order,
            customer: new.customer,
            cents: new.cents,
        };
        ezq.publish(&event).within(&mut tx).await?;
        tx.commit().await?;
        Result::Ok(order)
    };
    match placed.await {
        Ok(order) => (StatusCode::CREATED, format!("order {order}")),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()),
    }
}

async fn ready(Shared(ezq): Shared<Ezq>) -> (StatusCode, String) {
    let health = ezq.health().await;
    let status = if health.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, health.to_string())
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
        .route("/ready", get(ready))
        .with_state(ezq.clone())
        .route("/metrics", get(metrics))
        .nest("/ops", dashboard.router())
}

// The row, the broadcast and the acknowledgement commit together. So an order is charged once, however
// often this is tried.
#[on_event(retry(max_attempts = 5))]
async fn charge(
    event: OrderPlaced,
    mut tx: Tx,
    publisher: Publisher,
) -> std::result::Result<(), HandlerError> {
    sqlx::query("update orders_example set paid = true where id = $1")
        .bind(event.order)
        .execute(&mut *tx)
        .await?;
    publisher
        .broadcast(&OrderPaid { order: event.order })
        .await?;
    println!(
        "shop: charged {} cents for order {}",
        event.cents, event.order
    );
    Ok(())
}

// A mail cannot be part of a transaction. It may go out twice, with the same event id both times.
#[on_event]
async fn notify(event: OrderPlaced, context: Context) {
    println!("shop: told {} about order {}", event.customer, event.order);
    let _the_mail_s_idempotency_key = context.event_id();
}

#[on_event]
async fn ship(event: OrderPaid, context: Context) {
    println!(
        "order {}, from {}",
        event.order,
        context.envelope().source()
    );
}

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("--shipping") => shipping().await,
        Some("--wait") => shop(true).await,
        None => shop(false).await,
        Some(other) => Err(format!("unknown argument `{other}`: there is --wait").into()),
    }
}

/// The second application, in a process of its own. It ends when its input closes, so that it does
/// not outlive the shop.
async fn shipping() -> Result<()> {
    let ezq = Ezq::builder()
        .app("shipping")
        .without_discovered_handlers()
        .handler::<ship>()
        .connect()
        .await?;

    let token = CancellationToken::new();
    let closed = token.clone();
    // Standard input has no asynchronous way to wait for its end.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        closed.cancel();
    });
    ezq.consumer()
        .queue(SHIPPING)
        .subscribe()
        .stop_on(token)
        .run()
        .await?;
    Ok(())
}

async fn shop(waits: bool) -> Result<()> {
    // Before the application: it keeps the handles that it gets first.
    let exporter = exporter()?;
    let url = match std::env::var("EZQ_DATABASE_URL").or_else(|_| std::env::var("DATABASE_URL")) {
        Ok(url) => url,
        Err(_) => ezq::pgmq::embedded::EmbeddedPostgres::shared().await?.url(),
    };
    let ezq = connect(&url).await?;
    let mut other = start_shipping(&ezq, &url).await?;

    let consumer = ezq.consumer().queue(SHOP).spawn();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = axum::serve(listener, routes(&ezq, exporter));
    let server = tokio::spawn(async move { service.await });

    let at = address.to_string();
    consumer
        .states()
        .wait_for(|state| *state == ConsumerState::Running || state.is_ended())
        .await?;
    println!("GET /ready: {}", request(&at, "GET", "/ready", "").await?);
    for (customer, cents) in [("ada", 1250), ("grace", 0), ("linus", 900)] {
        let order = format!(r#"{{"customer":"{customer}","cents":{cents}}}"#);
        println!(
            "POST /orders {order}: {}",
            request(&at, "POST", "/orders", &order).await?
        );
    }
    hear(&mut other, 2).await?;
    show_operations(&at).await?;
    if waits {
        println!(
            "http://{address}/orders takes orders until Ctrl-C, http://{address}/ops shows them"
        );
        tokio::signal::ctrl_c().await?;
    }

    // Handlers that run may finish. Waiting for the second application closes its input, which stops it.
    server.abort();
    consumer.stop();
    println!("shop: {}", consumer.await?);
    println!("shipping: {}", other.wait().await?);
    let unpaid: i64 = sqlx::query_scalar("select count(*) from orders_example where not paid")
        .fetch_one(ezq.pool())
        .await?;
    println!("unpaid orders: {unpaid}");
    Ok(())
}

/// What collects the metrics of this process.
fn exporter() -> Result<PrometheusHandle> {
    let exporter = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_size".into()), &SIZE_BUCKETS)?
        .install_recorder()?;
    describe();
    Ok(exporter)
}

/// The shop's application, and its table.
async fn connect(url: &str) -> Result<Ezq> {
    let ezq = Ezq::builder()
        .database_url(url)
        .app("shop")
        .without_discovered_handlers()
        .handler::<charge>()
        .handler::<notify>()
        .connect()
        .await?;
    let table = "create table if not exists orders_example (id bigint generated always as identity
                 primary key, customer text not null, cents bigint not null check (cents > 0),
                 paid boolean not null default false)";
    sqlx::raw_sql(table).execute(ezq.pool()).await?;
    Ok(ezq)
}

/// Starts this program again as the second application, and waits until it has subscribed.
async fn start_shipping(ezq: &Ezq, url: &str) -> Result<Child> {
    let mut other = Command::new(std::env::current_exe()?)
        .arg("--shipping")
        .env("DATABASE_URL", url)
        .env_remove("EZQ_DATABASE_URL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let is_there = |all: Vec<Recipient>| all.iter().any(|one| one.queue.as_str() == SHIPPING);
    while !is_there(ezq.subscriptions()?.test("order.paid").await?) {
        if let Some(status) = other.try_wait()? {
            return Err(format!("shipping ended: {status}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("shipping is subscribed to order.paid");
    Ok(other)
}

/// Reads the metrics and the dashboard as Prometheus and an operator would.
async fn show_operations(address: &str) -> Result<()> {
    // Both orders that were taken.
    let metrics = wait_for(address, "/metrics", r#"outcome="done"} 2"#).await?;
    for line in metrics.lines() {
        if line.starts_with("ezq_attempts_total") && line.contains(r#"outcome="done""#) {
            println!("GET /metrics: {line}");
        }
    }
    wait_for(address, "/ops", SHOP).await?;
    println!("GET /ops: the dashboard shows the queue {SHOP}");
    Ok(())
}

/// Asks for a page until it has a text: the consumer works beside this.
async fn wait_for(address: &str, path: &str, text: &str) -> Result<String> {
    for _ in 0..600 {
        let page = request(address, "GET", path, "").await?;
        if page.contains(text) {
            return Ok(page);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("{path} does not show `{text}`").into())
}

/// Prints the next lines of the second application.
async fn hear(other: &mut Child, count: usize) -> Result<()> {
    let output = other.stdout.take().ok_or("shipping has no output")?;
    let mut lines = BufReader::new(output).lines();
    for _ in 0..count {
        let line = lines.next_line().await?.ok_or("shipping ended too early")?;
        println!("shipping: {line}");
    }
    // Its later lines are printed as well. If nobody read them, its output would be closed.
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            println!("shipping: {line}");
        }
    });
    Ok(())
}

/// One request, without a crate for it: the status and the body.
async fn request(address: &str, method: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    Ok(format!("{status} {body}"))
}
