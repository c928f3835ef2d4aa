//! `ezq queue list --rates`: how fast queues move, by two looks at them.

use std::time::Duration;

use ezq::Ezq;
use ezq::admin::{QueueRates, QueueSummary};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::{Output, Row};
use crate::queue_rows::QueueRow;

pub(crate) async fn list(ezq: Ezq, over: Duration, output: Output) -> Result<(), Failure> {
    let before = ezq.queues().list().await?;
    tokio::time::sleep(over).await;
    let found = ezq.queues().list().await?;
    ezq.close().await;

    let mut rows: Vec<RatedRow<'_>> = found
        .queues
        .iter()
        .map(|summary| {
            let mut earlier = before.queues.iter();
            let earlier = earlier.find(|earlier| earlier.queue == summary.queue);
            RatedRow::of(summary, earlier)
        })
        .collect();
    rows.extend(found.unreadable.iter().map(|one| RatedRow {
        row: QueueRow::unreadable(one),
        stored_per_second: None,
        removed_per_second: None,
    }));
    output.list(&rows, "no queues: `ezq queue create NAME` creates one")
}

/// What a queue holds and how fast it moves, as `--json` prints it.
#[derive(Serialize)]
struct RatedRow<'a> {
    #[serde(flatten)]
    row: QueueRow<'a>,
    /// `null` if that is not known, as of a queue that was made in between.
    stored_per_second: Option<f64>,
    removed_per_second: Option<f64>,
}

impl<'a> RatedRow<'a> {
    fn of(summary: &'a QueueSummary, earlier: Option<&QueueSummary>) -> Self {
        let rates: Option<QueueRates> = earlier.and_then(|earlier| summary.rates_since(earlier));
        Self {
            row: QueueRow::of(summary),
            stored_per_second: rates.map(|rates| rates.stored),
            removed_per_second: rates.map(|rates| rates.removed),
        }
    }
}

impl Row for RatedRow<'_> {
    const COLUMNS: &'static [&'static str] = &[
        "QUEUE",
        "READY",
        "LEASED",
        "RETRYING",
        "SCHEDULED",
        "DEAD",
        "OLDEST",
        "STATE",
        "STORED/S",
        "REMOVED/S",
    ];

    fn cells(&self) -> Vec<String> {
        let rate =
            |rate: Option<f64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"));
        let mut cells = self.row.cells();
        cells.push(rate(self.stored_per_second));
        cells.push(rate(self.removed_per_second));
        cells
    }
}
