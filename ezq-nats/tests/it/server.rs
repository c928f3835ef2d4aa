//! A server of a test's own, on a port and in a folder of its own.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use async_nats::jetstream;

/// The versions of nats-server that the tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// Debian's, without schedules and atomic batches.
    V2_9,
    /// That of `.ci/server`.
    V2_15,
}

pub(crate) const BOTH: [Version; 2] = [Version::V2_9, Version::V2_15];

impl Version {
    /// The program, if the machine has it or can get it.
    fn program(self) -> Option<PathBuf> {
        static DEBIAN: OnceLock<Option<PathBuf>> = OnceLock::new();
        static NEWEST: OnceLock<Option<PathBuf>> = OnceLock::new();
        let found = match self {
            Self::V2_9 => DEBIAN.get_or_init(|| {
                let places = ["/usr/sbin/nats-server", "/usr/bin/nats-server"];
                let mut places = places.iter().map(PathBuf::from);
                places.find(|path| path.exists())
            }),
            Self::V2_15 => NEWEST.get_or_init(|| {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/server");
                let printed = Command::new(script).arg("nats-server").output().ok()?;
                let path = String::from_utf8(printed.stdout).ok()?;
                printed.status.success().then(|| path.trim().into())
            }),
        };
        found.clone()
    }

    /// The program. `None`, with a line on stderr, if the machine has no such server.
    fn demand(self, test: &str) -> Option<PathBuf> {
        let program = self.program();
        if program.is_none() {
            let demanded = std::env::var_os("REQUIRE_ALL_TESTS").is_some();
            assert!(!demanded, "{test} needs a nats-server {self:?}");
            eprintln!(
                "SKIPPED {test}: nats-server {self:?} is missing (Debian: nats-server; \
                 newer: .ci/server nats-server)"
            );
        }
        program
    }
}

/// Kept alive for a test; killed when it is dropped.
pub(crate) struct Server {
    port: u16,
    folder: PathBuf,
    program: PathBuf,
    starts: u32,
    child: Child,
}

impl Server {
    /// Starts a server with JetStream; `config` is added to its configuration. `None`, with a line on
    /// stderr, if the machine has no such server.
    pub(crate) fn start(test: &str, version: Version, config: &str) -> Option<Self> {
        let program = version.demand(test)?;
        Some(Self::of(program, version, free_port(), config))
    }

    /// Starts servers that keep streams together, the first of them by the name `node-0`. `config` is added
    /// to the configuration of each.
    pub(crate) fn cluster(test: &str, count: usize, config: &str) -> Option<Vec<Self>> {
        let version = Version::V2_15;
        let program = version.demand(test)?;
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let routes: Vec<String> = ports
            .iter()
            .map(|port| format!("\"nats://127.0.0.1:{port}\""))
            .collect();
        let routes = routes.join(", ");

        let nodes = ports.iter().enumerate().map(|(place, port)| {
            let config = format!(
                "server_name: node-{place}\n{config}\n\
                 cluster {{ name: nodes, listen: \"127.0.0.1:{port}\", routes: [{routes}] }}"
            );
            Self::of(program.clone(), version, free_port(), &config)
        });
        Some(nodes.collect())
    }

    fn of(program: PathBuf, version: Version, port: u16, config: &str) -> Self {
        let process = std::process::id();
        let folder = std::env::temp_dir().join(format!("ezq-nats-{process}-{port}"));
        std::fs::create_dir_all(&folder).unwrap();

        let mut text = String::new();
        writeln!(text, "listen: \"127.0.0.1:{port}\"").unwrap();
        // Each write reaches the disk before it is confirmed, where the server has the option.
        let sync = if version == Version::V2_15 {
            "sync_interval: always"
        } else {
            ""
        };
        let store = folder.display();
        writeln!(
            text,
            "jetstream {{\nstore_dir: \"{store}\"\n{sync}\n}}\n{config}"
        )
        .unwrap();
        std::fs::write(folder.join("server.conf"), text).unwrap();

        let child = spawn(&program, &folder, 1);
        Self {
            port,
            folder,
            program,
            starts: 1,
            child,
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// A connection of the test's own.
    pub(crate) async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.url()).await.unwrap())
    }

    /// Kills the server as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal to the server's process.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let mut kill = Command::new("kill");
        kill.args([&format!("-{name}"), &id]);
        assert!(kill.status().unwrap().success());
    }

    /// Starts it again, on the same port and with what it had written.
    pub(crate) fn restart(&mut self) {
        self.starts += 1;
        self.child = spawn(&self.program, &self.folder, self.starts);
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

/// Starts a server and waits until it takes connections.
fn spawn(program: &Path, folder: &Path, start: u32) -> Child {
    let log = folder.join(format!("{start}.log"));
    let mut child = Command::new(program)
        .arg("--config")
        .arg(folder.join("server.conf"))
        .arg("--log")
        .arg(&log)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        if text.contains("Server is ready") {
            return child;
        }
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "the server ended, {ended:?}: {text}");
        let is_late = began.elapsed() > Duration::from_secs(60);
        assert!(!is_late, "the server is not ready: {text}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
