//! The engine's background tasks: notifying, listening, telling what operators want, sweeping and vacuuming,
//! until it is closed.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use ezq_core::message::QueueName;
use ezq_core::{Error, ErrorKind, Result};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Inner;
use crate::holders::Watcher;
use crate::retention::vacuum::Vacuum;
use crate::schema::{Part, Schema};
use crate::sql::leases::Sign;
use crate::wake::listen;

#[derive(Default)]
pub(super) struct Tasks {
    pub(super) running: JoinSet<()>,
    notifies: bool,
    hears_orders: bool,
    sweeps: bool,
    vacuums: bool,
    watches_holders: bool,
    looks: bool,
    listening: Option<watch::Receiver<listen::State>>,
    pub(super) closed: bool,
    /// When ended dedupe keys were last removed.
    pub(super) swept: Option<Instant>,
}

impl Inner {
    /// Starts the task that notifies other processes, once.
    pub(super) fn start_notifying(&self) {
        let mut tasks = self.tasks();
        if !tasks.notifies && !tasks.closed {
            tasks.notifies = true;
            let wake = self.wake.clone();
            tasks
                .running
                .spawn(wake.notify_forever(self.connections.control.clone()));
        }
    }

    /// Starts the task that tells consumers what operators want, once.
    pub(crate) fn start_hearing_orders(&self) {
        let mut tasks = self.tasks();
        if !tasks.hears_orders && !tasks.closed {
            tasks.hears_orders = true;
            let wake = self.wake.clone();
            let control = self.connections.control.clone();
            tasks
                .running
                .spawn(async move { wake.orders.keep_forever(control).await });
        }
    }

    /// Starts the task that sweeps, once there is an archive or a trail with a limit of age.
    pub(crate) fn start_sweeping(&self) {
        let mut tasks = self.tasks();
        if !tasks.sweeps && !tasks.closed && self.sweeper.has_work() {
            tasks.sweeps = true;
            tasks.running.spawn(self.sweeper.clone().run_forever());
        }
    }

    /// Starts the task that vacuums queues, once there is a busy one.
    pub(super) fn start_vacuuming(&self, vacuum: &Arc<Vacuum>) {
        let mut tasks = self.tasks();
        if !tasks.vacuums && !tasks.closed {
            tasks.vacuums = true;
            tasks.running.spawn(Arc::clone(vacuum).run_forever());
        }
    }

    /// Starts the task that gives the engine its sign and takes over from others that are gone, once.
    pub(crate) fn start_watching_holders(&self) {
        let mut tasks = self.tasks();
        if tasks.watches_holders || tasks.closed {
            return;
        }

        tasks.watches_holders = true;
        let watcher = Watcher {
            board: Arc::clone(&self.holders),
            table: Schema::new(Part::Holders),
            connector: self.connections.connector.clone(),
            control: Arc::clone(&self.connections.control),
            renew: Arc::clone(&self.connections.renew),
            wake: Arc::clone(&self.wake),
            manage_schema: self.settings.manage_schema,
        };
        tasks.running.spawn(watcher.run_forever());
    }

    /// Starts the task that looks into idle queues, once.
    pub(crate) fn start_looking(&self) {
        let mut tasks = self.tasks();
        if !tasks.looks && !tasks.closed {
            tasks.looks = true;
            let looks = Arc::clone(&self.looks);
            // The connection for renewing is planned by index, and no event waits for it.
            let connections = Arc::clone(&self.connections.renew);
            tasks.running.spawn(looks.look_forever(connections));
        }
    }

    /// The sign for a lease of this length, if leases of it are signed.
    pub(crate) async fn lease_sign(&self, queue: &QueueName, lease: Duration) -> Option<Sign> {
        if self.connections.sign.get().is_none() {
            self.start_watching_holders();
        }
        self.holders.sign_for(queue, lease).await
    }

    /// Notes when the runtime ends on which the engine was connected.
    pub(super) fn watch_runtime(&self) {
        self.connections
            .connector
            .runtime
            .watch(&mut self.tasks().running);
    }

    /// Starts the listener, once, and waits for its first attempt.
    pub(crate) async fn listen(&self) -> Result<()> {
        // Captured changes that the listener finds are announced to other processes, too.
        self.start_notifying();
        let state = {
            let mut tasks = self.tasks();
            if tasks.closed {
                return Err(Error::new(ErrorKind::Connection, "the engine is closed"));
            }

            match &tasks.listening {
                Some(state) => state.clone(),
                None => {
                    let (sender, state) = watch::channel(listen::State::Connecting);
                    let listener = listen::forever(
                        self.connections.connector.clone(),
                        self.wake.clone(),
                        Arc::clone(&self.connections.sign),
                        sender,
                    );
                    tasks.running.spawn(listener);
                    tasks.listening = Some(state.clone());
                    state
                }
            }
        };

        listen::ready(state).await
    }

    /// Stops the tasks, sends what is still to be notified, and closes all connections.
    pub(crate) async fn close(&self) {
        let mut running = {
            let mut tasks = self.tasks();
            tasks.closed = true;
            std::mem::take(&mut tasks.running)
        };

        // First: a vacuum that is only dropped goes on at the server.
        if let Some(vacuum) = &self.vacuum {
            vacuum.stop().await;
        }
        running.shutdown().await;
        self.looks.close();
        self.wake.finish(&self.connections.control).await;

        self.connections.close().await;
    }

    pub(super) fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
