//! Noticing that the runtime has ended on which an engine was connected.
//!
//! The engine's connections and tasks live on that runtime. Calls from another one, as when tests
//! with a runtime each share a `static`, would wait for I/O that nobody drives, and events would go
//! to consumers that are gone.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ezq_core::{Error, ErrorKind};
use tokio::task::JoinSet;

/// Whether the runtime has ended. Clones share the state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Runtime(Arc<AtomicBool>);

struct EndGuard(Runtime);

impl Drop for EndGuard {
    fn drop(&mut self) {
        // Never unset. Who reads it too early fails by its closed connections instead.
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Runtime {
    /// Notes the end of the current runtime, by a task that never ends by itself.
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

/// The error for a call from another runtime.
pub(crate) fn ended() -> Error {
    let text = "the tokio runtime on which this engine was connected has ended: connect on the \
                runtime that uses the engine (each `#[tokio::test]` has a runtime of its own)";
    Error::new(ErrorKind::RuntimeEnded, text)
}
