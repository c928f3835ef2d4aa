//! Dead letters are chosen, redriven and discarded.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq::Handler;
use ezq::admin::DeadLetterFilter;
use ezq::message::ReasonKind;
use ezq::prelude::*;

use super::failing;
use crate::kit::{Log, Numbered, app, drain, held, numbered, only_dead, queue};

#[tokio::test]
async fn a_redrive_runs_again_only_what_had_failed() {
    let queue = queue();
    let mended = Arc::new(Mutex::new(false));
    let (good, good_log) = failing("good", 0);
    let log = Log::new();

    let switch = Arc::clone(&mended);
    let attempts = log.clone();
    let bad = Handler::on("bad", move |_: Numbered, context: Context| {
        attempts.push(context.attempt());
        let mended = *switch.lock().unwrap();
        async move { if mended { Ok(()) } else { Err("broken") } }
    });

    let ezq = app(&queue)
        .register(good)
        .register(bad.max_attempts(2))
        .connect()
        .await
        .unwrap();

    let published = ezq
        .publish(&Numbered { n: 1 })
        .header("tenant", "acme")
        .await
        .unwrap();
    drain(&ezq).await;
    assert_eq!((good_log.take(), log.take()), (vec![1], vec![1, 2]));

    *mended.lock().unwrap() = true;
    let letters = ezq.dead_letters(&queue).unwrap();
    let letter = only_dead(&ezq, &queue).await;
    assert_eq!(letter.original_id, Some(published.id));

    let found = letters.get(&letter.id).await.unwrap().unwrap();
    assert_eq!(found.body, letter.body);
    assert_eq!(letters.redrive(&letter.id).await.unwrap(), [letter.id]);
    assert_eq!(held(&ezq, &queue).await, [1, 0, 0, 0]);
    assert_eq!(drain(&ezq).await.counts.handled, 1);
    assert_eq!(
        (good_log.take(), log.take()),
        (vec![], vec![1]),
        "attempts start anew"
    );
    assert_eq!(held(&ezq, &queue).await, [0; 4]);
}

#[tokio::test]
async fn dead_letters_are_chosen_by_filter_redriven_at_a_rate_and_discarded() {
    let queue = queue();
    let fails = Handler::on("fails", |event: Numbered| async move {
        if event.n < 8 { Err("no") } else { Ok(()) }
    });

    let fatal = Handler::on("fatal", |event: Numbered| async move {
        if event.n < 3 {
            Err(HandlerError::fatal("never"))
        } else {
            Ok(())
        }
    });

    let ezq = app(&queue)
        .register(fails.max_attempts(1).order(1))
        .register(fatal);
    let ezq = ezq.connect().await.unwrap();
    ezq.publish_all(&numbered(0..=9)).await.unwrap();
    drain(&ezq).await;
    assert_eq!(held(&ezq, &queue).await, [0, 0, 0, 8]);

    let letters = ezq.dead_letters(&queue).unwrap();
    let all = DeadLetterFilter::all();
    let died = letters.list(&all, 100).await.unwrap();
    let count = async |filter: DeadLetterFilter| letters.list(&filter, 100).await.unwrap().len();
    assert_eq!(count(all.clone().handler("fatal")).await, 3);
    assert_eq!(count(all.clone().handler("fails")).await, 5);
    assert_eq!(count(all.clone().reason(ReasonKind::MaxAttempts)).await, 5);
    assert_eq!(
        count(all.clone().reason(ReasonKind::Fatal).handler("fails")).await,
        0
    );
    assert_eq!(count(all.clone().event_type("test.numbered")).await, 8);
    assert_eq!(count(all.clone().event_type("test.other")).await, 0);
    assert_eq!(count(all.clone().died_before(died[0].died_at)).await, 0);
    assert_eq!(count(all.clone().died_after(died[0].died_at)).await, 8);
    assert_eq!(letters.list(&all, 2).await.unwrap().len(), 2);

    let fatal = all.clone().handler("fatal");
    assert_eq!(
        letters
            .redrive(fatal.clone())
            .dry_run()
            .await
            .unwrap()
            .len(),
        3
    );

    assert_eq!(
        letters.discard(all.clone()).dry_run().await.unwrap().len(),
        8
    );
    assert_eq!(
        held(&ezq, &queue).await,
        [0, 0, 0, 8],
        "a dry run does nothing"
    );

    let begun = tokio::time::Instant::now();
    assert_eq!(letters.redrive(fatal).rate(2).await.unwrap().len(), 3);
    assert!(
        begun.elapsed() >= Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(held(&ezq, &queue).await, [3, 0, 0, 5]);

    let one = letters.list(&all, 1).await.unwrap().remove(0).id;
    assert_eq!(
        letters.discard(&one).await.unwrap(),
        std::slice::from_ref(&one)
    );
    assert_eq!(letters.discard(&one).await.unwrap(), []);
    assert!(letters.get(&one).await.unwrap().is_none());
    assert_eq!(letters.discard(all).await.unwrap().len(), 4);
    assert_eq!(held(&ezq, &queue).await, [3, 0, 0, 0]);
}
