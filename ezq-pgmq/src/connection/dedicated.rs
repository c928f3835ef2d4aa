//! Dedicated connections: a set for each purpose, opened when first used, and again when they
//! break.
//!
//! Claiming, settling and renewing have a set each, so that none waits for another, or for the
//! application's pool. A set normally is one connection, which calls use in turn. While a call
//! keeps it for long, because its statement waits for another session's lock, the next call opens
//! another, up to [`MOST`]. Idle ones are closed again. So a locked table stops its own queue only,
//! and an application with fifty queues still has one connection for each purpose.
//!
//! Every statement ends on the server: by the limits of its
//! [session](crate::connection::connector), or cancelled when it is given up. A connection that is
//! not [returned](Checkout::end), because the call failed or its future was dropped, is closed: it
//! may still be working.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ezq_core::{Error, ErrorKind, Result};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::sync::{AcquireError, Mutex, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use crate::config::Place;
use crate::connection::connector::{Connector, LOCK_TIMEOUT, Planning, Session};
use crate::connection::measured::{ConnectionMetrics, Counted};
use crate::connection::runtime;
use crate::connection::sign::{self, OwnSign};
use crate::error;
use crate::sql::leases::Sign;

/// The most connections for one purpose.
const MOST: usize = 5;
/// A call that has its connection for this long is waiting for something: the next call takes
/// another.
const STALLED: Duration = Duration::from_millis(100);
/// A connection beside the first that is idle for this long is closed.
const KEPT: Duration = Duration::from_secs(10);
/// A connection that was idle for this long may have been cut by the server or the network.
const RESTED: Duration = Duration::from_millis(500);
/// How long the server may take to say who holds a lock, or to stop a statement.
const ASKING: Duration = Duration::from_secs(1);

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Makes one call on [dedicated connections](Dedicated): checks one out, runs the statements within
/// their time limit, and returns it. The outer error is that of connecting, the inner one that of
/// the statements.
///
/// A macro: a method that takes an async closure makes a future that the compiler cannot prove to
/// be `Send` (rust-lang/rust#134997), and a boxed future would cost each call an allocation.
macro_rules! call {
    ($connections:expr, |$connection:ident| $statements:expr) => {{
        let mut is_first = true;
        loop {
            let mut checkout =
                match $crate::connection::dedicated::Dedicated::checkout(&$connections).await {
                    Ok(checkout) => checkout,
                    Err(error) => break Err(error),
                };
            let time_limit = checkout.time_limit();
            let is_rested = checkout.is_rested();
            let $connection = checkout.connection();

            let result = time_limit.limit($statements).await;

            match checkout.end(result) {
                // The connection was cut while it was idle, so the statements have hardly begun:
                // once more.
                Err(failure) if is_first && is_rested && $crate::error::is_lost(&failure) => {
                    is_first = false;
                }
                result => break Ok(result),
            }
        }
    }};
}

pub(crate) use call;

/// When the next attempt to connect may be made, after a failure.
#[derive(Default)]
struct Backoff {
    next_attempt: Option<Instant>,
    pause: Duration,
}

pub(crate) struct Dedicated {
    connector: Connector,
    planning: Planning,
    metrics: ConnectionMetrics,
    /// Where to ask who holds a lock, and to cancel statements.
    urgent: Option<Arc<Dedicated>>,
    /// The engine's sign, where its sessions hold it.
    sign: Option<Arc<OwnSign>>,
    /// For the one connection that is normally used.
    first: Semaphore,
    /// For the others.
    spare: Semaphore,
    /// Idle connections, and since when; the newest last.
    idle: std::sync::Mutex<Vec<(Session, Instant)>>,
    /// Held while one is opened, so that only one is at a time.
    opening: Mutex<Backoff>,
}

/// The permission to use one connection.
struct Permit<'a> {
    _permit: SemaphorePermit<'a>,
    is_spare: bool,
}

impl Dedicated {
    /// `urgent` finds out which lock a statement waits for, and cancels statements. Its own
    /// statements never wait for locks.
    pub(crate) fn new(
        connector: Connector,
        (purpose, planning): (&'static str, Planning),
        urgent: Option<Arc<Self>>,
    ) -> Self {
        Self {
            connector,
            planning,
            metrics: ConnectionMetrics::new(purpose),
            urgent,
            sign: None,
            first: Semaphore::new(1),
            spare: Semaphore::new(MOST - 1),
            idle: std::sync::Mutex::default(),
            opening: Mutex::default(),
        }
    }

    /// The same, whose sessions hold the engine's sign once there is one.
    pub(crate) fn holding(mut self, sign: &Arc<OwnSign>) -> Self {
        self.sign = Some(Arc::clone(sign));
        self
    }

    /// The same, with a connection that is already open.
    pub(crate) fn with(self, mut session: Session) -> Self {
        session.counted = self.metrics.opened();
        self.keep(session);
        self
    }

    /// Opens its connections.
    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The database that it leads to.
    pub(crate) fn place(&self) -> &Place {
        self.connector.place()
    }

    /// Waits until a connection may be used, and opens one if there is none. After a failure the
    /// next attempts wait, up to a second.
    pub(crate) async fn checkout(&self) -> Result<Checkout<'_>> {
        if self.connector.runtime.has_ended() {
            return Err(runtime::ended());
        }

        let mut permit = self.turn().await.map_err(closed)?;
        let (mut session, is_rested) = loop {
            if let Some((session, since)) = self.take_idle() {
                let is_rested = since.elapsed() > RESTED;
                match self.planning {
                    // A ping would cost a round trip: if the connection was cut, the call is
                    // repeated.
                    Planning::ByIndex => break (session, is_rested),
                    _ if !is_rested => break (session, false),
                    _ => match self.still_stands(session).await {
                        Some(session) => break (session, false),
                        None => continue,
                    },
                }
            }

            match Box::pin(self.open()).await {
                Ok(session) => break (session, false),
                // The server has no room for another connection: wait for the first one.
                Err(_) if permit.is_spare => {
                    permit = Permit::first(self.first.acquire().await).map_err(closed)?;
                }
                Err(failure) => return Err(failure),
            }
        };

        if let Some(sign) = self.sign.as_ref().and_then(|sign| sign.get())
            && session.holds != Some(sign)
        {
            Box::pin(self.hold(sign, &mut session)).await?;
        }

        Ok(Checkout {
            connections: self,
            _permit: permit,
            session,
            is_rested,
            _busy: self.metrics.busy(),
        })
    }

    async fn turn(&self) -> Result<Permit<'_>, AcquireError> {
        if let Ok(permit) = self.first.try_acquire() {
            return Permit::first(Ok(permit));
        }

        let mut first = pin!(self.first.acquire());
        tokio::select! {
            // As long as calls are short, they take turns on the first connection.
            biased;
            permit = &mut first => return Permit::first(permit),
            () = sleep(STALLED) => {}
        }

        tokio::select! {
            biased;
            // The first connection is preferred: the other one is opened only for a stall.
            permit = first => Permit::first(permit),
            permit = self.spare.acquire() => Ok(Permit { _permit: permit?, is_spare: true }),
        }
    }

    fn take_idle(&self) -> Option<(Session, Instant)> {
        self.idle().pop()
    }

    /// Has a session hold the engine's sign. A session that cannot is not used: others would take the
    /// leases of its claims for those of a process that is gone.
    async fn hold(&self, sign: Sign, session: &mut Session) -> Result<()> {
        let holding = sign::hold(&mut session.connection, sign);
        limit(self.connector.connect_timeout(), holding)
            .await
            .map_err(|failure| error::of(failure, self.place()))?;
        session.holds = Some(sign);
        Ok(())
    }

    async fn still_stands(&self, mut session: Session) -> Option<Session> {
        let asked = limit(self.connector.connect_timeout(), session.connection.ping()).await;
        asked.is_ok().then_some(session)
    }

    async fn open(&self) -> Result<Session> {
        // Held while it connects: callers open one after another, and share one backoff.
        let mut backoff = self.opening.lock().await;
        if let Some(next) = backoff.next_attempt {
            tokio::time::sleep_until(next).await;
        }
        backoff.pause = (backoff.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        // Jitter: a fleet must not reconnect in step.
        let pause = backoff.pause.mul_f64(rand::random_range(0.5..1.0));
        backoff.next_attempt = Some(Instant::now() + pause);
        let opened = self.connector.open(self.planning).await;
        let mut session = opened.inspect_err(|_| self.metrics.failed())?;
        session.counted = self.metrics.opened();
        *backoff = Backoff::default();
        Ok(session)
    }

    /// Keeps a connection for the next call, and closes those that have been idle for long.
    fn keep(&self, session: Session) {
        let mut idle = self.idle();
        idle.push((session, Instant::now()));
        if idle.len() > 1 {
            for (session, _) in idle.extract_if(.., |(_, since)| since.elapsed() > KEPT) {
                tokio::spawn(session.close());
            }
        }
    }

    /// Closes the connections politely; a connection in use once it is free.
    pub(crate) async fn close(&self) {
        let permit = self.first.acquire().await;
        let idle = std::mem::take(&mut *self.idle());
        for (session, _) in idle {
            session.close().await;
        }
        drop(permit);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Session, Instant)>> {
        // A panic leaves a whole list behind: each step is one push or one pop.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a statement about a backend's process id, and gives up soon.
    async fn ask<T>(&self, statement: &'static str, pid: i32) -> Option<T>
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let asked = async {
            let mut checkout = self.checkout().await.ok()?;
            let answer = sqlx::query_scalar(statement)
                .bind(pid)
                .fetch_one(checkout.connection())
                .await;
            checkout.end(answer).ok()
        };
        timeout(ASKING, asked).await.ok().flatten()
    }
}

impl<'a> Permit<'a> {
    fn first(permit: Result<SemaphorePermit<'a>, AcquireError>) -> Result<Self, AcquireError> {
        Ok(Self {
            _permit: permit?,
            is_spare: false,
        })
    }
}

fn closed(_: AcquireError) -> Error {
    Error::new(ErrorKind::Connection, "the engine is closed")
}

/// A connection, for one call.
pub(crate) struct Checkout<'a> {
    connections: &'a Dedicated,
    _permit: Permit<'a>,
    session: Session,
    is_rested: bool,
    _busy: Counted,
}

impl Checkout<'_> {
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.session.connection
    }

    /// Whether the connection may have been cut since it was last used. If so, the call can be
    /// repeated at once.
    pub(crate) fn is_rested(&self) -> bool {
        self.is_rested
    }

    /// The time limit of the call's statements.
    pub(crate) fn time_limit(&self) -> TimeLimit {
        let Dedicated {
            connector,
            planning,
            urgent,
            ..
        } = self.connections;
        let patience = connector.patience(*planning);
        TimeLimit {
            patience,
            pid: self.session.pid,
            urgent: urgent.clone(),
        }
    }

    /// Returns the connection if it can be used again. If the call was given up, its statement is
    /// cancelled, unless its commit waits for a synchronous standby: cancelled, it would be done
    /// without the standby.
    pub(crate) fn end<T>(self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        let Self {
            connections,
            session,
            ..
        } = self;

        match &result {
            Err(failure) if error::is_given_up(failure) => {
                if let Some(urgent) = connections.urgent.clone() {
                    // The connection stays open until then: its process id must not become another
                    // session's.
                    tokio::spawn(async move {
                        let stop = "SELECT pg_catalog.pg_cancel_backend(s.pid)
                                    FROM pg_catalog.pg_stat_activity s
                                    WHERE s.pid = $1 AND s.wait_event IS DISTINCT FROM 'SyncRep'";
                        urgent.ask::<bool>(stop, session.pid).await;
                    });
                }
            }
            // What cut this connection has cut the idle ones as well.
            Err(failure) if error::is_lost(failure) => {
                connections.idle().clear();
                if let Some(sign) = &connections.sign {
                    sign.note_lost();
                }
            }
            Err(failure) if !error::keeps_connection(failure) => {}
            _ => connections.keep(session),
        }

        result
    }
}

/// The time limit of the statements of one call.
pub(crate) struct TimeLimit {
    patience: Duration,
    pid: i32,
    urgent: Option<Arc<Dedicated>>,
}

impl TimeLimit {
    /// Waits for the statements as long as they may take. If they fail for a lock, the error says
    /// who holds it.
    pub(crate) async fn limit<T>(
        &self,
        statements: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, sqlx::Error> {
        let watched = async {
            let mut statements = pin!(statements);
            let holders = tokio::select! {
                biased;
                // First, so that a statement that is done is not delayed by the question.
                result = &mut statements => return result,
                // Asked while the statement waits: afterwards nobody knows.
                holders = self.holders() => holders,
            };

            statements
                .await
                .map_err(|failure| error::held_by(failure, &holders))
        };

        limit(self.patience, watched).await
    }

    async fn holders(&self) -> Vec<i32> {
        sleep(LOCK_TIMEOUT.min(self.patience / 2) / 2).await;
        let Some(urgent) = &self.urgent else {
            return pending().await;
        };
        let who = "SELECT pg_catalog.pg_blocking_pids($1)";
        // Boxed, since it is rare: the future of every call would have room for it otherwise.
        Box::pin(urgent.ask(who, self.pid))
            .await
            .unwrap_or_default()
    }
}

/// Waits for statements, as long as they may take.
pub(crate) async fn limit<T>(
    limit: Duration,
    statements: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match timeout(limit, statements).await {
        Ok(result) => result,
        Err(_) => Err(error::given_up(limit)),
    }
}

/// How long statements took by themselves, without waiting for their connection, and their result.
pub(crate) async fn timed<T>(
    statements: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<(Duration, T), sqlx::Error> {
    let since = Instant::now();
    let result = statements.await?;
    Ok((since.elapsed(), result))
}
