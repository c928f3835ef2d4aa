//! Configuration: code over environment over defaults, one source for publisher and consumer.

pub(crate) mod environment;

use crate::text::duration;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::codec::wire::WireFormat;
use crate::config::environment::warn_of_unknown;
use crate::error::{Error, ErrorKind, Result};
use crate::event::attributes::check_source;
use crate::event::pattern::Pattern;
use crate::handler::HandlerOptions;
use crate::handler::retry::RetryPolicy;
use crate::message::queue_name::QueueName;
use crate::message::retention::Retention;
use crate::message::settlement::HandlerName;
use crate::publish::routing;

/// Every option of an application. What is not set in code comes from the environment, then from
/// the defaults given here.
///
/// Times in the environment are a whole number and a unit: `500ms`, `30s`, `5m`, `1h`.
///
/// A few variables belong to the process and have no field: `EZQ_DATABASE_URL`, else `DATABASE_URL`,
/// says where the database is. `EZQ_STDERR=false` ends the warnings on stderr of a program without
/// logging. `EZQ_EMBEDDED` (`true` or `false`) says whether a development Postgres may stand in for a
/// database, and `EZQ_PG_BIN` where its binaries are. A variable that begins with `EZQ_` and is named
/// nowhere here is a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The application's name: the `source` of what it publishes. `EZQ_APP`. Defaults to the
    /// program's name.
    pub app: String,
    /// The queue of events and consumers that name none. `EZQ_QUEUE`. Defaults to `ezq`.
    pub queue: QueueName,
    /// Where events go whose publisher names no queue, by their type: the first pattern that matches
    /// counts. [`route_events`](crate::AppBuilder::route_events) wins over it, and it wins over the
    /// types' own queues. `EZQ_ROUTES`, as in `order.*=orders,user.#=users`. Defaults to none.
    pub event_routes: Vec<(Pattern, QueueName)>,
    /// How many events a consumer handles at once; at least 1. It holds at most twice as many, or up
    /// to 1,024 while they are handled faster than they are fetched. `EZQ_CONCURRENCY`. Defaults to 4
    /// for each core.
    pub concurrency: usize,
    /// For how long a message is leased; renewed while its handlers run. After a crash its work is
    /// taken over when the lease ends. At least 1 s. `EZQ_LEASE`. Defaults to 10 s.
    pub lease: Duration,
    /// How long one run of a handler may take; `None` (`none` in the environment) is no limit.
    /// `EZQ_HANDLER_TIMEOUT`. Defaults to 30 s.
    pub handler_timeout: Option<Duration>,
    /// Attempts and pauses of handlers that state none. `EZQ_MAX_ATTEMPTS` sets the attempts.
    /// Defaults to 5, exponential with full jitter from 1 s to 5 min: the last attempt begins at most
    /// 15 s of pauses after the first.
    pub retry: RetryPolicy,
    /// What becomes of events that no handler here takes, or of a newer version.
    /// `EZQ_UNKNOWN_TYPES`: `retry`, `skip` or `dead_letter`. Defaults to retry, with the default
    /// [`RetryPolicy`]: 5 attempts.
    pub unknown_types: UnknownTypes,
    /// How often a message may be delivered without being settled, before it is taken to kill its
    /// workers and moved to the dead letters; at least 1. It bounds as well how often the store may
    /// fail to begin or commit the transaction of a handler, which is no attempt.
    /// `EZQ_MAX_DELIVERIES`. Defaults to 20.
    pub max_deliveries: u32,
    /// The shortest pause between two looks at an empty queue; more than nothing. `EZQ_POLL_MIN`.
    /// Defaults to 1 s where the engine wakes the consumer, else to 100 ms; to `poll_max` where that
    /// is shorter.
    pub poll_min: Option<Duration>,
    /// The longest pause between two looks at an empty queue; more than nothing. `EZQ_POLL_MAX`.
    /// Defaults to 5 s where the engine wakes the consumer, else to 1 s; to `poll_min` where that is
    /// longer.
    pub poll_max: Option<Duration>,
    /// How many settlements are sent without waiting for more; at least 1. Those that gathered while
    /// earlier ones were on their way go along, up to four times as many. `EZQ_SETTLE_BATCH`.
    /// Defaults to 100.
    pub settle_batch: usize,
    /// How long a settlement waits at most for others to go along. `EZQ_SETTLE_MAX_AGE`. Defaults to
    /// 5 ms.
    pub settle_max_age: Duration,
    /// The most bytes of one message's body. `EZQ_MESSAGE_LIMIT`. Defaults to 1 MiB.
    pub message_limit: usize,
    /// The form in which events are written. `EZQ_WIRE`: `cloudevents`, or `flat` or `ezvent` for
    /// consumers of Python ezq. Defaults to CloudEvents.
    pub wire: WireFormat,
    /// How long running handlers may take when the consumer stops by token, signal or handle;
    /// `None` (`none`) is no limit. `EZQ_GRACE`. Defaults to no limit.
    pub grace: Option<Duration>,
    /// For how long a dedupe key is taken, unless its publish says otherwise; more than nothing.
    /// `EZQ_DEDUPE_WINDOW`. Defaults to 1 h.
    pub dedupe_window: Duration,
    /// Whether every consumer [subscribes](crate::Consumer::subscribe) its queue to what its handlers
    /// take. `EZQ_SUBSCRIBE`: `true` or `false`. Defaults to false.
    pub subscribe: bool,
    /// How long connecting to the store may take. `EZQ_CONNECT_TIMEOUT`. Defaults to 5 s.
    pub connect_timeout: Duration,
    /// Whether queues, and what the store needs for them, are created where they are absent.
    /// `EZQ_MANAGE_SCHEMA`: `true` or `false`. Defaults to true.
    pub manage_schema: bool,
    /// What becomes of a queue's events once they are handled. In code only. Defaults to
    /// [`Retention::Delete`].
    pub retention: BTreeMap<QueueName, Retention>,
    /// Options for single handlers, over what their attributes say.
    pub handlers: BTreeMap<HandlerName, HandlerOptions>,
}

/// What becomes of an event whose type or version is not known here.
///
/// In a rolling deployment another process may know it, so the default is to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownTypes {
    /// Try again under a policy of its own, then move it to the dead letters.
    Retry(RetryPolicy),
    /// Acknowledge it and log that.
    Skip,
    /// Move it to the dead letters at once.
    DeadLetter,
}

impl Default for UnknownTypes {
    fn default() -> Self {
        Self::Retry(RetryPolicy::default())
    }
}

impl Default for Config {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            app: program(),
            queue: QueueName::default(),
            event_routes: Vec::new(),
            concurrency: 4 * cores,
            lease: Duration::from_secs(10),
            handler_timeout: Some(Duration::from_secs(30)),
            retry: RetryPolicy::default(),
            unknown_types: UnknownTypes::default(),
            max_deliveries: 20,
            poll_min: None,
            poll_max: None,
            settle_batch: 100,
            settle_max_age: Duration::from_millis(5),
            message_limit: 1024 * 1024,
            wire: WireFormat::default(),
            grace: None,
            dedupe_window: Duration::from_secs(3600),
            subscribe: false,
            connect_timeout: Duration::from_secs(5),
            manage_schema: true,
            retention: BTreeMap::new(),
            handlers: BTreeMap::new(),
        }
    }
}

fn program() -> String {
    let path = std::env::current_exe().ok();
    let name = path.as_deref().and_then(std::path::Path::file_stem);
    let is_plain = |c: char| c.is_alphanumeric() || "-._".contains(c);
    let plain = |c: char| if is_plain(c) { c } else { '_' };
    name.map_or_else(
        || "ezq".to_owned(),
        |name| name.to_string_lossy().chars().map(plain).collect(),
    )
}

/// The variables that say where the database is, or the binaries of one. They are read elsewhere: a
/// URL must not be kept here, where it could be printed.
const OTHERS: [&str; 2] = ["EZQ_DATABASE_URL", "EZQ_PG_BIN"];

/// The most bytes of an application's name.
const APP_LIMIT: usize = 255;

type Set = fn(&mut Config, &str) -> Result<(), String>;

const OPTIONS: [(&str, Set); 22] = [
    ("EZQ_APP", |config, text| {
        config.app = text.to_owned();
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
        duration(text).map(|w| config.dedupe_window = w)
    }),
    ("EZQ_CONNECT_TIMEOUT", |config, text| {
        duration(text).map(|t| config.connect_timeout = t)
    }),
    ("EZQ_SUBSCRIBE", |config, text| {
        yes_or_no(text, &mut config.subscribe)
    }),
    ("EZQ_MANAGE_SCHEMA", |config, text| {
        yes_or_no(text, &mut config.manage_schema)
    }),
    // The process's, not the application's: read by the first warning, and where no database is
    // configured. Here they are only checked.
    ("EZQ_STDERR", |_, text| yes_or_no(text, &mut false)),
    ("EZQ_EMBEDDED", |_, text| yes_or_no(text, &mut false)),
];

impl Config {
    /// The defaults, with what the environment says.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] for a value that cannot be read. A variable that begins with
    /// `EZQ_` and is no option is warned of, unless it looks like what Kubernetes sets for a service.
    pub fn from_env() -> Result<Self> {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Self::from_vars(std::env::vars_os().map(|(name, value)| (text(name), text(value))))
    }

    /// The defaults, with what these variables say.
    ///
    /// ```
    /// use ezq_core::Config;
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
            .chain(OTHERS)
            .collect();
        for (name, value) in vars {
            if !name.starts_with("EZQ_") || OTHERS.contains(&name.as_str()) {
                continue;
            }
            let Some((_, set)) = OPTIONS.iter().find(|(option, _)| *option == name) else {
                warn_of_unknown(&name, &value, &known);
                continue;
            };
            set(&mut config, &value).map_err(|why| wrong(format!("{name}={value}: {why}")))?;
        }
        Ok(config)
    }

    /// Checks what only all options together can tell.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] for an option out of its range.
    pub fn validate(&self) -> Result<()> {
        let at_least_one = |name: &str, n: usize| match n {
            0 => Err(wrong(format!("`{name}` must be at least 1"))),
            _ => Ok(()),
        };
        at_least_one("concurrency", self.concurrency)?;
        at_least_one("settle_batch", self.settle_batch)?;
        at_least_one("message_limit", self.message_limit)?;
        at_least_one("max_deliveries", self.max_deliveries as usize)?;
        at_least_one("max_attempts", self.retry.max_attempts as usize)?;
        if self.lease < Duration::from_secs(1) {
            return Err(wrong(
                "`lease` must be at least 1s, so that it can be renewed in time".into(),
            ));
        }
        if let Err(why) = check_source(&self.app) {
            return Err(wrong(format!(
                "the application's name `{}` is the source of its events, and must be a word of \
                 letters, digits, `-`, `.` and `_`, or a URI: {why}",
                self.app.escape_debug()
            )));
        }
        if self.app.len() > APP_LIMIT {
            return Err(wrong(format!(
                "the application's name has more than {APP_LIMIT} bytes"
            )));
        }
        if [self.poll_min, self.poll_max].contains(&Some(Duration::ZERO)) {
            return Err(wrong(
                "`poll_min` and `poll_max` must be longer than nothing".into(),
            ));
        }
        if let (Some(min), Some(max)) = (self.poll_min, self.poll_max)
            && min > max
        {
            return Err(wrong("`poll_min` is longer than `poll_max`".into()));
        }
        if self
            .retention
            .values()
            .any(|retention| retention.keep() == Some(Duration::ZERO))
        {
            return Err(wrong(
                "an archive must keep events for longer than nothing".into(),
            ));
        }
        if self.dedupe_window.is_zero() {
            return Err(wrong("`dedupe_window` must be longer than nothing".into()));
        }
        if self
            .handlers
            .values()
            .any(|options| options.max_attempts == Some(0))
        {
            return Err(wrong(
                "`max_attempts` of a handler must be at least 1".into(),
            ));
        }
        if self
            .handlers
            .values()
            .any(|options| options.batch_size == Some(0))
        {
            return Err(wrong("`batch_size` of a handler must be at least 1".into()));
        }
        if self.connect_timeout.is_zero() {
            return Err(wrong(
                "`connect_timeout` must be longer than nothing".into(),
            ));
        }
        if self
            .handlers
            .values()
            .any(|options| options.concurrency == Some(0))
        {
            return Err(wrong(
                "`concurrency` of a handler must be at least 1".into(),
            ));
        }
        Ok(())
    }
}

fn wrong(why: String) -> Error {
    Error::new(ErrorKind::Configuration, why)
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
