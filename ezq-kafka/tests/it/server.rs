//! Brokers of a test's own, on ports of their own.
//!
//! [`Cluster`] is librdkafka's own in-memory cluster. It keeps what it stored while its brokers are down, and
//! fails as it is told. [`Server`] is another implementation of the protocol, in a process of its own.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// The variable that makes a process a cluster.
const ROLE: &str = "CLUSTER_PROCESS";
/// What its answers begin with, among what the test harness prints.
const ANSWER: &str = "cluster: ";

/// Three brokers in a process of their own. In that of a test, a connection would outlive its end in the
/// children that were started meanwhile.
pub(crate) struct Cluster {
    brokers: String,
    process: Mutex<Process>,
}

struct Process {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn answer(&mut self) -> String {
        loop {
            let line = self.answers.next().unwrap().unwrap();
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return answer.to_owned();
            }
        }
    }
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server::cluster", "--nocapture"])
            .env(ROLE, "yes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Process {
            orders: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        };
        Self {
            brokers: process.answer(),
            process: Mutex::new(process),
        }
    }

    /// Does something to the brokers, and waits until it is done.
    fn order(&self, order: &str) {
        let mut process = self.process.lock().unwrap();
        writeln!(process.orders, "{order}").unwrap();
        assert_eq!(process.answer(), "done", "{order}");
    }

    pub(crate) fn brokers(&self) -> String {
        self.brokers.clone()
    }

    pub(crate) fn url(&self) -> String {
        format!("kafka://{}", self.brokers)
    }

    pub(crate) fn create_topic(&self, topic: &str, partitions: i32) {
        self.order(&format!("create\t{topic}\t{partitions}"));
    }

    /// Lets the next produce requests fail, one each.
    pub(crate) fn fail_produces(&self, errors: &[RDKafkaRespErr]) {
        for error in errors {
            self.order(&format!("fail\t{}", *error as i32));
        }
    }

    /// Lets every question for a topic fail, until it is given no error.
    pub(crate) fn fail_topic(&self, topic: &str, error: RDKafkaRespErr) {
        self.order(&format!("topic\t{topic}\t{}", error as i32));
    }

    /// Cuts all connections and takes no new ones.
    pub(crate) fn go_down(&self) {
        self.order("down");
    }

    pub(crate) fn come_up(&self) {
        self.order("up");
    }

    pub(crate) fn answer_after(&self, delay: Duration) {
        self.order(&format!("delay\t{}", delay.as_millis()));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut process = self.process.lock().unwrap();
        let _ = process.child.kill();
        let _ = process.child.wait();
    }
}

/// Not a test: what a cluster's process runs. It ends with its orders.
#[test]
fn cluster() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let brokers = MockCluster::new(3).unwrap();
    println!("{ANSWER}{}", brokers.bootstrap_servers());
    for order in std::io::stdin().lines() {
        let order = order.unwrap();
        let words: Vec<&str> = order.split('\t').collect();
        match words[..] {
            ["create", topic, partitions] => {
                let partitions = partitions.parse().unwrap();
                brokers.create_topic(topic, partitions, 3).unwrap();
            }
            ["fail", code] => brokers.request_errors(RDKafkaApiKey::Produce, &[fault(code)]),
            ["topic", topic, code] => brokers.topic_error(topic, fault(code)).unwrap(),
            ["down"] => brokers.broker_down(-1).unwrap(),
            ["up"] => brokers.broker_up(-1).unwrap(),
            ["delay", millis] => {
                let delay = Duration::from_millis(millis.parse().unwrap());
                brokers.broker_round_trip_time(-1, delay).unwrap();
            }
            _ => panic!("unknown: {order}"),
        }
        println!("{ANSWER}done");
    }
}

/// The faults that tests use.
fn fault(code: &str) -> RDKafkaRespErr {
    let code: i32 = code.parse().unwrap();
    let all = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
    ];
    all.into_iter().find(|fault| *fault as i32 == code).unwrap()
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
    options: Vec<String>,
    folder: PathBuf,
    child: Child,
}

impl Server {
    /// Starts a server. `None`, with a line on stderr, if the machine cannot get the program.
    pub(crate) fn start(test: &str, program: Program) -> Option<Self> {
        Self::with_options(test, program, Vec::new())
    }

    /// Starts Tansu, which tells its clients of another address than its own.
    pub(crate) fn known_as(test: &str, hosts: &str) -> Option<Self> {
        let option = format!("--advertised-listener-url=tcp://{hosts}");
        Self::with_options(test, Program::Tansu, vec![option])
    }

    /// Starts Tansu, which demands a user, and knows none.
    #[cfg(feature = "tls")]
    pub(crate) fn with_users(test: &str) -> Option<Self> {
        let option = "--authentication".to_owned();
        Self::with_options(test, Program::Tansu, vec![option])
    }

    fn with_options(test: &str, program: Program, options: Vec<String>) -> Option<Self> {
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
        let child = spawn(program, &path, port, &folder, &options);
        let server = Self {
            program,
            path,
            port,
            options,
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

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    /// Asks the server to end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        self.child.wait().unwrap();
    }

    /// Starts it again, on the same port and with what it had written.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(
            self.program,
            &self.path,
            self.port,
            &self.folder,
            &self.options,
        );
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

fn spawn(program: Program, path: &Path, port: u16, folder: &Path, options: &[String]) -> Child {
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
        Program::Tansu => {
            let own = format!("tcp://127.0.0.1:{port}");
            command.args(["broker", &format!("--listener-url={own}")]);
            if !options.iter().any(|one| one.starts_with("--advertised")) {
                command.arg(format!("--advertised-listener-url={own}"));
            }
            &mut command
        }
    };
    command
        .args(options)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
