//! Steps that cases share: a source that is read as an ingest reads it.

use std::collections::BTreeMap;
use std::time::Duration;

use ezq_core::broker::{Arrival, Inbound, Source, SourcePosition};
use tokio::time::{Instant, sleep, timeout};

use super::sending::RECOVERY;
use crate::error::CaseError;

type Result<T> = std::result::Result<T, CaseError>;

/// How long one call of `next` may take while the broker answers.
const ANSWER: Duration = Duration::from_secs(15);
/// A source that has given nothing for this long has nothing to give.
const QUIET: Duration = Duration::from_secs(2);

/// A source, and what an ingest would have stored of it.
pub(super) struct Reader {
    pub(super) source: Box<dyn Source>,
    /// The position of the last message of each partition.
    pub(super) stored: BTreeMap<String, Option<SourcePosition>>,
    /// All messages, in the order in which they came.
    pub(super) read: Vec<Inbound>,
}

impl Reader {
    pub(super) fn new(source: Box<dyn Source>) -> Self {
        Self {
            source,
            stored: BTreeMap::new(),
            read: Vec::new(),
        }
    }

    /// Calls `next` once, checks what it gives and keeps it. Returns how many messages came.
    pub(super) async fn step(&mut self, max: usize) -> Result<usize> {
        let arrival = timeout(ANSWER, self.source.next(max)).await;
        let arrival = arrival
            .map_err(|_| CaseError::Failed(format!("`next` took more than {ANSWER:?}")))??;
        match arrival {
            Arrival::Assigned(partitions) => {
                // Where it goes on is the reader's to say, whatever the broker remembers.
                for partition in partitions {
                    let stored = self.stored.get(&partition).copied().flatten();
                    let at = self.source.seek(&partition, stored).await?;
                    if stored.is_some() {
                        check_eq!(at, stored, "where a partition was told to go on");
                    }
                    self.stored.insert(partition, at);
                }
                Ok(0)
            }
            Arrival::Messages(messages) => {
                check!(
                    messages.len() <= max,
                    "{} messages, where at most {max} were asked for",
                    messages.len()
                );
                let count = messages.len();
                for message in messages {
                    self.keep(message)?;
                }
                Ok(count)
            }
            _ => Ok(0),
        }
    }

    fn keep(&mut self, message: Inbound) -> Result<()> {
        let partition = message.partition();
        let Some(stored) = self.stored.get_mut(partition) else {
            let what = format!("a message of `{partition}`, which was not assigned");
            return Err(CaseError::Failed(what));
        };
        check!(
            Some(message.position()) > *stored,
            "after {stored:?} of `{partition}` came {}",
            message.position()
        );
        *stored = Some(message.position());
        self.read.push(message);
        Ok(())
    }

    /// Reads until so many messages have come in all.
    pub(super) async fn read(&mut self, count: usize, max: usize) -> Result<()> {
        let began = Instant::now();
        while self.read.len() < count {
            self.step(max).await?;
            let read = self.read.len();
            check!(
                began.elapsed() < RECOVERY,
                "{read} of {count} messages within {RECOVERY:?}"
            );
        }
        Ok(())
    }

    /// The same, with a seek after each failure, as an ingest does it.
    pub(super) async fn read_through_failures(&mut self, count: usize) -> Result<()> {
        let began = Instant::now();
        while self.read.len() < count {
            let read = self.read.len();
            check!(
                began.elapsed() < RECOVERY,
                "{read} of {count} messages within {RECOVERY:?}"
            );
            if self.step(20).await.is_err() {
                self.recover().await?;
            }
        }
        Ok(())
    }

    /// Seeks until it succeeds, as an ingest does before it reads on.
    pub(super) async fn recover(&mut self) -> Result<()> {
        let began = Instant::now();
        while let Err(error) = self.seek_all().await {
            check!(began.elapsed() < RECOVERY, "no seek succeeds: {error:?}");
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Makes every partition go on behind what is stored.
    pub(super) async fn seek_all(&mut self) -> Result<()> {
        for (partition, stored) in self.stored.clone() {
            self.source.seek(&partition, stored).await?;
        }
        Ok(())
    }

    /// Checks that nothing more comes.
    pub(super) async fn is_quiet(&mut self) -> Result<()> {
        let began = Instant::now();
        let before = self.read.len();
        while began.elapsed() < QUIET {
            self.step(100).await?;
        }
        check_eq!(self.read.len(), before, "messages, where all were read");
        Ok(())
    }
}
