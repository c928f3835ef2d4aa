//! The file of contexts: databases by name.
//!
//! ```toml
//! [production]
//! database_url = "postgres://ops@db.example.com/shop"
//!
//! [staging]
//! database_url_env = "STAGING_URL"
//! ```
//!
//! There is no current context: what changes a database names it in the same line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::Failure;
use crate::global::Global;
use crate::names;
use crate::output::Output;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    database_url: Option<String>,
    database_url_env: Option<String>,
}

/// The URL of a context.
pub(crate) fn url(global: &Global, name: &str, output: Output) -> Result<String, Failure> {
    let path = match &global.context_file {
        Some(path) => path.clone(),
        None => default_path()?,
    };
    let shown = path.display();
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Failure::usage(format!("cannot read the contexts in {shown}: {error}")))?;

    // A note only: in a container every file may be so.
    if is_open_to_others(&path) {
        output.note(format!(
            "other users of this machine can read {shown}: `chmod 600` it if it holds passwords"
        ));
    }
    find(&text, name).map_err(|what| Failure::usage(format!("{shown}: {what}")))
}

fn default_path() -> Result<PathBuf, Failure> {
    let folder = |name: &str| std::env::var_os(name).filter(|text| !text.is_empty());
    let config = folder("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(folder("HOME")?).join(".config")));
    config
        .map(|folder| folder.join("ezq").join("contexts.toml"))
        .ok_or_else(|| Failure::usage("HOME is not set: name the file with `--context-file`"))
}

/// The URL of a context in the text of a file. An error repeats nothing of the text but names: the line
/// that is wrong may hold a password.
fn find(text: &str, name: &str) -> Result<String, String> {
    let contexts: BTreeMap<String, Context> =
        toml::from_str(text).map_err(|error| match error.span() {
            Some(span) => {
                let before = text.get(..span.start).unwrap_or(text);
                let line = before.matches('\n').count().saturating_add(1);
                format!("line {line} is not as docs/cli.md shows it")
            }
            None => "it is not as docs/cli.md shows it".to_owned(),
        })?;

    let Some(context) = contexts.get(name) else {
        let known = contexts.keys().map(String::as_str);
        return Err(names::missing("context", name, known, "the file has no"));
    };
    match (&context.database_url, &context.database_url_env) {
        (Some(url), None) => Ok(url.clone()),
        (None, Some(variable)) => std::env::var(variable)
            .ok()
            .filter(|url| !url.is_empty())
            .ok_or_else(|| format!("the variable `{variable}` of `{name}` is not set")),
        _ => Err(format!(
            "`{name}` needs either `database_url` or `database_url_env`"
        )),
    }
}

#[cfg(unix)]
fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_found_by_its_name() {
        let file =
            "[production]\ndatabase_url = \"postgres://a/b\"\n[\"it's 5%\"]\ndatabase_url = \"x\"";
        assert_eq!(find(file, "production").unwrap(), "postgres://a/b");
        assert_eq!(find(file, "it's 5%").unwrap(), "x");

        let error = find(file, "prodution").unwrap_err();
        assert!(error.contains("is it `production`?"), "{error}");
    }

    #[test]
    fn an_error_repeats_nothing_that_may_be_a_password() {
        for file in [
            "[a]\ndatabase_url = \"postgres://u:hunter2@h/d\nx",
            "[a]\npassword = \"hunter2\"",
            "[a]\ndatabase_url = [\"hunter2\"]",
            "hunter2",
        ] {
            let error = find(file, "a").unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains("docs/cli.md"), "{error}");
        }
    }

    #[test]
    fn a_context_has_one_source_of_its_url() {
        for file in ["[a]", "[a]\ndatabase_url = \"x\"\ndatabase_url_env = \"Y\""] {
            let error = find(file, "a").unwrap_err();
            assert!(error.contains("either"), "{error}");
        }
        let error = find("[a]\ndatabase_url_env = \"EZQ_TEST_NOT_SET\"", "a").unwrap_err();
        assert!(error.contains("EZQ_TEST_NOT_SET"), "{error}");
    }
}
