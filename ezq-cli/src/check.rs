//! `ezq check`: whether queues and consumers are within limits, for monitoring.

use std::time::Duration;

use clap::{Args, ValueEnum};
use ezq::admin::{ConsumerInfo, QueueList, QueueSummary, UnreadableQueue};
use ezq::error::error_chain;
use ezq::{ErrorKind, Ezq};
use serde::Serialize;

use crate::exposition;
use crate::failure::Failure;
use crate::names;
use crate::session::{Access, Session};
use crate::text;
use crate::values;

/// Limits. What is not limited is not checked; that the database answers always is.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Check only this queue; may be repeated [default: all]
    #[arg(long = "queue", value_name = "QUEUE")]
    queues: Vec<String>,
    /// How long the oldest event that can be handled may wait, such as `5m`
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    max_age: Option<Duration>,
    /// How many events may be ready; counts stop at 10,000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..10_000))]
    max_ready: Option<u64>,
    /// How many dead letters there may be; counts stop at 10,000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..10_000))]
    max_dead: Option<u64>,
    /// How many consumers may be gone: their process died since yesterday
    #[arg(long, value_name = "N")]
    max_gone: Option<u64>,
    /// How to print what was found
    #[arg(long, value_enum, default_value = "text", conflicts_with = "json")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line for each problem. Exit code 1 if there is any
    Text,
    /// One object, as with `--json`. Exit code 1 if there is any problem
    Json,
    /// The line and the exit codes of a Nagios plugin: 0 OK, 2 CRITICAL
    Nagios,
    /// Metrics in the text format of Prometheus. Exit code 0: `ezq_check_ok` has the result
    Prometheus,
}

/// What was looked at, and what is wrong with it.
#[derive(Debug)]
struct Findings {
    queues: QueueList,
    consumers: Vec<ConsumerInfo>,
    problems: Vec<Problem>,
}

/// A limit that is exceeded.
#[derive(Debug, Serialize)]
struct Problem {
    /// `null` for one of consumers.
    queue: Option<String>,
    /// The option that set it; `readable` for a queue that could not be read.
    limit: &'static str,
    text: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    is_ok: bool,
    queues: usize,
    consumers: usize,
    problems: &'a [Problem],
}

pub(crate) async fn run(session: &Session, check: Check) -> Result<(), Failure> {
    let format = match session.global.json {
        true => Format::Json,
        false => check.format,
    };
    match (check.look(session).await, format) {
        (Ok(found), _) => found.print(session, format),
        // Nagios reads the first line of stdout.
        (Err(failure), Format::Nagios) if !failure.is_usage() => {
            let line = format!("EZQ CRITICAL - {failure}");
            session
                .output
                .data(&line.lines().next().unwrap_or_default())?;
            Err(Failure::silent(NAGIOS_CRITICAL))
        }
        (Err(failure), _) => Err(failure),
    }
}

/// Source: Monitoring Plugins Development Guidelines, "Plugin Return Codes".
const NAGIOS_CRITICAL: u8 = 2;

impl Check {
    async fn look(&self, session: &Session) -> Result<Findings, Failure> {
        let ezq = session.connect(Access::Read).await?;
        let queues = self.queues(&ezq).await?;
        let consumers = ezq.consumers().list().await?;
        ezq.close().await;

        let mut problems: Vec<Problem> = queues.unreadable.iter().map(unreadable).collect();
        problems.extend(queues.queues.iter().flat_map(|one| self.problems(one)));
        problems.extend(self.gone(&consumers));
        Ok(Findings {
            queues,
            consumers,
            problems,
        })
    }

    async fn queues(&self, ezq: &Ezq) -> Result<QueueList, Failure> {
        // One call for all is cheaper than one for each.
        if self.queues.is_empty() {
            return Ok(ezq.queues().list().await?);
        }

        let mut found = QueueList::default();
        for name in &self.queues {
            let queue = names::queue(ezq, name).await?;
            match ezq.queues().get(&queue).await {
                Ok(summary) => found.queues.push(summary),
                Err(error) if error.kind() == ErrorKind::Connection => return Err(error.into()),
                Err(error) => found.unreadable.push(UnreadableQueue::new(queue, error)),
            }
        }
        Ok(found)
    }

    fn problems(&self, one: &QueueSummary) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |limit, text: String| {
            let queue = Some(one.queue.to_string());
            let text = format!("the queue `{}`: {text}", one.queue);
            problems.push(Problem { queue, limit, text });
        };

        if let (Some(age), Some(max)) = (one.oldest_claimable, self.max_age)
            && age > max
        {
            let age = text::duration(age);
            let max = text::duration(max);
            add("max_age", format!("oldest {age} (at most {max})"));
        }
        for (limit, count, max, what) in [
            ("max_ready", one.ready, self.max_ready, "ready"),
            ("max_dead", one.dead, self.max_dead, "dead"),
        ] {
            if let Some(max) = max
                && count.value > max
            {
                add(limit, format!("{count} {what} (at most {max})"));
            }
        }
        problems
    }

    fn gone(&self, consumers: &[ConsumerInfo]) -> Option<Problem> {
        let gone = consumers.iter().filter(|one| one.is_gone).count();
        let max = self.max_gone?;
        (u64::try_from(gone).unwrap_or(u64::MAX) > max).then(|| Problem {
            queue: None,
            limit: "max_gone",
            text: format!("{} gone (at most {max})", text::counted(gone, "consumer")),
        })
    }
}

/// That a queue could not be read is a problem, whatever the limits.
fn unreadable(one: &UnreadableQueue) -> Problem {
    let queue = &one.queue;
    let why = error_chain(&one.error);
    Problem {
        queue: Some(queue.to_string()),
        limit: "readable",
        text: format!("the queue `{queue}` cannot be read: {why}"),
    }
}

impl Findings {
    fn print(&self, session: &Session, format: Format) -> Result<(), Failure> {
        let output = session.output;
        let is_ok = self.problems.is_empty();
        let lines: Vec<&str> = self.problems.iter().map(|one| &*one.text).collect();
        let QueueList {
            queues, unreadable, ..
        } = &self.queues;
        let count = queues.len().saturating_add(unreadable.len());
        let looked = text::counted(count, "queue");

        match format {
            Format::Text if is_ok => output.note(format!("{looked} within limits")),
            Format::Text => output.data(&lines.join("\n"))?,
            Format::Json => output.lines(&[Answer {
                is_ok,
                queues: count,
                consumers: self.consumers.len(),
                problems: &self.problems,
            }])?,
            Format::Nagios if is_ok => output.data(&format!("EZQ OK - {looked} within limits"))?,
            Format::Nagios => output.data(&format!("EZQ CRITICAL - {}", lines.join("; ")))?,
            Format::Prometheus => {
                output.script(&exposition::of(&self.queues, &self.consumers, is_ok))?
            }
        }
        // A limit that is exceeded is no error of the program: the code alone says so.
        match (is_ok, format) {
            (true, _) | (false, Format::Prometheus) => Ok(()),
            (false, Format::Nagios) => Err(Failure::silent(NAGIOS_CRITICAL)),
            (false, _) => Err(Failure::silent(1)),
        }
    }
}
