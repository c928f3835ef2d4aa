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
        .queue_engine(&audit, "audit")
        .connect()
        .await
        .unwrap();

    let mut tx = ezq.pool().begin().await.unwrap();
    let event = ezq.publish(&Audited { id: 1 }).queue(&audit);
    let error = event.within(&mut tx).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    let events = [Audited { id: 3 }];
    let publish = ezq.publish_all(&events).queue(&audit);
    let failure = publish.within(&mut tx).await.unwrap_err();
    assert_eq!(failure.kind(), ErrorKind::Unsupported);

    ezq.publish(&Audited { id: 2 })
        .within(&mut tx)
        .await
        .unwrap();
    tx.rollback().await.unwrap();
}

#[tokio::test]
async fn an_application_on_another_engine_stores_nothing_in_a_transaction_and_says_what_to_do() {
    let app = ezq::App::builder()
        .without_discovered_handlers()
        .build(ezq::memory::MemoryEngine::new())
        .unwrap();

    let database = PgmqEngine::connect(PgmqConfig::embedded().await.unwrap())
        .await
        .unwrap();
    let mut tx = database.pool().begin().await.unwrap();
    let event = Audited { id: 1 };

    let publish = app.publish(&event).within(&mut tx).await.unwrap_err();
    let publish_all = app.publish_all([&event]).within(&mut tx).await.unwrap_err();
    let broadcast = app.broadcast(&event).within(&mut tx).await.unwrap_err();
    for error in [publish, publish_all.into(), broadcast] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(
            error.to_string().contains("publish after its commit"),
            "{error}"
        );
    }
}
