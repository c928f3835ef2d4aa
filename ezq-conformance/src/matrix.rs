//! The tables of what engines, sinks and sources can do, checked against what their suites see.
//!
//! A document holds one table for all. Each crate's test checks the column of its own, because no crate
//! depends on all of them.

use std::fmt::Write as _;

use ezq_core::broker::{SinkCapabilities, SourceCapabilities};

use crate::Report;

/// A row of a table: its name, and whether it holds.
pub type Row = (&'static str, bool);

/// What an engine may lack: why a case is then skipped, and the name of the row.
const OF_ENGINES: &[(&str, &str)] = &[
    (
        "the engine does not offer `delayed`",
        "delays and due times",
    ),
    ("the engine keeps no dead letters", "dead letters"),
    (
        "the engine does not offer `transactions`",
        "`Tx`: writes, returned events and the mark commit together",
    ),
    (
        "the engine does not offer `receipts that the store checks`",
        "the store itself refuses a worker that lost its lease",
    ),
    (
        "the engine does not offer `ordered`",
        "events are handed out by due time",
    ),
    ("the engine does not offer `keys`", "ordering keys"),
    ("the engine does not offer `dedupe`", "dedupe keys"),
    (
        "the engine does not offer `movable`",
        "a scheduled event is cancelled or moved by its id",
    ),
    ("the engine does not offer `archive`", "archives and trails"),
    ("the engine does not offer `schedules`", "schedules"),
    (
        "the engine does not broadcast",
        "broadcasts and subscriptions",
    ),
    (
        "the engine does not offer `exact_bodies`",
        "bodies byte for byte",
    ),
    (
        "the engine tells no event's history",
        "the history of an event",
    ),
    ("the engine has no overview", "counts of queues"),
    (
        "the engine cannot be browsed",
        "pages of events, grouped errors, following a queue",
    ),
    (
        "the engine does not act on events",
        "redrives and discards by filter, audit trail",
    ),
    (
        "the engine leases no message by its id",
        "one event is failed by hand",
    ),
    ("the engine has no pauses", "pauses"),
    (
        "the engine has no cancellations",
        "cancelling a running event",
    ),
    ("the engine keeps no consumers", "the list of consumers"),
];

/// The column of an engine, by the report of its suite. A row holds if no case was skipped for want of it.
#[must_use]
pub fn engine_column(report: &Report) -> Vec<Row> {
    let rows = OF_ENGINES.iter().map(|(reason, row)| {
        let is_missing = report.skipped().any(|(_, why)| why == *reason);
        (*row, !is_missing)
    });
    rows.collect()
}

/// The column of a sink.
#[must_use]
pub fn sink_column(capabilities: &SinkCapabilities) -> Vec<Row> {
    vec![
        (
            "sink: events of a key keep their order",
            capabilities.ordered,
        ),
        (
            "sink: the broker drops what is sent twice, for a time",
            capabilities.dedupe.is_some(),
        ),
        (
            "sink: the largest message is known before it is sent",
            capabilities.max_message.is_some(),
        ),
    ]
}

/// The column of a source.
#[must_use]
pub fn source_column(capabilities: &SourceCapabilities) -> Vec<Row> {
    vec![
        (
            "source: several ingests of one name divide the partitions",
            capabilities.divided,
        ),
        (
            "source: the broker is told what was stored",
            capabilities.commits,
        ),
    ]
}

/// Compares a column with the table of a document, in Markdown, that has it in its head. Other rows of the
/// table are left alone.
///
/// # Errors
/// A text that says which lines to change, and how.
pub fn check_column(document: &str, column: &str, rows: &[Row]) -> Result<(), String> {
    let mut tables = document.split("\n\n").map(|block| block.lines().map(cells));
    let found = tables.find_map(|mut table| {
        let place = table.next()?.iter().position(|cell| *cell == column)?;
        Some((place, table.collect::<Vec<_>>()))
    });
    let Some((place, table)) = found else {
        return Err(format!("no table has the column `{column}`"));
    };

    let mut wrong = String::new();
    for (name, holds) in rows {
        let wanted = if *holds { "yes" } else { "–" };
        let row = table.iter().find(|row| row.first() == Some(name));
        let told = row.and_then(|row| row.get(place).copied());
        if told != Some(wanted) {
            let told = told.unwrap_or("nothing");
            // Writing to a text cannot fail.
            let _ = write!(
                wrong,
                "\n`{name}`: the table says {told}, and it is {wanted}"
            );
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("the column `{column}` is out of date:{wrong}")),
    }
}

/// The cells of a line of a table.
fn cells(line: &str) -> Vec<&str> {
    let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
    inner.split('|').map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "# A\n\n| | left | right |\n|---|---|---|\n| keys | yes | – |\n| pauses | – | yes |\n\nText.";

    #[test]
    fn a_column_is_found_by_its_head_and_compared_by_the_names_of_its_rows() {
        let rows = [("pauses", true), ("keys", false)];
        assert_eq!(check_column(DOCUMENT, "right", &rows), Ok(()));
        let wrong = check_column(DOCUMENT, "left", &rows).unwrap_err();
        assert!(
            wrong.contains("`pauses`: the table says –, and it is yes")
                && wrong.contains("`keys`: the table says yes, and it is –"),
            "{wrong}"
        );
    }

    #[test]
    fn a_row_or_a_column_that_is_missing_is_told() {
        let wrong = check_column(DOCUMENT, "left", &[("dedupe keys", true)]).unwrap_err();
        assert!(
            wrong.contains("`dedupe keys`: the table says nothing"),
            "{wrong}"
        );
        assert!(check_column(DOCUMENT, "middle", &[]).is_err());
    }
}
