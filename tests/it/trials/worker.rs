//! A worker of a trial, in a process of its own.

use std::time::Duration;

use ezq::handler::Backoff;
use ezq::prelude::*;
use ezq::sqlx::postgres::PgPoolOptions;
use ezq::sqlx::{self, AssertSqlSafe};
use ezq::{Handler, QueueName};
use serde::{Deserialize, Serialize};

use crate::child::{Job, say};
use crate::stress::fails;

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "followed")]
struct Followed {
    n: i64,
}

/// What a worker of a trial is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(super) queue: String,
    pub(super) worker: usize,
    pub(super) seed: u64,
    pub(super) lease: Duration,
    pub(super) concurrency: usize,
    /// Connections of the application's pool.
    pub(super) pool: u32,
    /// How long a handler takes.
    pub(super) takes: Duration,
}

/// What a child does.
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
pub(crate) async fn work(plan: Plan) {
    // A panic in the library is a failure of the trial, although a consumer lives on.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}\n{}", std::backtrace::Backtrace::force_capture());
        std::process::exit(6);
    }));

    let url = std::env::var("DATABASE_URL").unwrap();
    let own = PgPoolOptions::new()
        .max_connections(2)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy(&url)
        .unwrap();

    let pool = PgPoolOptions::new()
        .max_connections(plan.pool)
        .acquire_timeout(Duration::from_secs(5))
        .connect_lazy(&url)
        .unwrap();

    let row = |who: &str| format!("insert into trial_{} values ($1, '{who}', $2)", plan.queue);
    let worker = i32::try_from(plan.worker).unwrap();
    let takes = plan.takes;
    let seed = plan.seed;
    let fail = move |n: i64, context: &Context| {
        if fails(n, context.attempt(), seed) {
            Err(HandlerError::retry("by lot"))
        } else {
            Ok(())
        }
    };

    let insert = row("tx");
    let tx = Handler::on("tx", move |job: Job, mut tx: Tx, context: Context| {
        let insert = insert.clone();
        async move {
            let insert = sqlx::query(AssertSqlSafe(insert)).bind(job.n).bind(worker);
            insert.execute(&mut *tx).await?;
            tokio::time::sleep(takes).await;
            fail(job.n, &context)?;
            Ok::<_, HandlerError>(Followed { n: job.n })
        }
    });

    let insert = row("plain");
    let plain = Handler::on("plain", move |job: Job, context: Context| {
        let insert = insert.clone();
        let own = own.clone();
        async move {
            let insert = sqlx::query(AssertSqlSafe(insert)).bind(job.n).bind(worker);
            insert.execute(&own).await?;
            tokio::time::sleep(takes).await;
            fail(job.n + 1, &context)
        }
    });

    let insert = row("followed");
    let followed = Handler::on(
        "followed",
        move |event: Followed, mut tx: Tx, context: Context| {
            let insert = insert.clone();
            async move {
                let insert = sqlx::query(AssertSqlSafe(insert))
                    .bind(event.n)
                    .bind(worker);
                insert.execute(&mut *tx).await?;
                tokio::time::sleep(takes).await;
                fail(event.n + 2, &context)
            }
        },
    );

    let queue = QueueName::new(&plan.queue).unwrap();
    let mut builder = Ezq::builder()
        .without_discovered_handlers()
        .pool(pool)
        .configure(|config| {
            config.queue = queue;
            // What a fault of the database does to a handler is no reason to give up.
            config.retry.max_attempts = 1000;
            config.retry.backoff = Backoff::constant(Duration::from_millis(50));
            config.max_deliveries = 1000;
        });

    for handler in [tx, plain, followed] {
        builder = builder.register(handler);
    }

    // A worker may be started while the database is away.
    let ezq = builder
        .connect_timeout(Duration::from_secs(60))
        .connect()
        .await
        .unwrap();

    let consumer = ezq
        .consumer()
        .concurrency(plan.concurrency)
        .lease(plan.lease);

    say("ready");
    say(&format!("clock {}", ezq::chrono::Utc::now().timestamp()));
    say(&format!(
        "report {}",
        consumer.stop_on_signals().run().await.unwrap()
    ));
}
