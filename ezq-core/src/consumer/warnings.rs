//! What looks like a mistake when a consumer starts: told once, as a warning, since each of these
//! may be meant.

use crate::dispatch::registry::place;
use std::collections::BTreeMap;

use crate::dispatch::registry::types;
use crate::event::is_control;
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::shared::Shared;

/// Warns of what keeps the consumer of a queue from handling anything.
pub(crate) fn warn_of_mistakes(app: &Shared, queue: &QueueName, subscribes: bool) {
    let registry = &app.dispatcher.registry;
    let handlers = registry.of(queue);
    if handlers.iter().all(|handler| handler.takes_control()) {
        return warn_of_no_handler(app, queue);
    }
    // What is broadcast comes to every subscribed queue, wherever else its type goes. What a handler
    // with a queue of its own does not get was warned of when the application was built.
    if !subscribes && registry.owners(queue).is_none() {
        warn_of_other_queues(app, queue);
    }
}

fn warn_of_no_handler(app: &Shared, queue: &QueueName) {
    let all = app.dispatcher.registry.handlers();
    if all.iter().all(|handler| handler.takes_control()) {
        return warn!(
            %queue,
            "the application has no handler: `#[on_event]` makes one. The handlers of a library are \
             found only where the program names it, as in `use my_handlers as _;`"
        );
    }
    // Each handler is named in one warning.
    let others = all.iter().filter(|handler| !app.has_warned_of(handler));
    let others: Vec<String> = others.map(|handler| place(handler)).collect();
    let others = (!others.is_empty()).then(|| others.join(", "));
    warn!(%queue, others, "no handler takes events of this queue: what comes ends as a dead letter");
}

/// Nothing that this application publishes by itself comes to the queue. If only some of its types
/// went elsewhere, another process might run the consumer of that queue.
fn warn_of_other_queues(app: &Shared, queue: &QueueName) {
    let mut elsewhere = BTreeMap::new();
    let handlers = app.dispatcher.registry.of(queue).iter();
    let handlers = handlers.filter(|handler| !app.has_warned_of(handler));
    let events = handlers.flat_map(|handler| types(handler));
    for event in events.filter(|event| !is_control(event.type_name)) {
        match app.services.queue_of(event.type_name, event.queue) {
            Ok(destination) if destination != *queue => {
                elsewhere.insert(event.type_name, destination);
            }
            // Something comes here, or publishing it will tell what is wrong.
            _ => return,
        }
    }
    if elsewhere.is_empty() {
        return;
    }
    let told = elsewhere
        .iter()
        .map(|(name, queue)| format!("`{name}` to `{queue}`"));
    let published = told.collect::<Vec<_>>().join(", ");
    warn!(
        %queue, published,
        "what its handlers take is published to other queues: consume these, or say where the events \
         go, by `#[event(queue = \"...\")]`, `EZQ_ROUTES` or `EZQ_QUEUE`"
    );
}
