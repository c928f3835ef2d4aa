//! A broker in this process, and sinks and sources of it of which each breaks one rule.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ezq_conformance::Verdict;
use ezq_conformance::brokers::{
    ServerStep, SinkHarness, SourceHarness, run_sink, run_source, sink_cases, source_cases,
};
use ezq_core::broker::{
    Arrival, Inbound, Outbound, SendOutcome, Sink, SinkCapabilities, Source, SourceCapabilities,
    SourcePosition,
};
use ezq_core::{Error, ErrorKind, Result};
use tokio::time::sleep;

/// The largest message that the broker takes.
const LIMIT: usize = 1024 * 1024;
const MISSING: &str = "no_such_topic";

/// What is wrong with a sink or a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    ChangesData,
    Reverses,
    LosesOutcomes,
    RefusesNothing,
    MixesTopics,
    LosesSome,
    DropsDuplicates,
    KnowsIdsOnly,
    FailsForGood,
    CutsLarge,
    TakesMissing,
    IsAlwaysHealthy,
    IsWrongWhenAway,
    SaysSentWhenAway,
    SaysSentWhenLate,
    ForgetsWhenClosed,
    IgnoresMax,
    SeesNothingNew,
    WaitsForEver,
    IgnoresSeeks,
    NumbersForItself,
    GoesOnAtCommits,
    AcceptsAnyPosition,
    LosesDropped,
    SharesMessages,
    SkipsAfterOutage,
    SkipsAfterPause,
}

use Fault::{
    AcceptsAnyPosition, ChangesData, CutsLarge, DropsDuplicates, FailsForGood, ForgetsWhenClosed,
    GoesOnAtCommits, IgnoresMax, IgnoresSeeks, IsAlwaysHealthy, IsWrongWhenAway, KnowsIdsOnly,
    LosesDropped, LosesOutcomes, LosesSome, MixesTopics, NumbersForItself, RefusesNothing,
    Reverses, SaysSentWhenAway, SaysSentWhenLate, SeesNothingNew, SharesMessages, SkipsAfterOutage,
    SkipsAfterPause, TakesMissing, WaitsForEver,
};

const SINKS: &[(Fault, &[&str])] = &[
    (ChangesData, &["an_event_arrives_with_all_its_attributes"]),
    (LosesOutcomes, &["a_batch_has_an_outcome_for_each_message"]),
    (RefusesNothing, &["an_empty_batch_has_no_outcomes"]),
    (Reverses, &["events_of_a_key_are_stored_in_their_order"]),
    (MixesTopics, &["topics_get_their_own_events"]),
    (LosesSome, &["several_batches_at_once_are_all_stored"]),
    (
        DropsDuplicates,
        &["an_event_sent_twice_is_stored_as_often_as_declared"],
    ),
    (KnowsIdsOnly, &["events_that_share_an_id_are_all_stored"]),
    (
        FailsForGood,
        &["an_event_that_is_too_large_is_rejected_and_harms_no_other"],
    ),
    (
        CutsLarge,
        &["a_large_event_that_is_not_refused_arrives_whole"],
    ),
    (TakesMissing, &["a_missing_topic_harms_no_other"]),
    (IsAlwaysHealthy, &["health_follows_the_broker"]),
    (
        IsWrongWhenAway,
        &["a_broker_that_is_away_is_a_failure_that_passes"],
    ),
    (
        SaysSentWhenAway,
        &["nothing_is_lost_when_the_broker_is_killed_in_the_middle"],
    ),
    (
        SaysSentWhenLate,
        &["a_broker_that_answers_late_gets_the_batch_again"],
    ),
    (
        ForgetsWhenClosed,
        &["what_is_stored_stays_when_the_sink_is_closed"],
    ),
];

const SOURCES: &[(Fault, &[&str])] = &[
    (LosesSome, &["every_message_comes_once_and_in_its_order"]),
    (ChangesData, &["an_event_is_read_as_it_was_sent"]),
    (IgnoresMax, &["a_call_gives_no_more_than_it_is_asked_for"]),
    (
        SeesNothingNew,
        &["a_message_that_comes_later_is_given_soon"],
    ),
    (
        WaitsForEver,
        &["a_topic_without_messages_answers_with_none"],
    ),
    (
        IgnoresSeeks,
        &[
            "a_seek_decides_where_a_partition_goes_on",
            "a_seek_drops_what_was_read_ahead",
        ],
    ),
    (
        NumbersForItself,
        &["another_source_gives_the_same_positions"],
    ),
    (GoesOnAtCommits, &["a_commit_decides_nothing"]),
    (
        AcceptsAnyPosition,
        &["a_position_behind_the_end_is_refused"],
    ),
    (
        LosesDropped,
        &["a_call_that_was_dropped_leaves_nothing_out"],
    ),
    (SharesMessages, &["partitions_are_divided_as_declared"]),
    (CutsLarge, &["a_large_message_comes_whole"]),
    (IsAlwaysHealthy, &["health_follows_the_broker"]),
    (
        SkipsAfterOutage,
        &[
            "a_broker_that_is_away_leaves_nothing_out",
            "a_broker_that_is_killed_in_the_middle_leaves_nothing_out",
        ],
    ),
    (
        SkipsAfterPause,
        &["a_broker_that_answers_late_leaves_nothing_out"],
    ),
];

#[derive(Default)]
struct Held {
    topics: BTreeMap<String, Vec<Vec<u8>>>,
    ids: HashSet<String>,
    /// Topics, sources and ids.
    whole: HashSet<[String; 3]>,
    is_away: bool,
    is_paused: bool,
    was_away: bool,
    was_paused: bool,
    sent: usize,
    sources: u64,
    /// What sources of the fault `SharesMessages` have given.
    given: usize,
    committed: u64,
}

#[derive(Clone)]
struct Broker {
    held: Arc<Mutex<Held>>,
    fault: Fault,
}

impl Broker {
    fn new(fault: Fault) -> Self {
        Self {
            held: Arc::default(),
            fault,
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap()
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Waits while the broker is paused.
    async fn answers(&self) -> Result<()> {
        while self.held().is_paused {
            sleep(Duration::from_millis(10)).await;
        }
        let error = Error::new(ErrorKind::Connection, "the broker is away");
        if self.held().is_away {
            Err(error)
        } else {
            Ok(())
        }
    }

    async fn do_step(&self, step: ServerStep) -> bool {
        if step == ServerStep::Start {
            // A server takes a while to start, and calls fail meanwhile.
            sleep(Duration::from_millis(300)).await;
        }
        let mut held = self.held();
        match step {
            ServerStep::Kill => held.is_away = true,
            ServerStep::Start => {
                held.is_away = false;
                held.was_away = true;
            }
            ServerStep::Pause => held.is_paused = true,
            ServerStep::Resume => {
                held.is_paused = false;
                held.was_paused = true;
            }
            _ => return false,
        }
        true
    }

    /// A body as the broker hands it out.
    fn body(&self, stored: &[u8]) -> Vec<u8> {
        let text = String::from_utf8(stored.to_vec()).unwrap();
        if self.has(ChangesData) {
            return text.replace("890.10", "890.1").into_bytes();
        }
        if self.has(CutsLarge) {
            return text.replace(&"x".repeat(100), "x").into_bytes();
        }
        text.into_bytes()
    }

    fn store(&self, message: &Outbound) -> SendOutcome {
        let body = message.structured().unwrap();
        let mut held = self.held();
        held.sent += 1;
        if body.len() > LIMIT {
            let error = Error::new(ErrorKind::TooLarge, "too large");
            return match self.has(FailsForGood) {
                true => SendOutcome::Failed(error),
                false => SendOutcome::Rejected(error),
            };
        }
        if message.topic() == MISSING && !self.has(TakesMissing) {
            let text = format!("there is no topic {MISSING}");
            return SendOutcome::Rejected(Error::new(ErrorKind::QueueMissing, text));
        }

        let is_lost = self.has(LosesSome) && held.sent.is_multiple_of(7);
        let is_known = !held.ids.insert(message.id().to_owned());
        let source = message.envelope().source();
        let whole = [message.topic(), source, message.id()].map(str::to_owned);
        let is_other = held.whole.insert(whole) && is_known;
        let is_dropped =
            is_known && self.has(DropsDuplicates) || is_other && self.has(KnowsIdsOnly);
        if !(is_lost || is_dropped) {
            let topic = match self.has(MixesTopics) {
                true => "all".to_owned(),
                false => message.topic().to_owned(),
            };
            held.topics.entry(topic).or_default().push(body);
        }
        SendOutcome::Sent
    }
}

#[ezq_core::async_trait]
impl Sink for Broker {
    fn capabilities(&self) -> &SinkCapabilities {
        const { &SinkCapabilities::new("broken").ordered().max_message(LIMIT) }
    }

    async fn send(&self, batch: &[Outbound]) -> Result<Vec<SendOutcome>> {
        let all_sent = || batch.iter().map(|_| SendOutcome::Sent).collect();
        let is_away = self.held().is_away;
        let is_paused = self.held().is_paused;
        if is_away && self.has(SaysSentWhenAway) || is_paused && self.has(SaysSentWhenLate) {
            return Ok(all_sent());
        }
        if is_away && self.has(IsWrongWhenAway) {
            return Err(Error::new(ErrorKind::Configuration, "the broker is away"));
        }
        if batch.is_empty() && self.has(RefusesNothing) {
            return Err(Error::new(ErrorKind::Engine, "nothing to send"));
        }
        self.answers().await?;
        // Time in which something else may happen.
        sleep(Duration::from_millis(1)).await;

        let mut outcomes: Vec<SendOutcome> = match self.has(Reverses) {
            true => batch.iter().rev().map(|one| self.store(one)).collect(),
            false => batch.iter().map(|one| self.store(one)).collect(),
        };
        if self.has(LosesOutcomes) && outcomes.len() > 1 {
            outcomes.pop();
        }
        Ok(outcomes)
    }

    async fn health_check(&self) -> Result<()> {
        match self.has(IsAlwaysHealthy) {
            true => Ok(()),
            false => self.answers().await,
        }
    }

    async fn close(&self) {
        if self.has(ForgetsWhenClosed) {
            self.held().topics.clear();
        }
    }
}

#[ezq_core::async_trait]
impl SinkHarness for Broker {
    async fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(self.clone())
    }

    async fn read(&self, topic: &str) -> Vec<Inbound> {
        let held = self.held();
        let stored = held.topics.get(topic).into_iter().flatten().zip(1..);
        stored
            .map(|(body, n)| Inbound::new(topic, SourcePosition::from(n), self.body(body)))
            .collect()
    }

    fn missing_topic(&self) -> Option<String> {
        Some(MISSING.to_owned())
    }

    async fn step(&self, step: ServerStep) -> bool {
        self.do_step(step).await
    }
}

/// The messages of a topic, in one partition, numbered from 1 on.
struct Numbered {
    broker: Broker,
    topic: String,
    /// The number of the last message that was given; `None` before the first seek.
    last: Option<u64>,
    /// What is added to the numbers.
    shift: u64,
    known: usize,
}

impl Numbered {
    fn find(&self, last: u64, max: usize) -> Vec<Inbound> {
        let mut held = self.broker.held();
        let stored = held.topics.get(&self.topic).cloned().unwrap_or_default();
        let max = if self.broker.has(IgnoresMax) {
            500
        } else {
            max
        };
        let known = if self.broker.has(SeesNothingNew) {
            self.known
        } else {
            stored.len()
        };
        let skipped = match self.broker.has(SharesMessages) {
            true => held.given,
            false => usize::try_from(last).unwrap(),
        };
        let found: Vec<Inbound> = stored
            .iter()
            .zip(1 + self.shift..)
            .take(known)
            .skip(skipped)
            .take(max)
            .filter(|(_, n)| !(self.broker.has(LosesSome) && n.is_multiple_of(7)))
            .map(|(body, n)| Inbound::new("p", SourcePosition::from(n), self.broker.body(body)))
            .collect();
        held.given += found.len();
        found
    }
}

#[ezq_core::async_trait]
impl Source for Numbered {
    fn name(&self) -> &str {
        "numbered"
    }

    fn capabilities(&self) -> &SourceCapabilities {
        const { &SourceCapabilities::new("broken").commits() }
    }

    async fn next(&mut self, max: usize) -> Result<Arrival> {
        if self.broker.held().is_away && self.broker.has(IsAlwaysHealthy) {
            sleep(Duration::from_millis(100)).await;
            return Ok(Arrival::Messages(Vec::new()));
        }
        self.broker.answers().await?;
        let Some(last) = self.last else {
            return Ok(Arrival::Assigned(vec!["p".to_owned()]));
        };
        let found = self.find(last, max);
        if found.is_empty() {
            let is_stuck = self.broker.has(WaitsForEver);
            sleep(Duration::from_secs(if is_stuck { 1_000 } else { 1 })).await;
        }
        let end = found.last().map(|one| one.position().major() - self.shift);
        if self.broker.has(LosesDropped) {
            self.last = end.or(self.last);
        }
        // Time in which the call may be dropped.
        sleep(Duration::from_millis(1)).await;
        self.last = end.or(self.last);
        Ok(Arrival::Messages(found))
    }

    async fn seek(
        &mut self,
        _: &str,
        after: Option<SourcePosition>,
    ) -> Result<Option<SourcePosition>> {
        self.broker.answers().await?;
        let to = after.map_or(0, |after| after.major().saturating_sub(self.shift));
        let end = {
            let held = self.broker.held();
            held.topics.get(&self.topic).map_or(0, Vec::len) as u64
        };
        let refused = to > end && !self.broker.has(AcceptsAnyPosition);
        if refused && !self.broker.has(SharesMessages) {
            return Err(Error::new(ErrorKind::Configuration, "the topic is another"));
        }

        let (was_away, was_paused, committed) = {
            let held = self.broker.held();
            (held.was_away, held.was_paused, held.committed)
        };
        let skips = was_away && self.broker.has(SkipsAfterOutage)
            || was_paused && self.broker.has(SkipsAfterPause);
        let keeps = self.broker.has(IgnoresSeeks) || self.broker.has(LosesDropped);
        self.last = Some(match self.last {
            _ if skips => end,
            Some(last) if keeps => last.max(to),
            _ if self.broker.has(GoesOnAtCommits) => to.max(committed),
            _ => to,
        });
        Ok(after)
    }

    async fn commit(&mut self, _: &[(String, SourcePosition)]) -> Result<()> {
        // What was read, and not what it was told.
        self.broker.held().committed = self.last.unwrap_or(0);
        Ok(())
    }

    async fn health_check(&mut self) -> Result<()> {
        self.broker.health_check_of_source().await
    }
}

impl Broker {
    async fn health_check_of_source(&self) -> Result<()> {
        Sink::health_check(self).await
    }
}

#[ezq_core::async_trait]
impl SourceHarness for Broker {
    async fn source(&self, topic: &str) -> Box<dyn Source> {
        let mut held = self.held();
        held.sources += 1;
        Box::new(Numbered {
            broker: self.clone(),
            topic: topic.to_owned(),
            last: None,
            shift: if self.has(NumbersForItself) {
                held.sources
            } else {
                0
            },
            known: held.topics.get(topic).map_or(0, Vec::len),
        })
    }

    async fn put(&self, topic: &str, messages: &[Outbound]) {
        let mut held = self.held();
        let stored = held.topics.entry(topic.to_owned()).or_default();
        stored.extend(messages.iter().map(|one| one.structured().unwrap()));
    }

    async fn step(&self, step: ServerStep) -> bool {
        self.do_step(step).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_sink_and_a_source_that_keep_every_rule_pass() {
    let report = run_sink(&Broker::new(Fault::None)).await;
    assert_eq!(
        (report.failed().count(), report.skipped().count()),
        (0, 0),
        "{report}"
    );
    let report = run_source(&Broker::new(Fault::None)).await;
    assert_eq!(
        (report.failed().count(), report.skipped().count()),
        (0, 0),
        "{report}"
    );
}

#[tokio::test(start_paused = true)]
async fn every_fault_of_a_sink_or_a_source_is_caught() {
    let mut missed = Vec::new();
    for (fault, names) in SINKS {
        for case in sink_cases()
            .iter()
            .filter(|case| names.contains(&case.name()))
        {
            let verdict = case.run(&Broker::new(*fault)).await;
            if !matches!(verdict, Verdict::Failed(_)) {
                missed.push((fault, case.name(), verdict));
            }
        }
    }
    for (fault, names) in SOURCES {
        for case in source_cases()
            .iter()
            .filter(|case| names.contains(&case.name()))
        {
            let verdict = case.run(&Broker::new(*fault)).await;
            if !matches!(verdict, Verdict::Failed(_)) {
                missed.push((fault, case.name(), verdict));
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_case_of_a_sink_and_of_a_source_can_fail() {
    let caught = |faults: &[(Fault, &[&'static str])]| -> HashSet<&'static str> {
        faults
            .iter()
            .flat_map(|(_, names)| names.to_vec())
            .collect()
    };
    let all: HashSet<_> = sink_cases().iter().map(|case| case.name()).collect();
    assert_eq!(all, caught(SINKS));
    let all: HashSet<_> = source_cases().iter().map(|case| case.name()).collect();
    assert_eq!(all, caught(SOURCES));
}
