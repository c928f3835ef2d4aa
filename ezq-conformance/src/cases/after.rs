//! Claims after a place: they go in the order of places and hand out nothing that stands before it.

use ezq_core::engine::{Delivery, Position, Settle};

use crate::error::CaseResult;
use crate::stage::{HOLD, Stage, ack, each, numbers};

cases![
    after_hands_out_only_what_stands_after_a_place,
    after_goes_from_place_to_place_through_a_queue,
    after_tells_of_nothing_that_stands_before_it,
    after_a_place_the_order_is_that_of_the_places,
];

fn reversed(mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
    deliveries.reverse();
    deliveries
}

async fn after_hands_out_only_what_stands_after_a_place(stage: &Stage<'_>) -> CaseResult {
    stage.needs("ordered", |c| c.ordered)?;
    stage.publish_numbers(&[1, 2, 3, 4, 5]).await?;
    let leased = stage.lease(5, HOLD).await?;
    check_eq!(numbers(&leased), [1, 2, 3, 4, 5], "the batch");

    let places: Vec<_> = leased.iter().map(Delivery::position).collect();
    stage.done(each(reversed(leased), &Settle::Release)).await?;
    check_eq!(
        numbers(&stage.lease_after(&places[4], None, 5).await?),
        [0_i64; 0],
        "after the last"
    );

    let between = stage.lease_after(&places[0], Some(&places[3]), 5).await?;
    check_eq!(
        numbers(&between),
        [2, 3],
        "between the first and the fourth"
    );
    check_eq!(
        numbers(&stage.lease_after(&places[3], None, 5).await?),
        [5],
        "after the fourth"
    );
    check_eq!(
        numbers(&stage.lease_after(&Position::FIRST, None, 5).await?),
        [1, 4],
        "after none"
    );
    Ok(())
}

/// A consumer does this: it returns what it has no room for, and claims what stands behind that.
async fn after_goes_from_place_to_place_through_a_queue(stage: &Stage<'_>) -> CaseResult {
    stage.needs("ordered", |c| c.ordered)?;
    let all: Vec<i64> = (0..25).collect();
    stage.publish_numbers(&all).await?;

    for round in 0..2 {
        let mut seen = Vec::new();
        let mut place = Position::FIRST;

        loop {
            let leased = stage.lease_after(&place, None, 4).await?;
            // The bound ends the case if an engine hands out the same place again and again.
            let Some(last) = leased.last().filter(|_| seen.len() <= all.len()) else {
                break;
            };
            place = last.position();
            seen.extend(numbers(&leased));
            // The order in which they are returned does not matter, but the next claim sees them.
            stage.done(each(reversed(leased), &Settle::Release)).await?;
        }

        check_eq!(seen, all, "what was passed in round {round}");
    }

    check_eq!(
        numbers(&stage.lease(30, HOLD).await?),
        all,
        "what is there in the end"
    );
    Ok(())
}

async fn after_tells_of_nothing_that_stands_before_it(stage: &Stage<'_>) -> CaseResult {
    stage.needs("ordered", |c| c.ordered)?;
    stage.publish_numbers(&[1, 2]).await?;
    let mut leased = stage.lease(2, HOLD).await?;
    let last = leased.pop().map(|d| d.position());
    stage.done(each(leased, &Settle::Release)).await?;

    let request = stage.ask(10, HOLD).after(last);
    let leased = stage.request(request).await?;
    check_eq!(numbers(&leased.deliveries), [0_i64; 0], "after the last");

    // A consumer that was told of a message before the place would claim again and again.
    check!(
        leased.next_due.is_none_or(|next| next > HOLD / 2),
        "the next is due in {:?}, and stands before the place",
        leased.next_due
    );
    Ok(())
}

/// Messages with and without keys have one order. Of a key whose first message stands before the
/// place nothing comes.
async fn after_a_place_the_order_is_that_of_the_places(stage: &Stage<'_>) -> CaseResult {
    stage.needs("keys", |c| c.keys)?;
    stage.needs("ordered", |c| c.ordered)?;

    let messages = [
        ("a", 1),
        ("", 2),
        ("b", 3),
        ("a", 4),
        ("", 5),
        ("c", 6),
        ("", 7),
    ];

    let batch = messages.map(|(key, n)| match key {
        "" => stage.message(n),
        key => stage.with_key(key, n),
    });
    stage.publish(batch.to_vec()).await?;
    let mut seen = Vec::new();
    let mut place = Position::FIRST;

    loop {
        // Two at a time, so that each key is met by several claims.
        let leased = stage.lease_after(&place, None, 2).await?;
        let Some(last) = leased.last().filter(|_| seen.len() <= messages.len()) else {
            break;
        };
        place = last.position();
        seen.extend(numbers(&leased));
        stage.done(each(leased, &Settle::Release)).await?;
    }

    check_eq!(seen, [1, 2, 3, 5, 6, 7], "what was passed");

    // A message that is leased or was passed holds up its key as usual.
    let first = stage.lease_after(&Position::FIRST, None, 1).await?;
    check_eq!(numbers(&first), [1], "the first");
    check_eq!(
        numbers(&stage.lease_after(&first[0].position(), None, 10).await?),
        [2, 3, 5, 6, 7],
        "behind it"
    );

    stage.done(each(first, &ack())).await?;
    check_eq!(
        numbers(&stage.lease_after(&place, None, 10).await?),
        [0_i64; 0],
        "after the last"
    );
    check_eq!(
        numbers(&stage.lease_after(&Position::FIRST, None, 10).await?),
        [4],
        "the next of its key"
    );
    Ok(())
}
