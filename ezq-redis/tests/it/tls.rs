//! Servers that speak TLS: whom the client trusts, and that it sends nothing without TLS.

use std::process::Command;

use ezq::ErrorKind;
use ezq::broker::{Arrival, SendOutcome, Sink, Source};
use ezq::error::error_chain;
use ezq_redis::{RedisSink, RedisSource};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::certificates::Certificates;
use crate::sending::{entries, message};
use crate::server::{Server, free_port};

/// A server that speaks TLS on a port of its own, with its URL.
fn start(test: &str, options: &[&str]) -> Option<(Server, Certificates, String)> {
    let certificates = Certificates::make(test)?;
    let path = |file| certificates.path(file).display().to_string();
    let port = free_port().to_string();
    let files = [
        path("server.pem"),
        path("server.key"),
        path("authority.pem"),
    ];
    let mut all = vec!["--tls-port", &*port, "--tls-auth-clients", "no"];
    all.extend(["--tls-cert-file", &*files[0], "--tls-key-file", &*files[1]]);
    all.extend(["--tls-ca-cert-file", &*files[2]]);
    all.extend(options);
    let server = Server::start(test, &all)?;
    Some((server, certificates, format!("rediss://localhost:{port}")))
}

/// The variable that makes a process one that writes to a server and reads from it.
const SERVER: &str = "TLS_SERVER";
/// What its answer begins with, among what the test harness prints.
const ANSWER: &str = "answer: ";

/// Not a test: what such a process runs. In the test run itself it has nothing to do.
#[tokio::test]
async fn client() {
    if let Ok(url) = std::env::var(SERVER) {
        let answer = match write_and_read(&url).await {
            Ok(()) => "both".to_owned(),
            Err(error) => format!("{:?}: {}", error.kind(), error_chain(&error)),
        };
        println!("{ANSWER}{answer}");
    }
}

async fn write_and_read(url: &str) -> ezq::Result<()> {
    let sink = RedisSink::connect(url).await?;
    let outcomes = sink.send(&[message("steps", 7)]).await?;
    assert!(matches!(&*outcomes, [SendOutcome::Sent]), "{outcomes:?}");

    let mut source = RedisSource::connect(url, ["steps"]).await?;
    source.next(10).await?;
    source.seek("steps", None).await?;
    let Arrival::Messages(read) = source.next(10).await? else {
        panic!("no messages");
    };
    assert_eq!(read.len(), 1);
    Ok(())
}

/// What a process says that trusts the authorities of a file. They are chosen by a variable, which is that
/// of a whole process.
fn said(url: &str, authorities: &str) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "tls::client", "--nocapture"]);
    child.env(SERVER, url).env("SSL_CERT_FILE", authorities);
    let printed = child.env_remove("SSL_CERT_DIR").output().unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    let (_, answer) = printed.split_once(ANSWER).expect(&printed);
    answer.lines().next().unwrap().to_owned()
}

#[test]
fn sink_and_source_trust_the_authorities_of_the_machine_or_of_a_file() {
    let test = "tls::sink_and_source_trust_the_authorities_of_the_machine_or_of_a_file";
    let password = ["--requirepass", "right-word"];
    let Some((_server, certificates, url)) = start(test, &password) else {
        return;
    };
    let path = |file| certificates.path(file).display().to_string();
    let url = url.replace("rediss://", "rediss://:right-word@");
    assert_eq!(said(&url, &path("authority.pem")), "both");

    // The name that stands in the certificate is another one.
    let by_number = url.replace("localhost", "127.0.0.1");
    for (url, authorities) in [(&url, "stranger.pem"), (&by_number, "authority.pem")] {
        let refused = said(url, &path(authorities));
        assert!(refused.starts_with("Connection: "), "{refused}");
        assert!(refused.contains("`SSL_CERT_FILE`"), "{refused}");
        assert!(!refused.contains("right-word"), "{refused}");
    }
}

#[tokio::test]
async fn a_server_for_which_the_machine_does_not_vouch_is_refused() {
    let test = "tls::a_server_for_which_the_machine_does_not_vouch_is_refused";
    let Some((server, _certificates, url)) = start(test, &[]) else {
        return;
    };
    let error = RedisSink::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    assert!(error.to_string().contains("`SSL_CERT_FILE`"), "{error}");
    // A URL cannot say that it does not matter.
    let insecure = RedisSink::connect(&format!("{url}/#insecure")).await;
    assert!(insecure.is_err(), "{insecure:?}");

    let source = RedisSource::connect(&url, ["steps"]).await;
    let error = source.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    assert_eq!(entries(&mut server.connection(), "steps").len(), 0);
}

#[tokio::test]
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
    let url = format!("rediss://ada:secret-word@127.0.0.1:{port}");
    let error = RedisSink::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    assert!(!format!("{error:?}").contains("secret-word"), "{error:?}");

    let bytes = first.await.unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert!(!text.contains("secret-word"), "{text}");
    // A record of the type "handshake", of any version of TLS.
    assert_eq!(&bytes[..2], [22, 3], "{text}");
}

/// The variable that makes a process one that has chosen no provider of cryptography.
const UNDECIDED: &str = "NO_PROVIDER";

/// Not a test: what such a process runs. In the test run itself it has nothing to do.
#[tokio::test]
async fn undecided() {
    if std::env::var_os(UNDECIDED).is_none() {
        return;
    }
    let chosen = || rustls::crypto::CryptoProvider::get_default().is_some();
    assert!(!chosen());
    RedisSink::connect_lazily("rediss://127.0.0.1:1").unwrap();
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
