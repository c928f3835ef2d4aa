//! Bodies as a program without ezq would write them: of the same shape and size, made by hand.

use std::time::SystemTime;

use ezq::chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::error::Result;
use crate::payload::Payload;

/// Writes bodies. Each has an id of its own.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    next: u64,
}

#[derive(Serialize)]
struct Body<'a> {
    specversion: &'a str,
    id: String,
    source: &'a str,
    #[serde(rename = "type")]
    event_type: &'a str,
    time: String,
    data: &'a Payload,
}

impl Bodies {
    pub(crate) fn next(&mut self, payload: &Payload) -> Result<String> {
        self.next += 1;
        let time = DateTime::<Utc>::from(SystemTime::now());
        let body = Body {
            specversion: "1.0",
            // The length of a UUID of version 7, as ezq writes it, without the cost of drawing one.
            id: format!("01990000-0000-7000-8000-{:012x}", self.next),
            source: "ezq-bench",
            event_type: "bench",
            time: time.to_rfc3339_opts(SecondsFormat::Micros, true),
            data: payload,
        };
        Ok(serde_json::to_string(&body)?)
    }
}
