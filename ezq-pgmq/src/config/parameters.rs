//! Parameters of a database URL that ezq reads itself, because the driver does not know them.
//!
//! Hosted databases hand out URLs with them. Each value takes effect as libpq documents it, or is
//! refused with what to write in its place.

use ezq_core::{Error, ErrorKind, Result};

/// The parameters that are read here.
pub(super) const NAMES: [&str; 2] = ["channel_binding", "target_session_attrs"];

/// Which server a session must have reached: `target_session_attrs` of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Target {
    /// Any that lets it in.
    #[default]
    Any,
    /// One whose transactions may write unless they say otherwise.
    ReadWrite,
    /// One that is no standby.
    Primary,
}

impl Target {
    /// SQL that is true where the session has reached a wrong server.
    pub(crate) fn is_missed(self) -> &'static str {
        match self {
            Self::Any => "false",
            // True on a standby too.
            Self::ReadWrite => {
                "pg_catalog.current_setting('transaction_read_only')::pg_catalog.bool"
            }
            Self::Primary => "pg_catalog.pg_is_in_recovery()",
        }
    }

    pub(super) fn read(value: &str) -> Result<Self> {
        match value {
            "any" => Ok(Self::Any),
            "read-write" => Ok(Self::ReadWrite),
            "primary" => Ok(Self::Primary),
            _ => wrong(
                "`target_session_attrs` of the database URL must be `read-write`, `primary` or `any`: \
                 ezq writes to its server, so it cannot work with a standby",
            ),
        }
    }
}

/// Checks `channel_binding`. The driver binds no login to its TLS channel, and tells the server so.
/// That is what `disable` asks for and what `prefer` puts up with; `require` forbids it.
pub(super) fn check_channel_binding(value: &str) -> Result<()> {
    match value {
        "disable" | "prefer" => Ok(()),
        "require" => wrong(
            "`channel_binding=require` of the database URL cannot be met: the driver (sqlx) does not \
             bind logins to their TLS channel. Leave it out, and write `sslmode=verify-full`: it proves \
             by certificate that the server is the one that is named",
        ),
        _ => wrong(
            "`channel_binding` of the database URL must be `prefer` or `disable`: the driver (sqlx) \
             does not bind logins to their TLS channel",
        ),
    }
}

fn wrong<T>(why: &str) -> Result<T> {
    Err(Error::new(ErrorKind::Configuration, why))
}
