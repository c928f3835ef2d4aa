// error: not a pattern of event types: write segments between dots, where `*` is any one of them and `#` any number, as in "order.*"
// at: "order*"
use ezq::prelude::*;

#[on_event(pattern = "order*")]
async fn audit(event: AnyEvent) {
    println!("{}", event.event_type());
}

fn main() {}
