//! Whether fetched binaries run here, before they get their name.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use ezq_core::Result;

use super::cache;
use crate::embedded::account::Account;
use crate::embedded::command::command;
use crate::embedded::error::failure;
use crate::embedded::programs::PROGRAMS;

/// How long new binaries may be busy.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// Whether the server's account can run the binaries here.
pub(super) fn check(binaries: &Path, account: Option<&Account>) -> Result<()> {
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

    for program in PROGRAMS {
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
