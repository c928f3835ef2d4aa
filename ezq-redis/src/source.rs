//! [`RedisSource`]: the entries of streams as messages.
//!
//! Positions are stored in the database, so no consumer group is needed: `XREAD` goes on behind the stored
//! position. It has a connection of its own, because a read that waits for entries holds up whatever else is
//! sent on the connection.

use std::collections::BTreeMap;
use std::time::Duration;

use ezq_core::broker::{Arrival, Inbound, Source, SourceCapabilities, SourcePosition};
use ezq_core::chrono::DateTime;
use ezq_core::private::warn;
use ezq_core::{Error, ErrorKind, Result, async_trait, serde_json};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisError};

use crate::connect::{CONNECT_LIMIT, address, client};
use crate::error::{failed, wrong_type};

/// How long the server waits for an entry.
const BLOCK: Duration = Duration::from_millis(1_000);
/// How long the server may take to answer. Longer than it waits for an entry.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The answer to `XREAD`: streams with their entries, each with its fields and values in turns.
type Read = Option<Vec<(String, Vec<Entry>)>>;
type Entry = (String, Vec<Vec<u8>>);

/// A source of the entries of streams of Redis or Valkey. Each stream is a partition, and the id of an
/// entry is its position. A stream that does not exist is waited for.
///
/// The body of the message is the field `cloud_event`, as [`RedisSink`](crate::RedisSink) and
/// django-broadcaster write it, and the other fields are headers. Without that field the body is a JSON
/// object of all fields, whose values are texts.
///
/// ```no_run
/// # async fn example(ezq: ezq::Ezq) -> ezq::Result<()> {
/// use ezq_redis::RedisSource;
///
/// let source = RedisSource::connect("redis://127.0.0.1:6379", ["orders"]).await?;
/// ezq.ingest(source).into("orders").stop_on_signals().run().await?;
/// # Ok(()) }
/// ```
pub struct RedisSource {
    client: Client,
    address: String,
    name: String,
    field: String,
    key_field: Option<String>,
    at_end: bool,
    trims: bool,
    capabilities: SourceCapabilities,
    is_assigned: bool,
    /// For each stream the entry that the next one follows; `None` before it was sought.
    streams: BTreeMap<String, Option<SourcePosition>>,
    /// Taken out while a command is under way, so that a dropped call drops it: the server may still wait.
    connection: Option<MultiplexedConnection>,
}

impl RedisSource {
    /// Connects to a server, such as `redis://127.0.0.1:6379`, to read streams.
    ///
    /// # Errors
    /// - [`ErrorKind::Configuration`] if the URL is wrong, or demands TLS without the feature for it, or if
    ///   one of the names holds something that is no stream.
    /// - [`ErrorKind::Connection`] if the server does not answer within 5 s.
    /// - [`ErrorKind::Permission`] if it refuses the user or the password.
    pub async fn connect(
        url: &str,
        streams: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self> {
        let mut source = Self::connect_lazily(url, streams)?;
        source.health_check().await?;
        Ok(source)
    }

    /// A source that connects when it is first read, so a program starts while the server is away.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the URL is wrong, or demands TLS without the feature for it.
    pub fn connect_lazily(
        url: &str,
        streams: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self> {
        let client = client(url)?;
        let address = address(&client);
        let database = client.get_connection_info().redis_settings().db();
        let streams = streams.into_iter().map(|stream| (stream.into(), None));

        Ok(Self {
            name: format!("redis://{address}/{database}"),
            client,
            address,
            field: "cloud_event".to_owned(),
            key_field: None,
            at_end: false,
            trims: false,
            capabilities: SourceCapabilities::new("redis"),
            is_assigned: false,
            streams: streams.collect(),
            connection: None,
        })
    }

    /// The [name](Source::name) of the source. Defaults to the address of the server and the number of the
    /// database: set it where the address may change.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The field of an entry that holds the event. Defaults to `cloud_event`.
    #[must_use]
    pub fn field(mut self, name: impl Into<String>) -> Self {
        self.field = name.into();
        self
    }

    /// The field of an entry that holds the ordering key. Defaults to none.
    #[must_use]
    pub fn key_field(mut self, name: impl Into<String>) -> Self {
        self.key_field = Some(name.into());
        self
    }

    /// Begins at the end of streams of which nothing is stored yet. Defaults to their beginning.
    #[must_use]
    pub fn from_the_end(mut self) -> Self {
        self.at_end = true;
        self
    }

    /// Trims each stream of what is stored. Only for streams that nobody else reads.
    #[must_use]
    pub fn trim_stored(mut self) -> Self {
        self.trims = true;
        self.capabilities = self.capabilities.commits();
        self
    }

    /// Sends a command; `doing` says what fails if it does.
    async fn ask<T: FromRedisValue>(&mut self, command: &Cmd, doing: &str) -> Result<T> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.open().await?,
        };

        let answered = command.query_async(&mut connection).await;
        match &answered {
            // It may be broken, and a late answer must not be taken for that of the next command.
            Err(error) if error.is_io_error() || error.is_timeout() => {}
            _ => self.connection = Some(connection),
        }
        answered.map_err(|error| self.failed(doing, error))
    }

    async fn open(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT));
        let opened = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        opened
            .await
            .map_err(|error| self.failed("cannot be connected to", error))
    }

    fn failed(&self, doing: &str, error: RedisError) -> Error {
        if error.code() != Some("WRONGTYPE") {
            return failed(&self.address, doing, error);
        }
        let names: Vec<&str> = self.streams.keys().map(String::as_str).collect();
        wrong_type(&self.address, &names.join(", "), error)
    }

    /// The newest id that a stream has given; `None` if there is no such stream.
    async fn newest(&mut self, stream: &str) -> Result<Option<SourcePosition>> {
        // `XINFO` of a name that nothing has is an error without a code of its own.
        let exists = redis::cmd("EXISTS").arg(stream).take();

        if self.ask::<u64>(&exists, "cannot be asked").await? == 0 {
            return Ok(None);
        }
        let info = redis::cmd("XINFO").arg("STREAM").arg(stream).take();
        let info: BTreeMap<String, redis::Value> =
            self.ask(&info, "does not tell of a stream").await?;

        // It stays when entries are trimmed, so an empty stream tells as well.
        let newest = info.get("last-generated-id");
        let newest = newest.and_then(|value| String::from_redis_value_ref(value).ok());
        newest.as_deref().map(position).transpose()
    }

    /// Refuses a stream that ends before what is stored of it.
    async fn check(&mut self, stream: &str, after: Option<SourcePosition>) -> Result<()> {
        let newest = self.newest(stream).await?;
        match (newest, after) {
            (Some(newest), Some(after)) if newest < after => {
                let text = format!(
                    "the stream `{stream}` ends at {newest}, and it is stored up to {after}: if it was \
                     made anew, remove its row from `ezq.positions`"
                );
                Err(Error::new(ErrorKind::Configuration, text))
            }
            _ => Ok(()),
        }
    }

    /// Warns if the entry is gone that the new ones follow: entries behind it may be gone as well.
    async fn look_for_gap(&mut self, stream: &str, after: SourcePosition) -> Result<()> {
        let id = id_of(after);
        let range = redis::cmd("XRANGE").arg(&[stream, &id, &id]).take();
        let found: Vec<Entry> = self.ask(&range, "does not show an entry").await?;

        if found.is_empty() {
            let source = &self.name;
            warn!(
                source,
                stream,
                after = id,
                "the stream was trimmed up to the last entry that was read: entries may be lost that \
                 nobody has read"
            );
        }
        Ok(())
    }

    /// The message of an entry.
    fn message(&self, stream: &str, (id, values): Entry) -> Result<Inbound> {
        let position = position(&id)?;

        let mut values = values.into_iter();
        let mut fields = Vec::new();
        while let (Some(name), Some(value)) = (values.next(), values.next()) {
            fields.push((String::from_utf8_lossy(&name).into_owned(), value));
        }

        // The other fields keep their order.
        let body = match fields.iter().position(|(name, _)| *name == self.field) {
            Some(place) => fields.remove(place).1,
            None => as_object(&fields),
        };
        let mut message = Inbound::new(stream, position, body);
        let millis = i64::try_from(position.major()).ok();
        if let Some(time) = millis.and_then(DateTime::from_timestamp_millis) {
            message = message.stored_at(time);
        }

        // A key that is no text stays a header only.
        for (name, value) in fields {
            if Some(&name) == self.key_field.as_ref()
                && let Ok(key) = std::str::from_utf8(&value)
            {
                message = message.key(key);
            }
            message = message.header(name, value);
        }
        Ok(message)
    }
}

#[async_trait]
impl Source for RedisSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> &SourceCapabilities {
        &self.capabilities
    }

    async fn next(&mut self, max: usize) -> Result<Arrival> {
        if !self.is_assigned {
            self.is_assigned = true;
            return Ok(Arrival::Assigned(self.streams.keys().cloned().collect()));
        }

        let mut read = redis::cmd("XREAD");
        let millis = u64::try_from(BLOCK.as_millis()).unwrap_or(u64::MAX);
        read.arg("COUNT").arg(max).arg("BLOCK").arg(millis);
        read.arg("STREAMS");
        for stream in self.streams.keys() {
            read.arg(stream);
        }
        // In the order of the names, as `XREAD` wants it.
        for after in self.streams.values() {
            read.arg(after.map_or_else(|| "0-0".to_owned(), id_of));
        }
        let found: Read = self.ask(&read, "does not give entries").await?;

        // The place of each stream moves only when all of the answer was read.
        let mut messages = Vec::new();
        for (stream, entries) in found.unwrap_or_default() {
            let before = self.streams.get(&stream).copied().flatten();
            if let Some(before) = before {
                self.look_for_gap(&stream, before).await?;
            }
            for entry in entries {
                messages.push(self.message(&stream, entry)?);
            }
            if let Some(last) = messages.last() {
                self.streams.insert(stream, Some(last.position()));
            }
        }
        Ok(Arrival::Messages(messages))
    }

    async fn seek(
        &mut self,
        partition: &str,
        after: Option<SourcePosition>,
    ) -> Result<Option<SourcePosition>> {
        let after = match after {
            // Where the end is now: entries that come before the first read are read.
            None if self.at_end => self.newest(partition).await?,
            after => {
                self.check(partition, after).await?;
                after
            }
        };
        self.streams.insert(partition.to_owned(), after);
        Ok(after)
    }

    async fn commit(&mut self, stored: &[(String, SourcePosition)]) -> Result<()> {
        if !self.trims {
            return Ok(());
        }
        for (stream, position) in stored {
            // The entry at the position stays: without it, a gap would be suspected.
            let mut trim = redis::cmd("XTRIM");
            trim.arg(&[stream, "MINID", &id_of(*position)]);
            self.ask::<()>(&trim, "does not trim a stream").await?;
        }
        Ok(())
    }

    async fn health_check(&mut self) -> Result<()> {
        for (stream, after) in self.streams.clone() {
            self.check(&stream, after).await?;
        }
        Ok(())
    }

    async fn close(&mut self) {
        self.connection = None;
    }
}

/// Fields as a JSON object of texts. Empty if one of them is no text: what the fields hold is in the headers.
fn as_object(fields: &[(String, Vec<u8>)]) -> Vec<u8> {
    let object: Option<serde_json::Map<_, _>> = fields
        .iter()
        .map(|(name, value)| {
            let text = std::str::from_utf8(value).ok()?;
            Some((name.clone(), text.into()))
        })
        .collect();
    object
        .and_then(|object| serde_json::to_vec(&object).ok())
        .unwrap_or_default()
}

/// The id of an entry, `milliseconds-sequence`.
fn id_of(position: SourcePosition) -> String {
    format!("{}-{}", position.major(), position.minor())
}

fn position(id: &str) -> Result<SourcePosition> {
    let parts = id.split_once('-');
    let numbers = parts.and_then(|(time, number)| Some((time.parse().ok()?, number.parse().ok()?)));
    let (time, number) = numbers.ok_or_else(|| {
        let text = format!("`{}` is no id of an entry", id.escape_debug());
        Error::new(ErrorKind::Engine, text)
    })?;
    Ok(SourcePosition::new(time, number))
}

impl std::fmt::Debug for RedisSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisSource")
            .field("address", &self.address)
            .field("name", &self.name)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}
