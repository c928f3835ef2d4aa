//! Variables that begin with `EZQ_` and are not options. Those that Kubernetes makes are ignored;
//! the others are logged, because one may be a misspelt option.

use crate::logging::warn;
use crate::text::edits;

/// Warns of a variable that is not an option, unless Kubernetes made it. The value is not logged,
/// because it may be a secret.
pub(super) fn warn_of_unknown(variable: &str, value: &str, options: &[&str]) {
    if is_service_link(variable, value) {
        return;
    }
    match nearest(variable, options) {
        Some(option) => warn!(
            variable,
            "no option of ezq, so it has no effect: is it `{option}`?"
        ),
        None => warn!(
            variable,
            "no option of ezq, so it has no effect: see `ezq::Config`"
        ),
    }
}

/// Whether a variable looks like one that Kubernetes sets in every container for a service.
///
/// For a service `ezq-worker` these are `EZQ_WORKER_SERVICE_HOST`, `EZQ_WORKER_SERVICE_PORT`,
/// `EZQ_WORKER_SERVICE_PORT_<NAME>`, `EZQ_WORKER_PORT=tcp://..`, `EZQ_WORKER_PORT_5432_TCP`, and
/// the last of these with `_PROTO`, `_PORT` or `_ADDR` appended. Source:
/// <https://kubernetes.io/docs/tutorials/services/connect-applications-service/#environment-variables>
fn is_service_link(variable: &str, value: &str) -> bool {
    if variable.ends_with("_SERVICE_HOST")
        || variable.ends_with("_SERVICE_PORT")
        || variable.contains("_SERVICE_PORT_")
    {
        return true;
    }

    let is_address = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    if variable.ends_with("_PORT") && is_address {
        return true;
    }

    variable
        .rsplit_once("_PORT_")
        .is_some_and(|(_, port)| is_port(port))
}

/// Whether a text has the form `5432_TCP` or `5432_TCP_ADDR`.
fn is_port(text: &str) -> bool {
    let mut parts = text.split('_');
    parts
        .next()
        .is_some_and(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        && parts
            .next()
            .is_some_and(|part| ["TCP", "UDP", "SCTP"].contains(&part))
        && parts
            .next()
            .is_none_or(|part| ["PROTO", "PORT", "ADDR"].contains(&part))
        && parts.next().is_none()
}

/// The option that was probably meant: the nearest one, if at most a third of its letters differ.
fn nearest<'a>(variable: &str, options: &[&'a str]) -> Option<&'a str> {
    let variable = variable.to_ascii_uppercase();
    let found = options
        .iter()
        .min_by_key(|option| edits(&variable, option))?;

    // The prefix is the same in all, so it does not count as letters that agree.
    let letters = found.trim_start_matches("EZQ_").len();
    (edits(&variable, found) <= letters / 3).then_some(*found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_makes_of_a_service_is_known() {
        let links = [
            ("EZQ_SERVICE_HOST", "10.0.0.1"),
            ("EZQ_WORKER_SERVICE_HOST", "10.0.0.1"),
            ("EZQ_WORKER_SERVICE_PORT", "5432"),
            ("EZQ_WORKER_SERVICE_PORT_HTTP", "80"),
            ("EZQ_WORKER_PORT", "tcp://10.0.0.1:5432"),
            ("EZQ_PORT", "udp://[fd00::1]:53"),
            ("EZQ_WORKER_PORT_5432_TCP", "tcp://10.0.0.1:5432"),
            ("EZQ_WORKER_PORT_5432_TCP_ADDR", "10.0.0.1"),
            ("EZQ_WORKER_PORT_5432_TCP_PROTO", "tcp"),
            ("EZQ_WORKER_PORT_132_SCTP_PORT", "132"),
        ];
        for (variable, value) in links {
            assert!(is_service_link(variable, value), "{variable}={value}");
        }
        for (variable, value) in [
            ("EZQ_LEASES", "2s"),
            ("EZQ_WORKER_PORT", "8080"),
            ("EZQ_WORKER_PORT_HTTP", "80"),
            ("EZQ_WORKER_PORT__TCP", "80"),
            ("EZQ_WORKER_PORT_80_TCP_NAME", "80"),
            ("EZQ_", ""),
        ] {
            assert!(!is_service_link(variable, value), "{variable}={value}");
        }
    }

    #[test]
    fn the_option_that_was_meant_is_found() {
        let options = [
            "EZQ_LEASE",
            "EZQ_CONCURRENCY",
            "EZQ_QUEUE",
            "EZQ_POLL_MIN",
            "EZQ_POLL_MAX",
        ];
        for (variable, meant) in [
            ("EZQ_LEASES", Some("EZQ_LEASE")),
            ("EZQ_lease", Some("EZQ_LEASE")),
            ("EZQ_CONCURENCY", Some("EZQ_CONCURRENCY")),
            ("EZQ_MAX_POLL", None),
            ("EZQ_POLLMAX", Some("EZQ_POLL_MAX")),
            ("EZQ_WORKER_THREADS", None),
            ("EZQ_", None),
        ] {
            assert_eq!(nearest(variable, &options), meant, "{variable}");
        }
    }
}
