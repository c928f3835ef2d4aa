//! The handlers of the quickstart on JetStream: `cargo run -p ezq-nats --example jetstream`.
//!
//! It needs a server of NATS 2.12 or newer with JetStream, at `NATS_URL` or on port 4222 of this machine.
//! Only the line that makes the engine differs from the quickstart.

use ezq::App;
use ezq::prelude::*;
use ezq_nats::JetStreamEngine;
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
    let url = std::env::var("NATS_URL").unwrap_or("nats://127.0.0.1:4222".to_owned());
    let ezq = App::builder().build(JetStreamEngine::connect(&url).await?)?;
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
