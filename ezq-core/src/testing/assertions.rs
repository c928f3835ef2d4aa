//! What a test asks of its application's events, whichever store keeps them.
//!
//! The methods are written once, as a macro: a trait would have to be imported to call them, and the kit
//! on a database is in another crate.

use chrono::{DateTime, Utc};

use crate::app::App;
use crate::codec::wire::Origin;
use crate::engine::DeadLetter;
use crate::engine::reader::Reader;
use crate::event::envelope::Envelope;
use crate::event::{Event, means};
use crate::message::headers::Headers;
use crate::message::message_id::MessageId;
use crate::message::queue_name::QueueName;

/// What a store of a test keeps.
#[derive(Debug, Default)]
pub struct Records {
    /// Every message that was published, oldest first, whatever became of it.
    pub messages: Vec<Recorded>,
    /// Every dead letter, with its queue.
    pub dead: Vec<(QueueName, DeadLetter)>,
}

/// One published message.
#[derive(Debug)]
pub struct Recorded {
    /// Its queue.
    pub queue: QueueName,
    /// Its id.
    pub id: MessageId,
    /// Its body.
    pub body: String,
    /// Its headers.
    pub headers: Headers,
    /// When it was published.
    pub at: DateTime<Utc>,
    /// When it is due, if it was never delivered and that is later than now.
    pub scheduled: Option<DateTime<Utc>>,
}

impl Records {
    /// The events of a type.
    #[must_use]
    pub fn published<E: Event>(&self, app: &App) -> Vec<E> {
        self.messages
            .iter()
            .filter_map(|one| one.event(app))
            .collect()
    }

    /// The events of a type that wait for their time, and when they are due; the earliest first.
    #[must_use]
    pub fn scheduled<E: Event>(&self, app: &App) -> Vec<(E, DateTime<Utc>)> {
        let mut scheduled: Vec<_> = self
            .messages
            .iter()
            .filter_map(|one| Some((one.event(app)?, one.scheduled?)))
            .collect();
        scheduled.sort_by_key(|(_, due)| *due);
        scheduled
    }

    /// The dead letters, readable by the application's codecs.
    pub fn dead(self, app: &App) -> impl Iterator<Item = DeadLetter> {
        let reader = Reader::new(&app.inner.services.codecs);
        self.dead
            .into_iter()
            .map(move |(queue, letter)| DeadLetter {
                queue,
                reader: reader.clone(),
                ..letter
            })
    }

    /// The dead letters of a type.
    #[must_use]
    pub fn dead_of<E: Event>(self, app: &App) -> Vec<DeadLetter> {
        let mut dead: Vec<DeadLetter> = self.dead(app).collect();
        dead.retain(|letter| letter.event_type().is_some_and(|name| means::<E>(&name)));
        dead
    }

    /// The types of all published events, for messages.
    #[must_use]
    pub fn types(&self, app: &App) -> Vec<String> {
        let types = self.messages.iter().map(|one| {
            let envelope = one.envelope(app);
            envelope.map_or_else(|| "no event".into(), |found| found.event_type().to_owned())
        });
        types.collect()
    }

    /// The dead letters with their reasons, for messages.
    #[must_use]
    pub fn deaths(self, app: &App) -> Vec<String> {
        let deaths = self.dead(app).map(|letter| {
            let event_type = letter.event_type().unwrap_or_else(|| "no event".into());
            let reason = letter.reason.map(|reason| reason.error);
            format!("`{event_type}`: {}", reason.unwrap_or_default())
        });
        deaths.collect()
    }
}

impl Recorded {
    fn envelope(&self, app: &App) -> Option<Envelope> {
        let origin = Origin {
            queue: &self.queue,
            message_id: &self.id,
            enqueued_at: self.at,
            headers: &self.headers,
        };
        app.inner.services.codecs.read(&self.body, origin).ok()
    }

    fn event<E: Event>(&self, app: &App) -> Option<E> {
        let envelope = self.envelope(app)?;
        means::<E>(envelope.event_type()).then(|| envelope.decode().ok())?
    }
}

/// The assertions of a kit with a method `records`, which dereferences to an `App`.
#[doc(hidden)]
#[macro_export]
macro_rules! __assertions {
    () => {
        /// Every event of a type that was published so far, to any queue, in order, whatever became of it.
        #[must_use]
        pub fn published<E: $crate::event::Event>(&self) -> Vec<E> {
            self.records().published(self)
        }

        /// The event of a type that was published last.
        ///
        /// # Panics
        /// When none was published; the message lists the types that were.
        #[track_caller]
        #[must_use]
        pub fn assert_published<E: $crate::event::Event>(&self) -> E {
            let records = self.records();
            let Some(event) = records.published(self).pop() else {
                let types = records.types(self);
                panic!("no `{}` was published, only {types:?}", E::TYPE)
            };
            event
        }

        /// Asserts that no event of a type was published.
        ///
        /// # Panics
        /// When one was.
        #[track_caller]
        pub fn assert_not_published<E: $crate::event::Event>(&self) {
            let count = self.published::<E>().len();
            assert!(count == 0, "{count} of `{}` were published", E::TYPE);
        }

        /// The event of a type that waits for its time, as `after` and `at` schedule it, and when it is
        /// due. Of several, the earliest.
        ///
        /// # Panics
        /// When none waits for its time.
        #[track_caller]
        #[must_use]
        pub fn assert_scheduled<E: $crate::event::Event>(
            &self,
        ) -> (E, $crate::chrono::DateTime<$crate::chrono::Utc>) {
            let records = self.records();
            let Some(first) = records.scheduled(self).into_iter().next() else {
                let count = records.published::<E>(self).len();
                panic!(
                    "no `{}` waits for its time; {count} were published",
                    E::TYPE
                )
            };
            first
        }

        /// The dead letter of an event of a type; the last one, if there are several. It has the event,
        /// the reason and the errors of its handlers.
        ///
        /// # Panics
        /// When there is none; the message lists the dead letters that there are.
        #[track_caller]
        #[must_use]
        pub fn assert_dead_lettered<E: $crate::event::Event>(&self) -> $crate::engine::DeadLetter {
            let Some(letter) = self.records().dead_of::<E>(self).pop() else {
                let others = self.records().deaths(self);
                panic!("no `{}` is a dead letter, only {others:?}", E::TYPE)
            };
            letter
        }

        /// Asserts that there are no dead letters in any queue.
        ///
        /// # Panics
        /// When there are; the message lists them with their reasons.
        #[track_caller]
        pub fn assert_no_dead_letters(&self) {
            let deaths = self.records().deaths(self);
            assert!(deaths.is_empty(), "there are dead letters: {deaths:?}");
        }
    };
}
