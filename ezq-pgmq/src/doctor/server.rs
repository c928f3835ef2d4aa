//! The server's settings for this role: whether it takes writes and keeps them, and what it cuts off.

use ezq_core::engine::{Finding, Severity};
use sqlx::postgres::PgConnection;

use super::found::Found;
use super::session::Facts;
use super::settings::Setting;

/// Limits in ms below which a session's work is cut off, and what that means. ezq sets its own limits on
/// its dedicated sessions; these count for the pool, with which it publishes and runs handlers'
/// transactions.
const SHORTEST: [(&str, i64, &str); 5] = [
    (
        "statement_timeout",
        1_000,
        "publishing, and statements of handlers' transactions, are cut off",
    ),
    (
        "lock_timeout",
        100,
        "statements of handlers' transactions fail as soon as they wait for a lock",
    ),
    (
        "idle_in_transaction_session_timeout",
        10_000,
        "a handler with a transaction loses it while it waits for anything else",
    ),
    (
        "transaction_timeout",
        10_000,
        "a handler with a transaction loses it when it takes longer",
    ),
    (
        "idle_session_timeout",
        60_000,
        "the session that listens is ended whenever it is quiet",
    ),
];
/// From which part of the connections on new ones may soon be refused.
const CROWDED: f64 = 0.9;

pub(super) async fn writable(facts: &Facts) -> Found {
    let name = "writable";
    if facts.is_standby {
        let text = "the server is a standby, which takes no writes";
        let finding = Finding::new(Severity::Error, name, text);
        return Ok(vec![finding.advice("connect to the primary")]);
    }
    if let Some(setting) = facts.settings.find("default_transaction_read_only")
        && setting.value == "on"
    {
        let finding = of_setting(Severity::Error, name, setting, facts, "off");
        return Ok(vec![finding]);
    }
    let text = "the server takes writes";
    Ok(vec![Finding::new(Severity::Ok, name, text)])
}

pub(super) async fn durability(facts: &Facts) -> Found {
    let name = "durability";
    let mut findings = Vec::new();
    for setting in ["fsync", "full_page_writes"] {
        if let Some(setting) = facts.settings.find(setting)
            && setting.value == "off"
        {
            let finding = of_setting(Severity::Error, name, setting, facts, "on");
            findings.push(with_advice(
                finding,
                "a crash of the machine loses or corrupts what was committed. That is right for a \
                 development database only",
            ));
        }
    }
    if let Some(setting) = facts.settings.find("synchronous_commit")
        && setting.value == "off"
    {
        let finding = of_setting(Severity::Warning, name, setting, facts, "on");
        findings.push(with_advice(
            finding,
            "a crash of the server loses events whose publisher was told that they are stored, and \
             settlements, so that handlers run again",
        ));
    }

    if findings.is_empty() {
        let text = format!(
            "fsync and full_page_writes are on, synchronous_commit is `{}`",
            facts.settings.value("synchronous_commit")
        );
        findings.push(Finding::new(Severity::Ok, name, text));
    }
    Ok(findings)
}

pub(super) async fn timeouts(facts: &Facts) -> Found {
    let name = "timeouts";
    let mut findings = Vec::new();
    let mut shown = Vec::new();
    for (setting, shortest, effect) in SHORTEST {
        let Some(setting) = facts.settings.find(setting) else {
            continue;
        };
        let value = facts.settings.number(&setting.name);
        shown.push(format!("{} {}", setting.name, limit(value)));
        // Zero is no limit.
        if value > 0 && value < shortest {
            let finding = of_setting(Severity::Warning, name, setting, facts, "0");
            findings.push(with_advice(finding, effect));
        }
    }

    if findings.is_empty() {
        findings.push(Finding::new(Severity::Ok, name, shown.join(", ")));
    }
    Ok(findings)
}

fn limit(milliseconds: i64) -> String {
    match milliseconds {
        0 => "none".to_owned(),
        _ => format!("{milliseconds} ms"),
    }
}

pub(super) async fn connections(connection: &mut PgConnection, facts: &Facts) -> Found {
    let used: i64 = sqlx::query_scalar(
        "SELECT coalesce(pg_catalog.sum(numbackends), 0)::bigint FROM pg_catalog.pg_stat_database",
    )
    .fetch_one(connection)
    .await?;
    let settings = &facts.settings;
    let most =
        settings.number("max_connections") - settings.number("superuser_reserved_connections");

    #[expect(clippy::cast_precision_loss, reason = "at most 262,143 connections")]
    let is_crowded = used as f64 >= most as f64 * CROWDED;
    let text = format!("{used} of {most} connections are used");
    let finding = match is_crowded {
        false => Finding::new(Severity::Ok, "connections", text),
        true => Finding::new(Severity::Warning, "connections", text).advice(
            "new processes may be refused: raise `max_connections`, which needs a restart, or lower \
             the connections of each process",
        ),
    };
    Ok(vec![finding])
}

/// A setting that should be another, and the SQL that sets it where it was set.
fn of_setting(
    severity: Severity,
    check: &'static str,
    setting: &Setting,
    facts: &Facts,
    wanted: &str,
) -> Finding {
    let unit = if wanted == "0" { " ms" } else { "" };
    let text = format!(
        "{} is {}{unit}, {}",
        setting.name,
        setting.value,
        setting.origin()
    );
    let finding = Finding::new(severity, check, text).about(format!("the role `{}`", facts.login));
    match setting.change(wanted, &facts.login, &facts.database) {
        Some(sql) => finding.remedy(sql),
        None => finding.advice(format!("change `{}` where it is set", setting.name)),
    }
}

fn with_advice(finding: Finding, more: &str) -> Finding {
    let advice = match &finding.advice {
        Some(advice) => format!("{more}; {advice}"),
        None => more.to_owned(),
    };
    finding.advice(advice)
}
