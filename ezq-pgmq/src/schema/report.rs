//! How each part of ezq's own schema stands, for whoever examines a database.

use std::collections::BTreeSet;

use sqlx::postgres::PgConnection;

use crate::schema::migrations::MIGRATIONS;
use crate::schema::part::Part;
use crate::schema::parts::{self, Catalogue};

/// How a part stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartState {
    /// It is made when it is first needed.
    Absent,
    /// All is there.
    Whole,
    /// Changes of this ezq were not applied yet.
    Behind,
    /// Something was dropped.
    Broken,
}

/// The state of one part.
#[derive(Debug)]
pub(crate) struct PartReport {
    pub(crate) part: Part,
    pub(crate) state: PartState,
    /// What it lacks, in words.
    pub(crate) lacks: String,
}

/// The state of all parts.
#[derive(Debug)]
pub(crate) struct SchemaReport {
    pub(crate) parts: Vec<PartReport>,
    /// Changes that this ezq does not know: a newer one made them.
    pub(crate) newer: usize,
}

/// A change of ezq's own schema.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MigrationStatus {
    /// Its number.
    pub version: i32,
    /// Its name; `None` for one of a newer ezq.
    pub name: Option<&'static str>,
    /// Whether it is applied, and what it made is there.
    pub is_applied: bool,
    /// Whether it is of the inbox, which is made in databases where handlers take effect.
    pub is_of_inbox: bool,
}

/// Every change, in their order.
pub(crate) async fn migrations(
    connection: &mut PgConnection,
) -> Result<Vec<MigrationStatus>, sqlx::Error> {
    let found = parts::probe(connection).await?;
    let missing = Part::ALL.map(|part| found.missing(part));
    let missing: BTreeSet<i32> = missing.iter().flatten().map(|step| step.version).collect();
    let mut all: Vec<MigrationStatus> = MIGRATIONS
        .iter()
        .map(|step| MigrationStatus {
            version: step.version,
            name: Some(step.name),
            is_applied: !missing.contains(&step.version),
            is_of_inbox: step.part == Part::Inbox,
        })
        .collect();

    let known: BTreeSet<i32> = MIGRATIONS.iter().map(|step| step.version).collect();
    all.extend(
        found
            .applied
            .difference(&known)
            .map(|version| MigrationStatus {
                version: *version,
                name: None,
                is_applied: true,
                is_of_inbox: false,
            }),
    );
    Ok(all)
}

/// Looks at every part. The role must be allowed to read `ezq.migrations`, where it exists.
pub(crate) async fn report(connection: &mut PgConnection) -> Result<SchemaReport, sqlx::Error> {
    let found = parts::probe(connection).await?;
    let known: BTreeSet<i32> = MIGRATIONS.iter().map(|step| step.version).collect();
    Ok(SchemaReport {
        newer: found.applied.difference(&known).count(),
        parts: Part::ALL.map(|part| of(part, &found)).into(),
    })
}

fn of(part: Part, found: &Catalogue) -> PartReport {
    let missing = found.missing(part);
    let mut own = MIGRATIONS.iter().filter(|step| step.part == part);
    let was_made = own.any(|step| found.applied.contains(&step.version));
    let state = match (missing.is_empty(), was_made) {
        (true, _) => PartState::Whole,
        (false, false) => PartState::Absent,
        (false, true) if found.is_broken(part) => PartState::Broken,
        (false, true) => PartState::Behind,
    };

    PartReport {
        part,
        state,
        lacks: found.lacks(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_belongs_to_a_part_that_is_reported() {
        for step in MIGRATIONS {
            assert!(Part::ALL.contains(&step.part), "{}", step.name);
        }
    }
}
