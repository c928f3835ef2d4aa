//! What the engine measures of its connections, as the exporter for Prometheus renders it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use ezq_core::engine::{Engine, LeaseRequest, Outgoing};
use ezq_core::message::QueueName;
use ezq_core::message::headers::Headers;
use ezq_pgmq::embedded::EmbeddedPostgres;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

/// The value of a series.
fn value(exporter: &PrometheusHandle, series: &str) -> f64 {
    let text = exporter.render();
    let value = text.lines().find_map(|line| line.strip_prefix(series));
    value.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open_and_while_they_are_busy() {
    let exporter = PrometheusBuilder::new().install_recorder().unwrap();
    let server = EmbeddedPostgres::shared().await.unwrap();
    let mut admin = PgConnection::connect(&server.url()).await.unwrap();
    admin.execute("CREATE DATABASE measured").await.unwrap();
    let url = server.database_url("measured");
    let engine = PgmqEngine::connect(PgmqConfig::url(&url).unwrap())
        .await
        .unwrap();

    let queue = QueueName::new("measured_connections").unwrap();
    engine.ensure_queue(&queue).await.unwrap();
    let body = r#"{"_type":"paid"}"#.to_owned();
    engine
        .publish(vec![Outgoing::new(queue.clone(), body, Headers::new())])
        .await
        .unwrap();

    let is = |series: &str, wanted: f64| {
        let found = value(&exporter, series);
        assert!(
            (found - wanted).abs() < 0.1,
            "{series}: {found}, not {wanted}"
        );
    };
    assert!(value(&exporter, r#"ezq_connections_open{purpose="pool"}"#) >= 1.0);
    is(r#"ezq_connections_open{purpose="control"}"#, 1.0);
    is(r#"ezq_connections_open{purpose="settle"}"#, 0.0);
    engine.settle(&queue, Vec::new()).await.unwrap();
    for purpose in ["control", "pool", "settle"] {
        is(
            &format!(r#"ezq_connections_busy{{purpose="{purpose}"}}"#),
            0.0,
        );
    }

    // The claiming connection is not open yet, and cannot be opened.
    let forbid = "ALTER DATABASE measured ALLOW_CONNECTIONS false";
    admin.execute(forbid).await.unwrap();
    let request = LeaseRequest::new(queue.clone(), 1, Duration::from_secs(5));
    assert!(engine.lease(request).await.is_err());
    assert!(
        value(
            &exporter,
            r#"ezq_connection_failures_total{purpose="claim"}"#
        ) >= 1.0
    );

    engine.close().await;
    is(r#"ezq_connections_open{purpose="control"}"#, 0.0);
}
