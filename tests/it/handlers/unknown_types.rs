//! Types and versions that no handler of this process knows.

use std::time::Duration;

use ezq::Handler;
use ezq::config::UnknownTypes;
use ezq::handler::{Backoff, RetryPolicy};
use ezq::message::{HandlerName, ReasonKind};
use ezq::prelude::*;
use serde::{Deserialize, Serialize};

use super::attempts::PAUSE;
use super::{failing, named};
use crate::kit::{Numbered, app, drain, held, only_dead, queue, until};

fn patiently(max_attempts: u32) -> UnknownTypes {
    UnknownTypes::Retry(RetryPolicy::new(
        max_attempts,
        Backoff::constant(Duration::ZERO),
    ))
}

#[tokio::test]
async fn an_unknown_type_is_retried_then_a_dead_letter_or_skipped() {
    let cases = [
        (patiently(3), (0, 2, 1)),
        (UnknownTypes::DeadLetter, (0, 0, 1)),
        (UnknownTypes::Skip, (1, 0, 0)),
    ];
    for (policy, expected) in cases {
        let queue = queue();
        let (handler, _) = failing("numbered", 0);
        let builder = app(&queue)
            .register(handler)
            .configure(|c| c.unknown_types = policy.clone());
        let ezq = builder.connect().await.unwrap();
        ezq.publish(&named("unheard")).await.unwrap();

        let counts = drain(&ezq).await.counts;
        assert_eq!(
            (counts.handled, counts.retried, counts.dead_lettered),
            expected,
            "{policy:?}"
        );

        if expected.2 == 1 {
            let reason = only_dead(&ezq, &queue).await.reason.unwrap();
            assert_eq!(reason.kind, ReasonKind::UnknownType);
            assert_eq!(u64::from(reason.attempts), expected.1 + 1);
            assert!(reason.error.contains("test.named"), "{}", reason.error);
        }
    }
}

#[tokio::test]
async fn an_unknown_type_waits_for_a_process_that_knows_it() {
    let queue = queue();
    let policy = RetryPolicy::new(5, Backoff::constant(PAUSE));
    let old = app(&queue).configure(|config| config.unknown_types = UnknownTypes::Retry(policy));
    let old = old.connect().await.unwrap();
    old.publish(&Numbered { n: 1 }).await.unwrap();
    assert_eq!(drain(&old).await.counts.retried, 1);

    let (handler, log) = failing("numbered", 0);
    let new = app(&queue).register(handler).connect().await.unwrap();
    let consumer = new.consumer().spawn();
    until(async || consumer.counts().handled == 1).await;
    assert_eq!(log.take(), [1]);
    assert_eq!(held(&new, &queue).await, [0; 4]);
}

#[tokio::test]
async fn a_newer_version_is_not_guessed_at() {
    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "test.numbered", version = 2)]
    struct Newer {
        n: i64,
    }

    let cases = [
        (patiently(2), (0, 1, 1)),
        (UnknownTypes::DeadLetter, (0, 0, 1)),
        (UnknownTypes::Skip, (1, 0, 0)),
    ];

    for (policy, expected) in cases {
        let queue = queue();
        let (handler, log) = failing("old", 0);
        let builder = app(&queue)
            .register(handler)
            .configure(|c| c.unknown_types = policy.clone());
        let ezq = builder.connect().await.unwrap();
        ezq.publish(&Newer { n: 1 }).await.unwrap();

        let counts = drain(&ezq).await.counts;
        assert_eq!(
            (counts.handled, counts.retried, counts.dead_lettered),
            expected,
            "{policy:?}"
        );
        assert!(log.take().is_empty());

        if expected.2 == 1 {
            let reason = only_dead(&ezq, &queue).await.reason.unwrap();
            assert_eq!(reason.kind, ReasonKind::NewerVersion);
            assert_eq!(reason.handler, Some(HandlerName::from("old")));
        }
    }

    // The other way round an older one is read.
    let queue = queue();
    let handler = Handler::on("new", |event: Newer| async move { assert_eq!(event.n, 5) });
    let ezq = app(&queue).register(handler).connect().await.unwrap();
    ezq.publish(&Numbered { n: 5 }).await.unwrap();
    assert_eq!(drain(&ezq).await.counts.handled, 1);
}
