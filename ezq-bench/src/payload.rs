//! The event that most cases use.

use ezq::prelude::*;
use serde::{Deserialize, Serialize};

/// The text that makes a message about 200 bytes long.
const TEXT: &str = "sixteen letters.";

/// An event with a number. The cases check that every number was handled.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Payload {
    pub(crate) n: usize,
    pub(crate) text: String,
    /// The ordering key. It is stored in the headers and not in the body.
    #[serde(skip)]
    key: Option<String>,
}

impl Payload {
    pub(crate) fn new(n: usize) -> Self {
        Self {
            n,
            text: TEXT.into(),
            key: None,
        }
    }

    pub(crate) fn with_key(n: usize, key: impl ToString) -> Self {
        Self {
            key: Some(key.to_string()),
            ..Self::new(n)
        }
    }

    /// The number, as handlers write it to a table.
    pub(crate) fn number(&self) -> i64 {
        i64::try_from(self.n).unwrap_or(i64::MAX)
    }
}

impl Event for Payload {
    const TYPE: &'static str = "bench";

    fn key(&self) -> Option<String> {
        self.key.clone()
    }
}
