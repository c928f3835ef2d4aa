//! The suite that every engine passes.

use std::sync::Arc;

use ezq_conformance::Harness;
use ezq_conformance::matrix::{check_column, engine_column};
use ezq_core::engine::Engine;
use ezq_core::message::QueueName;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::support::*;

/// The engine on a database, whose queues have so many partitions.
struct Pgmq {
    url: String,
    partitions: u32,
}

impl Pgmq {
    async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }
}

#[async_trait::async_trait]
impl Harness for Pgmq {
    async fn engine(&self) -> Arc<dyn Engine> {
        let config = PgmqConfig::url(&self.url).unwrap();
        let config = config.partition_all(self.partitions);
        Arc::new(PgmqEngine::connect(config).await.unwrap())
    }

    fn queue_name(&self, unique: String) -> String {
        // A name that needs quotes in every statement.
        format!("Q-{unique}.{}", self.partitions)
    }

    async fn insert_raw(&self, queue: &QueueName, body: &str, headers: Option<&str>) -> bool {
        let sql = format!(
            "INSERT INTO pgmq.\"q_{queue}\" (vt, message, headers)
             VALUES (clock_timestamp(), $1::jsonb, $2::jsonb)"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(body)
            .bind(headers);
        query.execute(&mut self.connection().await).await.is_ok()
    }

    async fn lose_newest(&self, queue: &str) -> Option<String> {
        lose_newest(&mut self.connection().await, queue).await
    }

    async fn discard(&self, queue: &QueueName) {
        for name in [queue.to_string(), queue.dead_letters()] {
            run(
                &mut self.connection().await,
                &format!("SELECT pgmq.drop_queue('{name}')"),
            )
            .await;
        }
    }
}

#[tokio::test]
async fn passes_the_suite() {
    let report = ezq_conformance::run(&Pgmq {
        url: server().await.url(),
        partitions: 1,
    })
    .await;
    println!("{report}");
    let column = engine_column(&report);
    report.into_result().unwrap();
    let document = include_str!("../../../docs/growing.md");
    assert_eq!(check_column(document, "PGMQ", &column), Ok(()));
}

#[tokio::test]
async fn passes_the_suite_with_partitioned_queues() {
    let url = fresh_database().await;
    let report = ezq_conformance::run(&Pgmq { url, partitions: 3 }).await;
    println!("{report}");
    // Messages without a key keep their order within a partition only. The others fail as for a queue with
    // ordering keys, which has the same indexes: no claim inside a transaction, and a claim of messages
    // without keys may leave half of its room to those with keys.
    let may_fail = [
        "batches_come_out_one_after_another",
        "a_claim_inside_a_transaction_commits_with_it",
        "what_a_transaction_claimed_is_archived_with_it",
        "concurrent_acks_in_opposite_order_succeed_once_each",
        "concurrent_settlements_and_renewals_in_any_order_succeed",
    ];
    let mut failed = report.failed().filter(|(case, _)| !may_fail.contains(case));
    assert_eq!(failed.next(), None);
}
