// error: `Timing` is not a layer
// note: async fn my_layer(call: Call, next: Next) -> HandlerResult
// at: Timing
use ezq::Module;

struct Timing;

fn main() {
    let _ = Module::new().layer(Timing);
}
