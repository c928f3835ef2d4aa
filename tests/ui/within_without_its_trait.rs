// error: no method named `within` found
// note: use ezq::PublishWithin;
// at: within
use ezq::{Event, Ezq};
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Paid {
    order: i64,
}

async fn pay(ezq: Ezq, tx: &mut ezq::sqlx::PgConnection) -> ezq::Result<()> {
    ezq.publish(&Paid { order: 7 }).within(tx).await?;
    Ok(())
}

fn main() {}
