//! Errors of the cluster as errors of ezq. A connection string is in none of them.

use ezq_core::{Error, ErrorKind};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

/// An error of a cluster; `doing` says what failed, and `heard` is what the client said of its brokers.
pub(crate) fn failed(
    brokers: &str,
    doing: &str,
    error: &KafkaError,
    heard: Option<&Heard>,
) -> Error {
    let kind = match kind_of(error.rdkafka_error_code()) {
        // A call that ended by time has its reason in what the client heard meanwhile.
        ErrorKind::Connection if heard.is_some_and(Heard::is_refusal) => ErrorKind::Permission,
        kind => kind,
    };

    let advice = match kind {
        _ if heard.is_some_and(Heard::is_of_tls) => {
            "check that its brokers speak TLS, and that the file of `ssl.ca.location` in the URL vouches \
             for them by their names"
        }
        ErrorKind::Permission => "check the user, the password and what the user may do",
        ErrorKind::Connection => "check that the brokers run there and that their ports are open",
        _ => "it is tried again",
    };
    let mut text = format!("the Kafka cluster at {brokers} {doing}: {advice}");
    if let Some(heard) = heard {
        text.push_str(&format!(" ({})", heard.reason));
    }

    Error::new(kind, text).with_source(error.clone())
}

/// What the client said of the brokers since a call began. Secrets are taken out.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) code: Code,
    pub(crate) reason: String,
}

impl Heard {
    /// Whether a broker refused the credentials.
    pub(crate) fn is_refusal(&self) -> bool {
        kind_of(Some(self.code)) == ErrorKind::Permission
    }

    /// Whether the two sides did not agree on TLS.
    fn is_of_tls(&self) -> bool {
        // A handshake that is broken off is a failed transport for the client.
        self.code == Code::SSL || self.reason.contains("state SSL_HANDSHAKE")
    }
}

fn kind_of(code: Option<Code>) -> ErrorKind {
    match code {
        Some(
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed,
        ) => ErrorKind::Permission,
        Some(
            Code::AllBrokersDown
            | Code::BrokerTransportFailure
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::MessageTimedOut
            | Code::RequestTimedOut
            | Code::PurgeQueue
            | Code::PurgeInflight,
        ) => ErrorKind::Connection,
        _ => ErrorKind::Transient,
    }
}

/// Whether the broker will never take a message, at whatever time and beside whatever other.
pub(crate) fn is_permanent(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::InvalidTopic
                | Code::InvalidRecord
                | Code::InvalidTimestamp
                | Code::PolicyViolation
        )
    )
}

/// A message that the cluster will never take.
pub(crate) fn refused(text: String, error: &KafkaError) -> Error {
    let kind = match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge) => {
            ErrorKind::TooLarge
        }
        _ => ErrorKind::InvalidEvent,
    };
    Error::new(kind, text).with_source(error.clone())
}

/// A URL that cannot be used. The URL itself is left out.
pub(crate) fn wrong_url(why: &str) -> Error {
    let text = format!("the URL of the Kafka cluster cannot be used: {why}");
    Error::new(ErrorKind::Configuration, text)
}
