//! The libraries that are measured, and what differs between them apart from their calls.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::error::Result;
use crate::packages::version_of;

/// A library.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Library {
    pub(crate) name: &'static str,
    /// Its package, and under which name the table shows it.
    pub(crate) package: &'static str,
    pub(crate) language: Language,
    /// Counts the jobs that are stored and not finished.
    pub(crate) unfinished: &'static str,
    /// Whether it has a call that publishes many.
    pub(crate) has_bulk: bool,
    /// Whether it has a worker that waits for jobs.
    pub(crate) has_worker: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Rust,
    Node,
}

const RUST: Library = Library {
    name: "",
    package: "",
    language: Language::Rust,
    unfinished: "",
    has_bulk: true,
    has_worker: true,
};

pub(crate) const ALL: [Library; 9] = [
    Library {
        name: "ezq",
        package: "ezq",
        unfinished: "select count(*) from pgmq.q_jobs",
        ..RUST
    },
    Library {
        name: "graphile_worker",
        package: "graphile_worker",
        unfinished: "select count(*) from graphile_worker._private_jobs",
        ..RUST
    },
    Library {
        name: "graphile-worker",
        package: "graphile-worker",
        language: Language::Node,
        unfinished: "select count(*) from graphile_worker._private_jobs",
        ..RUST
    },
    Library {
        name: "pg-boss",
        package: "pg-boss",
        language: Language::Node,
        unfinished: "select count(*) from pgboss.job where state <> 'completed'",
        ..RUST
    },
    Library {
        name: "riverqueue",
        package: "riverqueue",
        unfinished: "select count(*) from river_job where state <> 'completed'",
        ..RUST
    },
    Library {
        name: "awa",
        package: "awa",
        unfinished: "select count(*) from awa.jobs where state <> 'completed'",
        ..RUST
    },
    Library {
        name: "apalis",
        package: "apalis-postgres",
        unfinished: "select count(*) from apalis.jobs where status <> 'Done'",
        ..RUST
    },
    Library {
        name: "sqlxmq",
        package: "sqlxmq",
        unfinished: "select count(*) from mq_msgs where id <> uuid_nil()",
        has_bulk: false,
        ..RUST
    },
    Library {
        name: "pgmq",
        package: "pgmq",
        unfinished: "select count(*) from pgmq.q_jobs",
        has_worker: false,
        ..RUST
    },
];

impl Library {
    pub(crate) fn version(&self) -> Result<String> {
        match self.language {
            // Statements, of which no package tells the version.
            Language::Rust if !self.has_worker => Ok(String::new()),
            Language::Rust => version_of(self.package),
            Language::Node => node_version_of(self.package),
        }
    }

    /// The program that runs its tasks, and its first arguments.
    pub(crate) fn program(&self) -> Result<(PathBuf, Vec<String>)> {
        match self.language {
            Language::Rust => Ok((std::env::current_exe()?, vec!["--child".to_owned()])),
            Language::Node => {
                let script = folder().join("node/peer.mjs");
                Ok((node(), vec![script.display().to_string()]))
            }
        }
    }
}

/// The folder of this package.
fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Node that `package.json` names, since the libraries need a newer one than many systems have.
fn node() -> PathBuf {
    folder().join("node_modules/.bin/node")
}

fn node_version_of(package: &str) -> Result<String> {
    let file = folder()
        .join("node_modules")
        .join(package)
        .join("package.json");
    let package: Value = serde_json::from_slice(&std::fs::read(file)?)?;
    Ok(package["version"].as_str().ok_or("no version")?.to_owned())
}

/// Installs the libraries of Node, if that was not done.
///
/// # Errors
/// If there is no npm, or no registry. The libraries of Node are left out then.
pub(crate) fn install_node() -> Result<()> {
    if node().exists() {
        return Ok(());
    }
    let status = Command::new("npm")
        .args(["ci", "--no-audit", "--no-fund"])
        .current_dir(folder())
        .status()
        .map_err(|error| format!("npm: {error}"))?;
    if status.success() && node().exists() {
        Ok(())
    } else {
        Err(format!("npm ci: {status}").into())
    }
}
