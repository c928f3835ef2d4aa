//! Finding the Postgres binaries.

use std::path::PathBuf;
use std::process::Stdio;

use ezq_core::{Error, ErrorKind, Result};

use super::account::Account;
use super::command::command;
use super::fetch;
use super::programs::is_complete;

/// The folder that holds them: the one that is named, or else of an installed
/// Postgres, or else of a fetched one.
pub(super) fn binaries(account: Option<&Account>) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("EZQ_PG_BIN") {
        let folder = PathBuf::from(folder);
        if is_complete(&folder) {
            return Ok(folder);
        }

        let text = format!(
            "EZQ_PG_BIN names {}, where `postgres` and `initdb` are not both found",
            folder.display()
        );
        return Err(Error::new(ErrorKind::Configuration, text));
    }

    match candidates().find(|folder| is_complete(folder)) {
        Some(folder) => Ok(folder),
        None => fetch::binaries(account),
    }
}

fn candidates() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    on_path
        .into_iter()
        .chain(std::iter::once_with(from_pg_config).flatten())
        .chain(versions("/usr/lib/postgresql", "bin"))
        .chain(versions("/usr/local/lib/postgresql", "bin"))
        .chain(versions("/opt/homebrew/opt", "bin"))
        .chain(versions("/usr/local/opt", "bin"))
        .chain(versions(
            "/Applications/Postgres.app/Contents/Versions",
            "bin",
        ))
}

fn from_pg_config() -> Option<PathBuf> {
    let output = command("pg_config", None)
        .arg("--bindir")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().next()?;
    Some(PathBuf::from(line))
}

// Folders named after a version (`15`, `postgresql@16`), newest first.
fn versions(parent: &str, child: &str) -> impl Iterator<Item = PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = version_of(&entry.file_name().to_string_lossy())?;
            Some((version, entry.path().join(child)))
        })
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, folder)| folder)
}

fn version_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("postgresql@").unwrap_or(name);
    if digits == "postgresql" {
        return Some(0);
    }
    digits.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_as_numbers() {
        assert_eq!(version_of("9.6"), Some(9));
        assert_eq!(version_of("15"), Some(15));
        assert_eq!(version_of("postgresql@16"), Some(16));
        assert_eq!(version_of("postgresql"), Some(0));
        assert_eq!(version_of("latest"), None);
    }
}
