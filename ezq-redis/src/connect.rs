//! From a URL to a client.

use std::time::Duration;

use ezq_core::Result;
use redis::Client;

use crate::error::wrong_url;

/// How long a connection may take.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A client of the server at a URL. It does not connect.
///
/// # Errors
/// If the URL is wrong, or demands TLS without the feature for it.
pub(crate) fn client(url: &str) -> Result<Client> {
    if !cfg!(feature = "tls-rustls-ring") && url.starts_with("rediss") {
        let why = "it demands TLS: turn on the feature `tls-rustls-ring` of ezq-redis";
        return Err(wrong_url(why));
    }
    #[cfg(feature = "tls-rustls-ring")]
    choose_cryptography();
    let why = "write `redis://user:password@host:port/database`";
    Client::open(url).map_err(|_| wrong_url(why))
}

/// Chooses who does the cryptography of TLS, unless the program has. Rustls panics where the crates of a
/// program bring several and none is chosen.
#[cfg(feature = "tls-rustls-ring")]
fn choose_cryptography() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // One that was chosen meanwhile will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

/// Where the server is, without credentials.
pub(crate) fn address(client: &Client) -> String {
    client.get_connection_info().addr().to_string()
}
