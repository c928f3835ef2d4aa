//! Options from environment variables: one table of names, one parser for each sort of value.

use std::ffi::OsString;
use std::time::Duration;

use super::unknown_variables::warn_of_unknown;
use super::{Config, UnknownTypes, wrong};
use crate::codec::wire::WireFormat;
use crate::error::Result;
use crate::message::queue_name::QueueName;
use crate::publish::routing;
use crate::text::duration;

/// Variables that are read elsewhere: where the database is, where its binaries are, and the token of
/// the dashboard. A URL or a token must not be kept in a [`Config`], where it could be printed.
const READ_ELSEWHERE: [&str; 5] = [
    "EZQ_DATABASE_URL",
    "EZQ_PG_BIN",
    "EZQ_PG_CACHE",
    "EZQ_PG_WHEEL_URL",
    "EZQ_UI_TOKEN",
];

/// Parses the text of a variable and stores it in its option, or says how to write the value.
type Set = fn(&mut Config, &str) -> Result<(), String>;

const OPTIONS: [(&str, Set); 27] = [
    ("EZQ_APP", |config, text| {
        config.app = text.to_owned();
        Ok(())
    }),
    ("EZQ_APP_VERSION", |config, text| {
        config.app_version = Some(text.to_owned());
        Ok(())
    }),
    ("EZQ_QUEUE", |config, text| {
        config.queue = QueueName::new(text).map_err(|error| error.to_string())?;
        Ok(())
    }),
    ("EZQ_ROUTES", |config, text| {
        config.event_routes = routing::read(text)?;
        Ok(())
    }),
    ("EZQ_CONCURRENCY", |config, text| {
        whole(text, &mut config.concurrency)
    }),
    ("EZQ_LEASE", |config, text| {
        duration(text).map(|lease| config.lease = lease)
    }),
    ("EZQ_HANDLER_TIMEOUT", |config, text| {
        duration_or_none(text).map(|timeout| config.handler_timeout = timeout)
    }),
    ("EZQ_MAX_ATTEMPTS", |config, text| {
        whole(text, &mut config.retry.max_attempts)
    }),
    ("EZQ_UNKNOWN_TYPES", |config, text| {
        config.unknown_types = match text {
            "retry" => UnknownTypes::default(),
            "skip" => UnknownTypes::Skip,
            "dead_letter" => UnknownTypes::DeadLetter,
            _ => return Err("use `retry`, `skip` or `dead_letter`".into()),
        };
        Ok(())
    }),
    ("EZQ_MAX_DELIVERIES", |config, text| {
        whole(text, &mut config.max_deliveries)
    }),
    ("EZQ_POLL_MIN", |config, text| {
        duration(text).map(|poll| config.poll_min = Some(poll))
    }),
    ("EZQ_POLL_MAX", |config, text| {
        duration(text).map(|poll| config.poll_max = Some(poll))
    }),
    ("EZQ_SETTLE_BATCH", |config, text| {
        whole(text, &mut config.settle_batch)
    }),
    ("EZQ_SETTLE_MAX_AGE", |config, text| {
        duration(text).map(|age| config.settle_max_age = age)
    }),
    ("EZQ_MESSAGE_LIMIT", |config, text| {
        whole(text, &mut config.message_limit)
    }),
    ("EZQ_WIRE", |config, text| {
        config.wire = match text {
            "cloudevents" => WireFormat::CloudEvents,
            "flat" => WireFormat::Flat,
            "ezvent" => WireFormat::Ezvent,
            _ => return Err("use `cloudevents`, `flat` or `ezvent`".into()),
        };
        Ok(())
    }),
    ("EZQ_GRACE", |config, text| {
        duration_or_none(text).map(|grace| config.grace = grace)
    }),
    ("EZQ_DEDUPE_WINDOW", |config, text| {
        duration(text).map(|window| config.dedupe_window = window)
    }),
    ("EZQ_CONNECT_TIMEOUT", |config, text| {
        duration(text).map(|timeout| config.connect_timeout = timeout)
    }),
    ("EZQ_SUBSCRIBE", |config, text| {
        yes_or_no(text, &mut config.subscribe)
    }),
    ("EZQ_PRESENCE", |config, text| {
        yes_or_no(text, &mut config.presence)
    }),
    ("EZQ_SAMPLE_QUEUES", |config, text| {
        duration_or_none(text).map(|every| config.sample_queues = every)
    }),
    ("EZQ_MANAGE_SCHEMA", |config, text| {
        yes_or_no(text, &mut config.manage_schema)
    }),
    ("EZQ_VACUUM", |config, text| {
        yes_or_no(text, &mut config.vacuum)
    }),
    // These belong to the process, not to an application, and are read elsewhere: by the first
    // warning, and where no database is configured. Here they are only checked.
    ("EZQ_STDERR", |_, text| yes_or_no(text, &mut false)),
    ("EZQ_EMBEDDED", |_, text| yes_or_no(text, &mut false)),
    ("EZQ_OFFLINE", |_, text| yes_or_no(text, &mut false)),
];

impl Config {
    /// The defaults, overridden by the process's environment variables.
    ///
    /// A variable that begins with `EZQ_` and is not an option is logged as a warning, because it
    /// may be a misspelt option. Variables that Kubernetes sets for a service are left out of this.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) for a value that cannot be
    /// read.
    pub fn from_env() -> Result<Self> {
        let variables = std::env::vars_os();
        Self::from_vars(variables.map(|(name, value)| (lossy(&name), lossy(&value))))
    }

    /// The defaults, overridden by these variables; for tests and for other sources of variables.
    ///
    /// ```
    /// use ezq_core::config::Config;
    /// use std::time::Duration;
    ///
    /// let config = Config::from_vars([("EZQ_LEASE".into(), "2s".into())])?;
    /// assert_eq!(config.lease, Duration::from_secs(2));
    /// assert!(Config::from_vars([("EZQ_LEASE".into(), "long".into())]).is_err());
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self> {
        let mut config = Self::default();
        let known: Vec<&str> = OPTIONS
            .iter()
            .map(|(option, _)| *option)
            .chain(READ_ELSEWHERE)
            .collect();

        for (name, value) in vars {
            if !name.starts_with("EZQ_") || READ_ELSEWHERE.contains(&name.as_str()) {
                continue;
            }

            // Only a warning, because the variable may belong to another program.
            let Some((_, set)) = OPTIONS.iter().find(|(option, _)| *option == name) else {
                warn_of_unknown(&name, &value, &known);
                continue;
            };
            set(&mut config, &value).map_err(|why| wrong(format!("{name}={value}: {why}")))?;
        }

        Ok(config)
    }
}

/// Bytes that are not text become replacement characters: they fail in the option they belong to,
/// if they belong to one.
fn lossy(text: &OsString) -> String {
    text.to_string_lossy().into_owned()
}

fn whole<N: std::str::FromStr>(text: &str, target: &mut N) -> Result<(), String> {
    *target = text.parse().map_err(|_| "use a whole number".to_owned())?;
    Ok(())
}

fn yes_or_no(text: &str, target: &mut bool) -> Result<(), String> {
    *target = text
        .parse()
        .map_err(|_| "use `true` or `false`".to_owned())?;
    Ok(())
}

fn duration_or_none(text: &str) -> Result<Option<Duration>, String> {
    if text == "none" {
        Ok(None)
    } else {
        duration(text).map(Some)
    }
}
