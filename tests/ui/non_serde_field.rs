// error: `Socket: serde::Serialize` is not satisfied
// note: #[derive(serde::Serialize)]
// at: Serialize
// error: `Socket: serde::Deserialize<'de>` is not satisfied
// note: #[derive(serde::Deserialize)]
// at: Socket
// others
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
struct Created {
    id: i64,
}

struct Socket;

#[derive(Event, Serialize, Deserialize)]
struct Connected {
    socket: Socket,
}

#[on_event]
async fn greet(_event: Connected) {}

fn main() {}
