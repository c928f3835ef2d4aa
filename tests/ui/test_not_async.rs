// error: a test on a database is async: write `async fn`
// at: fn
use ezq::testing::TestDatabase;

#[ezq::test]
fn works(_db: TestDatabase) {}

fn main() {}
