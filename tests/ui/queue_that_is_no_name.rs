// error: `{integer}` names no queue
// note: pass `"orders"`, a `String`, a `QueueName`, or a reference to one of these
// at: 7
use ezq::prelude::*;

fn main() {
    let _ = Ezq::builder().queue(7);
}
