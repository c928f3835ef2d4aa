//! The queue of an event whose publisher names none, by the event's type.
//!
//! The first of these decides: the application's function, the configured patterns, the type itself.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::event::is_control;
use crate::event::pattern::Pattern;
use crate::message::queue_name::QueueName;
use crate::text::panic_text;

type RouteFn = Arc<dyn Fn(&str) -> Result<Option<QueueName>> + Send + Sync>;

/// The routes of an application.
#[derive(Clone, Default)]
pub(crate) struct Routing {
    pub(crate) function: Option<RouteFn>,
    patterns: Vec<(Pattern, QueueName)>,
}

impl Routing {
    /// With the configured patterns.
    pub(crate) fn with(self, patterns: Vec<(Pattern, QueueName)>) -> Self {
        Self { patterns, ..self }
    }

    /// The queue that a type is routed to, if any. Control events are never routed: each stops the
    /// consumers of the queue that it is published to.
    pub(crate) fn queue(&self, event_type: &str) -> Result<Option<QueueName>> {
        if is_control(event_type) {
            return Ok(None);
        }

        if let Some(function) = &self.function {
            // The user's code. It may be called while a handler's outcome is decided, which a panic
            // must not prevent.
            let routed = catch_unwind(AssertUnwindSafe(|| function(event_type)));
            let routed = routed.map_err(|panic| {
                let why = panic_text(&*panic);
                let text = format!("the function that routes `{event_type}` panicked: {why}");
                Error::new(ErrorKind::Panicked, text)
            })??;
            if routed.is_some() {
                return Ok(routed);
            }
        }

        let found = self
            .patterns
            .iter()
            .find(|(pattern, _)| pattern.matches(event_type));
        Ok(found.map(|(_, queue)| queue.clone()))
    }
}

impl fmt::Debug for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routing")
            .field("function", &self.function.is_some())
            .field("patterns", &self.patterns)
            .finish()
    }
}

/// Reads the routes of a configuration, such as `order.*=orders,user.#=users`.
pub(crate) fn read(text: &str) -> Result<Vec<(Pattern, QueueName)>, String> {
    text.split(',')
        .filter(|part| !part.trim().is_empty())
        .map(read_route)
        .collect()
}

fn read_route(text: &str) -> Result<(Pattern, QueueName), String> {
    let (pattern, queue) = text.split_once('=').ok_or("write it as `order.*=orders`")?;
    let pattern = Pattern::new(pattern.trim()).map_err(|error| error.to_string())?;
    let queue = QueueName::new(queue.trim()).map_err(|error| error.to_string())?;
    Ok((pattern, queue))
}
