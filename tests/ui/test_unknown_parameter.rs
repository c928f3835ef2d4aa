// error: `Clock` is not something a test can take
// note: take `TestDatabase`, `TestEzq`, `Ezq`, `EzqBuilder` or `PgPool`
// at: Clock
use ezq::testing::TestParameter;

/// What `#[ezq::test]` asks of each parameter. Tests themselves are not compiled here.
fn parameter<P: TestParameter>() {}

struct Clock;

fn main() {
    parameter::<Clock>();
}
