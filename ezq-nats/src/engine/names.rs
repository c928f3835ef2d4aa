//! Names of streams and subjects, from the name of a queue.

use std::fmt::Write as _;
use std::time::Duration;

use ezq_core::message::QueueName;

/// The consumer from which every worker of a queue leases.
pub(crate) const CONSUMER: &str = "workers";

/// The names of one queue.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    namespace: String,
    token: String,
}

impl Names {
    pub(crate) fn new(namespace: &str, queue: &QueueName) -> Self {
        Self {
            namespace: namespace.to_owned(),
            token: token(queue.as_str()),
        }
    }

    pub(crate) fn stream(&self) -> String {
        format!("{}_{}", self.namespace, self.token)
    }

    pub(crate) fn dead_stream(&self) -> String {
        format!("{}-dead_{}", self.namespace, self.token)
    }

    pub(crate) fn all(&self) -> String {
        format!("{}.{}.>", self.namespace, self.token)
    }

    /// What can be leased.
    pub(crate) fn ready(&self) -> String {
        format!("{}.{}.ready.*", self.namespace, self.token)
    }

    pub(crate) fn now(&self) -> String {
        format!("{}.{}.ready.now", self.namespace, self.token)
    }

    pub(crate) fn due(&self) -> String {
        format!("{}.{}.ready.due", self.namespace, self.token)
    }

    /// Everything that waits for its time.
    pub(crate) fn waiting(&self) -> String {
        format!("{}.{}.wait.>", self.namespace, self.token)
    }

    /// The subject of a message that waits; its last part is `id`.
    pub(crate) fn wait(&self, why: Wait, id: &str) -> String {
        let why = why.part();
        format!("{}.{}.wait.{why}.{id}", self.namespace, self.token)
    }

    /// The beginning of the subjects of messages that wait for this.
    pub(crate) fn waiting_for(&self, why: Wait) -> String {
        let why = why.part();
        format!("{}.{}.wait.{why}.", self.namespace, self.token)
    }

    pub(crate) fn dead(&self) -> String {
        format!("{}dead.{}", self.namespace, self.token)
    }

    pub(crate) fn wake(&self) -> String {
        format!("{}wake.{}", self.namespace, self.token)
    }
}

/// A queue that is there.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) names: Names,
    /// How long the server waits for a word on a message that it handed out.
    pub(crate) ack_wait: Duration,
}

/// What a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Its first delivery.
    New,
    /// Another attempt.
    Again,
}

impl Wait {
    fn part(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Again => "again",
        }
    }
}

/// A queue's name as one part of a subject, and as a part of a stream's name: what neither can hold is
/// written as `=` and two hexadecimal digits. Names of queues have no `=`.
fn token(queue: &str) -> String {
    let mut token = String::with_capacity(queue.len());
    for byte in queue.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            token.push(byte.into());
        } else {
            // Writing to a text cannot fail.
            let _ = write!(token, "={byte:02x}");
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_queues_have_different_names() {
        let names = |queue: &str| Names::new("ezq", &QueueName::new(queue).unwrap());
        assert_eq!(names("shop.orders").stream(), "ezq_shop=2eorders");
        assert_eq!(names("a/b").now(), "ezq.a=2fb.ready.now");
        // A queue that is named like another's dead letters is a queue of its own.
        assert_eq!(names("a").dead_stream(), "ezq-dead_a");
        assert_eq!(names("a_dlq").stream(), "ezq_a_dlq");
        assert_eq!(names("a").wait(Wait::New, "7"), "ezq.a.wait.new.7");
    }
}
