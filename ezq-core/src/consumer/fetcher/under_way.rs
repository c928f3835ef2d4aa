//! The claims, transactional batches and searches that are under way.

use std::future::Future;

use tokio::task::{AbortHandle, JoinSet};
use tracing::Instrument;

use crate::consumer::fetcher::claim::Fetched;

/// What was sent and is not answered, or not taken in yet.
pub(crate) struct UnderWay {
    /// The claims, transactional batches and searches.
    pub(crate) requests: JoinSet<Fetched>,
    /// The claim that is not answered yet.
    claiming: Option<AbortHandle>,
    /// The search for control events that is not answered yet.
    searching: Option<AbortHandle>,
    /// How many deliveries of the newest claim are not taken in yet.
    pub(crate) incoming: usize,
}

impl UnderWay {
    pub(crate) fn new() -> Self {
        Self {
            requests: JoinSet::new(),
            claiming: None,
            searching: None,
            incoming: 0,
        }
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether a claim is not answered yet.
    pub(crate) fn is_claiming(&self) -> bool {
        self.claiming.is_some()
    }

    /// Whether another batch may be claimed in a transaction while `most` of them may run.
    pub(crate) fn allows_transaction(&self, most: usize) -> bool {
        // Among what is leased and not taken in yet may be an `End`, which must not be passed.
        self.requests.len() < most && !self.is_claiming() && self.incoming == 0
    }

    /// Sends a claim.
    pub(crate) fn claim(&mut self, claim: impl Future<Output = Fetched> + Send + 'static) {
        self.claiming = Some(self.requests.spawn(claim.in_current_span()));
    }

    /// Whether a search for control events is not answered yet.
    pub(crate) fn is_searching(&self) -> bool {
        self.searching.is_some()
    }

    /// Begins a search for control events.
    pub(crate) fn search(&mut self, search: impl Future<Output = Fetched> + Send + 'static) {
        self.searching = Some(self.requests.spawn(search.in_current_span()));
    }

    /// Notes that the search was answered.
    pub(crate) fn search_ended(&mut self) {
        self.searching = None;
    }

    /// Begins a transactional batch.
    pub(crate) fn transact(&mut self, batch: impl Future<Output = Fetched> + Send + 'static) {
        self.requests.spawn(batch.in_current_span());
    }

    /// Notes that the claim was answered, or given up.
    pub(crate) fn claim_ended(&mut self) {
        self.claiming = None;
    }

    /// Stops waiting for the claim, and for a search. False if no claim was on its way.
    pub(crate) fn abort_claim(&mut self) -> bool {
        if let Some(searching) = self.searching.take() {
            searching.abort();
        }
        let Some(claiming) = self.claiming.take() else {
            return false;
        };
        claiming.abort();
        true
    }

    /// Leaves everything under way behind.
    pub(crate) fn abandon(&mut self) {
        self.requests = JoinSet::new();
    }
}
