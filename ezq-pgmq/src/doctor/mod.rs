//! The examination of a database: what ezq relies on, measured, and the SQL that mends what is wrong.
//!
//! The checks run one after another on a session of their own, which may only read. Each check has 2 s,
//! and a session that it has spoilt is replaced. So a check that fails or hangs hides no other.
//!
//! A remedy is SQL for whoever may run it. It names everything with its schema, since it runs in a
//! session with any search path. Where the cause is outside of the database, there is advice instead.
//!
//! | checks | open |
//! |---|---|
//! | what a check returns | `found.rs` |
//! | the session, and what all checks need to know | `session.rs`, `settings.rs` |
//! | connection, pooler, LISTEN, clock | `link.rs` |
//! | durability, timeouts, limits of the server | `server.rs` |
//! | PGMQ's version, ezq's own tables | `schema.rs` |
//! | rights of the role | `grants.rs` |
//! | indexes, vacuum and numbers of queue tables | `tables.rs` |
//! | old transactions, prepared ones, transaction ids | `transactions.rs` |
//! | consumers, dead letters, subscriptions, schedules | `work.rs` |

mod found;
mod grants;
mod link;
mod schema;
mod server;
mod session;
mod settings;
mod tables;
mod transactions;
mod work;

use std::pin::Pin;
use std::time::Duration;

use ezq_core::Error;
use ezq_core::engine::{DoctorOptions, Finding, Severity};
use ezq_core::error::error_chain;
use sqlx::postgres::PgConnection;

use crate::connection::connector::Connector;
use crate::connection::dedicated::limit;
use crate::connection::pooler::{self, Sharing};
use crate::error;
use found::Found;
use session::Facts;

/// How long a check may take.
const ALLOWED: Duration = Duration::from_secs(2);

type Running<'a> = Pin<Box<dyn Future<Output = Found> + Send + 'a>>;

/// A check: its name, and what it does on a session.
struct Check {
    name: &'static str,
    run: for<'a> fn(&'a mut PgConnection, &'a Facts) -> Running<'a>,
}

/// In the order in which they run: what the database is, what ezq needs there, and what happens in it.
const CHECKS: [Check; 19] = [
    check("pooler", |c, facts| Box::pin(link::pooler(c, facts))),
    check("listen", |c, facts| Box::pin(link::listen(c, facts))),
    check("clock", |c, _| Box::pin(link::clock(c))),
    check("writable", |_, facts| Box::pin(server::writable(facts))),
    check("durability", |_, facts| Box::pin(server::durability(facts))),
    check("timeouts", |_, facts| Box::pin(server::timeouts(facts))),
    check("connections", |c, facts| {
        Box::pin(server::connections(c, facts))
    }),
    check("pgmq", |c, _| Box::pin(schema::pgmq(c))),
    check("schema", |c, facts| Box::pin(schema::own(c, facts))),
    check("grants", |c, facts| Box::pin(grants::grants(c, facts))),
    check("tables", |c, facts| Box::pin(tables::tables(c, facts))),
    check("vacuum", |c, facts| Box::pin(tables::vacuum(c, facts))),
    check("wraparound", |c, facts| {
        Box::pin(transactions::wraparound(c, facts))
    }),
    check("transactions", |c, facts| {
        Box::pin(transactions::open(c, facts))
    }),
    check("prepared", |c, facts| {
        Box::pin(transactions::prepared(c, facts))
    }),
    check("consumers", |c, facts| Box::pin(work::consumers(c, facts))),
    check("dead-letters", |c, facts| {
        Box::pin(work::dead_letters(c, facts))
    }),
    check("subscriptions", |c, facts| {
        Box::pin(work::subscriptions(c, facts))
    }),
    check("schedules", |c, facts| Box::pin(work::schedules(c, facts))),
];

const fn check(
    name: &'static str,
    run: for<'a> fn(&'a mut PgConnection, &'a Facts) -> Running<'a>,
) -> Check {
    Check { name, run }
}

/// Examines the database. Where it cannot be reached, or a pooler shares its sessions, that is the only
/// finding: nothing that is prepared in such a session can be relied on.
pub(crate) async fn examine(connector: &Connector, options: &DoctorOptions) -> Vec<Finding> {
    let mut connection = match connector.plain().await {
        Ok(connection) => connection,
        Err(failure) => return vec![unreachable(&failure)],
    };
    let sharing = pooler::sharing(&mut connection, connector).await;
    if matches!(sharing, Ok(Sharing::Transactions)) {
        session::close(connection).await;
        return vec![link::shared()];
    }

    let sharing = sharing.map_err(|failure| error_chain(&failure));
    let facts = match session::learn(&mut connection, connector, options, sharing).await {
        Ok(facts) => facts,
        Err(failure) => return vec![unreachable(&failure)],
    };
    let mut session = Some(connection);
    let mut findings = vec![facts.connection()];
    for check in &CHECKS {
        findings.extend(run(check, &mut session, &facts).await);
    }

    if let Some(connection) = session {
        session::close(connection).await;
    }
    findings
}

fn unreachable(failure: &Error) -> Finding {
    Finding::new(Severity::Error, "connection", error_chain(failure))
}

/// Runs one check. What keeps it from an answer is a finding.
async fn run(check: &Check, session: &mut Option<PgConnection>, facts: &Facts) -> Vec<Finding> {
    let mut connection = match session.take() {
        Some(connection) => connection,
        None => match session::reopen(facts).await {
            Ok(connection) => connection,
            Err(failure) => return vec![unanswered(check, &error_chain(&failure))],
        },
    };

    match limit(ALLOWED, (check.run)(&mut connection, facts)).await {
        Ok(findings) => {
            *session = Some(connection);
            findings
        }
        Err(failure) => {
            // A session whose statement was given up may still work on it.
            if error::keeps_connection(&failure) {
                *session = Some(connection);
            }
            let told = error::of(failure, facts.connector.place());
            vec![unanswered(check, &error_chain(&told))]
        }
    }
}

fn unanswered(check: &Check, why: &str) -> Finding {
    let text = format!("this could not be checked: {why}");
    Finding::new(Severity::Warning, check.name, text)
}
