//! The program `commits`, on repositories of every kind.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{assert_in_order, example, printed, run, text};

/// A folder that is removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("ezq-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn git(repo: &Path, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut git = Command::new("git");
    git.arg("-C").arg(repo).args(arguments);
    // Inside a hook these would point git elsewhere.
    git.env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE");
    git.stdin(Stdio::piped()).stdout(Stdio::piped());

    let mut git = git.spawn().expect("git is installed");
    git.stdin.take().unwrap().write_all(input).unwrap();
    let output = git.wait_with_output().unwrap();
    assert!(output.status.success(), "git {arguments:?}");
    output.stdout
}

/// Five commits by three authors, each with something that a careless reader would stumble over.
fn odd_repository(repo: &Path) {
    git(repo, &["init", "--quiet", "--initial-branch=main"], b"");
    let mut history: Vec<u8> = Vec::new();
    let mut commit = |mark: u8, author: &[u8], time: u64, message: &str, rest: &[u8]| {
        history.extend(format!("commit refs/heads/main\nmark :{mark}\nauthor ").bytes());
        history.extend(author);
        history.extend(format!(" <a@b> {time} +0530\ncommitter c <c@d> {time} +0000\n").bytes());
        history.extend(format!("data {}\n{message}\n", message.len()).bytes());
        history.extend(rest);
    };

    let weird: &[u8] = b"M 100644 inline \"\\nline\\tbreak\"\ndata 1\nx\n\
        M 100644 inline \":100644 colon\"\ndata 1\nx\n\
        M 100644 inline \"quo\\\"te \xc3\xa9\"\ndata 1\nx\n\
        M 100644 inline \"no utf-8 \xff\"\ndata 1\nx\n";
    commit(1, b"Ada", 1_700_000_000, "one\n\nwith a body", weird);
    commit(2, b"Ada", 1_700_000_000, "", b"from :1\n");

    commit(
        3,
        b"Grace \xff",
        1_700_000_000,
        "three",
        b"from :1\nM 100644 inline side\ndata 1\nx\n",
    );

    commit(
        4,
        b"Ada",
        1_700_000_000,
        "merge",
        b"from :2\nmerge :3\nM 100644 inline side\ndata 1\nx\n",
    );

    commit(
        5,
        b"",
        1_700_003_600,
        ":100644 looks like a file",
        b"from :4\n",
    );
    git(repo, &["fast-import", "--quiet", "--force"], &history);
}

#[test]
fn commits_counts_every_commit_of_an_odd_repository() {
    let folder = Folder::new("odd");
    odd_repository(&folder.0);
    let out = printed(run(example("commits").arg("--repo").arg(&folder.0)));

    assert_in_order(
        &out,
        &[
            "reading 5 commits from ",
            "commits  author\n        3  Ada\n        1  \n        1  Grace \u{fffd}\n",
            "commits  file\n",
            "   hour  commits\n",
            "\n   3:00        4  ████",
            "\n   4:00        1  ████",
            "5 events were handled, as many as git counts commits",
        ],
    );

    for file in [
        "1  \u{fffd}line\u{fffd}break\n",
        "1  :100644 colon\n",
        "1  quo\"te é\n",
        "1  no utf-8 \u{fffd}\n",
        "1  side\n",
    ] {
        assert!(out.contains(file), "{file:?} is missing in:\n{out}");
    }
}

#[test]
fn commits_says_what_is_wrong_with_a_repository() {
    let folder = Folder::new("none");
    let output = run(example("commits").arg("--repo").arg(&folder.0));
    assert_eq!(output.status.code(), Some(1));

    assert_in_order(
        &text(&output.stderr),
        &["cannot read the history of", "not a git repository"],
    );

    git(&folder.0, &["init", "--quiet"], b"");
    let output = run(example("commits").arg("--repo").arg(&folder.0));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("has no commits"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn commits_says_that_git_is_missing() {
    let output = run(example("commits").env("PATH", "/nonexistent"));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("`git` is not installed"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn commits_refuses_unknown_arguments_and_explains_itself() {
    let output = run(example("commits").arg("--depth"));
    assert_eq!(output.status.code(), Some(2));
    assert_in_order(
        &text(&output.stderr),
        &["unknown argument `--depth`", "Usage: commits"],
    );
    assert!(printed(run(example("commits").arg("--help"))).contains("--repo PATH"));
}
