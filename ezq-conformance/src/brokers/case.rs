//! Cases of the two suites, and their runs.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::timeout;

use super::harness::{SinkHarness, SourceHarness};
use super::{sink_cases as sinks, source_cases as sources};
use crate::error::{CaseError, CaseResult};
use crate::{Entry, Report, Verdict};

/// A case that takes longer than this is taken to hang. A broker may take a minute to come back.
const PATIENCE: Duration = Duration::from_secs(240);

pub(super) type CaseFuture<'a> = Pin<Box<dyn Future<Output = CaseResult> + Send + 'a>>;

/// One rule of sinks, named for what it states.
#[derive(Clone, Copy)]
pub struct SinkCase {
    pub(super) name: &'static str,
    pub(super) run: for<'h> fn(&'h dyn SinkHarness) -> CaseFuture<'h>,
}

/// One rule of sources, named for what it states.
#[derive(Clone, Copy)]
pub struct SourceCase {
    pub(super) name: &'static str,
    pub(super) run: for<'h> fn(&'h dyn SourceHarness) -> CaseFuture<'h>,
}

impl SinkCase {
    /// Its name, which states the rule.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Examines a sink, in topics of the case's own.
    pub async fn run(&self, harness: &dyn SinkHarness) -> Verdict {
        verdict((self.run)(harness)).await
    }
}

impl SourceCase {
    /// Its name, which states the rule.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Examines a source, in topics of the case's own.
    pub async fn run(&self, harness: &dyn SourceHarness) -> Verdict {
        verdict((self.run)(harness)).await
    }
}

async fn verdict(case: CaseFuture<'_>) -> Verdict {
    match timeout(PATIENCE, case).await {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(CaseError::Failed(what))) => Verdict::Failed(what),
        Ok(Err(CaseError::Skipped(why))) => Verdict::Skipped(why),
        Err(_) => Verdict::Failed(format!("still under way after {PATIENCE:?}")),
    }
}

/// Every case of the suite of sinks, in the order in which [`run_sink`] runs them.
#[must_use]
pub fn sink_cases() -> Vec<SinkCase> {
    sinks::CASES.to_vec()
}

/// Every case of the suite of sources, in the order in which [`run_source`] runs them.
#[must_use]
pub fn source_cases() -> Vec<SourceCase> {
    sources::CASES.to_vec()
}

/// Runs every case against a sink, one after another, and reports on all of them.
pub async fn run_sink(harness: &dyn SinkHarness) -> Report {
    let mut entries = Vec::new();
    for case in sink_cases() {
        let verdict = case.run(harness).await;
        let case = case.name();
        entries.push(Entry { case, verdict });
    }
    Report::new(entries)
}

/// Runs every case against a source, one after another, and reports on all of them.
pub async fn run_source(harness: &dyn SourceHarness) -> Report {
    let mut entries = Vec::new();
    for case in source_cases() {
        let verdict = case.run(harness).await;
        let case = case.name();
        entries.push(Entry { case, verdict });
    }
    Report::new(entries)
}

impl fmt::Debug for SinkCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SinkCase").field(&self.name).finish()
    }
}

impl fmt::Debug for SourceCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SourceCase").field(&self.name).finish()
    }
}
