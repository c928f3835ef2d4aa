//! The development Postgres leaves nothing behind, however its process ends.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ezq_core::ErrorKind;
use ezq_pgmq::embedded::EmbeddedPostgres;
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

const HOLD: &str = "EZQ_TEST_HOLD_SERVER";

fn folder_of(url: &str) -> PathBuf {
    let (_, rest) = url.split_once("host=").unwrap();
    PathBuf::from(rest.split('&').next().unwrap())
}

async fn wait_until_gone(folder: PathBuf, pid: i32) {
    let began = Instant::now();
    let process = PathBuf::from(format!("/proc/{pid}"));
    while folder.exists() || process.exists() {
        assert!(began.elapsed() < Duration::from_secs(5), "{}", folder.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn nothing_is_left_after_sigkill() {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::holds_a_server", "--nocapture"])
        .env(HOLD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.contains("holding ")).unwrap();
    let mut words = line.split("holding ").nth(1).unwrap().split(' ');
    let (url, pid) = (words.next().unwrap(), words.next().unwrap().parse().unwrap());
    assert!(folder_of(url).exists());
    process.kill().unwrap();
    process.wait().unwrap();
    wait_until_gone(folder_of(url), pid).await;
}

// Started by the test above; on its own it has nothing to do.
#[tokio::test]
async fn holds_a_server() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let server = EmbeddedPostgres::shared().await.unwrap();
    let mut own = PgConnection::connect(&server.url()).await.unwrap();
    let file = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int";
    let pid: i32 = scalar(&mut own, file).await;
    println!("holding {} {pid} .", server.url());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

#[tokio::test]
async fn nothing_is_left_after_a_drop_and_the_folder_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let server = EmbeddedPostgres::builder()
        .durable(true)
        .setting("max_connections", "17")
        .start()
        .await
        .unwrap();
    let folder = folder_of(&server.url());
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let mut own = PgConnection::connect_with(&server.connect_options()).await.unwrap();
    assert_eq!(scalar::<String>(&mut own, "SHOW max_connections").await, "17");
    assert_eq!(scalar::<String>(&mut own, "SHOW fsync").await, "on");
    assert_eq!(scalar::<String>(&mut own, "SHOW listen_addresses").await, "");
    let file = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int";
    let pid: i32 = scalar(&mut own, file).await;
    tokio::task::spawn_blocking(|| drop(server)).await.unwrap();
    wait_until_gone(folder, pid).await;
}

#[tokio::test]
async fn keeps_its_data_over_a_restart_and_a_crash() {
    let server = EmbeddedPostgres::builder().start().await.unwrap();
    let mut own = PgConnection::connect(&server.url()).await.unwrap();
    run(&mut own, "CREATE TABLE t AS SELECT 1 AS n").await;
    for immediate in [false, true] {
        server.stop(immediate).await.unwrap();
        assert!(PgConnection::connect(&server.url()).await.is_err());
        server.start_again().await.unwrap();
        let mut own = PgConnection::connect(&server.url()).await.unwrap();
        assert_eq!(scalar::<i32>(&mut own, "SELECT n FROM t").await, 1);
    }
}

#[tokio::test]
async fn a_setting_that_is_none_is_refused() {
    let builder = EmbeddedPostgres::builder().setting("fsync=off -c x", "1");
    assert_eq!(builder.start().await.unwrap_err().kind(), ErrorKind::Configuration);
    let error = EmbeddedPostgres::builder().setting("no_such_setting", "1").start().await;
    let error = error.unwrap_err();
    assert!(ezq_core::error_chain(&error).contains("no_such_setting"), "{error:?}");
}
