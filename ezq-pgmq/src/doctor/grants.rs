//! The rights of the role on queues and on ezq's own tables.

use std::collections::{BTreeMap, BTreeSet};

use ezq_core::engine::{Finding, Severity};
use ezq_core::message::QueueName;
use sqlx::postgres::PgConnection;

use super::found::{Found, counted};
use super::session::Facts;
use crate::sql::{identifier, quoted};

/// What `setup_sql` grants on the tables of a queue.
const ON_QUEUE: [&str; 4] = ["SELECT", "INSERT", "UPDATE", "DELETE"];
const ON_ARCHIVE: [&str; 3] = ["SELECT", "INSERT", "DELETE"];

/// Those of `$1`, `$2` and `$3` (schema, relation, right) that the role lacks. What does not exist is
/// left out.
const LACKING: &str = "
    SELECT n.nspname::text, c.relname::text, w.privilege
    FROM unnest($1::text[], $2::text[], $3::text[]) AS w(schema, relation, privilege)
    JOIN pg_catalog.pg_namespace n ON n.nspname::text = w.schema
    JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname::text = w.relation
    WHERE NOT CASE c.relkind
      WHEN 'S' THEN pg_catalog.has_sequence_privilege(c.oid, w.privilege)
      ELSE pg_catalog.has_table_privilege(c.oid, w.privilege) END
    ORDER BY 1, 2, 3";

/// ezq's own tables.
const OWN: &str = "
    SELECT c.relname::text FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'ezq' AND c.relkind IN ('r', 'p') ORDER BY 1";

/// The schemas of PGMQ and ezq that the role must not use.
const CLOSED: &str = "
    SELECT nspname::text FROM pg_catalog.pg_namespace
    WHERE nspname IN ('pgmq', 'ezq') AND NOT pg_catalog.has_schema_privilege(oid, 'USAGE')
    ORDER BY 1";

/// A right on a relation.
type Right = (String, String, String);

pub(super) async fn grants(connection: &mut PgConnection, facts: &Facts) -> Found {
    let mut findings = Vec::new();
    let role = quoted(&facts.role);
    let closed: Vec<String> = sqlx::query_scalar(CLOSED)
        .fetch_all(&mut *connection)
        .await?;
    for schema in closed {
        let text = format!("it may not use the schema `{schema}`");
        findings.push(
            lacking(Severity::Error, facts, text)
                .remedy(format!("grant usage on schema {schema} to {role};")),
        );
    }

    findings.extend(of_queues(connection, facts).await?);
    findings.extend(of_own(connection, facts).await?);
    if findings.is_empty() {
        let text = format!(
            "it has every right on {} and on ezq's own tables",
            counted(facts.queues.len(), "queue")
        );
        findings.push(lacking(Severity::Ok, facts, text));
    }
    Ok(findings)
}

async fn of_queues(
    connection: &mut PgConnection,
    facts: &Facts,
) -> Result<Vec<Finding>, sqlx::Error> {
    let wanted: Vec<(&QueueName, Vec<Right>)> = facts
        .queues
        .iter()
        .map(|queue| (queue, rights_on(queue)))
        .collect();
    let all = wanted.iter().flat_map(|(_, rights)| rights);
    let missing: BTreeSet<Right> = missing(connection, all).await?.into_iter().collect();

    // A role that may write to no queue at all is one that looks on, and no application's.
    let tables = facts.queues.iter().map(|queue| format!("q_{queue}"));
    let is_reader = !facts.queues.is_empty()
        && tables.into_iter().all(|table| {
            let lacks = |right: &str| {
                missing.contains(&("pgmq".to_owned(), table.clone(), right.to_owned()))
            };
            lacks("INSERT") && lacks("UPDATE") && lacks("DELETE")
        });
    let severity = if is_reader {
        Severity::Notice
    } else {
        Severity::Error
    };

    let findings = wanted.iter().filter_map(|(queue, rights)| {
        let lacks: Vec<&Right> = rights
            .iter()
            .filter(|right| missing.contains(right))
            .collect();
        (!lacks.is_empty()).then(|| {
            let finding = lacking(severity, facts, told(&lacks)).about_queue(queue);
            let finding = finding.remedy(granted(&lacks, &facts.role));
            match is_reader {
                true => finding.advice("the role may only look on; an application needs more"),
                false => finding,
            }
        })
    });
    Ok(findings.collect())
}

/// The rights that an application needs on the tables of a queue.
fn rights_on(queue: &QueueName) -> Vec<Right> {
    let mut rights = Vec::new();
    let mut add = |relation: String, privileges: &[&str]| {
        rights.extend(
            privileges
                .iter()
                .map(|right| ("pgmq".to_owned(), relation.clone(), (*right).to_owned())),
        );
    };
    add(format!("q_{queue}"), &ON_QUEUE);
    add(format!("q_{}", queue.dead_letters()), &ON_QUEUE);
    add(format!("a_{queue}"), &ON_ARCHIVE);
    add(format!("q_{queue}_msg_id_seq"), &["USAGE"]);
    rights
}

async fn of_own(
    connection: &mut PgConnection,
    facts: &Facts,
) -> Result<Option<Finding>, sqlx::Error> {
    let tables: Vec<String> = sqlx::query_scalar(OWN).fetch_all(&mut *connection).await?;
    let mut wanted = Vec::new();
    for table in tables {
        let rights: &[&str] = match table.as_str() {
            // Written when the schema is changed, which needs other rights.
            "migrations" => &["SELECT"],
            _ => &ON_QUEUE,
        };
        let rights = rights.iter().map(|right| (*right).to_owned());
        wanted.extend(rights.map(|right| ("ezq".to_owned(), table.clone(), right)));
    }

    let missing = missing(connection, wanted.iter()).await?;
    let lacks: Vec<&Right> = missing.iter().collect();
    Ok((!lacks.is_empty()).then(|| {
        lacking(Severity::Notice, facts, told(&lacks))
            .remedy(granted(&lacks, &facts.role))
            .advice("what an application does not use, it needs no right on")
    }))
}

async fn missing(
    connection: &mut PgConnection,
    wanted: impl Iterator<Item = &Right>,
) -> Result<Vec<Right>, sqlx::Error> {
    let mut schemas = Vec::new();
    let mut relations = Vec::new();
    let mut privileges = Vec::new();
    for (schema, relation, privilege) in wanted {
        schemas.push(schema.as_str());
        relations.push(relation.as_str());
        privileges.push(privilege.as_str());
    }
    sqlx::query_as(LACKING)
        .bind(schemas)
        .bind(relations)
        .bind(privileges)
        .fetch_all(connection)
        .await
}

fn lacking(severity: Severity, facts: &Facts, text: String) -> Finding {
    Finding::new(severity, "grants", text).about(format!("the role `{}`", facts.role))
}

/// What is missing, by relation.
fn by_relation(rights: &[&Right]) -> BTreeMap<(String, String), Vec<String>> {
    let mut relations = BTreeMap::<_, Vec<String>>::new();
    for (schema, relation, right) in rights {
        let of_relation = relations.entry((schema.clone(), relation.clone()));
        of_relation.or_default().push(right.to_lowercase());
    }
    relations
}

fn told(rights: &[&Right]) -> String {
    let lacks = by_relation(rights);
    let lacks = lacks.iter().map(|((schema, relation), rights)| {
        format!("{} on {schema}.{relation}", rights.join(", "))
    });
    format!("the role lacks {}", Vec::from_iter(lacks).join("; "))
}

fn granted(rights: &[&Right], role: &str) -> String {
    let role = quoted(role);
    let grants = by_relation(rights);
    let grants = grants.iter().map(|((schema, relation), rights)| {
        let sequence = if rights.iter().any(|right| right == "usage") {
            "sequence "
        } else {
            ""
        };
        let relation = identifier(relation);
        format!(
            "grant {} on {sequence}{schema}.{relation} to {role};",
            rights.join(", ")
        )
    });
    Vec::from_iter(grants).join("\n")
}
