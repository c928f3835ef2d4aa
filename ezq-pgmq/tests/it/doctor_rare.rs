//! What the doctor finds on servers that are near an end: slots that nobody reads, notifications that nobody
//! takes, and ids that run out. Each check is seen to fire and to be silent, on a server of the test's own.

use std::time::Duration;

use ezq_core::engine::{DoctorOptions, Finding, Severity};
use ezq_pgmq::embedded::EmbeddedPostgres;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::support::*;

/// What a check finds, with what is well.
async fn examined(url: &str, check: &str, options: &DoctorOptions) -> Vec<Finding> {
    let config = PgmqConfig::url(url).unwrap();
    let mut findings = PgmqEngine::diagnose(&config, options).await;
    findings.retain(|finding| finding.check == check);
    findings
}

fn about(findings: &[Finding], text: &str) -> Option<Severity> {
    let mut found = findings.iter().filter(|finding| {
        let subject = finding.subject.as_deref().unwrap_or_default();
        subject.contains(text) || finding.evidence.contains(text)
    });
    found.next().map(|finding| finding.severity)
}

#[tokio::test]
async fn a_replication_slot_that_nobody_reads_is_found_once_it_holds_much() {
    let server = EmbeddedPostgres::builder()
        .setting("wal_level", "logical")
        .setting("max_replication_slots", "2");
    let server = server.start().await.unwrap();
    let url = server.url();
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let slot = "SELECT pg_create_logical_replication_slot('it''s left', 'pgoutput')";
    let refused = sqlx::query(slot).execute(&mut admin).await;
    refused.expect_err("a slot has a plain name");
    run(
        &mut admin,
        "SELECT pg_create_logical_replication_slot('left_behind', 'pgoutput')",
    )
    .await;
    for _ in 0..20 {
        run(&mut admin, "SELECT pg_current_xact_id()").await;
    }

    let mut options = DoctorOptions::default();
    let silent = examined(&url, "transactions", &options).await;
    assert_eq!(about(&silent, "left_behind"), None, "{silent:#?}");
    options.slot_lag = 10;
    let found = examined(&url, "transactions", &options).await;
    assert_eq!(
        about(&found, "the replication slot `left_behind`"),
        Some(Severity::Warning),
        "{found:#?}"
    );

    run(&mut admin, "SELECT pg_drop_replication_slot('left_behind')").await;
    let gone = examined(&url, "transactions", &options).await;
    assert_eq!(about(&gone, "left_behind"), None, "{gone:#?}");
}

#[tokio::test]
async fn ids_of_transactions_that_run_out_are_found_from_a_share_on() {
    let url = fresh_database().await;
    let mut options = DoctorOptions::default();
    let silent = examined(&url, "wraparound", &options).await;
    assert_eq!(about(&silent, "of the transaction ids"), Some(Severity::Ok));
    options.used_ids_percent = 0;
    let found = examined(&url, "wraparound", &options).await;
    assert_eq!(
        about(&found, "of the transaction ids"),
        Some(Severity::Warning),
        "{found:#?}"
    );
    assert_eq!(found[0].remedy.as_deref(), Some("vacuum (freeze);"));
}

#[tokio::test]
async fn notifications_that_a_session_does_not_take_are_found() {
    let server = EmbeddedPostgres::builder().start().await.unwrap();
    let url = server.url();
    let mut options = DoctorOptions::default();
    // A test that filled a tenth would write a gigabyte.
    options.used_notifications_permille = 1;
    let says = "of the memory for notifications";
    let silent = examined(&url, "listen", &options).await;
    assert_eq!(about(&silent, says), None, "{silent:#?}");

    // Whoever listens and stays in a transaction takes none.
    let mut idle = PgConnection::connect(&url).await.unwrap();
    run(&mut idle, "LISTEN deaf").await;
    run(&mut idle, "BEGIN; SELECT pg_current_xact_id()").await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    let usage = "SELECT pg_notification_queue_usage()";
    while scalar::<f64>(&mut admin, usage).await < 0.0015 {
        let some = "SELECT count(pg_notify('deaf', n || repeat('x', 7000)))
                    FROM generate_series(1, 200) n";
        run(&mut admin, some).await;
    }
    let found = examined(&url, "listen", &options).await;
    assert_eq!(about(&found, says), Some(Severity::Warning), "{found:#?}");
    let lax = examined(&url, "listen", &DoctorOptions::default()).await;
    assert_eq!(about(&lax, says), None, "{lax:#?}");

    idle.close_hard().await.unwrap();
    let taken = async {
        loop {
            // The next notification frees what nobody waits for.
            run(&mut admin, "SELECT pg_notify('deaf', '')").await;
            let found = examined(&url, "listen", &options).await;
            if about(&found, says).is_none() {
                return;
            }
        }
    };
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, taken).await.unwrap();
}

#[tokio::test]
async fn connections_that_run_out_are_found() {
    let server = EmbeddedPostgres::builder().setting("max_connections", "20");
    let server = server.start().await.unwrap();
    let url = server.url();
    let options = DoctorOptions::default();
    let silent = examined(&url, "connections", &options).await;
    assert_eq!(about(&silent, "connections are used"), Some(Severity::Ok));

    let mut held = Vec::new();
    for _ in 0..15 {
        held.push(PgConnection::connect(&url).await.unwrap());
    }
    let found = examined(&url, "connections", &options).await;
    assert_eq!(
        about(&found, "connections are used"),
        Some(Severity::Warning),
        "{found:#?}"
    );
}
