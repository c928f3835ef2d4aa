//! The examination of a store: what an engine measures, what is wrong with it, and what mends that.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::message::queue_name::QueueName;

/// How much a [`Finding`] matters. A later one is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// All is well.
    Ok,
    /// Worth knowing. It may be intended.
    Notice,
    /// It costs time or safety, or becomes an error later.
    Warning,
    /// Events are lost, stuck or refused.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What one check of an examination found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// The name of the check, such as `durability`.
    pub check: &'static str,
    /// What it is about, such as ``the queue `orders` ``; `None` for the store as a whole.
    pub subject: Option<String>,
    /// The queue, if it is about one.
    pub queue: Option<QueueName>,
    /// What was measured.
    pub evidence: String,
    /// The SQL that mends it, for a role that may run it. No file or variable is to be filled in.
    pub remedy: Option<String>,
    /// What to do where no SQL mends it, or what to know before running the SQL.
    pub advice: Option<String>,
}

impl Finding {
    /// A finding about the store as a whole, with what was measured.
    #[must_use]
    pub fn new(severity: Severity, check: &'static str, evidence: impl Into<String>) -> Self {
        Self {
            severity,
            check,
            subject: None,
            queue: None,
            evidence: evidence.into(),
            remedy: None,
            advice: None,
        }
    }

    /// Says what it is about.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Says which queue it is about.
    #[must_use]
    pub fn about_queue(mut self, queue: &QueueName) -> Self {
        self.subject = Some(format!("the queue `{queue}`"));
        self.queue = Some(queue.clone());
        self
    }

    /// Adds the SQL that mends it.
    #[must_use]
    pub fn remedy(mut self, sql: impl Into<String>) -> Self {
        self.remedy = Some(sql.into());
        self
    }

    /// Adds what to do, or what to know before running the SQL.
    #[must_use]
    pub fn advice(mut self, text: impl Into<String>) -> Self {
        self.advice = Some(text.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.severity, self.check)?;
        if let Some(subject) = &self.subject {
            write!(f, "{subject}: ")?;
        }
        f.write_str(&self.evidence)
    }
}

/// What an examination takes for too long.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DoctorOptions {
    /// From which age on an open transaction or a prepared one is a finding. Defaults to 5 min.
    pub old_after: Duration,
    /// How many transactions a replication slot that nobody reads may hold rows of, before it is a finding.
    /// Defaults to 1,000,000.
    pub slot_lag: u32,
    /// From which percentage on of the ids of transactions in use is a finding. Defaults to 50.
    pub used_ids_percent: u8,
    /// From which share on, in thousandths, of the memory for notifications is a finding. Defaults to 100.
    pub used_notifications_permille: u16,
}

impl Default for DoctorOptions {
    fn default() -> Self {
        Self {
            old_after: Duration::from_secs(300),
            slot_lag: 1_000_000,
            used_ids_percent: 50,
            used_notifications_permille: 100,
        }
    }
}

/// The examination of an engine's store.
#[async_trait]
pub trait Doctor: Send + Sync {
    /// Examines the store: at least one finding for each check, also where all is well.
    ///
    /// It changes nothing and creates nothing, and works for a role that may only read. Each check takes
    /// a bounded time. One that fails is a finding itself, and hides no other.
    async fn examine(&self, options: &DoctorOptions) -> Vec<Finding>;
}
