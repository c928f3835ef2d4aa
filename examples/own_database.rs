//! ezq on your own pool, and an event in your own transaction: `cargo run --example own_database`.
//!
//! This is how ezq joins a program that uses sqlx already. The README shows it. It needs `DATABASE_URL`,
//! and in that database a table `orders (id bigint, paid bool)`. Ctrl-C stops it.

use ezq::prelude::*;
use ezq::sqlx::{self, PgPool};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.paid", queue = "orders")]
struct OrderPaid {
    order: i64,
}

#[on_event]
async fn ship(event: OrderPaid) {
    println!("order {} is on its way", event.order);
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = PgPool::connect(&std::env::var("DATABASE_URL")?).await?;
    let ezq = Ezq::builder().pool(pool).connect().await?;

    let mut tx = ezq.pool().begin().await?;
    sqlx::query("update orders set paid = true where id = 7")
        .execute(&mut *tx)
        .await?;
    ezq.publish(&OrderPaid { order: 7 }).within(&mut tx).await?; // seen only if the transaction commits
    tx.commit().await?;

    ezq.consumer()
        .queue("orders")
        .stop_on_signals()
        .run()
        .await?;
    Ok(())
}
