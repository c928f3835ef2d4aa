//! Modules and discovered handlers, in an application on PGMQ, on another engine and in a test.

use std::time::Duration;

use ezq::handler::{Call, Extension, HandlerResult, Next};
use ezq::memory::MemoryEngine;
use ezq::prelude::*;
use ezq::testing::TestApp;
use ezq::{App, ErrorKind, Module};
use serde::{Deserialize, Serialize};

use crate::kit::{Log, app, drain, queue};

#[derive(Event, Serialize, Deserialize)]
#[event(type = "test.parcel")]
struct Parcel {
    n: i64,
}

/// Who sends it.
#[derive(Clone)]
struct Sender(&'static str);

#[derive(Clone)]
struct Depot(&'static str);

async fn sender(mut call: Call, next: Next) -> HandlerResult {
    call.insert(Sender("ada"));
    next.run(call).await
}

#[on_event(name = "modules.ship", layer = sender, queue = "modules_parcels")]
async fn ship(
    parcel: Parcel,
    State(log): State<Log<String>>,
    State(depot): State<Depot>,
    Extension(sender): Extension<Sender>,
) {
    log.push(format!("{} by {} from {}", parcel.n, sender.0, depot.0));
}

fn parcels(log: &Log<String>) -> Module {
    Module::new()
        .handler::<ship>()
        .state(log.clone())
        .state(Depot("paris"))
        .timeout(Some(Duration::from_secs(20)))
}

#[tokio::test]
async fn one_module_fits_an_application_on_pgmq_on_another_engine_and_of_a_test() {
    let log = Log::new();
    let seen = ["7 by ada from paris".to_owned()];
    let parcel = Parcel { n: 7 };
    let parcels_queue = ezq::QueueName::new("modules_parcels").unwrap();

    let queue = queue();
    let ezq = app(&queue).module(parcels(&log)).connect().await.unwrap();
    let report = ezq
        .dispatch_inline(ezq.publish(&parcel).queue(&parcels_queue))
        .await
        .unwrap();
    assert!(report.is_done(), "{report}");
    assert_eq!(log.take(), seen);
    assert_eq!(drain(&ezq).await.counts.handled, 0);

    let other = App::builder()
        .without_discovered_handlers()
        .module(parcels(&log))
        .build(MemoryEngine::new())
        .unwrap();
    other.publish(&parcel).queue(&parcels_queue).await.unwrap();
    let consumer = other.consumer().queue(&parcels_queue).until_idle();
    assert_eq!(consumer.run().await.unwrap().counts.handled, 1);
    assert_eq!(log.take(), seen);

    let test = TestApp::new(|app| app.module(parcels(&log))).unwrap();
    test.publish(&parcel).queue(&parcels_queue).await.unwrap();
    assert_eq!(
        test.drain_queue(&parcels_queue)
            .await
            .unwrap()
            .counts
            .handled,
        1
    );
    assert_eq!(log.take(), seen);
}

#[tokio::test(start_paused = true)]
async fn a_test_has_the_discovered_handlers_if_it_asks_for_them() {
    let log = Log::<String>::new();
    let app = TestApp::new(|app| {
        app.with_discovered_handlers()
            .state(log.clone())
            .state(Depot("rome"))
    });
    let app = app.unwrap();
    let parcels_queue = ezq::QueueName::new("modules_parcels").unwrap();
    app.publish(&Parcel { n: 8 })
        .queue(&parcels_queue)
        .await
        .unwrap();
    assert_eq!(
        app.drain_queue(&parcels_queue)
            .await
            .unwrap()
            .counts
            .handled,
        1
    );
    assert_eq!(log.take(), ["8 by ada from rome"]);
}

#[tokio::test(start_paused = true)]
async fn who_only_publishes_needs_no_handlers_state_and_who_consumes_misses_all_at_once() {
    // Nothing here has the states of the handlers that were found at link time.
    let app = TestApp::new(|app| app.with_discovered_handlers()).unwrap();
    let parcels_queue = ezq::QueueName::new("modules_parcels").unwrap();
    app.publish(&Parcel { n: 9 })
        .queue(&parcels_queue)
        .await
        .unwrap();

    let consuming = app
        .consumer()
        .queue(&parcels_queue)
        .run()
        .await
        .unwrap_err();
    let inline = app.publish(&Parcel { n: 9 }).queue(&parcels_queue);
    let dispatching = app.dispatch_inline(inline).await.unwrap_err();
    for error in [consuming, dispatching] {
        assert_eq!(error.kind(), ErrorKind::MissingState);
        let text = error.to_string();
        for missing in ["modules.ship", "Log<", "Depot"] {
            assert!(text.contains(missing), "{missing} is not in {text}");
        }
    }
    // Nothing was taken from the queue.
    assert_eq!(app.engine().published(&parcels_queue).len(), 1);
}
