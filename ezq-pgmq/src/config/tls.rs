//! Whether this program can speak TLS, where its database's options demand it.
//!
//! The TLS backend is a feature of the driver. The driver's own error would be one of connecting,
//! which is tried again; no retry gives a program TLS.

use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::config::Place;

/// Refuses options that demand TLS in a program that was built without it.
///
/// # Errors
/// [`ErrorKind::Configuration`].
pub(crate) fn check(options: &PgConnectOptions) -> Result<()> {
    check_with(options, sqlx_core::net::tls::available())
}

// Another crate of the program may have turned on TLS in the driver, so the driver is asked.
fn check_with(options: &PgConnectOptions, is_available: bool) -> Result<()> {
    let mode = match options.get_ssl_mode() {
        PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer => return Ok(()),
        PgSslMode::Require => "require",
        PgSslMode::VerifyCa => "verify-ca",
        PgSslMode::VerifyFull => "verify-full",
    };
    if is_available {
        return Ok(());
    }

    let text = format!(
        "`sslmode={mode}` demands TLS for {}, and this program is built without it: turn on one of \
         the features `tls-rustls-ring`, `tls-rustls-aws-lc` and `tls-native-tls` of ezq",
        Place::of(options)
    );
    Err(Error::new(ErrorKind::Configuration, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::url;

    #[test]
    fn a_url_that_demands_tls_is_refused_in_a_program_without_it() {
        for (mode, demands) in [
            ("disable", false),
            ("allow", false),
            ("prefer", false),
            ("require", true),
            ("verify-ca", true),
            ("verify-full", true),
        ] {
            let options = url::read(&format!(
                "postgres://app:secret@db.example/shop?sslmode={mode}"
            ));
            let options = options.unwrap().options;
            check_with(&options, true).unwrap();

            let checked = check_with(&options, false);
            assert_eq!(checked.is_err(), demands, "{mode}");
            let Err(error) = checked else { continue };
            let text = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(
                text.contains(mode) && text.contains("tls-rustls-ring"),
                "{text}"
            );
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
