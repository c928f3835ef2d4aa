//! Where an event goes whose publisher names no queue, by its type: a function of the application's
//! first, then the configured patterns, then what the type itself says.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::event::is_control;
use crate::event::pattern::Pattern;
use crate::message::queue_name::QueueName;
use crate::text::panic_text;

type RouteFn = Arc<dyn Fn(&str) -> Option<QueueName> + Send + Sync>;

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

    /// The queue of a type, if one is said for it. Control events stop the consumers of a queue, and
    /// are routed by nothing.
    pub(crate) fn queue(&self, event_type: &str) -> Result<Option<QueueName>> {
        if is_control(event_type) {
            return Ok(None);
        }
        if let Some(function) = &self.function {
            // It is the user's code, and may be called while a handler's outcome is drawn.
            let routed = catch_unwind(AssertUnwindSafe(|| function(event_type)));
            let panicked = |panic: Box<dyn std::any::Any + Send>| {
                let why = panic_text(&*panic);
                let text = format!("the function that routes `{event_type}` panicked: {why}");
                Error::new(ErrorKind::Configuration, text)
            };
            if let Some(queue) = routed.map_err(panicked)? {
                return Ok(Some(queue));
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

/// Reads `order.*=orders,user.#=users`.
pub(crate) fn read(text: &str) -> Result<Vec<(Pattern, QueueName)>, String> {
    let route = |part: &str| {
        let (pattern, queue) = part.split_once('=').ok_or("write it as `order.*=orders`")?;
        let pattern = Pattern::new(pattern.trim()).map_err(|error| error.to_string())?;
        let queue = QueueName::new(queue.trim()).map_err(|error| error.to_string())?;
        Ok((pattern, queue))
    };
    text.split(',')
        .filter(|part| !part.trim().is_empty())
        .map(route)
        .collect()
}
