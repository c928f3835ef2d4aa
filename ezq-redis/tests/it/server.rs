//! A server of a test's own, on a port and in a folder of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Client, Connection};

/// Kept alive for a test; killed when it is dropped.
pub(crate) struct Server {
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

        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let process = std::process::id();
        let folder = std::env::temp_dir().join(format!("ezq-redis-{process}-{port}"));
        std::fs::create_dir_all(&folder).unwrap();

        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let child = spawn(port, &folder, &options);
        let server = Self {
            port,
            folder,
            options,
            child,
        };
        server.wait();
        Some(server)
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
        self.child = spawn(self.port, &self.folder, &self.options);
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

fn spawn(port: u16, folder: &PathBuf, options: &[String]) -> Child {
    Command::new("redis-server")
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
