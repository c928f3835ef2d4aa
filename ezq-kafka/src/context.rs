//! What librdkafka says: into `tracing` under the target `librdkafka`, and remembered for errors.
//!
//! Its calls answer `timed out` where it knows better: it tells the reason by a callback. Secrets are taken out
//! of all that it says before it goes anywhere.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use tracing::{Level, event};

use crate::connection::Connection;
use crate::error::Heard;

const TARGET: &str = "librdkafka";

/// For so long an outage counts from when the client told of it. It tells again at each attempt to connect.
const OUTAGE: Duration = Duration::from_secs(3);

/// What the client of one producer or consumer said.
pub(crate) struct ClientLog {
    connection: Connection,
    heard: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    newest: Option<(Instant, Heard)>,
    all_down: Option<Instant>,
}

impl ClientLog {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection,
            heard: Mutex::default(),
        }
    }

    pub(crate) fn brokers(&self) -> &str {
        &self.connection.brokers
    }

    /// The newest reason that was told since then.
    pub(crate) fn heard_since(&self, began: Instant) -> Option<Heard> {
        let memory = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = memory.newest.as_ref();
        newest
            .filter(|(at, _)| *at >= began)
            .map(|(_, heard)| heard.clone())
    }

    /// Whether waiting any longer helps little: the brokers refuse the credentials, or none is there.
    pub(crate) fn is_hopeless(&self, began: Instant) -> bool {
        let heard = self.heard_since(began);
        let refused = heard.is_some_and(|heard| heard.is_refusal());
        let memory = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let is_down = memory.all_down.is_some_and(|at| at.elapsed() < OUTAGE);
        refused || (is_down && began.elapsed() >= OUTAGE)
    }
}

impl ClientContext for ClientLog {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        // It warns of a setting that this crate chose.
        if facility == "CONFWARN" && text.contains("enable.gapless.guarantee") {
            return;
        }
        let text = self.connection.redact(text);
        // A broker that is away is an error for it, of which the relay tells by itself.
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                event!(target: TARGET, Level::ERROR, facility, "{text}");
            }
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
                event!(target: TARGET, Level::WARN, facility, "{text}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                event!(target: TARGET, Level::INFO, facility, "{text}");
            }
            RDKafkaLogLevel::Debug => event!(target: TARGET, Level::DEBUG, facility, "{text}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };

        let mut memory = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if code == Code::AllBrokersDown {
            // The reason came just before, from one of the brokers.
            memory.all_down = Some(now);
            return;
        }
        // The end of a producer, whose reason each of its messages has.
        if code == Code::Fatal {
            return;
        }
        let reason = self.connection.redact(reason);
        memory.newest = Some((now, Heard { code, reason }));
    }
}
