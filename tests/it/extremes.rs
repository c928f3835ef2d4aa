//! Every number that may be given, at its largest: it is taken, and nothing overflows.

use std::time::Duration;

use ezq::admin::DeadLetterFilter;
use ezq::engine::Engine as _;
use ezq::handler::Backoff;
use ezq::message::Retention;
use ezq::pgmq::{Inbox, PgmqConfig, PgmqEngine};
use ezq::prelude::*;
use ezq::{ErrorKind, Handler};

use crate::kit::{Numbered, app, dead, drain, held, numbered, queue, soon, until};

const LONGEST: [Duration; 4] = [
    Duration::MAX,
    Duration::from_secs(u64::MAX / 2),
    Duration::from_secs(i64::MAX as u64),
    Duration::from_secs(u32::MAX as u64),
];

#[tokio::test]
async fn a_handler_of_one_event_in_a_transaction_may_take_for_ever() {
    for time in LONGEST {
        let queue = queue();
        let handler = Handler::on("one", |_: Numbered, _: Tx| async {}).timeout(Some(time));
        let handler = handler
            .max_attempts(u32::MAX)
            .concurrency(usize::MAX)
            .order(i32::MAX);
        let ezq = app(&queue).register(handler).connect().await.unwrap();
        ezq.publish(&Numbered { n: 1 }).await.unwrap();
        assert_eq!(drain(&ezq).await.counts.handled, 1, "{time:?}");
    }
}

#[tokio::test]
async fn batches_may_be_of_any_size() {
    for time in LONGEST {
        let queue = queue();
        let batch = |name: &str| {
            Handler::on_batch(name, |_: Batch<Numbered>, _: Tx| async {})
                .batch_size(usize::MAX)
                .timeout(Some(time))
        };

        let elsewhere = batch("elsewhere").queue("it_extremes_elsewhere");
        let builder = app(&queue)
            .register(batch("one"))
            .register(batch("two"))
            .register(elsewhere);
        let ezq = builder.connect().await.unwrap();
        ezq.publish_all(&numbered(1..=3)).await.unwrap();
        assert_eq!(drain(&ezq).await.counts.handled, 3, "{time:?}");
    }
}

#[tokio::test]
async fn every_option_of_the_application_is_taken_at_its_largest() {
    for time in LONGEST {
        let queue = queue();
        let handler = Handler::on("one", |_: Numbered, _: Tx| async {});

        let builder = app(&queue).register(handler).configure(|config| {
            config.concurrency = usize::MAX;
            config.lease = time;
            config.handler_timeout = Some(time);
            config.retry.max_attempts = u32::MAX;
            config.retry.backoff = Backoff::exponential(time, time);
            config.max_deliveries = u32::MAX;
            config.poll_min = Some(time);

            config.poll_max = Some(time);
            config.settle_batch = usize::MAX;
            config.settle_max_age = time;
            config.message_limit = usize::MAX;
            config.grace = Some(time);
            config.dedupe_window = time;
            config.connect_timeout = time;
        });

        let ezq = builder
            .retention(&queue, Retention::archive_for(time))
            .connect()
            .await
            .unwrap();

        ezq.publish(&Numbered { n: 1 })
            .dedupe_key("one")
            .dedupe_window(time)
            .await
            .unwrap();

        let consumer = ezq
            .consumer()
            .grace(time)
            .restart(Backoff::constant(time))
            .spawn();
        until(async || consumer.counts().handled == 1).await;

        consumer.stop();
        soon(consumer).await.unwrap();
        ezq.publish(&Numbered { n: 2 })
            .after(time)
            .max_attempts(u32::MAX)
            .await
            .unwrap();
        assert_eq!(held(&ezq, &queue).await, [0, 0, 1, 0], "{time:?}");

        ezq.pgmq().sweep().await.unwrap();
        ezq.blocked_keys(&queue, usize::MAX).await.unwrap();
    }
}

#[tokio::test]
async fn what_a_handler_asks_for_is_taken_at_its_largest() {
    for time in LONGEST {
        let queue = queue();
        let asks = Handler::on("asks", move |event: Numbered, _: Tx| async move {
            Err::<(), _>(match event.n {
                1 => HandlerError::snooze(time),
                _ => HandlerError::retry_after(time, "later"),
            })
        });

        let ezq = app(&queue).register(asks).connect().await.unwrap();
        ezq.publish_all(&numbered(1..=2)).await.unwrap();
        assert_eq!(drain(&ezq).await.counts.retried, 2, "{time:?}");
        assert_eq!(
            held(&ezq, &queue).await,
            [0, 2, 0, 0],
            "delivered before, and not due"
        );
    }
}

#[tokio::test]
async fn an_operator_may_ask_for_any_number() {
    let queue = queue();
    let fails = Handler::on("fails", |_: Numbered| async { Err::<(), _>("no") });
    let ezq = app(&queue)
        .register(fails.max_attempts(1))
        .connect()
        .await
        .unwrap();
    ezq.publish_all(&numbered(1..=3)).await.unwrap();
    drain(&ezq).await;

    let letters = ezq.dead_letters(&queue).unwrap();
    let all = DeadLetterFilter::all();
    assert_eq!(letters.list(&all, usize::MAX).await.unwrap().len(), 3);
    assert_eq!(letters.redrive(all).rate(u32::MAX).await.unwrap().len(), 3);
    assert_eq!(dead(&ezq, &queue).await.len(), 0);

    let mut connection = ezq.pool().acquire().await.unwrap();
    Inbox::create(&mut connection).await.unwrap();
    for time in LONGEST {
        assert_eq!(Inbox::forget(&mut connection, time).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn every_option_of_the_engine_is_taken_at_its_largest() {
    let ezq = app(&queue()).connect().await.unwrap();
    for time in LONGEST {
        let options = ezq.pool().connect_options().as_ref().clone();
        let config = PgmqConfig::options(options)
            .connect_timeout(time)
            .statement_timeout(time);
        let config = config
            .restart_grace(time)
            .sweep_interval(time)
            .max_connections(u32::MAX);

        let engine = PgmqEngine::connect(config).await.unwrap();
        let queue = queue();
        engine.ensure_queue(&queue).await.unwrap();
        assert_eq!(engine.stats(&queue).await.unwrap().ready, 0);
        engine.close().await;
    }
}

#[tokio::test]
async fn nothing_is_no_number_for_what_needs_one() {
    let ezq = app(&queue()).connect().await.unwrap();
    let options = || PgmqConfig::options(ezq.pool().connect_options().as_ref().clone());
    let wrong = [
        options().max_connections(0),
        options().connect_timeout(Duration::ZERO),
        options().statement_timeout(Duration::ZERO),
        options().sweep_interval(Duration::ZERO),
        options().retention(queue(), Retention::archive_for(Duration::ZERO)),
        PgmqConfig::pool(ezq.pool().clone()).max_connections(5),
    ];

    for config in wrong {
        let text = format!("{config:?}");
        let error = PgmqEngine::connect(config).await.expect_err(&text);
        assert_eq!(error.kind(), ErrorKind::Configuration, "{text}");
    }
}
