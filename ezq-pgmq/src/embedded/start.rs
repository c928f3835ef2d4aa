//! Waiting until a server accepts connections.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ezq_core::Result;

use super::error::failure;
use super::folder::Folder;

pub(super) const START_LIMIT: Duration = Duration::from_secs(30);

/// The state before a start, so that traces of an earlier run are not taken for this one's.
pub(super) struct Start {
    pid_file: PathBuf,
    stale: Option<String>,
    log: PathBuf,
    logged: usize,
}

impl Start {
    pub(super) fn of(folder: &Folder) -> Self {
        let pid_file = folder.data().join("postmaster.pid");
        let log = folder.path().join("log");
        Self {
            stale: ready_mark(&pid_file),
            pid_file,
            logged: std::fs::read(&log).map_or(0, |bytes| bytes.len()),
            log,
        }
    }

    pub(super) fn wait_until_ready(&self) -> Result<()> {
        let give_up = Instant::now() + START_LIMIT;
        loop {
            let ready = ready_mark(&self.pid_file);
            if ready.is_some() && ready != self.stale {
                return Ok(());
            }

            let log = std::fs::read(&self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(log.get(self.logged..).unwrap_or_default());
            // A server that refuses to start removes its pid file.
            let refused = !self.pid_file.exists() && log.contains("FATAL:");

            if refused || Instant::now() > give_up {
                let mut last: Vec<&str> = log.lines().rev().take(5).collect();
                last.reverse();
                let text = "the development Postgres did not start";
                return Err(failure(text).with_source(last.join("; ")));
            }

            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The file's text, once its last line says that the server accepts connections.
fn ready_mark(pid_file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(pid_file).ok()?;
    let ready = text
        .lines()
        .nth(7)
        .is_some_and(|line| line.trim() == "ready");
    ready.then_some(text)
}
