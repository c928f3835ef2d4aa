//! [`NatsConfig`]: where the servers are, and who connects.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::rustls::{self, crypto::CryptoProvider};
use async_nats::{ConnectOptions, ServerAddr};
use ezq_core::Result;

use crate::error::wrong_config;

/// The longest time that a connection may take, unless it is set.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How often the server is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Who connects.
#[derive(Clone)]
enum Identity {
    Nobody,
    User { name: String, password: String },
    Token(String),
    CredentialsFile(PathBuf),
}

/// The servers, and who connects to them. Secrets are in no log, no error and not in its `Debug`.
///
/// ```
/// use ezq_nats::NatsConfig;
///
/// let config = NatsConfig::new("nats://ada:secret@one:4222,nats://two:4222")?;
/// assert_eq!(config.address(), "one:4222,two:4222");
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[derive(Clone)]
pub struct NatsConfig {
    servers: Vec<ServerAddr>,
    identity: Identity,
    root_certificates: Vec<PathBuf>,
    client_certificate: Option<(PathBuf, PathBuf)>,
    connect_limit: Duration,
}

impl NatsConfig {
    /// Servers by their URLs, separated by commas: `nats://`, or `tls://` for TLS. A URL may hold a user and
    /// a password, `nats://ada:secret@host:4222`, or a token, `nats://token@host:4222`.
    ///
    /// With one `tls://` among them, nothing is sent to any server before TLS, nor to those that a cluster
    /// names. A server that demands TLS gets it with `nats://` as well.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](ezq_core::ErrorKind::Configuration) if a URL is wrong.
    pub fn new(urls: &str) -> Result<Self> {
        let mut config = Self {
            servers: Vec::new(),
            identity: Identity::Nobody,
            root_certificates: Vec::new(),
            client_certificate: None,
            connect_limit: CONNECT_LIMIT,
        };
        for url in urls.split(',').map(str::trim) {
            config.add_server(url)?;
        }
        Ok(config)
    }

    /// From the variables of the `nats` program: `NATS_URL`, which must be set, and `NATS_USER` with
    /// `NATS_PASSWORD`, `NATS_TOKEN`, `NATS_CREDS` (a file) and `NATS_CA` (a file), which may be.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](ezq_core::ErrorKind::Configuration) if `NATS_URL` is missing or wrong.
    pub fn from_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let urls = variable("NATS_URL").ok_or_else(|| wrong_config("set `NATS_URL` to its URL"))?;
        let mut config = Self::new(&urls)?;

        if let Some(name) = variable("NATS_USER") {
            let password = variable("NATS_PASSWORD").unwrap_or_default();
            config = config.user_and_password(name, password);
        }
        if let Some(token) = variable("NATS_TOKEN") {
            config = config.token(token);
        }
        if let Some(file) = variable("NATS_CREDS") {
            config = config.credentials_file(file);
        }
        if let Some(file) = variable("NATS_CA") {
            config = config.root_certificate(file);
        }
        Ok(config)
    }

    fn add_server(&mut self, text: &str) -> Result<()> {
        let why = "write `nats://user:password@host:port`, and `tls://` for TLS";
        let address: ServerAddr = text.parse().map_err(|_| wrong_config(why))?;
        if address.host().is_empty() || address.is_websocket() {
            return Err(wrong_config(why));
        }

        let named = address.username().map(str::to_owned);
        let secret = address.password().map(str::to_owned);
        match (named, secret) {
            (Some(name), Some(password)) => self.identity = Identity::User { name, password },
            (Some(token), None) => self.identity = Identity::Token(token),
            (None, _) => {}
        }

        // The client logs and returns its addresses, so it gets them without credentials.
        let mut url = address.into_inner();
        let stripped = url.set_username("").and_then(|()| url.set_password(None));
        stripped.map_err(|()| wrong_config(why))?;
        self.servers
            .push(ServerAddr::from_url(url).map_err(|_| wrong_config(why))?);
        Ok(())
    }

    /// A user with a password.
    #[must_use]
    pub fn user_and_password(
        mut self,
        name: impl Into<String>,
        password: impl Into<String>,
    ) -> Self {
        self.identity = Identity::User {
            name: name.into(),
            password: password.into(),
        };
        self
    }

    /// A token.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.identity = Identity::Token(token.into());
        self
    }

    /// A file with a user's JWT and key, as `nsc` writes it. It is read once, when a sink, a source or an
    /// engine is made: after an exchange of the file, make a new one.
    #[must_use]
    pub fn credentials_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.identity = Identity::CredentialsFile(path.into());
        self
    }

    /// A file with certificates that vouch for the server, in place of those of the machine.
    #[must_use]
    pub fn root_certificate(mut self, path: impl Into<PathBuf>) -> Self {
        self.root_certificates.push(path.into());
        self
    }

    /// The files of the certificate and the key with which the client shows who it is.
    #[must_use]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.client_certificate = Some((certificate.into(), key.into()));
        self
    }

    /// How long a connection may take. Defaults to 5 s.
    #[must_use]
    pub fn connect_limit(mut self, limit: Duration) -> Self {
        self.connect_limit = limit;
        self
    }

    /// The servers' hosts and ports, without credentials.
    #[must_use]
    pub fn address(&self) -> String {
        let hosts = self.servers.iter();
        let hosts = hosts.map(|server| format!("{}:{}", server.host(), server.port()));
        hosts.collect::<Vec<_>>().join(",")
    }

    pub(crate) fn servers(&self) -> &[ServerAddr] {
        &self.servers
    }

    pub(crate) fn limit(&self) -> Duration {
        self.connect_limit
    }

    /// The client's options.
    pub(crate) async fn options(&self) -> Result<ConnectOptions> {
        choose_cryptography();
        let mut options = ConnectOptions::new()
            .name("ezq")
            .connection_timeout(self.connect_limit)
            // A connection that dies in silence is given up after two pings without an answer.
            .ping_interval(PING_INTERVAL)
            // A worker waits for its server for as long as it takes.
            .max_reconnects(None)
            // Else a server that another one names could do without, and would get the password.
            .require_tls(self.servers.iter().any(ServerAddr::tls_required));
        options = match &self.identity {
            Identity::Nobody => options,
            Identity::User { name, password } => {
                options.user_and_password(name.clone(), password.clone())
            }
            Identity::Token(token) => options.token(token.clone()),
            Identity::CredentialsFile(path) => {
                let read = options.credentials_file(path).await;
                read.map_err(|error| unreadable(path, &error))?
            }
        };

        for path in &self.root_certificates {
            check_readable(path)?;
            options = options.add_root_certificates(path.clone());
        }
        if let Some((certificate, key)) = &self.client_certificate {
            check_readable(certificate)?;
            check_readable(key)?;
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        Ok(options)
    }
}

/// Chooses who does the cryptography of TLS, unless the program has. Rustls panics where the crates of a
/// program bring several and none is chosen.
fn choose_cryptography() {
    if CryptoProvider::get_default().is_none() {
        // One that was chosen meanwhile will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// Checks that a file is there. The client looks only when it connects, which it tries again for ever.
fn check_readable(path: &Path) -> Result<()> {
    match std::fs::File::open(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// A file that cannot be used. Of the error only the kind is kept: its text may hold the key.
fn unreadable(path: &Path, error: &std::io::Error) -> ezq_core::Error {
    let path = path.display();
    let why = error.kind();
    wrong_config(format!("the file `{path}` cannot be read ({why})"))
}

impl fmt::Debug for NatsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConfig")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}
