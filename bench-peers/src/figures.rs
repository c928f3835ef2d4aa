//! The figures of all rounds, as a table and as JSON.

use serde_json::{Value, json};

use crate::cases::RECOVERY_LIMIT;

/// The columns of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Work,
    Publish,
    Bulk,
    LatencyP50,
    LatencyP99,
    Idle,
    Recovery,
}

impl Column {
    pub(crate) const ALL: [Self; 7] = [
        Self::Work,
        Self::Publish,
        Self::Bulk,
        Self::LatencyP50,
        Self::LatencyP99,
        Self::Idle,
        Self::Recovery,
    ];

    fn title(self) -> &'static str {
        match self {
            Self::Work => "backlog, jobs/s",
            Self::Publish => "single publishes/s",
            Self::Bulk => "bulk publish, jobs/s",
            Self::LatencyP50 => "latency p50, ms",
            Self::LatencyP99 => "latency p99, ms",
            Self::Idle => "idle, transactions/s",
            Self::Recovery => "after `kill -9`, s",
        }
    }
}

/// The figures of one library.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) library: &'static str,
    pub(crate) version: String,
    /// One for each round. A recovery that took too long is infinite.
    values: Vec<(Column, f64)>,
}

impl Figures {
    pub(crate) fn new(library: &'static str, version: String) -> Self {
        Self {
            library,
            version,
            values: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, column: Column, value: f64) {
        self.values.push((column, value));
    }

    /// In ascending order.
    fn of(&self, column: Column) -> Vec<f64> {
        let of_column = self.values.iter().filter(|(of, _)| *of == column);
        let mut values: Vec<f64> = of_column.map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn json(&self) -> Value {
        let columns = Column::ALL.iter().filter_map(|column| {
            let values = self.of(*column);
            let (least, most) = (*values.first()?, *values.last()?);
            let median = values[values.len() / 2];
            // An infinite number, which JSON has not, becomes null.
            let figures = json!({
                "median": median, "least": least, "most": most, "rounds": values.len(),
            });
            Some((column.title().to_owned(), figures))
        });
        json!({
            "library": self.library,
            "version": self.version,
            "figures": columns.collect::<serde_json::Map<_, _>>(),
        })
    }
}

/// A line of JSON for each library.
pub(crate) fn json_lines(all: &[Figures]) -> String {
    let lines: Vec<String> = all.iter().map(|one| one.json().to_string()).collect();
    lines.join("\n")
}

/// A table in Markdown: the median, and the least and the most of all rounds.
pub(crate) fn table(all: &[Figures]) -> String {
    let titles = Column::ALL.map(Column::title).join(" | ");
    let mut lines = vec![
        format!("| library | {titles} |"),
        format!("|---|{}", "---|".repeat(Column::ALL.len())),
    ];
    for one in all {
        let cells = Column::ALL.map(|column| cell(&one.of(column)));
        lines.push(format!(
            "| {} {} | {} |",
            one.library,
            one.version,
            cells.join(" | ")
        ));
    }
    lines.join("\n").replace("  |", " |")
}

fn cell(values: &[f64]) -> String {
    let (Some(least), Some(most)) = (values.first(), values.last()) else {
        return "-".to_owned();
    };
    let median = values[values.len() / 2];
    if median.is_infinite() {
        return format!("over {}", RECOVERY_LIMIT.as_secs());
    }
    format!(
        "{} ({} to {})",
        number(median),
        number(*least),
        number(*most)
    )
}

/// Three digits, and thousands apart.
fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
