//! What protects every answer: its headers, and the refusal of writes that another site has sent.

use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, ORIGIN, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Scripts, styles and requests of this origin only, and nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Headers that an answer has unless it has set them itself.
const HEADERS: [(HeaderName, &str); 7] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // For browsers that do not know `frame-ancestors`.
    (X_FRAME_OPTIONS, "DENY"),
    // With `no-referrer` a browser would hide the origin of the dashboard's own forms as well.
    (REFERRER_POLICY, "same-origin"),
    (CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

pub(crate) async fn guard(request: Request, next: Next) -> Response {
    let mut response = match is_from_elsewhere(request.method(), request.headers()) {
        true => refusal(),
        false => next.run(request).await,
    };

    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    response
}

fn refusal() -> Response {
    let text = "This request was not sent by a page of this dashboard, so it was refused.\n";
    (StatusCode::FORBIDDEN, text).into_response()
}

/// Whether a request may change something and a page of this origin has not sent it.
///
/// Browsers say so in `Sec-Fetch-Site`, which no page can forge. To a server without TLS that is not on
/// the same machine they do not send it, and `Origin` decides. What sends neither is no browser, and has
/// to set one of them.
fn is_from_elsewhere(method: &Method, headers: &HeaderMap) -> bool {
    if matches!(*method, Method::GET | Method::HEAD) {
        return false;
    }
    if let Some(site) = headers.get("sec-fetch-site") {
        return site != "same-origin";
    }

    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let origin = text(ORIGIN).and_then(|origin| origin.split_once("://"));
    match (origin, text(HOST)) {
        (Some((_, origin)), Some(host)) => !origin.eq_ignore_ascii_case(host),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_taken_from_pages_of_this_origin_only() {
        let host = ("host", "ops.example:8080");
        let cases: [(&[(&'static str, &'static str)], bool); 9] = [
            (&[], true),
            (&[host], true),
            (&[host, ("origin", "http://ops.example:8080")], false),
            (&[host, ("origin", "http://ops.example")], true),
            (&[host, ("origin", "https://evil.example")], true),
            (&[host, ("origin", "null")], true),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], true),
            // A sibling host may set what it likes, but not this header.
            (
                &[
                    host,
                    ("sec-fetch-site", "same-site"),
                    ("origin", "http://ops.example:8080"),
                ],
                true,
            ),
        ];
        for (sent, is_refused) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in sent {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            assert_eq!(is_from_elsewhere(&Method::POST, &headers), is_refused);
            assert_eq!(is_from_elsewhere(&Method::DELETE, &headers), is_refused);
            assert!(!is_from_elsewhere(&Method::GET, &headers));
        }
    }
}
