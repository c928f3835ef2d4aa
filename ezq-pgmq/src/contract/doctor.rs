//! The examination of the engine's database, on connections of its own.

use async_trait::async_trait;
use ezq_core::engine::{Doctor, DoctorOptions, Finding};

use crate::config::PgmqConfig;
use crate::connection::connector::Connector;
use crate::doctor;
use crate::engine::PgmqEngine;

impl PgmqEngine {
    /// Examines a database to which no engine needs to connect: one without PGMQ, or behind a pooler that
    /// shares sessions. It is what [`App::doctor`](ezq_core::app::App::doctor) does otherwise.
    ///
    /// Where the server cannot be reached, that is the only finding. A wrong configuration is one as well.
    ///
    /// # Cancel safety
    /// It changes nothing.
    pub async fn diagnose(config: &PgmqConfig, options: &DoctorOptions) -> Vec<Finding> {
        doctor::examine(&Connector::new(config), options).await
    }
}

#[async_trait]
impl Doctor for PgmqEngine {
    async fn examine(&self, options: &DoctorOptions) -> Vec<Finding> {
        doctor::examine(self.connector(), options).await
    }
}
