// error: `Paid` is not an event
// note: #[derive(Event, Serialize, Deserialize)]
// at: ship
use ezq::handler::Handler;

struct Paid {}

async fn ship(_: Paid) {}

fn main() {
    let _ = Handler::on("ship", ship);
}
