//! The test kit: an application on the memory engine, or on a database that each test has to itself.
//!
//! | to test | use |
//! |---|---|
//! | a handler alone, as a function | [`context`], [`batch`], [`tick`] |
//! | handlers with publishing, retries and dead letters, without a database | [`TestApp`] |
//! | handlers that take `Tx`, and SQL of your own | [`#[ezq::test]`](macro@crate::test), which gives each test a [`TestDatabase`] |
//!
//! [`TestApp`] and [`TestEzq`] have the same assertions, and the same [`drain`](TestEzq::drain): it runs
//! all queues to the end, retries included, without waiting for their pauses. See
//! [moved time](ezq_core::testing#moved-time).

mod database;

#[doc(inline)]
pub use ezq_core::testing::*;

pub use database::{TestDatabase, TestEzq, TestParameter};

/// A parameter of a test. What `#[ezq::test]` expands to.
///
/// # Panics
/// When it cannot be made.
#[doc(hidden)]
#[allow(clippy::panic)]
pub async fn parameter<P: TestParameter>(database: &TestDatabase) -> P {
    match P::of(database).await {
        Ok(parameter) => parameter,
        Err(error) => panic!("a parameter of the test cannot be made: {error:?}"),
    }
}

/// Runs a test. What `#[ezq::test]` expands to.
#[doc(hidden)]
pub fn run<F, O>(test: &str, should_panic: bool, body: impl FnOnce(TestDatabase) -> F) -> O
where
    F: Future<Output = O>,
    O: ezq_pgmq::testing::Outcome,
{
    ezq_pgmq::testing::run(test, should_panic, |database| {
        body(TestDatabase::new(database))
    })
}
