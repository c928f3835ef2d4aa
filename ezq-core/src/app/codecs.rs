//! Which codecs an application writes and reads with.

use crate::app::AppBuilder;
use crate::codec::codecs::Codec;
use crate::error::Error;
use crate::message::queue_name::QueueName;

impl AppBuilder {
    /// Adds a codec, to be chosen by its name: for a [queue](Self::queue_codec), for an
    /// [event type](Self::event_codec), or by an event itself with `#[event(codec = "...")]`.
    /// `cloudevents`, `flat`, `ezvent` and [`raw`](crate::RawJson) are there already.
    ///
    /// Add it everywhere before anyone writes with it, and keep it for as long as there are
    /// messages that it wrote.
    pub fn codec(mut self, codec: impl Codec) -> Self {
        self.codecs.add(codec);
        self
    }

    /// Writes the events of a queue with a codec, unless they have one of their own, and reads
    /// with it what does not say how it was written. Defaults to [`Config::wire`](crate::Config).
    ///
    /// What is [broadcast](crate::Publisher::broadcast) is written once for all queues, and so never
    /// by this: give a type that is to lie encrypted everywhere its codec by
    /// [`event_codec`](Self::event_codec).
    ///
    /// ```
    /// # use ezq_core::{App, MemoryEngine};
    /// let app = App::builder().queue_codec("sensors", "raw").build(MemoryEngine::new())?;
    /// # Ok::<(), ezq_core::Error>(())
    /// ```
    pub fn queue_codec(
        mut self,
        queue: impl TryInto<QueueName, Error = Error>,
        codec: impl Into<String>,
    ) -> Self {
        match queue.try_into() {
            Ok(queue) => {
                self.codecs.queues.insert(queue, codec.into());
            }
            Err(error) => self.config = self.config.and(Err(error)),
        }
        self
    }

    /// Writes the events of a type with a codec, over what the type itself says and over its
    /// queue's.
    pub fn event_codec(mut self, event_type: impl Into<String>, codec: impl Into<String>) -> Self {
        self.codecs.events.insert(event_type.into(), codec.into());
        self
    }
}
