//! Child processes: each library works in one of its own.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{self, ChildStdout, Command};

use crate::error::Result;
use crate::library::Library;

/// A child process. It is killed when this is dropped.
pub(crate) struct Child {
    process: process::Child,
    answers: Lines<BufReader<ChildStdout>>,
    what: String,
}

impl Child {
    /// Starts a task of a library, as `child.rs` describes.
    pub(crate) fn start(library: &Library, task: &str, url: &str, jobs: u64) -> Result<Self> {
        let (program, first) = library.program()?;
        let mut process = Command::new(program)
            .args(first)
            .args([
                task,
                library.name,
                url,
                &jobs.to_string(),
                library.unfinished,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let answers = process.stdout.take().ok_or("the child has no output")?;
        Ok(Self {
            process,
            answers: BufReader::new(answers).lines(),
            what: format!("{} {task}", library.name),
        })
    }

    /// Waits for the next line that the child prints.
    pub(crate) async fn answer(&mut self) -> Result<String> {
        match self.answers.next_line().await? {
            Some(line) => Ok(line),
            None => Err(format!("{}: {}", self.what, self.process.wait().await?).into()),
        }
    }

    /// Waits for the child to end by itself.
    pub(crate) async fn end(mut self) -> Result<()> {
        let status = self.process.wait().await?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("{}: {status}", self.what).into())
        }
    }

    /// Kills the child, as by `kill -9`, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<()> {
        Ok(self.process.kill().await?)
    }
}
