//! Several versions of one event type, and who takes which.

use ezq::codec::WireFormat;
use ezq::prelude::*;
use ezq::testing::TestApp;
use ezq::{AppBuilder, ErrorKind, Event, Handler, QueueName};
use serde::{Deserialize, Serialize};

use crate::kit::{Log, app, drain, held, queue};

#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[event(type = "priced")]
struct V1 {
    euros: u32,
}

#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[event(type = "priced", version = 2)]
struct V2 {
    cents: u64,
}

#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[event(type = "priced", version = 3, from = V2)]
struct V3 {
    cents: u64,
    currency: String,
}

impl From<V2> for V3 {
    fn from(V2 { cents }: V2) -> Self {
        Self {
            cents,
            currency: "EUR".into(),
        }
    }
}

#[derive(Debug, EventSet)]
enum Either {
    Newest(V3),
    Oldest(V1),
}

fn tell<E: Event + std::fmt::Debug>(name: &str, log: &Log<String>) -> Handler {
    let log = log.clone();
    Handler::on(name, move |event: E| {
        log.push(format!("{event:?}"));
        async {}
    })
}

async fn told(build: impl FnOnce(AppBuilder) -> AppBuilder, log: &Log<String>) -> Vec<String> {
    let app = TestApp::new(build).unwrap();
    app.publish(&V1 { euros: 1 }).await.unwrap();
    app.publish(&V2 { cents: 200 }).await.unwrap();
    app.publish(&V3 {
        cents: 300,
        currency: "CHF".into(),
    })
    .await
    .unwrap();

    let counts = app.drain().await.unwrap().counts;
    assert_eq!((counts.retried, counts.dead_lettered), (0, 0));
    log.sorted()
}

const FIRST: &str = "V1 { euros: 1 }";
const SECOND_AS_THIRD: &str = r#"V3 { cents: 200, currency: "EUR" }"#;
const THIRD: &str = r#"V3 { cents: 300, currency: "CHF" }"#;

#[tokio::test]
async fn each_version_goes_to_the_handler_of_that_version_and_else_of_the_next() {
    let log = Log::new();
    let old = tell::<V1>("old", &log);
    let new = tell::<V3>("new", &log);
    let found = told(|app| app.register(old).register(new), &log).await;
    assert_eq!(found, [FIRST, SECOND_AS_THIRD, THIRD]);
}

#[tokio::test]
async fn what_takes_every_event_takes_every_version() {
    let log = Log::new();
    let old = tell::<V1>("old", &log);
    let new = tell::<V3>("new", &log);
    let all = log.clone();
    let any = Handler::on("any", move |event: AnyEvent| {
        all.push(format!("any {}", event.event_type()));
        async {}
    });

    let found = told(|app| app.register(old).register(new).register(any), &log).await;
    assert_eq!(
        found,
        [
            FIRST,
            SECOND_AS_THIRD,
            THIRD,
            "any priced",
            "any priced",
            "any priced"
        ]
    );
}

#[tokio::test]
async fn a_set_of_two_versions_reads_each_as_itself() {
    let log = Log::new();
    let either = log.clone();
    let handler = Handler::on("either", move |event: Either| {
        either.push(match event {
            Either::Newest(event) => format!("{event:?}"),
            Either::Oldest(event) => format!("{event:?}"),
        });
        async {}
    });

    let found = told(|app| app.register(handler), &log).await;
    assert_eq!(found, [FIRST, SECOND_AS_THIRD, THIRD]);
}

#[test]
fn a_version_that_two_handlers_would_read_in_two_ways_is_refused() {
    let log = Log::new();
    let old = tell::<V2>("old", &log);
    let new = tell::<V3>("new", &log);
    let error = TestApp::new(|app| app.register(old).register(new)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AmbiguousVersion);

    let said = error.to_string();
    for part in ["version 2", "`priced`", "`old`", "`new`", "V2", "V3"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }

    // In queues of their own they do not meet.
    let old = tell::<V2>("old", &log).queue("old");
    let new = tell::<V3>("new", &log);
    TestApp::new(|app| app.register(old).register(new)).unwrap();
}

#[tokio::test]
async fn a_version_outlives_the_flat_form() {
    let queue: QueueName = queue();
    let log = Log::new();
    let flat = app(&queue).configure(|config| config.wire = WireFormat::Flat);
    let builder = flat.register(tell::<V3>("new", &log));
    let ezq = builder.connect().await.unwrap();
    ezq.publish(&V2 { cents: 200 }).await.unwrap();

    let mut tx = ezq.pool().begin().await.unwrap();
    ezq.publish(&V3 {
        cents: 300,
        currency: "CHF".into(),
    })
    .within(&mut tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();

    // The body is what Python reads, and nothing else.
    let bodies: Vec<String> = ezq::sqlx::query_scalar(ezq::sqlx::AssertSqlSafe(format!(
        "select message::text from pgmq.q_{queue} order by msg_id"
    )))
    .fetch_all(ezq.pool())
    .await
    .unwrap();
    assert_eq!(
        bodies,
        [
            r#"{"_type": "priced", "cents": 200}"#,
            r#"{"_type": "priced", "cents": 300, "currency": "CHF"}"#
        ]
    );

    drain(&ezq).await;
    assert_eq!(log.sorted(), [SECOND_AS_THIRD, THIRD]);
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "test.priced")]
struct PricedV1 {
    euros: u32,
}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "test.priced", version = 2, from = PricedV1)]
struct PricedV2 {
    cents: u64,
}

impl From<PricedV1> for PricedV2 {
    fn from(old: PricedV1) -> Self {
        Self {
            cents: u64::from(old.euros) * 100,
        }
    }
}

#[derive(Debug, PartialEq, Event, Serialize, Deserialize)]
#[event(type = "test.priced", version = 3, from = PricedV2)]
struct Priced {
    cents: u64,
    currency: String,
}

impl From<PricedV2> for Priced {
    fn from(old: PricedV2) -> Self {
        Self {
            cents: old.cents,
            currency: "EUR".into(),
        }
    }
}

#[tokio::test]
async fn older_versions_go_through_those_between_to_the_current_one() {
    let queue = queue();
    let log: Log<Priced> = Log::new();
    let seen = log.clone();
    let handler = Handler::on("prices", move |event: Priced| {
        seen.push(event);
        async {}
    });

    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish(&PricedV1 { euros: 3 }).await.unwrap();
    ezq.publish(&PricedV2 { cents: 450 }).await.unwrap();

    ezq.publish(&Priced {
        cents: 5,
        currency: "CHF".into(),
    })
    .await
    .unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 3);

    let mut prices = log.take();
    prices.sort_by_key(|price| std::cmp::Reverse(price.cents));

    let priced = |cents, currency: &str| Priced {
        cents,
        currency: currency.into(),
    };
    assert_eq!(
        prices,
        [priced(450, "EUR"), priced(300, "EUR"), priced(5, "CHF")]
    );
}
