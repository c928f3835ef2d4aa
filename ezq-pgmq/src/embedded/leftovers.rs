//! Removing what is left when a process and its watchdog were both killed; the next start does it.
//!
//! A folder counts as left if three things hold: its name may come from [`folder::unused`], it
//! belongs to the account that this process's servers run under, and its owner's lock is free. The
//! system frees the lock when the owner ends, however it ends. Unlike a pid, the lock means the
//! same in every container that sees the folder.
//!
//! Where `/proc` shows processes, the folder's server is stopped first. Elsewhere it stops by
//! itself, since it checks its files every minute.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::account::{self, Account};
use super::{folder, processes};

/// Removes leftovers. A failure is only a warning.
pub(super) fn remove_all(account: Option<&Account>) {
    let Some(uid) = account
        .map(|account| account.uid)
        .or_else(account::effective_uid)
    else {
        return;
    };

    for path in folder::parents().iter().flat_map(|parent| folders(parent)) {
        // Held until the folder is removed, so that no two processes remove it at once.
        let Some(_lock) = lock(&path, uid) else {
            continue;
        };

        let folder = path.display();
        match processes::remove(&path, account) {
            Ok(()) => tracing::info!(%folder, "removed a killed process's development Postgres"),
            Err(error) => ezq_core::private::warn!(
                %folder, %error,
                "cannot remove a killed process's development Postgres"
            ),
        }
    }
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_str().is_some_and(folder::is_name));
    named.map(|entry| entry.path()).collect()
}

/// The lock of a folder of this account whose owner is gone.
fn lock(path: &Path, uid: u32) -> Option<File> {
    let folder = folder::open(path).ok()?;
    if folder.metadata().ok()?.uid() != uid {
        return None;
    }
    folder.try_lock().ok()?;
    Some(folder)
}
