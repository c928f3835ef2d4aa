//! What is kept of an event once it is handled, and what is told of its life.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ezq::admin::{CopyState, DeadLetterFilter};
use ezq::codec::WireFormat;
use ezq::engine::Engine;
use ezq::memory::MemoryEngine;
use ezq::message::{HandlerState, Retention};
use ezq::prelude::*;
use ezq::{Config, ErrorKind, Handler, QueueName};

use crate::kit::{Numbered, Work, app, drain, queue};

/// A handler that fails until it is told to succeed.
fn failing() -> (Handler, Arc<AtomicBool>) {
    let succeeds = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&succeeds);
    let handler = Handler::on("shop::mail", move |_: Numbered| {
        let outcome = match flag.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(HandlerError::from("no such address")),
        };
        std::future::ready(outcome)
    });
    (handler, succeeds)
}

async fn state(ezq: &Ezq, event_id: &str) -> CopyState {
    let history = ezq.history(event_id).await.unwrap();
    assert_eq!(history.copies.len(), 1, "{history}");
    history.copies[0].state.clone()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
async fn an_event_is_told_from_its_publication_to_the_archive() {
    let queue = queue();
    let (handler, succeeds) = failing();
    let builder = app(&queue)
        .register(handler)
        .retention(&queue, Retention::ARCHIVE);

    let ezq = builder
        .configure(|config| config.retry.max_attempts = 2)
        .connect()
        .await
        .unwrap();

    let event = ezq
        .publish(&Numbered { n: 1 })
        .after(Duration::from_secs(3600))
        .await
        .unwrap();
    let id = event.event_id.as_str();
    assert!(matches!(state(&ezq, id).await, CopyState::Waiting { .. }));

    ezq.reschedule(&event, ezq::engine::Due::Now).await.unwrap();
    drain(&ezq).await;

    let CopyState::Dead {
        reason: Some(reason),
        letter,
        ..
    } = state(&ezq, id).await
    else {
        panic!("{}", ezq.history(id).await.unwrap());
    };
    assert_eq!(
        (reason.attempts, reason.error.as_str()),
        (2, "no such address")
    );

    let dead = ezq.history(id).queue(&queue).await.unwrap();
    let mark = dead.copies[0].handlers.iter().next().unwrap().1;
    assert_eq!(
        (mark.state, mark.attempts, mark.errors.len()),
        (HandlerState::Dead, 2, 2)
    );
    assert_eq!(dead.copies[0].event_type.as_deref(), Some("test.numbered"));

    let letters = ezq.dead_letters(&queue).unwrap();
    letters.redrive(&letter).await.unwrap();
    succeeds.store(true, Ordering::Relaxed);

    let told = ezq.history(id).await.unwrap().to_string();
    assert!(
        told.contains("not delivered yet since it was redriven, ready since"),
        "{told}"
    );

    drain(&ezq).await;
    let archived = ezq.history(id).await.unwrap();
    let copy = &archived.copies[0];
    assert!(
        matches!(copy.state, CopyState::Archived { .. }),
        "{archived}"
    );
    assert_eq!(copy.published_at, dead.copies[0].published_at);
    assert_eq!(copy.died_before.as_ref().unwrap().reason, Some(reason));

    let told = archived.to_string();
    assert!(
        told.contains("since it was redriven, handled and archived"),
        "{told}"
    );
    assert!(
        told.contains("had died") && told.contains("no such address"),
        "{told}"
    );
    assert!(
        letters
            .list(&DeadLetterFilter::all(), 1)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn nothing_is_kept_of_an_event_unless_that_is_said() {
    let queue = queue();
    let (handler, _) = Work::quick();
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    let event = ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;

    let history = ezq.history(event.event_id).await.unwrap();
    assert!(history.is_empty());
    assert!(
        history.to_string().contains("Retention::ARCHIVE"),
        "{history}"
    );
}

#[tokio::test]
async fn an_event_in_the_flat_form_is_told_by_the_id_its_handlers_see() {
    let queue = queue();
    let ids = crate::kit::Log::new();
    let seen = ids.clone();
    let handler = Handler::on("ids", move |_: Numbered, context: Context| {
        seen.push(context.event_id().to_owned());
        std::future::ready(())
    });

    let builder = app(&queue)
        .register(handler)
        .retention(&queue, Retention::ARCHIVE);
    let builder = builder.configure(|config| config.wire = WireFormat::Flat);
    let ezq = builder.connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;

    let id = ids.take().remove(0);
    assert!(matches!(state(&ezq, &id).await, CopyState::Archived { .. }));
}

#[tokio::test]
async fn an_end_is_not_archived_and_what_it_ends_is() {
    let queue = queue();
    let (handler, _) = Work::quick();
    let builder = app(&queue)
        .register(handler)
        .retention(&queue, Retention::ARCHIVE);
    let ezq = builder.connect().await.unwrap();
    let event = ezq.publish(&Numbered { n: 1 }).await.unwrap();
    let end = ezq.publish(&End::default()).await.unwrap();

    ezq.consumer().run().await.unwrap();
    assert!(matches!(
        state(&ezq, &event.event_id).await,
        CopyState::Archived { .. }
    ));
    assert!(ezq.history(end.event_id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_retention_that_makes_no_sense_fails_when_the_application_is_built() {
    let built = |queue: &str, retention| {
        let builder = ezq::App::builder().without_discovered_handlers();
        builder
            .retention(queue, retention)
            .build(MemoryEngine::new())
            .map(|_| ())
            .unwrap_err()
    };

    let error = built("Orders!", Retention::ARCHIVE);
    assert_eq!(error.kind(), ErrorKind::InvalidQueueName);
    let error = built("orders", Retention::archive_for(Duration::ZERO));
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(Config::default().retention.is_empty());
}

/// An engine that can do only what must be.
struct Plain(MemoryEngine, ezq::engine::Capabilities);

#[ezq::async_trait]
impl Engine for Plain {
    fn capabilities(&self) -> &ezq::engine::Capabilities {
        &self.1
    }
    async fn ensure_queue(&self, queue: &QueueName) -> ezq::Result<()> {
        self.0.ensure_queue(queue).await
    }
    async fn publish(
        &self,
        messages: Vec<ezq::engine::Outgoing>,
    ) -> ezq::Result<Vec<ezq::engine::PublishOutcome>> {
        self.0.publish(messages).await
    }
    async fn lease(&self, request: ezq::engine::LeaseRequest) -> ezq::Result<ezq::engine::Leased> {
        self.0.lease(request).await
    }
    async fn settle(
        &self,
        queue: &QueueName,
        settlements: Vec<(ezq::engine::Receipt, ezq::engine::Settle)>,
    ) -> ezq::Result<Vec<ezq::engine::SettleOutcome>> {
        self.0.settle(queue, settlements).await
    }
    async fn extend(
        &self,
        queue: &QueueName,
        receipts: &[ezq::engine::Receipt],
        ttl: Duration,
    ) -> ezq::Result<Vec<ezq::engine::ExtendOutcome>> {
        self.0.extend(queue, receipts, ttl).await
    }
    async fn purge(&self, queue: &QueueName) -> ezq::Result<u64> {
        self.0.purge(queue).await
    }
    async fn stats(&self, queue: &QueueName) -> ezq::Result<ezq::engine::QueueStats> {
        self.0.stats(queue).await
    }
}

fn plain() -> Plain {
    Plain(MemoryEngine::new(), ezq::engine::Capabilities::new("plain"))
}

#[tokio::test]
async fn an_engine_without_archive_or_history_says_so() {
    let orders = QueueName::new("orders").unwrap();
    let builder = || ezq::App::builder().without_discovered_handlers();
    let refused = builder()
        .retention(&orders, Retention::ARCHIVE)
        .build(plain())
        .map(|_| ());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);

    let app = builder().build(plain()).unwrap();
    let unable = app.history("e").await.unwrap_err();
    assert_eq!(unable.kind(), ErrorKind::Unsupported);

    // Beside one that can, it is only named.
    let app = builder()
        .named_engine("log", plain())
        .queue_engine(&orders, "log")
        .build(MemoryEngine::new())
        .unwrap();

    let event = app.publish(&Numbered { n: 1 }).await.unwrap();
    let history = app.history(&event.event_id).await.unwrap();
    assert_eq!(
        (history.copies.len(), history.unread.len()),
        (1, 1),
        "{history}"
    );
    assert!(
        history
            .to_string()
            .contains("not looked into: the engine `plain`"),
        "{history}"
    );

    let unable = app
        .history(&event.event_id)
        .queue(&orders)
        .await
        .unwrap_err();
    assert_eq!(unable.kind(), ErrorKind::Unsupported);
}
