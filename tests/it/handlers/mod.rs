//! What handlers see and say, and what becomes of their events.

mod attempts;
mod dead_letters;
mod returned_events;
mod unknown_types;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ezq::handler::HandlerOptions;
use ezq::prelude::*;
use ezq::publish::Published;
use ezq::{ErrorKind, Handler, QueueName};
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;

use crate::kit::{Log, Numbered, app, drain, queue, send_batch};

#[derive(Event, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[event(type = "test.named")]
struct Named {
    name: String,
}

fn named(name: &str) -> Named {
    Named {
        name: name.to_owned(),
    }
}

/// A handler that writes down its attempts and fails the first few.
fn failing(name: &str, failures: u32) -> (Handler, Log<u32>) {
    let log = Log::new();
    let attempts = log.clone();
    let handler = Handler::on(name, move |_: Numbered, context: Context| {
        attempts.push(context.attempt());
        async move {
            if context.attempt() <= failures {
                Err("not yet")
            } else {
                Ok(())
            }
        }
    });
    (handler, log)
}

async fn run_one(queue: &QueueName, handler: Handler) -> Ezq {
    let ezq = app(queue).register(handler).connect().await.unwrap();
    ezq.publish(&Numbered { n: 7 }).await.unwrap();
    drain(&ezq).await;
    ezq
}

#[tokio::test]
async fn handlers_run_in_their_order_and_those_of_one_order_together() {
    let queue = queue();
    let log = Log::new();

    let step = |name: &'static str, order: i32| {
        let log = log.clone();
        let handler = Handler::on(name, move |_: Numbered| {
            let log = log.clone();
            async move {
                log.push(format!("{name} begins"));
                tokio::time::sleep(Duration::from_millis(10)).await;
                log.push(format!("{name} ends"));
                if name == "first" {
                    Err("a failure holds up none")
                } else {
                    Ok(())
                }
            }
        });
        handler.order(order).max_attempts(1)
    };

    let meet = Arc::new(Barrier::new(2));

    let pair = |name: &'static str| {
        let meet = Arc::clone(&meet);
        let log = log.clone();
        let handler = Handler::on(name, move |_: Numbered| {
            let meet = Arc::clone(&meet);
            let log = log.clone();
            async move {
                // Neither passes unless both are here.
                meet.wait().await;
                log.push("pair met".to_owned());
            }
        });
        handler.order(5)
    };

    let builder = app(&queue)
        .register(step("last", 6))
        .register(pair("one"))
        .register(step("second", 0))
        .register(pair("other"))
        .register(step("first", -1));

    let ezq = builder.connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    drain(&ezq).await;

    let expected = [
        "first begins",
        "first ends",
        "second begins",
        "second ends",
        "pair met",
        "pair met",
        "last begins",
        "last ends",
    ];
    assert_eq!(log.take(), expected);
}

#[derive(EventSet, Debug)]
enum Either {
    Numbered(Numbered),
    Named(Named),
}

#[tokio::test]
async fn one_handler_takes_several_events_as_an_enum() {
    let queue = queue();
    let log = Log::new();
    let seen = log.clone();
    let handler = Handler::on("either", move |event: Either| {
        seen.push(match event {
            Either::Numbered(Numbered { n }) => n.to_string(),
            Either::Named(Named { name }) => name,
        });
        async {}
    });

    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    ezq.publish(&named("two")).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 2);
    assert_eq!(log.sorted(), ["1", "two"]);
}

#[tokio::test]
async fn a_catch_all_takes_every_event_beside_the_others() {
    let queue = queue();
    let all = Log::new();
    let typed = Log::new();
    let all_seen = all.clone();
    let typed_seen = typed.clone();

    let ezq = app(&queue)
        .register(Handler::on("all", move |event: AnyEvent| {
            let number = event.decode::<Numbered>().ok().map(|event| event.n);
            all_seen.push((event.event_type().to_owned(), number));
            async {}
        }))
        .register(Handler::on("typed", move |event: Numbered| {
            typed_seen.push(event.n);
            async {}
        }))
        .connect()
        .await
        .unwrap();

    ezq.publish(&Numbered { n: 1 }).await.unwrap();
    ezq.publish(&named("two")).await.unwrap();
    send_batch(&ezq, &queue, &[r#"{"_type": "Unheard", "n": 3}"#.into()]).await;
    assert_eq!(drain(&ezq).await.counts.handled, 3);

    let expected = [
        ("Unheard", Some(3)),
        ("test.named", None),
        ("test.numbered", Some(1)),
    ];
    assert_eq!(all.sorted(), expected.map(|(name, n)| (name.to_owned(), n)));
    assert_eq!(typed.take(), [1]);
}

#[tokio::test]
async fn a_handler_draws_state_publisher_and_context() {
    #[derive(Clone)]
    struct Plans(&'static str);

    let queue = queue();
    let contexts = Log::new();
    let seen = contexts.clone();
    let names = Log::new();
    let named_seen = names.clone();

    let handler = Handler::on(
        "draws",
        move |event: Numbered,
              State(plans): State<Plans>,
              publisher: Publisher,
              context: Context| {
            seen.push(context);
            async move {
                let name = format!("{} {}", plans.0, event.n);
                publisher.publish(&Named { name }).await?;
                Ok::<(), HandlerError>(())
            }
        },
    );

    let ezq = app(&queue)
        .configure(|config| config.app = "shop".into())
        .state(Plans("plan"))
        .register(handler.timeout(Some(Duration::from_secs(20))))
        .register(Handler::on(
            "named",
            move |event: Named, context: Context| {
                named_seen.push((event.name, context));
                async {}
            },
        ))
        .connect()
        .await
        .unwrap();

    let before = Instant::now();
    let published: Published = ezq.publish(&Numbered { n: 1 }).subject("s").await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 2);

    let context = contexts.take().remove(0);
    assert_eq!(context.event_id(), published.event_id);
    assert_eq!(context.message_id(), &published.id);
    assert_eq!(context.queue(), &queue);
    assert_eq!(context.event_type(), "test.numbered");
    assert_eq!(context.handler().as_str(), "draws");
    assert_eq!((context.attempt(), context.deliveries()), (1, 1));
    assert_eq!(context.envelope().source(), "shop");
    assert_eq!(context.envelope().subject(), Some("s"));
    assert!(!context.is_lease_expired() && !context.cancellation().is_cancelled());

    let deadline = context.deadline().unwrap().into_std() - before;
    assert!((20..50).contains(&deadline.as_secs()), "{deadline:?}");

    let (name, caused) = names.take().remove(0);
    assert_eq!(name, "plan 1");
    assert_eq!(
        caused.headers().text("causation-id"),
        Some(published.event_id.as_str())
    );
    assert_eq!(
        caused.headers().text("correlation-id"),
        Some(published.event_id.as_str())
    );
}

#[tokio::test]
async fn what_cannot_run_fails_when_the_application_is_built() {
    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "test.numbered")]
    struct Impostor {}

    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "test.other", alias = "test.numbered")]
    struct AliasImpostor {}

    async fn take<E>(_: E) {}

    let queue = queue();
    let kind = async |builder: ezq::EzqBuilder| builder.connect().await.unwrap_err().kind();
    let needs = Handler::on("needs", |_: Numbered, _: State<u128>| async {});
    assert_eq!(
        kind(app(&queue).register(needs)).await,
        ErrorKind::MissingState
    );

    let typed = || Handler::on("typed", take::<Numbered>);
    let twice = app(&queue).register(typed()).register(typed());
    assert_eq!(kind(twice).await, ErrorKind::DuplicateHandler);

    let impostor = Handler::on("impostor", take::<Impostor>);
    let both = app(&queue).register(typed()).register(impostor);
    assert_eq!(kind(both).await, ErrorKind::DuplicateEvent);

    let impostor = Handler::on("impostor", take::<AliasImpostor>);
    let both = app(&queue).register(typed()).register(impostor);
    assert_eq!(kind(both).await, ErrorKind::DuplicateEvent);

    let stray = app(&queue).register(typed()).configure(|config| {
        config
            .handlers
            .insert("typo".into(), HandlerOptions::default());
    });
    assert_eq!(kind(stray).await, ErrorKind::Configuration);

    let route = app(&queue).queue_engine(&queue, "kafka");
    assert_eq!(kind(route).await, ErrorKind::Configuration);
}

static DISCOVERED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

#[derive(Event, Serialize, Deserialize)]
#[event(type = "test.discovered")]
struct Discovered {
    by: String,
}

#[on_event(name = "it.discovered", timeout = "10s")]
async fn discovered(event: Discovered, context: Context) {
    DISCOVERED
        .lock()
        .unwrap()
        .push((event.by, context.handler().to_string()));
}

#[tokio::test]
async fn annotated_handlers_are_found_without_being_registered() {
    let queue = queue();
    let own = queue.clone();
    // Another annotated handler of this binary asks for this state.
    let builder = Ezq::builder()
        .configure(|config| config.queue = own)
        .state("");

    let ezq = builder.connect().await.unwrap();
    assert!(
        ezq.handlers()
            .any(|handler| handler.name().as_str() == "it.discovered")
    );

    ezq.publish(&Discovered {
        by: queue.to_string(),
    })
    .await
    .unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);

    let seen = DISCOVERED.lock().unwrap().clone();
    assert_eq!(seen, [(queue.to_string(), "it.discovered".to_owned())]);

    let without = app(&queue).connect().await.unwrap();
    assert_eq!(without.handlers().count(), 0);
    let explicit = app(&queue).handler::<discovered>().connect().await.unwrap();
    assert_eq!(explicit.handlers().count(), 1);
    assert_eq!(Discovered::TYPE, "test.discovered");
}
