//! The interface of the measurements, for a build without the feature `metrics`. Nothing here has a
//! size or code, so calls leave nothing behind.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::delivery::received::Received;
use crate::engine::QueueCounts;
use crate::event::EventDescriptor;
use crate::message::queue_name::QueueName;
use crate::message::settlement::{HandlerName, Reason};
use crate::observe::metrics::{AttemptOutcome, PublishedAs};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Since;

impl Since {
    pub(crate) fn now() -> Self {
        Self
    }
}

#[derive(Debug, Clone)]
pub(crate) struct QueueMetrics;

impl QueueMetrics {
    pub(crate) fn of(_: &QueueName) -> Self {
        Self
    }

    pub(crate) fn claimed(&self, _: Since, _: Option<usize>) {}

    pub(crate) fn settled(&self, _: Since, _: usize, _: bool) {}
}

#[derive(Debug, Default)]
pub(crate) struct DeliveryMetrics;

impl DeliveryMetrics {
    pub(crate) fn of(_: &QueueName, _: &[&'static str]) -> Self {
        Self
    }

    pub(crate) fn add(&self, _: usize) {}
}

#[derive(Debug, Default)]
pub(crate) struct ConsumersGauge;

impl ConsumersGauge {
    pub(crate) fn of(_: &QueueName, _: Option<&'static str>) -> Self {
        Self
    }

    pub(crate) fn change(&self, _: Option<&'static str>, _: Option<&'static str>) {}
}

#[derive(Debug, Clone, Default)]
pub(crate) struct HandlerMetrics;

impl HandlerMetrics {
    pub(crate) fn begin<'a>(
        &self,
        _: &HandlerName,
        _: impl IntoIterator<Item = &'a Received>,
    ) -> RunMetrics<'_> {
        RunMetrics(PhantomData)
    }

    pub(crate) fn attempted(
        &self,
        _: &HandlerName,
        _: &[EventDescriptor],
        _: &Received,
        _: AttemptOutcome,
    ) {
    }
}

pub(crate) struct RunMetrics<'a>(PhantomData<&'a ()>);

impl RunMetrics<'_> {
    pub(crate) fn end(self) {}
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownType;

impl KnownType {
    pub(crate) fn of(_: &'static str) -> Self {
        Self
    }

    pub(crate) fn unknown() -> Self {
        Self
    }
}

#[derive(Debug, Default)]
pub(crate) struct PublishMetrics;

impl PublishMetrics {
    pub(crate) fn call<'a>(&self, _: impl IntoIterator<Item = &'a QueueName>) -> PublishCall {
        PublishCall
    }

    pub(crate) fn published(&self, _: &QueueName, _: KnownType, _: PublishedAs) {}
}

pub(crate) struct PublishCall;

impl PublishCall {
    pub(crate) fn end(self, _: bool) {}
}

#[derive(Debug)]
pub(crate) struct SampledGauges;

impl SampledGauges {
    pub(crate) fn new() -> Option<Self> {
        None
    }

    pub(crate) fn set(
        &mut self,
        _: &[(QueueName, QueueCounts)],
        _: &BTreeSet<QueueName>,
        _: Option<Duration>,
    ) {
    }

    pub(crate) fn clear(&self) {}
}

pub(crate) fn dead_lettered(_: &QueueName, _: &Reason) {}

pub(crate) fn ticked(_: &str, _: DateTime<Utc>, _: DateTime<Utc>, _: bool) {}
