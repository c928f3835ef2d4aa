//! Removing a server's folder, after the processes that work in it are stopped.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::account::Account;
use super::command::command;
use super::files::remove_folder;

/// How long processes may take to end after each of the two signals.
const PATIENCE: Duration = Duration::from_secs(3);

/// The data folder in a server's folder.
pub(super) fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// Stops the server of a folder without a watchdog, and removes the folder.
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

    // The watchdog may have been faster.
    remove_folder(folder)
}

/// The Postgres processes that work in a folder: the server's in its data, `initdb` above that.
fn processes_of(folder: &Path) -> Vec<String> {
    let Ok(folder) = folder.canonicalize() else {
        return Vec::new();
    };

    let data = data(&folder);
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ours = processes.filter(|process| {
        let process = process.path();
        let works_in = std::fs::read_link(process.join("cwd"));
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        works_in.is_ok_and(|place| place == folder || place == data)
            // A shell may have the folder as its working directory, too.
            && ["postgres", "initdb"].iter().any(|program| name.contains(program))
    });
    ours.filter_map(|process| process.file_name().into_string().ok())
        .collect()
}

/// Sends a signal as the server's account, which cannot reach other accounts' processes.
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

    // The shell reports an error for a process that has ended by now.
    shell
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map(drop)
}
