//! The smallest whole program: an event, its handler and an `End`: `cargo run --example quickstart`.
//!
//! The README shows it. It needs no database: without `DATABASE_URL` it starts a development Postgres of
//! its own.

use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(type = "user.created")]
struct UserCreated {
    user_id: i64,
    username: String,
}

#[on_event(retry(max_attempts = 5), timeout = "30s")]
async fn greet(event: UserCreated) -> Result<(), std::io::Error> {
    println!("hello {}", event.username);
    Ok(())
}

#[tokio::main]
async fn main() -> ezq::Result<()> {
    let ezq = Ezq::connect().await?;
    ezq.publish(&UserCreated {
        user_id: 1,
        username: "ada".into(),
    })
    .await?;
    ezq.publish(&End::default()).await?;
    let report = ezq.consumer().run().await?;
    println!("{report}");
    Ok(())
}
