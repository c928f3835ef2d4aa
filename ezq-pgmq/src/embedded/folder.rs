//! The server's own folder: data, socket and log, for its account alone.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ezq_core::{Error, ErrorKind, Result};

use super::account::Account;

// A Unix socket's path holds 103 bytes on macOS; `/.s.PGSQL.5432` is part of it.
const PATH_LIMIT: usize = 103 - "/.s.PGSQL.5432".len();

/// A temporary folder, removed when dropped (and by the watchdog when the process ends).
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(super) fn create(owner: Option<&Account>) -> Result<Self> {
        let name = format!("ezq-pg-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let mut path = std::env::temp_dir().join(&name);
        if path.as_os_str().len() > PATH_LIMIT {
            path = Path::new("/tmp").join(&name);
        }
        let failure = |error: std::io::Error| {
            let text = format!("cannot make the folder {}", path.display());
            Error::new(ErrorKind::Configuration, text).with_source(error)
        };
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(failure)?;
        if let Some(owner) = owner {
            std::os::unix::fs::chown(&path, Some(owner.uid), Some(owner.gid)).map_err(failure)?;
        }
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
