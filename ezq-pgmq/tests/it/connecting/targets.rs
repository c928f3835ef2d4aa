//! URLs that ask for a server that takes writes.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{Engine as _, PublishOutcome};
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::{Connection as _, PgConnection};

use super::errors::refused;
use crate::support::*;

fn config(url: &str, target: &str) -> PgmqConfig {
    let url = format!("{url}&target_session_attrs={target}");
    PgmqConfig::url(&url)
        .unwrap()
        .connect_timeout(Duration::from_secs(2))
}

/// Turns writing off or on for new sessions of a database, and ends those that are open.
async fn set_read_only(own: &mut PgConnection, state: &str) {
    let statements = format!(
        "DO $$ BEGIN
           EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = {state}',
                          current_database());
         END $$;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()"
    );
    run(own, &statements).await;
}

#[tokio::test]
async fn a_url_that_asks_for_a_writable_server_is_refused_by_a_read_only_one() {
    let url = fresh_database().await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    // With PGMQ there is nothing to write.
    engine_at(&url).await.close().await;
    set_read_only(&mut own, "on").await;

    let error = refused(config(&url, "read-write")).await;
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("takes no writes"), "{error}");

    for target in ["primary", "any"] {
        let engine = PgmqEngine::connect(config(&url, target)).await.unwrap();
        engine.close().await;
    }

    set_read_only(&mut own, "off").await;
    let engine = PgmqEngine::connect(config(&url, "read-write"))
        .await
        .unwrap();
    engine.close().await;
}

#[tokio::test]
async fn a_server_that_becomes_read_only_is_left_until_it_takes_writes_again() {
    let url = fresh_database().await;
    let mut own = PgConnection::connect(&url).await.unwrap();
    let engine = PgmqEngine::connect(config(&url, "read-write"))
        .await
        .unwrap();
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();
    publish(&engine, &queue, &["1"]).await;

    set_read_only(&mut own, "on").await;
    // The first call may find that its connection was cut.
    let _ = engine.stats(&queue).await;
    let error = engine.stats(&queue).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");

    let refused = engine.publish(vec![message(&queue, "2")]).await;
    let is_stored =
        refused.is_ok_and(|outcomes| matches!(outcomes[..], [PublishOutcome::Stored(_)]));
    assert!(!is_stored);

    set_read_only(&mut own, "off").await;
    until_it_works(|| engine.stats(&queue)).await;
    publish(&engine, &queue, &["3"]).await;
    assert_eq!(engine.stats(&queue).await.unwrap().ready, 2);
}
