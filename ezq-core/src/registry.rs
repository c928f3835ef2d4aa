//! Which handlers take which event type; checked once, at start.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::event::is_control;
use crate::handler::{Handler, Invoke, Subscription};
use crate::{Error, ErrorKind, EventDescriptor, HandlerName, Result};

/// The handlers of an application.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    handlers: Vec<Arc<Handler>>,
    by_type: HashMap<&'static str, Vec<Arc<Handler>>>,
    catch_all: Vec<Arc<Handler>>,
}

impl Registry {
    /// Sorts handlers by the types they take, in their stated order.
    pub(crate) fn new(mut handlers: Vec<Handler>) -> Result<Self> {
        handlers.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
        valid_handlers(&handlers)?;
        unique_events(&handlers)?;
        let mut registry = Self::default();
        for handler in handlers.into_iter().map(Arc::new) {
            if matches!(handler.subscription, Subscription::All) {
                registry.catch_all.push(Arc::clone(&handler));
            }
            registry.handlers.push(handler);
        }
        let names: Vec<&'static str> = registry.descriptors().flat_map(names).collect();
        for name in names {
            let takes = |handler: &&Arc<Handler>| match &handler.subscription {
                Subscription::Types(types) => types.iter().any(|event| event.matches(name)),
                Subscription::All => !is_control(name),
            };
            let takers = registry.handlers.iter().filter(takes).cloned().collect();
            registry.by_type.insert(name, takers);
        }
        Ok(registry)
    }

    /// The handlers of a type, sorted by order, then name. Catch-alls do not see control events.
    pub(crate) fn find(&self, type_name: &str) -> &[Arc<Handler>] {
        match self.by_type.get(type_name) {
            Some(handlers) => handlers,
            None if is_control(type_name) => &[],
            None => &self.catch_all,
        }
    }

    pub(crate) fn handlers(&self) -> &[Arc<Handler>] {
        &self.handlers
    }

    fn descriptors(&self) -> impl Iterator<Item = EventDescriptor> {
        self.handlers.iter().flat_map(|handler| types(handler)).copied()
    }
}

fn types(handler: &Handler) -> &[EventDescriptor] {
    match &handler.subscription {
        Subscription::Types(types) => types,
        Subscription::All => &[],
    }
}

fn names(event: EventDescriptor) -> impl Iterator<Item = &'static str> {
    std::iter::once(event.type_name).chain(event.aliases.iter().copied())
}

fn valid_handlers(handlers: &[Handler]) -> Result<()> {
    let mut seen = BTreeMap::<&HandlerName, ()>::new();
    for handler in handlers {
        let name = handler.name.as_str();
        if name.is_empty() || name.contains(char::is_control) {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!(
                    "a handler has the name `{}`: messages keep their progress under it, so give it \
                     one without control characters",
                    name.escape_debug()
                ),
            ));
        }
        if handler.transactions > 1 {
            let why = format!("the handler `{name}` takes its transaction twice: one is enough");
            return Err(Error::new(ErrorKind::Configuration, why));
        }
        let is_batch = matches!(handler.invoke, Invoke::Batch(_));
        let controls = types(handler).iter().any(|event| is_control(event.type_name));
        if controls && (is_batch || handler.transactions > 0) {
            let why = format!(
                "the handler `{name}` takes a control event, which is settled whatever it does: it \
                 can take neither a transaction nor batches"
            );
            return Err(Error::new(ErrorKind::Configuration, why));
        }
        if handler.options.batch_size == Some(0) {
            let why = format!("`batch_size` of the handler `{name}` must be at least 1");
            return Err(Error::new(ErrorKind::Configuration, why));
        }
        if handler.options.concurrency == Some(0) {
            let why = format!("`concurrency` of the handler `{name}` must be at least 1");
            return Err(Error::new(ErrorKind::Configuration, why));
        }
        if seen.insert(&handler.name, ()).is_some() {
            return Err(Error::new(
                ErrorKind::DuplicateHandler,
                format!(
                    "two handlers have the name `{}`: messages keep their progress under it, so give \
                     one of them another with `name = \"...\"`",
                    handler.name
                ),
            ));
        }
    }
    Ok(())
}

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
