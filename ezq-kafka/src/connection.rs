//! What a URL says of a cluster: its brokers, credentials and settings of the client.
//!
//! `kafka://user:password@host:9092,host:9092?name=value`, or `kafka+ssl://` for TLS. The names are those of
//! librdkafka. Secrets are kept beside the settings, so that they can be taken out of what librdkafka says.

use std::collections::BTreeMap;

use ezq_core::Result;
use percent_encoding::percent_decode_str;
use rdkafka::ClientConfig;

use crate::error::wrong_url;

const DEFAULT_PORT: &str = "9092";

/// Settings on which the promises of this crate rest.
const RESERVED: [&str; 16] = [
    "acks",
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "message.timeout.ms",
    "metadata.broker.list",
    "request.required.acks",
    "transactional.id",
];

const COMPRESSIONS: &str =
    ": for these two compressions turn on the feature `gzip` or `zstd` of ezq-kafka";

/// How to reach a cluster.
#[derive(Clone)]
pub(crate) struct Connection {
    /// The brokers, as errors name them.
    pub(crate) brokers: String,
    settings: BTreeMap<String, String>,
    pub(crate) secrets: Vec<String>,
}

impl Connection {
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let (uses_tls, rest) = match url.split_once("://") {
            None => (false, url),
            Some(("kafka", rest)) => (false, rest),
            Some(("kafka+ssl", rest)) => (true, rest),
            Some(_) => return Err(wrong_url("it begins with `kafka://` or `kafka+ssl://`")),
        };
        if uses_tls && !cfg!(feature = "tls") {
            return Err(wrong_url(
                "it demands TLS: turn on the feature `tls` of ezq-kafka",
            ));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (user, hosts) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, rest),
        };

        let hosts = hosts.trim_end_matches('/').split(',').map(with_port);
        let mut connection = Self {
            brokers: hosts.collect::<Result<Vec<_>>>()?.join(","),
            settings: BTreeMap::new(),
            secrets: Vec::new(),
        };
        connection.authenticate(uses_tls, user)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            connection.read_setting(pair)?;
        }

        let mechanism = connection.setting("sasl.mechanisms").unwrap_or_default();
        let needs_tls = ["SCRAM", "OAUTHBEARER"]
            .iter()
            .any(|one| mechanism.starts_with(one));
        if needs_tls && !cfg!(feature = "tls") {
            return Err(wrong_url(
                "it demands SCRAM or OAUTHBEARER: turn on the feature `tls` of ezq-kafka",
            ));
        }
        Ok(connection)
    }

    /// Settings for user and password, which a later setting of the URL may refine.
    fn authenticate(&mut self, uses_tls: bool, user: Option<&str>) -> Result<()> {
        let protocol = match (uses_tls, user.is_some()) {
            (false, false) => "plaintext",
            (false, true) => "sasl_plaintext",
            (true, false) => "ssl",
            (true, true) => "sasl_ssl",
        };
        self.set("security.protocol", protocol);

        if let Some(user) = user {
            let (name, password) = user
                .split_once(':')
                .ok_or_else(|| wrong_url("a user needs a password, as in `user:password@host`"))?;
            self.set("sasl.mechanisms", "PLAIN");
            self.set("sasl.username", &decoded(name)?);
            let password = decoded(password)?;
            self.set("sasl.password", &password);
            self.secrets.push(password);
        }
        Ok(())
    }

    fn read_setting(&mut self, pair: &str) -> Result<()> {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| wrong_url("a setting behind `?` is written `name=value`"))?;
        if RESERVED.contains(&name) {
            let why = format!("it sets `{name}`, which ezq sets itself");
            return Err(wrong_url(&why));
        }

        let value = decoded(value)?;
        let is_secret = ["password", "secret", ".pem"]
            .iter()
            .any(|part| name.contains(part));
        if is_secret {
            self.secrets.push(value.clone());
        }
        // An alias, of which librdkafka would take either.
        let name = match name {
            "sasl.mechanism" => "sasl.mechanisms",
            name => name,
        };
        self.set(name, &value);
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// What the URL sets.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// The settings of a client. What `defaults` names is used unless the URL names it too; what `fixed`
    /// names it cannot.
    pub(crate) fn client(
        &self,
        defaults: &[(&str, &str)],
        fixed: &[(&str, &str)],
    ) -> Result<ClientConfig> {
        let mut config = ClientConfig::new();
        for (name, value) in defaults {
            config.set(*name, *value);
        }
        for (name, value) in &self.settings {
            config.set(name, value);
        }
        for (name, value) in fixed {
            config.set(*name, *value);
        }
        config.set("bootstrap.servers", &self.brokers);

        // The error of a single setting holds its value, so only the name is told.
        for name in self.settings.keys() {
            let mut alone = ClientConfig::new();
            alone.set(name, &self.settings[name]);
            if alone.create_native_config().is_err() {
                let mut why = format!("the client does not take the value of `{name}`");
                if name.starts_with("compression.") {
                    why.push_str(COMPRESSIONS);
                }
                return Err(wrong_url(&why));
            }
        }
        Ok(config)
    }

    /// Takes secrets out of a text of librdkafka or of a broker.
    pub(crate) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in self.secrets.iter().filter(|secret| !secret.is_empty()) {
            text = text.replace(secret, "***");
        }
        text
    }
}

fn with_port(host: &str) -> Result<String> {
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address without a port stand inside of brackets.
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, DEFAULT_PORT),
    };
    if name.is_empty() || name.contains(['/', ' ']) || port.parse::<u16>().is_err() {
        return Err(wrong_url(
            "write `kafka://user:password@host:9092,host:9092`",
        ));
    }
    Ok(format!("{name}:{port}"))
}

fn decoded(text: &str) -> Result<String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| wrong_url("a name, password or value in it is not UTF-8"))
}
