//! Clusters that are away or refuse the credentials, and what errors and logs tell.

use std::io::Write;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use ezq::ErrorKind;
use ezq::broker::Sink;
use ezq::error::error_chain;
use ezq_kafka::KafkaSink;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::records::message;
use crate::server::free_port;

/// All that was logged in this process.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn keep_log() {
    static KEPT: OnceLock<()> = OnceLock::new();
    KEPT.get_or_init(|| {
        let all = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG);
        all.with_ansi(false).with_writer(|| Log).init();
    });
}

pub(crate) fn logged() -> String {
    String::from_utf8_lossy(&LOG.lock().unwrap()).into_owned()
}

#[tokio::test]
async fn a_cluster_that_is_absent_is_an_error_that_says_what_to_do() {
    let port = free_port();
    let url = format!("kafka://ada:secret-word@127.0.0.1:{port}");
    let began = Instant::now();
    let error = KafkaSink::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let text = error_chain(&error).to_string();
    assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    assert!(text.contains("check that the brokers run"), "{text}");
    assert!(!text.contains("secret-word"), "{text}");

    let sink = KafkaSink::connect_lazily(&url).unwrap();
    let error = sink.send(&[message("steps", 0)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error:?}");
}

/// Answers what a client asks of a broker before it authenticates, and refuses the credentials with a text
/// that repeats them.
async fn refuse(mut client: TcpStream) -> std::io::Result<()> {
    loop {
        let length = client.read_i32().await?;
        let mut request = vec![0; usize::try_from(length).unwrap()];
        client.read_exact(&mut request).await?;
        let (key, version) = (request[1], request[3]);
        let correlation = &request[4..8];

        let mut answer = correlation.to_vec();
        match key {
            // ApiVersions: which versions of SaslHandshake, ApiVersions and SaslAuthenticate there are.
            // The newest form of the question is answered by the oldest form and an error.
            18 => {
                let error = if version > 0 { 35_i16 } else { 0 };
                answer.extend(error.to_be_bytes());
                answer.extend(3_i32.to_be_bytes());
                for (api, newest) in [(17_i16, 1_i16), (18, 0), (36, 0)] {
                    answer.extend(api.to_be_bytes());
                    answer.extend(0_i16.to_be_bytes());
                    answer.extend(newest.to_be_bytes());
                }
            }
            // SaslHandshake: PLAIN is fine.
            17 => {
                answer.extend(0_i16.to_be_bytes());
                answer.extend(1_i32.to_be_bytes());
                answer.extend(5_i16.to_be_bytes());
                answer.extend(b"PLAIN");
            }
            // SaslAuthenticate: refused.
            _ => {
                let text = b"Authentication failed for ada with secret-word";
                answer.extend(58_i16.to_be_bytes());
                answer.extend(i16::try_from(text.len()).unwrap().to_be_bytes());
                answer.extend(text);
                answer.extend(0_i32.to_be_bytes());
            }
        }
        client
            .write_i32(i32::try_from(answer.len()).unwrap())
            .await?;
        client.write_all(&answer).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_refused_and_stand_in_no_error_and_no_log() {
    keep_log();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(refuse(client));
        }
    });

    // The client tells all it does.
    let url = format!("kafka://ada:secret-word@127.0.0.1:{port}?debug=all");
    let error = KafkaSink::connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    let text = format!("{error:?}");
    assert!(text.contains("check the user, the password"), "{text}");
    assert!(!text.contains("secret-word"), "{text}");

    let sink = KafkaSink::connect_lazily(&url).unwrap();
    let error = sink.send(&[message("steps", 0)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission, "{error:?}");
    assert!(!format!("{sink:?}").contains("secret-word"));

    let log = logged();
    assert!(log.contains("librdkafka"), "nothing was logged");
    assert!(
        log.contains("Authentication failed for ada with ***"),
        "{log}"
    );
    assert!(!log.contains("secret-word"), "{log}");
}

#[tokio::test]
async fn a_url_that_cannot_be_used_is_refused_without_its_secrets() {
    for url in [
        "",
        "postgres://ada:secret-word@localhost",
        "kafka://ada:secret-word@",
        "kafka://ada:secret-word@host:port",
        "kafka://secret-word@host",
        "kafka://ada:secret-word@host:9092,,other",
        // What this crate sets itself, and what the client does not know.
        "kafka://host?acks=secret-word",
        "kafka://host?enable.idempotence=secret-word",
        "kafka://host?no.such.setting=secret-word",
        "kafka://host?linger.ms=secret-word",
        "kafka://host?linger.ms",
    ] {
        let error = KafkaSink::connect_lazily(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{url}");
        assert!(!format!("{error:?}").contains("secret-word"), "{error:?}");
    }
    // What only a feature brings.
    #[cfg(not(feature = "tls"))]
    for url in [
        "kafka+ssl://ada:secret-word@host",
        "kafka://ada:secret-word@host?sasl.mechanisms=SCRAM-SHA-256",
    ] {
        let error = KafkaSink::connect_lazily(url).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{url}");
        assert!(error.to_string().contains("feature `tls`"), "{error}");
        assert!(!format!("{error:?}").contains("secret-word"), "{error:?}");
    }
    for url in [
        "localhost",
        "one:9092,two:9093",
        "kafka://[::1]:9092",
        "kafka://ada:p%40ss@one,two:9093/?client.id=shop",
    ] {
        KafkaSink::connect_lazily(url).unwrap();
    }
}
