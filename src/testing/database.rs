//! The database of one test, and applications on it.
#![allow(clippy::panic)]

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;

use ezq_core::Result;
use ezq_core::consumer::{Report, ReportOfAll};
use ezq_core::message::IntoQueueName;
use ezq_core::testing::{Records, builder, drain, drain_one, prepare};
use ezq_pgmq::testing::Database;
use sqlx::PgPool;

use crate::{Ezq, EzqBuilder};

/// A database that one test has to itself, with PGMQ installed. [`#[ezq::test]`](macro@crate::test) makes
/// it, drops it when the test succeeds, and else keeps it and prints its URL.
///
/// It is a copy of a template, which takes some hundredths of a second. Clones share it.
#[derive(Debug, Clone)]
pub struct TestDatabase(Arc<Database>);

impl TestDatabase {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self(database)
    }

    /// Builds an application on this database, of what `build` adds to a builder without handlers and
    /// without the options of the environment. What [`TestApp::new`](super::TestApp::new) is for the memory
    /// engine.
    ///
    /// Every queue for which `build` sets no retention has an archive, in which the assertions find what was
    /// handled.
    ///
    /// # Errors
    /// As [`EzqBuilder::connect`].
    pub async fn app(&self, build: impl FnOnce(EzqBuilder) -> EzqBuilder) -> Result<TestEzq> {
        let builder = self.builder().without_discovered_handlers();
        self.connect(build(builder)).await
    }

    /// A builder of applications on this database, without the options of the environment. It has the
    /// handlers that are found at link time.
    pub fn builder(&self) -> EzqBuilder {
        EzqBuilder::for_test(builder(), self.0.options().clone())
    }

    /// The URL of the database, without a password.
    #[must_use]
    pub fn url(&self) -> String {
        self.0.url()
    }

    async fn connect(&self, builder: EzqBuilder) -> Result<TestEzq> {
        let ezq = builder.connect().await?;
        // So that the assertions find what was handled.
        ezq.pgmq().archive_all();
        prepare(&ezq);
        Ok(TestEzq {
            ezq,
            database: self.clone(),
        })
    }
}

/// An application on the database of a test, with assertions on its events. It dereferences to its
/// [`Ezq`].
///
/// ```
/// use ezq::prelude::*;
/// use ezq::testing::TestDatabase;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// struct OrderPaid { order_id: i64 }
///
/// #[on_event]
/// async fn book(event: OrderPaid, mut tx: Tx) -> ezq::sqlx::Result<()> {
///     ezq::sqlx::query("INSERT INTO bookings VALUES ($1)").bind(event.order_id).execute(&mut *tx).await?;
///     Ok(())
/// }
///
/// #[ezq::test]
/// async fn a_payment_is_booked(db: TestDatabase) -> Result<(), Box<dyn std::error::Error>> {
///     let app = db.app(|app| app.handler::<book>()).await?;
///     ezq::sqlx::query("CREATE TABLE bookings (order_id bigint)").execute(app.pool()).await?;
///
///     app.publish(&OrderPaid { order_id: 7 }).await?;
///     app.drain().await?;
///
///     let booked: i64 = ezq::sqlx::query_scalar("SELECT order_id FROM bookings").fetch_one(app.pool()).await?;
///     assert_eq!(booked, 7);
///     app.assert_no_dead_letters();
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct TestEzq {
    ezq: Ezq,
    database: TestDatabase,
}

impl TestEzq {
    /// Handles every event of every [queue that the application
    /// consumes](ezq_core::app::App::consumed_queues), to the end: what is due, what its handlers publish,
    /// and retries. It does not wait for the pauses between attempts: when nothing else is due, it moves
    /// the events that wait for a retry to the present, in their tables. Scheduled events stay.
    ///
    /// No other consumer should run meanwhile: what it holds is not waited for.
    ///
    /// # Errors
    /// As [`TestApp::drain`](super::TestApp::drain).
    pub async fn drain(&self) -> Result<ReportOfAll> {
        drain(self, &*self.database.0).await
    }

    /// Handles every event that is due on one queue, and what its handlers publish there. It makes no
    /// retry due before its time.
    ///
    /// # Errors
    /// As [`drain`](Self::drain), and
    /// [`ErrorKind::InvalidQueueName`](ezq_core::ErrorKind::InvalidQueueName) for a wrong name.
    pub async fn drain_queue(&self, queue: impl IntoQueueName) -> Result<Report> {
        drain_one(self, &queue.into_queue_name()?).await
    }

    #[track_caller]
    fn records(&self) -> Records {
        match self.database.0.records() {
            Ok(records) => records,
            Err(error) => panic!("the database of the test cannot be read: {error:?}"),
        }
    }

    ezq_core::__assertions!();
}

impl Deref for TestEzq {
    type Target = Ezq;

    fn deref(&self) -> &Ezq {
        &self.ezq
    }
}

/// What a test may take: see [`#[ezq::test]`](macro@crate::test).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not something a test can take",
    note = "take `TestDatabase`, `TestEzq`, `Ezq`, `EzqBuilder` or `PgPool`, all on the test's own database"
)]
pub trait TestParameter: Sized {
    /// Makes the parameter.
    ///
    /// # Errors
    /// When the database or the application refuses; the test fails with it.
    fn of(database: &TestDatabase) -> impl Future<Output = Result<Self>>;
}

/// The database itself.
impl TestParameter for TestDatabase {
    async fn of(database: &TestDatabase) -> Result<Self> {
        Ok(database.clone())
    }
}

/// A builder, with the handlers that are found at link time.
impl TestParameter for EzqBuilder {
    async fn of(database: &TestDatabase) -> Result<Self> {
        Ok(database.builder())
    }
}

/// An application with the handlers that are found at link time.
impl TestParameter for TestEzq {
    async fn of(database: &TestDatabase) -> Result<Self> {
        database.connect(database.builder()).await
    }
}

/// An application with the handlers that are found at link time.
impl TestParameter for Ezq {
    async fn of(database: &TestDatabase) -> Result<Self> {
        database.builder().connect().await
    }
}

/// A pool of at most 10 connections.
impl TestParameter for PgPool {
    async fn of(database: &TestDatabase) -> Result<Self> {
        Ok(PgPool::connect_lazy_with(database.0.options().clone()))
    }
}
