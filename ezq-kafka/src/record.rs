//! An event as a record: CloudEvents in binary or structured content mode.
//!
//! Source: "Kafka Protocol Binding for CloudEvents" 1.0.2, 3.2 and 3.3.

use ezq_core::Result;
use ezq_core::broker::Outbound;
use rdkafka::message::{Header, OwnedHeaders};

const CONTENT_TYPE: &str = "content-type";
const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";

/// Headers and value of a record.
pub(crate) struct Record {
    pub(crate) headers: OwnedHeaders,
    pub(crate) value: Vec<u8>,
}

impl Record {
    /// Attributes as headers, and the data as value. An event without data has an empty value, which is no
    /// tombstone.
    pub(crate) fn binary(message: &Outbound) -> Result<Self> {
        let attributes = message.attributes();
        let mut headers = OwnedHeaders::new_with_capacity(attributes.len());
        for (name, value) in &attributes {
            let key = match name.as_str() {
                "datacontenttype" => CONTENT_TYPE,
                name => &format!("ce_{name}"),
            };
            let value = Some(value);
            headers = headers.insert(Header { key, value });
        }

        Ok(Self {
            headers,
            value: message.data()?,
        })
    }

    /// The whole event as one JSON text.
    pub(crate) fn structured(message: &Outbound) -> Result<Self> {
        let header = Header {
            key: CONTENT_TYPE,
            value: Some(STRUCTURED),
        };
        Ok(Self {
            headers: OwnedHeaders::new_with_capacity(1).insert(header),
            value: message.structured()?,
        })
    }
}
