//! Claims after a place: in the order of the places, and nothing of what stands before.

use ezq_core::engine::{LeaseRequest, Position};
use ezq_core::{Delivery, Settle};

use crate::error::CaseResult;
use crate::stage::{HOLD, Stage, numbers};

cases![
    after_hands_out_only_what_stands_after_a_place,
    after_goes_from_place_to_place_through_a_queue,
    after_tells_of_nothing_that_stands_before_it,
];

async fn after_hands_out_only_what_stands_after_a_place(stage: &Stage<'_>) -> CaseResult {
    stage.needs("ordered", |c| c.ordered)?;
    stage.publish_numbers(&[1, 2, 3, 4, 5]).await?;
    let leased = stage.lease(5, HOLD).await?;
    check_eq!(numbers(&leased), [1, 2, 3, 4, 5], "the batch");
    let places: Vec<_> = leased.iter().map(Delivery::position).collect();
    let back = leased.into_iter().rev();
    let back = back.map(|d| (d.receipt, Settle::Release)).collect();
    stage.done(back).await?;
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

/// What a consumer does that gives back what it has no room for, and looks on behind it.
async fn after_goes_from_place_to_place_through_a_queue(stage: &Stage<'_>) -> CaseResult {
    stage.needs("ordered", |c| c.ordered)?;
    let all: Vec<i64> = (0..25).collect();
    stage.publish_numbers(&all).await?;
    for round in 0..2 {
        let (mut seen, mut place) = (Vec::new(), Position::FIRST);
        loop {
            let leased = stage.lease_after(&place, None, 4).await?;
            let Some(last) = leased.last().filter(|_| seen.len() <= all.len()) else {
                break;
            };
            place = last.position();
            seen.extend(numbers(&leased));
            // Given back in any order, and before the next look.
            let back = leased.into_iter().rev();
            let back = back.map(|d| (d.receipt, Settle::Release)).collect();
            stage.done(back).await?;
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
    let back = leased
        .into_iter()
        .map(|d| (d.receipt, Settle::Release))
        .collect();
    stage.done(back).await?;
    let request = LeaseRequest {
        after: last,
        ..stage.ask(10, HOLD)
    };
    let leased = stage.request(request).await?;
    check_eq!(numbers(&leased.deliveries), [0_i64; 0], "after the last");
    // A consumer that was told so would ask again and again.
    check!(
        leased.next_due.is_none_or(|next| next > HOLD / 2),
        "the next is due in {:?}, and stands before the place",
        leased.next_due
    );
    Ok(())
}
