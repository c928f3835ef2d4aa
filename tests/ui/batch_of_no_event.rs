// error: `Paid` is not an event
// note: #[derive(Event, Serialize, Deserialize)]
// at: Batch<Paid>
use ezq::prelude::*;

struct Paid {
    order: i64,
}

#[on_event]
async fn book(batch: Batch<Paid>) {
    println!("{}", batch.len());
}

fn main() {}
