//! The examination of a database: each test breaks something, sees the finding, runs its SQL, and sees
//! it gone.

use std::time::Duration;

use ezq_core::engine::{
    Broadcasts as _, Doctor as _, DoctorOptions, Engine as _, Finding, PauseTarget, Pauses as _,
    Severity,
};
use ezq_core::event::Pattern;
use ezq_core::message::QueueName;
use ezq_pgmq::embedded::EmbeddedPostgres;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use crate::support::*;

/// A database of the test's own with one queue, and a connection of its administrator.
struct Patient {
    url: String,
    engine: PgmqEngine,
    queue: QueueName,
    admin: PgConnection,
}

impl Patient {
    async fn new() -> Self {
        Self::at(fresh_database().await).await
    }

    async fn at(url: String) -> Self {
        let engine = engine_at(&url).await;
        let queue = QueueName::new("orders").unwrap();
        engine.ensure_queue(&queue).await.unwrap();
        let admin = PgConnection::connect(&url).await.unwrap();
        Self {
            url,
            engine,
            queue,
            admin,
        }
    }

    /// What a check finds, without what is well.
    async fn findings(&self, check: &str) -> Vec<Finding> {
        examined(&self.url, check).await
    }

    /// Expects one finding that says this, runs its SQL, and expects it to be gone.
    async fn is_mended(&mut self, check: &str, severity: Severity, says: &str) {
        let finding = only(self.findings(check).await, says);
        assert_eq!(finding.severity, severity, "{finding:?}");
        let sql = finding.remedy.clone().expect("SQL that mends it");
        let mut admin = PgConnection::connect(&self.url).await.unwrap();
        run(&mut admin, &sql).await;
        self.is_well(check, says).await;
    }

    /// Waits until no finding says this: the server's statistics are a little late.
    async fn is_well(&self, check: &str, says: &str) {
        for _ in 0..200 {
            let findings = self.findings(check).await;
            if findings.iter().all(|finding| !told(finding).contains(says)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", self.findings(check).await);
    }
}

/// Any age is old.
fn strict() -> DoctorOptions {
    let mut options = DoctorOptions::default();
    options.old_after = Duration::ZERO;
    options
}

async fn examined(url: &str, check: &str) -> Vec<Finding> {
    let config = PgmqConfig::url(url).unwrap();
    let mut findings = PgmqEngine::diagnose(&config, &strict()).await;
    assert!(
        findings.iter().any(|finding| finding.check == check),
        "{findings:#?}"
    );
    findings.retain(|finding| finding.check == check && finding.severity > Severity::Ok);
    findings
}

fn told(finding: &Finding) -> String {
    let subject = finding.subject.clone().unwrap_or_default();
    format!("{subject}: {}", finding.evidence)
}

fn only(findings: Vec<Finding>, says: &str) -> Finding {
    let all = format!("{findings:#?}");
    let mut found = findings
        .into_iter()
        .filter(|finding| told(finding).contains(says));
    let first = found
        .next()
        .unwrap_or_else(|| panic!("nothing says `{says}`: {all}"));
    assert_eq!(found.next(), None, "{all}");
    first
}

#[tokio::test]
async fn a_whole_database_has_no_finding_but_what_a_development_server_has() {
    let patient = Patient::new().await;
    let findings = patient.engine.examine(&DoctorOptions::default()).await;

    let found: Vec<_> = findings
        .iter()
        .filter(|finding| finding.severity > Severity::Ok)
        .map(|finding| (finding.check, finding.severity))
        .collect();
    // The development server does not flush, and nobody consumes the queue.
    let expected = [
        ("durability", Severity::Error),
        ("durability", Severity::Error),
        ("consumers", Severity::Notice),
    ];
    assert_eq!(found, expected, "{findings:#?}");

    let checks: Vec<_> = findings.iter().map(|finding| finding.check).collect();
    for check in [
        "connection",
        "pooler",
        "listen",
        "clock",
        "writable",
        "timeouts",
        "connections",
        "pgmq",
        "schema",
        "grants",
        "tables",
        "vacuum",
        "wraparound",
        "transactions",
        "prepared",
        "dead-letters",
        "subscriptions",
        "schedules",
    ] {
        assert!(checks.contains(&check), "{check}: {checks:?}");
    }
}

#[tokio::test]
async fn a_dropped_index_is_made_again() {
    let mut patient = Patient::new().await;
    run(&mut patient.admin, "DROP INDEX pgmq.q_orders_vt_idx").await;
    patient
        .is_mended("tables", Severity::Error, "no valid index on `vt`")
        .await;

    run(
        &mut patient.admin,
        "ALTER TABLE pgmq.q_orders_dlq DROP CONSTRAINT q_orders_dlq_pkey",
    )
    .await;
    patient
        .is_mended("tables", Severity::Error, "no valid index on `msg_id`")
        .await;
}

#[tokio::test]
async fn a_dropped_index_over_ordering_keys_is_made_again() {
    let mut patient = Patient::new().await;
    let keyed = "INSERT INTO pgmq.q_orders (vt, message, headers)
                 VALUES (now(), '{}', '{\"x-pgmq-group\": \"a\"}')";
    run(&mut patient.admin, keyed).await;
    patient
        .is_mended("tables", Severity::Warning, "0 of 3 indexes")
        .await;
    run(&mut patient.admin, "DROP INDEX pgmq.q_orders_ezq_held").await;
    patient
        .is_mended("tables", Severity::Warning, "2 of 3 indexes")
        .await;
}

#[tokio::test]
async fn a_missing_place_for_dead_letters_and_an_unlogged_queue_are_mended() {
    let mut patient = Patient::new().await;
    run(&mut patient.admin, "SELECT pgmq.drop_queue('orders_dlq')").await;
    patient
        .is_mended("tables", Severity::Error, "no place for dead letters")
        .await;
    run(&mut patient.admin, "ALTER TABLE pgmq.q_orders SET UNLOGGED").await;
    patient
        .is_mended("tables", Severity::Warning, "unlogged")
        .await;
}

#[tokio::test]
async fn a_revoked_right_is_granted_and_one_who_may_only_read_is_no_error() {
    let mut patient = Patient::new().await;
    let role = unique("app").to_string();
    // The name is the server's, and tests share that.
    let grants = ezq_pgmq::setup_sql(["orders"], Some(&role)).unwrap();
    let grants = grants.replace("create extension if not exists pgmq;", "");
    run(&mut patient.admin, &format!("CREATE ROLE {role} LOGIN")).await;
    run(&mut patient.admin, &grants).await;
    run(
        &mut patient.admin,
        &format!("RESET search_path; REVOKE DELETE ON pgmq.q_orders FROM {role}"),
    )
    .await;

    let owner = patient.url.clone();
    let url = owner.replace("postgres@", &format!("{role}@"));
    let finding = only(examined(&url, "grants").await, "delete on pgmq.q_orders");
    assert_eq!(finding.severity, Severity::Error, "{finding:?}");
    run(&mut patient.admin, &finding.remedy.unwrap()).await;
    assert_eq!(examined(&url, "grants").await, []);

    let revoke = format!("REVOKE INSERT, UPDATE, DELETE ON pgmq.q_orders FROM {role}");
    run(&mut patient.admin, &revoke).await;
    let finding = only(examined(&url, "grants").await, "on pgmq.q_orders");
    assert_eq!(finding.severity, Severity::Notice, "{finding:?}");

    run(
        &mut patient.admin,
        &format!("DROP OWNED BY {role}; DROP ROLE {role}"),
    )
    .await;
}

#[tokio::test]
async fn a_role_without_any_right_gets_an_answer_to_every_check_and_makes_nothing() {
    let mut patient = Patient::new().await;
    let role = unique("nobody").to_string();
    run(&mut patient.admin, &format!("CREATE ROLE {role} LOGIN")).await;
    let target = PauseTarget::queue(patient.queue.clone());
    patient.engine.pause(&target, "Ada", None).await.unwrap();
    let count = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE nspname IN ('ezq', 'pgmq')";
    let before: i64 = scalar(&mut patient.admin, count).await;

    let url = patient.url.replace("postgres@", &format!("{role}@"));
    let config = PgmqConfig::url(&url).unwrap();
    let findings = PgmqEngine::diagnose(&config, &strict()).await;
    assert!(findings.len() > 18, "{findings:#?}");
    let failed = findings
        .iter()
        .filter(|finding| finding.evidence.contains("could not be checked"));
    assert_eq!(failed.count(), 0, "{findings:#?}");
    let schema = only(findings, "may not use the schema `pgmq`");
    assert_eq!(schema.severity, Severity::Error);

    assert_eq!(scalar::<i64>(&mut patient.admin, count).await, before);
    run(&mut patient.admin, &format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn an_old_transaction_is_ended() {
    let mut patient = Patient::new().await;
    let mut holder = PgConnection::connect(&patient.url).await.unwrap();
    run(
        &mut holder,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1",
    )
    .await;
    let pid: i32 = scalar(&mut holder, "SELECT pg_backend_pid()").await;
    let says = format!("the session {pid}: ");
    patient
        .is_mended("transactions", Severity::Warning, &says)
        .await;
    let ended = sqlx::query("SELECT 1").execute(&mut holder).await;
    ended.unwrap_err();
}

#[tokio::test]
async fn a_young_transaction_is_no_finding() {
    let patient = Patient::new().await;
    let mut holder = PgConnection::connect(&patient.url).await.unwrap();
    run(
        &mut holder,
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1",
    )
    .await;
    let mut findings = patient.engine.examine(&DoctorOptions::default()).await;
    findings.retain(|finding| finding.check == "transactions");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].severity, Severity::Ok, "{findings:?}");
}

#[tokio::test]
async fn a_prepared_transaction_is_rolled_back() {
    let server = EmbeddedPostgres::builder().setting("max_prepared_transactions", "2");
    let server = server.start().await.unwrap();
    let mut patient = Patient::at(server.url()).await;
    let prepare = "BEGIN; INSERT INTO pgmq.q_orders (vt, message) VALUES (now(), '{}');
                   PREPARE TRANSACTION 'it''s mine'";
    run(&mut patient.admin, prepare).await;
    patient
        .is_mended("prepared", Severity::Warning, "`it's mine`")
        .await;
}

#[tokio::test]
async fn settings_of_the_role_and_the_database_are_set_back_where_they_are_set() {
    let mut patient = Patient::new().await;
    let role = unique("fast").to_string();
    let setup = format!(
        "CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET synchronous_commit = off;
         ALTER ROLE {role} SET statement_timeout = '200ms'"
    );
    run(&mut patient.admin, &setup).await;
    let database: String = scalar(&mut patient.admin, "SELECT current_database()::text").await;
    let read_only = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
    run(&mut patient.admin, &read_only).await;
    let owner = patient.url.clone();
    patient.url = owner.replace("postgres@", &format!("{role}@"));

    for (check, severity, says) in [
        (
            "durability",
            Severity::Warning,
            "synchronous_commit is off, set for the role",
        ),
        (
            "timeouts",
            Severity::Warning,
            "statement_timeout is 200 ms, set for the role",
        ),
        (
            "writable",
            Severity::Error,
            "default_transaction_read_only is on, set for the database",
        ),
    ] {
        let finding = only(patient.findings(check).await, says);
        assert_eq!(finding.severity, severity, "{finding:?}");
        run(&mut patient.admin, &finding.remedy.unwrap()).await;
        patient.is_well(check, says).await;
    }
    run(&mut patient.admin, &format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_subscription_of_a_missing_queue_is_removed() {
    let mut patient = Patient::new().await;
    let gone = QueueName::new("gone").unwrap();
    patient.engine.ensure_queue(&gone).await.unwrap();
    let patterns = [Pattern::new("order.*").unwrap()];
    patient
        .engine
        .subscribe("it's a shop", &gone, &patterns)
        .await
        .unwrap();
    patient
        .engine
        .subscribe("shop", &patient.queue, &patterns)
        .await
        .unwrap();
    assert_eq!(patient.findings("subscriptions").await, []);

    run(&mut patient.admin, "SELECT pgmq.drop_queue('gone')").await;
    patient
        .is_mended("subscriptions", Severity::Error, "the queue `gone`")
        .await;
    assert_eq!(patient.engine.subscriptions().await.unwrap().len(), 1);
}

#[tokio::test]
async fn dropped_tables_of_ezqs_own_are_made_again() {
    let mut patient = Patient::new().await;
    let target = PauseTarget::queue(patient.queue.clone());
    patient.engine.pause(&target, "Ada", None).await.unwrap();
    run(&mut patient.admin, "DROP TABLE ezq.controls").await;
    patient
        .is_mended("schema", Severity::Warning, "dropped: `ezq.controls`")
        .await;
}

#[tokio::test]
async fn a_sequence_that_ends_soon_is_widened() {
    let mut patient = Patient::new().await;
    let narrow = "ALTER SEQUENCE pgmq.q_orders_msg_id_seq MAXVALUE 100;
                  SELECT setval('pgmq.q_orders_msg_id_seq', 95)";
    run(&mut patient.admin, narrow).await;
    patient
        .is_mended("wraparound", Severity::Error, "number 95 of 100")
        .await;
}

#[tokio::test]
async fn dead_rows_are_vacuumed_and_autovacuum_is_switched_on_again() {
    let mut patient = Patient::new().await;
    let die = "ALTER TABLE pgmq.q_orders SET (autovacuum_enabled = false);
               INSERT INTO pgmq.q_orders (vt, message) SELECT now(), '{}' FROM generate_series(1, 12000);
               DELETE FROM pgmq.q_orders";
    run(&mut patient.admin, die).await;
    // The server's statistics are told when a session has time.
    let mut waited = 0;
    while !patient
        .findings("vacuum")
        .await
        .iter()
        .any(|one| one.evidence.contains("dead rows beside"))
    {
        waited += 1;
        assert!(waited < 200, "no finding");
        run(&mut patient.admin, "SELECT 1").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    patient
        .is_mended("vacuum", Severity::Warning, "dead rows beside")
        .await;
    patient
        .is_mended("vacuum", Severity::Warning, "autovacuum is off")
        .await;
}

#[tokio::test]
async fn who_holds_dead_rows_is_named_beside_them() {
    let server = EmbeddedPostgres::builder().setting("max_prepared_transactions", "2");
    let server = server.start().await.unwrap();
    let mut patient = Patient::at(server.url()).await;
    let mut holder = PgConnection::connect(&patient.url).await.unwrap();
    let hold = "SET application_name = 'report'; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1";
    run(&mut holder, hold).await;
    let pid: i32 = scalar(&mut holder, "SELECT pg_backend_pid()").await;
    // The snapshot is that of an older transaction than the prepared one.
    run(&mut patient.admin, "SELECT pg_current_xact_id()").await;
    let prepare = "BEGIN; INSERT INTO pgmq.q_orders (vt, message) VALUES (now(), '{}');
                   PREPARE TRANSACTION 'it''s mine'";
    run(&mut patient.admin, prepare).await;

    // Vacuumed just now, in vain.
    let die = "ALTER TABLE pgmq.q_orders SET (autovacuum_enabled = false);
               INSERT INTO pgmq.q_orders (vt, message) SELECT now(), '{}' FROM generate_series(1, 12000);
               DELETE FROM pgmq.q_orders";
    run(&mut patient.admin, die).await;
    run(&mut patient.admin, "VACUUM pgmq.q_orders").await;

    let held = only(patient.findings("vacuum").await, "dead rows beside");
    let session = format!("the session {pid} (`postgres`, application `report`), since ");
    assert!(held.evidence.contains(&session), "{held:?}");
    let advice = held.advice.unwrap_or_default();
    assert!(
        advice.contains(&format!("pg_terminate_backend({pid})")),
        "{advice}"
    );

    run(&mut holder, "ROLLBACK").await;
    let held = only(patient.findings("vacuum").await, "dead rows beside");
    let prepared = "the prepared transaction `it's mine` of `postgres`, since ";
    assert!(held.evidence.contains(prepared), "{held:?}");
    let advice = held.advice.unwrap_or_default();
    assert!(
        advice.contains("rollback prepared 'it''s mine'"),
        "{advice}"
    );

    run(&mut patient.admin, "ROLLBACK PREPARED 'it''s mine'").await;
    run(&mut patient.admin, "VACUUM pgmq.q_orders").await;
    patient.is_well("vacuum", "dead rows beside").await;
}

#[tokio::test]
async fn what_waits_without_a_consumer_and_what_died_is_told() {
    let mut patient = Patient::new().await;
    publish(&patient.engine, &patient.queue, &["{}"]).await;
    let finding = only(patient.findings("consumers").await, "the queue `orders`");
    assert_eq!(finding.severity, Severity::Warning, "{finding:?}");
    assert!(
        finding.evidence.contains("events that are due: 1,"),
        "{finding:?}"
    );

    let bury = r#"INSERT INTO pgmq.q_orders_dlq (vt, message, headers) VALUES (now(),
      '{"specversion": "1.0", "id": "1", "source": "/", "type": "order.lost"}',
      '{"ezq-dead": {"reason": {"kind": "unknown_type", "error": "no", "attempts": 1}}}')"#;
    run(&mut patient.admin, bury).await;
    let letters = patient.findings("dead-letters").await;
    let letter = only(letters.clone(), "1 dead letter, 1 from the last hour");
    assert_eq!(letter.severity, Severity::Warning);
    let untaken = only(letters, "no handler takes their type: `order.lost` (1)");
    assert_eq!(
        (untaken.severity, untaken.queue),
        (Severity::Error, Some(patient.queue))
    );
}

#[tokio::test]
async fn a_schedule_that_is_late_is_an_error_and_a_paused_one_is_told() {
    let mut patient = Patient::new().await;
    patient.engine.schedules().unwrap().look(&[]).await.unwrap();
    let engine = patient.engine.clone();
    let registered = ezq_core::engine::Registration::new(
        "nightly",
        "shop",
        "every hour",
        chrono::DateTime::UNIX_EPOCH,
    );
    engine
        .schedules()
        .unwrap()
        .register(registered, None)
        .await
        .unwrap();
    let finding = only(
        patient.findings("schedules").await,
        "the schedule `nightly`",
    );
    assert_eq!(finding.severity, Severity::Error, "{finding:?}");
    run(
        &mut patient.admin,
        "UPDATE ezq.schedules SET paused_at = now()",
    )
    .await;
    let finding = only(
        patient.findings("schedules").await,
        "the schedule `nightly`",
    );
    assert_eq!(finding.severity, Severity::Notice, "{finding:?}");
}

#[tokio::test]
async fn a_check_that_is_locked_out_is_a_finding_and_hides_no_other() {
    let patient = Patient::new().await;
    publish(&patient.engine, &patient.queue, &["{}"]).await;
    let mut holder = PgConnection::connect(&patient.url).await.unwrap();
    run(&mut holder, "BEGIN; LOCK TABLE pgmq.q_orders").await;

    let findings = patient.findings("consumers").await;
    let locked = only(findings, "another session has locked it");
    assert_eq!(locked.severity, Severity::Warning);
    assert_eq!(patient.findings("schedules").await, []);
}

#[tokio::test]
async fn without_pgmq_or_a_server_that_is_the_finding() {
    let url = fresh_database().await;
    let finding = only(examined(&url, "pgmq").await, "PGMQ is not installed");
    assert_eq!(finding.severity, Severity::Error);

    let url = "postgres://ada:hunter2@127.0.0.1:1/shop";
    let config = PgmqConfig::url(url).unwrap();
    let findings = PgmqEngine::diagnose(&config, &DoctorOptions::default()).await;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        (findings[0].check, findings[0].severity),
        ("connection", Severity::Error)
    );
    assert!(!findings[0].evidence.contains("hunter2"), "{findings:?}");
}
