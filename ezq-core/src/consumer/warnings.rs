//! Warnings of what looks like a mistake when a consumer starts. They are no errors: each of these
//! may be intended.

use std::collections::BTreeMap;

use crate::dispatch::registry::{handler_and_queue, types};
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

    // A broadcast comes to every subscribed queue, wherever else its type is published to. A handler
    // with a queue of its own was checked when the application was built.
    if !subscribes && registry.owners(queue).is_none() {
        warn_of_other_queues(app, queue);
    }
}

fn warn_of_no_handler(app: &Shared, queue: &QueueName) {
    let all = app.dispatcher.registry.handlers();
    if all.iter().all(|handler| handler.takes_control()) {
        return warn!(
            %queue,
            "the application has no handler: `#[on_event]` makes one. A library's handlers are \
             found only if the program names the library, as in `use my_handlers as _;`"
        );
    }

    // The application has warned of some handlers already: each is named once.
    let others: Vec<String> = all
        .iter()
        .filter(|handler| !app.has_warned_of(handler))
        .map(|handler| handler_and_queue(handler))
        .collect();
    let others = (!others.is_empty()).then(|| others.join(", "));
    warn!(%queue, others, "no handler takes events of this queue: they become dead letters");
}

/// Warns if nothing that this application publishes by itself comes to the queue. If only some of
/// its types go elsewhere, another process may well consume that queue.
fn warn_of_other_queues(app: &Shared, queue: &QueueName) {
    let registry = &app.dispatcher.registry;
    let events = registry
        .of(queue)
        .iter()
        .filter(|handler| !app.has_warned_of(handler))
        .flat_map(|handler| types(handler))
        .filter(|event| !is_control(event.type_name));

    let mut elsewhere = BTreeMap::new();
    for event in events {
        match app.services.queue_of(event.type_name, event.queue) {
            Ok(destination) if destination != *queue => {
                elsewhere.insert(event.type_name, destination);
            }
            // Something comes here, or publishing it will show what is wrong.
            _ => return,
        }
    }
    if elsewhere.is_empty() {
        return;
    }

    let published: Vec<String> = elsewhere
        .iter()
        .map(|(name, queue)| format!("`{name}` to `{queue}`"))
        .collect();
    warn!(
        %queue, published = published.join(", "),
        "the events of its handlers are published to other queues: consume those, or route the \
         events by `#[event(queue = \"...\")]`, `EZQ_ROUTES` or `EZQ_QUEUE`"
    );
}
