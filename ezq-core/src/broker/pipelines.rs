//! Sending a batch to a broker that takes several messages at once, in the order of their keys.

use std::collections::HashSet;
use std::future::Future;

use super::outbound::Outbound;
use super::sink::SendOutcome;
use crate::error::{Error, ErrorKind, Result};

/// Sends a batch in pipelines, one after another: each is as long as it can be without two messages of one
/// [ordering key](Outbound::ordering_key). For a [`Sink`](super::Sink) whose messages of one pipeline are on
/// their way at once: if the first of a key failed, the second could be stored all the same.
///
/// `send` sends a pipeline, and answers one outcome for each of its messages. After a message that failed, the
/// pipelines behind it are not sent, since they may be of its key. Their messages count as failed.
///
/// ```
/// use ezq_core::broker::{Outbound, SendOutcome, send_in_pipelines};
///
/// async fn send(batch: &[Outbound]) -> ezq_core::Result<Vec<SendOutcome>> {
///     send_in_pipelines(batch, async |pipeline: &[Outbound]| {
///         // Here they go to the broker, which answers for each.
///         Ok(pipeline.iter().map(|_| SendOutcome::Sent).collect())
///     })
///     .await
/// }
/// ```
///
/// # Errors
/// Those of `send` for the first pipeline: nothing is known to be stored. An error for a later one counts as
/// the failure of its messages.
///
/// # Cancel safety
/// As that of `send`.
pub async fn send_in_pipelines<'m, F>(
    batch: &'m [Outbound],
    mut send: impl FnMut(&'m [Outbound]) -> F,
) -> Result<Vec<SendOutcome>>
where
    F: Future<Output = Result<Vec<SendOutcome>>>,
{
    let mut outcomes = Vec::with_capacity(batch.len());
    let mut rest = batch;
    while !rest.is_empty() {
        let (pipeline, later) = rest.split_at(without_repeated_keys(rest));
        match send(pipeline).await {
            Ok(answered) => outcomes.extend(answered),
            Err(error) if outcomes.is_empty() => return Err(error),
            Err(error) => outcomes.push(SendOutcome::Failed(error)),
        }

        let mut so_far = outcomes.iter();
        if so_far.any(|one| matches!(one, SendOutcome::Failed(_))) {
            let unsent = outcomes.len()..batch.len();
            outcomes.extend(unsent.map(|_| SendOutcome::Failed(behind())));
            break;
        }
        rest = later;
    }
    Ok(outcomes)
}

/// How many messages at the front have keys of their own.
fn without_repeated_keys(messages: &[Outbound]) -> usize {
    let mut seen = HashSet::new();
    messages
        .iter()
        .take_while(|message| message.ordering_key().is_none_or(|key| seen.insert(key)))
        .count()
}

fn behind() -> Error {
    let text = "an event before this one was not stored";
    Error::new(ErrorKind::Transient, text)
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use serde_json::json;

    use super::*;
    use crate::event::Envelope;
    use crate::message::headers::{Headers, KEY};

    /// Messages with these keys; an empty one is none.
    fn batch(keys: &[&str]) -> Vec<Outbound> {
        let messages = keys.iter().map(|key| {
            let envelope = Envelope::builder("step", "shop").build().unwrap();
            let message = Outbound::new("steps", envelope);
            match *key {
                "" => message,
                key => message.with_headers(&Headers::from_value(json!({KEY: key}))),
            }
        });
        messages.collect()
    }

    /// How long the pipelines are, and what is told: `s`ent, `r`ejected or `f`ailed. `answer` tells the
    /// outcomes of the pipeline of this number; `None` is an error.
    async fn sent(
        keys: &[&str],
        answer: impl Fn(usize) -> Option<&'static str>,
    ) -> (Vec<usize>, String) {
        let mut lengths = Vec::new();
        let batch = batch(keys);
        let lost = || Error::new(ErrorKind::Connection, "lost");
        let outcomes = send_in_pipelines(&batch, |pipeline| {
            lengths.push(pipeline.len());
            let told = answer(lengths.len() - 1).map(|told| {
                let outcomes = told.chars().map(|one| match one {
                    's' => SendOutcome::Sent,
                    'r' => SendOutcome::Rejected(lost()),
                    _ => SendOutcome::Failed(lost()),
                });
                outcomes.collect::<Vec<_>>()
            });
            ready(told.ok_or_else(lost))
        });
        let told = match outcomes.await {
            Err(_) => "error".to_owned(),
            Ok(outcomes) => outcomes
                .iter()
                .map(|one| match one {
                    SendOutcome::Sent => 's',
                    SendOutcome::Rejected(_) => 'r',
                    SendOutcome::Failed(_) => 'f',
                })
                .collect(),
        };
        (lengths, told)
    }

    #[tokio::test]
    async fn no_pipeline_has_two_messages_of_a_key() {
        let all_sent = |pipeline| Some(["sss", "ss", "s"][pipeline]);
        let keys = ["a", "", "b", "a", "", "a"];
        assert_eq!(
            sent(&keys, all_sent).await,
            (vec![3, 2, 1], "ssssss".to_owned())
        );
        assert_eq!(sent(&[], |_| None).await, (vec![], String::new()));
    }

    #[tokio::test]
    async fn what_is_rejected_holds_up_nothing_and_what_fails_all_that_follows() {
        let keys = ["a", "b", "a", "b"];
        let rejected = |pipeline| Some(["rs", "ss"][pipeline]);
        assert_eq!(sent(&keys, rejected).await, (vec![2, 2], "rsss".to_owned()));
        let failed = |_| Some("fs");
        assert_eq!(sent(&keys, failed).await, (vec![2], "fsff".to_owned()));
    }

    #[tokio::test]
    async fn an_error_counts_for_all_only_if_nothing_was_sent_before() {
        let keys = ["a", "a", "a"];
        assert_eq!(sent(&keys, |_| None).await, (vec![1], "error".to_owned()));
        let later = |pipeline| (pipeline == 0).then_some("s");
        assert_eq!(sent(&keys, later).await, (vec![1, 1], "sff".to_owned()));
    }
}
