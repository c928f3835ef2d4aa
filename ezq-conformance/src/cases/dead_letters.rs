//! Dead letters keep everything that is known about the message, and a redrive runs again only the
//! handlers that had failed.

use ezq_core::engine::{DeadLetter, Settle};
use ezq_core::message::headers::DEAD;
use ezq_core::message::{HandlerState, Progress};

use super::settling::{mark, progress};
use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, SHORT, Stage, ack, number_in, reason, retry, unknown_id};

cases![
    a_dead_letter_keeps_the_message_and_the_reason,
    dead_letters_are_listed_page_by_page,
    a_redrive_runs_again_only_what_had_failed,
    a_redrive_moves_each_message_once,
    a_redriven_message_can_die_again,
    a_discarded_dead_letter_is_gone_for_good,
    an_id_moves_and_discards_no_dead_letter_that_got_it,
];

/// Buries a message of which one handler is done and another has given up.
async fn died(stage: &Stage<'_>, n: i64) -> Result<DeadLetter, CaseError> {
    let letters = stage.dead_letters()?;
    let mut message = stage.message(n);
    message.headers.insert("correlation-id", "c-1");
    stage.publish(vec![message]).await?;

    let delivery = stage.take(HOLD).await?;
    // The mark of an earlier delivery, which only the stored headers know by the time of death.
    let done = progress([("shop::a", mark(HandlerState::Done, 1, ""))]);
    let again = Settle::Retry {
        after: Default::default(),
        progress: done,
        outgoing: Vec::new(),
    };
    stage.done(vec![(delivery.receipt, again)]).await?;

    let delivery = stage.take(HOLD).await?;
    let original_id = Some(delivery.receipt.message_id().clone());
    let dead = progress([
        ("shop::b", mark(HandlerState::Dead, 3, "no")),
        ("shop::c", mark(HandlerState::Retry, 2, "not yet")),
    ]);

    let bury = Settle::DeadLetter {
        reason: reason(),
        progress: dead,
        outgoing: Vec::new(),
    };
    stage.done(vec![(delivery.receipt, bury)]).await?;

    let listed = letters.list(&stage.queue, None, 100).await?;
    let found = listed
        .into_iter()
        .find(|letter| letter.original_id == original_id);
    found.ok_or_else(|| CaseError::Failed("the dead letter is not listed".to_owned()))
}

async fn an_id_moves_and_discards_no_dead_letter_that_got_it(stage: &Stage<'_>) -> CaseResult {
    let letters = stage.dead_letters()?;
    let queue = &stage.queue;
    let old = died(stage, 1).await?.id;
    stage.lose_newest(&queue.dead_letters()).await?;

    let new = died(stage, 2).await?.id;
    check_eq!(
        new.to_string(),
        old.to_string(),
        "the id that is issued again"
    );

    // Only the number is the same: an id also says when its letter was stored.
    let old = [old];
    check!(
        letters.find(queue, &old[0]).await?.is_none(),
        "another dead letter was found"
    );
    check_eq!(letters.redrive(queue, &old).await?, [], "what was redriven");
    check_eq!(
        letters.discard(queue, &old).await?,
        [],
        "what was discarded"
    );

    let new = [new];
    check_eq!(
        letters.discard(queue, &new).await?,
        new,
        "what its own id discards"
    );
    Ok(())
}

async fn a_dead_letter_keeps_the_message_and_the_reason(stage: &Stage<'_>) -> CaseResult {
    let letter = died(stage, 7).await?;
    stage.is_empty().await?;
    stage.nothing_readable().await?;
    check_eq!(stage.stats().await?.dead, 1, "dead letters");
    check_eq!(number_in(&letter.body), 7, "the body");
    check_eq!(letter.reason, Some(reason()), "the reason");
    check_eq!(
        letter.headers.text("correlation-id"),
        Some("c-1"),
        "the publisher's header"
    );
    check_eq!(
        letter.headers.value(DEAD),
        None,
        "the reason among the headers"
    );

    let marks = progress([
        ("shop::a", mark(HandlerState::Done, 1, "")),
        ("shop::b", mark(HandlerState::Dead, 3, "no")),
        ("shop::c", mark(HandlerState::Retry, 2, "not yet")),
    ]);
    check_eq!(Progress::from_headers(&letter.headers), marks, "marks");
    check!(
        letter.died_at >= letter.enqueued_at,
        "it died before it was stored"
    );

    let letters = stage.dead_letters()?;
    let found = letters.find(&stage.queue, &letter.id).await?;
    check_eq!(
        found.map(|found| found.reason),
        Some(letter.reason),
        "the reason of what is found"
    );

    let unknown = letters.find(&stage.queue, &unknown_id(&letter.id)).await?;
    check!(unknown.is_none(), "an unknown id finds {unknown:?}");
    Ok(())
}

async fn dead_letters_are_listed_page_by_page(stage: &Stage<'_>) -> CaseResult {
    let letters = stage.dead_letters()?;
    for n in 1..6 {
        died(stage, n).await?;
    }

    // Pages of two, with a last one that is not full, and one behind the end.
    let mut seen = Vec::new();
    let mut after = None;
    for wanted in [2, 2, 1, 0] {
        let page = letters.list(&stage.queue, after.as_ref(), 2).await?;
        check_eq!(page.len(), wanted, "letters on a page");
        seen.extend(page.iter().map(|letter| number_in(&letter.body)));
        after = page.last().map(|letter| letter.id.clone()).or(after);
    }

    check_eq!(seen, [1, 2, 3, 4, 5], "letters");
    Ok(())
}

async fn a_redrive_runs_again_only_what_had_failed(stage: &Stage<'_>) -> CaseResult {
    let letters = stage.dead_letters()?;
    let letter = died(stage, 1).await?;
    let ids = [letter.id];
    check_eq!(letters.redrive(&stage.queue, &ids).await?, ids, "ids moved");
    check_eq!(stage.stats().await?.dead, 0, "dead letters");
    let delivery = stage.take(SHORT).await?;
    check_eq!(number_in(&delivery.body), 1, "the body");

    let done = progress([("shop::a", mark(HandlerState::Done, 1, ""))]);
    check_eq!(Progress::from_headers(&delivery.headers), done, "marks");
    check_eq!(
        delivery.headers.text("correlation-id"),
        Some("c-1"),
        "the publisher's header"
    );
    check_eq!(delivery.headers.value(DEAD), None, "the old reason");
    check_eq!(
        delivery.enqueued_at,
        letter.enqueued_at,
        "when it was first stored"
    );
    // Deliveries of the first life must not bring the second one closer to death.
    check_eq!(delivery.unsettled_deliveries(), 1, "unsettled deliveries");

    stage.pass(SHORT).await;
    let delivery = stage.take(HOLD).await?;
    check_eq!(
        delivery.unsettled_deliveries(),
        2,
        "unsettled deliveries after a crash"
    );

    stage.done(vec![(delivery.receipt, ack())]).await?;
    stage.is_empty().await
}

async fn a_redrive_moves_each_message_once(stage: &Stage<'_>) -> CaseResult {
    let letters = stage.dead_letters()?;
    let first = died(stage, 1).await?.id;
    let second = died(stage, 2).await?.id;
    // An operator's list may be old: an unknown id is passed over and is no error.
    let asked = [unknown_id(&second), second.clone()];
    let moved = letters.redrive(&stage.queue, &asked).await?;
    check_eq!(moved, asked[1..], "ids moved");

    let again = letters.redrive(&stage.queue, &asked[1..]).await?;
    check!(again.is_empty(), "it was moved twice: {again:?}");
    check!(
        letters.find(&stage.queue, &second).await?.is_none(),
        "it is still a dead letter"
    );
    check!(
        letters.find(&stage.queue, &first).await?.is_some(),
        "another dead letter is gone"
    );
    check_eq!(
        number_in(&stage.take(HOLD).await?.body),
        2,
        "the message that came back"
    );
    Ok(())
}

async fn a_redriven_message_can_die_again(stage: &Stage<'_>) -> CaseResult {
    let letters = stage.dead_letters()?;
    let letter = died(stage, 1).await?;
    letters.redrive(&stage.queue, &[letter.id]).await?;

    let delivery = stage.take(HOLD).await?;
    stage
        .done(vec![(delivery.receipt, retry(Default::default()))])
        .await?;

    let delivery = stage.take(HOLD).await?;
    let mut reason = reason();
    reason.error = "again".to_owned();

    let wanted = Some(reason.clone());
    let dead = progress([("shop::b", mark(HandlerState::Dead, 5, "still no"))]);
    let bury = Settle::DeadLetter {
        reason,
        progress: dead,
        outgoing: Vec::new(),
    };
    stage.done(vec![(delivery.receipt, bury)]).await?;

    let listed = letters.list(&stage.queue, None, 10).await?;
    let reasons: Vec<_> = listed.into_iter().map(|letter| letter.reason).collect();
    check_eq!(reasons, [wanted], "reasons");
    Ok(())
}

async fn a_discarded_dead_letter_is_gone_for_good(stage: &Stage<'_>) -> CaseResult {
    let letters = stage.dead_letters()?;
    let first = died(stage, 1).await?.id;
    let second = died(stage, 2).await?.id;
    let asked = [unknown_id(&second), second.clone()];
    let gone = letters.discard(&stage.queue, &asked).await?;
    check_eq!(gone, asked[1..], "ids discarded");
    check!(
        letters.find(&stage.queue, &second).await?.is_none(),
        "it is still a dead letter"
    );
    check!(
        letters.find(&stage.queue, &first).await?.is_some(),
        "another dead letter is gone"
    );

    stage.is_empty().await
}
