//! Looks into idle queues, for several consumers at once.

use async_trait::async_trait;
use ezq_core::engine::{LookRequest, Looked, SharedLooks};
use tokio::time::sleep;

use crate::engine::PgmqEngine;

#[async_trait]
impl SharedLooks for PgmqEngine {
    async fn look(&self, request: LookRequest) -> Looked {
        let inner = &self.inner;
        // It leases as soon as there is something, so what gone workers hold in its queue is for it to find.
        inner.holders.note(&request.queue, request.ttl);

        // Each partition is a table with indexes to lock. And where the front of the index is slow to read,
        // claims begin elsewhere.
        let is_apart = inner.claims.partitions.are_several(&request.queue)
            || inner.claims.cursors.has(&request.queue);
        if is_apart {
            sleep(request.patience).await;
            return Looked::Perhaps;
        }

        inner.start_looking();
        let looked = inner.looks.look(request).await;
        // What falls due later may be what others have leased.
        if let Looked::Nothing {
            next_due: Some(time),
        } = looked
        {
            inner.holders.note_leased(time);
        }
        looked
    }
}
