//! Starting the server's programs: under its account, with a minimal environment.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::account::Account;

/// The variables that the programs get: where programs and libraries are. Others may be secret, and
/// settings for the caller's own database must not reach this one.
const KEPT: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];

/// A program, to run under the server's account, away from the caller's folder and terminal.
pub(super) fn command(program: impl AsRef<OsStr>, account: Option<&Account>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").env("TZ", "UTC");
    for name in KEPT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }

    // The account may not be allowed to enter the caller's folder.
    command.current_dir("/").process_group(0);
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }

    command
}
