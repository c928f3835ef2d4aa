//! `ezq generate`: the files for monitoring that come with the program.

use clap::ValueEnum;

use crate::failure::Failure;
use crate::session::Session;

/// A file for the system that monitors an application. A test of `ezq-core` compares the queries in them
/// with what an exporter renders.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum MonitoringFile {
    /// A dashboard for Grafana with Prometheus
    Grafana,
    /// Alert rules for Prometheus
    Alerts,
}

pub(crate) fn generate(session: &Session, file: MonitoringFile) -> Result<(), Failure> {
    session.output.script(match file {
        MonitoringFile::Grafana => include_str!("../monitoring/grafana.json"),
        MonitoringFile::Alerts => include_str!("../monitoring/alerts.yml"),
    })
}
