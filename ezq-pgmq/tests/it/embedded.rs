//! The development Postgres leaves nothing behind, however its process ends.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
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

async fn wait_until_gone(folder: PathBuf, pid: u32) {
    let began = Instant::now();
    let process = PathBuf::from(format!("/proc/{pid}"));
    while folder.exists() || process.exists() {
        assert!(began.elapsed() < Duration::from_secs(5), "{}", folder.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A process that holds a server, told by the environment to do so.
struct Holder {
    process: Child,
    url: String,
    /// The server's own.
    pid: u32,
}

impl Holder {
    /// Its temporary files go into a folder of its own, so that no other test's start meets them.
    fn start(temporary: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::holds_a_server", "--nocapture"])
            .env(HOLD, "1")
            .env("TMPDIR", temporary)
            .env("ORDERS_API_KEY", "hunter2")
            .env("PGOPTIONS", "-c search_path=nowhere")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.map(Result::unwrap).find(|line| line.contains("holding ")).unwrap();
        let mut words = line.split("holding ").nth(1).unwrap().split(' ');
        let (url, pid) = (words.next().unwrap().to_owned(), words.next().unwrap());
        Self { process, url, pid: pid.parse().unwrap() }
    }

    fn folder(&self) -> PathBuf {
        folder_of(&self.url)
    }

    fn watchdog(&self) -> u32 {
        parent_of(self.pid)
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A folder for temporary files, also for the account that servers of root run under.
struct Temporary(PathBuf);

impl Temporary {
    fn make() -> Self {
        let name = format!("ezq-test-{}-{}", std::process::id(), unique("tmp"));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn parent_of(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in brackets, may hold anything.
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn kill_hard(pid: u32) {
    assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn nothing_is_left_after_sigkill() {
    let temporary = Temporary::make();
    let mut holder = Holder::start(&temporary.0);
    assert!(holder.folder().exists());
    holder.kill();
    wait_until_gone(holder.folder(), holder.pid).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn server_and_watchdog_get_none_of_the_environment_but_where_programs_are() {
    let temporary = Temporary::make();
    let holder = Holder::start(&temporary.0);
    for pid in [holder.pid, holder.watchdog()] {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8(environment).unwrap();
        let entries = environment.split_terminator('\0');
        let names: Vec<&str> = entries.map(|entry| entry.split_once('=').unwrap().0).collect();
        assert!(names.contains(&"LC_ALL"), "this is no environment: {names:?}");
        // The last four are a shell's own.
        let known = ["PATH", "LD_LIBRARY_PATH", "LC_ALL", "TZ", "PWD", "OLDPWD", "SHLVL", "_"];
        assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    }
}

// What a `Holder` runs; on its own it has nothing to do.
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
    wait_until_gone(folder, u32::try_from(pid).unwrap()).await;
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
