//! Users with a key: files with credentials, and the variables of the `nats` program.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ezq::broker::Sink;
use ezq::engine::Engine as _;
use ezq::{ErrorKind, QueueName};
use ezq_nats::{JetStreamEngine, NatsConfig, NatsSink};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::log::Log;
use crate::server::{Server, Version};

/// An operator with an account for its servers and one for users, as `nsc` makes them.
struct Operator {
    own: KeyPair,
    system: KeyPair,
    account: KeyPair,
}

impl Operator {
    fn new() -> Self {
        Self {
            own: KeyPair::new_operator(),
            system: KeyPair::new_account(),
            account: KeyPair::new_account(),
        }
    }

    /// The configuration of a server that trusts this operator.
    fn config(&self) -> String {
        let operator = claims("operator", &self.own, &self.own, json!({}));
        let account = |account: &KeyPair, jetstream: i64| {
            let limits = json!({
                "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1,
                "leaf": -1, "wildcards": true, "mem_storage": jetstream, "disk_storage": jetstream,
                "streams": jetstream, "consumer": jetstream,
            });
            claims("account", account, &self.own, json!({ "limits": limits }))
        };
        format!(
            "operator: {operator}\nsystem_account: {}\nresolver: MEMORY\n\
             resolver_preload {{\n{}: {}\n{}: {}\n}}",
            self.system.public_key(),
            self.system.public_key(),
            // The server's own account has no JetStream.
            account(&self.system, 0),
            self.account.public_key(),
            account(&self.account, -1),
        )
    }

    /// A file for a new user.
    fn credentials(&self, name: &str) -> Credentials {
        let user = KeyPair::new_user();
        let more = json!({ "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {} });
        let jwt = claims("user", &user, &self.account, more);
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let process = std::process::id();
        let path = std::env::temp_dir().join(format!("ezq-nats-{process}-{name}.creds"));
        std::fs::write(&path, text).unwrap();
        Credentials { path, jwt, seed }
    }
}

/// A file, removed when this is dropped.
struct Credentials {
    path: PathBuf,
    jwt: String,
    seed: String,
}

impl Credentials {
    /// Checks that a text does not tell of them.
    fn are_not_in(&self, text: &str) {
        assert!(!text.contains(&self.seed), "{text}");
        assert!(!text.contains(&self.jwt), "{text}");
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A signed statement of one key about another, as a JWT.
fn claims(kind: &str, about: &KeyPair, by: &KeyPair, mut more: Value) -> String {
    more["type"] = kind.into();
    more["version"] = 2.into();
    let body = json!({
        "jti": about.public_key(), "iat": 1_700_000_000, "name": kind,
        "iss": by.public_key(), "sub": about.public_key(), "nats": more,
    });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let [header, body] = [header, body].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let signed = format!("{header}.{body}");
    let signature = URL_SAFE_NO_PAD.encode(by.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn with_file(server: &Server, path: &Path) -> NatsConfig {
    let config = NatsConfig::new(&server.url()).unwrap();
    config.credentials_file(path)
}

#[tokio::test]
async fn a_credentials_file_is_taken_and_not_told() {
    let test = "users::a_credentials_file_is_taken_and_not_told";
    let operator = Operator::new();
    let Some(server) = Server::start(test, Version::V2_15, &operator.config()) else {
        return;
    };
    let log = Log::keep();
    let right = operator.credentials("right");
    let config = with_file(&server, &right.path);
    let sink = NatsSink::connect_with(&config).await.unwrap();
    let sink = sink.stream("STEPS", &["steps.>"]).await.unwrap();
    let sent = sink.send(&[crate::sending::message("steps.a", 0)]).await;
    sent.unwrap();
    right.are_not_in(&format!("{config:?} {sink:?} {}", log.text()));

    // A user of an account that the server does not know.
    let wrong = Operator::new().credentials("wrong");
    let config = with_file(&server, &wrong.path);
    let error = NatsSink::connect_with(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert!(
        error.to_string().contains("the credentials file"),
        "{error}"
    );
    wrong.are_not_in(&format!("{error:?} {}", log.text()));

    // One that connects later says the same.
    let lazy = NatsSink::connect_lazily(&config).await.unwrap();
    let error = lazy.health_check().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    wrong.are_not_in(&format!("{error:?} {}", log.text()));
}

#[tokio::test]
async fn a_file_that_holds_no_credentials_is_refused_without_its_text() {
    let process = std::process::id();
    let path = std::env::temp_dir().join(format!("ezq-nats-{process}-broken.creds"));
    let log = Log::keep();
    for text in [
        "",
        "secret-word",
        "-----BEGIN NATS USER JWT-----\nsecret-word\n",
    ] {
        std::fs::write(&path, text).unwrap();
        let config = NatsConfig::new("nats://127.0.0.1:1").unwrap();
        let config = config.credentials_file(&path);
        let error = NatsSink::connect_with(&config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
        assert!(error.to_string().contains("broken.creds"), "{error}");
        assert!(!format!("{error:?}").contains("secret-word"), "{error:?}");
    }
    drop(log);
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn passwords_and_tokens_stand_in_no_log() {
    let test = "users::passwords_and_tokens_stand_in_no_log";
    for (config, user) in [
        (r#"user: ada, password: "right-word""#, "ada:right-word"),
        (r#"token: "right-word""#, "right-word"),
    ] {
        let config = format!("authorization {{ {config} }}");
        let Some(server) = Server::start(test, Version::V2_15, &config) else {
            return;
        };
        let log = Log::keep();
        let url = |user: &str| server.url().replace("nats://", &format!("nats://{user}@"));
        NatsSink::connect(&url(user)).await.unwrap();
        let wrong = user.replace("right-word", "secret-word");
        let error = NatsSink::connect(&url(&wrong)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");

        let text = format!("{error:?} {}", log.text());
        assert!(!text.contains("secret-word"), "{text}");
        assert!(!text.contains("right-word"), "{text}");
    }
}

#[tokio::test]
async fn a_queue_that_is_there_needs_no_right_to_create_one() {
    let test = "users::a_queue_that_is_there_needs_no_right_to_create_one";
    let users = r#"authorization { users: [
        { user: admin, password: "right-word" }
        { user: worker, password: "right-word", permissions: {
            publish: { deny: ["$JS.API.STREAM.CREATE.>", "$JS.API.CONSUMER.DURABLE.CREATE.>"] } } }
    ] }"#;
    let Some(server) = Server::start(test, Version::V2_15, users) else {
        return;
    };
    let queue = QueueName::new("orders").unwrap();
    for user in ["admin", "worker"] {
        let user = format!("nats://{user}:right-word@");
        let config = NatsConfig::new(&server.url().replace("nats://", &user)).unwrap();
        let engine = JetStreamEngine::builder(config).connect().await.unwrap();
        engine.ensure_queue(&queue).await.unwrap();
    }
}

/// The variable that makes a process one that connects by those of `nats`.
const ROLE: &str = "CONNECTS_BY_VARIABLES";

/// Not a test: what such a process runs. In the test run itself it has nothing to do.
#[tokio::test]
async fn connects_by_variables() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let config = NatsConfig::from_environment().unwrap();
    NatsSink::connect_with(&config).await.unwrap();
}

/// Whether a process with these variables can connect.
fn connects(variables: &[(&str, &str)]) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "users::connects_by_variables"]);
    for name in ["URL", "USER", "PASSWORD", "TOKEN", "CREDS", "CA"] {
        child.env_remove(format!("NATS_{name}"));
    }
    child.env(ROLE, "yes").envs(variables.iter().copied());
    child.output().unwrap().status.success()
}

#[test]
fn the_variables_of_the_nats_program_say_who_connects() {
    let test = "users::the_variables_of_the_nats_program_say_who_connects";
    let user = r#"authorization { user: ada, password: "right-word" }"#;
    let Some(server) = Server::start(test, Version::V2_15, user) else {
        return;
    };
    let url = server.url();
    let of_ada = |password| {
        let all = [
            ("NATS_URL", &*url),
            ("NATS_USER", "ada"),
            ("NATS_PASSWORD", password),
        ];
        connects(&all)
    };
    assert!(of_ada("right-word"));
    assert!(!of_ada("wrong-word"));
    assert!(!connects(&[("NATS_USER", "ada")]));

    let token = r#"authorization { token: "right-word" }"#;
    let server = Server::start(test, Version::V2_15, token).unwrap();
    let url = server.url();
    assert!(connects(&[
        ("NATS_URL", &url),
        ("NATS_TOKEN", "right-word")
    ]));
    assert!(!connects(&[
        ("NATS_URL", &url),
        ("NATS_TOKEN", "wrong-word")
    ]));

    let operator = Operator::new();
    let server = Server::start(test, Version::V2_15, &operator.config()).unwrap();
    let url = server.url();
    let file = operator.credentials("variables");
    let path = file.path.display().to_string();
    assert!(connects(&[("NATS_URL", &url), ("NATS_CREDS", &path)]));
    assert!(!connects(&[("NATS_URL", &url)]));
}
