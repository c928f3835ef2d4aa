//! The type of a case.

use std::future::Future;
use std::pin::Pin;

use crate::database::Database;
use crate::error::Result;
use crate::options::Options;
use crate::outcome::{Measure, Outcome, Target};

/// A case: something that is measured, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) target: Option<Target>,
    pub(crate) run: for<'a> fn(&'a Options, &'a Database) -> CaseFuture<'a>,
}

pub(crate) type CaseFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<Outcome>>> + 'a>>;

impl Case {
    /// What the case's figures mean.
    pub(crate) fn measure(&self) -> Measure {
        Measure {
            name: self.name,
            unit: self.unit,
            target: self.target,
        }
    }
}
