//! The passages of the README as a program: `cargo run --example readme`.
//!
//! It keeps the README true: each module holds what the README shows, a test compares the two, and `main`
//! runs the modules on a development Postgres of its own and prints what happened.

mod once {
    use ezq::prelude::*;
    use ezq::sqlx;
    use serde::{Deserialize, Serialize};

    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "order.paid")]
    struct OrderPaid {
        order: i64,
    }

    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "receipt.due", queue = "receipts")]
    struct ReceiptDue {
        order: i64,
    }

    #[on_event]
    async fn book(event: OrderPaid, mut tx: Tx) -> Result<ReceiptDue, sqlx::Error> {
        let paid = "update orders set paid = true where id = $1";
        sqlx::query(paid)
            .bind(event.order)
            .execute(&mut *tx)
            .await?;
        Ok(ReceiptDue { order: event.order }) // published by the commit that acknowledges `event`
    }

    #[on_event(batch(size = 500, wait = "50ms"), queue = "receipts")]
    async fn print(batch: Batch<ReceiptDue>, mut tx: Tx) -> Result<(), sqlx::Error> {
        let orders: Vec<i64> = batch.events().map(|event| event.order).collect();
        let printed = "insert into receipts select unnest($1::bigint[])";
        sqlx::query(printed).bind(orders).execute(&mut *tx).await?;
        Ok(())
    }

    pub(crate) fn paid(order: i64) -> impl Event {
        OrderPaid { order }
    }
}

mod clock {
    use ezq::prelude::*;

    #[on_schedule("0 9 * * MON", tz = "Europe/Paris", name = "weekly report")]
    async fn weekly_report(tick: Tick) {
        println!("what happened from {:?} to {}", tick.previous, tick.due);
    }
}

mod broadcast {
    use ezq::prelude::*;

    async fn announce<E: Event>(ezq: &Ezq, event: &E) -> ezq::Result<()> {
        let sent = ezq.broadcast(event).await?; // or `.within(&mut tx).await?`
        println!("{} copies", sent.copies.len());
        for recipient in ezq.subscriptions()?.test(E::TYPE).await? {
            println!("{} gets one", recipient.queue);
        }
        Ok(())
    }

    pub(crate) async fn run(ezq: &Ezq, event: &impl Event) -> ezq::Result<()> {
        announce(ezq, event).await
    }
}

use std::error::Error;

use ezq::Ezq;
use ezq::pgmq::embedded::EmbeddedPostgres;
use ezq::sqlx;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = EmbeddedPostgres::builder().start().await?;
    let ezq = Ezq::builder().database_url(server.url()).connect().await?;
    let tables = "create table orders (id bigint primary key, paid bool not null default false);
                  create table receipts (order_id bigint);
                  insert into orders select generate_series(1, 3)";
    sqlx::raw_sql(tables).execute(ezq.pool()).await?;

    for order in 1..=3 {
        ezq.publish(&once::paid(order)).await?;
    }
    println!("orders: {}", ezq.consumer().until_idle().run().await?);
    println!(
        "receipts: {}",
        ezq.consumer().queue("receipts").until_idle().run().await?
    );
    let counted =
        "select count(*) filter (where paid), (select count(*) from receipts) from orders";
    let (paid, printed): (i64, i64) = sqlx::query_as(counted).fetch_one(ezq.pool()).await?;
    println!("{paid} orders are paid, {printed} receipts are printed");

    ezq.schedules()?.run_now("weekly report").await?;
    println!("clock: {}", ezq.consumer().until_idle().run().await?);

    // Another application's consumer does this when it subscribes.
    let mail = "mail".try_into()?;
    ezq.engine(&mail).ensure_queue(&mail).await?;
    ezq.subscriptions()?.add(&mail, "order.*").await?;
    broadcast::run(&ezq, &once::paid(3)).await?;
    println!("mail: {} waiting", ezq.stats(&mail).await?.ready);
    Ok(())
}
