//! A server of its own for a dashboard: for an operator's machine, or for a host of the operators.
//!
//! Nobody sees a page without a session. A session begins with the one-time link, or with the secret.

mod attempts;
mod error;
mod login;
mod secret;
mod sessions;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::dashboard::Dashboard;
use login::Login;

pub use error::{ServerError, ServerErrorKind};
pub use secret::Secret;

/// So long requests that have begun may take after the stop.
const GRACE: Duration = Duration::from_secs(5);

/// A dashboard with a server of its own.
///
/// It listens on this machine only, and [`BoundServer::link`] is the way in. To listen elsewhere it needs
/// a [`Secret`]. What those may do who are in, the [`Access`](crate::Access) of the dashboard decides.
///
/// It speaks HTTP without TLS. Where others can read the network, put a proxy with TLS before it.
///
/// ```no_run
/// use ezq_ui::{Access, Dashboard, Server};
///
/// # async fn example(ezq: ezq::Ezq) -> Result<(), ezq_ui::ServerError> {
/// let dashboard = Dashboard::new(ezq, Access::read_only());
/// let server = Server::new(dashboard).bind().await?;
/// println!("{}", server.link().unwrap_or_default());
/// server.serve(std::future::pending()).await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "it does nothing before `bind`"]
pub struct Server {
    dashboard: Dashboard,
    address: SocketAddr,
    secret: Option<Secret>,
}

impl Server {
    /// A server for a dashboard. It answers to addresses, to `localhost`, and to the names of
    /// [`Dashboard::hosts`].
    pub fn new(dashboard: Dashboard) -> Self {
        Self {
            dashboard,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            secret: None,
        }
    }

    /// Where it listens; port 0 is any free port. Defaults to `127.0.0.1:0`.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.address = address;
        self
    }

    /// What one has to know to get in. Defaults to nothing: there is a one-time link.
    pub fn secret(mut self, secret: Secret) -> Self {
        self.secret = Some(secret);
        self
    }

    /// Takes the port. Connections wait until [`BoundServer::serve`].
    ///
    /// # Errors
    /// - [`ServerErrorKind::SecretMissing`] if the address can be reached from other machines and there
    ///   is no secret.
    /// - [`ServerErrorKind::Listen`] if the address cannot be had, such as when another program has it.
    pub async fn bind(self) -> Result<BoundServer, ServerError> {
        let is_local = self.address.ip().to_canonical().is_loopback();
        if !is_local && self.secret.is_none() {
            return Err(ServerError::secret_missing(self.address));
        }

        let listener = TcpListener::bind(self.address)
            .await
            .map_err(|error| ServerError::listen(self.address, error))?;
        let address = listener
            .local_addr()
            .map_err(|error| ServerError::listen(self.address, error))?;
        let (login, token) = Login::new(self.secret, address.port());
        Ok(BoundServer {
            router: router(self.dashboard, Arc::new(login)),
            link: token.map(|token| format!("http://{address}/login?token={token}")),
            listener,
            address,
        })
    }
}

/// A server that has its port.
#[derive(Debug)]
#[must_use = "it answers nobody before `serve`"]
pub struct BoundServer {
    router: Router,
    link: Option<String>,
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundServer {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The link that lets in whoever opens it first, within an hour; `None` if there is a secret. Keep
    /// it out of logs.
    #[must_use]
    pub fn link(&self) -> Option<&str> {
        self.link.as_deref()
    }

    /// Answers requests until `stop` is done. Requests that have begun get 5 s to end.
    ///
    /// # Errors
    /// [`ServerErrorKind::Serve`] if no connection can be accepted any more.
    ///
    /// # Cancel safety
    /// Dropping the future stops it at once. Answers that are under way are still written while the
    /// runtime runs.
    pub async fn serve(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), ServerError> {
        let service = self
            .router
            .into_make_service_with_connect_info::<SocketAddr>();
        let (begun, has_begun) = oneshot::channel::<()>();
        let served = axum::serve(self.listener, service).with_graceful_shutdown(async move {
            stop.await;
            // Who listens is below, unless it was dropped.
            let _ = begun.send(());
        });

        tokio::select! {
            ended = served => ended.map_err(ServerError::serve),
            // A browser that never ends its request must not keep the program.
            () = async {
                let _ = has_begun.await;
                sleep(GRACE).await;
            } => Ok(()),
        }
    }
}

/// The pages behind the login, and the login itself.
fn router(dashboard: Dashboard, login: Arc<Login>) -> Router {
    let hosts = dashboard.allowed_hosts().unwrap_or_default();
    let pages = login::required(dashboard.pages(), Arc::clone(&login));
    let router = login::routes(login).fallback_service(pages);
    crate::dashboard::protected(router, Some(hosts))
}
