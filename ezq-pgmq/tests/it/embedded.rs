//! The development Postgres leaves nothing behind, however its process ends.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ezq_core::ErrorKind;
use ezq_pgmq::embedded::EmbeddedPostgres;
use sqlx::{Connection as _, PgConnection};

use crate::support::*;

pub(crate) const HOLD: &str = "EZQ_TEST_HOLD_SERVER";
const PATIENCE: Duration = Duration::from_secs(30);

fn folder_of(url: &str) -> PathBuf {
    let (_, rest) = url.split_once("host=").unwrap();
    PathBuf::from(rest.split('&').next().unwrap())
}

async fn pid_of(url: &str) -> u32 {
    let mut own = PgConnection::connect(url).await.unwrap();
    let file = "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int";
    u32::try_from(scalar::<i32>(&mut own, file).await).unwrap()
}

async fn wait_until_gone(folder: PathBuf, pid: u32) {
    let began = Instant::now();
    let process = PathBuf::from(format!("/proc/{pid}"));
    while folder.exists() || process.exists() {
        assert!(began.elapsed() < PATIENCE, "{}", folder.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A process that holds a server, told to by the environment.
struct Holder {
    process: Child,
    url: String,
    /// The server's own.
    pid: u32,
}

impl Holder {
    /// Its temporary files go into a folder of its own, so that no other test's start finds them.
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
        let line = lines
            .map(Result::unwrap)
            .find(|line| line.contains("holding "))
            .unwrap();
        let mut words = line.split("holding ").nth(1).unwrap().split(' ');
        let url = words.next().unwrap().to_owned();
        let pid = words.next().unwrap();

        Self {
            process,
            url,
            pid: pid.parse().unwrap(),
        }
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

/// A folder for temporary files, also for the account that root's servers run under.
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Temporary {
    pub(crate) fn make() -> Self {
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
    // The name, in brackets, may contain anything.
    stat.rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

fn kill_hard(pid: u32) {
    assert!(
        Command::new("kill")
            .args(["-KILL", &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
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
        let names: Vec<&str> = entries
            .map(|entry| entry.split_once('=').unwrap().0)
            .collect();
        assert!(
            names.contains(&"LC_ALL"),
            "this is no environment: {names:?}"
        );

        // The last four are a shell's own.
        let known = [
            "PATH",
            "LD_LIBRARY_PATH",
            "LC_ALL",
            "TZ",
            "PWD",
            "OLDPWD",
            "SHLVL",
            "_",
        ];
        assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_process_left_that_was_killed_with_its_watchdog_is_removed_by_the_next_start() {
    let temporary = Temporary::make();
    let mut killed = Holder::start(&temporary.0);
    kill_hard(killed.watchdog());
    killed.kill();
    assert!(killed.folder().exists());
    assert_ne!(
        Path::new("/proc")
            .join(killed.pid.to_string())
            .canonicalize()
            .ok(),
        None
    );

    let next = Holder::start(&temporary.0);
    // The start itself waits for it, so that it does not run beside the program.
    assert!(!killed.folder().exists());

    wait_until_gone(killed.folder(), killed.pid).await;
    assert!(next.folder().exists());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_process_left_that_was_killed_while_its_server_was_made_is_removed() {
    let temporary = Temporary::make();
    let mut killed = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::holds_a_server"])
        .env(HOLD, "1")
        .env("TMPDIR", &temporary.0)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();

    let began = Instant::now();
    let initdb = loop {
        assert!(began.elapsed() < PATIENCE, "no initdb");
        if let Some(initdb) = process_named("initdb", &temporary.0) {
            break initdb;
        }
    };
    kill_hard(parent_of(initdb));
    killed.kill().unwrap();
    killed.wait().unwrap();

    let left = std::fs::read_dir(&temporary.0)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();

    let _next = Holder::start(&temporary.0);
    wait_until_gone(left, initdb).await;
}

/// The newest process of a program whose arguments name a folder.
fn process_named(program: &str, folder: &Path) -> Option<u32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find_map(|process| {
            let name = std::fs::read_to_string(process.path().join("comm")).ok()?;
            let line = std::fs::read(process.path().join("cmdline")).ok()?;
            let is_it = name.trim_end() == program
                && String::from_utf8_lossy(&line).contains(folder.to_str().unwrap());

            if is_it {
                process.file_name().to_str()?.parse().ok()
            } else {
                None
            }
        })
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_start_leaves_alone_what_has_an_owner_or_is_another_s() {
    let temporary = Temporary::make();
    let owned = Holder::start(&temporary.0);
    kill_hard(owned.watchdog());

    let precious = temporary.0.join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("file"), "kept").unwrap();

    let link = temporary.0.join("ezq-postgres-1-00000000");
    std::os::unix::fs::symlink(&precious, &link).unwrap();
    let unlike = temporary.0.join("ezq-postgres-1-mine");
    std::fs::create_dir(&unlike).unwrap();

    // The account differs only where the caller is root.
    let of_root = temporary.0.join("ezq-postgres-1-00000001");
    let gives_way = std::fs::metadata(&temporary.0).unwrap().uid() == 0;
    if gives_way {
        std::fs::create_dir(&of_root).unwrap();
    }

    let _next = Holder::start(&temporary.0);
    let mut own = PgConnection::connect(&owned.url).await.unwrap();
    assert_eq!(scalar::<i32>(&mut own, "SELECT 1").await, 1);
    assert_eq!(
        std::fs::read_to_string(precious.join("file")).unwrap(),
        "kept"
    );
    assert!(link.is_symlink() && unlike.exists());
    assert!(of_root.exists() || !gives_way);

    let folder = owned.folder();
    let pid = owned.pid;
    drop(owned);
    let _last = Holder::start(&temporary.0);
    wait_until_gone(folder, pid).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn nothing_is_left_after_a_drop_though_the_watchdog_was_killed() {
    let server = EmbeddedPostgres::builder().start().await.unwrap();
    let folder = folder_of(&server.url());
    let pid = pid_of(&server.url()).await;
    kill_hard(parent_of(pid));
    tokio::task::spawn_blocking(|| drop(server)).await.unwrap();
    assert!(!folder.exists());
    wait_until_gone(folder, pid).await;
}

// What a `Holder` runs. By itself it does nothing.
#[tokio::test]
async fn holds_a_server() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let server = EmbeddedPostgres::shared().await.unwrap();
    let pid = pid_of(&server.url()).await;
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
    assert_eq!(
        std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
        0o700
    );

    let mut own = PgConnection::connect_with(&server.connect_options())
        .await
        .unwrap();
    assert_eq!(
        scalar::<String>(&mut own, "SHOW max_connections").await,
        "17"
    );
    assert_eq!(scalar::<String>(&mut own, "SHOW fsync").await, "on");
    assert_eq!(
        scalar::<String>(&mut own, "SHOW listen_addresses").await,
        ""
    );

    let pid = pid_of(&server.url()).await;
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
    assert_eq!(
        builder.start().await.unwrap_err().kind(),
        ErrorKind::Configuration
    );

    let error = EmbeddedPostgres::builder()
        .setting("no_such_setting", "1")
        .start()
        .await;
    let error = error.unwrap_err();
    assert!(
        ezq_core::error::error_chain(&error).contains("no_such_setting"),
        "{error:?}"
    );
}
