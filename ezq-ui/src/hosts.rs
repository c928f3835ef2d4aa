//! The names by which a dashboard may be reached.
//!
//! A page of a foreign site can reach a server of this machine by a DNS name that leads here ("DNS
//! rebinding"). To the browser both are then one site. `Host` has the foreign name, and gives it away.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Names that are answered. Addresses and `localhost` always are, because no DNS of somebody else's leads
/// to a page of that name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hosts(Arc<[String]>);

impl Hosts {
    pub(crate) fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names = names.into_iter().map(Into::into);
        Self(names.collect())
    }

    fn allow(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let header = headers.get(HOST).map(|host| host.to_str().unwrap_or(""));
        let mut named = header.into_iter().chain(uri.host()).peekable();
        // HTTP/2 has the name in the address only. A request without any is of no browser.
        named.peek().is_some() && named.all(|host| self.allow_name(without_port(host)))
    }

    fn allow_name(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let address = host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let is_address = address.unwrap_or(host).parse::<IpAddr>().is_ok();

        let mut names = self.0.iter().map(String::as_str).chain(["localhost"]);
        is_address || names.any(|name| name.eq_ignore_ascii_case(host))
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Refuses what is asked by another name.
pub(crate) async fn check_host(
    State(hosts): State<Option<Hosts>>,
    request: Request,
    next: Next,
) -> Response {
    let is_allowed = hosts.is_none_or(|hosts| hosts.allow(request.uri(), request.headers()));
    match is_allowed {
        true => next.run(request).await,
        false => refusal(),
    }
}

fn refusal() -> Response {
    let text = "This dashboard is not to be reached by this name. Use its address, or let its owner \
                allow the name: `ezq ui --host NAME`, or `Dashboard::hosts` in a program.\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_foreign_name_is_not_answered() {
        let hosts = Hosts::new(["ops.example"]);
        for (host, is_allowed) in [
            ("localhost", true),
            ("LocalHost:3000", true),
            ("127.0.0.1:3000", true),
            ("[::1]:3000", true),
            ("10.0.0.7", true),
            ("ops.example", true),
            ("Ops.Example.:443", true),
            ("evil.example", false),
            ("evil.ops.example", false),
            ("localhost.evil.example:3000", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            let uri = Uri::from_static("/");
            assert_eq!(hosts.allow(&uri, &headers), is_allowed, "{host}");

            let foreign = Uri::from_static("http://evil.example/");
            assert!(!hosts.allow(&foreign, &headers), "{host}");
        }
        assert!(!hosts.allow(&Uri::from_static("/"), &HeaderMap::new()));
    }
}
