//! The folder that keeps the fetched binaries, shared by all checkouts of a user.

use std::ffi::OsString;
use std::path::PathBuf;

use ezq_core::Result;

use crate::embedded::error::failure;

/// Names another folder.
pub(super) const VARIABLE: &str = "EZQ_PG_CACHE";

/// The folder: `EZQ_PG_CACHE`, or else where this platform keeps a user's caches.
///
/// Root has a folder outside its home. Its servers run under another account, which cannot enter
/// `/root`.
pub(super) fn folder(is_root: bool) -> Result<PathBuf> {
    choose(is_root, cfg!(target_os = "macos"), |name| {
        std::env::var_os(name)
    })
}

fn choose(
    is_root: bool,
    is_macos: bool,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(folder) = set(VARIABLE) {
        return absolute(PathBuf::from(folder));
    }

    if is_root {
        let caches = if is_macos {
            "/Library/Caches"
        } else {
            "/var/cache"
        };
        return Ok(PathBuf::from(caches).join("ezq"));
    }

    // The XDG specification ignores a relative path.
    let shared = set("XDG_CACHE_HOME").map(PathBuf::from);
    if let Some(caches) = shared.filter(|path| path.is_absolute() && !is_macos) {
        return Ok(caches.join("ezq"));
    }

    let Some(home) = set("HOME") else {
        let text = format!("no folder for fetched binaries: name one in {VARIABLE}, or set HOME");
        return Err(failure(&text));
    };
    let caches = if is_macos { "Library/Caches" } else { ".cache" };
    absolute(PathBuf::from(home).join(caches).join("ezq"))
}

/// The server's programs run in another working directory.
fn absolute(folder: PathBuf) -> Result<PathBuf> {
    std::path::absolute(folder)
        .map_err(|error| failure(&format!("{VARIABLE} names no folder")).with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variables that are set.
    type Set<'a> = &'a [(&'a str, &'a str)];

    fn chosen(is_root: bool, is_macos: bool, set: Set<'_>) -> PathBuf {
        let value = |name: &str| {
            let found = set.iter().find(|(known, _)| *known == name)?;
            Some(OsString::from(found.1))
        };
        choose(is_root, is_macos, value).unwrap()
    }

    #[test]
    fn follows_the_platform_and_the_environment() {
        let home = ("HOME", "/home/ada");
        let xdg = ("XDG_CACHE_HOME", "/caches");
        let relative = ("XDG_CACHE_HOME", "caches");
        let own = (VARIABLE, "/own");
        let unset = (VARIABLE, "");

        let cases: [(bool, bool, Set<'_>, &str); 8] = [
            (false, false, &[home], "/home/ada/.cache/ezq"),
            (false, false, &[home, xdg, unset], "/caches/ezq"),
            (false, false, &[home, relative], "/home/ada/.cache/ezq"),
            (false, true, &[home, xdg], "/home/ada/Library/Caches/ezq"),
            (false, false, &[home, xdg, own], "/own"),
            (true, false, &[home, xdg], "/var/cache/ezq"),
            (true, true, &[home], "/Library/Caches/ezq"),
            (true, false, &[home, own], "/own"),
        ];
        for (is_root, is_macos, set, expected) in cases {
            let folder = chosen(is_root, is_macos, set);
            assert_eq!(folder, PathBuf::from(expected), "{is_root} {set:?}");
        }
    }

    #[test]
    fn without_a_home_the_error_names_the_variable() {
        let error = choose(false, false, |_| None).unwrap_err();
        assert!(error.to_string().contains(VARIABLE), "{error}");
    }

    #[test]
    fn a_relative_folder_is_made_absolute() {
        assert!(chosen(false, false, &[(VARIABLE, "caches")]).is_absolute());
    }
}
