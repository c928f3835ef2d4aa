//! Errors of the server as errors of ezq. A connection string is in none of them.

#[cfg(feature = "tls-rustls-ring")]
use std::{error::Error as _, io};

use ezq_core::{Error, ErrorKind};
use redis::RedisError;

/// An error of the server at an address; `doing` says what failed.
pub(crate) fn failed(address: &str, doing: &str, error: RedisError) -> Error {
    let kind = match error.kind() {
        redis::ErrorKind::AuthenticationFailed => ErrorKind::Permission,
        _ if error.is_io_error() || error.is_timeout() => ErrorKind::Connection,
        _ => ErrorKind::Transient,
    };
    let advice = match kind {
        _ if is_of_tls(&error) => {
            "check that it speaks TLS, and that the authorities of the machine, or of the file that \
             `SSL_CERT_FILE` names, vouch for it by the host in the URL"
        }
        ErrorKind::Permission => "check the user and the password in the URL",
        ErrorKind::Connection => "check that the server runs there and that its port is open",
        _ => "the server refused it",
    };
    let text = format!("the Redis server at {address} {doing}: {advice}");
    Error::new(kind, text).with_source(error)
}

#[cfg(feature = "tls-rustls-ring")]
type Shared = std::sync::Arc<dyn std::error::Error + Send + Sync>;

/// Whether the two sides did not agree on TLS.
#[cfg(feature = "tls-rustls-ring")]
fn is_of_tls(error: &RedisError) -> bool {
    // The client shares its errors, and shows them in that shape.
    let shared = error
        .source()
        .and_then(|source| source.downcast_ref::<Shared>());
    let failed = shared.and_then(|shared| shared.as_ref().downcast_ref::<io::Error>());
    let inner = failed.and_then(io::Error::get_ref);
    inner.is_some_and(|inner| inner.is::<rustls::Error>())
}

#[cfg(not(feature = "tls-rustls-ring"))]
fn is_of_tls(_: &RedisError) -> bool {
    false
}

/// A name that holds something else than a stream.
pub(crate) fn wrong_type(address: &str, stream: &str, error: RedisError) -> Error {
    let text = format!(
        "`{}` on the Redis server at {address} is no stream: another type of value has the name; \
         remove it, or choose another topic, and redrive the event",
        stream.escape_debug()
    );
    Error::new(ErrorKind::Configuration, text).with_source(error)
}

/// A URL that cannot be used. The parser's own error is left out: it may hold the URL.
pub(crate) fn wrong_url(why: &str) -> Error {
    let text = format!("the URL of the Redis server cannot be used: {why}");
    Error::new(ErrorKind::Configuration, text)
}
