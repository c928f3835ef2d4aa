// error: a handler cannot return `Result<(), Box<dyn
// note: in place of `Box<dyn Error>` write `Box<dyn Error + Send + Sync>`
// at: Result<(), Box<dyn std::error::Error>>
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

#[on_event]
async fn greet(event: Created) -> Result<(), Box<dyn std::error::Error>> {
    println!("{}", event.id);
    Ok(())
}

fn main() {}
