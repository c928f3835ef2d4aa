//! The rules of sources.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::broker::{Outbound, SourcePosition};
use tokio::time::{sleep, timeout};

use super::case::SourceCase;
use super::harness::{ServerStep, SourceHarness};
use super::reading::Reader;
use super::sending::{RECOVERY, event, events, ids, needs, source_topic};
use crate::error::{CaseError, CaseResult};

macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        pub(super) const CASES: &[SourceCase] = &[
            $(SourceCase { name: stringify!($name), run: |harness| Box::pin($name(harness)) }),+
        ];
    };
}

cases![
    every_message_comes_once_and_in_its_order,
    an_event_is_read_as_it_was_sent,
    a_call_gives_no_more_than_it_is_asked_for,
    a_message_that_comes_later_is_given_soon,
    a_topic_without_messages_answers_with_none,
    a_seek_decides_where_a_partition_goes_on,
    a_seek_drops_what_was_read_ahead,
    another_source_gives_the_same_positions,
    a_commit_decides_nothing,
    a_position_behind_the_end_is_refused,
    a_call_that_was_dropped_leaves_nothing_out,
    partitions_are_divided_as_declared,
    a_large_message_comes_whole,
    health_follows_the_broker,
    a_broker_that_is_away_leaves_nothing_out,
    a_broker_that_is_killed_in_the_middle_leaves_nothing_out,
    a_broker_that_answers_late_leaves_nothing_out,
];

/// Messages of three keys.
fn keyed(topic: &str, prefix: &str, count: usize) -> Result<Vec<Outbound>, CaseError> {
    let keys = ["ada", "bob", "eve"];
    let plain = events(topic, prefix, count)?.into_iter().enumerate();
    Ok(plain.map(|(n, one)| one.key(keys[n % 3])).collect())
}

/// A topic with messages, and a reader at its beginning.
async fn filled(harness: &dyn SourceHarness, count: usize) -> Result<(String, Reader), CaseError> {
    let topic = source_topic(harness).await;
    harness.put(&topic, &keyed(&topic, "n", count)?).await;
    let reader = Reader::new(harness.source(&topic).await);
    Ok((topic, reader))
}

async fn every_message_comes_once_and_in_its_order(harness: &dyn SourceHarness) -> CaseResult {
    let (_, mut reader) = filled(harness, 300).await?;
    reader.read(300, 70).await?;
    reader.is_quiet().await?;

    let read = ids(&reader.read)?;
    check_eq!(HashSet::<&String>::from_iter(&read).len(), 300, "events");
    for key in 0..3 {
        let numbers = read
            .iter()
            .filter_map(|id| id.split_once('-')?.1.parse().ok());
        let of_key: Vec<usize> = numbers.filter(|n: &usize| n % 3 == key).collect();
        check!(of_key.is_sorted(), "the order of one key is {of_key:?}");
    }
    Ok(())
}

async fn an_event_is_read_as_it_was_sent(harness: &dyn SourceHarness) -> CaseResult {
    let topic = source_topic(harness).await;
    let sent = event(&topic, "whole", 0)?;
    harness.put(&topic, std::slice::from_ref(&sent)).await;
    let mut reader = Reader::new(harness.source(&topic).await);
    reader.read(1, 1).await?;

    let read = reader.read[0].to_envelope("conformance", None)?;
    let sent = sent.envelope();
    check_eq!(read.id(), sent.id(), "its id");
    check_eq!(read.source(), sent.source(), "its source");
    check_eq!(read.event_type(), sent.event_type(), "its type");
    check_eq!(read.subject(), sent.subject(), "its subject");
    check_eq!(read.data(), sent.data(), "its data");
    Ok(())
}

async fn a_call_gives_no_more_than_it_is_asked_for(harness: &dyn SourceHarness) -> CaseResult {
    let (_, mut reader) = filled(harness, 30).await?;
    // Each step checks it.
    for (count, max) in [(1, 1), (8, 7), (30, 100)] {
        reader.read(count, max).await?;
    }
    reader.is_quiet().await
}

/// Waiting for messages is the usual state of an ingest.
async fn a_message_that_comes_later_is_given_soon(harness: &dyn SourceHarness) -> CaseResult {
    let (topic, mut reader) = filled(harness, 1).await?;
    reader.read(1, 10).await?;
    reader.is_quiet().await?;
    harness.put(&topic, &events(&topic, "later", 1)?).await;
    timeout(Duration::from_secs(10), reader.read(2, 10))
        .await
        .map_err(|_| CaseError::Failed("it did not come within 10 s".to_owned()))?
}

/// An ingest is stopped between two calls, so none may wait for ever.
async fn a_topic_without_messages_answers_with_none(harness: &dyn SourceHarness) -> CaseResult {
    let topic = source_topic(harness).await;
    let mut reader = Reader::new(harness.source(&topic).await);
    reader.is_quiet().await?;
    harness.put(&topic, &events(&topic, "first", 1)?).await;
    reader.read(1, 10).await
}

async fn a_seek_decides_where_a_partition_goes_on(harness: &dyn SourceHarness) -> CaseResult {
    let (_, mut reader) = filled(harness, 60).await?;
    reader.read(60, 25).await?;
    let all = ids(&reader.read)?;

    // Back to the beginning, and to the middle of each partition.
    for skipped in [0, 20] {
        let mut kept = BTreeSet::new();
        for stored in reader.stored.values_mut() {
            *stored = None;
        }
        for message in reader.read.iter().take(skipped) {
            let partition = message.partition().to_owned();
            reader.stored.insert(partition, Some(message.position()));
            kept.insert(message.to_envelope("conformance", None)?.id().to_owned());
        }
        reader.seek_all().await?;
        reader.read.clear();
        reader.read(60 - skipped, 25).await?;
        reader.is_quiet().await?;
        kept.extend(ids(&reader.read)?);
        check_eq!(kept.len(), all.len(), "events, {skipped} of them before");
        // The order across partitions may differ: begin anew for the next round.
        for stored in reader.stored.values_mut() {
            *stored = None;
        }
        reader.seek_all().await?;
        reader.read.clear();
        reader.read(60, 25).await?;
    }
    Ok(())
}

/// What was read ahead belongs to the place before the seek.
async fn a_seek_drops_what_was_read_ahead(harness: &dyn SourceHarness) -> CaseResult {
    let (_, mut reader) = filled(harness, 40).await?;
    reader.read(1, 1).await?;
    for _ in 0..3 {
        for stored in reader.stored.values_mut() {
            *stored = None;
        }
        reader.seek_all().await?;
        reader.read.clear();
        // Had it kept what it had read ahead, a position would come twice or be left out.
        reader.read(40, 3).await?;
    }
    check_eq!(
        HashSet::<String>::from_iter(ids(&reader.read)?).len(),
        40,
        "events"
    );
    reader.is_quiet().await
}

/// A process that takes over compares positions with those that another one stored.
async fn another_source_gives_the_same_positions(harness: &dyn SourceHarness) -> CaseResult {
    let (topic, mut reader) = filled(harness, 30).await?;
    reader.read(30, 10).await?;
    reader.source.close().await;
    let mut other = Reader::new(harness.source(&topic).await);
    other.read(30, 30).await?;

    let placed = |reader: &Reader| -> Result<BTreeSet<_>, CaseError> {
        let placed = reader.read.iter().map(|message| {
            let id = message.to_envelope("conformance", None)?.id().to_owned();
            Ok((message.partition().to_owned(), message.position(), id))
        });
        placed.collect()
    };
    check_eq!(placed(&other)?, placed(&reader)?, "positions");
    check_eq!(
        other.source.name(),
        reader.source.name(),
        "the name under which positions are stored"
    );
    Ok(())
}

/// What the broker was told is information: only the stored position counts.
async fn a_commit_decides_nothing(harness: &dyn SourceHarness) -> CaseResult {
    let (topic, mut reader) = filled(harness, 40).await?;
    reader.read(20, 10).await?;
    let stored = reader.stored.clone();
    let count = reader.read.len();
    reader.read(40, 10).await?;
    // Less than was read: the rest is what a crash leaves unstored.
    let told: Vec<(String, SourcePosition)> = stored
        .iter()
        .filter_map(|(partition, position)| Some((partition.clone(), (*position)?)))
        .collect();
    // A source may drop what it was told is stored, and nothing behind it.
    reader.source.commit(&told).await?;
    reader.source.commit(&told).await?;
    reader.source.close().await;

    let mut next = Reader::new(harness.source(&topic).await);
    next.stored = stored;
    next.read(40 - count, 10).await?;
    next.is_quiet().await
}

/// A partition that was made anew begins with lower positions. Without an error its messages would pass for
/// ones that are stored.
async fn a_position_behind_the_end_is_refused(harness: &dyn SourceHarness) -> CaseResult {
    let (_, mut reader) = filled(harness, 6).await?;
    reader.read(6, 10).await?;
    for (partition, stored) in reader.stored.clone() {
        let Some(stored) = stored else {
            continue;
        };
        let far = SourcePosition::from(stored.major() + 1_000_000);
        match reader.source.seek(&partition, Some(far)).await {
            Ok(at) => check!(
                false,
                "`{partition}` ends before {far}, and goes on at {at:?}"
            ),
            Err(error) => check_eq!(error.kind(), ErrorKind::Configuration, "the error"),
        }
    }
    Ok(())
}

/// An ingest drops a call when it is stopped, and seeks before the next.
async fn a_call_that_was_dropped_leaves_nothing_out(harness: &dyn SourceHarness) -> CaseResult {
    let (_, mut reader) = filled(harness, 60).await?;
    reader.read(1, 1).await?;
    for micros in [0, 200, 1_000, 5_000] {
        let dropped = reader.source.next(10);
        let _ = timeout(Duration::from_micros(micros), dropped).await;
        reader.seek_all().await?;
        reader.step(5).await?;
    }
    reader.read(60, 10).await?;
    check_eq!(
        HashSet::<String>::from_iter(ids(&reader.read)?).len(),
        60,
        "events"
    );
    Ok(())
}

async fn partitions_are_divided_as_declared(harness: &dyn SourceHarness) -> CaseResult {
    let (topic, mut one) = filled(harness, 30).await?;
    let mut other = Reader::new(harness.source(&topic).await);
    if !one.source.capabilities().divided {
        // Declared absent, so it must be seen absent: each gets all.
        one.read(30, 10).await?;
        return other.read(30, 10).await;
    }

    let began = tokio::time::Instant::now();
    loop {
        // An ingest that loses a partition stores nothing twice, because of the position in the database.
        let _ = one.step(10).await;
        let _ = other.step(10).await;
        let all: HashSet<String> = ids(&one.read)?
            .into_iter()
            .chain(ids(&other.read)?)
            .collect();
        if all.len() == 30 {
            return Ok(());
        }
        let read = all.len();
        check!(
            began.elapsed() < RECOVERY,
            "{read} of 30 events came to either"
        );
    }
}

async fn a_large_message_comes_whole(harness: &dyn SourceHarness) -> CaseResult {
    let topic = source_topic(harness).await;
    let sent = [
        event(&topic, "large", 512 * 1024)?,
        event(&topic, "small", 0)?,
    ];
    harness.put(&topic, &sent).await;
    let mut reader = Reader::new(harness.source(&topic).await);
    reader.read(2, 10).await?;
    for message in &reader.read {
        let read = message.to_envelope("conformance", None)?;
        let sent = sent.iter().find(|sent| sent.id() == read.id());
        let sent = sent.and_then(|sent| sent.envelope().data());
        check_eq!(read.data(), sent, "its data");
    }
    Ok(())
}

async fn health_follows_the_broker(harness: &dyn SourceHarness) -> CaseResult {
    let (_, mut reader) = filled(harness, 1).await?;
    reader.read(1, 10).await?;
    reader.source.health_check().await?;
    needs(harness.step(ServerStep::Kill).await, ServerStep::Kill)?;
    // Either of the two has to see it, and an ingest asks both.
    let mut is_seen = false;
    for _ in 0..30 {
        let asked = async {
            reader.source.next(10).await.is_err() || reader.source.health_check().await.is_err()
        };
        // A call that waits for a broker that is away is not yet an answer.
        is_seen = timeout(Duration::from_secs(20), asked)
            .await
            .unwrap_or(false);
        if is_seen {
            break;
        }
    }
    harness.step(ServerStep::Start).await;
    check!(is_seen, "a broker that was killed is said to answer");
    for _ in 0..600 {
        if reader.source.health_check().await.is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    check!(
        false,
        "a broker that was started again is said not to answer"
    );
    Ok(())
}

async fn a_broker_that_is_away_leaves_nothing_out(harness: &dyn SourceHarness) -> CaseResult {
    let (topic, mut reader) = filled(harness, 20).await?;
    reader.read(20, 10).await?;
    needs(harness.step(ServerStep::Kill).await, ServerStep::Kill)?;
    let asked = timeout(Duration::from_secs(30), reader.source.next(10)).await;
    harness.step(ServerStep::Start).await;
    if let Ok(Err(error)) = asked {
        check!(error.is_transient(), "an outage is no {:?}", error.kind());
    }
    harness.put(&topic, &events(&topic, "later", 20)?).await;
    reader.recover().await?;
    reader.read_through_failures(40).await?;
    check_eq!(
        HashSet::<String>::from_iter(ids(&reader.read)?).len(),
        40,
        "events"
    );
    Ok(())
}

async fn a_broker_that_is_killed_in_the_middle_leaves_nothing_out(
    harness: &dyn SourceHarness,
) -> CaseResult {
    let (_, mut reader) = filled(harness, 600).await?;
    for read in [100, 300] {
        reader.read_through_failures(read).await?;
        needs(harness.step(ServerStep::Kill).await, ServerStep::Kill)?;
        let _ = timeout(Duration::from_secs(2), reader.source.next(10)).await;
        harness.step(ServerStep::Start).await;
        // What the dropped call had taken must come again.
        reader.recover().await?;
    }
    reader.read_through_failures(600).await?;
    check_eq!(
        HashSet::<String>::from_iter(ids(&reader.read)?).len(),
        600,
        "events"
    );
    reader.is_quiet().await
}

async fn a_broker_that_answers_late_leaves_nothing_out(harness: &dyn SourceHarness) -> CaseResult {
    let (_, mut reader) = filled(harness, 60).await?;
    reader.read(10, 5).await?;
    needs(harness.step(ServerStep::Pause).await, ServerStep::Pause)?;
    let _ = timeout(Duration::from_secs(3), reader.source.next(10)).await;
    harness.step(ServerStep::Resume).await;
    reader.recover().await?;
    reader.read_through_failures(60).await?;
    check_eq!(
        HashSet::<String>::from_iter(ids(&reader.read)?).len(),
        60,
        "events"
    );
    Ok(())
}
