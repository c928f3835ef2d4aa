//! The dashboard as an application mounts it: its options, and its router.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use ezq::Ezq;

use crate::access::Access;
use crate::assets::asset;
use crate::board::Board;
use crate::failure::Failure;
use crate::frame::{Frame, show_failures};
use crate::guard::guard;
use crate::hosts::{Hosts, check_host};
use crate::payload::{Payload, Payloads};
use crate::screens::{
    acting, audit, bulk, captures, catalogue, consumers, dead_letters, errors, health, message,
    messages, operations, overview, queue, queues, replays, schedules, subscriptions,
};

/// How often the figures are read while somebody looks, unless told otherwise.
const EVERY: Duration = Duration::from_secs(5);

/// The dashboard of an application's queues: [`router`](Self::router) makes it something to mount.
///
/// ```no_run
/// use axum::Router;
/// use ezq_ui::{Access, Dashboard};
///
/// # async fn example(ezq: ezq::Ezq) {
/// let dashboard = Dashboard::new(ezq, Access::read_only());
/// let app: Router = Router::new().nest("/ops/ezq", dashboard.router());
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it is served by the router that `router` makes"]
pub struct Dashboard {
    ezq: Ezq,
    access: Access,
    payloads: Payloads,
    every: Duration,
    hosts: Option<Hosts>,
}

impl Dashboard {
    /// The dashboard of an application, for those whom a policy lets in.
    pub fn new(ezq: Ezq, access: Access) -> Self {
        Self {
            ezq,
            access,
            payloads: Payloads::default(),
            every: EVERY,
            hosts: None,
        }
    }

    /// Replaces payloads before they are shown or copied, by what `redact` returns. Keys, headers, an
    /// event's attributes and errors are not payloads: what a handler writes into an error is shown.
    ///
    /// ```no_run
    /// use std::borrow::Cow;
    /// use ezq_ui::{Access, Dashboard};
    ///
    /// # fn example(ezq: ezq::Ezq) -> Dashboard {
    /// Dashboard::new(ezq, Access::read_only()).redact(|payload| match payload.event_type {
    ///     Some("order.paid" | "order.sent") => Cow::Borrowed(payload.data),
    ///     // Also what has no type, such as a body that is damaged.
    ///     _ => Cow::Borrowed("\"redacted\""),
    /// })
    /// # }
    /// ```
    pub fn redact(
        mut self,
        redact: impl for<'a> Fn(&Payload<'a>) -> Cow<'a, str> + Send + Sync + 'static,
    ) -> Self {
        self.payloads.redact = Some(Arc::new(redact));
        self
    }

    /// Hides payloads for which `hide` is true until somebody asks for one. That protects from eyes that
    /// look over a shoulder; what nobody may see is to be [redacted](Self::redact). Defaults to hiding
    /// none.
    pub fn hide(mut self, hide: impl Fn(&Payload<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.payloads.hide = Some(Arc::new(hide));
        self
    }

    /// How often the database is asked for figures while somebody looks, whatever the number of viewers;
    /// at least 100 ms. Defaults to 5 seconds.
    pub fn refresh(mut self, every: Duration) -> Self {
        self.every = every.max(Duration::from_millis(100));
        self
    }

    /// Refuses requests by names other than these, and than addresses and `localhost`. So a page of a
    /// foreign site cannot reach a dashboard on this machine by a DNS name that leads here. Defaults to
    /// every name; a [`Server`](crate::Server) defaults to addresses and `localhost`.
    ///
    /// ```no_run
    /// use ezq_ui::{Access, Dashboard};
    ///
    /// # fn example(ezq: ezq::Ezq) -> Dashboard {
    /// Dashboard::new(ezq, Access::read_only()).hosts(["ops.example.com"])
    /// # }
    /// ```
    pub fn hosts(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.hosts = Some(Hosts::new(names));
        self
    }

    /// The router, to be nested under a path of an application's own router, or to be its root. It finds
    /// the path by itself.
    pub fn router(self) -> Router {
        let hosts = self.hosts.clone();
        protected(self.pages(), hosts)
    }

    pub(crate) fn allowed_hosts(&self) -> Option<Hosts> {
        self.hosts.clone()
    }

    /// The pages, without what protects them from other sites.
    pub(crate) fn pages(self) -> Router {
        let board = Board::new(self.ezq, self.access, self.payloads, self.every);
        let router = Router::new()
            .route("/", get(overview::show))
            .route("/queues", get(queues::show))
            .route("/queues/{queue}", get(queue::show))
            .route("/queues/{queue}/pause", post(queue::pause))
            .route("/queues/{queue}/resume", post(queue::resume))
            .route("/queues/{queue}/messages", get(messages::show))
            .route("/queues/{queue}/events/{id}", get(message::event))
            .route("/queues/{queue}/events/{id}/{action}", post(acting::event))
            .route("/queues/{queue}/errors", get(errors::show))
            .route("/queues/{queue}/dead", get(dead_letters::show))
            .route("/queues/{queue}/dead/{id}", get(message::letter))
            .route("/queues/{queue}/dead/{id}/move", post(acting::letter))
            .route(
                "/queues/{queue}/dead/selected/{action}",
                post(dead_letters::selected),
            )
            .route(
                "/queues/{queue}/all/{state}/{action}",
                get(bulk::preview).post(bulk::start),
            )
            .route("/dead", get(dead_letters::overview))
            .route("/schedules", get(schedules::show))
            .route("/schedules/{name}/{action}", post(schedules::act))
            .route("/consumers", get(consumers::show))
            .route("/subscriptions", get(subscriptions::show))
            .route("/catalogue", get(catalogue::show))
            .route("/replays", get(replays::show))
            .route("/captures", get(captures::show))
            .route("/audit", get(audit::show))
            .route("/operations", get(operations::list))
            .route("/operations/{id}", get(operations::show))
            .route("/operations/{id}/{action}", post(operations::act))
            .route("/health", get(health::show))
            .route("/health/examine", post(health::examine))
            .route("/assets/{name}", get(asset))
            .fallback(nothing);
        router.with_state(board).layer(from_fn(show_failures))
    }
}

/// A router that answers to its own names only, and takes writes of its own pages only.
pub(crate) fn protected(router: Router, hosts: Option<Hosts>) -> Router {
    router
        .layer(from_fn_with_state(hosts, check_host))
        // Outermost, so that nothing is answered without its headers.
        .layer(from_fn(guard))
}

/// There is no such page; strangers are not even told that.
async fn nothing(_: Frame) -> Failure {
    Failure::missing("There is no such page.")
}
