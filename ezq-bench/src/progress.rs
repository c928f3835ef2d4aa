//! A progress bar. It shows nothing where there is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::error::Result;

/// A bar for the runs of a case. It vanishes when it is dropped.
pub(crate) fn bar(case: &str, runs: usize) -> Result<ProgressBar> {
    let bar = ProgressBar::new(runs as u64).with_prefix(case.to_owned());
    let style = "{prefix} {elapsed_precise} [{wide_bar}] run {pos} of {len} {msg}";
    bar.set_style(ProgressStyle::with_template(style)?);
    bar.enable_steady_tick(Duration::from_millis(250));
    Ok(bar)
}
