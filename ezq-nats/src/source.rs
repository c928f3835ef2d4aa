//! [`NatsSource`]: the messages of a stream, read in their order.
//!
//! A position is a number in the stream. The server keeps nothing for the source but a short-lived consumer
//! without acknowledgements, which is made anew at each seek: the database decides where to go on.

use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use chrono::DateTime;
use ezq_core::broker::{Arrival, Inbound, Source, SourceCapabilities, SourcePosition};
use ezq_core::{Error, ErrorKind, Result, async_trait};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::ack_subject::AckSubject;
use crate::binding::{ATTRIBUTE, percent_decoded};
use crate::config::NatsConfig;
use crate::connection::{ANSWER_LIMIT, Connection};
use crate::request::{Failure, code, number_in, request};

/// How long a call waits for the first message.
const WAIT: Duration = Duration::from_secs(1);
/// After so long without a request the server drops the consumer of a source that is gone.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);

/// A source of the messages of a stream. It connects when the ingest begins, and works with every server from
/// NATS 2.9 on. One ingest of several reads; there is one partition, which is named by the stream and the
/// time at which the stream was created. A stream that is deleted and created anew is another partition, and
/// is read from its beginning.
///
/// Where nothing is stored yet, it begins with the first message that the stream has.
pub struct NatsSource {
    config: NatsConfig,
    name: String,
    stream: String,
    filters: Vec<String>,
    begins_at_end: bool,
    connection: Option<Connection>,
    reading: Option<Reading>,
}

/// A consumer at work.
struct Reading {
    partition: String,
    consumer: String,
    /// How many messages it has given. The next one must be right behind.
    given: i64,
}

impl NatsSource {
    /// A source that reads a stream of servers, such as `nats://127.0.0.1:4222`.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if a URL or the stream's name is wrong.
    pub fn new(urls: &str, stream: impl Into<String>) -> Result<Self> {
        Self::with_config(NatsConfig::new(urls)?, stream)
    }

    /// A source that connects as configured.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the stream's name is wrong.
    pub fn with_config(config: NatsConfig, stream: impl Into<String>) -> Result<Self> {
        let stream = stream.into();
        let has_mark = stream.contains(|c: char| c.is_whitespace() || ".*>/\\".contains(c));
        if stream.is_empty() || has_mark {
            let text = format!("`{}` is no name of a stream of NATS", stream.escape_debug());
            return Err(Error::new(ErrorKind::Configuration, text));
        }
        Ok(Self {
            config,
            name: format!("nats/{stream}"),
            stream,
            filters: Vec::new(),
            begins_at_end: false,
            connection: None,
            reading: None,
        })
    }

    /// The [name](Source::name) of the source. Defaults to `nats/` and the stream. Two clusters that have a
    /// stream of one name need two names.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Reads only messages of a subject, which may have the wildcards of NATS. Called several times, of any
    /// of them, which needs NATS 2.10. Defaults to all subjects.
    #[must_use]
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.filters.push(subject.into());
        self
    }

    /// Leaves out what the stream has when it is read for the first time.
    #[must_use]
    pub fn from_end(mut self) -> Self {
        self.begins_at_end = true;
        self
    }

    async fn connection(&mut self) -> Result<Connection> {
        if let Some(connection) = &self.connection {
            connection.ready().await?;
            return Ok(connection.clone());
        }
        let connection = Connection::open(&self.config).await?;
        self.connection = Some(connection.clone());
        Ok(connection)
    }

    /// The stream's partition, and what the server says of the stream.
    async fn stream(&self, connection: &Connection) -> Result<(String, Value)> {
        let subject = format!("STREAM.INFO.{}", self.stream);
        let info = request(&connection.client, &subject, &Value::Null).await;
        let info = info.map_err(|failure| self.failed(connection, failure))?;
        let created = info.pointer("/created").and_then(Value::as_str);
        let created = created.and_then(|time| time.parse::<DateTime<chrono::Utc>>().ok());
        let micros = created.map_or(0, |time| time.timestamp_micros());
        Ok((format!("{}@{micros}", self.stream), info))
    }

    fn failed(&self, connection: &Connection, failure: Failure) -> Error {
        let stream = &self.stream;
        match failure.code() {
            Some(code::STREAM_NOT_FOUND) => {
                let address = connection.address();
                let text =
                    format!("the NATS server at {address} has no stream `{stream}`: create it");
                Error::new(ErrorKind::Configuration, text)
            }
            _ => failure.into_error(
                connection.address(),
                &format!("did not let the stream `{stream}` be read"),
            ),
        }
    }

    /// Asks for messages, and takes them until the server says that these are all.
    async fn pull(
        &self,
        connection: &Connection,
        reading: &Reading,
        options: &Value,
    ) -> Result<Vec<Message>> {
        let client = &connection.client;
        let inbox = client.new_inbox();
        let subscribed = client.subscribe(inbox.clone()).await;
        let mut answers: Subscriber = subscribed.map_err(|error| self.unread(error))?;
        let stream = &self.stream;
        let consumer = &reading.consumer;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let asked = client.publish_with_reply(subject, inbox, options.to_string().into());
        asked.await.map_err(|error| self.unread(error))?;

        let wanted = number_in(options, "/batch");
        let deadline = Instant::now() + WAIT + ANSWER_LIMIT;
        let mut messages = Vec::new();
        while (messages.len() as u64) < wanted {
            let answer = timeout_at(deadline, answers.next()).await;
            let answer = answer.map_err(|error| self.unread(error))?;
            let answer = answer.ok_or_else(|| self.unread("the connection was closed"))?;
            match answer.status {
                None => messages.push(answer),
                Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => break,
                // The consumer or the stream is gone.
                Some(status) => return Err(self.unread(format!("the server answered {status}"))),
            }
        }
        Ok(messages)
    }

    fn unread(&self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        let address = self.config.address();
        let stream = &self.stream;
        let text =
            format!("the stream `{stream}` of the NATS server at {address} gave no messages");
        Error::new(ErrorKind::Connection, text).with_source(why)
    }

    /// Takes messages in, and checks that none was left out on the way.
    fn take_in(&self, reading: &mut Reading, messages: Vec<Message>) -> Result<Vec<Inbound>> {
        let mut taken = Vec::with_capacity(messages.len());
        for message in messages {
            let ack = message.reply.as_deref().and_then(AckSubject::read);
            let ack = ack.ok_or_else(|| self.unread("a message has no place in the stream"))?;
            if ack.given != reading.given.saturating_add(1) {
                return Err(self.unread("a message was lost on the way"));
            }
            reading.given = ack.given;

            let number = u64::try_from(ack.sequence).unwrap_or_default();
            let position = SourcePosition::from(number);
            let mut inbound = Inbound::new(&reading.partition, position, message.payload.to_vec());
            for (name, value) in each(message.headers.as_ref()) {
                inbound = inbound.header(name, value);
            }
            taken.push(inbound.stored_at(DateTime::from_timestamp_nanos(ack.stored_at)));
        }
        Ok(taken)
    }
}

/// Each header with each of its values. The attributes of an event are decoded, which the binding wants
/// percent-encoded.
fn each(headers: Option<&HeaderMap>) -> impl Iterator<Item = (String, Vec<u8>)> {
    let all = headers.into_iter().flat_map(HeaderMap::iter);
    all.flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(move |value| {
            let prefix = name.get(..ATTRIBUTE.len());
            let is_attribute = prefix.is_some_and(|name| name.eq_ignore_ascii_case(ATTRIBUTE));

            let value = match is_attribute {
                true => percent_decoded(value.as_str()),
                false => value.as_str().into(),
            };
            (name.to_owned(), value)
        })
    })
}

#[async_trait]
impl Source for NatsSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> &SourceCapabilities {
        const { &SourceCapabilities::new("nats") }
    }

    async fn next(&mut self, max: usize) -> Result<Arrival> {
        let connection = self.connection().await?;
        let Some(mut reading) = self.reading.take() else {
            let (partition, _) = self.stream(&connection).await?;
            return Ok(Arrival::Assigned(vec![partition]));
        };

        let all = json!({ "batch": max.max(1), "no_wait": true });
        let mut messages = self.pull(&connection, &reading, &all).await?;
        if messages.is_empty() {
            // A request for several would wait until all of them are there.
            let nanoseconds = u64::try_from(WAIT.as_nanos()).unwrap_or(u64::MAX);
            let first = json!({ "batch": 1, "expires": nanoseconds });
            messages = self.pull(&connection, &reading, &first).await?;
        }
        let taken = self.take_in(&mut reading, messages)?;
        // After a failure there is no reading, so the caller seeks again.
        self.reading = Some(reading);
        Ok(Arrival::Messages(taken))
    }

    async fn seek(
        &mut self,
        partition: &str,
        after: Option<SourcePosition>,
    ) -> Result<Option<SourcePosition>> {
        let connection = self.connection().await?;
        let (current, info) = self.stream(&connection).await?;
        let last = number_in(&info, "/state/last_seq");
        let stored = after.map_or(0, SourcePosition::major);
        if current != partition || last < stored {
            let stream = &self.stream;
            let text = format!(
                "the stream `{stream}` ends at {last} and is not the one that was read up to {stored}: it \
                 was created anew or restored; restart the ingest to read a new one from its beginning"
            );
            return Err(Error::new(ErrorKind::Configuration, text));
        }

        let begin = match after {
            None if self.begins_at_end && last > 0 => Some(SourcePosition::from(last)),
            after => after,
        };
        let mut config = json!({
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": begin.map_or(0, SourcePosition::major).saturating_add(1),
            "inactive_threshold": u64::try_from(FORGOTTEN_AFTER.as_nanos()).unwrap_or(u64::MAX),
            "mem_storage": true,
        });
        match self.filters.as_slice() {
            [] => {}
            [only] => config["filter_subject"] = json!(only),
            several => config["filter_subjects"] = json!(several),
        }
        let subject = format!("CONSUMER.CREATE.{}", self.stream);
        let body = json!({ "stream_name": self.stream, "config": config });
        let made = request(&connection.client, &subject, &body).await;
        let made = made.map_err(|failure| self.failed(&connection, failure))?;

        let consumer = made.get("name").and_then(Value::as_str);

        self.reading = Some(Reading {
            partition: partition.to_owned(),
            consumer: consumer.unwrap_or_default().to_owned(),
            given: 0,
        });
        Ok(begin)
    }

    async fn health_check(&mut self) -> Result<()> {
        let connection = self.connection().await?;
        self.stream(&connection).await.map(drop)
    }

    async fn close(&mut self) {
        self.reading = None;
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }
}

impl std::fmt::Debug for NatsSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsSource")
            .field("name", &self.name)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
