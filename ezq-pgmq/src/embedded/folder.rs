//! The server's folder: data, socket and log, for its account only.
//!
//! Its owner holds a lock on it, so that no other process takes it for a leftover.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::account::Account;
use super::processes;

// A Unix socket's path has at most 103 bytes on macOS, `/.s.PGSQL.5432` included.
const PATH_LIMIT: usize = 103 - "/.s.PGSQL.5432".len();

/// Older versions, which hold no lock, use another name; their folders are left alone.
const PREFIX: &str = "ezq-postgres-";

/// A temporary folder. It is removed when dropped, and by the watchdog when the process ends.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    account: Option<Account>,
    _lock: Option<File>,
}

impl Folder {
    /// Takes a folder that the watchdog has just made. `None` if another process took it for a
    /// leftover, which it may until the folder is locked.
    pub(super) fn take(path: PathBuf, account: Option<Account>) -> std::io::Result<Option<Self>> {
        let folder = match open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };

        let lock = match folder.try_lock() {
            Ok(()) => Some(folder),
            Err(TryLockError::WouldBlock) => return Ok(None),
            // No process can lock it on this file system, so none takes it for a leftover.
            Err(TryLockError::Error(_)) => None,
        };

        // It may have been removed after it was opened and before it was locked.
        Ok(path.exists().then_some(Self {
            path,
            account,
            _lock: lock,
        }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn data(&self) -> PathBuf {
        processes::data(&self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Normally the watchdog has done it, unless it was killed.
        if self.path.exists() {
            let _ = processes::remove(&self.path, self.account.as_ref());
        }
    }
}

/// Where folders are made and leftovers are looked for, in the order of preference.
pub(super) fn parents() -> Vec<PathBuf> {
    let mut parents = vec![std::env::temp_dir(), PathBuf::from("/tmp")];
    parents.dedup();
    parents
}

/// An unused path in a folder; `None` if it would be too long for the socket.
pub(super) fn unused(parent: &Path) -> Option<PathBuf> {
    let name = format!(
        "{PREFIX}{}-{:08x}",
        std::process::id(),
        rand::random::<u32>()
    );
    let path = parent.join(name);
    (path.as_os_str().len() <= PATH_LIMIT).then_some(path)
}

/// Whether a file's name may come from [`unused`].
pub(super) fn is_name(name: &str) -> bool {
    let Some((pid, random)) = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'))
    else {
        return false;
    };
    pid.parse::<u32>().is_ok() && random.len() == 8 && u32::from_str_radix(random, 16).is_ok()
}

/// Opens a folder; neither the target of a symbolic link nor another kind of file.
pub(super) fn open(path: &Path) -> std::io::Result<File> {
    let named = std::fs::symlink_metadata(path)?;
    // The dot makes this fail for a pipe in its place, which would block otherwise.
    let opened = File::open(path.join("."))?;
    let found = opened.metadata()?;
    if named.is_dir() && (named.dev(), named.ino()) == (found.dev(), found.ino()) {
        return Ok(opened);
    }
    Err(std::io::ErrorKind::NotADirectory.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_names_and_no_others() {
        let path = unused(Path::new("/tmp")).unwrap();
        assert!(
            is_name(path.file_name().unwrap().to_str().unwrap()),
            "{path:?}"
        );
        for other in [
            "ezq-postgres-",
            "ezq-postgres-1",
            "ezq-postgres-1-abc",
            "ezq-pg-1-0123abcd",
        ] {
            assert!(!is_name(other), "{other}");
        }
        assert_eq!(unused(&PathBuf::from("/").join("long".repeat(20))), None);
    }
}
