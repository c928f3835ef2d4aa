//! Browsing: pages by state and filter, in order, each event once, at a bounded cost.

use std::collections::BTreeMap;
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::engine::{
    Browse, Due, EventCopy, EventFilter, EventPage, EventState, FailureKey, Outgoing, PageCursor,
    PageRequest, Settle,
};
use ezq_core::message::headers::KEY;
use ezq_core::message::{HandlerName, HandlerState, Progress, Reason, ReasonKind};

use super::settling::{mark, progress};
use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, bury, number_in, retry};

cases![
    pages_hold_every_event_once_and_in_order,
    each_state_has_pages_of_its_own,
    a_filter_selects_by_type_key_and_time,
    a_filter_selects_dead_letters_by_the_time_of_death,
    a_filter_selects_by_handler_and_error,
    failures_are_counted_by_handler_and_error,
    a_filter_selects_what_failed_alike,
    failures_are_looked_for_no_further_than_asked,
    a_filter_that_matches_nothing_ends_where_the_search_ends,
    a_cursor_of_something_else_is_refused,
];

fn browse<'a>(stage: &'a Stage<'_>) -> Result<&'a dyn Browse, CaseError> {
    stage
        .second
        .browse()
        .ok_or_else(|| CaseError::Skipped("the engine cannot be browsed".to_owned()))
}

fn request(stage: &Stage<'_>, state: EventState) -> PageRequest {
    PageRequest::new(stage.queue.clone(), state)
}

/// The numbers of all pages, one after another.
async fn all(stage: &Stage<'_>, mut request: PageRequest) -> Result<Vec<i64>, CaseError> {
    let mut numbers = Vec::new();
    // More pages than any case has.
    for _ in 0..100 {
        let EventPage { events, next, .. } = browse(stage)?.page(&request).await?;
        check!(
            events.len() <= request.limit,
            "a page of {} events",
            events.len()
        );
        numbers.extend(events.iter().map(number));
        if next.is_none() {
            return Ok(numbers);
        }
        request.after = next;
    }
    Err(CaseError::Failed("the pages do not end".to_owned()))
}

fn number(event: &EventCopy) -> i64 {
    event.body.as_deref().map_or(-1, number_in)
}

async fn pages_hold_every_event_once_and_in_order(stage: &Stage<'_>) -> CaseResult {
    let mut expected = Vec::from_iter(1..=10);
    stage.publish_numbers(&expected).await?;
    // With some of these the last page is full, with others it is not.
    for limit in [1, 3, 5, 10, 11] {
        let mut request = request(stage, EventState::Ready);
        request.limit = limit;
        let seen = all(stage, request).await?;
        check_eq!(seen, expected, "pages of {limit}");
    }

    // One that is taken away between two pages changes none of the others.
    let mut first = request(stage, EventState::Ready);
    first.limit = 4;
    let page = browse(stage)?.page(&first).await?;
    let leased = stage.lease(1, HOLD).await?;
    check_eq!(leased.len(), 1, "leased between two pages");
    first.after = page.next;
    expected.drain(..4);
    check_eq!(
        all(stage, first).await?,
        expected,
        "the pages behind the first"
    );
    Ok(())
}

async fn each_state_has_pages_of_its_own(stage: &Stage<'_>) -> CaseResult {
    stage.publish_numbers(&[1, 2, 3, 4]).await?;
    let leased = stage.lease(3, HOLD).await?;
    let mut receipts = leased.into_iter().map(|delivery| delivery.receipt);
    let mut next = || {
        receipts
            .next()
            .ok_or_else(|| CaseError::Failed("too few".to_owned()))
    };
    // The third stays leased.
    stage
        .done(vec![(next()?, retry(HOLD)), (next()?, bury())])
        .await?;

    let mut expected = vec![
        (EventState::Ready, vec![4]),
        (EventState::Leased, vec![3]),
        (EventState::Retrying, vec![1]),
        (EventState::Scheduled, vec![]),
        (EventState::Dead, vec![2]),
    ];
    if stage.engine.capabilities().delayed {
        let later = stage.message(5).due(Due::After(HOLD));
        stage.publish(vec![later]).await?;
        expected[3].1 = vec![5];
    }
    for (state, expected) in expected {
        let seen = all(stage, request(stage, state)).await?;
        check_eq!(seen, expected, "{state} events");
    }
    Ok(())
}

/// An event with a number, as ezq writes it.
fn event(stage: &Stage<'_>, event_type: &str, n: i64) -> Outgoing {
    let body = format!(
        r#"{{"specversion":"1.0","id":"{n}","source":"/suite","type":"{event_type}","n":{n}}}"#
    );
    stage.text(body)
}

async fn a_filter_selects_by_type_key_and_time(stage: &Stage<'_>) -> CaseResult {
    let mut keyed = event(stage, "shop.paid", 1);
    keyed.headers.insert(KEY, "customer \"7\"");
    let messages = vec![
        keyed,
        event(stage, "shop.sent", 2),
        event(stage, "shop.paid", 3),
    ];
    stage.publish(messages).await?;

    let select = async |filter: EventFilter| {
        let mut request = request(stage, EventState::Ready);
        request.filter = filter;
        all(stage, request).await
    };
    let all = EventFilter::all;
    check_eq!(
        select(all().event_type("shop.paid")).await?,
        [1, 3],
        "events of a type"
    );
    // A part of a type's name is no type.
    check_eq!(
        select(all().event_type("shop")).await?,
        [0; 0],
        "events of no type"
    );
    check_eq!(
        select(all().key("customer \"7\"")).await?,
        [1],
        "events of a key"
    );
    // No store holds this character in a text, so nothing has it.
    for absurd in [
        all().event_type("shop.paid\0"),
        all().key("customer \"7\"\0"),
        all().handler("\0"),
    ] {
        check_eq!(select(absurd).await?, [0; 0], "events of an absurd name");
    }
    let both = all().key("customer \"7\"").event_type("shop.sent");
    check_eq!(
        select(both).await?,
        [0; 0],
        "events of a key and another type"
    );

    let page = browse(stage)?
        .page(&request(stage, EventState::Ready))
        .await?;
    let Some(last) = page.events.last() else {
        return Err(CaseError::Failed("there is no page".to_owned()));
    };
    check_eq!(
        last.event_type.as_deref(),
        Some("shop.paid"),
        "the type of the last"
    );
    // Events that were stored in one step have one time.
    let before = select(all().stored_before(last.published_at)).await?;
    check!(!before.contains(&3), "stored before the last: {before:?}");
    let after = select(all().stored_after(last.published_at)).await?;
    check!(
        after.contains(&3),
        "stored at the time of the last, or later: {after:?}"
    );
    Ok(())
}

async fn a_filter_selects_dead_letters_by_the_time_of_death(stage: &Stage<'_>) -> CaseResult {
    // The first that is stored is the last that dies.
    stage.publish_numbers(&[1, 2]).await?;
    let leased = stage.lease(2, HOLD).await?;
    let [first, second] = leased.as_slice() else {
        return Err(CaseError::Failed("too few".to_owned()));
    };
    let pause = Duration::from_millis(300);
    stage.pass(pause).await;
    stage.done(vec![(second.receipt.clone(), bury())]).await?;
    stage.pass(pause).await;
    // Its time lies between the two deaths, by the engine's own clock.
    stage.publish_numbers(&[3]).await?;
    let page = browse(stage)?
        .page(&request(stage, EventState::Ready))
        .await?;
    let between = page.events.first().map(|event| event.published_at);
    let Some(between) = between else {
        return Err(CaseError::Failed("there is no page".to_owned()));
    };
    stage.pass(pause).await;
    stage.done(vec![(first.receipt.clone(), bury())]).await?;

    // Not by the time at which an event was stored first.
    let select = async |filter: EventFilter| {
        let mut request = request(stage, EventState::Dead);
        request.filter = filter;
        all(stage, request).await
    };
    let all = EventFilter::all;
    check_eq!(select(all()).await?, [2, 1], "dead letters");
    let before = select(all().stored_before(between)).await?;
    check_eq!(before, [2], "what died before");
    let after = select(all().stored_after(between)).await?;
    check_eq!(after, [1], "what died after");
    Ok(())
}

/// Three events: `shop::mail` failed on the first, `shop::stock` on the second, and the third died.
async fn with_failures(stage: &Stage<'_>) -> CaseResult {
    stage.publish_numbers(&[1, 2, 3]).await?;
    let leased = stage.lease(3, HOLD).await?;
    let mut receipts = leased.into_iter().map(|delivery| delivery.receipt);
    let mut next = || {
        receipts
            .next()
            .ok_or_else(|| CaseError::Failed("too few".to_owned()))
    };
    let aside = |marks| Settle::Retry {
        after: HOLD,
        progress: marks,
        outgoing: Vec::new(),
    };

    let failed = mark(HandlerState::Retry, 1, "no route: 'ä' \"b\"");
    let done = mark(HandlerState::Done, 1, "");
    let gave_up = mark(HandlerState::Dead, 1, "no route to the moon");
    let first = progress([("shop::mail", failed), ("shop::stock", done)]);
    let second = progress([("shop::stock", mark(HandlerState::Retry, 2, "sold out"))]);
    let dead = Settle::DeadLetter {
        reason: Reason::new(ReasonKind::Fatal, "no route to the moon", 1)
            .handler(HandlerName::from("shop::mail")),
        progress: progress([("shop::mail", gave_up)]),
        outgoing: Vec::new(),
    };
    let settlements = vec![
        (next()?, aside(first)),
        (next()?, aside(second)),
        (next()?, dead),
    ];
    stage.done(settlements).await
}

async fn a_filter_selects_by_handler_and_error(stage: &Stage<'_>) -> CaseResult {
    browse(stage)?;
    with_failures(stage).await?;

    let all_of = EventFilter::all;
    for (state, filter, expected) in [
        (
            EventState::Retrying,
            all_of().handler("shop::mail"),
            vec![1],
        ),
        // One that is done with the first.
        (
            EventState::Retrying,
            all_of().handler("shop::stock"),
            vec![2],
        ),
        (EventState::Retrying, all_of().error("no route"), vec![1]),
        (EventState::Retrying, all_of().error("'ä' \"b\""), vec![1]),
        // It is no pattern.
        (EventState::Retrying, all_of().error("%"), vec![]),
        (EventState::Dead, all_of().error("the moon"), vec![3]),
        (EventState::Dead, all_of().handler("shop::mail"), vec![3]),
        (EventState::Dead, all_of().died_by("shop::mail"), vec![3]),
        (EventState::Dead, all_of().died_by("shop::stock"), vec![]),
        (
            EventState::Dead,
            all_of().died_of(ReasonKind::Fatal),
            vec![3],
        ),
        (
            EventState::Dead,
            all_of().died_of(ReasonKind::Operator),
            vec![],
        ),
    ] {
        let mut request = request(stage, state);
        let what = format!("{state} events of {filter:?}");
        request.filter = filter;
        check_eq!(all(stage, request).await?, expected, "{what}");
    }
    Ok(())
}

/// Retries two, buries three, and leaves one that never failed.
async fn with_alike(stage: &Stage<'_>) -> CaseResult {
    browse(stage)?;
    stage.publish_numbers(&[1, 2, 3, 4, 5]).await?;
    let never = stage.message(6).due(Due::After(HOLD * 2));
    stage.publish(vec![never]).await?;
    let mut settlements = Vec::new();
    for held in stage.lease(5, HOLD).await? {
        let n = number_in(&held.body);
        let retrying = mark(HandlerState::Retry, 1, &format!("no route to {n}"));
        let dead = |error: String, handler: Option<&str>| Settle::DeadLetter {
            reason: Reason::new(ReasonKind::Fatal, error, 1)
                .handler(handler.map(HandlerName::from)),
            progress: Progress::default(),
            outgoing: Vec::new(),
        };
        let settle = match n {
            1 | 2 => Settle::Retry {
                after: HOLD,
                progress: progress([("shop::mail", retrying)]),
                outgoing: Vec::new(),
            },
            3 | 4 => dead(format!("no route to {n}"), Some("shop::mail")),
            _ => dead("no route to 5".to_owned(), None),
        };
        settlements.push((held.receipt, settle));
    }
    stage.done(settlements).await
}

async fn failures_are_counted_by_handler_and_error(stage: &Stage<'_>) -> CaseResult {
    with_alike(stage).await?;
    let failures = browse(stage)?.failures(&stage.queue, 100).await?;
    check!(failures.is_complete, "there is nothing more");
    // Those of one key may be told one by one or together.
    let mut told: BTreeMap<_, u64> = BTreeMap::new();
    for one in &failures.found {
        let key = FailureKey::new(one.handler.clone(), &one.error);
        *told.entry((key.to_string(), one.is_dead)).or_default() += one.count;
    }
    let expected = BTreeMap::from([
        (("no route to #".to_owned(), true), 1),
        (("shop::mail: no route to #".to_owned(), false), 2),
        (("shop::mail: no route to #".to_owned(), true), 2),
    ]);
    check_eq!(told, expected, "failures");

    // The example of a dead letter is its id there.
    let letters = stage.dead_letters()?;
    for one in failures.found.iter().filter(|one| one.is_dead) {
        let letter = letters.find(&stage.queue, &one.example).await?;
        let reason = letter.and_then(|letter| letter.reason);
        let error = reason.map(|reason| reason.error);
        check_eq!(error.as_ref(), Some(&one.error), "the error of the example");
        check!(one.first_at <= one.last_at, "times in order: {one:?}");
    }

    let missing = browse(stage)?.failures(&stage.missing, 100).await;
    check_eq!(
        missing.map_err(|error| error.kind()),
        Err(ErrorKind::QueueMissing),
        "failures of a missing queue"
    );
    Ok(())
}

async fn a_filter_selects_what_failed_alike(stage: &Stage<'_>) -> CaseResult {
    with_alike(stage).await?;
    let mail = || Some(HandlerName::from("shop::mail"));
    for (state, key, expected) in [
        (
            EventState::Retrying,
            FailureKey::new(mail(), "no route to 17"),
            vec![1, 2],
        ),
        (
            EventState::Dead,
            FailureKey::new(mail(), "no route to #"),
            vec![3, 4],
        ),
        (
            EventState::Dead,
            FailureKey::new(None, "no route to #"),
            vec![5],
        ),
        (
            EventState::Dead,
            FailureKey::new(mail(), "no route"),
            vec![],
        ),
    ] {
        let what = format!("{state} events of {key}");
        let mut request = request(stage, state);
        request.filter = EventFilter::all().failure(key);
        // Pages of which some are empty.
        request.limit = 1;
        check_eq!(all(stage, request).await?, expected, "{what}");
    }
    Ok(())
}

async fn failures_are_looked_for_no_further_than_asked(stage: &Stage<'_>) -> CaseResult {
    with_alike(stage).await?;
    let failures = browse(stage)?.failures(&stage.queue, 2).await?;
    check!(!failures.is_complete, "there is more");
    let errors = failures.found.iter().filter(|one| one.is_dead);
    let mut errors: Vec<&str> = errors.map(|one| one.error.as_str()).collect();
    errors.sort_unstable();
    check_eq!(errors, ["no route to 4", "no route to 5"], "the newest");

    let all = browse(stage)?.failures(&stage.queue, 3).await?;
    check!(all.is_complete, "three of each is all");
    Ok(())
}

async fn a_filter_that_matches_nothing_ends_where_the_search_ends(stage: &Stage<'_>) -> CaseResult {
    stage.publish_numbers(&[1, 2, 3, 4, 5, 6, 7]).await?;
    let mut request = request(stage, EventState::Ready);
    request.filter = EventFilter::all().event_type("nothing");
    request.scan = 3;

    let mut pages = 0;
    loop {
        pages += 1;
        check!(pages <= 4, "the pages do not end");
        let page = browse(stage)?.page(&request).await?;
        check_eq!(page.events.len(), 0, "events that match nothing");
        match page.next {
            Some(next) => request.after = Some(next),
            None => break,
        }
    }
    check!(
        pages >= 3,
        "seven events were looked at in {pages} pages of three"
    );
    Ok(())
}

async fn a_cursor_of_something_else_is_refused(stage: &Stage<'_>) -> CaseResult {
    for text in ["", "x", "1.2.3", "1.", "'; drop table pgmq.meta"] {
        let mut request = request(stage, EventState::Ready);
        request.after = Some(PageCursor::new(text));
        let page = browse(stage)?.page(&request).await;
        let kind = page.map_err(|error| error.kind()).map(drop);
        check_eq!(kind, Err(ErrorKind::Configuration), "the cursor `{text}`");
    }
    Ok(())
}
