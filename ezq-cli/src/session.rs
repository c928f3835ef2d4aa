//! One run of the program: its options, and the database that it works on.

use std::io;

use ezq::Ezq;
use ezq::pgmq::PgmqConfig;
use tracing::level_filters::LevelFilter;

use crate::contexts;
use crate::failure::Failure;
use crate::global::Global;
use crate::output::Output;

/// What a command may do to the schema of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    Read,
    /// Create tables of ezq's own where ezq already works. A database without PGMQ is the wrong one.
    Change,
    /// Install PGMQ as well.
    Create,
}

/// The options of a run, and where it prints.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) global: Global,
    pub(crate) output: Output,
}

impl Session {
    pub(crate) fn new(global: Global, output: Output) -> Self {
        Self { global, output }
    }

    /// Connects to the database.
    pub(crate) async fn connect(&self, access: Access) -> Result<Ezq, Failure> {
        self.connect_as(access, None).await
    }

    /// The database, for what needs no engine.
    pub(crate) fn database(&self) -> Result<PgmqConfig, Failure> {
        Ok(PgmqConfig::url(&self.database_url()?)?)
    }

    /// Connects to the database in the name of an application.
    pub(crate) async fn connect_as(
        &self,
        access: Access,
        app: Option<&str>,
    ) -> Result<Ezq, Failure> {
        // Found and checked before anything is connected.
        let url = self.database_url()?;
        // A wrong URL is the user's mistake, a server that does not answer is none.
        PgmqConfig::url(&url)?;

        // A dry run creates no tables either.
        let access = match self.global.dry_run {
            true => Access::Read,
            false => access,
        };
        if access == Access::Change {
            self.open(&url, app, false).await?.close().await;
        }
        self.open(&url, app, access != Access::Read).await
    }

    async fn open(&self, url: &str, app: Option<&str>, may_create: bool) -> Result<Ezq, Failure> {
        let mut builder = Ezq::builder()
            .without_discovered_handlers()
            .database_url(url);
        if let Some(app) = app {
            builder = builder.app(app);
        }
        if !may_create {
            builder = builder.manage_schema(false);
        }
        Ok(builder.connect().await?)
    }

    fn database_url(&self) -> Result<String, Failure> {
        if let Some(url) = &self.global.database_url {
            return Ok(url.clone());
        }
        if let Some(name) = &self.global.context {
            return contexts::url(&self.global, name, self.output);
        }

        variable(&["EZQ_DATABASE_URL", "DATABASE_URL"]).ok_or_else(|| {
            Failure::usage(
                "no database is named: use `--database-url`, `--context`, or the variable \
                 EZQ_DATABASE_URL or DATABASE_URL",
            )
        })
    }
}

/// Who runs the program, and where: `ada@box`. It tells others more than the name of the program.
pub(crate) fn user() -> Option<String> {
    let user = variable(&["USER", "LOGNAME", "USERNAME"]).or_else(account)?;
    let host = variable(&["HOSTNAME", "COMPUTERNAME"]).or_else(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        Some(name.trim().to_owned()).filter(|name| !name.is_empty())
    });
    match host {
        Some(host) => Some(format!("{user}@{host}")),
        None => Some(user),
    }
}

/// The account of this process. A container often sets no variable, and still has somebody in it.
fn account() -> Option<String> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;

        // Its files are of who runs the process.
        let uid = std::fs::metadata("/proc/self").ok()?.uid().to_string();
        let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let mut lines = accounts.lines().map(|line| line.split(':'));
        let name = lines.find_map(|mut fields| {
            let name = fields.next()?;
            (fields.nth(1)? == uid).then(|| name.to_owned())
        });
        Some(name.unwrap_or_else(|| format!("uid {uid}")))
    }
    #[cfg(not(unix))]
    None
}

/// The first of these variables that holds something.
fn variable(names: &[&str]) -> Option<String> {
    let mut found = names.iter().filter_map(|name| std::env::var(name).ok());
    found.find(|text| !text.is_empty())
}

/// Logs to stderr: errors only with `--quiet`, and more with each `--verbose`. What fails on purpose logs
/// only when it is asked to.
pub(crate) fn log(global: &Global, fails_on_purpose: bool) {
    let level = match (global.quiet, global.verbose) {
        (_, 0) if fails_on_purpose => LevelFilter::OFF,
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .init();
}
