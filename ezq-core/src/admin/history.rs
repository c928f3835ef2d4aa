//! The request for the history of an event, which asks every engine that may know of it.

use std::future::{Future, IntoFuture};
use std::pin::Pin;

use crate::engine::history::History;
use crate::engine::reader::Reader;
use crate::error::{Error, ErrorKind, Result};
use crate::message::queue_name::{IntoQueueName, QueueName};
use crate::publish::engines::Engines;

/// A request for a [`History`], which is made when awaited.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when none of the engines keeps a history; otherwise when a store cannot be
/// read.
///
/// # Cancel safety
/// It changes nothing.
#[must_use = "nothing is asked until this is awaited"]
#[derive(Debug)]
pub struct HistoryRequest<'a> {
    engines: &'a Engines,
    reader: Reader,
    event_id: String,
    queue: Result<Option<QueueName>>,
}

impl<'a> HistoryRequest<'a> {
    pub(crate) fn new(engines: &'a Engines, reader: Reader, event_id: String) -> Self {
        Self {
            engines,
            reader,
            event_id,
            queue: Ok(None),
        }
    }

    /// Searches only this queue, its archive and its dead letters. Defaults to all queues.
    pub fn queue(mut self, queue: impl IntoQueueName) -> Self {
        self.queue = queue.into_queue_name().map(Some);
        self
    }

    async fn ask(self) -> Result<History> {
        let reader = self.reader.clone();
        let mut history = self.find().await?;
        for copy in &mut history.copies {
            copy.reader = reader.clone();
        }
        Ok(history)
    }

    async fn find(self) -> Result<History> {
        let Self {
            engines,
            event_id,
            queue,
            ..
        } = self;
        if let Some(queue) = queue? {
            return engines.of(&queue).history(&event_id, Some(&queue)).await;
        }

        // One engine after another: few applications have more than one, and a history is asked for by
        // people.
        let mut whole: Option<History> = None;
        let mut unread = Vec::new();
        let mut refusal = None;
        for engine in engines.all() {
            match (engine.history(&event_id, None).await, &mut whole) {
                (Ok(found), None) => whole = Some(found),
                (Ok(found), Some(whole)) => {
                    whole.copies.extend(found.copies);
                    whole.unread.extend(found.unread);
                }
                (Err(error), _) if error.kind() == ErrorKind::Unsupported => {
                    unread.push(format!("the engine `{}`", engine.capabilities().name));
                    refusal = Some(error);
                }
                (Err(error), _) => return Err(error),
            }
        }

        // An error only if no engine could answer; the others are listed as unread.
        let mut whole = match (whole, refusal) {
            (Some(whole), _) => whole,
            (None, Some(refusal)) => return Err(refusal),
            (None, None) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "there is no engine to ask",
                ));
            }
        };
        whole.unread.extend(unread);
        whole.sort();
        Ok(whole)
    }
}

impl<'a> IntoFuture for HistoryRequest<'a> {
    type Output = Result<History>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.ask())
    }
}
