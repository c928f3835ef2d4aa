//! Behind PgBouncer: session pooling works like the server itself, transaction pooling is refused.
//!
//! Skipped where PgBouncer is not installed; CI installs it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{DoctorOptions, Engine as _, Finding, SettleOutcome, Severity};
use ezq_core::message::QueueName;
use ezq_pgmq::{PgmqConfig, PgmqEngine};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection as _, Executor as _};
use tokio::time::{Instant, timeout};

use crate::skip;
use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 6432;

/// It ends when its standard input closes, which happens when this process ends, however it ends.
const SCRIPT: &str = r#""$1" "$2/pgbouncer.ini" & read -r _; kill $!; wait $!; rm -rf "$2""#;

/// It does not run as root: then it runs as the user whose server it is.
fn user(socket: &str) -> Option<String> {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let owner = format!(":{}:", std::fs::metadata(socket).unwrap().uid());
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd.lines().find(|line| line.contains(&owner)).unwrap();
    Some(line.split(':').next().unwrap().to_owned())
}

struct Pooler {
    process: Child,
    folder: PathBuf,
}

impl Pooler {
    /// In front of a database of the tests' server; `None` where there is no PgBouncer.
    async fn start(mode: &str, database: &str, test: &str) -> Option<Self> {
        let program = skip::program("pgbouncer", "pgbouncer", test)?;
        let folder = std::env::temp_dir().join(unique(&format!("bouncer_{mode}")).as_str());
        let folder = folder.with_extension(std::process::id().to_string());
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();

        let url = server().await.url();
        let socket = url
            .split_once("host=")
            .unwrap()
            .1
            .split('&')
            .next()
            .unwrap();

        let port = url
            .split_once("localhost:")
            .unwrap()
            .1
            .split('/')
            .next()
            .unwrap();

        let user = user(socket)
            .map(|name| format!("user = {name}"))
            .unwrap_or_default();

        let config = format!(
            "[databases]\npooled = host={socket} port={port} dbname={database} user=postgres\n\
             [pgbouncer]\nunix_socket_dir = {}\nlisten_port = {PORT}\nauth_type = any\n\
             admin_users = postgres\nserver_login_retry = 0\npool_mode = {mode}\nignore_startup_parameters = extra_float_digits\n{user}\n",
            folder.display()
        );
        std::fs::write(folder.join("pgbouncer.ini"), config).unwrap();

        let process = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .args([&program, &folder])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();

        let pooler = Self { process, folder };
        let began = Instant::now();
        while let Err(error) = PgConnection::connect_with(&pooler.options()).await {
            assert!(began.elapsed() < PATIENCE, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(pooler)
    }

    fn options(&self) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(&self.folder)
            .port(PORT);
        options
            .username("postgres")
            .database("pooled")
            .ssl_mode(sqlx::postgres::PgSslMode::Disable)
    }

    fn config(&self) -> PgmqConfig {
        PgmqConfig::options(self.options())
    }

    /// Drops every session of clients and to the server, and takes new ones after a pause, as a restart does.
    /// By default PgBouncer then opens no session to the server for `server_login_retry`, 15 s.
    async fn drop_sessions(&self, pause: Duration) {
        let options = self.options().database("pgbouncer");
        // The console takes statements without parameters only.
        let mut console = PgConnection::connect_with(&options).await.unwrap();
        for command in ["KILL pooled", "RESUME pooled"] {
            sqlx::raw_sql(command).execute(&mut console).await.unwrap();
            tokio::time::sleep(pause).await;
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn session_pooling_is_like_the_server_itself() {
    let test = "poolers::session_pooling_is_like_the_server_itself";
    let Some(pooler) = Pooler::start("session", "postgres", test).await else {
        return;
    };
    let direct = engine().await;
    let engine = PgmqEngine::connect(pooler.config()).await.unwrap();
    let queue = unique("q");
    engine.ensure_queue(&queue).await.unwrap();

    let mut wakeups = engine.wakeups(&queue).await.unwrap().unwrap();
    wakeups.mark_unchanged();
    publish(&direct, &queue, &["1"]).await;
    timeout(PATIENCE, wakeups.changed()).await.unwrap().unwrap();

    let ids: Vec<String> = (2..200).map(|n| n.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    publish(&engine, &queue, &ids).await;

    let mut handled = 0;
    while handled < 199 {
        handled += acknowledge_all(&engine, &queue).await;
    }

    let mut tx = engine.pool().begin().await.unwrap();
    engine
        .publish_in(&mut tx, vec![message(&queue, "1")])
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(acknowledge_all(&direct, &queue).await, 1);
}

/// Another engine has what the queue holds, for longer than a grace lasts.
async fn nothing_is_taken_over(survivor: &PgmqEngine, queue: &QueueName) {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        assert_eq!(lease(survivor, queue).await.len(), 0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A pooler ends the session of a client that is gone, or clears it for the next one.
#[tokio::test]
async fn what_an_engine_behind_session_pooling_held_is_taken_over() {
    let test = "poolers::what_an_engine_behind_session_pooling_held_is_taken_over";
    let Some(pooler) = Pooler::start("session", "postgres", test).await else {
        return;
    };
    let (survivor, queue) = engine_and_queue().await;
    let gone = PgmqEngine::connect(pooler.config()).await.unwrap();
    publish(&survivor, &queue, &["1"]).await;
    lease_one(&gone, &queue).await;
    nothing_is_taken_over(&survivor, &queue).await;

    drop(gone);
    let began = Instant::now();
    while lease(&survivor, &queue).await.is_empty() {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_pooler_that_drops_all_sessions_costs_no_engine_what_it_holds() {
    let test = "poolers::a_pooler_that_drops_all_sessions_costs_no_engine_what_it_holds";
    let Some(pooler) = Pooler::start("session", "postgres", test).await else {
        return;
    };
    let (survivor, queue) = engine_and_queue().await;
    let holder = PgmqEngine::connect(pooler.config()).await.unwrap();
    // As every consumer does: by the session that listens, an engine hears at once that it was cut off.
    let _wakeups = holder.wakeups(&queue).await.unwrap();
    publish(&survivor, &queue, &["1"]).await;
    let held = lease_one(&holder, &queue).await;

    let mut other = PgConnection::connect_with(&pooler.options()).await.unwrap();
    pooler.drop_sessions(Duration::from_millis(50)).await;
    assert!(other.execute("SELECT 1").await.is_err(), "it was dropped");
    nothing_is_taken_over(&survivor, &queue).await;

    let settled = holder.settle(&queue, vec![(held.receipt, ack())]).await;
    let settled = settled.unwrap();
    assert!(matches!(&*settled, [SettleOutcome::Done]), "{settled:?}");
}

/// What the doctor finds of a check.
async fn finding(pooler: &Pooler, check: &str) -> Finding {
    let options = DoctorOptions::default();
    let findings = PgmqEngine::diagnose(&pooler.config(), &options).await;
    let all = format!("{findings:#?}");
    let mut found = findings.into_iter().filter(|one| one.check == check);
    found.next().unwrap_or_else(|| panic!("{all}"))
}

#[tokio::test]
async fn the_doctor_tells_how_a_pooler_shares_sessions() {
    let test = "poolers::the_doctor_tells_how_a_pooler_shares_sessions";
    for (mode, severity, says) in [
        ("session", Severity::Ok, "keeps its session"),
        ("transaction", Severity::Error, "a pooler shares sessions"),
    ] {
        let Some(pooler) = Pooler::start(mode, "postgres", test).await else {
            return;
        };
        let found = finding(&pooler, "pooler").await;
        assert_eq!(found.severity, severity, "{mode}: {found:?}");
        assert!(found.evidence.contains(says), "{mode}: {found:?}");
        assert_eq!(found.advice.is_some(), severity > Severity::Ok, "{found:?}");
    }
}

/// Statements that other clients have prepared stand in the sessions that it is given.
#[tokio::test]
async fn the_doctor_tells_of_shared_sessions_in_which_others_have_prepared() {
    let test = "poolers::the_doctor_tells_of_shared_sessions_in_which_others_have_prepared";
    let Some(pooler) = Pooler::start("transaction", "postgres", test).await else {
        return;
    };
    for _ in 0..3 {
        let mut other = PgConnection::connect_with(&pooler.options()).await.unwrap();
        let _ = sqlx::query("SELECT 1").execute(&mut other).await;
        let found = finding(&pooler, "pooler").await;
        assert_eq!(found.severity, Severity::Error, "{found:?}");
    }
}

#[tokio::test]
async fn transaction_pooling_is_refused_and_leaves_nothing_behind() {
    let url = fresh_database().await;
    let database = url
        .split_once("localhost:")
        .unwrap()
        .1
        .split(['/', '?'])
        .nth(1)
        .unwrap();

    let test = "poolers::transaction_pooling_is_refused_and_leaves_nothing_behind";
    let Some(pooler) = Pooler::start("transaction", database, test).await else {
        return;
    };
    // An application's pool says where to connect, too.
    let pool = PgPool::connect_lazy_with(pooler.options());

    for config in [pooler.config(), PgmqConfig::pool(pool)] {
        let error = PgmqEngine::connect(config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(
            error
                .to_string()
                .contains("EZQ_DATABASE_URL lead to the server itself"),
            "{error}"
        );
    }

    let mut own = PgConnection::connect_with(&pooler.options()).await.unwrap();
    let made = "SELECT to_regnamespace('pgmq') IS NOT NULL OR to_regnamespace('ezq') IS NOT NULL";
    assert!(!scalar::<bool>(&mut own, made).await);
    own.execute("SELECT 1").await.unwrap();
}
