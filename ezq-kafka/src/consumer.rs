//! The client of librdkafka that reads, and the thread that polls it.
//!
//! Whoever does not poll leaves the group. So the thread polls on while messages wait to be stored: it pauses
//! the partitions, and only rebalances come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ezq_core::broker::{Inbound, SourcePosition};
use ezq_core::chrono::DateTime;
use ezq_core::{Error, ErrorKind, Result};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{BorrowedMessage, Headers, Message, Timestamp};
use rdkafka::types::{RDKafkaErrorCode as Code, RDKafkaRespErr};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::connection::Connection;
use crate::context::ClientLog;
use crate::error::{Heard, failed};
use crate::group::{Group, Partition};

/// Unless the URL says otherwise.
const DEFAULTS: [(&str, &str); 3] = [
    // A topic that is made later, or gets more partitions, is seen after so long.
    ("topic.metadata.refresh.interval.ms", "10000"),
    ("reconnect.backoff.max.ms", "1000"),
    ("isolation.level", "read_committed"),
];
const FIXED: [(&str, &str); 6] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "false"),
    // A topic that was just named may be made by the cluster.
    ("allow.auto.create.topics", "true"),
    // A position that the topic does not have any more is no reason to leave messages out silently.
    ("auto.offset.reset", "error"),
    // Each rebalance begins with all partitions taken away, so all are sought.
    ("partition.assignment.strategy", "range,roundrobin"),
];

/// How long a poll waits for a message.
const POLL: Duration = Duration::from_millis(50);
/// How long a poll is put off while nothing is taken. Rebalances wait for so long.
const ROOM_LIMIT: Duration = Duration::from_secs(1);
/// How long the cluster may take to answer a question.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A member of a group. Its thread ends with the client when the group says so.
#[derive(Clone)]
pub(crate) struct Consumer {
    /// The topics, as errors name them.
    topics: String,
    native: Arc<BaseConsumer<Member>>,
    pub(crate) group: Arc<Group>,
}

pub(crate) struct Member {
    log: ClientLog,
    group: Arc<Group>,
    has_failed_to_commit: AtomicBool,
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.log.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.log.error(error, reason);
    }
}

impl ConsumerContext for Member {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let mut state = self.group.lock();
        let settled = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let partitions = list.elements();
            let partitions = partitions
                .iter()
                .map(|found| (found.topic().to_owned(), found.partition()));
            state.reassign(partitions.collect());
            state.has_joined = true;
            // Nothing is fetched before each partition was sought.
            consumer.assign(&TopicPartitionList::new())
        } else {
            state.reassign(Vec::new());
            consumer.unassign()
        };

        if let Err(error) = settled {
            state.fail(self.failed("cannot divide its partitions", &error, Instant::now()));
        }
        drop(state);
        self.group.arrived.notify_one();
    }

    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        // It comes late and from another thread, so the next commit tells of it.
        let failed = result.is_err();
        self.has_failed_to_commit.store(failed, Ordering::Relaxed);
    }
}

impl Member {
    fn failed(&self, doing: &str, error: &KafkaError, began: Instant) -> Error {
        let heard = self.log.heard_since(began);
        failed(self.log.brokers(), doing, error, heard.as_ref())
    }
}

impl Consumer {
    /// Joins a group to read topics, as soon as the cluster is there.
    pub(crate) fn start(connection: &Connection, id: &str, topics: &[String]) -> Result<Self> {
        let mut fixed = FIXED.to_vec();
        fixed.push(("group.id", id));
        let config = connection.client(&DEFAULTS, &fixed)?;

        let group = Arc::new(Group::default());
        let member = Member {
            log: ClientLog::new(connection.clone()),
            group: Arc::clone(&group),
            has_failed_to_commit: AtomicBool::new(false),
        };

        let native: BaseConsumer<Member> = config.create_with_context(member).map_err(|error| {
            let why = connection.redact(&error.to_string());
            let text = format!("the client of the Kafka cluster cannot be made: {why}");
            Error::new(ErrorKind::Configuration, text)
        })?;
        let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        native.subscribe(&topics).map_err(|error| {
            let text = format!("the topics {topics:?} cannot be subscribed to");
            Error::new(ErrorKind::Configuration, text).with_source(error)
        })?;

        let consumer = Self {
            topics: format!("{topics:?}"),
            native: Arc::new(native),
            group,
        };
        let polling = consumer.clone();
        let started = std::thread::Builder::new()
            .name("ezq-kafka reading".to_owned())
            .spawn(move || polling.poll_until_closed());
        started.map_err(|error| {
            let text = "the thread that reads from Kafka cannot be started";
            Error::new(ErrorKind::Transient, text).with_source(error)
        })?;
        Ok(consumer)
    }

    fn poll_until_closed(self) {
        let mut is_paused = false;
        loop {
            let has_room = self.group.wait_for_room(ROOM_LIMIT);
            if self.group.lock().is_closing {
                break;
            }
            // What the client has fetched is thrown away by a pause, so it is left to real waits.
            if is_paused == has_room {
                self.pause(!has_room);
                is_paused = !has_room;
            }
            self.read_if_sought();

            // Rebalances are served in here as well, on this thread.
            match self.native.poll(POLL) {
                Some(Ok(message)) => self.receive(&message),
                Some(Err(error)) => self.note(&error),
                None => {}
            }
        }

        // Whoever is the last to hold the client leaves the group, which blocks.
        let closing = Instant::now();
        while Arc::strong_count(&self.native) > 1 && closing.elapsed() < ANSWER_LIMIT {
            std::thread::sleep(Duration::from_millis(10));
        }
        let group = Arc::clone(&self.group);
        drop(self);
        group.lock().has_closed = true;
        group.arrived.notify_one();
    }

    /// Stops or begins fetching.
    fn pause(&self, stop: bool) {
        let Ok(partitions) = self.native.assignment() else {
            return;
        };
        // A partition that was taken away meanwhile is no failure.
        let _ = if stop {
            self.native.pause(&partitions)
        } else {
            self.native.resume(&partitions)
        };
    }

    /// Begins to fetch once every partition was sought.
    fn read_if_sought(&self) {
        let mut state = self.group.lock();
        if !state.may_read() {
            return;
        }
        let mut list = TopicPartitionList::new();
        for ((topic, partition), offset) in &state.next {
            // The only error is that of an offset out of range, which none here is.
            let _ = list.add_partition_offset(topic, *partition, Offset::Offset(*offset));
        }
        match self.native.assign(&list) {
            Ok(()) => state.is_reading = true,
            Err(error) => {
                let error = self.failed("cannot be read from", &error, Instant::now());
                state.fail(error);
            }
        }
    }

    fn receive(&self, message: &BorrowedMessage<'_>) {
        let mut state = self.group.lock();
        let partition = (message.topic().to_owned(), message.partition());
        let is_wanted = state
            .next
            .get(&partition)
            .is_some_and(|next| message.offset() >= *next);
        if state.is_reading && is_wanted {
            state.push(inbound(message));
            drop(state);
            self.group.arrived.notify_one();
        }
    }

    /// Keeps a failure for the source, unless the client deals with it alone.
    fn note(&self, error: &KafkaError) {
        let code = error.rdkafka_error_code();
        if matches!(
            code,
            Some(
                Code::BrokerTransportFailure
                    | Code::Resolve
                    | Code::OperationTimedOut
                    | Code::PollExceeded
            )
        ) {
            return;
        }

        let error = match code {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                let doing = format!(
                    "lacks one of the topics {}, and does not make it: create it, or let the cluster \
                     (`auto.create.topics.enable`)",
                    self.topics
                );
                self.failed(&doing, error, Instant::now())
            }
            // The client has no more to say of a set that it cannot take apart.
            Some(Code::NotImplemented | Code::BadCompression) => {
                let doing = format!(
                    "has records of the topics {} that cannot be decompressed: where they are gzip or zstd, \
                     turn on the feature `gzip` or `zstd` of ezq-kafka",
                    self.topics
                );
                self.failed(&doing, error, Instant::now())
            }
            _ => {
                let recently = Instant::now().checked_sub(ANSWER_LIMIT);
                let since = recently.unwrap_or_else(Instant::now);
                self.failed("cannot be read from", error, since)
            }
        };
        let mut state = self.group.lock();
        // Such as a static member whose place another one took.
        state.is_spent |= self.native.client().fatal_error().is_some();
        state.fail(error);
        drop(state);
        self.group.arrived.notify_one();
    }

    /// An error of this cluster, with what the client heard since then.
    pub(crate) fn failed(&self, doing: &str, error: &KafkaError, began: Instant) -> Error {
        self.native.context().failed(doing, error, began)
    }

    /// Whether a broker has refused the credentials since then.
    pub(crate) fn is_refused(&self, began: Instant) -> bool {
        let heard = self.native.context().log.heard_since(began);
        heard.as_ref().is_some_and(Heard::is_refusal)
    }

    /// The offsets of the first message that a partition has, and of the next that it gets.
    pub(crate) async fn bounds(&self, partition: &Partition) -> Result<(i64, i64), KafkaError> {
        let (topic, number) = partition.clone();
        self.ask(move |native| native.fetch_watermarks(&topic, number, ANSWER_LIMIT))
            .await
    }

    /// The offset that the group has committed, if any.
    pub(crate) async fn committed(&self, partition: &Partition) -> Result<Option<i64>, KafkaError> {
        let (topic, number) = partition.clone();
        self.ask(move |native| {
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, number);
            let found = native.committed_offsets(list, ANSWER_LIMIT)?;
            let offset = found.elements().first().map(|found| found.offset());
            Ok(match offset {
                Some(Offset::Offset(offset)) => Some(offset),
                _ => None,
            })
        })
        .await
    }

    /// Asks the cluster for a topic.
    pub(crate) async fn check_health(&self, topic: &str) -> Result<(), KafkaError> {
        let topic = topic.to_owned();
        self.ask(move |native| native.fetch_metadata(Some(&topic), ANSWER_LIMIT).map(drop))
            .await
    }

    /// Begins to commit offsets. What became of that is told by the next call.
    pub(crate) fn commit(&self, offsets: &[(Partition, i64)]) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), offset) in offsets {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        if list.count() > 0 {
            self.native.commit(&list, CommitMode::Async)?;
        }

        let failed = &self.native.context().has_failed_to_commit;
        match failed.swap(false, Ordering::Relaxed) {
            true => Err(KafkaError::ConsumerCommit(Code::Fail)),
            false => Ok(()),
        }
    }

    /// Runs a call that blocks its thread until the cluster answers.
    async fn ask<T: Send + 'static>(
        &self,
        call: impl FnOnce(&BaseConsumer<Member>) -> KafkaResult<T> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let native = Arc::clone(&self.native);
        let answered = tokio::task::spawn_blocking(move || call(&native)).await;
        answered.unwrap_or(Err(KafkaError::Canceled))
    }
}

/// A record as a message. A tombstone has an empty body.
fn inbound(record: &BorrowedMessage<'_>) -> Inbound {
    let partition = partition_name(record.topic(), record.partition());
    let position = SourcePosition::from(u64::try_from(record.offset()).unwrap_or_default());
    let mut message = Inbound::new(partition, position, record.payload().unwrap_or_default());

    if let Some(key) = record.key().filter(|key| !key.is_empty()) {
        message = message.key(key_text(key));
    }
    for header in record.headers().iter().flat_map(|headers| headers.iter()) {
        message = message.header(header.key, header.value.unwrap_or_default());
    }
    if let Timestamp::CreateTime(millis) | Timestamp::LogAppendTime(millis) = record.timestamp()
        && let Some(time) = DateTime::from_timestamp_millis(millis)
    {
        message = message.stored_at(time);
    }
    message
}

pub(crate) fn partition_name(topic: &str, partition: i32) -> String {
    format!("{topic}/{partition}")
}

/// A key as text. One that is no text is written as its bytes, so it is the same for each message of it.
fn key_text(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.contains('\0') => text.to_owned(),
        _ => key.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
