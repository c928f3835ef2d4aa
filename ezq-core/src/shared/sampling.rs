//! Samples the gauges of queues, in one process of all that use a store.
//!
//! The processes elect one through the store. It proves before each sample that it still is the one:
//! a process that lost its connection may have been replaced. Processes that do not sample show zeros,
//! so sums and maxima over all processes are what the one has sampled.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::engine::{Engine, QueueCounts, QueueOverview, Sampler};
use crate::error::{Result, error_chain};
use crate::logging::warn;
use crate::message::queue_name::QueueName;
use crate::observe::metrics::SampledGauges;
use crate::shared::Shared;

/// How far events are counted.
const CAP: u64 = 100_000;

impl Shared {
    /// Samples the queues of the application's own engine until it is dropped, while no other process
    /// does.
    pub(crate) async fn sample_queues(self: Arc<Self>, every: Duration) {
        // Of all consumers of the application one samples; the others wait for it to end.
        let Ok(_permit) = self.telling.sampler.acquire().await else {
            return;
        };
        let Some(mut gauges) = SampledGauges::new() else {
            warn!("`sample_queues` needs the feature `metrics` of ezq: nothing is sampled");
            return std::future::pending().await;
        };
        let engine = &self.services.engines.default;
        let Some(overview) = engine.overview() else {
            let name = engine.capabilities().name;
            warn!("`sample_queues` needs an overview of queues, which the engine `{name}` lacks");
            return std::future::pending().await;
        };

        let mut elected = None;
        let mut unread = BTreeSet::new();
        let mut is_failing = false;
        loop {
            let sampled = self
                .sample(engine, overview, &mut elected, (&mut gauges, &mut unread))
                .await;
            if let Err(error) = &sampled {
                elected = None;
                gauges.clear();
                // An outage lasts for many samples: only the first is logged.
                if !is_failing {
                    warn!(
                        error = error_chain(error),
                        "cannot sample the queues, will try again"
                    );
                }
            }
            is_failing = sampled.is_err();

            // With jitter the processes of a fleet do not ask all at once.
            sleep(every.mul_f64(rand::random_range(0.9..1.0))).await;
        }
    }

    /// Samples once, if this process is elected or can be.
    async fn sample(
        &self,
        engine: &Arc<dyn Engine>,
        overview: &dyn QueueOverview,
        elected: &mut Option<Box<dyn Sampler>>,
        (gauges, unread): (&mut SampledGauges, &mut BTreeSet<QueueName>),
    ) -> Result<()> {
        match elected {
            Some(sampler) => sampler.confirm().await?,
            None => *elected = overview.elect_sampler().await?,
        }
        if elected.is_none() {
            return Ok(());
        }

        let mut queues = overview.queues().await?;
        queues.retain(|queue| Arc::ptr_eq(self.services.engines.of(queue), engine));
        let paused: Vec<QueueName> = match engine.pauses() {
            Some(pauses) => {
                let pauses = pauses.list().await?.into_iter();
                let whole = pauses.filter(|pause| pause.target.handler.is_none());
                whole.map(|pause| pause.target.queue).collect()
            }
            None => Vec::new(),
        };

        let counts = overview.counts(&queues, CAP).await?;
        let mut counted: Vec<(QueueName, QueueCounts)> = Vec::with_capacity(queues.len());
        let mut unread_now = BTreeSet::new();
        for (queue, counts) in queues.into_iter().zip(counts) {
            match counts {
                Ok(Some(mut counts)) => {
                    // What is paused cannot be handled.
                    if paused.contains(&queue) {
                        counts.oldest_ready = None;
                    }
                    counted.push((queue, counts));
                }
                // It was dropped since it was listed.
                Ok(None) => {}
                Err(error) => {
                    // A lock may last for many samples: only the first is logged.
                    if !unread.contains(&queue) {
                        let error = error_chain(&error);
                        warn!(%queue, error, "the queue cannot be read: its gauges stay as they are");
                    }
                    unread_now.insert(queue);
                }
            }
        }
        *unread = unread_now;
        let snapshot = overview.oldest_snapshot().await?;

        gauges.set(&counted, unread, snapshot);
        Ok(())
    }
}
