//! An order service whose events reach a Redis stream, and a Python program that reads them there:
//! `cargo run -p ezq-redis --example relay`.
//!
//! The service publishes into its outbox, a queue in its own database, in the transaction that stores the
//! order. A relay sends what was committed to the stream `orders`. `mail.py`, which stands beside this file,
//! reads the stream with redis-py.
//!
//! It starts a Redis server of its own, and a database without `DATABASE_URL`. Without `redis-server`, or
//! without redis-py for the Python that `PYTHON` names, it says so and succeeds.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;

use ezq::prelude::*;
use ezq::relay::Relay;
use ezq::sqlx;
use ezq_redis::RedisSink;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const OUTBOX: &str = "relay_example_outbox";
const STREAM: &str = "orders";

#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.placed", queue = "relay_example_outbox")]
struct OrderPlaced {
    order: i64,
    customer: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    for (program, argument) in [("redis-server", "--version"), (&python, "-cimport redis")] {
        if !runs(program, argument).await {
            println!("SKIPPED: `{program} {argument}` fails; install redis-server and redis-py");
            return Ok(());
        }
    }
    let redis = Redis::start()?;

    // The relay is one more handler: its consumer is stopped, paused and watched as any other.
    let sink = redis.connect().await?;
    let relay = Relay::new(OUTBOX, sink).topic(STREAM);
    let ezq = Ezq::builder()
        .database_url(&database_url().await?)
        .register(relay)
        .connect()
        .await?;
    let table = "create table if not exists relay_example_orders (id bigint, customer text)";
    sqlx::query(table).execute(ezq.pool()).await?;

    let customers = ["ada", "grace", "linus"];
    for (order, customer) in (1..).zip(customers) {
        place(&ezq, order, customer).await?;
    }
    let report = ezq.consumer().queue(OUTBOX).until_idle().run().await?;
    println!("relay: {report}");

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/relay/mail.py");
    let expected = (customers.len() - 1).to_string();
    let status = Command::new(&python)
        .args([script, &redis.url, STREAM, &expected])
        .status()
        .await?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("the Python program failed: {status}").into()),
    }
}

/// Stores an order and its event, both or neither. The order of `grace` is refused.
async fn place(ezq: &Ezq, order: i64, customer: &str) -> Result<()> {
    let mut tx = ezq.pool().begin().await?;
    sqlx::query("insert into relay_example_orders values ($1, $2)")
        .bind(order)
        .bind(customer)
        .execute(&mut *tx)
        .await?;
    let event = OrderPlaced {
        order,
        customer: customer.to_owned(),
    };
    ezq.publish(&event).within(&mut tx).await?;

    if customer == "grace" {
        println!("service: order {order} of {customer} is rolled back, and its event with it");
        tx.rollback().await?;
    } else {
        tx.commit().await?;
        println!("service: order {order} of {customer} is stored");
    }
    Ok(())
}

async fn database_url() -> Result<String> {
    match std::env::var("EZQ_DATABASE_URL").or_else(|_| std::env::var("DATABASE_URL")) {
        Ok(url) => Ok(url),
        Err(_) => Ok(ezq::pgmq::embedded::EmbeddedPostgres::shared().await?.url()),
    }
}

async fn runs(program: &str, argument: &str) -> bool {
    let run = Command::new(program)
        .arg(argument)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    run.await.is_ok_and(|status| status.success())
}

/// A Redis server of this program's own. It ends with the program, and its files are removed.
struct Redis {
    url: String,
    folder: PathBuf,
    _server: Child,
}

impl Redis {
    fn start() -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let folder = std::env::temp_dir().join(format!("relay-example-{port}"));
        std::fs::create_dir_all(&folder)?;
        let server = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            // An event leaves the outbox when Redis has answered: by then it is on disk.
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .arg("--dir")
            .arg(&folder)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Self {
            url: format!("redis://127.0.0.1:{port}"),
            folder,
            _server: server,
        })
    }

    /// Connects as soon as the server listens.
    async fn connect(&self) -> Result<RedisSink> {
        for _ in 0..100 {
            if let Ok(sink) = RedisSink::connect(&self.url).await {
                return Ok(sink);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(RedisSink::connect(&self.url).await?)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
