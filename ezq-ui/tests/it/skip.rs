//! Tests that need a program which may not be installed: without it they are skipped, and say so.
//!
//! Where `REQUIRE_ALL_TESTS` is set, as in CI, that is a failure. The tests of ezq have this file
//! too.

use std::io::Write as _;
use std::path::PathBuf;

/// Makes a skipped test a failure. The name does not begin with `EZQ_`: such variables are options
/// of ezq.
pub(crate) const REQUIRE: &str = "REQUIRE_ALL_TESTS";

/// The path of a program of Debian's package; `None`, and a line on stderr, where the test is to be
/// skipped for lack of it.
///
/// # Panics
/// If no test may be skipped.
pub(crate) fn program(name: &str, package: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();

    // Debian has servers in folders that only root's path includes.
    if folders.contains(&PathBuf::from("/usr/bin")) {
        folders.push("/usr/sbin".into());
    }

    let found = folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|file| file.is_file());
    if found.is_none() {
        let why = format!("{name} is not installed (apt-get install -y {package})");
        because(test, &why);
    }

    found
}

/// Says that a test is skipped, and why.
///
/// # Panics
/// If no test may be skipped.
pub(crate) fn because(test: &str, why: &str) {
    let required = std::env::var_os(REQUIRE).is_some_and(|text| !text.is_empty());
    assert!(!required, "{test} must run: {why}");
    // The harness hides the output of `eprintln!` if a test passes.
    let _ = writeln!(std::io::stderr(), "skipped {test}: {why}");
}
