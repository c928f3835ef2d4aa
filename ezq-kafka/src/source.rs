//! [`KafkaSource`]: the records of topics as messages.

use std::time::{Duration, Instant};

use ezq_core::broker::{Arrival, Source, SourceCapabilities, SourcePosition};
use ezq_core::{Error, ErrorKind, Result, async_trait};

use crate::connection::Connection;
use crate::consumer::{Consumer, partition_name};
use crate::group::Partition;

/// How long a call waits for messages.
const WAIT: Duration = Duration::from_secs(1);
/// How long it waits while the group has not answered yet.
const JOIN_WAIT: Duration = Duration::from_secs(10);
/// How long leaving the group may take.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A source of the records of topics, as a member of a consumer group. Several ingests of one group share
/// the partitions. A partition is named `topic/number`, and the position of a message is its offset.
///
/// Where nothing of a partition is stored yet, it begins at the offset that the group has committed, or
/// else with the first record that the partition has.
pub struct KafkaSource {
    connection: Connection,
    name: String,
    group: String,
    topics: Vec<String>,
    begins_at_end: bool,
    /// The client at work. It is replaced when it is spent.
    consumer: Option<Consumer>,
}

impl KafkaSource {
    /// A source that reads topics of a cluster, such as `kafka://127.0.0.1:9092`, for a consumer group. It
    /// connects when the ingest begins.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`] if the URL, a topic or the group is wrong, or the URL demands what a
    /// feature of this crate would bring.
    pub fn new<T: Into<String>>(
        url: &str,
        group: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<Self> {
        let connection = Connection::parse(url)?;
        if connection
            .setting("partition.assignment.strategy")
            .is_some()
        {
            let text = "`partition.assignment.strategy` cannot be set for a source";
            return Err(Error::new(ErrorKind::Configuration, text));
        }
        let group = group.into();
        let topics: Vec<String> = topics.into_iter().map(Into::into).collect();
        if group.is_empty() || topics.is_empty() {
            let text = "a source of Kafka needs a consumer group and at least one topic";
            return Err(Error::new(ErrorKind::Configuration, text));
        }

        Ok(Self {
            connection,
            name: format!("kafka/{group}"),
            group,
            topics,
            begins_at_end: false,
            consumer: None,
        })
    }

    /// The [name](Source::name) of the source. Defaults to `kafka/` and the group. Two clusters that have a
    /// group of one name need two names.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Leaves out what a partition has when it is read for the first time.
    #[must_use]
    pub fn from_end(mut self) -> Self {
        self.begins_at_end = true;
        self
    }

    /// The client at work, or a new one if that is spent.
    fn consumer(&mut self) -> Result<&Consumer> {
        let spent = self.consumer.as_ref();
        if spent.is_some_and(|consumer| consumer.group.lock().is_spent) {
            self.leave();
        }
        match self.consumer {
            Some(ref consumer) => Ok(consumer),
            None => {
                let consumer = Consumer::start(&self.connection, &self.group, &self.topics)?;
                Ok(self.consumer.insert(consumer))
            }
        }
    }

    /// Lets the client go. Its thread leaves the group.
    fn leave(&mut self) -> Option<Consumer> {
        let consumer = self.consumer.take()?;
        consumer.group.close();
        Some(consumer)
    }
}

#[async_trait]
impl Source for KafkaSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn capabilities(&self) -> &SourceCapabilities {
        const { &SourceCapabilities::new("kafka").divided().commits() }
    }

    async fn next(&mut self, max: usize) -> Result<Arrival> {
        let consumer = self.consumer()?.clone();
        let began = Instant::now();
        loop {
            // Before the look, so that what comes right after it is heard.
            let arrived = consumer.group.arrived.notified();
            let has_joined = match look(&consumer, max)? {
                Looked::Arrived(arrival) => return Ok(arrival),
                Looked::Nothing { has_joined } => has_joined,
            };

            let limit = if has_joined { WAIT } else { JOIN_WAIT };
            let Some(rest) = limit.checked_sub(began.elapsed()) else {
                return Ok(Arrival::Messages(Vec::new()));
            };
            // Wrong credentials are told by the client's log alone.
            let _ = tokio::time::timeout(rest.min(WAIT), arrived).await;
            if !has_joined && consumer.is_refused(began) {
                consumer
                    .check_health(&self.topics[0])
                    .await
                    .map_err(|error| {
                        consumer.failed("refuses this member of a group", &error, began)
                    })?;
            }
        }
    }

    async fn seek(
        &mut self,
        partition: &str,
        after: Option<SourcePosition>,
    ) -> Result<Option<SourcePosition>> {
        let begins_at_end = self.begins_at_end;
        let consumer = self.consumer()?.clone();
        let Some(place) = assigned(&consumer, partition) else {
            // It was taken away meanwhile.
            return Ok(after);
        };

        let began = Instant::now();
        let failed = |error| consumer.failed("does not tell its offsets", &error, began);
        let (low, high) = consumer.bounds(&place).await.map_err(failed)?;
        let next = match after {
            Some(position) => follow(&self.name, partition, position, low, high)?,
            None => {
                let committed = consumer.committed(&place).await.map_err(failed)?;
                let first = if begins_at_end { high } else { low };
                committed
                    .filter(|offset| (low..=high).contains(offset))
                    .unwrap_or(first)
            }
        };

        // A rebalance may have come while the cluster was asked.
        let mut state = consumer.group.lock();
        if state.assigned.contains(&place) {
            state.stop_reading();
            state.next.insert(place, next);
        }
        Ok(position_before(next))
    }

    async fn commit(&mut self, stored: &[(String, SourcePosition)]) -> Result<()> {
        let consumer = self.consumer()?;
        let offsets: Vec<(Partition, i64)> = stored
            .iter()
            .filter_map(|(partition, position)| {
                let offset = i64::try_from(position.major()).ok()?;
                Some((assigned(consumer, partition)?, offset + 1))
            })
            .collect();
        let told = consumer.commit(&offsets);
        told.map_err(|error| {
            consumer.failed("took no offsets of the group", &error, Instant::now())
        })
    }

    async fn health_check(&mut self) -> Result<()> {
        let began = Instant::now();
        let topic = self.topics[0].clone();
        let consumer = self.consumer()?;
        let checked = consumer.check_health(&topic).await;
        checked.map_err(|error| consumer.failed("does not answer", &error, began))
    }

    async fn close(&mut self) {
        let Some(consumer) = self.leave() else {
            return;
        };
        let group = std::sync::Arc::clone(&consumer.group);
        // The thread's is the last one then, and destroys the client.
        drop(consumer);
        let began = Instant::now();
        while !group.lock().has_closed && began.elapsed() < CLOSE_LIMIT {
            let _ = tokio::time::timeout(WAIT, group.arrived.notified()).await;
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.leave();
    }
}

/// What a look at the group found.
enum Looked {
    Arrived(Arrival),
    Nothing { has_joined: bool },
}

fn look(consumer: &Consumer, max: usize) -> Result<Looked> {
    let mut state = consumer.group.lock();
    if let Some(error) = state.take_failure() {
        return Err(error);
    }

    if !state.is_told && !state.assigned.is_empty() {
        state.is_told = true;
        let names = state.assigned.iter();
        let names = names.map(|(topic, number)| partition_name(topic, *number));
        return Ok(Looked::Arrived(Arrival::Assigned(names.collect())));
    }
    if state.is_empty() {
        let has_joined = state.has_joined;
        return Ok(Looked::Nothing { has_joined });
    }

    let messages = consumer.group.take(&mut state, max);
    for message in &messages {
        // If another partition is sought, this one goes on behind what was given.
        let offset = i64::try_from(message.position().major()).unwrap_or(i64::MAX - 1);
        if let Some(place) = find(&state.assigned, message.partition()) {
            state.next.insert(place, offset + 1);
        }
    }
    Ok(Looked::Arrived(Arrival::Messages(messages)))
}

/// The partition of a name, if it is this member's.
fn assigned(consumer: &Consumer, name: &str) -> Option<Partition> {
    find(&consumer.group.lock().assigned, name)
}

fn find(partitions: &[Partition], name: &str) -> Option<Partition> {
    let mut found = partitions
        .iter()
        .filter(|(topic, number)| partition_name(topic, *number) == name);
    found.next().cloned()
}

/// The offset that follows a stored position. Checks that the partition has it.
fn follow(
    source: &str,
    partition: &str,
    position: SourcePosition,
    low: i64,
    high: i64,
) -> Result<i64> {
    let next = i64::try_from(position.major()).unwrap_or(i64::MAX - 1) + 1;
    if next > high {
        let text = format!(
            "the partition `{partition}` ends at offset {high}, before the stored position {position}: \
             it is not the one that was read before. Give the source another name to read it from its start"
        );
        return Err(Error::new(ErrorKind::Configuration, text));
    }
    if next < low {
        let lost = low - next;
        ezq_core::__warn!(
            source,
            partition,
            lost,
            "the broker dropped offsets before they were read: its retention is too short"
        );
    }
    Ok(next.max(low))
}

fn position_before(offset: i64) -> Option<SourcePosition> {
    let before = u64::try_from(offset.checked_sub(1)?).ok()?;
    Some(SourcePosition::from(before))
}

impl std::fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaSource")
            .field("name", &self.name)
            .field("brokers", &self.connection.brokers)
            .field("group", &self.group)
            .field("topics", &self.topics)
            .finish_non_exhaustive()
    }
}
