//! The memory engine as a store of tests.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::Outgoing;
use crate::error::Result;
use crate::memory::{MemoryEngine, Published};
use crate::message::queue_name::QueueName;
use crate::testing::assertions::{Recorded, Records};
use crate::testing::drain::Hasten;

impl Hasten for MemoryEngine {
    async fn hasten(&self, queues: &BTreeSet<QueueName>) -> Result<u64> {
        let mut hastened = 0;
        for queue in queues {
            hastened += MemoryEngine::hasten(self, queue)?;
        }
        Ok(hastened)
    }
}

/// What the engine keeps.
pub(super) fn records(engine: &MemoryEngine) -> Records {
    let scheduled: BTreeMap<_, _> = engine.scheduled().into_iter().collect();
    let messages = engine.all_published().into_iter().map(|published| {
        let Published {
            id, message, at, ..
        } = published;
        let Outgoing {
            queue,
            body,
            headers,
            ..
        } = message;
        let place = (queue, id);
        let due = scheduled.get(&place).copied();
        let (queue, id) = place;
        Recorded {
            queue,
            id,
            body,
            headers,
            at,
            scheduled: due,
        }
    });
    Records {
        messages: messages.collect(),
        dead: engine.all_dead(),
    }
}
