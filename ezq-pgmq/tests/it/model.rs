//! Random sequences of operations, the same on the PGMQ engine and on the memory engine, each
//! against the reference.

use std::sync::Arc;
use std::time::Duration;

use ezq_conformance::{Harness, ModelConfig, ModelReport, run_model};
use ezq_core::engine::Engine;
use ezq_core::memory::MemoryEngine;
use ezq_core::message::QueueName;
use ezq_pgmq::PgmqEngine;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::sync::Mutex;

use crate::support::*;

/// A database whose clock can be moved: these functions replace Postgres' own.
///
/// Moving the tables back instead would leave out receipts, which hold due times for releases.
///
/// The last one has leases end exactly when asked, and not up to a quarter of a second later: the model
/// compares their ends with due times.
const CLOCK: &str = "
    CREATE SCHEMA moved;
    CREATE TABLE moved.clock (ahead interval NOT NULL);
    INSERT INTO moved.clock VALUES ('0');
    ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO real_clock_timestamp;
    ALTER FUNCTION pg_catalog.statement_timestamp() RENAME TO real_statement_timestamp;
    ALTER FUNCTION pg_catalog.now() RENAME TO real_now;
    CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
      AS 'SELECT pg_catalog.real_clock_timestamp() + ahead FROM moved.clock';
    CREATE FUNCTION pg_catalog.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
      AS 'SELECT pg_catalog.real_statement_timestamp() + ahead FROM moved.clock';
    CREATE FUNCTION pg_catalog.now() RETURNS timestamptz LANGUAGE sql STABLE
      AS 'SELECT pg_catalog.real_now() + ahead FROM moved.clock';
    ALTER FUNCTION pg_catalog.date_bin(interval, timestamptz, timestamptz) RENAME TO real_date_bin;
    CREATE FUNCTION pg_catalog.date_bin(interval, timestamptz, timestamptz) RETURNS timestamptz
      LANGUAGE sql IMMUTABLE AS 'SELECT $2 - interval ''262143 us'''";

struct Moved {
    engine: Arc<PgmqEngine>,
    second: Arc<PgmqEngine>,
    clock: Mutex<PgConnection>,
}

impl Moved {
    async fn open() -> Self {
        let url = fresh_database().await;
        // Installs PGMQ, on the real clock.
        engine_at(&url).await.close().await;

        let mut clock = PgConnection::connect(&url).await.unwrap();
        run(&mut clock, CLOCK).await;
        let database: String = scalar(&mut clock, "SELECT current_database()::text").await;

        // The planner takes these functions for costly, and would compile each claim.
        run(
            &mut clock,
            &format!("ALTER DATABASE {database} SET jit = off"),
        )
        .await;

        Self {
            engine: Arc::new(engine_at(&url).await),
            second: Arc::new(engine_at(&url).await),
            clock: Mutex::new(clock),
        }
    }
}

#[async_trait::async_trait]
impl Harness for Moved {
    async fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    async fn second(&self) -> Arc<dyn Engine> {
        self.second.clone()
    }

    async fn advance(&self, time: Duration) {
        let sql = format!(
            "UPDATE moved.clock SET ahead = ahead + interval '{} s'",
            time.as_secs()
        );
        run(&mut *self.clock.lock().await, &sql).await;
    }

    async fn lose_newest(&self, queue: &str) -> Option<String> {
        lose_newest(&mut *self.clock.lock().await, queue).await
    }

    async fn discard(&self, queue: &QueueName) {
        let mut connection = self.clock.lock().await;
        for name in [queue.to_string(), queue.dead_letters()] {
            run(
                &mut connection,
                &format!("SELECT pgmq.drop_queue('{name}')"),
            )
            .await;
        }
    }
}

/// The memory engine on a paused clock of its own.
async fn in_memory(config: ModelConfig) -> ModelReport {
    let paused = move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run_model(&Arc::new(MemoryEngine::new()), config))
    };
    tokio::task::spawn_blocking(paused).await.unwrap().unwrap()
}

#[tokio::test]
async fn both_engines_keep_to_the_model() {
    let config = ModelConfig::from_env().unwrap();
    println!("{config}");
    println!("memory: {}", in_memory(config).await);
    let harness = Moved::open().await;
    let report = run_model(&harness, config).await.unwrap();
    println!("pgmq: {report}");
    harness.engine.close().await;
    harness.second.close().await;
}
