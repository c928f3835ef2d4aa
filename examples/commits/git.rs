//! Reads the history of a repository from `git log`, one commit at a time, however long it is.
//!
//! Fields end with NUL, the one byte that neither git's fields nor its paths can hold. (Of a message with
//! a NUL, git shows the part before it.) All other bytes may occur: line breaks, quotes, and bytes that
//! are no UTF-8, which become U+FFFD.

use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::{Commit, Result};

/// Settings that change what `git log` prints. The user's own may differ.
const CONFIG: [&str; 3] = [
    "log.showSignature=false",
    "log.showRoot=true",
    "diff.relative=false",
];

fn git(repo: &Path) -> Command {
    let mut git = Command::new("git");
    git.arg("-C")
        .arg(repo)
        .args(CONFIG.iter().flat_map(|setting| ["-c", setting]));
    // Inside a hook these would point git elsewhere.
    git.env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE");
    git.env("LC_ALL", "C").stdin(Stdio::null());
    git
}

/// Runs git to its end. Returns what it printed, or the inner error with its complaint.
async fn answer(repo: &Path, arguments: &[&str]) -> Result<Result<String>> {
    let output = git(repo).args(arguments).output().await.map_err(explain)?;
    if output.status.success() {
        return Ok(Ok(String::from_utf8(output.stdout)?.trim().to_owned()));
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Ok(Err(complaint.trim().trim_start_matches("fatal: ").into()))
}

fn explain(error: io::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error.kind() {
        io::ErrorKind::NotFound => "`git` is not installed, or not on the PATH".into(),
        _ => format!("cannot run `git`: {error}").into(),
    }
}

/// The commit that HEAD names now. With it, a history that grows meanwhile does not change the count.
pub(crate) async fn head(repo: &Path) -> Result<String> {
    let place = repo.display();
    answer(repo, &["rev-parse", "--git-dir"])
        .await?
        .map_err(|why| format!("cannot read the history of `{place}`: {why}"))?;
    let head = answer(repo, &["rev-parse", "--verify", "HEAD^{commit}"]).await?;
    head.map_err(|_| format!("the repository `{place}` has no commits").into())
}

/// The number of commits in the history of a commit, itself included.
pub(crate) async fn count(repo: &Path, head: &str) -> Result<u64> {
    Ok(answer(repo, &["rev-list", "--count", head])
        .await??
        .parse()?)
}

/// A commit's history, newest first.
pub(crate) struct History {
    git: Child,
    output: BufReader<ChildStdout>,
    /// The first field of the next commit, which was read to find the end of the last commit's files.
    ahead: Option<Vec<u8>>,
}

impl History {
    pub(crate) fn open(repo: &Path, head: &str) -> Result<Self> {
        let mut git = git(repo)
            // Merges are listed as well, without files. The raw form marks each path by a field
            // that begins with a colon, which no hash does.
            .args([
                "log",
                "-z",
                "--raw",
                "--no-renames",
                "--no-color",
                "--encoding=UTF-8",
            ])
            .args(["--date=format:%H", "--format=%H%x00%an%x00%ad%x00%s"])
            .args([head, "--"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(explain)?;
        let output = git.stdout.take().ok_or("`git log` has no output")?;
        Ok(Self {
            git,
            output: BufReader::new(output),
            ahead: None,
        })
    }

    /// The next commit; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<Commit>> {
        let first = match self.ahead.take() {
            Some(field) => Some(field),
            None => self.field().await?,
        };
        let Some(hash) = first else {
            let status = self.git.wait().await?;
            return if status.success() {
                Ok(None)
            } else {
                Err("`git log` failed".into())
            };
        };

        let author = self.text().await?;
        let hour = self.text().await?;
        let subject = self.text().await?;
        let mut files = Vec::new();
        while let Some(field) = self.field().await? {
            // A line break stands between a message and its first file.
            if !field
                .strip_prefix(b"\n")
                .unwrap_or(&field)
                .starts_with(b":")
            {
                self.ahead = Some(field);
                break;
            }
            files.push(self.text().await?);
        }

        // Dates that git cannot read have no hour.
        Ok(Some(Commit {
            hash: text(&hash),
            author,
            hour: hour.parse().ok(),
            subject,
            files,
        }))
    }

    async fn field(&mut self) -> Result<Option<Vec<u8>>> {
        let mut field = Vec::new();
        self.output.read_until(0, &mut field).await?;
        Ok((field.pop() == Some(0)).then_some(field))
    }

    async fn text(&mut self) -> Result<String> {
        let field = self
            .field()
            .await?
            .ok_or("`git log` ended within a commit")?;
        Ok(text(&field))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
