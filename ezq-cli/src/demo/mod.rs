//! `ezq dev --demo`: a shop with a worker, customers and the dashboard, in this process.
//!
//! Everything starts with [`Demo::start`] and ends with [`Demo::run`]; nothing outlives the command.

mod shop;

use ezq::consumer::ConsumersHandle;
use ezq::{CancellationToken, Ezq};
use ezq_ui::{Access, BoundServer, Dashboard, Server};
use tokio::task::JoinHandle;

use crate::failure::Failure;
use crate::session::user;
use crate::stopping::Signals;

/// A demo that runs.
pub(crate) struct Demo {
    pub(crate) server: BoundServer,
    ezq: Ezq,
    worker: ConsumersHandle,
    customers: JoinHandle<()>,
    stop: CancellationToken,
}

impl Demo {
    /// Starts the worker and its customers on a database, and takes a port for the dashboard.
    pub(crate) async fn start(url: &str) -> Result<Self, Failure> {
        let ezq = shop::application(url).await?;
        let operator = user().unwrap_or_else(|| "demo".to_owned());
        let policy = Access::actions(move |_| Some(operator.clone()));
        let server = Server::new(Dashboard::new(ezq.clone(), policy))
            .bind()
            .await?;

        shop::open(&ezq).await?;
        let stop = CancellationToken::new();
        Ok(Self {
            server,
            worker: ezq.consumer().subscribe().spawn_all()?,
            customers: tokio::spawn(shop::customers(ezq.clone(), stop.clone())),
            ezq,
            stop,
        })
    }

    /// Shows the dashboard until a signal comes, and then ends everything.
    pub(crate) async fn run(self, signals: Signals) -> Result<(), Failure> {
        let served = self.server.serve(signals.received()).await;

        self.stop.cancel();
        // One that panicked has ended as well.
        let _ = self.customers.await;
        // The database goes with its events, so a slow handler is not waited for.
        self.worker.interrupt();
        let worked = self.worker.await;
        self.ezq.close().await;

        served?;
        worked?;
        Ok(())
    }
}
