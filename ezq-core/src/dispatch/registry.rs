//! Which handlers take which event, by queue, type and version. Handlers that contradict each other
//! are refused at start.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::HashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::event::attributes::check_type;
use crate::event::envelope::Envelope;
use crate::event::pattern::Pattern;
use crate::event::{EventDescriptor, is_control};
use crate::handler::invoke::Invoke;
use crate::handler::{Handler, HandlerOptions, Subscription};
use crate::message::queue_name::QueueName;
use crate::message::settlement::HandlerName;

/// The handlers of an application.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    handlers: Vec<Arc<Handler>>,
    /// Those that have a queue of their own, by queue.
    own: HashMap<QueueName, Table>,
    /// Those that take their events from every other queue.
    shared: Table,
}

/// The handlers of one queue.
#[derive(Debug, Default)]
struct Table {
    handlers: Vec<Arc<Handler>>,
    by_type: HashMap<&'static str, Takers>,
    /// Those that take every type, or every type that matches a pattern.
    wide: Vec<Arc<Handler>>,
}

/// The handlers that take one type in one queue.
#[derive(Debug, Default)]
struct Takers {
    all: Vec<Arc<Handler>>,
    /// Those that take each version; empty unless handlers take several versions.
    by_version: BTreeMap<u32, Vec<Arc<Handler>>>,
}

impl Takers {
    /// Those of the event's own version, else of the next newer one, else of the newest.
    fn of(&self, envelope: &Envelope) -> &[Arc<Handler>] {
        let Some((_, newest)) = self.by_version.last_key_value() else {
            return &self.all;
        };
        let Ok(version) = envelope.version() else {
            return &self.all;
        };
        self.by_version
            .range(version..)
            .next()
            .map_or(newest, |(_, takers)| takers)
    }
}

impl Registry {
    /// Sorts handlers by queue and type, in their stated order.
    pub(crate) fn new(mut handlers: Vec<Handler>) -> Result<Self> {
        handlers.iter_mut().try_for_each(parse_patterns)?;
        handlers.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
        valid_handlers(&handlers)?;
        valid_events(&handlers)?;
        unique_events(&handlers)?;
        unambiguous_versions(&handlers)?;

        let mut registry = Self::default();
        for handler in handlers.into_iter().map(Arc::new) {
            let table = match &handler.queue {
                Some(queue) => registry.own.entry(QueueName::new(queue)?).or_default(),
                None => &mut registry.shared,
            };
            table.handlers.push(Arc::clone(&handler));
            registry.handlers.push(handler);
        }

        for table in registry.own.values_mut() {
            table.sort();
        }
        registry.shared.sort();
        Ok(registry)
    }

    /// The handlers of an event in a queue, sorted by order, then name. Handlers that do not name a type
    /// see no control events.
    pub(crate) fn find(&self, queue: &QueueName, envelope: &Envelope) -> Cow<'_, [Arc<Handler>]> {
        let table = self.table(queue);
        let type_name = envelope.event_type();
        if let Some(takers) = table.by_type.get(type_name) {
            return Cow::Borrowed(takers.of(envelope));
        }

        let wide = table.wide.iter();
        // Nothing is allocated where all of them take it.
        if wide.clone().all(|handler| takes(handler, type_name)) {
            return Cow::Borrowed(&table.wide);
        }
        let takers = wide.filter(|handler| takes(handler, type_name));
        Cow::Owned(takers.cloned().collect())
    }

    /// Every handler of a queue.
    pub(crate) fn of(&self, queue: &QueueName) -> &[Arc<Handler>] {
        &self.table(queue).handlers
    }

    /// Checks the options of handlers in the configuration.
    ///
    /// # Errors
    /// `Configuration` for a handler that does not exist, or an option that has no effect on it.
    pub(crate) fn check_options(
        &self,
        options: &BTreeMap<HandlerName, HandlerOptions>,
    ) -> Result<()> {
        options.iter().try_for_each(|(name, options)| {
            let handler = self.handlers.iter().find(|handler| handler.name() == name);
            let handler = handler.ok_or_else(|| {
                let text = format!("options are set for a handler `{name}` that does not exist");
                Error::new(ErrorKind::Configuration, text)
            })?;
            valid_options(handler, options)
        })
    }

    pub(crate) fn handlers(&self) -> &[Arc<Handler>] {
        &self.handlers
    }

    /// The handlers that have this queue to themselves; `None` if none has.
    pub(crate) fn owners(&self, queue: &QueueName) -> Option<&[Arc<Handler>]> {
        self.own.get(queue).map(|table| &*table.handlers)
    }

    fn table(&self, queue: &QueueName) -> &Table {
        self.own.get(queue).unwrap_or(&self.shared)
    }
}

impl Table {
    fn sort(&mut self) {
        let wide = self
            .handlers
            .iter()
            .filter(|handler| !matches!(handler.subscription, Subscription::Types(_)));
        self.wide = wide.cloned().collect();

        let events = self
            .handlers
            .iter()
            .flat_map(|handler| types(handler))
            .copied();
        for name in events.flat_map(names).collect::<Vec<&'static str>>() {
            self.by_type.insert(name, self.takers(name));
        }
    }

    fn takers(&self, name: &str) -> Takers {
        let takers = self.handlers.iter().filter(|handler| takes(handler, name));
        let all: Vec<Arc<Handler>> = takers.cloned().collect();
        let versions: BTreeSet<u32> = all.iter().flat_map(|taker| versions(taker, name)).collect();
        if versions.len() < 2 {
            return Takers {
                all,
                by_version: BTreeMap::new(),
            };
        }

        let mut by_version = BTreeMap::new();
        for version in versions {
            // One that names no types takes every version.
            let takers = all.iter().filter(|taker| {
                let is_wide = types(taker).is_empty();
                is_wide || self::versions(taker, name).any(|taken| taken == version)
            });
            by_version.insert(version, takers.cloned().collect());
        }
        Takers { all, by_version }
    }
}

/// The versions in which a handler takes a type.
fn versions(handler: &Handler, name: &str) -> impl Iterator<Item = u32> {
    types(handler)
        .iter()
        .filter(move |event| event.matches(name))
        .map(|event| event.version)
}

/// Where a handler takes its events from, in words.
pub(crate) fn read_from(handler: &Handler) -> String {
    match &handler.queue {
        Some(queue) => format!("the queue `{queue}`"),
        None => "the queues that no handler has to itself".to_owned(),
    }
}

/// A handler and where it takes its events from, in words.
pub(crate) fn handler_and_queue(handler: &Handler) -> String {
    format!("`{}` of {}", handler.name, read_from(handler))
}

/// The types that a handler names; none if it takes every type, or those of patterns.
pub(crate) fn types(handler: &Handler) -> &[EventDescriptor] {
    match &handler.subscription {
        Subscription::Types(types) => types,
        Subscription::All | Subscription::Patterns(_) => &[],
    }
}

/// Whether a handler takes events of a type. Only handlers that name control events see them.
pub(crate) fn takes(handler: &Handler, name: &str) -> bool {
    match &handler.subscription {
        Subscription::Types(types) => types.iter().any(|event| event.matches(name)),
        Subscription::All => !is_control(name),
        Subscription::Patterns(patterns) => {
            !is_control(name) && patterns.iter().any(|pattern| pattern.matches(name))
        }
    }
}

/// Parses the patterns of a handler into its subscription.
fn parse_patterns(handler: &mut Handler) -> Result<()> {
    if handler.patterns.is_empty() {
        return Ok(());
    }
    if matches!(handler.subscription, Subscription::Types(_)) {
        let text = format!(
            "the handler `{}` has a pattern and takes events of its own types: patterns are for \
             handlers of `AnyEvent`",
            handler.name
        );
        return Err(Error::new(ErrorKind::Configuration, text));
    }

    let patterns = handler.patterns.iter().map(|pattern| Pattern::new(pattern));
    handler.subscription = Subscription::Patterns(patterns.collect::<Result<_>>()?);
    Ok(())
}

/// The type name and its aliases.
fn names(event: EventDescriptor) -> impl Iterator<Item = &'static str> {
    std::iter::once(event.type_name).chain(event.aliases.iter().copied())
}

/// Refuses options that have no effect, from the handler's own code or the configuration.
fn valid_options(handler: &Handler, options: &HandlerOptions) -> Result<()> {
    let name = &handler.name;
    let at_least_one = [
        ("batch_size", options.batch_size == Some(0)),
        ("concurrency", options.concurrency == Some(0)),
        ("max_attempts", options.max_attempts == Some(0)),
    ];
    if let Some((option, _)) = at_least_one.iter().find(|(_, is_zero)| *is_zero) {
        let why = format!("`{option}` of the handler `{name}` must be at least 1");
        return Err(Error::new(ErrorKind::Configuration, why));
    }

    let is_batch = matches!(handler.invoke, Invoke::Batch(_));
    if !is_batch && (options.batch_size.is_some() || options.batch_wait.is_some()) {
        let why = format!(
            "the handler `{name}` takes one event at a time: `batch_size` and `batch_wait` are for \
             handlers of `Batch`"
        );
        return Err(Error::new(ErrorKind::Configuration, why));
    }
    Ok(())
}

/// Refuses names, transactions and options that handlers cannot have.
fn valid_handlers(handlers: &[Handler]) -> Result<()> {
    let mut seen = BTreeMap::<&HandlerName, ()>::new();
    for handler in handlers {
        let name = handler.name.as_str();
        if name.is_empty() || name.contains(char::is_control) {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "a handler has the name `{}`: messages keep their progress under it, so give \
                     it one without control characters",
                    name.escape_debug()
                ),
            ));
        }

        if handler.transactions > 1 {
            let why = format!("the handler `{name}` takes its transaction twice: one is enough");
            return Err(Error::new(ErrorKind::Configuration, why));
        }
        let is_batch = matches!(handler.invoke, Invoke::Batch(_));
        if handler.takes_control() && (is_batch || handler.transactions > 0) {
            let why = format!(
                "the handler `{name}` takes a control event, which is settled whatever it does: it \
                 can take neither a transaction nor batches"
            );
            return Err(Error::new(ErrorKind::Configuration, why));
        }
        valid_options(handler, &handler.options)?;

        if seen.insert(&handler.name, ()).is_some() {
            return Err(Error::new(
                ErrorKind::DuplicateHandler,
                format!(
                    "two handlers have the name `{}`: messages keep their progress under it, so \
                     give one of them another with `name = \"...\"`",
                    handler.name
                ),
            ));
        }
    }
    Ok(())
}

/// Refuses an event type that no message can have, and an invalid queue name.
fn valid_events(handlers: &[Handler]) -> Result<()> {
    for event in handlers.iter().flat_map(types) {
        for name in names(*event) {
            check_type(name).map_err(|why| {
                let text = format!(
                    "`{}` has the event type `{}`: {why}",
                    event.rust_type,
                    name.escape_debug()
                );
                Error::new(ErrorKind::Configuration, text)
            })?;
        }
        event.queue.map(QueueName::new).transpose()?;
    }
    Ok(())
}

/// Refuses two Rust types that are the same event in the same version.
fn unique_events(handlers: &[Handler]) -> Result<()> {
    let mut seen = BTreeMap::<(&'static str, u32), EventDescriptor>::new();
    for event in handlers.iter().flat_map(types) {
        for name in names(*event) {
            let other = *seen.entry((name, event.version)).or_insert(*event);
            if other.type_id != event.type_id {
                return Err(Error::new(
                    ErrorKind::DuplicateEvent,
                    format!(
                        "`{}` and `{}` are both the event `{name}` of version {}: give one of them \
                         another name with `#[event(type = \"...\")]` or another `version`",
                        other.rust_type, event.rust_type, event.version
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Refuses a version that one handler of a queue takes as it is, while another handler has it converted
/// to a newer version: both would handle the same event.
fn unambiguous_versions(handlers: &[Handler]) -> Result<()> {
    let taken = handlers
        .iter()
        .flat_map(|handler| types(handler).iter().map(move |event| (handler, event)));
    let converting = taken
        .clone()
        .filter(|(_, event)| event.oldest < event.version);

    for (newer, converted) in converting {
        let versions_converted = converted.oldest..converted.version;
        let ambiguous = taken.clone().find(|(older, event)| {
            older.queue == newer.queue
                && versions_converted.contains(&event.version)
                && names(**event).any(|name| converted.matches(name))
                && !types(newer).iter().any(|own| own.type_id == event.type_id)
        });

        if let Some((older, event)) = ambiguous {
            let text = format!(
                "version {} of `{}` is taken by the handler `{}` as `{}`, and by `{}` as `{}`, \
                 into which it is converted: keep one of the handlers, take both versions in one \
                 `EventSet`, or drop `from` where the newer version is not to be made of the \
                 older",
                event.version,
                event.type_name,
                older.name,
                event.rust_type,
                newer.name,
                converted.rust_type,
            );
            return Err(Error::new(ErrorKind::AmbiguousVersion, text));
        }
    }
    Ok(())
}
