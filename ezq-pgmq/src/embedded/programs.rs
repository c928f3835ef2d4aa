//! The programs of Postgres that a server needs, and the error where there are none.

use std::path::Path;

use ezq_core::{Error, ErrorKind};

use super::files::is_executable;

/// The programs that are used.
pub(super) const PROGRAMS: [&str; 2] = ["postgres", "initdb"];

/// Whether a folder holds all the programs that are used.
pub(super) fn is_complete(folder: &Path) -> bool {
    PROGRAMS
        .iter()
        .all(|name| is_executable(&folder.join(name)))
}

/// No Postgres is installed, and none can be fetched for this reason.
pub(super) fn missing(why: &str) -> Error {
    let command = if cfg!(target_os = "macos") {
        "run `brew install postgresql@17`"
    } else {
        "run `apt-get install -y postgresql` (Debian, Ubuntu), `dnf install -y postgresql-server` \
         (Fedora) or `apk add postgresql` (Alpine)"
    };

    let text = format!(
        "no Postgres binaries found for the development database, and {why}: {command}, or name \
         their folder in EZQ_PG_BIN, or start one with `docker run -d -p 5432:5432 -e POSTGRES_PASSWORD=ezq \
         postgres` and set EZQ_DATABASE_URL=postgres://postgres:ezq@localhost:5432/postgres"
    );
    Error::new(ErrorKind::Configuration, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_a_command() {
        let text = missing("none can be fetched").to_string();
        assert!(
            text.contains("install") && text.contains("docker run"),
            "{text}"
        );
    }
}
