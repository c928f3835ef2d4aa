//! Parsing a database URL. It refuses what the driver would misread, or would show although it is
//! secret.

use std::str::FromStr as _;

use ezq_core::{Error, ErrorKind, Result};
use sqlx::postgres::PgConnectOptions;

use crate::config::parameters::{self, Target};

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

/// What a database URL says.
#[derive(Debug)]
pub(crate) struct DatabaseUrl {
    pub(crate) options: PgConnectOptions,
    pub(crate) target: Target,
}

/// Parses a database URL.
///
/// # Errors
/// [`ErrorKind::Configuration`], which repeats nothing that may be a password.
pub(crate) fn read(url: &str) -> Result<DatabaseUrl> {
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
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let mut is_list = hosts.contains(',');
    let mut target = Target::default();
    let mut for_driver = Vec::new();

    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name {
            "channel_binding" => parameters::check_channel_binding(value)?,
            "target_session_attrs" => target = Target::read(value)?,
            _ if KNOWN.contains(&name) || name.starts_with("options[") => {
                for_driver.push(parameter);
            }
            _ => return Err(unknown(name)),
        }
        is_list |= matches!(name, "host" | "hostaddr" | "port")
            && (value.contains(',') || value.to_ascii_lowercase().contains("%2c"));
    }

    if is_list {
        let text = "the database URL names several hosts: name one, such as the address that leads to \
                    the primary";
        return Err(Error::new(ErrorKind::Configuration, text));
    }

    let url = format!("{address}?{}", for_driver.join("&"));
    // The driver's error may quote a part of the URL.
    let options = PgConnectOptions::from_str(&url).map_err(|_| unreadable())?;
    Ok(DatabaseUrl {
        options: without_brackets(options),
        target,
    })
}

fn without_brackets(options: PgConnectOptions) -> PgConnectOptions {
    // The driver keeps the brackets of an IPv6 address, and would then resolve a host of that name.
    let host = options.get_host();
    match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .map(str::to_owned)
    {
        Some(address) => options.host(&address),
        None => options,
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
        [&KNOWN[..], &parameters::NAMES].concat().join(", ")
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
            let options = read(url).unwrap().options;
            assert!(
                !options.get_host().contains(['[', ']']),
                "{}",
                options.get_host()
            );
        }
        let with_port = read("postgres://app@[::1]:5433/db").unwrap().options;
        assert_eq!(with_port.get_port(), 5433);
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
        let url = "postgres://app:p%2F%40@db.example/shop?application_name=a%40b";
        let options = read(url).unwrap().options;
        assert_eq!(options.get_host(), "db.example");
        assert_eq!(options.get_database(), Some("shop"));
        assert_eq!(options.get_application_name(), Some("a@b"));
        read("postgres://localhost:5432/postgres?host=%2Ftmp%2Fpg&sslmode=disable").unwrap();
        read("postgres://a@h/db?options=-c%20geqo%3Doff&options[jit]=off").unwrap();
        read("postgres://a@h/db?").unwrap();
    }

    #[test]
    fn reads_what_hosted_databases_add_and_hands_the_rest_to_the_driver() {
        let url = "postgres://a@h/db?target_session_attrs=read-write&application_name=shop\
                   &channel_binding=prefer";
        let read_write = read(url).unwrap();
        assert_eq!(read_write.target, Target::ReadWrite);
        assert_eq!(read_write.options.get_application_name(), Some("shop"));
        assert_eq!(read_write.options.get_database(), Some("db"));

        for (value, target) in [("primary", Target::Primary), ("any", Target::Any)] {
            let url = format!("postgres://a@h/db?target_session_attrs={value}");
            assert_eq!(read(&url).unwrap().target, target);
        }
        assert_eq!(read("postgres://a@h/db").unwrap().target, Target::Any);
        read("postgres://a@h/db?channel_binding=disable&sslmode=require").unwrap();
    }

    #[test]
    fn a_channel_binding_that_the_driver_cannot_give_is_refused_with_what_to_write() {
        let refused = |query: &str| {
            let error = read(&format!("postgres://a:hunter2@h/db?{query}")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(!error.to_string().contains("hunter2"), "{error}");
            error.to_string()
        };
        let required = refused("sslmode=require&channel_binding=require");
        assert!(required.contains("sslmode=verify-full"), "{required}");
        assert!(refused("channel_binding=on").contains("`prefer` or `disable`"));
        assert!(refused("channel_binding").contains("`prefer` or `disable`"));
    }

    #[test]
    fn a_server_that_cannot_be_written_to_is_no_target() {
        for value in ["read-only", "standby", "prefer-standby", "", "hunter2"] {
            let url = format!("postgres://a@h/db?target_session_attrs={value}");
            let error = read(&url).unwrap_err().to_string();
            assert!(
                error.contains("`read-write`, `primary` or `any`"),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
