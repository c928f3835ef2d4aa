//! Taking over what a process held that is gone, long before its leases end.
//!
//! Each engine that leases has a [sign](crate::connection::sign) and a row in `ezq.holders`. About once a
//! second it [looks](registry::look) for signs that no session holds, and notes since when. A cut connection
//! is no death: only after [`GRACE`] without a session are the holder's messages due again. One lock excludes
//! the other: who examines a sign holds it alone, for one statement, so a holder that comes back is either
//! seen or waits until its messages were made due.
//!
//! The fence is not touched: the receipts of a holder that comes back late are valid until another
//! worker claims its messages. An engine that lost its own sessions judges nobody for a while: by a
//! restart of the server, a fail-over or a pooler, others may have lost theirs as well. A host that is cut
//! off without notice keeps its sessions until the server ends them: there the lease is the bound.
//!
//! Leases shorter than [`SHORTEST`] carry no sign. Where a role must not write `ezq.holders`, none does.

mod board;
mod registry;
mod watch;

pub(crate) use board::HolderBoard;
pub(crate) use watch::Watcher;

use std::time::Duration;

/// How long a holder without a session may take to come back.
const GRACE: Duration = Duration::from_millis(1800);
/// The shortest lease that carries a sign. A shorter one ends about when its holder is found missing.
const SHORTEST: Duration = Duration::from_secs(2);
