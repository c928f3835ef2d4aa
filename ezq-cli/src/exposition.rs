//! What a check found, in the text format of Prometheus.
//!
//! Source: Prometheus documentation, "Exposition formats", "Text-based format".

use std::fmt::Write as _;

use ezq::admin::{ConsumerInfo, QueueList, QueueSummary};

type Value = fn(&QueueSummary) -> f64;

/// The metrics of each queue: name, help, value.
const METRICS: [(&str, &str, Value); 7] = [
    (
        "ezq_queue_ready",
        "Events that can be handled now; 10000 means that or more.",
        |queue| number(queue.ready.value),
    ),
    ("ezq_queue_leased", "Events that a worker has.", |queue| {
        number(queue.leased.value)
    }),
    (
        "ezq_queue_retrying",
        "Events that wait for another attempt.",
        |queue| number(queue.retrying.value),
    ),
    (
        "ezq_queue_scheduled",
        "Events that are due later.",
        |queue| number(queue.scheduled.value),
    ),
    ("ezq_queue_dead", "Dead letters.", |queue| {
        number(queue.dead.value)
    }),
    (
        "ezq_queue_oldest_claimable_seconds",
        "How long the oldest event that can be handled has waited.",
        |queue| queue.oldest_claimable.unwrap_or_default().as_secs_f64(),
    ),
    (
        "ezq_queue_paused",
        "Whether the whole queue is paused.",
        |queue| f64::from(u8::from(queue.is_paused())),
    ),
];

pub(crate) fn of(found: &QueueList, consumers: &[ConsumerInfo], is_ok: bool) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (name, help, value) in METRICS {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
        // Of one that could not be read, nothing is known.
        for queue in &found.queues {
            // The letters of a queue's name need no escape.
            let label = &queue.queue;
            let _ = writeln!(text, "{name}{{queue=\"{label}\"}} {}", value(queue));
        }
    }

    let name = "ezq_queue_unreadable";
    let help = "Whether the queue is there and could not be read.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
    let read = found.queues.iter().map(|one| (&one.queue, 0));
    let unread = found.unreadable.iter().map(|one| (&one.queue, 1));
    for (queue, value) in read.chain(unread) {
        let _ = writeln!(text, "{name}{{queue=\"{queue}\"}} {value}");
    }

    let gone = consumers.iter().filter(|one| one.is_gone).count();
    let running = consumers.len().saturating_sub(gone);
    let is_ok = u8::from(is_ok);
    let _ = write!(
        text,
        "# HELP ezq_consumers Consumers of all processes.\n# TYPE ezq_consumers gauge\n\
         ezq_consumers{{state=\"running\"}} {running}\nezq_consumers{{state=\"gone\"}} {gone}\n\
         # HELP ezq_check_ok Whether every limit was kept.\n# TYPE ezq_check_ok gauge\n\
         ezq_check_ok {is_ok}\n"
    );
    text
}

/// Counts stop at 10,000, so a float holds each exactly.
#[expect(clippy::cast_precision_loss)]
fn number(count: u64) -> f64 {
    count as f64
}
