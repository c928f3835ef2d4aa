//! The suite that every engine passes.

use std::sync::Arc;

use ezq_conformance::Harness;
use ezq_core::engine::Engine;
use ezq_core::message::QueueName;

use crate::support::*;

struct Pgmq;

#[async_trait::async_trait]
impl Harness for Pgmq {
    async fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(engine().await)
    }

    fn queue_name(&self, unique: String) -> String {
        // A name that needs quotes in every statement.
        format!("Q-{unique}.x")
    }

    async fn insert_raw(&self, queue: &QueueName, body: &str, headers: Option<&str>) -> bool {
        let sql = format!(
            "INSERT INTO pgmq.\"q_{queue}\" (vt, message, headers)
             VALUES (clock_timestamp(), $1::jsonb, $2::jsonb)"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(body)
            .bind(headers);
        query.execute(&mut connection().await).await.is_ok()
    }

    async fn lose_newest(&self, queue: &str) -> Option<String> {
        lose_newest(&mut connection().await, queue).await
    }

    async fn discard(&self, queue: &QueueName) {
        for name in [queue.to_string(), queue.dead_letters()] {
            run(
                &mut connection().await,
                &format!("SELECT pgmq.drop_queue('{name}')"),
            )
            .await;
        }
    }
}

#[tokio::test]
async fn passes_the_suite() {
    let report = ezq_conformance::run(&Pgmq).await;
    println!("{report}");
    report.into_result().unwrap();
}
