//! The partitions of a source: where each goes on, and what is stored of them.
//!
//! Invariant: the cursor of a partition is the position that the source's next message follows. It is taken
//! from the store whenever the source is sought, and moves with what is stored.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::broker::{Inbound, Source, SourcePosition};
use crate::engine::{Engine, Ingested, Positions, SourceBatch, StoredBatch};
use crate::error::{Error, ErrorKind, Result, error_chain};
use crate::ingest::convert::Converter;
use crate::logging::warn;
use crate::observe::ingest::IngestStatus;

/// While nothing comes, the broker is asked so often whether it answers.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How long closing the source may take.
const CLOSING: Duration = Duration::from_secs(5);

/// A source with its partitions.
pub(super) struct Partitions {
    pub(super) source: Box<dyn Source>,
    pub(super) name: String,
    pub(super) engine: Arc<dyn Engine>,
    converter: Converter,
    pub(super) status: Arc<IngestStatus>,
    cursors: BTreeMap<String, Option<SourcePosition>>,
    checked: Instant,
    commit_failed: bool,
}

impl Partitions {
    pub(super) fn new(
        source: Box<dyn Source>,
        name: String,
        engine: Arc<dyn Engine>,
        converter: Converter,
        status: Arc<IngestStatus>,
    ) -> Self {
        Self {
            source,
            name,
            engine,
            converter,
            status,
            cursors: BTreeMap::new(),
            checked: Instant::now(),
            commit_failed: false,
        }
    }

    /// The positions of the engine, which were checked when the ingest began.
    pub(super) fn positions(engine: &dyn Engine) -> Result<&dyn Positions> {
        engine.positions().ok_or_else(|| {
            let text = "the engine stores no positions of sources";
            Error::new(ErrorKind::Unsupported, text)
        })
    }

    /// Makes partitions begin that the source was assigned.
    pub(super) async fn assign(&mut self, partitions: Vec<String>) -> Result<()> {
        // All are known before the first call that may fail: after a failure, all are sought.
        for partition in &partitions {
            self.cursors.insert(partition.clone(), None);
        }
        for partition in &partitions {
            self.seek(partition).await?;
        }
        Ok(())
    }

    /// Makes every partition go on behind its stored position.
    pub(super) async fn seek_all(&mut self) -> Result<()> {
        let known: Vec<String> = self.cursors.keys().cloned().collect();
        for partition in known {
            self.seek(&partition).await?;
        }
        Ok(())
    }

    /// Makes a partition go on behind its stored position.
    pub(super) async fn seek(&mut self, partition: &str) -> Result<()> {
        let positions = Self::positions(&*self.engine)?;
        let stored = positions.position(&self.name, partition).await?;
        let chosen = self.source.seek(partition, stored).await?;

        let begun = positions.begin(&self.name, partition, chosen).await?;
        if begun != chosen {
            // Another ingest has stored something in the meantime.
            self.source.seek(partition, begun).await?;
        }
        self.cursors.insert(partition.to_owned(), begun);
        Ok(())
    }

    /// Stores messages, and tells the broker.
    pub(super) async fn take_in(&mut self, messages: Vec<Inbound>) -> Result<()> {
        let parts = self.by_partition(messages)?;
        let batches: Vec<SourceBatch> = parts
            .iter()
            .map(|(partition, messages)| self.batch(partition, messages))
            .collect();

        let positions = Self::positions(&*self.engine)?;
        match positions.store(&self.name, &batches).await {
            Ok(outcomes) => {
                self.conclude(&batches, outcomes).await?;
            }
            Err(error) if is_of_one_message(&error) => {
                for (batch, messages) in batches.into_iter().zip(parts.values()) {
                    if !self.take_in_singly(batch, messages).await? {
                        break;
                    }
                }
            }
            Err(error) => return Err(error),
        }

        // After the commit in the database, never before: the broker may forget what it is told is stored.
        let stored: Vec<(String, SourcePosition)> = parts
            .keys()
            .filter_map(|partition| Some((partition.clone(), (*self.cursors.get(partition)?)?)))
            .collect();
        self.commit(&stored).await;
        Ok(())
    }

    /// The new messages by partition, in their order.
    fn by_partition(&self, messages: Vec<Inbound>) -> Result<BTreeMap<String, Vec<Inbound>>> {
        let mut parts: BTreeMap<String, Vec<Inbound>> = BTreeMap::new();
        for message in messages {
            let partition = message.partition();
            let Some(cursor) = self.cursors.get(partition) else {
                let text = format!(
                    "the source `{}` gave a message of the partition `{}`, which it had not been \
                     assigned",
                    self.name,
                    partition.escape_debug()
                );
                return Err(Error::new(ErrorKind::Engine, text));
            };

            let part = parts.entry(partition.to_owned()).or_default();
            let last = part.last().map(Inbound::position).or(*cursor);
            // It is stored already.
            if Some(message.position()) > last {
                part.push(message);
            }
        }
        parts.retain(|_, messages| !messages.is_empty());
        Ok(parts)
    }

    fn batch(&self, partition: &str, messages: &[Inbound]) -> SourceBatch {
        let mut first = None;
        let mut refused = 0;
        let converted = messages
            .iter()
            .map(|message| {
                let (ingested, error) = self.converter.convert(message);
                refused += usize::from(error.is_some());
                first = first.take().or(error);
                (message.position(), ingested)
            })
            .collect();

        if let Some(error) = first {
            let source = &self.name;
            let error = error_chain(&error);
            warn!(
                source,
                partition, refused, error, "messages that cannot be events become dead letters"
            );
        }
        let after = self.cursors.get(partition).copied().flatten();
        SourceBatch::new(partition, after, converted)
    }

    /// Stores messages one by one. One that the store cannot keep as an event is kept as a dead letter.
    /// Returns false if the rest is read again.
    async fn take_in_singly(&mut self, batch: SourceBatch, messages: &[Inbound]) -> Result<bool> {
        for (converted, message) in batch.messages.into_iter().zip(messages) {
            let after = self.cursors.get(&batch.partition).copied().flatten();
            let mut alone = [SourceBatch::new(&batch.partition, after, vec![converted])];
            let positions = Self::positions(&*self.engine)?;
            let mut stored = positions.store(&self.name, &alone).await;

            if let Err(error) = &stored
                && is_of_one_message(error)
            {
                let source = &self.name;
                let text = error_chain(error);
                warn!(
                    source,
                    error = text,
                    "the store cannot keep a message as an event: it becomes a dead letter"
                );
                let letter = self.converter.dead_letter(message, error);
                let [batch] = &mut alone;
                batch.messages = vec![(message.position(), letter)];
                stored = positions.store(&self.name, &alone).await;
            }
            if !self.conclude(&alone, stored?).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves the cursors to what is stored. Returns false if they were set back: whatever else was read does
    /// not follow them.
    async fn conclude(
        &mut self,
        batches: &[SourceBatch],
        outcomes: Vec<StoredBatch>,
    ) -> Result<bool> {
        if outcomes.iter().any(StoredBatch::is_set_back) {
            let source = &self.name;
            warn!(
                source,
                "a stored position was set back: what follows it is read again"
            );
            self.seek_all().await?;
            return Ok(false);
        }

        for (batch, outcome) in batches.iter().zip(outcomes) {
            let StoredBatch::Stored { new, position } = outcome else {
                continue;
            };
            // What was known already stands at the front.
            let known = batch.messages.len().saturating_sub(new);
            let stored = batch.messages.iter().skip(known);
            let dead = stored
                .filter(|(_, ingested)| matches!(ingested, Ingested::DeadLetter { .. }))
                .count();
            self.status
                .took_in(new.saturating_sub(dead) as u64, dead as u64);
            self.cursors.insert(batch.partition.clone(), position);
        }
        Ok(true)
    }

    async fn commit(&mut self, stored: &[(String, SourcePosition)]) {
        if !self.source.capabilities().commits || stored.is_empty() {
            return;
        }
        let told = self.source.commit(stored).await;
        if let Err(error) = &told
            && !self.commit_failed
        {
            let source = &self.name;
            let error = error_chain(error);
            warn!(
                source,
                error, "the broker cannot be told what is stored; nothing is lost by that"
            );
        }
        self.commit_failed = told.is_err();
    }

    /// Asks from time to time whether the broker answers.
    pub(super) async fn check(&mut self) -> Result<()> {
        if self.checked.elapsed() < CHECK_EVERY {
            return Ok(());
        }
        self.checked = Instant::now();
        self.source.health_check().await
    }

    pub(super) async fn close(&mut self) {
        if timeout(CLOSING, self.source.close()).await.is_err() {
            let source = &self.name;
            warn!(source, "the source did not close within {CLOSING:?}");
        }
    }
}

/// Whether an error says that the store cannot keep a message.
fn is_of_one_message(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidEvent | ErrorKind::TooLarge)
}
