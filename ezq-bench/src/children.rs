//! Child processes: this program once more, which the environment tells its role.

use std::ffi::OsStr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{self, ChildStdout, Command};

use crate::error::Result;

/// The variable that makes a process a child. Its value is the case and the words that the case adds.
const ROLE: &str = "BENCH_ROLE";

/// The word of a role without an exporter of the metrics.
pub(crate) const UNMEASURED: &str = "unmeasured";

/// A child process. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Child {
    process: process::Child,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts a child that uses the database at `url`.
    pub(crate) fn start(role: &str, url: &str) -> Result<Self> {
        Self::spawn(
            Command::new(std::env::current_exe()?).env("DATABASE_URL", url),
            role,
        )
    }

    /// Starts a child under another program, such as a profiler, and discards what that program reports.
    pub(crate) fn under(
        program: impl AsRef<OsStr>,
        arguments: &[String],
        role: &str,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg(std::env::current_exe()?)
            .stderr(Stdio::null());
        Self::spawn(&mut command, role)
    }

    fn spawn(command: &mut Command, role: &str) -> Result<Self> {
        command
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A case that fails must not leave a worker on its queue.
            .kill_on_drop(true);
        let mut process = command.spawn()?;
        let answers = process.stdout.take().ok_or("the child has no output")?;
        Ok(Self {
            process,
            answers: BufReader::new(answers).lines(),
        })
    }

    /// Waits for the next line that the child prints.
    pub(crate) async fn answer(&mut self) -> Result<String> {
        match self.answers.next_line().await? {
            Some(line) => Ok(line),
            None => {
                Err(format!("the child ended by itself: {}", self.process.wait().await?).into())
            }
        }
    }

    /// Lets the child go on.
    pub(crate) async fn go(&mut self) -> Result<()> {
        let input = self
            .process
            .stdin
            .as_mut()
            .ok_or("the child has no input")?;
        Ok(input.write_all(b"go\n").await?)
    }

    /// Waits for the child to end.
    ///
    /// # Errors
    /// If the child failed.
    pub(crate) async fn end(mut self) -> Result<()> {
        let status = self.process.wait().await?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("the child failed: {status}").into())
        }
    }

    /// Kills the child, as by `kill -9`.
    pub(crate) fn kill(&mut self) -> Result<()> {
        Ok(self.process.start_kill()?)
    }

    /// # Errors
    /// If the child has ended.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            Some(status) => Err(format!("the child ended by itself: {status}").into()),
            None => Ok(()),
        }
    }
}

/// Waits until the parent lets this child go on.
pub(crate) async fn told_to_go() -> Result<()> {
    let mut line = String::new();
    BufReader::new(tokio::io::stdin())
        .read_line(&mut line)
        .await?;
    // The end of the input: the parent has died, and nobody waits for a figure.
    if line.is_empty() {
        Err("the parent is gone".into())
    } else {
        Ok(())
    }
}

/// Whether this process exports its metrics.
#[cfg(feature = "metrics")]
pub(crate) fn exports() -> bool {
    !role().is_some_and(|(role, _)| role.starts_with(UNMEASURED))
}

/// The role and the database's URL, if this process is a child.
pub(crate) fn role() -> Option<(String, String)> {
    let role = std::env::var(ROLE).ok()?;
    let url = std::env::var("DATABASE_URL").unwrap_or_default();
    Some((role, url))
}
