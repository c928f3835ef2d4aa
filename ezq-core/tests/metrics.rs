//! What ezq measures, as the exporter for Prometheus renders it, and the page that lists it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ezq_core::app::{App, AppBuilder};
use ezq_core::event::{Envelope, Event};
use ezq_core::handler::{Batch, Context, Handler, HandlerError};
use ezq_core::memory::MemoryEngine;
use ezq_core::observe::metrics::{CATALOGUE, Kind, SECONDS_BUCKETS, SIZE_BUCKETS, describe};
use ezq_core::schedule::Schedule;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Paid {
    order: u32,
}

impl Event for Paid {
    const TYPE: &'static str = "paid";
}

#[derive(Serialize, Deserialize)]
struct Shipped {}

impl Event for Shipped {
    const TYPE: &'static str = "shipped";
}

/// The exporter of this process. Tests tell their metrics apart by the names of queues.
fn exporter() -> &'static PrometheusHandle {
    static EXPORTER: OnceLock<PrometheusHandle> = OnceLock::new();
    EXPORTER.get_or_init(|| {
        let exporter = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)
            .unwrap()
            .set_buckets_for_metric(Matcher::Suffix("_size".into()), &SIZE_BUCKETS)
            .unwrap()
            .install_recorder()
            .unwrap();
        describe();
        exporter
    })
}

fn build(queue: &str, build: impl FnOnce(AppBuilder) -> AppBuilder) -> App {
    exporter();
    let builder = App::builder()
        .without_discovered_handlers()
        .queue(queue)
        .configure(|config| config.poll_max = Some(Duration::from_millis(20)));
    build(builder).build(MemoryEngine::new()).unwrap()
}

/// A line of the exporter's output.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Every line. The names of no queue here hold a comma or a quotation mark.
fn samples() -> Vec<Sample> {
    let text = exporter().render();
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels
            .trim_end_matches('}')
            .split(',')
            .filter(|label| !label.is_empty());
        let labels = labels.map(|label| {
            let (name, value) = label.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('"').to_owned())
        });
        Sample {
            name: name.to_owned(),
            labels: labels.collect(),
            value: value.parse().unwrap(),
        }
    });
    samples.collect()
}

/// The sum of what has this name and these labels.
fn value(name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = samples().into_iter().filter(|sample| {
        let has = |(label, value): &(&str, &str)| {
            sample
                .labels
                .get(*label)
                .is_some_and(|found| found == value)
        };
        sample.name == name && labels.iter().all(has)
    });
    samples.map(|sample| sample.value).sum()
}

#[test]
fn the_page_of_the_metrics_lists_what_the_code_has() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(page).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `ezq_"));
    let documented: Vec<Vec<String>> = rows
        .map(|row| {
            row.split('|')
                .skip(1)
                .take(5)
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect();

    let listed = CATALOGUE.iter().map(|metric| {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            other => panic!("{other:?} is new"),
        };
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        vec![
            format!("`{}`", metric.name),
            kind.to_owned(),
            metric.unit.to_owned(),
            labels.join(", "),
            metric.help.to_owned(),
        ]
    });
    assert_eq!(documented, listed.collect::<Vec<_>>());
}

/// The page of the metrics.
fn page() -> String {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    std::fs::read_to_string(docs.join("metrics.md")).unwrap()
}

/// A file that `ezq generate` prints.
fn generated(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ezq-cli/monitoring");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// The queries of the alert rules, each with the name of its alert.
fn alerts() -> Vec<(String, String)> {
    let text = generated("alerts.yml");
    let rules = text.split("- alert: ").skip(1).map(|rule| {
        let (name, rest) = rule.split_once('\n').unwrap();
        let query = rest.split("expr:").nth(1).unwrap();
        // A key of the rule follows the query.
        let end = ["\n        for:", "\n        labels:"];
        let end = end.iter().filter_map(|key| query.find(key)).min().unwrap();
        (name.to_owned(), query[..end].to_owned())
    });
    rules.collect()
}

/// The queries of the dashboard.
fn panels() -> Vec<String> {
    let text = generated("grafana.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

/// The series that a query names, and the labels that it uses.
fn used(query: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c| !is_word(c));
    let series = words
        .filter(|word| word.starts_with("ezq_"))
        .map(str::to_owned)
        .collect();

    let grouped = query
        .split("by (")
        .skip(1)
        .map(|rest| rest.split(')').next().unwrap());
    let selected = query
        .split('{')
        .skip(1)
        .map(|rest| rest.split('}').next().unwrap());
    let grouped = grouped.flat_map(|labels| labels.split(','));
    let selected = selected.flat_map(|labels| labels.split(','));
    let labels = grouped.chain(selected).map(|label| {
        let label = label.trim();
        label.split(|c| !is_word(c)).next().unwrap().to_owned()
    });
    (series, labels.collect())
}

/// Does everything of which an application measures something.
async fn do_everything(name: &str) {
    async fn mixed(event: Paid, context: Context) -> Result<Option<Shipped>, HandlerError> {
        match event.order {
            0 if context.attempt() == 1 => Err(HandlerError::retry("not yet")),
            1 => Err(HandlerError::fatal("never")),
            2 => Err(HandlerError::discard("not ours")),
            _ => Ok(Some(Shipped {})),
        }
    }
    async fn all(events: Batch<Shipped>) {
        drop(events);
    }

    let app = build(name, |builder| {
        let quick = Schedule::every(Duration::from_secs(1));
        builder
            .register(Handler::on("mixed", mixed))
            .register(Handler::on_batch("all", all))
            .configure(|config| {
                config.retry.backoff = ezq_core::handler::Backoff::constant(Duration::ZERO);
                config.sample_queues = Some(Duration::from_secs(1));
            })
            .schedule(name, quick, &Paid { order: 9 })
    });
    let handle = app.consumer().spawn();

    for order in 0..4 {
        app.publish(&Paid { order })
            .dedupe_key(format!("paid-{order}"))
            .await
            .unwrap();
    }
    let again = app
        .publish(&Paid { order: 3 })
        .dedupe_key("paid-3")
        .await
        .unwrap();
    assert!(again.is_duplicate);

    let queue = ("queue", name);
    let is_done = || {
        value(
            "ezq_attempts_total",
            &[queue, ("handler", "all"), ("outcome", "done")],
        ) >= 3.0
            && value(
                "ezq_schedule_ticks_total",
                &[("schedule", name), ("outcome", "fired")],
            ) > 0.0
            && value(
                "ezq_deliveries_total",
                &[queue, ("disposition", "dead_lettered")],
            ) > 0.0
    };
    let waited = async {
        while !is_done() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited)
        .await
        .expect("it is not measured");
    handle.stop();
    handle.await.unwrap();
}

#[tokio::test]
async fn what_is_measured_is_in_the_catalogue_with_its_labels() {
    do_everything("everything").await;

    let mut emitted: BTreeMap<String, BTreeSet<Vec<String>>> = BTreeMap::new();
    for sample in samples() {
        let endings = ["_bucket", "_sum", "_count"];
        let is_histogram = |name: &str| {
            CATALOGUE
                .iter()
                .any(|metric| metric.name == name && metric.kind == Kind::Histogram)
        };
        let base = endings
            .iter()
            .find_map(|ending| sample.name.strip_suffix(ending));
        let name = base
            .filter(|name| is_histogram(name))
            .unwrap_or(&sample.name);
        let labels = sample
            .labels
            .into_keys()
            .filter(|label| label != "le")
            .collect();
        emitted.entry(name.to_owned()).or_default().insert(labels);
    }

    for (name, labels) in &emitted {
        let metric = CATALOGUE.iter().find(|metric| metric.name == name);
        let metric = metric.unwrap_or_else(|| panic!("`{name}` is in no catalogue"));
        let mut listed: Vec<String> = metric.labels.iter().map(|&label| label.into()).collect();
        listed.sort();
        assert_eq!(labels, &BTreeSet::from([listed]), "{name}");
    }

    // The memory engine has no connections.
    let missing = CATALOGUE.iter().map(|metric| metric.name);
    let missing =
        missing.filter(|name| !emitted.contains_key(*name) && !name.contains("connection"));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&str>::new());

    let of_mixed = [
        ("queue", "everything"),
        ("handler", "mixed"),
        ("event_type", "paid"),
    ];
    let outcome = |outcome| {
        value(
            "ezq_attempts_total",
            &[&of_mixed[..], &[("outcome", outcome)]].concat(),
        )
    };
    assert!((outcome("retried") - 1.0).abs() < 0.1);
    assert!((outcome("dead") - 1.0).abs() < 0.1);
    assert!((outcome("discarded") - 1.0).abs() < 0.1);
    assert!(outcome("done") >= 2.0);

    let letters = [
        ("queue", "everything"),
        ("handler", "mixed"),
        ("reason", "fatal"),
    ];
    assert!((value("ezq_dead_letters_total", &letters) - 1.0).abs() < 0.1);
    let published = |event_type, outcome| {
        let labels = [
            ("queue", "everything"),
            ("event_type", event_type),
            ("outcome", outcome),
        ];
        value("ezq_published_total", &labels)
    };
    assert!((published("paid", "stored") - 4.0).abs() < 0.1);
    assert!((published("paid", "duplicate") - 1.0).abs() < 0.1);
    assert!(published("shipped", "handed_over") >= 2.0);

    // It has ended, so it is counted in no state.
    assert!(value("ezq_consumers", &[("queue", "everything")]).abs() < 0.1);
    assert!(value("ezq_handlers_in_flight", &[("queue", "everything")]).abs() < 0.1);
}

#[tokio::test]
async fn the_queries_of_dashboard_and_alerts_ask_for_what_the_exporter_has() {
    do_everything("queries").await;
    let mut emitted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sample in samples() {
        let labels = sample.labels.into_keys();
        emitted.entry(sample.name).or_default().extend(labels);
    }
    // The memory engine has no connections: a test of ezq-pgmq shows those.
    for metric in CATALOGUE
        .iter()
        .filter(|metric| metric.name.contains("connection"))
    {
        let labels = metric.labels.iter().map(|&label| label.to_owned());
        emitted
            .entry(metric.name.to_owned())
            .or_default()
            .extend(labels);
    }

    let alerts = alerts();
    let queries: Vec<String> = alerts
        .iter()
        .map(|(_, query)| query.clone())
        .chain(panels())
        .collect();
    assert!(queries.len() > 25, "{}", queries.len());
    for query in &queries {
        let (series, labels) = used(query);
        assert!(!series.is_empty(), "{query}");
        for name in &series {
            let has = emitted
                .get(name)
                .unwrap_or_else(|| panic!("`{name}` is not exported: {query}"));
            // The last one comes from Prometheus itself.
            let unknown = labels
                .iter()
                .find(|label| !has.contains(*label) && *label != "instance");
            assert_eq!(unknown, None, "{query}");
        }
    }

    // The page says which alert uses what, and names all of them.
    let page = page();
    let rows = page.lines().filter(|line| line.starts_with("| `ezq_"));
    let mut named = BTreeSet::new();
    for row in rows {
        let cells: Vec<&str> = row
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        if cells[6] == "-" {
            continue;
        }
        let alert = alerts.iter().find(|(name, _)| name == cells[6]);
        let (name, query) = alert.unwrap_or_else(|| panic!("`{}` is no alert", cells[6]));
        assert!(query.contains(cells[1]), "{name}");
        named.insert(name);
    }
    assert_eq!(named.len(), alerts.len());
}

#[tokio::test]
async fn a_run_that_is_in_flight_is_counted_until_it_is_cancelled() {
    async fn slow(_: Paid) {
        std::future::pending::<()>().await;
    }
    let app = build("cancelled", |builder| {
        builder.register(Handler::on("slow", slow))
    });
    let handle = app.consumer().spawn();
    app.publish(&Paid { order: 1 }).await.unwrap();

    let labels = [("queue", "cancelled"), ("handler", "slow")];
    let begins = async {
        while value("ezq_handlers_in_flight", &labels) < 0.5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), begins)
        .await
        .expect("it is not counted");
    let running = [("queue", "cancelled"), ("state", "running")];
    assert!((value("ezq_consumers", &running) - 1.0).abs() < 0.1);

    handle.interrupt();
    handle.await.unwrap();
    assert!(value("ezq_handlers_in_flight", &labels).abs() < 0.1);
    let cancelled = [("queue", "cancelled"), ("outcome", "cancelled")];
    assert!((value("ezq_attempts_total", &cancelled) - 1.0).abs() < 0.1);
    assert!((value("ezq_handling_seconds_count", &labels) - 1.0).abs() < 0.1);
}

#[tokio::test]
async fn an_event_waits_from_when_it_is_due() {
    let app = build("waiting", |builder| {
        builder.register(Handler::on("nothing", async |_: Paid| {}))
    });
    let began = Instant::now();
    let delay = Duration::from_millis(400);
    app.publish(&Paid { order: 1 }).after(delay).await.unwrap();
    // It is due before the consumer begins.
    tokio::time::sleep(Duration::from_millis(600)).await;
    app.consumer().until_idle().run().await.unwrap();
    let took = began.elapsed().as_secs_f64();

    let labels = [("queue", "waiting"), ("handler", "nothing")];
    assert!((value("ezq_wait_seconds_count", &labels) - 1.0).abs() < 0.1);
    let waited = value("ezq_wait_seconds_sum", &labels);
    // The delay is no part of it, but for what a millisecond's rounding takes.
    assert!(waited >= 0.1, "{waited}");
    assert!(
        waited <= took - delay.as_secs_f64() + 0.01,
        "{waited} of {took}"
    );
}

#[tokio::test]
async fn labels_stay_few_whatever_is_published() {
    let app = build("many_0", |builder| builder);
    for number in 0..1100 {
        let envelope = Envelope::builder(format!("type.{number}"), "/tests")
            .build()
            .unwrap();
        let queue = format!("many_{number}");
        app.publish_envelope(envelope).queue(queue).await.unwrap();
    }

    let published = samples().into_iter().filter(|sample| {
        let queue = &sample.labels.get("queue");
        let is_own = queue.is_some_and(|queue| queue.starts_with("many_") || queue == "other");
        sample.name == "ezq_published_total" && is_own
    });
    let published: Vec<Sample> = published.collect();
    let queues: BTreeSet<&String> = published.iter().map(|one| &one.labels["queue"]).collect();
    assert!(
        queues.len() <= 1001 && queues.len() > 900,
        "{}",
        queues.len()
    );
    let types: BTreeSet<&str> = published
        .iter()
        .map(|one| one.labels["event_type"].as_str())
        .collect();
    assert_eq!(types, BTreeSet::from(["other"]));
    assert!((published.iter().map(|one| one.value).sum::<f64>() - 1100.0).abs() < 0.1);
}

#[tokio::test]
async fn queues_are_sampled_while_asked_for_and_show_zeros_afterwards() {
    async fn never(_: Paid) {
        std::future::pending::<()>().await;
    }
    let app = build("sampled", |builder| {
        builder
            .register(Handler::on("never", never))
            .configure(|config| config.sample_queues = Some(Duration::from_secs(1)))
    });
    for order in 0..3 {
        app.publish(&Paid { order }).await.unwrap();
    }
    let events = |state| {
        value(
            "ezq_queue_events",
            &[("queue", "sampled"), ("state", state)],
        )
    };
    assert!(events("leased") < 0.1);

    let handle = app.consumer().concurrency(1).spawn();
    let is_sampled = async {
        while events("leased") < 1.0 || events("ready") < 1.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let sampled = tokio::time::timeout(Duration::from_secs(60), is_sampled).await;
    sampled.expect("nothing is sampled");

    handle.interrupt();
    handle.await.unwrap();
    for state in ["ready", "leased", "retrying", "scheduled", "dead"] {
        assert!(events(state) < 0.1, "{state}");
    }
}
