//! Servers that speak TLS: whom the client trusts, who it says it is, and that it sends nothing without TLS.

use std::process::Command;
use std::time::Duration;

use ezq::ErrorKind;
use ezq::broker::{Arrival, SendOutcome, Sink, Source};
use ezq::error::error_chain;
use ezq_nats::{JetStreamEngine, NatsConfig, NatsSink, NatsSource};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::certificates::Certificates;
use crate::processes::until;
use crate::sending::{message, messages};
use crate::server::{BOTH, Server, Version};

/// The part of a server's configuration that makes it speak TLS.
fn encrypted(certificates: &Certificates, more: &str) -> String {
    let path = |file| certificates.path(file).display().to_string();
    format!(
        "tls {{\ncert_file: \"{}\"\nkey_file: \"{}\"\nca_file: \"{}\"\n{more}\n}}",
        path("server.pem"),
        path("server.key"),
        path("authority.pem"),
    )
}

/// A server that speaks TLS, with more in that part of its configuration.
fn start(test: &str, version: Version, more: &str) -> Option<(Server, Certificates)> {
    let certificates = Certificates::make(test)?;
    let server = Server::start(test, version, &encrypted(&certificates, more))?;
    Some((server, certificates))
}

/// The server by the name that stands in its certificate.
fn config(server: &Server) -> NatsConfig {
    let url = server.url().replace("nats://127.0.0.1", "tls://localhost");
    NatsConfig::new(&url).unwrap()
}

/// Checks that a connection failed by its certificates, and says so.
async fn is_refused(config: &NatsConfig) {
    let error = NatsSink::connect_with(config).await.unwrap_err();
    let text = error_chain(&error).to_string();
    assert_eq!(error.kind(), ErrorKind::Connection, "{text}");
    assert!(text.contains("`NatsConfig::root_certificate`"), "{text}");
}

#[tokio::test]
async fn sink_source_and_engine_trust_the_authority_that_they_are_given() {
    let test = "tls::sink_source_and_engine_trust_the_authority_that_they_are_given";
    for version in BOTH {
        let Some((server, certificates)) = start(test, version, "") else {
            return;
        };
        let config = config(&server).root_certificate(certificates.path("authority.pem"));
        let sink = NatsSink::connect_with(&config).await.unwrap();
        let sink = sink.stream("STEPS", &["steps.>"]).await.unwrap();
        let outcomes = sink.send(&[message("steps.a", 7)]).await.unwrap();
        assert!(matches!(&*outcomes, [SendOutcome::Sent]), "{outcomes:?}");

        let mut source = NatsSource::with_config(config.clone(), "STEPS").unwrap();
        let Arrival::Assigned(partitions) = source.next(10).await.unwrap() else {
            panic!("no partition");
        };
        source.seek(&partitions[0], None).await.unwrap();
        let Arrival::Messages(read) = source.next(10).await.unwrap() else {
            panic!("no messages");
        };
        assert_eq!(read[0].header_text("ce-id"), Some("event-7"));

        if version == Version::V2_15 {
            let builder = JetStreamEngine::builder(config);
            builder.connect().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_server_for_which_nobody_trusted_vouches_is_refused() {
    let test = "tls::a_server_for_which_nobody_trusted_vouches_is_refused";
    let Some((server, certificates)) = start(test, Version::V2_15, "") else {
        return;
    };
    // The authorities of the machine.
    is_refused(&config(&server)).await;
    let stranger = certificates.path("stranger.pem");
    is_refused(&config(&server).root_certificate(stranger)).await;
    // By a name that does not stand in the certificate.
    let by_number = NatsConfig::new(&server.url()).unwrap();
    let authority = certificates.path("authority.pem");
    is_refused(&by_number.root_certificate(authority)).await;

    let missing = config(&server).root_certificate("/nowhere/authority.pem");
    let error = NatsSink::connect_with(&missing).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(
        error.to_string().contains("/nowhere/authority.pem"),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_shows_its_certificate_to_a_server_that_demands_one() {
    let test = "tls::a_client_shows_its_certificate_to_a_server_that_demands_one";
    let Some((server, certificates)) = start(test, Version::V2_15, "verify: true") else {
        return;
    };
    let config = config(&server).root_certificate(certificates.path("authority.pem"));
    let known = config.clone().client_certificate(
        certificates.path("client.pem"),
        certificates.path("client.key"),
    );
    let sink = NatsSink::connect_with(&known).await.unwrap();
    sink.health_check().await.unwrap();

    is_refused(&config).await;
    let unknown = config.client_certificate(
        certificates.path("stranger.pem"),
        certificates.path("stranger.key"),
    );
    is_refused(&unknown).await;
}

#[tokio::test]
async fn a_server_that_demands_tls_gets_it_from_a_url_that_does_not() {
    let test = "tls::a_server_that_demands_tls_gets_it_from_a_url_that_does_not";
    let Some((server, certificates)) = start(test, Version::V2_15, "") else {
        return;
    };
    let url = server.url().replace("127.0.0.1", "localhost");
    let config = NatsConfig::new(&url).unwrap();
    let config = config.root_certificate(certificates.path("authority.pem"));
    let sink = NatsSink::connect_with(&config).await.unwrap();
    sink.health_check().await.unwrap();
}

/// A server without TLS. It says so, and returns what the client sends in answer.
async fn greet(listener: TcpListener) -> Vec<u8> {
    let (mut client, _) = listener.accept().await.unwrap();
    let info = r#"INFO {"server_id":"x","version":"2.15.0","proto":1,"max_payload":1048576}"#;
    client
        .write_all(format!("{info}\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = vec![0; 4096];
    let count = client.read(&mut answer).await.unwrap();
    answer.truncate(count);
    answer
}

/// Checks that bytes begin a handshake of TLS, and hold no password.
fn is_encrypted(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(!text.contains("secret-word"), "{text}");
    // A record of the type "handshake", of any version of TLS.
    assert_eq!(&bytes[..2], [22, 3], "{text}");
}

#[tokio::test]
async fn a_password_is_not_sent_without_the_tls_that_is_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let greeted = tokio::spawn(greet(listener));
    let config = NatsConfig::new(&format!("tls://ada:secret-word@127.0.0.1:{port}")).unwrap();
    let error = NatsSink::connect_with(&config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    is_encrypted(&greeted.await.unwrap());
}

#[tokio::test]
async fn a_server_that_another_one_names_gets_no_password_without_tls() {
    let test = "tls::a_server_that_another_one_names_gets_no_password_without_tls";
    let Some(certificates) = Certificates::make(test) else {
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Servers of a cluster tell clients where others are: here of one that takes what it gets.
    let more = format!(
        "{}\nclient_advertise: \"127.0.0.1:{port}\"\n\
         authorization {{ user: ada, password: \"secret-word\" }}",
        encrypted(&certificates, "")
    );
    let Some(mut servers) = Server::cluster(test, 2, &more) else {
        return;
    };
    let config = config(&servers[0])
        .root_certificate(certificates.path("authority.pem"))
        .user_and_password("ada", "secret-word");
    until("the servers know each other", async || {
        let mut client = TcpStream::connect(servers[0].address()).await.unwrap();
        let mut greeting = vec![0; 4096];
        let count = client.read(&mut greeting).await.unwrap();
        String::from_utf8_lossy(&greeting[..count]).contains("connect_urls")
    })
    .await;
    let _sink = NatsSink::connect_with(&config).await.unwrap();

    for server in &mut servers {
        server.kill();
    }
    let limit = Duration::from_secs(30);
    let greeted = tokio::time::timeout(limit, greet(listener)).await;
    is_encrypted(&greeted.expect("the client knows no other server"));
}

#[tokio::test]
async fn events_sent_over_tls_outlast_a_restart_of_the_server() {
    let test = "tls::events_sent_over_tls_outlast_a_restart_of_the_server";
    let Some((mut server, certificates)) = start(test, Version::V2_15, "") else {
        return;
    };
    let config = config(&server).root_certificate(certificates.path("authority.pem"));
    let sink = NatsSink::connect_with(&config).await.unwrap();
    let sink = sink.stream("STEPS", &["steps.>"]).await.unwrap();
    sink.send(&[message("steps.a", 0)]).await.unwrap();
    server.kill();
    server.restart();

    let began = std::time::Instant::now();
    while !matches!(
        sink.send(&[message("steps.a", 1)]).await.as_deref(),
        Ok([SendOutcome::Sent])
    ) {
        assert!(began.elapsed() < Duration::from_secs(60), "not sent");
    }
    let client = async_nats::ConnectOptions::new()
        .add_root_certificates(certificates.path("authority.pem"))
        .connect(server.url().replace("127.0.0.1", "localhost"));
    let context = async_nats::jetstream::new(client.await.unwrap());
    assert_eq!(messages(&context, "STEPS").await.len(), 2);
}

/// The variable that makes a process one that has chosen no provider of cryptography.
const UNDECIDED: &str = "NO_PROVIDER";

/// Not a test: what such a process runs. In the test run itself it has nothing to do.
#[tokio::test]
async fn undecided() {
    if std::env::var_os(UNDECIDED).is_none() {
        return;
    }
    let chosen = || async_nats::rustls::crypto::CryptoProvider::get_default().is_some();
    assert!(!chosen());
    let config = NatsConfig::new("tls://127.0.0.1:1").unwrap();
    NatsSink::connect_lazily(&config).await.unwrap();
    assert!(chosen());
}

#[test]
fn cryptography_is_chosen_where_the_program_chose_none() {
    // Rustls would panic in a program whose crates bring several providers.
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "tls::undecided"]);
    let done = child.env(UNDECIDED, "yes").output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}");
}
