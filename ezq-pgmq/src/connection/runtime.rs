//! Knowing that the runtime has ended on which an engine was connected.
//!
//! Its connections and tasks lived there. From another runtime, as where a `static` is used by several
//! tests that have one each, calls would wait for what nobody drives any more, and events would go
//! to consumers that are gone.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ezq_core::{Error, ErrorKind};
use tokio::task::JoinSet;

/// Whether the runtime has ended. A clone tells the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runtime(Arc<AtomicBool>);

struct EndGuard(Runtime);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Runtime {
    /// Takes note of the end of the runtime that this is called on, by a task that never ends by
    /// itself.
    pub(crate) fn watch(&self, tasks: &mut JoinSet<()>) {
        let ends = EndGuard(self.clone());
        tasks.spawn(async move {
            let _ends = ends;
            pending::<()>().await;
        });
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What to say to whoever calls from another runtime.
pub(crate) fn ended() -> Error {
    let text = "the tokio runtime on which this engine was connected has ended: connect on the one that \
                uses it, in a test for example in each (`#[tokio::test]` has a runtime for each test)";
    Error::new(ErrorKind::Configuration, text)
}
