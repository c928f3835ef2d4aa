//! What is logged on a test's own thread, where all tasks of its runtime run.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::subscriber::DefaultGuard;

/// Everything from now on, in all detail, until it is dropped.
pub(crate) struct Log {
    bytes: Arc<Mutex<Vec<u8>>>,
    _guard: DefaultGuard,
}

struct Writer(Arc<Mutex<Vec<u8>>>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(crate) fn keep() -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&bytes);
        let all = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || Writer(Arc::clone(&writer)))
            .finish();
        Self {
            bytes,
            _guard: tracing::subscriber::set_default(all),
        }
    }

    /// What was logged. Panics if that is nothing: then it proves nothing.
    pub(crate) fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned();
        assert!(!text.is_empty(), "nothing was logged");
        text
    }
}
