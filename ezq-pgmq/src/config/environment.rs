//! Which database the environment names, and when a development Postgres may replace it.
//!
//! A production build may have the feature `embedded` by accident: another crate in the build turns
//! it on for all. If the database's URL is then forgotten, the program would keep its events on a
//! server that ends with it. So a debug build warns, and a release build fails unless the
//! development Postgres is asked for.

use ezq_core::Result;

use crate::config::PgmqConfig;

impl PgmqConfig {
    /// The database that the environment names: `EZQ_DATABASE_URL`, else `DATABASE_URL`.
    ///
    /// Where neither is set, the feature `embedded` starts a development Postgres and warns, with
    /// its folder: its data ends with the process. It does so in builds with debug assertions, and
    /// in others only with `EZQ_EMBEDDED=true`. `EZQ_EMBEDDED=false` forbids it in all.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](ezq_core::ErrorKind::Configuration) as for [`url`](Self::url),
    /// where no database is named and none may replace it, and where the development Postgres does
    /// not start.
    pub async fn from_env() -> Result<Self> {
        match variable("EZQ_DATABASE_URL").or_else(|| variable("DATABASE_URL")) {
            Some(url) => Self::url(&url),
            None => Self::standing_in().await,
        }
    }

    #[cfg(not(feature = "embedded"))]
    async fn standing_in() -> Result<Self> {
        // Its error says what is missing.
        Self::embedded().await
    }

    #[cfg(feature = "embedded")]
    async fn standing_in() -> Result<Self> {
        use crate::embedded::flag::flag;

        static WARNED: std::sync::Once = std::sync::Once::new();

        check_stand_in(cfg!(debug_assertions), flag("EZQ_EMBEDDED")?)?;
        let server = crate::embedded::EmbeddedPostgres::shared().await?;
        WARNED.call_once(|| {
            ezq_core::private::warn!(
                folder = %server.folder().display(),
                "no database is configured: events are kept by a development Postgres, which is \
                 removed with all of them when this program ends. Set DATABASE_URL to keep them"
            );
        });
        Ok(Self::options(server.connect_options()))
    }
}

/// An environment variable; an empty one counts as unset.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// Whether a development Postgres may replace a database that is not named.
#[cfg(feature = "embedded")]
fn check_stand_in(is_debug: bool, embedded: Option<bool>) -> Result<()> {
    use ezq_core::{Error, ErrorKind};

    let text = match embedded {
        Some(true) => return Ok(()),
        None if is_debug => return Ok(()),
        None => {
            "no database: set DATABASE_URL to postgres://user:password@host/database. A release \
             build uses a development Postgres in its place, whose data ends with the program, only \
             where EZQ_EMBEDDED=true"
        }
        Some(false) => {
            "no database: set DATABASE_URL to postgres://user:password@host/database. \
             EZQ_EMBEDDED=false forbids a development Postgres in its place"
        }
    };

    Err(Error::new(ErrorKind::Configuration, text))
}

#[cfg(feature = "embedded")]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_development_database_stands_in_for_none_in_debug_builds_or_where_that_is_said() {
        let cases = [
            (true, None, true),
            (true, Some(true), true),
            (true, Some(false), false),
            (false, None, false),
            (false, Some(true), true),
            (false, Some(false), false),
        ];
        for (is_debug, embedded, may) in cases {
            let checked = check_stand_in(is_debug, embedded);
            assert_eq!(checked.is_ok(), may, "debug {is_debug}, {embedded:?}");
            let Err(error) = checked else { continue };
            assert_eq!(error.kind(), ezq_core::ErrorKind::Configuration);
        }
        let error = check_stand_in(false, None).unwrap_err().to_string();
        assert!(
            error.contains("set DATABASE_URL") && error.contains("EZQ_EMBEDDED=true"),
            "{error}"
        );
    }
}
