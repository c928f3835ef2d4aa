//! Whether events reach their handlers: where each type is published to, against where handlers take
//! it from. Checked once, when the application is built.
//!
//! A handler with a queue of its own takes events from there only, and a queue that some handler has
//! to itself gives events to nobody else. So an event can go to where no handler takes it, and die
//! there. That is an error where nothing else can happen: what schedules publish and what handlers
//! return goes where it is said to go. It is a warning where a publisher may name another queue.

use std::sync::Arc;

use crate::dispatch::registry::{read_from, takes, types};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventDescriptor, is_control};
use crate::handler::Handler;
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::schedule::Planned;
use crate::shared::Shared;

/// What becomes of an event of some type in some queue.
enum Fate<'a> {
    /// A handler takes it there, or nothing here has to do with it.
    Fine,
    /// No handler takes it there, and this application consumes that queue.
    Dies { taker: &'a Handler },
    /// No handler here takes it there; the consumers of that queue may be another application's.
    Elsewhere { taker: &'a Handler },
}

impl Shared {
    /// Refuses events that could only die, and warns of those that die unless a publisher says
    /// where they go.
    pub(crate) fn check_reach(&self) -> Result<()> {
        self.schedules
            .planned
            .iter()
            .try_for_each(|planned| self.check_schedule(planned))?;

        for handler in self.dispatcher.registry.handlers() {
            handler
                .returned
                .iter()
                .try_for_each(|event| self.check_returned(handler, event))?;
        }
        if !self.config.subscribe {
            self.warn_of_unreached();
        }
        Ok(())
    }

    fn check_schedule(&self, planned: &Planned) -> Result<()> {
        let Planned {
            name,
            queue,
            event_type,
            ..
        } = planned;
        let (taker, certain) = match self.fate(queue, event_type) {
            Fate::Fine => return Ok(()),
            Fate::Dies { taker } => (taker, true),
            Fate::Elsewhere { taker } => (taker, false),
        };

        let name = name.escape_debug();
        let text = if planned.is_tick() {
            let owners = self.dispatcher.registry.owners(queue).unwrap_or_default();
            let owner = owners
                .first()
                .map_or("another", |owner| owner.name.as_str());
            format!(
                "the schedule `{name}` publishes its ticks to the queue `{queue}`, which the \
                 handler `{owner}` has to itself, so its function would never run: write \
                 `queue = \"...\"` with another queue in its `#[on_schedule]`, or give `{owner}` \
                 another"
            )
        } else {
            let (handler, from) = (&taker.name, read_from(taker));
            format!(
                "the schedule `{name}` publishes `{event_type}` to the queue `{queue}`, where no \
                 handler takes it: `{handler}` reads {from} only. Say where it goes by \
                 `Schedule::queue`, by `#[event(queue = \"...\")]` or by a route"
            )
        };
        if certain {
            return Err(Error::new(ErrorKind::UnreachableHandler, text));
        }
        warn!("{text}");
        Ok(())
    }

    fn check_returned(&self, handler: &Handler, event: &EventDescriptor) -> Result<()> {
        let Some(queue) = self.published_to(event) else {
            return Ok(());
        };
        let Fate::Dies { taker } = self.fate(&queue, event.type_name) else {
            return Ok(());
        };
        let text = format!(
            "the handler `{}` returns `{}`, which goes to the queue `{queue}`, where no handler \
             takes it: `{}` reads {} only. {}",
            handler.name,
            event.type_name,
            taker.name,
            read_from(taker),
            remedy(taker),
        );
        Err(Error::new(ErrorKind::UnreachableHandler, text))
    }

    fn warn_of_unreached(&self) {
        for handler in self.dispatcher.registry.handlers() {
            let unreached = self.unreached(handler);
            if unreached.is_empty() {
                continue;
            }
            let published: Vec<String> = unreached
                .iter()
                .map(|(name, queue)| format!("`{name}` to `{queue}`"))
                .collect();
            warn!(
                handler = %handler.name,
                "the handler `{}` reads {} only, but what it takes is published to where no handler \
                 here takes it, unless its publisher names a queue: {}. {}",
                handler.name,
                read_from(handler),
                published.join(", "),
                remedy(handler),
            );
        }
    }

    /// Whether building the application warned of a handler.
    pub(crate) fn has_warned_of(&self, handler: &Handler) -> bool {
        !self.config.subscribe && !self.unreached(handler).is_empty()
    }

    /// The types that a handler takes and that go, unless a publisher says otherwise, to where no
    /// handler here takes them; with the queue.
    fn unreached(&self, handler: &Handler) -> Vec<(&'static str, QueueName)> {
        // Ticks were looked at with their schedule.
        let events = types(handler).iter().filter(|_| handler.schedule.is_none());
        let events = events.filter(|event| !is_control(event.type_name));
        let published = events.filter_map(|event| Some((event, self.published_to(event)?)));
        let unreached = published
            .filter(|(event, queue)| !matches!(self.fate(queue, event.type_name), Fate::Fine));
        unreached
            .map(|(event, queue)| (event.type_name, queue))
            .collect()
    }

    /// Where an event goes whose publisher names no queue. A function of the user's that fails says
    /// so where something is published.
    fn published_to(&self, event: &EventDescriptor) -> Option<QueueName> {
        self.services.queue_of(event.type_name, event.queue).ok()
    }

    fn fate(&self, queue: &QueueName, event_type: &str) -> Fate<'_> {
        let registry = &self.dispatcher.registry;
        let takes = |handler: &&Arc<Handler>| takes(handler, event_type);
        if registry.of(queue).iter().any(|handler| takes(&handler)) {
            return Fate::Fine;
        }
        let named = |handler: &&Arc<Handler>| !types(handler).is_empty() && takes(handler);
        let Some(taker) = registry.handlers().iter().find(named) else {
            return Fate::Fine;
        };

        // Of other queues nobody knows here who consumes them.
        let is_ours = *queue == self.config.queue || registry.owners(queue).is_some();
        if is_ours {
            Fate::Dies { taker }
        } else {
            Fate::Elsewhere { taker }
        }
    }
}

/// What to write so that a handler gets its events.
fn remedy(taker: &Handler) -> String {
    match &taker.queue {
        Some(queue) => format!(
            "Write `#[event(queue = \"{queue}\")]` on the event, route its type there, or drop \
             the handler's `queue`"
        ),
        None => "Give the event a queue with `#[event(queue = \"...\")]`, or the handler one with \
                 `queue = \"...\"`"
            .to_owned(),
    }
}
