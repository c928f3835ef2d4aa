//! Layers around handlers: their order, what they give, answer and see, and what they are part of.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::admin::DeadLetterFilter;
use ezq_core::app::{InlineOutcome, Module};
use ezq_core::handler::{
    Batch, Call, Context, Extension, Handler, HandlerError, HandlerErrorKind, HandlerResult, Layer,
    Next, Returned, State,
};
use ezq_core::message::ReasonKind;
use ezq_core::testing::TestApp;
use tokio::sync::Notify;

use crate::fixtures::{Mail, Step};

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, entry: impl Into<String>) {
        self.0.lock().unwrap().push(entry.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// A layer that writes down when it is entered and left.
    fn layer(&self, name: &'static str) -> Named {
        Named(self.clone(), name)
    }
}

struct Named(Log, &'static str);

impl Layer for Named {
    async fn run(&self, call: Call, next: Next) -> HandlerResult {
        self.0.push(format!("{} in", self.1));
        let result = next.run(call).await;
        self.0.push(format!("{} out", self.1));
        result
    }
}

fn noting(log: &Log) -> Handler {
    let log = log.clone();
    Handler::on("note", move |event: Step| {
        log.push(format!("step {}", event.n));
        async {}
    })
}

#[tokio::test(start_paused = true)]
async fn layers_run_from_the_application_inwards_and_the_first_is_outermost() {
    let log = Log::default();
    let handler = noting(&log)
        .layer(log.layer("handler 1"))
        .layer(log.layer("handler 2"));
    let inner = Module::new().register(handler).layer(log.layer("inner"));
    let outer = Module::new().layer(log.layer("outer")).module(inner);
    let app = TestApp::new(|app| {
        app.layer(log.layer("app 1"))
            .module(outer)
            .layer(log.layer("app 2"))
    })
    .unwrap();

    app.publish(&Step { n: 1 }).await.unwrap();
    app.drain().await.unwrap();
    let order = ["app 1", "app 2", "outer", "inner", "handler 1", "handler 2"];
    let entered = order.iter().map(|name| format!("{name} in"));
    let left = order.iter().rev().map(|name| format!("{name} out"));
    let expected: Vec<String> = entered.chain(["step 1".to_owned()]).chain(left).collect();
    assert_eq!(log.take(), expected);
}

#[derive(Clone, PartialEq, Debug)]
struct Tenant(&'static str);

async fn tenant(mut call: Call, next: Next) -> HandlerResult {
    call.insert(Tenant("acme"));
    next.run(call).await
}

#[tokio::test(start_paused = true)]
async fn extractors_read_what_a_layer_gave() {
    let log = Log::default();
    let seen = log.clone();
    let given = Handler::on("given", move |_: Step, tenant: Extension<Tenant>| {
        seen.push(tenant.0.0);
        async {}
    });
    let seen = log.clone();
    let absent = Handler::on(
        "absent",
        move |_: Step, tenant: Option<Extension<Tenant>>| {
            seen.push(format!("{:?}", tenant.is_none()));
            async {}
        },
    );
    let missing = Handler::on("missing", |_: Step, _: Extension<Tenant>| async {});
    let app = TestApp::new(|app| {
        app.register(given.layer(tenant).order(1))
            .register(absent.order(2))
            .register(missing.order(3))
    })
    .unwrap();

    let report = app.dispatch_inline(&Step { n: 1 }).await.unwrap();
    assert_eq!(log.take(), ["acme", "true"]);
    // One run's value is no other run's.
    let InlineOutcome::Failed { error, is_fatal } = &report.outcomes[2].1 else {
        panic!("{report}");
    };
    assert!(*is_fatal && error.contains("Tenant"), "{error}");
}

/// Lets nothing through.
struct Open(fn() -> HandlerResult);

impl Layer for Open {
    async fn run(&self, _: Call, _: Next) -> HandlerResult {
        self.0()
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_answers_in_the_handlers_place() {
    let log = Log::default();
    let with = |answer| {
        let handler = noting(&log).max_attempts(1).layer(Open(answer));
        TestApp::new(|app| app.register(handler)).unwrap()
    };

    let app = with(|| Ok(Returned::default()));
    app.publish(&Step { n: 1 }).await.unwrap();
    assert_eq!(app.drain().await.unwrap().counts.handled, 1);

    let app = with(|| Err(HandlerError::retry("the circuit is open")));
    app.publish(&Step { n: 1 }).await.unwrap();
    assert_eq!(
        app.drain_queue("ezq").await.unwrap().counts.dead_lettered,
        1
    );

    // A snooze counts no attempt, of which there is one.
    let app = with(|| Err(HandlerError::snooze(Duration::from_secs(30))));
    app.publish(&Step { n: 1 }).await.unwrap();
    for _ in 0..3 {
        let report = app.drain_queue("ezq").await.unwrap();
        assert_eq!((report.counts.retried, report.counts.dead_lettered), (1, 0));
        tokio::time::advance(Duration::from_secs(31)).await;
    }
    assert!(log.take().is_empty(), "the handler did not run");
}

#[tokio::test(start_paused = true)]
async fn a_layer_sees_the_handlers_typed_error_and_may_change_it() {
    async fn give_up(call: Call, next: Next) -> HandlerResult {
        next.run(call).await.map_err(|error| {
            assert_eq!(error.kind(), HandlerErrorKind::Retry);
            let source = error.source().downcast_ref::<std::fmt::Error>();
            assert!(source.is_some(), "{error}");
            HandlerError::fatal("no use")
        })
    }
    let failing = |_: Step| async { Err::<(), _>(std::fmt::Error) };
    let handler = Handler::on("failing", failing).layer(give_up);
    let app = TestApp::new(|app| app.register(handler)).unwrap();
    app.publish(&Step { n: 1 }).await.unwrap();
    assert_eq!(app.drain().await.unwrap().counts.dead_lettered, 1);

    let letters = app.dead_letters(&app.config().queue).unwrap();
    let letter = letters
        .list(&DeadLetterFilter::default(), 1)
        .await
        .unwrap()
        .remove(0);
    let reason = letter.reason.unwrap();
    assert_eq!((reason.kind, &*reason.error), (ReasonKind::Fatal, "no use"));
}

#[tokio::test(start_paused = true)]
async fn the_handlers_timeout_and_its_panics_are_those_of_its_layers() {
    async fn slow(call: Call, next: Next) -> HandlerResult {
        tokio::time::sleep(Duration::from_secs(8)).await;
        next.run(call).await
    }
    async fn panicking(_: Call, _: Next) -> HandlerResult {
        panic!("in a layer")
    }
    let log = Log::default();
    let limited = |handler: Handler| {
        let handler = handler.timeout(Some(Duration::from_secs(5)));
        TestApp::new(|app| app.register(handler)).unwrap()
    };
    let slow_app = limited(noting(&log).layer(slow));
    let panicking_app = limited(noting(&log).layer(panicking));

    let report = slow_app.dispatch_inline(&Step { n: 1 }).await.unwrap();
    assert!(
        report.to_string().contains("timed out after 5s"),
        "{report}"
    );
    let report = panicking_app.dispatch_inline(&Step { n: 1 }).await.unwrap();
    assert!(
        report.to_string().contains("panicked: in a layer"),
        "{report}"
    );
    assert!(log.take().is_empty(), "the handler did not run");
}

#[tokio::test(start_paused = true)]
async fn a_layer_is_dropped_with_the_run_that_is_cancelled() {
    struct OnDrop(Arc<Notify>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }

    let entered = Arc::new(Notify::new());
    let dropped = Arc::new(Notify::new());
    let waiting = {
        let entered = Arc::clone(&entered);
        let dropped = Arc::clone(&dropped);
        move |_: Call, _: Next| {
            let guard = OnDrop(Arc::clone(&dropped));
            entered.notify_one();
            async move {
                let _guard = guard;
                pending::<HandlerResult>().await
            }
        }
    };
    let handler = noting(&Log::default()).layer(waiting);
    let app = TestApp::new(|app| app.register(handler)).unwrap();
    app.publish(&Step { n: 1 }).await.unwrap();
    let consumer = app.consumer().spawn();
    entered.notified().await;
    consumer.interrupt();
    dropped.notified().await;
    assert_eq!(consumer.await.unwrap().counts.handled, 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_one_run_with_a_context_for_each_event() {
    let log = Log::default();
    let seen = log.clone();
    let watching = move |call: Call, next: Next| {
        let seen = seen.clone();
        async move {
            let attempts: Vec<u32> = call.contexts().iter().map(Context::attempt).collect();
            let result = next.run(call).await;
            let failures = result.as_ref().map(|returned| {
                let failures = returned.failures();
                failures
                    .map(|(place, error)| format!("{place}: {error}"))
                    .collect::<Vec<_>>()
            });
            seen.push(format!("{attempts:?} {:?}", failures.unwrap()));
            result
        }
    };
    let handler = Handler::on_batch("odd", |batch: Batch<Step>| async move {
        let odd = |step: &Step| if step.n % 2 == 1 { Ok(()) } else { Err("even") };
        batch.events().map(odd).collect::<Vec<_>>()
    });
    let handler = handler.max_attempts(1).layer(watching);
    let app = TestApp::new(|app| app.register(handler)).unwrap();
    for n in 1..=3 {
        app.publish(&Step { n }).await.unwrap();
    }
    let report = app.drain().await.unwrap();
    assert_eq!((report.counts.handled, report.counts.dead_lettered), (2, 1));
    assert_eq!(log.take(), [r#"[1, 1, 1] ["1: even"]"#]);
}

#[tokio::test(start_paused = true)]
async fn after_a_layers_error_each_event_of_a_batch_runs_alone() {
    let log = Log::default();
    let seen = log.clone();
    let refusing_many = move |call: Call, next: Next| {
        seen.push(call.contexts().len().to_string());
        async move {
            if call.contexts().len() > 1 {
                return Err(HandlerError::retry("too many"));
            }
            next.run(call).await
        }
    };
    let handler = Handler::on_batch("all", |_: Batch<Step>| async {}).layer(refusing_many);
    let app = TestApp::new(|app| app.register(handler)).unwrap();
    for n in 1..=2 {
        app.publish(&Step { n }).await.unwrap();
    }
    assert_eq!(app.drain().await.unwrap().counts.handled, 2);
    assert_eq!(log.take(), ["2", "1", "1"]);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_answers_for_a_batch_answers_for_each_event() {
    let handler = Handler::on_batch("all", |_: Batch<Step>| async { Err::<(), _>("not called") });
    let handler = handler.layer(Open(|| Ok(Returned::default())));
    let app = TestApp::new(|app| app.register(handler)).unwrap();
    for n in 1..=3 {
        app.publish(&Step { n }).await.unwrap();
    }
    assert_eq!(app.drain().await.unwrap().counts.handled, 3);
}

#[tokio::test(start_paused = true)]
async fn a_layer_publishes_with_what_the_handler_returns() {
    async fn mailing(call: Call, next: Next) -> HandlerResult {
        let mut returned = next.run(call).await?;
        let types: Vec<&str> = returned.event_types().collect();
        assert_eq!(types, ["step"]);
        returned.publish(&Mail {})?;
        Ok(returned)
    }
    let once = |step: Step| async move { (step.n == 1).then_some(Step { n: 2 }) };
    let handler = Handler::on("once", once).layer(mailing);
    let app = TestApp::new(|app| app.register(handler)).unwrap();
    let report = app.dispatch_inline(&Step { n: 1 }).await.unwrap();
    assert!(report.is_done(), "{report}");
    assert_eq!(app.published::<Mail>().len(), 1);
    assert_eq!(app.assert_published::<Step>().n, 2);
}

/// A transaction of the layer's own, which the handler writes into.
#[derive(Clone, Default)]
struct Writes(Arc<Mutex<Vec<u32>>>);

#[tokio::test(start_paused = true)]
async fn a_layer_has_a_transaction_of_its_own() {
    async fn transaction(mut call: Call, next: Next) -> HandlerResult {
        let store: Writes = call.state().expect("the module's state");
        let begun = Writes::default();
        call.insert(begun.clone());
        let returned = next.run(call).await?;
        store.0.lock().unwrap().append(&mut begun.0.lock().unwrap());
        Ok(returned)
    }
    async fn write(step: Step, writes: Extension<Writes>) -> Result<(), &'static str> {
        writes.0.0.lock().unwrap().push(step.n);
        if step.n == 2 {
            Err("rolled back")
        } else {
            Ok(())
        }
    }
    let store = Writes::default();
    let module = Module::new()
        .register(Handler::on("write", write).max_attempts(1))
        .state(store.clone())
        .layer(transaction);
    let app = TestApp::new(|app| app.module(module)).unwrap();
    for n in 1..=3 {
        app.publish(&Step { n }).await.unwrap();
    }
    app.drain().await.unwrap();
    let mut written = store.0.lock().unwrap().clone();
    written.sort_unstable();
    assert_eq!(written, [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_one_run_returned_is_not_another_runs_answer() {
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Option<Returned>>>);

    async fn keep(call: Call, next: Next) -> HandlerResult {
        let Kept(kept) = call.state().unwrap();
        let returned = next.run(call).await?;
        *kept.lock().unwrap() = Some(returned);
        Ok(Returned::default())
    }
    async fn give(call: Call, _: Next) -> HandlerResult {
        let Kept(kept) = call.state().unwrap();
        Ok(kept.lock().unwrap().take().unwrap_or_default())
    }
    let batch = Handler::on_batch("batch", |_: Batch<Step>| async { vec![Ok::<(), &str>(())] });
    let app = TestApp::new(|app| {
        app.register(batch.layer(keep))
            .register(Handler::on("one", |_: Step| async {}).order(1).layer(give))
            .state(Kept::default())
    })
    .unwrap();
    let report = app.dispatch_inline(&Step { n: 1 }).await.unwrap();
    assert!(report.outcomes[0].1.is_done(), "{report}");
    let refused = "a layer returned what another run had returned";
    assert!(report.to_string().contains(refused), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_layer_runs_around_a_handler_whose_event_cannot_be_decoded() {
    async fn expecting(call: Call, next: Next) -> HandlerResult {
        let result = next.run(call).await;
        let kind = result.as_ref().map_err(HandlerError::kind).err();
        assert_eq!(kind, Some(HandlerErrorKind::Undecodable));
        result
    }
    let handler = noting(&Log::default()).layer(expecting);
    let app = TestApp::new(|app| app.register(handler)).unwrap();
    let wrong = ezq_core::event::Envelope::builder("step", "/test");
    let wrong = wrong.data(&"no step").unwrap().build().unwrap();
    app.publish_envelope(wrong).await.unwrap();
    assert_eq!(app.drain().await.unwrap().counts.dead_lettered, 1);
}

#[tokio::test(start_paused = true)]
async fn a_layer_finds_the_states_of_the_handlers_module() {
    async fn checking(call: Call, next: Next) -> HandlerResult {
        assert_eq!(call.state::<u32>(), Some(7));
        assert_eq!(call.state::<u8>(), Some(1));
        assert_eq!(call.state::<u16>(), None);
        next.run(call).await
    }
    let handler = Handler::on("n", |_: Step, State(n): State<u32>| async move {
        assert_eq!(n, 7)
    });
    let module = Module::new().register(handler).state(7_u32).layer(checking);
    let app = TestApp::new(|app| app.module(module).state(1_u32).state(1_u8)).unwrap();
    let report = app.dispatch_inline(&Step { n: 1 }).await.unwrap();
    assert!(report.is_done(), "{report}");
}
