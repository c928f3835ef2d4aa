//! Whether events reach their handlers, checked once when the application is built.
//!
//! A handler with a queue of its own takes events from that queue only, and other handlers take none
//! from it. So an event can go to a queue where no handler takes it, and die there. This check compares
//! the queue to which each type is published with the queues from which handlers take it.
//!
//! - It is an error where nothing else can happen: the queue of what schedules publish and handlers
//!   return is fixed.
//! - It is a warning where a publisher may name another queue.

use std::collections::BTreeSet;

use crate::dispatch::registry::{read_from, takes, types};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventDescriptor, is_control};
use crate::handler::Handler;
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::schedule::Planned;
use crate::shared::Shared;

/// What becomes of an event of a type in a queue.
enum Fate<'a> {
    /// A handler takes it there, or no handler here takes it anywhere.
    Fine,
    /// No handler takes it there, although this application consumes the queue. `taker` takes it from
    /// another queue.
    Dies { taker: &'a Handler },
    /// No handler here takes it there, but the queue may be consumed by another application.
    Elsewhere { taker: &'a Handler },
}

impl Shared {
    /// Refuses events that can only die, and warns of events that die unless a publisher names another
    /// queue.
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
            let handler = &taker.name;
            let from = read_from(taker);
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

    /// Whether there was a warning about a handler when the application was built.
    pub(crate) fn has_warned_of(&self, handler: &Handler) -> bool {
        !self.config.subscribe && !self.unreached(handler).is_empty()
    }

    /// The event types of a handler that do not reach it: they go to a queue where no handler here takes
    /// them, unless a publisher names another queue. With that queue.
    fn unreached(&self, handler: &Handler) -> Vec<(&'static str, QueueName)> {
        // Ticks are checked with their schedule.
        if handler.schedule.is_some() {
            return Vec::new();
        }
        types(handler)
            .iter()
            .filter(|event| !is_control(event.type_name))
            .filter_map(|event| Some((event.type_name, self.published_to(event)?)))
            .filter(|(event_type, queue)| !matches!(self.fate(queue, event_type), Fate::Fine))
            .collect()
    }

    /// The queue of an event whose publisher names none. An error of the user's own routing function is
    /// left to the time when an event is published.
    fn published_to(&self, event: &EventDescriptor) -> Option<QueueName> {
        self.services.queue_of(event.type_name, event.queue).ok()
    }

    /// The queues from which handlers of this program take events: each that a handler has to itself, each
    /// to which the types are published that the others take, and the application's for those that take
    /// any type. At least the application's.
    pub(crate) fn queues(&self) -> BTreeSet<QueueName> {
        let mut queues = BTreeSet::new();
        for handler in self.dispatcher.registry.handlers() {
            match &handler.queue {
                // Checked when the application was built.
                Some(own) => queues.extend(QueueName::new(own)),
                None if types(handler).is_empty() => {
                    queues.insert(self.config.queue.clone());
                }
                None => {
                    let taken = types(handler).iter();
                    let events = taken.filter(|event| !is_control(event.type_name));
                    queues.extend(events.filter_map(|event| self.published_to(event)));
                }
            }
        }

        if queues.is_empty() {
            queues.insert(self.config.queue.clone());
        }
        queues
    }

    /// The queues that routes and schedules of this application fill.
    pub(crate) fn filled_queues(&self) -> BTreeSet<QueueName> {
        let routed = self.config.event_routes.iter().map(|(_, queue)| queue);
        let kept = self.services.engines.routes.keys();
        let scheduled = self.schedules.planned.iter().map(|planned| &planned.queue);
        routed.chain(kept).chain(scheduled).cloned().collect()
    }

    fn fate(&self, queue: &QueueName, event_type: &str) -> Fate<'_> {
        let registry = &self.dispatcher.registry;
        let mut handlers = registry.of(queue).iter();
        if handlers.any(|handler| takes(handler, event_type)) {
            return Fate::Fine;
        }

        // A catch-all handler is no reason to expect the event: it takes whatever comes.
        let taker = registry
            .handlers()
            .iter()
            .find(|handler| !types(handler).is_empty() && takes(handler, event_type));
        let Some(taker) = taker else {
            return Fate::Fine;
        };

        // Other queues may be consumed by other applications.
        let is_ours = *queue == self.config.queue || registry.owners(queue).is_some();
        if is_ours {
            Fate::Dies { taker }
        } else {
            Fate::Elsewhere { taker }
        }
    }
}

/// What to write in the code so that a handler gets its events.
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
