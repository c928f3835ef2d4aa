//! Servers that are absent, refuse the user, come late or are killed; and what errors tell of secrets.

use std::time::{Duration, Instant};

use ezq::ErrorKind;
use ezq::broker::{SendOutcome, Sink};
use ezq::error::error_chain;
use ezq_nats::{NatsConfig, NatsSink};

use crate::sending::message;
use crate::server::{BOTH, Server, Version, free_port};

#[tokio::test]
async fn a_server_that_is_absent_is_an_error_that_says_what_to_do() {
    let port = free_port();
    let url = format!("nats://ada:secret-word@127.0.0.1:{port}");
    let began = Instant::now();
    let error = NatsSink::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(began.elapsed() < Duration::from_secs(12));
    let text = error_chain(&error);
    assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    assert!(!format!("{error:?}").contains("secret-word"), "{error:?}");

    let config = NatsConfig::new(&url).unwrap();
    let lazy = NatsSink::connect_lazily(&config).await.unwrap();
    let error = lazy.send(&[message("steps.a", 0)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    let error = lazy.health_check().await.unwrap_err();
    assert!(!format!("{error:?} {lazy:?}").contains("secret-word"));
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_told() {
    let test = "connecting::a_wrong_password_is_refused_and_not_told";
    let config = r#"authorization { user: ada, password: "right-word" }"#;
    for version in BOTH {
        let Some(server) = Server::start(test, version, config) else {
            return;
        };
        let wrong = server.url().replace("nats://", "nats://ada:secret-word@");
        let error = NatsSink::connect(&wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
        assert!(!format!("{error:?}").contains("secret-word"), "{error:?}");

        let config = NatsConfig::new(&server.url()).unwrap();
        let config = config.user_and_password("ada", "right-word");
        let sink = NatsSink::connect_with(&config).await.unwrap();
        sink.health_check().await.unwrap();
    }
}

#[tokio::test]
async fn a_token_is_taken_and_not_told() {
    let test = "connecting::a_token_is_taken_and_not_told";
    let config = r#"authorization { token: "right-word" }"#;
    let Some(server) = Server::start(test, Version::V2_15, config) else {
        return;
    };
    let url = |token: &str| server.url().replace("nats://", &format!("nats://{token}@"));
    NatsSink::connect(&url("right-word")).await.unwrap();
    let error = NatsSink::connect(&url("secret-word")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert!(!format!("{error:?}").contains("secret-word"), "{error:?}");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_is_refused_without_its_password() {
    for url in [
        "",
        "postgres://ada:secret-word@localhost",
        "nats://ada:secret-word@host:port",
        "nats://ada:secret-word@",
        "nats://one,nats://ada:secret-word@two:port",
    ] {
        let error = NatsConfig::new(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{url}");
        assert!(!format!("{error:?}").contains("secret-word"), "{error:?}");
    }

    let config = NatsConfig::new("nats://127.0.0.1").unwrap();
    let config = config.credentials_file("/nowhere/ada.creds");
    let error = NatsSink::connect_with(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.to_string().contains("/nowhere/ada.creds"), "{error}");
}

#[tokio::test]
async fn a_server_that_comes_late_or_comes_back_gets_the_events() {
    let test = "connecting::a_server_that_comes_late_or_comes_back_gets_the_events";
    for version in BOTH {
        let Some(mut server) = Server::start(test, version, "") else {
            return;
        };
        let sink = NatsSink::connect(&server.url()).await.unwrap();
        let sink = sink.stream("STEPS", &["steps.>"]).await.unwrap();
        server.kill();
        let lazy = NatsConfig::new(&server.url()).unwrap();
        let lazy = NatsSink::connect_lazily(&lazy).await.unwrap();
        let batch = [message("steps.a", 0)];
        // Whether the client has noticed yet or not.
        let outcomes = sink.send(&batch).await.unwrap_or_default();
        assert!(!matches!(outcomes.as_slice(), [SendOutcome::Sent]));

        server.restart();
        for sink in [&sink, &lazy] {
            let began = Instant::now();
            loop {
                let outcomes = sink.send(&batch).await.unwrap_or_default();
                if matches!(outcomes.as_slice(), [SendOutcome::Sent]) {
                    break;
                }
                assert!(began.elapsed() < Duration::from_secs(60), "{outcomes:?}");
            }
        }
    }
}
