// error: `Ship` is not a handler
// note: put `#[on_event]` on the function
// at: Ship
use ezq::App;

struct Ship;

fn main() {
    let _ = App::builder().handler::<Ship>();
}
