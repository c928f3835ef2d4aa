//! A subcommand for programs that read their arguments with `clap`: their own events, published by hand.
//!
//! The command line `ezq` knows no types, so it stores whatever JSON it is given. A program that embeds
//! [`PublishCommand`] has its data checked by the type of the event, and its options, routes, codecs and
//! hooks apply.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use clap::Args;
use ezq_core::app::App;
use ezq_core::error::{Error, ErrorKind, Result};
use ezq_core::event::{AttributeValue, Envelope, Event, VERSION_ATTRIBUTE};
use ezq_core::publish::{Publish, Published};

/// Publishes one of the program's own events.
///
/// The [audit trail](ezq_core::app::App::audit) does not record it, like everything that a program publishes.
/// A program that wants an entry writes one with [`recorded`](ezq_core::admin::recorded).
///
/// ```
/// use clap::Parser;
/// use ezq::command::{EventTypes, PublishCommand};
/// use ezq::prelude::*;
/// use ezq::testing::TestApp;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[event(type = "order.placed")]
/// struct OrderPlaced { order: i64 }
///
/// #[derive(Parser)]
/// enum Arguments {
///     /// Publish an event of the shop by hand
///     Publish(PublishCommand),
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq::Result<()> {
/// # let app = TestApp::new(|app| app)?;
/// let types = EventTypes::new().event::<OrderPlaced>();
/// let data = r#"{"order": 7}"#;
/// let Arguments::Publish(publish) =
///     Arguments::parse_from(["shop", "publish", "order.placed", "--data", data]);
/// let published = publish.run(&app, &types).await?;
/// println!("{}", published.event_id);
/// # assert_eq!(app.published::<OrderPlaced>()[0].order, 7);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Args)]
pub struct PublishCommand {
    /// The type of the event
    #[arg(value_name = "TYPE")]
    event_type: String,
    /// The data of the event as JSON
    #[arg(long, value_name = "JSON", default_value = "null")]
    data: String,
    /// The queue [default: that of the type]
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// The ordering key [default: that of the type]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// What the event is about
    #[arg(long, value_name = "TEXT")]
    subject: Option<String>,
    /// Store nothing if an event with this key was stored within the window
    #[arg(long, value_name = "KEY")]
    dedupe_key: Option<String>,
    /// Let it be due after so many seconds
    #[arg(long, value_name = "SECONDS")]
    delay: Option<u64>,
}

impl PublishCommand {
    /// Publishes the event.
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidEvent`] if the type is none of `types`; the text names them.
    /// - [`ErrorKind::Decode`] if the data does not fit the type.
    /// - Otherwise as [`App::publish`].
    pub async fn run(self, app: &App, types: &EventTypes) -> Result<Published> {
        let mut publish = types.prepare(app, &self.event_type, &self.data)?;

        // What is not given stays as the type and the application have it.
        if let Some(queue) = self.queue {
            publish = publish.queue(queue);
        }
        if let Some(key) = self.key {
            publish = publish.key(key);
        }
        if let Some(subject) = self.subject {
            publish = publish.subject(subject);
        }
        if let Some(key) = self.dedupe_key {
            publish = publish.dedupe_key(key);
        }
        if let Some(seconds) = self.delay {
            publish = publish.after(Duration::from_secs(seconds));
        }

        publish.await
    }
}

type Prepare = fn(&App, &str) -> Result<Publish>;

/// The events that a [`PublishCommand`] may publish.
#[derive(Default)]
pub struct EventTypes(BTreeMap<&'static str, Prepare>);

impl EventTypes {
    /// No events.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a type.
    #[must_use]
    pub fn event<E: Event>(mut self) -> Self {
        self.0.insert(E::TYPE, prepare::<E>);
        self
    }

    fn prepare(&self, app: &App, event_type: &str, data: &str) -> Result<Publish> {
        let Some(prepare) = self.0.get(event_type) else {
            // A program has few events, so all of them fit an error.
            let known: Vec<String> = self.0.keys().map(|name| format!("`{name}`")).collect();
            let text = format!(
                "there is no event `{}`: publish one of {}",
                event_type.escape_debug(),
                known.join(", ")
            );
            return Err(Error::new(ErrorKind::InvalidEvent, text));
        };

        prepare(app, data)
    }
}

impl fmt::Debug for EventTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Reads the data as the current version of the type, and publishes that. So defaults are filled in, as
/// for any publisher.
fn prepare<E: Event>(app: &App, data: &str) -> Result<Publish> {
    // Without it the data would be that of version 1, and would be converted.
    let version = AttributeValue::Text(E::VERSION.to_string());
    let envelope = Envelope::builder(E::TYPE, "command-line")
        .extension(VERSION_ATTRIBUTE, version)
        .json(data)?
        .build()?;

    let event: E = envelope.decode()?;
    Ok(app.publish(&event))
}
