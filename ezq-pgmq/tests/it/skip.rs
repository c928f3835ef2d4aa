//! Tests that need a program which is not everywhere: left out where it is not, and said so.
//!
//! Where `REQUIRE_ALL_TESTS` is set, as CI sets it, that is a failure. The tests of ezq have this file
//! too.

use std::io::Write as _;
use std::path::PathBuf;

/// Makes a skipped test a failure. No name that begins with `EZQ_`, since those are options of ezq.
pub(crate) const REQUIRE: &str = "REQUIRE_ALL_TESTS";

/// Where a program is, of Debian's package; `None`, and a line on stderr, where a test is to be
/// skipped for want of it.
///
/// # Panics
/// If no test may be skipped.
pub(crate) fn program(name: &str, package: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Debian has servers where only root's path leads.
    if folders.contains(&PathBuf::from("/usr/bin")) {
        folders.push("/usr/sbin".into());
    }
    let found = folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        let why = format!("{name} is not installed (apt-get install -y {package})");
        let required = std::env::var_os(REQUIRE).is_some_and(|text| !text.is_empty());
        assert!(!required, "{test} must run: {why}");
        // Not by `eprintln!`, which the harness hides of a test that passes.
        let _ = writeln!(std::io::stderr(), "skipped {test}: {why}");
    }
    found
}
