//! Looks into idle queues, which a test answers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ezq_core::engine::{LookRequest, Looked, SharedLooks};

#[derive(Default)]
pub(crate) struct Looks {
    pub are_offered: AtomicBool,
    /// The answer to each; without one, they are never answered.
    pub answer: Mutex<Option<Looked>>,
    /// So many were asked for.
    pub asked: AtomicUsize,
    /// The longest time that one was allowed to take.
    pub longest: Mutex<Duration>,
}

#[async_trait]
impl SharedLooks for Looks {
    async fn look(&self, request: LookRequest) -> Looked {
        self.asked.fetch_add(1, Ordering::SeqCst);
        {
            let mut longest = self.longest.lock().unwrap();
            *longest = longest.max(request.patience);
        }
        tokio::time::sleep(request.patience).await;
        let answer = *self.answer.lock().unwrap();
        match answer {
            Some(looked) => looked,
            None => std::future::pending().await,
        }
    }
}
