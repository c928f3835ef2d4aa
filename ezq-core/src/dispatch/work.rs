//! A delivery that is ready to be dispatched.

use std::sync::{Arc, Mutex};

use crate::clock::EngineClock;
use crate::delivery::received::Received;
use crate::dispatch::admission::{Admission, Suspect};

/// A delivery, with what its dispatch needs of its consumer.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) received: Arc<Received>,
    pub(crate) clock: EngineClock,
    pub(crate) admission: Arc<Admission>,
    /// Set while it runs, if it may kill its worker.
    pub(crate) suspect: Mutex<Option<Suspect>>,
}
