//! [`Producer`]: one client of librdkafka that sends, and the reports of what it delivered.
//!
//! The client itself never gives up a message: a message that ran out of time while the one behind it is
//! delivered would break the order of their key. Instead a [flight](Producer::fly) of messages ends as a whole,
//! and takes out of the client what was not delivered.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ezq_core::broker::Outbound;
use ezq_core::{Error, ErrorKind, Result};
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer,
};
use rdkafka::types::RDKafkaErrorCode as Code;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::connection::Connection;
use crate::context::ClientLog;
use crate::error::failed;
use crate::record::Record;

/// Unless the URL says otherwise.
const DEFAULTS: [(&str, &str); 4] = [
    // As Java's client places keys, so that all writers of a topic agree.
    ("partitioner", "murmur2_random"),
    ("linger.ms", "1"),
    // It tells of an outage at each attempt.
    ("reconnect.backoff.max.ms", "1000"),
    ("topic.metadata.propagation.max.ms", "5000"),
];
const FIXED: [(&str, &str); 5] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    // After a message that the broker refused, the client sends nothing that stood behind it.
    ("enable.gapless.guarantee", "true"),
    ("allow.auto.create.topics", "true"),
    // No end of its own: a flight has one.
    ("message.timeout.ms", "0"),
];

/// How long the client's queue is given to drain before an enqueuing is tried again.
const QUEUE_PAUSE: Duration = Duration::from_millis(10);
/// How often a flight that waits looks whether that is hopeless.
const GLANCE: Duration = Duration::from_millis(200);
/// How long the reports of messages take that were taken out.
const PURGE_LIMIT: Duration = Duration::from_secs(2);
/// How long the cluster may take to tell of a topic, and a topic to be made.
const METADATA_LIMIT: Duration = Duration::from_secs(5);
const CREATION_LIMIT: Duration = Duration::from_secs(3);

type Native = ThreadedProducer<Reports>;

pub(crate) struct Producer {
    brokers: String,
    /// Present until it is dropped.
    native: Option<Native>,
    /// The topics that were seen to exist.
    topics: Mutex<HashSet<String>>,
}

/// What becomes of the messages that were enqueued together.
struct Flight {
    reports: Mutex<Vec<Option<Result<(), KafkaError>>>>,
    open: AtomicUsize,
    has_landed: Notify,
}

/// Which message of which flight a report is about.
pub(crate) struct Ticket {
    flight: Arc<Flight>,
    place: usize,
}

pub(crate) struct Reports(ClientLog);

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.0.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let report = match delivered {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.clone()),
        };
        ticket.flight.report(ticket.place, report);
    }
}

impl Flight {
    fn new(count: usize) -> Arc<Self> {
        let reports = (0..count).map(|_| None).collect();
        Arc::new(Self {
            reports: Mutex::new(reports),
            open: AtomicUsize::new(count),
            has_landed: Notify::new(),
        })
    }

    fn report(&self, place: usize, report: Result<(), KafkaError>) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports[place] = Some(report);
        drop(reports);
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.has_landed.notify_one();
        }
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0
    }

    /// What was reported. A message without a report counts as one that was taken out.
    fn reports(&self) -> Vec<Result<(), KafkaError>> {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = KafkaError::MessageProduction(Code::PurgeInflight);
        let taken = reports.iter_mut().map(Option::take);
        taken
            .map(|report| report.unwrap_or_else(|| Err(missing.clone())))
            .collect()
    }
}

/// Takes out of the client what a dropped flight has in it. It would be delivered behind the next attempt's
/// messages otherwise.
struct PurgeOnDrop<'a> {
    native: &'a Native,
    flight: &'a Flight,
}

impl Drop for PurgeOnDrop<'_> {
    fn drop(&mut self) {
        if self.flight.is_open() {
            let all = PurgeConfig::default().queue().inflight();
            self.native.purge(all.non_blocking());
        }
    }
}

impl Producer {
    /// A client that connects by itself, when there is something to send.
    pub(crate) fn new(connection: &Connection) -> Result<Self> {
        let config = connection.client(&DEFAULTS, &FIXED)?;
        let context = Reports(ClientLog::new(connection.clone()));
        let native = config.create_with_context(context).map_err(|error| {
            let why = connection.redact(&error.to_string());
            let text = format!("the client of the Kafka cluster cannot be made: {why}");
            Error::new(ErrorKind::Configuration, text)
        })?;

        Ok(Self {
            brokers: connection.brokers.clone(),
            native: Some(native),
            topics: Mutex::default(),
        })
    }

    fn native(&self) -> Result<&Native, KafkaError> {
        self.native.as_ref().ok_or(KafkaError::Canceled)
    }

    /// Whether the client refuses all further messages, and must be replaced.
    pub(crate) fn is_spent(&self) -> bool {
        self.native()
            .is_ok_and(|native| native.client().fatal_error().is_some())
    }

    /// An error of this cluster, with what the client heard since then.
    pub(crate) fn failed(&self, doing: &str, error: &KafkaError, began: Instant) -> Error {
        let native = self.native().ok();
        let heard = native.and_then(|native| native.client().context().0.heard_since(began));
        failed(&self.brokers, doing, error, heard.as_ref())
    }

    /// Sends messages at once and waits for their reports, for so long at most. Of messages of one topic and
    /// key none is delivered behind one that is not.
    pub(crate) async fn fly(
        &self,
        messages: &[(&Outbound, &Record)],
        limit: Duration,
    ) -> Result<Vec<Result<(), KafkaError>>, KafkaError> {
        let native = self.native()?;
        let began = Instant::now();
        let flight = Flight::new(messages.len());
        let guard = PurgeOnDrop {
            native,
            flight: &flight,
        };

        let log = &native.client().context().0;
        let is_over = || began.elapsed() >= limit || log.is_hopeless(began);
        let mut enqueued = 0;
        while let Some((message, record)) = messages.get(enqueued) {
            let ticket = Ticket {
                flight: Arc::clone(&flight),
                place: enqueued,
            };
            let result = enqueue(native, message, record, ticket);
            if is_full(&result) && !is_over() {
                sleep(QUEUE_PAUSE).await;
                continue;
            }

            enqueued += 1;
            let Err(error) = result else { continue };
            // One that is too large holds up no other. After any other failure none may overtake.
            let is_last = !is_too_large(&error);
            flight.report(enqueued - 1, Err(error));
            if is_last {
                break;
            }
        }
        for place in enqueued..messages.len() {
            flight.report(place, Err(KafkaError::MessageProduction(Code::PurgeQueue)));
        }

        // A report wakes it; the pause is for an outage, which none tells of.
        while flight.is_open() && !is_over() {
            let _ = timeout(GLANCE, flight.has_landed.notified()).await;
        }
        drop(guard);
        let purged = Instant::now();
        while flight.is_open() && purged.elapsed() < PURGE_LIMIT {
            let _ = timeout(GLANCE, flight.has_landed.notified()).await;
        }
        Ok(flight.reports())
    }

    /// Makes sure that a topic is there. The cluster makes it if it may.
    ///
    /// # Errors
    /// The outer one if the cluster does not answer, the inner one if it has no such topic.
    pub(crate) async fn find_topic(
        self: &Arc<Self>,
        topic: &str,
    ) -> Result<Result<(), KafkaError>, KafkaError> {
        if self.topics().contains(topic) {
            return Ok(Ok(()));
        }
        if !is_topic(topic) {
            return Ok(Err(KafkaError::MessageProduction(Code::InvalidTopic)));
        }

        let began = Instant::now();
        loop {
            match self.ask_for(Some(topic)).await? {
                None => {
                    self.topics().insert(topic.to_owned());
                    return Ok(Ok(()));
                }
                // A topic that was just made has no leader yet, or is not known everywhere.
                Some(Code::UnknownTopicOrPartition | Code::LeaderNotAvailable)
                    if began.elapsed() < CREATION_LIMIT => {}
                Some(code) => return Ok(Err(KafkaError::MessageProduction(code))),
            }
            sleep(GLANCE).await;
        }
    }

    /// Looks a topic up again before the next flight.
    pub(crate) fn forget_topic(&self, topic: &str) {
        self.topics().remove(topic);
    }

    fn topics(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the cluster for a topic that is known, or for all.
    pub(crate) async fn check_health(self: &Arc<Self>) -> Result<(), KafkaError> {
        let topic = self.topics().iter().next().cloned();
        self.ask_for(topic.as_deref()).await.map(drop)
    }

    /// Asks the cluster for a topic; the answer is what is wrong with it.
    async fn ask_for(self: &Arc<Self>, topic: Option<&str>) -> Result<Option<Code>, KafkaError> {
        let producer = Arc::clone(self);
        let topic = topic.map(str::to_owned);

        // The call blocks its thread until the cluster answers.
        let answered = tokio::task::spawn_blocking(move || {
            let client = producer.native()?.client();
            let found = client.fetch_metadata(topic.as_deref(), METADATA_LIMIT)?;
            let topics = found.topics().iter();
            let mut named = topics.filter(|found| Some(found.name()) == topic.as_deref());
            Ok(named.next().and_then(|found| found.error().map(Code::from)))
        });
        answered.await.unwrap_or(Err(KafkaError::Canceled))
    }
}

fn enqueue(
    native: &Native,
    message: &Outbound,
    record: &Record,
    ticket: Ticket,
) -> Result<(), KafkaError> {
    let mut entry = BaseRecord::with_opaque_to(message.topic(), Box::new(ticket))
        .payload(&record.value)
        .headers(record.headers.clone());
    entry.key = message.ordering_key();
    native.send(entry).map_err(|(error, _)| error)
}

/// Whether a topic can have the name. Source: `Topic.validate` of Apache Kafka.
fn is_topic(name: &str) -> bool {
    let are_legal = name
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter));
    are_legal && (1..=249).contains(&name.len()) && name != "." && name != ".."
}

/// Whether the client takes nothing until some of what it has is delivered.
fn is_full(result: &Result<(), KafkaError>) -> bool {
    matches!(result, Err(KafkaError::MessageProduction(Code::QueueFull)))
}

fn is_too_large(error: &KafkaError) -> bool {
    *error == KafkaError::MessageProduction(Code::MessageSizeTooLarge)
}

impl Drop for Producer {
    fn drop(&mut self) {
        let native = self.native.take();
        // The destructor joins threads, so it gets one of its own. If there is none, it runs here.
        let _ = std::thread::Builder::new()
            .name("ezq-kafka closing".to_owned())
            .spawn(move || drop(native));
    }
}
