//! Clusters that are reached by TLS: whom the client trusts, who it says it is, and that it sends nothing
//! without TLS.

use std::process::Command;
use std::time::Duration;

use ezq::ErrorKind;
use ezq::broker::Sink;
use ezq_kafka::{KafkaSink, KafkaSource};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::certificates::Certificates;
use crate::connecting::{keep_log, logged};
use crate::gate::{Gate, Open};
use crate::reading::read;
use crate::records::{message, outcomes};
use crate::server::Server;

/// A broker behind a gate, by whose name it is known.
struct Place {
    _server: Server,
    _open: Open,
    hosts: String,
}

impl Place {
    fn new(test: &str, gate: Gate) -> Option<Self> {
        let hosts = format!("localhost:{}", gate.port());
        let server = Server::known_as(test, &hosts)?;
        Some(Self {
            _open: gate.open(server.brokers()),
            _server: server,
            hosts,
        })
    }

    /// The URL, with the authorities of a file and further settings.
    fn url(&self, user: &str, authorities: &str, more: &str) -> String {
        let hosts = &self.hosts;
        format!("kafka+ssl://{user}{hosts}?broker.address.family=v4{authorities}{more}")
    }
}

/// The setting that names a file of authorities.
fn trusting(certificates: &Certificates, file: &str) -> String {
    let path = certificates.path(file).display().to_string();
    format!("&ssl.ca.location={path}")
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_there_and_back_over_tls_with_a_user_and_a_password() {
    let test = "tls::events_go_there_and_back_over_tls_with_a_user_and_a_password";
    let Some(certificates) = Certificates::make(test) else {
        return;
    };
    keep_log();
    let gate = Gate::new().await.tls(&certificates, false);
    let Some(place) = Place::new(test, gate.user("ada", "right-word")) else {
        return;
    };
    let trusting = trusting(&certificates, "authority.pem");
    let url = |word| place.url(&format!("ada:{word}@"), &trusting, "&debug=all");
    let sink = KafkaSink::connect(&url("right-word")).await.unwrap();
    assert_eq!(outcomes(&sink, &[message("orders", 7)]).await, ["sent"]);
    let limits = "&session.timeout.ms=6000";
    let url_of_source = format!("{}{limits}", url("right-word"));
    let mut source = KafkaSource::new(&url_of_source, "shop", ["orders"]).unwrap();
    let messages = read(&mut source, 1).await;
    assert_eq!(messages[0].header_text("ce_id"), Some("event-7"));

    let error = KafkaSink::connect(&url("secret-word")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    let text = format!("{error:?} {sink:?} {source:?} {}", logged());
    assert!(!text.contains("secret-word"), "{error:?}");
    assert!(!text.contains("right-word"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_for_which_nobody_trusted_vouches_is_refused() {
    let test = "tls::a_cluster_for_which_nobody_trusted_vouches_is_refused";
    let Some(certificates) = Certificates::make(test) else {
        return;
    };
    let gate = Gate::new().await.tls(&certificates, false);
    let Some(place) = Place::new(test, gate) else {
        return;
    };
    let trusting = |file| trusting(&certificates, file);
    let right = place.url("", &trusting("authority.pem"), "");
    let sink = KafkaSink::connect(&right).await.unwrap();
    assert_eq!(outcomes(&sink, &[message("steps", 0)]).await, ["sent"]);

    // By a number, which does not stand in the certificate, and by the authorities of the machine.
    let by_number = right.replace("localhost", "127.0.0.1");
    let stranger = place.url("", &trusting("stranger.pem"), "");
    for url in [&by_number, &stranger, &place.url("", "", "")] {
        let error = KafkaSink::connect(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
        assert!(error.to_string().contains("`ssl.ca.location`"), "{error}");
    }
    let missing = place.url("", "&ssl.ca.location=/nowhere/authority.pem", "");
    let error = KafkaSink::connect_lazily(&missing).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(error.to_string().contains("ssl.ca.location"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_shows_its_certificate_to_a_cluster_that_demands_one() {
    let test = "tls::a_client_shows_its_certificate_to_a_cluster_that_demands_one";
    let Some(certificates) = Certificates::make(test) else {
        return;
    };
    let gate = Gate::new().await.tls(&certificates, true);
    let Some(place) = Place::new(test, gate) else {
        return;
    };
    let key = certificates.path("client.key").with_extension("locked");
    let mut lock = Command::new("openssl");
    lock.args(["pkey", "-aes256", "-passout", "pass:right-word", "-in"]);
    lock.arg(certificates.path("client.key"))
        .arg("-out")
        .arg(&key);
    assert!(lock.status().unwrap().success());

    let trusting = trusting(&certificates, "authority.pem");
    let shown = |word| {
        let certificate = certificates.path("client.pem").display().to_string();
        let key = key.display();
        let more = format!(
            "&ssl.certificate.location={certificate}&ssl.key.location={key}&ssl.key.password={word}"
        );
        place.url("", &trusting, &more)
    };
    let sink = KafkaSink::connect(&shown("right-word")).await.unwrap();
    assert_eq!(outcomes(&sink, &[message("steps", 0)]).await, ["sent"]);

    let error = KafkaSink::connect_lazily(&shown("secret-word")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
    assert!(!format!("{error:?}").contains("secret-word"), "{error:?}");
    let nobody = place.url("", &trusting, "");
    let error = KafkaSink::connect(&nobody).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_not_sent_without_the_tls_that_is_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let first = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; 4096];
        let count = client.read(&mut bytes).await.unwrap();
        bytes.truncate(count);
        bytes
    });
    let url = format!("kafka+ssl://ada:secret-word@127.0.0.1:{port}");
    let error = KafkaSink::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");

    let bytes = timeout(Duration::from_secs(5), first).await;
    let bytes = bytes.unwrap().unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("secret-word"), "{text}");
    // A record of the type "handshake", of any version of TLS.
    assert_eq!(&bytes[..2], [22, 3], "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_refuses_an_unknown_user_of_scram() {
    let test = "tls::a_server_refuses_an_unknown_user_of_scram";
    keep_log();
    let Some(server) = Server::with_users(test) else {
        return;
    };
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let brokers = server.brokers();
        let url =
            format!("kafka://ada:secret-word@{brokers}?sasl.mechanisms={mechanism}&debug=all");
        let error = KafkaSink::connect(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
        let sink = KafkaSink::connect_lazily(&url).unwrap();
        let error = sink.health_check().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
        let text = format!("{error:?} {sink:?} {}", logged());
        assert!(!text.contains("secret-word"), "{error:?}");
    }
}
