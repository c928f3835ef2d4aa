//! The request for an examination, which every engine makes of its own store.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use crate::engine::{DoctorOptions, Finding};
use crate::publish::engines::Engines;

/// A request for an examination of the stores, which is made when awaited. Get it by
/// [`App::doctor`](crate::app::App::doctor).
///
/// The findings come worst first, and for each check in the order in which it ran. Engines that cannot
/// examine their store, such as the one in memory, are left out.
///
/// # Cancel safety
/// It changes nothing.
#[must_use = "nothing is examined until this is awaited"]
#[derive(Debug)]
pub struct DoctorRequest<'a> {
    engines: &'a Engines,
    options: DoctorOptions,
}

impl<'a> DoctorRequest<'a> {
    pub(crate) fn new(engines: &'a Engines) -> Self {
        Self {
            engines,
            options: DoctorOptions::default(),
        }
    }

    /// From which age on an open transaction or a prepared one is a finding. Defaults to 5 min.
    pub fn old_after(mut self, age: Duration) -> Self {
        self.options.old_after = age;
        self
    }

    async fn examine(self) -> Vec<Finding> {
        let mut findings = Vec::new();
        // One engine after another: few applications have more than one.
        for engine in self.engines.all() {
            if let Some(doctor) = engine.doctor() {
                findings.extend(doctor.examine(&self.options).await);
            }
        }
        // A stable sort, so that the findings of a check stay together.
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        findings
    }
}

impl<'a> IntoFuture for DoctorRequest<'a> {
    type Output = Vec<Finding>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.examine())
    }
}
