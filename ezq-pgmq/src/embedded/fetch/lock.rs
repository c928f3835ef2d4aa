//! The lock of the one process that fetches.

use std::fs::{File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::progress;

/// Waits until no other process fetches.
pub(super) fn lock(cache: &Path, path: &Path) -> std::io::Result<File> {
    if !cache.is_dir() {
        std::fs::create_dir_all(cache)?;
        // Root's servers run under another account, which must enter it whatever the umask is.
        std::fs::set_permissions(cache, Permissions::from_mode(0o755))?;
    }

    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            progress::say("waiting for another process, which fetches Postgres");
            file.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    Ok(file)
}
