//! Why a server does not start, or ends.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// Why a [`Server`](super::Server) does not start, or ends. The text says what to do.
#[derive(Debug)]
pub struct ServerError {
    kind: ServerErrorKind,
    text: String,
    source: Option<io::Error>,
}

/// What went wrong with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerErrorKind {
    /// It is to listen where other machines reach it, and nothing keeps strangers out.
    SecretMissing,
    /// A token or a password can be guessed, because it is too short.
    SecretWeak,
    /// A file of a secret cannot be read.
    FileUnreadable,
    /// Other users of the machine can read the file of a secret, or change it.
    FileOpenToOthers,
    /// A password file does not hold a hash that this crate knows.
    PasswordInvalid,
    /// The address cannot be had.
    Listen,
    /// Connections cannot be accepted any more.
    Serve,
}

impl ServerError {
    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ServerErrorKind {
        self.kind
    }

    pub(super) fn new(kind: ServerErrorKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            source: None,
        }
    }

    pub(super) fn secret_missing(address: SocketAddr) -> Self {
        let text = format!(
            "{address} can be reached from other machines, and anybody there would be let in: give a \
             token or a password file, or listen on 127.0.0.1"
        );
        Self::new(ServerErrorKind::SecretMissing, text)
    }

    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        let text = format!("cannot read the secret in {}", path.display());
        Self {
            source: Some(source),
            ..Self::new(ServerErrorKind::FileUnreadable, text)
        }
    }

    pub(super) fn listen(address: SocketAddr, source: io::Error) -> Self {
        let advice = match source.kind() {
            io::ErrorKind::AddrInUse => ": another program has the port, so take another one",
            _ => "",
        };
        Self {
            source: Some(source),
            ..Self::new(
                ServerErrorKind::Listen,
                format!("cannot listen on {address}{advice}"),
            )
        }
    }

    pub(super) fn serve(source: io::Error) -> Self {
        Self {
            source: Some(source),
            ..Self::new(
                ServerErrorKind::Serve,
                "no more connections can be accepted",
            )
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}
