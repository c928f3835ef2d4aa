//! Errors of the server as errors of ezq. A connection string is in none of them.

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
        ErrorKind::Permission => "check the user and the password in the URL",
        ErrorKind::Connection => "check that the server runs there and that its port is open",
        _ => "the server refused it",
    };
    let text = format!("the Redis server at {address} {doing}: {advice}");
    Error::new(kind, text).with_source(error)
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
