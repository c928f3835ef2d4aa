//! Gives events the context of a span of the [`Tracer`], if the application has one.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::message::message_id::MessageId;
use crate::observe::tracer::{PublishSpan, Publishing, Tracer};
use crate::publish::draft::Draft;
use crate::publish::options::PublishOptions;
use crate::publish::published::Published;
use crate::publish::publisher::Publisher;

/// The span of one call; nothing without a tracer.
#[derive(Default)]
pub(crate) struct Traced(Option<Box<dyn PublishSpan>>);

impl Publisher {
    /// Begins the span of a call that publishes one event, which gets its context.
    pub(crate) fn trace(&self, draft: &mut Draft, options: &PublishOptions) -> Traced {
        let Some(tracer) = &self.services.tracer else {
            return Traced::default();
        };
        // An event whose queue cannot be told is refused when it is written.
        let queue = self.queue_of(draft, options).ok();
        let publishing = Publishing::new(queue.as_ref(), Some(draft.event_type()), 1);
        let span = tracer.publish(&publishing);
        draft.trace = Some(Arc::new(span.headers()));
        Traced(Some(span))
    }

    /// The same for an event that is broadcast.
    pub(crate) fn trace_broadcast(&self, draft: &mut Draft) -> Traced {
        let Some(tracer) = &self.services.tracer else {
            return Traced::default();
        };
        let span = tracer.publish(&Publishing::new(None, Some(draft.event_type()), 1));
        draft.trace = Some(Arc::new(span.headers()));
        Traced(Some(span))
    }

    /// The same for several events, which all get its context.
    pub(crate) fn trace_all<'a>(
        &self,
        events: impl Iterator<Item = (&'a mut Draft, Result<&'a PublishOptions, &'a Error>)>,
        options: &PublishOptions,
    ) -> Traced {
        let Some(tracer) = &self.services.tracer else {
            return Traced::default();
        };

        let mut drafts = Vec::new();
        let mut queues = Vec::new();
        for (draft, own) in events {
            // An event's own queue goes before that of the call.
            let own = own.ok().filter(|own| own.queue.is_some());
            queues.extend(self.queue_of(draft, own.unwrap_or(options)));
            drafts.push(draft);
        }
        let first = queues.first();
        let queue = first.filter(|first| queues.iter().all(|queue| queue == *first));

        // One span for the call: a span for each event would cost more than storing it.
        let span = tracer.publish(&Publishing::new(queue, None, drafts.len()));
        let headers = Arc::new(span.headers());
        for draft in drafts {
            draft.trace = Some(Arc::clone(&headers));
        }
        Traced(Some(span))
    }
}

impl Traced {
    /// The call has published one event, or failed.
    pub(crate) fn end(self, result: Result<&Published, &Error>) {
        let message_id = result.ok().map(|published| published.stored().0);
        self.end_with(message_id, result.err());
    }

    /// The call has published several events, or failed.
    pub(crate) fn end_all(self, result: Result<&[Result<Published>], &Error>) {
        let outcomes = result.unwrap_or_default();
        // Some may be stored: the span says that not all are.
        let failed = outcomes.iter().find_map(|outcome| outcome.as_ref().err());
        self.end_with(None, result.err().or(failed));
    }

    pub(crate) fn end_with(self, message_id: Option<&MessageId>, error: Option<&Error>) {
        if let Some(mut span) = self.0 {
            span.end(message_id, error);
        }
    }
}

impl std::fmt::Debug for dyn Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tracer")
    }
}
