//! What is left where a process and its watchdog were both killed: the next start removes it.
//!
//! A folder counts as left if it has a name that [`folder::unused`] gives, belongs to the account that
//! servers of this process run under, and its owner's lock is free. The system frees the lock when the
//! owner ends, however it ends; unlike a pid, it means the same in every container that sees the
//! folder, and is never another process's.
//!
//! Where `/proc` shows processes, the server in it is stopped first. Elsewhere it stops by itself: it
//! looks for its files every minute.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::account::{self, Account};
use super::command::command;
use super::folder;

/// How long processes have to end after each of the two signals.
const PATIENCE: Duration = Duration::from_secs(3);

/// Removes what others left. A failure is a warning: it keeps nobody from working.
pub(super) fn remove_all(account: Option<&Account>) {
    let Some(uid) = account
        .map(|account| account.uid)
        .or_else(account::effective_uid)
    else {
        return;
    };
    for path in folder::parents().iter().flat_map(|parent| folders(parent)) {
        // Held until it is removed, so that no two processes do it at once.
        let Some(_lock) = lock(&path, uid) else {
            continue;
        };
        let folder = path.display();
        match remove(&path, account) {
            Ok(()) => tracing::info!(%folder, "removed a killed process's development Postgres"),
            Err(error) => ezq_core::private::warn!(
                %folder, %error,
                "cannot remove a killed process's development Postgres"
            ),
        }
    }
}

/// Stops the server of a folder that has no watchdog, and removes the folder.
pub(super) fn remove(folder: &Path, account: Option<&Account>) -> std::io::Result<()> {
    for signal in ["QUIT", "KILL"] {
        let give_up = Instant::now() + PATIENCE;
        let mut told = Vec::new();
        loop {
            let processes = processes_of(folder);
            if processes.is_empty() || Instant::now() > give_up {
                break;
            }
            if processes.iter().any(|pid| !told.contains(pid)) {
                kill(signal, &processes, account)?;
                told = processes;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    match std::fs::remove_dir_all(folder) {
        // The watchdog was there after all.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
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

/// The processes of Postgres that work in a folder: the server's in its data, `initdb` above that.
fn processes_of(folder: &Path) -> Vec<String> {
    let Ok(folder) = folder.canonicalize() else {
        return Vec::new();
    };
    let data = folder::data(&folder);
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ours = processes.filter(|process| {
        let process = process.path();
        let works_in = std::fs::read_link(process.join("cwd"));
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        works_in.is_ok_and(|place| place == folder || place == data)
            // Someone may look into the folder from a shell.
            && ["postgres", "initdb"].iter().any(|program| name.contains(program))
    });
    ours.filter_map(|process| process.file_name().into_string().ok())
        .collect()
}

/// Sends a signal as the server's account, which reaches no other account's processes.
fn kill(signal: &str, processes: &[String], account: Option<&Account>) -> std::io::Result<()> {
    let mut shell = command("/bin/sh", account);
    shell
        .args([
            "-c",
            r#"signal=$1; shift; kill -s "$signal" "$@""#,
            "sh",
            signal,
        ])
        .args(processes);
    // One that ended meanwhile is an error of the shell's.
    shell
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map(drop)
}
