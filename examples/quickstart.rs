//! Two handlers on one event, and an `End`: `cargo run --example quickstart`.
//!
//! It needs no database: without `DATABASE_URL` it starts a development Postgres of its own.

use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(type = "user.created")]
struct UserCreated {
    user_id: i64,
    username: String,
}

#[on_event]
async fn greet(event: UserCreated) {
    println!("hello {}", event.username);
}

#[on_event(retry(max_attempts = 3), timeout = "10s")]
async fn count(event: UserCreated, context: Context) -> Result<(), std::num::TryFromIntError> {
    let number = u32::try_from(event.user_id)?;
    println!("user {number}, attempt {}", context.attempt());
    Ok(())
}

#[tokio::main]
async fn main() -> ezq::Result<()> {
    let ezq = Ezq::connect().await?;
    ezq.publish(&UserCreated { user_id: 1, username: "ada".into() }).await?;
    ezq.publish(&End::default()).await?;
    let report = ezq.consumer().run().await?;
    println!("{report}");
    Ok(())
}
