//! Parsing a database URL. It refuses what the driver would misread, or would show although it is
//! secret.

use std::str::FromStr as _;

use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnectOptions;

/// The parameters that the driver knows. It would log the value of any other.
const KNOWN: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Parses a database URL.
///
/// # Errors
/// [`ErrorKind::Configuration`], which repeats nothing that may be a password.
pub(crate) fn read(url: &str) -> Result<PgConnectOptions> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"));
    let Some(rest) = rest else {
        return Err(unreadable());
    };

    // An unencoded `/`, `?` or `#` in the password would end the part of the URL that it is in.
    if let Some((before, _)) = rest.rsplit_once('@')
        && before.contains(['/', '?', '#'])
    {
        return Err(unreadable());
    }

    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    let hosts = authority
        .rsplit_once('@')
        .map_or(authority, |(_, hosts)| hosts);
    let query = url.split_once('?').map_or("", |(_, query)| query);
    let mut is_list = hosts.contains(',');

    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !KNOWN.contains(&name) && !name.starts_with("options[") {
            return Err(unknown(name));
        }
        is_list |= matches!(name, "host" | "hostaddr" | "port")
            && (value.contains(',') || value.to_ascii_lowercase().contains("%2c"));
    }

    if is_list {
        let text = "the database URL names several hosts: name one, such as the address that leads to \
                    the primary";
        return Err(Error::new(ErrorKind::Configuration, text));
    }

    // The driver's error may quote a part of the URL.
    let options = PgConnectOptions::from_str(url).map_err(|_| unreadable())?;
    // The driver keeps the brackets of an IPv6 address, and would then resolve a host of that name.
    let host = options.get_host();
    match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .map(str::to_owned)
    {
        Some(address) => Ok(options.host(&address)),
        None => Ok(options),
    }
}

fn unreadable() -> Error {
    let text = "the database URL cannot be read: write it as \
                postgres://user:password@host:port/database, with special characters in the password \
                percent-encoded (`/` as %2F, `?` as %3F, `#` as %23, `@` as %40)";
    Error::new(ErrorKind::Configuration, text)
}

fn unknown(name: &str) -> Error {
    // What is not a parameter's name may be a part of a password.
    let is_name = name.len() <= 40 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let name = if is_name {
        format!("`{name}`")
    } else {
        "one of them".to_owned()
    };

    let text = format!(
        "the parameter {name} of the database URL is not supported: ezq knows {}; a service file or a \
         key's password is not read",
        KNOWN.join(", ")
    );
    Error::new(ErrorKind::Configuration, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_brackets_off_an_address() {
        for url in [
            "postgres://app@[::1]:5433/db",
            "postgres://app@[fe80::1]/db?sslmode=disable",
        ] {
            let options = read(url).unwrap();
            assert!(
                !options.get_host().contains(['[', ']']),
                "{}",
                options.get_host()
            );
        }
        assert_eq!(
            read("postgres://app@[::1]:5433/db").unwrap().get_port(),
            5433
        );
    }

    #[test]
    fn shows_nothing_of_a_password_that_is_not_encoded() {
        for url in [
            "postgres://app:12/hunter2@host/db",
            "postgres://app:hun#ter2@host/db",
            "postgres://app:12?hunter2@host/db",
            "postgres://app:1@host/db?sslpassword=hunter2",
            "postgres://app:1@host/db?hunter2",
            "postgres://app:12/hunter2@host:5432/db?sslmode=disable",
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{url}");
            let text = format!("{error:?} {error}");
            assert!(!text.contains("ter2") && !text.contains("hun"), "{text}");
        }
    }

    #[test]
    fn says_what_is_not_supported() {
        let of = |url: &str| read(url).unwrap_err().to_string();
        for url in [
            "postgres://a@one,two/db",
            "postgres:///db?host=one,two",
            "postgres://h/db?port=1%2C2",
        ] {
            assert!(of(url).contains("several hosts"), "{url}");
        }
        assert!(of("postgres:///db?service=shop").contains("`service`"));
    }

    #[test]
    fn reads_what_it_should() {
        let options =
            read("postgres://app:p%2F%40@db.example/shop?application_name=a%40b").unwrap();
        assert_eq!(options.get_host(), "db.example");
        assert_eq!(options.get_database(), Some("shop"));
        assert_eq!(options.get_application_name(), Some("a@b"));
        read("postgres://localhost:5432/postgres?host=%2Ftmp%2Fpg&sslmode=disable").unwrap();
        read("postgres://a@h/db?options=-c%20geqo%3Doff&options[jit]=off").unwrap();
    }
}
