//! A gate before a broker. It speaks TLS, and asks for a user and a password where it is told to: servers
//! that can be had without a Java machine do neither.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::certificates::Certificates;

/// A listener, so that the broker behind it can be told its port.
pub(crate) struct Gate {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    user: Option<(&'static str, &'static str)>,
}

/// What one client goes through.
struct Passage {
    tls: Option<TlsAcceptor>,
    user: Option<(&'static str, &'static str)>,
    broker: String,
    received: Arc<AtomicU64>,
}

/// A gate at work, until it is dropped.
pub(crate) struct Open {
    task: JoinHandle<()>,
    received: Arc<AtomicU64>,
}

impl Gate {
    pub(crate) async fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            tls: None,
            user: None,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Speaks TLS, with the certificate of `server`.
    pub(crate) fn tls(mut self, certificates: &Certificates, demands_client: bool) -> Self {
        let chain = certificate(certificates, "server");
        let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
        let builder = ServerConfig::builder();
        let builder = if demands_client {
            let mut roots = RootCertStore::empty();
            roots.add(certificate(certificates, "authority")).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(vec![chain], key).unwrap();
        self.tls = Some(TlsAcceptor::from(Arc::new(config)));
        self
    }

    /// Lets nobody in but this user, by SASL PLAIN.
    pub(crate) fn user(mut self, name: &'static str, password: &'static str) -> Self {
        self.user = Some((name, password));
        self
    }

    /// Begins to let clients through to a broker.
    pub(crate) fn open(self, broker: String) -> Open {
        let received = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&received);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = self.listener.accept().await {
                let passage = Passage {
                    tls: self.tls.clone(),
                    user: self.user,
                    broker: broker.clone(),
                    received: Arc::clone(&counted),
                };
                // It ends if the client goes away, or is not let in.
                tokio::spawn(passage.admit(client));
            }
        });
        Open { task, received }
    }
}

impl Open {
    /// How many bytes clients have sent to the broker so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn certificate(certificates: &Certificates, name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(certificates.path(&format!("{name}.pem"))).unwrap()
}

impl Passage {
    async fn admit(self, client: TcpStream) -> std::io::Result<()> {
        match self.tls.clone() {
            Some(tls) => self.lead(tls.accept(client).await?).await,
            None => self.lead(client).await,
        }
    }

    async fn lead(self, mut client: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
        let mut broker = TcpStream::connect(&self.broker).await?;
        if let Some((name, password)) = self.user {
            let right = format!("\0{name}\0{password}");
            while !authenticates(&mut client, &mut broker, right.as_bytes()).await? {}
        }
        let (from_client, to_client) = tokio::io::split(client);
        let (from_broker, to_broker) = broker.into_split();
        tokio::try_join!(
            pass(from_client, to_broker, Some(&self.received)),
            pass(from_broker, to_client, None),
        )?;
        Ok(())
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    counter: Option<&AtomicU64>,
) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        if let Some(counter) = counter {
            counter.fetch_add(count as u64, Ordering::Relaxed);
        }
        to.write_all(&bytes[..count]).await?;
        to.flush().await?;
    }
}

/// Answers one request of a client. Returns whether it has shown who it is.
async fn authenticates(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    broker: &mut TcpStream,
    right: &[u8],
) -> std::io::Result<bool> {
    let request = read_frame(client).await?;
    let (kind, version) = (request[1], request[3]);
    let correlation = &request[4..8];
    let mut answer = correlation.to_vec();
    let mut is_done = false;
    match kind {
        // ApiVersions: what the broker itself can do.
        18 => {
            write_frame(broker, &request).await?;
            answer = read_frame(broker).await?;
        }
        // SaslHandshake: PLAIN is fine.
        17 => {
            answer.extend(0_i16.to_be_bytes());
            answer.extend(1_i32.to_be_bytes());
            answer.extend(5_i16.to_be_bytes());
            answer.extend(b"PLAIN");
        }
        // SaslAuthenticate, whose last part are the credentials.
        36 => {
            assert!(version < 2, "a form that this gate does not know");
            is_done = request.ends_with(right);
            let code = if is_done { 0_i16 } else { 58 };
            answer.extend(code.to_be_bytes());
            // No text, and no bytes in answer.
            answer.extend((-1_i16).to_be_bytes());
            answer.extend(0_i32.to_be_bytes());
            if version == 1 {
                answer.extend(0_i64.to_be_bytes());
            }
        }
        other => panic!("the request {other} of somebody unknown"),
    }
    write_frame(client, &answer).await?;
    Ok(is_done)
}

async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = from.read_i32().await?;
    let mut frame = vec![0; usize::try_from(length).unwrap()];
    from.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn write_frame(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> std::io::Result<()> {
    to.write_i32(i32::try_from(frame.len()).unwrap()).await?;
    to.write_all(frame).await
}
