//! Several engines in one application.

use ezq::pgmq::{PgmqConfig, PgmqEngine};
use ezq::prelude::*;
use ezq::{ErrorKind, QueueName};
use serde::{Deserialize, Serialize};

#[derive(Debug, Event, Serialize, Deserialize)]
struct Audited {
    id: i64,
}

#[tokio::test]
async fn a_transaction_stores_nothing_for_a_queue_of_another_database() {
    let elsewhere = PgmqEngine::connect(PgmqConfig::embedded().await.unwrap())
        .await
        .unwrap();
    let audit = QueueName::new("audit_elsewhere").unwrap();
    let ezq = Ezq::builder()
        .without_discovered_handlers()
        .named_engine("audit", elsewhere)
        .route(&audit, "audit")
        .connect()
        .await
        .unwrap();
    let mut tx = ezq.pool().begin().await.unwrap();
    let event = ezq.publish(&Audited { id: 1 }).queue(&audit);
    let error = ezq.publish_prepared_in(&mut tx, event).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    ezq.publish_in(&mut tx, &Audited { id: 2 }).await.unwrap();
    tx.rollback().await.unwrap();
}
