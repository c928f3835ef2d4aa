//! PGMQ's version, and ezq's own tables.

use ezq_core::engine::{Finding, Severity};
use sqlx::Row as _;
use sqlx::postgres::PgConnection;

use super::found::{Found, counted};
use super::session::{Facts, Sight, sight};
use crate::schema::install::{self, CARRIED_PGMQ, OLDEST_PGMQ};
use crate::schema::report::{self, PartReport, PartState};
use crate::schema::{self, Part};
use crate::sql::quoted;

pub(super) async fn pgmq(connection: &mut PgConnection) -> Found {
    let row = sqlx::query(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
                        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                        WHERE n.nspname = 'pgmq' AND c.relname = 'meta') AS present,
                (SELECT extversion::text FROM pg_catalog.pg_extension WHERE extname = 'pgmq') AS installed,
                (SELECT default_version::text FROM pg_catalog.pg_available_extensions
                 WHERE name = 'pgmq') AS available",
    )
    .fetch_one(&mut *connection)
    .await?;
    let is_present: bool = row.try_get("present")?;
    let installed: Option<String> = row.try_get("installed")?;
    let available: Option<String> = row.try_get("available")?;

    if !is_present {
        return Ok(vec![absent(available.as_deref())]);
    }
    let Some(installed) = installed else {
        let version = from_sql(connection).await?;
        return Ok(vec![of_sql(version.as_deref())]);
    };
    Ok(vec![of_extension(&installed, available.as_deref())])
}

fn absent(available: Option<&str>) -> Finding {
    let finding = Finding::new(Severity::Error, "pgmq", "PGMQ is not installed");
    match available {
        Some(_) => finding.remedy("create extension pgmq;"),
        None => finding.advice(
            "the server has no extension `pgmq`: `ezq queue create NAME` installs PGMQ from SQL",
        ),
    }
}

fn of_extension(installed: &str, available: Option<&str>) -> Finding {
    let text = format!("PGMQ {installed} is installed as an extension");
    if install::is_older(installed, OLDEST_PGMQ) {
        let text = format!("{text}; ezq needs {OLDEST_PGMQ} or newer");
        return Finding::new(Severity::Error, "pgmq", text).remedy("alter extension pgmq update;");
    }
    match available {
        Some(newer) if install::is_older(installed, newer) => {
            let text = format!("{text}, and the server has {newer}");
            Finding::new(Severity::Notice, "pgmq", text).remedy("alter extension pgmq update;")
        }
        _ => Finding::new(Severity::Ok, "pgmq", text),
    }
}

/// The version that PGMQ's own record names, where the role may read it.
async fn from_sql(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    if sight(connection, "pgmq", "__pgmq_migrations").await? != Sight::Readable {
        return Ok(None);
    }
    let statement = "SELECT version FROM pgmq.__pgmq_migrations ORDER BY run_at DESC LIMIT 1";
    sqlx::query_scalar(statement)
        .fetch_optional(connection)
        .await
}

fn of_sql(version: Option<&str>) -> Finding {
    let text = format!(
        "PGMQ {} was installed from SQL",
        version.unwrap_or("of an unknown version")
    );
    match version {
        Some(version) if install::is_older(version, OLDEST_PGMQ) => {
            let text = format!("{text}; ezq needs {OLDEST_PGMQ} or newer");
            Finding::new(Severity::Error, "pgmq", text)
                .advice("run the upgrade scripts of PGMQ in their order")
        }
        Some(version) if install::is_older(version, CARRIED_PGMQ) => {
            let text = format!("{text}; ezq carries {CARRIED_PGMQ}");
            Finding::new(Severity::Notice, "pgmq", text)
                .advice("the upgrade scripts of PGMQ bring it up to date; nothing needs them")
        }
        _ => Finding::new(Severity::Ok, "pgmq", text),
    }
}

/// ezq's own tables and functions, and who owns them.
pub(super) async fn own(connection: &mut PgConnection, facts: &Facts) -> Found {
    let mut findings = Vec::new();
    if let Some(foreign) = schema::foreign_owner(connection).await? {
        let refused = foreign.refused(facts.connector.place());
        findings.push(Finding::new(Severity::Error, "schema", refused.to_string()));
    }
    if sight(connection, "ezq", "migrations").await? == Sight::Hidden {
        let role = quoted(&facts.role);
        let text = format!("the role `{}` may not read `ezq.migrations`", facts.role);
        findings.push(
            Finding::new(Severity::Warning, "schema", text).remedy(format!(
                "grant usage on schema ezq to {role};\ngrant select on ezq.migrations to {role};"
            )),
        );
        return Ok(findings);
    }

    let report = report::report(connection).await?;
    findings.extend(report.parts.iter().filter_map(of_part));
    if report.newer > 0 {
        let text = format!(
            "{} of a newer ezq, which this one leaves alone",
            counted(report.newer, "change")
        );
        findings.push(Finding::new(Severity::Notice, "schema", text));
    }
    if findings.is_empty() {
        let whole = report
            .parts
            .iter()
            .filter(|part| part.state == PartState::Whole);
        let text = format!(
            "{} of {} parts of ezq's own tables are there, and whole; the others are made when they \
             are first needed",
            whole.count(),
            report.parts.len()
        );
        findings.push(Finding::new(Severity::Ok, "schema", text));
    }
    Ok(findings)
}

/// A part that is not as this ezq makes it.
fn of_part(found: &PartReport) -> Option<Finding> {
    let (severity, text) = match found.state {
        PartState::Absent | PartState::Whole => return None,
        PartState::Behind => (
            Severity::Notice,
            format!("not brought up to date yet: {}", found.lacks),
        ),
        PartState::Broken => (Severity::Warning, format!("dropped: {}", found.lacks)),
    };
    let finding = Finding::new(severity, "schema", text)
        .about(name(found.part))
        .remedy(schema::script(found.part, None));
    Some(finding.advice("ezq does this by itself where it may change the schema"))
}

fn name(part: Part) -> &'static str {
    match part {
        Part::Engine => "dedupe keys",
        Part::Broadcast => "subscriptions",
        Part::Schedules => "schedules",
        Part::Replays => "replays",
        Part::Trail => "the trail",
        Part::Controls => "pauses",
        Part::Cancellations => "cancellations",
        Part::Presence => "consumers",
        Part::Operations => "operations and the audit trail",
        Part::Positions => "positions of sources",
        Part::Holders => "the takeover from killed workers",
        Part::Inbox => "the inbox",
    }
}
