//! The connections of an engine. Each is opened when first used, and again when it breaks.

use std::sync::Arc;

use crate::config::PgmqConfig;
use crate::connection::connector::{Connector, Planning, Session, own_pool};
use crate::connection::dedicated::Dedicated;
use crate::connection::pool::Pool;
use crate::connection::sign::OwnSign;
use crate::connection::stop::Stopper;

/// The connections of an engine, and what opens and stops them.
pub(crate) struct Connections {
    pub(crate) connector: Connector,
    /// For publishing, and for handlers' transactions.
    pub(crate) pool: Arc<Pool>,
    /// The pool is the engine's own, and is closed with it.
    owns_pool: bool,
    pub(crate) claim: Dedicated,
    pub(crate) settle: Dedicated,
    pub(crate) renew: Arc<Dedicated>,
    /// For storing the messages of brokers.
    pub(crate) intake: Dedicated,
    /// For rare calls, which may take their time.
    pub(crate) control: Arc<Dedicated>,
    /// For calls that must not wait: health, and stopping statements.
    pub(crate) urgent: Arc<Dedicated>,
    pub(crate) stopper: Stopper,
    /// Held by the sessions that claim, renew and settle.
    pub(crate) sign: Arc<OwnSign>,
}

impl Connections {
    /// The connections of a new engine; `first` is open already.
    pub(super) fn new(config: &PgmqConfig, connector: Connector, first: Session) -> Self {
        // It has no `urgent` of its own: its statements never wait for locks.
        let urgent = Arc::new(Dedicated::new(
            connector.clone(),
            ("urgent", Planning::Urgent),
            None,
        ));
        let sign = Arc::<OwnSign>::default();
        let by_index = |purpose| {
            let urgent = Some(Arc::clone(&urgent));
            Dedicated::new(connector.clone(), (purpose, Planning::ByIndex), urgent).holding(&sign)
        };

        let control = Dedicated::new(
            connector.clone(),
            ("control", Planning::Free),
            Some(Arc::clone(&urgent)),
        );
        let control = Arc::new(control.with(first));

        let intake = Dedicated::new(
            connector.clone(),
            ("intake", Planning::Free),
            Some(Arc::clone(&urgent)),
        );

        let owns_pool = config.pool.is_none();
        let driver = match &config.pool {
            Some(pool) => pool.clone(),
            None => own_pool(config, &connector),
        };
        let pool = Arc::new(Pool::new(driver, owns_pool, connector.clone()));

        let stopper = Stopper {
            urgent: Arc::clone(&urgent),
            patience: connector.patience(Planning::Free),
        };

        Self {
            pool,
            owns_pool,
            claim: by_index("claim"),
            settle: by_index("settle"),
            renew: Arc::new(by_index("renew")),
            intake,
            control,
            urgent,
            stopper,
            sign,
            connector,
        }
    }

    pub(super) async fn close(&self) {
        for connections in [
            &self.claim,
            &self.settle,
            &*self.renew,
            &self.intake,
            &*self.control,
            &*self.urgent,
        ] {
            connections.close().await;
        }

        if self.owns_pool {
            self.pool.driver().close().await;
        }
    }
}
