//! An application that counts the events that it handles, and works a queue off while time is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ezq::engine::Engine as _;
use ezq::message::Retention;
use ezq::prelude::*;
use ezq::{Handler, QueueName};
use serde_json::{Map, Value, json};

use crate::check::check;
use crate::database::Database;
use crate::error::Result;
use crate::pairs::Run;
use crate::payload::Payload;
use crate::queues::{Template, count, drop_queue};

/// How many events are handled at once, unless a case says otherwise.
pub(crate) const CONCURRENCY: usize = 64;

/// An application, and the count of events that its handlers saw.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) ezq: Ezq,
    pub(crate) handled: Arc<AtomicU64>,
}

/// How a queue is worked off.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) queue: String,
    pub(crate) concurrency: usize,
    pub(crate) retention: Retention,
}

impl Job {
    pub(crate) fn new(case: &str, side: &str, n: usize) -> Self {
        Self {
            queue: format!("bench_{case}_{side}_{n}"),
            concurrency: CONCURRENCY,
            retention: Retention::Delete,
        }
    }
}

impl Application {
    /// An application with a single handler, which counts with the given counter.
    pub(crate) async fn open(
        url: &str,
        handler: impl FnOnce(Arc<AtomicU64>) -> Handler,
    ) -> Result<Self> {
        let handled = Arc::new(AtomicU64::new(0));
        let handler = handler(Arc::clone(&handled));
        let builder = Ezq::builder()
            .database_url(url)
            .without_discovered_handlers();
        Ok(Self {
            ezq: builder.register(handler).connect().await?,
            handled,
        })
    }

    /// An application whose handler counts and does nothing else.
    pub(crate) async fn counting(url: &str) -> Result<Self> {
        Self::open(url, |counter| {
            Handler::on("noop", move |_: Payload| {
                // A count alone, which nothing else is ordered by.
                counter.fetch_add(1, Ordering::Relaxed);
                std::future::ready(())
            })
        })
        .await
    }

    /// Works off a copy of a template, and checks that each event was handled once and is gone.
    pub(crate) async fn work_off(&self, template: &Template, job: Job) -> Result<Run> {
        self.work_off_by(template, job, 1).await
    }

    /// The same for an application with several handlers of each event.
    pub(crate) async fn work_off_by(
        &self,
        template: &Template,
        job: Job,
        handlers: usize,
    ) -> Result<Run> {
        let Self { ezq, handled } = self;
        let queue = QueueName::new(&job.queue)?;
        // Before the queue is filled: what counts is the retention at the acknowledgement.
        ezq.pgmq().set_retention(&queue, job.retention)?;
        ezq.pgmq().ensure_queue(&queue).await?;
        template.copy(ezq, &job.queue).await?;
        handled.store(0, Ordering::Relaxed);

        let consumer = ezq
            .consumer()
            .queue(&queue)
            .concurrency(job.concurrency)
            .until_idle();
        let started = Instant::now();
        let report = consumer.run().await?;
        let took = started.elapsed();

        let events = template.due;
        check(
            "the number of events that ezq reports",
            report.counts.handled,
            events,
        )?;

        let seen = handled.load(Ordering::Relaxed);
        check(
            "the number of events that the handlers saw",
            seen,
            events * handlers,
        )?;

        // ezq could win by deleting where it should archive, so the archive is counted as well.
        let kept = count(ezq, &format!("pgmq.a_{queue}")).await?;
        let wanted = if job.retention.is_archive() {
            events
        } else {
            0
        };
        check("the number of events in the archive", kept, wanted)?;

        // Only what is due tomorrow may be left.
        drop_queue(ezq, &job.queue, template.later).await?;
        drop_queue(ezq, &queue.dead_letters(), 0).await?;
        Ok(Run { events, took })
    }

    /// Drops the template and closes the application. Returns the settings under which it ran.
    pub(crate) async fn close(
        self,
        database: &Database,
        template: Template,
    ) -> Result<Map<String, Value>> {
        let mut settings = database.settings().await?;
        settings.insert("events".into(), json!(template.due));
        settings.insert(
            "body_bytes".into(),
            json!(template.body_bytes(&self.ezq).await?),
        );
        settings.insert("concurrency".into(), json!(CONCURRENCY));

        template.drop(&self.ezq).await?;
        self.ezq.close().await;
        Ok(settings)
    }
}
