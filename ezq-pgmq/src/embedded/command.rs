//! How the server's programs are started: under its account.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::account::Account;

pub(super) fn command(program: &Path, account: Option<&Account>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).process_group(0);
    // Settings of the caller's own database must not reach this one.
    for name in ["PGDATA", "PGPORT", "PGHOST", "PGUSER", "PGDATABASE", "PGOPTIONS"] {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").env("TZ", "UTC");
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}
