//! Modules of handlers: their states, options and queues, nested and beside each other.

use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::admin::DeadLetterFilter;
use ezq_core::app::{App, AppBuilder, Module};
use ezq_core::handler::{Backoff, Batch, Context, Handler, HandlerDefinition, State};
use ezq_core::memory::MemoryEngine;
use ezq_core::message::{Progress, QueueName};
use ezq_core::testing::TestApp;

use crate::fixtures::{Mail, Step};

/// Publishes the sum of the states that it finds.
fn adding(name: &str) -> Handler {
    let add = |_: Mail, State(a): State<u32>, State(b): State<u8>| async move {
        Step {
            n: a + u32::from(b),
        }
    };
    Handler::on(name, add)
}

fn of_one(build: impl FnOnce(AppBuilder) -> AppBuilder) -> TestApp {
    TestApp::new(build).unwrap()
}

/// What `adding` publishes in these applications, in the order of the handlers' names.
async fn sums(app: &TestApp) -> Vec<u32> {
    let report = app.dispatch_inline(&Mail {}).await.unwrap();
    assert!(report.is_done(), "{report}");
    app.published::<Step>().iter().map(|step| step.n).collect()
}

#[tokio::test(start_paused = true)]
async fn a_handler_finds_a_state_in_its_module_then_around_it_then_in_the_application() {
    let inner = Module::new().register(adding("c inner")).state(100_u32);
    let outer = Module::new()
        .register(adding("b outer"))
        .module(inner)
        .state(1_u8)
        .module(Module::new().register(adding("d plain")));
    let app = of_one(|app| {
        app.register(adding("a app"))
            .module(outer)
            .state(10_u32)
            .state(2_u8)
    });
    assert_eq!(sums(&app).await, [12, 11, 101, 11]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_handler_finds_its_modules_state_too() {
    let add = |batch: Batch<Step>, State(n): State<u32>| async move {
        assert_eq!((batch.len(), n), (1, 7));
    };
    let module = Module::new()
        .register(Handler::on_batch("add", add))
        .state(7_u32);
    let app = of_one(|app| app.module(module).state(1_u32));
    let report = app.dispatch_inline(&Step { n: 1 }).await.unwrap();
    assert!(report.is_done(), "{report}");
}

#[derive(Clone)]
struct Whole {
    a: u32,
    b: u8,
}

#[tokio::test(start_paused = true)]
async fn a_state_is_made_of_a_part_of_another_one() {
    // What it is made of may be given later, and elsewhere.
    let module = Module::new()
        .register(adding("add"))
        .state_from(|whole: &Whole| whole.a);
    let app = of_one(|app| {
        app.module(module)
            .state_from(|whole: &Whole| whole.b)
            .state(Whole { a: 30, b: 4 })
    });
    assert_eq!(sums(&app).await, [34]);
}

#[test]
fn what_a_state_should_have_been_made_of_is_named_if_it_is_missing() {
    let module = Module::new()
        .register(adding("add"))
        .state_from(|whole: &Whole| whole.a);
    let error = TestApp::new(|app| app.module(module).state(1_u8)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingState);
    let text = error.to_string();
    assert!(
        text.contains("`u32`: it is made of") && text.contains("Whole"),
        "{text}"
    );
}

#[test]
fn every_missing_state_is_named_at_once() {
    let needs = Handler::on("needs", |_: Step, _: State<i8>| async {});
    let module = Module::new().register(adding("add"));
    let error = TestApp::new(|app| app.register(needs).module(module)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingState);
    let text = error.to_string();
    for missing in ["`needs`", "`i8`", "`add`", "`u32`", "`u8`"] {
        assert!(text.contains(missing), "{missing} is not in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_function_of_a_module_fits_any_application() {
    fn module() -> Module {
        Module::new()
            .register(adding("add"))
            .state(1_u32)
            .state(1_u8)
    }
    let test = of_one(|app| app.module(module()));
    assert_eq!(sums(&test).await, [2]);
    let app = App::builder()
        .without_discovered_handlers()
        .module(module())
        .build(MemoryEngine::new())
        .unwrap();
    assert_eq!(app.handlers().count(), 1);
    assert!(app.dispatch_inline(&Mail {}).await.unwrap().is_done());
}

#[test]
fn two_handlers_of_one_name_are_refused_across_modules() {
    let module = || {
        Module::new()
            .register(adding("add"))
            .state(1_u32)
            .state(1_u8)
    };
    for twice in [
        Module::new().module(module()).module(module()),
        module().register(adding("add")),
    ] {
        let error = TestApp::new(|app| app.module(twice)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DuplicateHandler);
    }
}

#[tokio::test(start_paused = true)]
async fn options_of_a_module_are_defaults_and_the_nearest_wins() {
    let attempts = |name: &str| {
        Handler::on(name, |_: Step, context: Context| async move {
            let left = context.deadline().unwrap() - tokio::time::Instant::now();
            Err::<(), _>(format!("{} of {left:?}", context.attempt()))
        })
    };
    let second = Some(Duration::from_secs(1));
    let inner = Module::new().register(attempts("inner")).max_attempts(2);
    let outer = Module::new()
        .module(inner)
        .register(attempts("own").timeout(Some(Duration::from_secs(9))))
        .register(attempts("outer"))
        .max_attempts(3)
        .backoff(Backoff::constant(Duration::ZERO))
        .timeout(second);
    let app = of_one(|app| app.module(outer));
    app.publish(&Step { n: 1 }).await.unwrap();
    app.drain().await.unwrap();

    let letters = app.dead_letters(&app.config().queue).unwrap();
    let letter = letters
        .list(&DeadLetterFilter::default(), 1)
        .await
        .unwrap()
        .remove(0);
    let progress = Progress::from_headers(&letter.headers);
    let newest = |name: &str| {
        let mark = progress.get(&name.into()).unwrap();
        mark.errors.last().unwrap().error.clone()
    };
    assert_eq!(newest("inner"), "2 of 1s");
    assert_eq!(newest("outer"), "3 of 1s");
    assert_eq!(newest("own"), "3 of 9s");
}

#[tokio::test(start_paused = true)]
async fn a_module_gives_its_handlers_a_queue() {
    let named = |name: &str| Handler::on(name, |_: Step| async {});
    let module = Module::new()
        .register(named("names one").queue("own"))
        .register(named("names none"))
        .module(Module::new().register(named("inner")).queue("inner"))
        .queue("module");
    let app = of_one(|app| app.module(module));
    for (queue, handler) in [
        ("own", "names one"),
        ("module", "names none"),
        ("inner", "inner"),
    ] {
        let step = app
            .publish(&Step { n: 1 })
            .queue(QueueName::new(queue).unwrap());
        let report = app.dispatch_inline(step).await.unwrap();
        let ran: Vec<&str> = report
            .outcomes
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(ran, [handler]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_without_a_macro_has_a_definition_too() {
    struct Add;

    impl HandlerDefinition for Add {
        fn definition() -> Handler {
            adding("add")
        }
    }

    let module = Module::new().handler::<Add>().state(1_u32).state(2_u8);
    assert_eq!(sums(&of_one(|app| app.module(module))).await, [3]);
}
