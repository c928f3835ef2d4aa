//! Checks of options: what each allows, and what only all of them together can tell.

use std::time::Duration;

use super::{Config, wrong};
use crate::error::Result;
use crate::event::attributes::check_source;
use crate::handler::HandlerOptions;

/// The most bytes of an application's name.
const APP_LIMIT: usize = 255;

impl Config {
    /// Checks that every option is in its range and that the options fit together.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration) for the first that does not.
    pub fn validate(&self) -> Result<()> {
        at_least_one("concurrency", self.concurrency)?;
        at_least_one("settle_batch", self.settle_batch)?;
        at_least_one("message_limit", self.message_limit)?;
        at_least_one("max_deliveries", self.max_deliveries as usize)?;
        at_least_one("max_attempts", self.retry.max_attempts as usize)?;

        self.validate_app()?;
        self.validate_times()?;
        self.handlers.values().try_for_each(validate_handler)
    }

    /// The name is checked as the source of events, which is what it is used for.
    fn validate_app(&self) -> Result<()> {
        if let Err(why) = check_source(&self.app) {
            return Err(wrong(format!(
                "the application's name `{}` is the source of its events, and must be a word of \
                 letters, digits, `-`, `.` and `_`, or a URI: {why}",
                self.app.escape_debug()
            )));
        }

        if self.app.len() > APP_LIMIT {
            return Err(wrong(format!(
                "the application's name has more than {APP_LIMIT} bytes"
            )));
        }

        match &self.app_version {
            Some(version) if version.len() > APP_LIMIT => Err(wrong(format!(
                "`app_version` has more than {APP_LIMIT} bytes"
            ))),
            _ => Ok(()),
        }
    }

    fn validate_times(&self) -> Result<()> {
        if self.lease < Duration::from_secs(1) {
            return Err(wrong(
                "`lease` must be at least 1s, so that it can be renewed in time".into(),
            ));
        }

        if [self.poll_min, self.poll_max].contains(&Some(Duration::ZERO)) {
            return Err(wrong(
                "`poll_min` and `poll_max` must be longer than zero".into(),
            ));
        }
        if let (Some(min), Some(max)) = (self.poll_min, self.poll_max)
            && min > max
        {
            return Err(wrong("`poll_min` is longer than `poll_max`".into()));
        }

        let mut kept = self.retention.values().map(|retention| retention.keep());
        if kept.any(|keep| keep == Some(Duration::ZERO)) {
            return Err(wrong(
                "an archive must keep events for longer than zero".into(),
            ));
        }
        if self.dedupe_window.is_zero() {
            return Err(wrong("`dedupe_window` must be longer than zero".into()));
        }
        if self
            .sample_queues
            .is_some_and(|every| every < Duration::from_secs(1))
        {
            return Err(wrong("`sample_queues` must be at least 1 s".into()));
        }
        if self.connect_timeout.is_zero() {
            return Err(wrong("`connect_timeout` must be longer than zero".into()));
        }
        Ok(())
    }
}

fn at_least_one(name: &str, number: usize) -> Result<()> {
    match number {
        0 => Err(wrong(format!("`{name}` must be at least 1"))),
        _ => Ok(()),
    }
}

fn validate_handler(options: &HandlerOptions) -> Result<()> {
    if options.max_attempts == Some(0) {
        return Err(wrong(
            "`max_attempts` of a handler must be at least 1".into(),
        ));
    }
    if options.batch_size == Some(0) {
        return Err(wrong("`batch_size` of a handler must be at least 1".into()));
    }
    if options.concurrency == Some(0) {
        return Err(wrong(
            "`concurrency` of a handler must be at least 1".into(),
        ));
    }
    Ok(())
}
