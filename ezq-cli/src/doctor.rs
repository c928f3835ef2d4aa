//! `ezq doctor`: what is wrong with a database, and the SQL that mends it.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use ezq::engine::{DoctorOptions, Finding, Severity};
use ezq::pgmq::PgmqEngine;
use serde::Serialize;

use crate::failure::Failure;
use crate::names;
use crate::session::Session;
use crate::text;
use crate::values;

/// What is examined, and what is shown of it.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Show also what is well
    #[arg(long)]
    all: bool,
    /// Show only this check; may be repeated [default: every check]
    #[arg(long = "check", value_name = "NAME")]
    checks: Vec<String>,
    /// From which age on an open transaction, or a prepared one, is a finding
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "5m")]
    old_after: Duration,
}

pub(crate) async fn run(session: &Session, doctor: Doctor) -> Result<(), Failure> {
    let config = session.database()?;
    let mut options = DoctorOptions::default();
    options.old_after = doctor.old_after;
    // No engine is connected: it would refuse what is to be found.
    let mut findings = PgmqEngine::diagnose(&config, &options).await;

    doctor.select(&mut findings)?;
    let has_error = findings.iter().any(|one| one.severity == Severity::Error);
    let examined = text::counted(findings.len(), "finding");
    findings.retain(|one| doctor.all || one.severity > Severity::Ok);
    // A stable sort: the findings of a check stay together.
    findings.sort_by_key(|one| std::cmp::Reverse(one.severity));

    print(session, &findings, &examined)?;
    match has_error {
        true => Err(Failure::silent(1)),
        false => Ok(()),
    }
}

impl Doctor {
    /// Keeps the findings of the checks that were asked for.
    fn select(&self, findings: &mut Vec<Finding>) -> Result<(), Failure> {
        let known: Vec<&str> = findings.iter().map(|one| one.check).collect();
        // Where the server cannot be reached, no check has run.
        let has_run = known != ["connection"];
        for name in &self.checks {
            if has_run && !known.contains(&name.as_str()) {
                let text = names::missing("check", name, known, "there is no");
                return Err(Failure::usage(text));
            }
        }
        findings.retain(|one| {
            let is_asked = self.checks.iter().any(|name| name == one.check);
            self.checks.is_empty() || is_asked || !has_run
        });
        Ok(())
    }
}

fn print(session: &Session, findings: &[Finding], examined: &str) -> Result<(), Failure> {
    let output = session.output;
    if session.global.json {
        let rows: Vec<FindingRow<'_>> = findings.iter().map(FindingRow::of).collect();
        return output.lines(&rows);
    }
    if findings.is_empty() {
        output.note(format!("all is well: {examined}"));
        return Ok(());
    }

    let texts: Vec<String> = findings.iter().map(paragraph).collect();
    output.data(&texts.join("\n"))
}

/// A finding with what to do, on lines of its own.
fn paragraph(found: &Finding) -> String {
    let mut text = found.to_string();
    // Writing to a string cannot fail.
    if let Some(advice) = &found.advice {
        let _ = write!(text, "\n    {advice}");
    }
    if let Some(sql) = &found.remedy {
        text.push_str("\n    this mends it:");
        for line in sql.lines() {
            let _ = write!(text, "\n        {line}");
        }
    }
    text
}

/// A finding, as `--json` prints it.
#[derive(Serialize)]
struct FindingRow<'a> {
    severity: String,
    check: &'a str,
    subject: Option<&'a str>,
    queue: Option<&'a str>,
    evidence: &'a str,
    remedy: Option<&'a str>,
    advice: Option<&'a str>,
}

impl<'a> FindingRow<'a> {
    fn of(found: &'a Finding) -> Self {
        Self {
            severity: found.severity.to_string(),
            check: found.check,
            subject: found.subject.as_deref(),
            queue: found.queue.as_ref().map(|queue| queue.as_str()),
            evidence: &found.evidence,
            remedy: found.remedy.as_deref(),
            advice: found.advice.as_deref(),
        }
    }
}
