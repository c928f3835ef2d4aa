//! Following: the messages of a queue by their numbers, whatever their state.

use ezq_core::ErrorKind;
use ezq_core::engine::{Browse, Due};

use crate::error::{CaseError, CaseResult};
use crate::stage::{HOLD, Stage, ack, bury, number_in};

cases![messages_are_read_by_their_numbers];

async fn messages_are_read_by_their_numbers(stage: &Stage<'_>) -> CaseResult {
    let browse = browse(stage).await?;
    check_eq!(
        browse.newest(&stage.queue).await?,
        None,
        "the newest of none"
    );

    // One is leased, one died, one is handled, one is due later, and one is due.
    let mut ids = stage.publish_numbers(&[1, 2, 3]).await?;
    let leased = stage.lease(3, HOLD).await?;
    let [_, dies, ends] = leased.as_slice() else {
        return Err(CaseError::Failed("too few".to_owned()));
    };
    let settled = vec![
        (dies.receipt.clone(), bury()),
        (ends.receipt.clone(), ack()),
    ];
    stage.done(settled).await?;
    let later = match stage.engine.capabilities().delayed {
        true => stage.message(4).due(Due::After(HOLD)),
        false => stage.message(4),
    };
    ids.extend(stage.publish(vec![later]).await?);
    ids.extend(stage.publish_numbers(&[5]).await?);

    // Without numbers nothing can be followed.
    let mut places = Vec::new();
    for id in &ids {
        let place = id.as_number();
        places.push(place.ok_or_else(|| CaseError::Failed(format!("{id} is no number")))?);
    }
    check_eq!(
        browse.newest(&stage.queue).await?,
        places.last().copied(),
        "the newest"
    );
    // By the numbers in the bodies, which say what was read.
    let read = async |after: i64, except: &[i64], limit| -> Result<Vec<i64>, CaseError> {
        let queue = &stage.queue;
        let found = browse.numbered_after(queue, after, except, limit).await?;
        let bodies = found.iter().map(|copy| copy.body.as_deref());
        Ok(bodies.map(|body| body.map_or(-1, number_in)).collect())
    };
    check_eq!(read(0, &[], 10).await?, [1, 4, 5], "all");
    check_eq!(read(places[0], &[], 10).await?, [4, 5], "behind the first");
    check_eq!(read(places[4], &[], 10).await?, [0; 0], "behind the newest");
    check_eq!(read(0, &[places[3]], 10).await?, [1, 5], "without one");
    check_eq!(read(0, &[places[0]], 1).await?, [4], "the next one");

    let missing = browse.numbered_after(&stage.missing, 0, &[], 1).await;
    check_eq!(
        missing.err().map(|error| error.kind()),
        Some(ErrorKind::QueueMissing),
        "the messages of no queue"
    );
    let missing = browse.newest(&stage.missing).await;
    check_eq!(
        missing.err().map(|error| error.kind()),
        Some(ErrorKind::QueueMissing),
        "the newest of no queue"
    );
    Ok(())
}

/// The browsing of an engine that numbers its messages.
async fn browse<'a>(stage: &'a Stage<'_>) -> Result<&'a dyn Browse, CaseError> {
    let browse = stage.second.browse();
    let browse =
        browse.ok_or_else(|| CaseError::Skipped("the engine cannot be browsed".to_owned()))?;
    match browse.newest(&stage.queue).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let text = "the engine does not number its messages";
            Err(CaseError::Skipped(text.to_owned()))
        }
        Err(error) => Err(error.into()),
        Ok(_) => Ok(browse),
    }
}
