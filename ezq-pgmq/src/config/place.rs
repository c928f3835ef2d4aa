//! A database as messages may name it.

use std::fmt;

use sqlx::postgres::PgConnectOptions;

/// A database as messages may name it: everything but the password.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) role: String,
    pub(crate) database: String,
    server: String,
}

impl Place {
    pub(crate) fn of(options: &PgConnectOptions) -> Self {
        let role = options.get_username().to_owned();
        let database = options.get_database().unwrap_or(&role).to_owned();
        let server = match options.get_socket() {
            Some(socket) => format!("{}:{}", socket.display(), options.get_port()),
            None if options.get_host().contains(':') => {
                format!("[{}]:{}", options.get_host(), options.get_port())
            }
            None => format!("{}:{}", options.get_host(), options.get_port()),
        };

        Self {
            role,
            database,
            server,
        }
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}/{}", self.role, self.server, self.database)
    }
}
