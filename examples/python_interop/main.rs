//! A Python program and a Rust program on the same queues: `cargo run --example python_interop`.
//!
//! It is for systems that move from Python to Rust one program at a time. Both programs send and read
//! both forms of events: the flat form of Python ezq, and CloudEvents.
//!
//! It starts `shop.py`, which stands beside it. Without `python3` or `psql` on the path it says so and
//! succeeds. It needs no database: without `DATABASE_URL` it starts one.

use std::process::Stdio;

use ezq::prelude::*;
use ezq::sqlx;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const ORDERS: &str = "interop_example_orders";
const RECEIPTS: &str = "interop_example_receipts";

// It is read under both names. The alias is the name of the Python class.
#[derive(Event, Serialize, Deserialize)]
#[event(
    type = "order.placed",
    alias = "OrderPlaced",
    queue = "interop_example_orders"
)]
struct OrderPlaced {
    order: i64,
    customer: String,
}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.charged", queue = "interop_example_receipts")]
struct OrderCharged {
    order: i64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(queue = "interop_example_receipts", codec = "flat")]
struct ReceiptPrinted {
    order: i64,
}

// The returned events are published with the acknowledgement, one for the readers of each form.
#[on_event]
async fn charge(event: OrderPlaced, context: Context) -> (OrderCharged, ReceiptPrinted) {
    println!(
        "rust: order {} of {}, from {}",
        event.order,
        event.customer,
        context.envelope().source()
    );
    (
        OrderCharged { order: event.order },
        ReceiptPrinted { order: event.order },
    )
}

#[tokio::main]
async fn main() -> Result<()> {
    for program in ["python3", "psql"] {
        let version = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .await;
        if !version.is_ok_and(|status| status.success()) {
            println!("SKIPPED: `{program}` is not installed; this example needs python3 and psql");
            return Ok(());
        }
    }

    let url = match std::env::var("EZQ_DATABASE_URL").or_else(|_| std::env::var("DATABASE_URL")) {
        Ok(url) => url,
        Err(_) => ezq::pgmq::embedded::EmbeddedPostgres::shared().await?.url(),
    };
    let ezq = Ezq::builder().database_url(&url).connect().await?;
    for queue in [ORDERS, RECEIPTS] {
        sqlx::query("select pgmq.create($1)")
            .bind(queue)
            .execute(ezq.pool())
            .await?;
    }

    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/python_interop/shop.py"
    );
    let mut python = Command::new("python3")
        .args([script, ORDERS, RECEIPTS])
        .env("DATABASE_URL", &url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut to = python.stdin.take().ok_or("python3 has no input pipe")?;
    let from = python.stdout.take().ok_or("python3 has no output pipe")?;

    let mut lines = BufReader::new(from).lines();
    // The first line tells that it has sent its events. After an error it prints the reason and no line.
    if let Some(line) = lines.next_line().await? {
        println!("{line}");
        let report = ezq.consumer().queue(ORDERS).until_idle().run().await?;
        println!("rust: {report}");
        to.write_all(b"go on\n").await?;
    }
    while let Some(line) = lines.next_line().await? {
        println!("{line}");
    }
    let status = python.wait().await?;
    if !status.success() {
        return Err(format!("the Python program failed: {status}").into());
    }
    Ok(())
}
