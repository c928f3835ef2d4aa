//! Brokers of a test's own, on ports of their own.
//!
//! [`Cluster`] is librdkafka's own in-memory cluster. It keeps what it stored while its brokers are down, and
//! fails as it is told. [`Server`] is another implementation of the protocol, in a process of its own.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// Three brokers, all in one.
pub(crate) struct Cluster(MockCluster<'static, DefaultProducerContext>);

impl Cluster {
    pub(crate) fn start() -> Self {
        Self(MockCluster::new(3).unwrap())
    }

    pub(crate) fn brokers(&self) -> String {
        self.0.bootstrap_servers()
    }

    pub(crate) fn url(&self) -> String {
        format!("kafka://{}", self.brokers())
    }

    pub(crate) fn create_topic(&self, topic: &str, partitions: i32) {
        self.0.create_topic(topic, partitions, 3).unwrap();
    }

    /// Lets the next produce requests fail, one each.
    pub(crate) fn fail_produces(&self, errors: &[RDKafkaRespErr]) {
        self.0.request_errors(RDKafkaApiKey::Produce, errors);
    }

    /// Lets every question for a topic fail, until it is given no error.
    pub(crate) fn fail_topic(&self, topic: &str, error: RDKafkaRespErr) {
        self.0.topic_error(topic, error).unwrap();
    }

    /// Cuts all connections and takes no new ones.
    pub(crate) fn go_down(&self) {
        self.0.broker_down(-1).unwrap();
    }

    pub(crate) fn come_up(&self) {
        self.0.broker_up(-1).unwrap();
    }

    pub(crate) fn answer_after(&self, delay: Duration) {
        self.0.broker_round_trip_time(-1, delay).unwrap();
    }
}

/// A program that speaks the protocol.
#[derive(Clone, Copy)]
pub(crate) enum Program {
    /// Writes what it has to its folder when it is asked to end.
    Noida,
    /// Keeps all in memory.
    Tansu,
}

/// Kept alive for a test; killed when it is dropped.
pub(crate) struct Server {
    program: Program,
    path: PathBuf,
    port: u16,
    folder: PathBuf,
    child: Child,
}

impl Server {
    /// Starts a server. `None`, with a line on stderr, if the machine cannot get the program.
    pub(crate) fn start(test: &str, program: Program) -> Option<Self> {
        let name = match program {
            Program::Noida => "noida-db",
            Program::Tansu => "tansu",
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/server");
        let printed = Command::new(script).arg(name).output().ok();
        let printed = printed.filter(|printed| printed.status.success());
        let Some(printed) = printed else {
            let demanded = std::env::var_os("REQUIRE_ALL_TESTS").is_some();
            assert!(!demanded, "{test} needs {name}");
            eprintln!("SKIPPED {test}: {name} is missing (.ci/server {name})");
            return None;
        };
        let path = PathBuf::from(String::from_utf8(printed.stdout).unwrap().trim());

        let port = free_port();
        let process = std::process::id();
        let folder = std::env::temp_dir().join(format!("ezq-kafka-{process}-{port}"));
        std::fs::create_dir_all(&folder).unwrap();
        let child = spawn(program, &path, port, &folder);
        let server = Self {
            program,
            path,
            port,
            folder,
            child,
        };
        server.wait();
        Some(server)
    }

    pub(crate) fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("kafka://{}", self.brokers())
    }

    /// Asks the server to end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status().unwrap();
        assert!(asked.success());
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same port and with what it had written.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.program, &self.path, self.port, &self.folder);
        self.wait();
    }

    fn wait(&self) {
        let began = Instant::now();
        while TcpStream::connect(self.brokers()).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "it is not there");
            std::thread::sleep(Duration::from_millis(20));
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

fn spawn(program: Program, path: &Path, port: u16, folder: &Path) -> Child {
    let mut command = Command::new(path);
    match program {
        Program::Noida => command
            .args([
                "start",
                "--only",
                "kafka",
                "--kafka-port",
                &port.to_string(),
            ])
            .arg("--data-dir")
            .arg(folder),
        Program::Tansu => command.args([
            "broker",
            &format!("--listener-url=tcp://127.0.0.1:{port}"),
            &format!("--advertised-listener-url=tcp://127.0.0.1:{port}"),
        ]),
    };
    command
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
