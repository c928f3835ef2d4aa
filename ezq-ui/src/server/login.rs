//! How a session begins and ends, and that nothing is seen without one.
//!
//! The cookie is `SameSite=Strict`: what another site begins comes without it, even a click on a link.
//! Such a click is answered by a page that goes on by itself, and that page is one of this site.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::extract::{ConnectInfo, Form, Query, Request, State};
use axum::http::header::{COOKIE, HeaderValue, REFERRER_POLICY, RETRY_AFTER, SET_COOKIE};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::attempts::Attempts;
use super::secret::{Digest, Secret, random};
use super::sessions::{LASTS, Sessions};
use crate::assets::ASSETS;
use crate::frame::{CanSignOut, render, theme};
use crate::text::address;

/// So long the link waits for somebody to open it.
const LINK_LASTS: Duration = Duration::from_secs(60 * 60);
/// So many passwords are checked at the same time. Each takes 19 MiB and a core.
const CHECKED_AT_ONCE: usize = 2;
/// No secret is longer; hashing whatever is sent would be work for strangers.
const LONGEST_SECRET: usize = 1024;

/// Who may begin a session, and who has one.
pub(super) struct Login {
    secret: Option<Secret>,
    link: Mutex<Option<Link>>,
    sessions: Sessions,
    attempts: Attempts,
    checks: Semaphore,
    /// The name of the cookie. Cookies do not tell ports apart, so the port is a part of it.
    cookie: String,
}

struct Link {
    token: Digest,
    end: Instant,
}

impl Login {
    /// Without a secret there is a link, whose token is returned.
    pub(super) fn new(secret: Option<Secret>, port: u16) -> (Self, Option<String>) {
        let token = secret.is_none().then(random);
        let link = token.as_deref().map(|token| Link {
            token: Digest::of(token),
            end: Instant::now() + LINK_LASTS,
        });
        let login = Self {
            secret,
            link: Mutex::new(link),
            sessions: Sessions::default(),
            attempts: Attempts::default(),
            checks: Semaphore::new(CHECKED_AT_ONCE),
            cookie: format!("ezq_session_{port}"),
        };
        (login, token)
    }

    /// Whether a token is that of the link. It is so once.
    fn use_link(&self, token: &str) -> bool {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = link
            .as_ref()
            .is_some_and(|link| link.token.is_of(token) && Instant::now() < link.end);
        if fits {
            *link = None;
        }
        fits
    }

    async fn is_secret(&self, given: String) -> bool {
        let Some(secret) = self
            .secret
            .clone()
            .filter(|_| given.len() <= LONGEST_SECRET)
        else {
            return false;
        };
        // The semaphore is never closed.
        let Ok(_permit) = self.checks.acquire().await else {
            return false;
        };
        // Hashing a password keeps a thread for a tenth of a second.
        let checked = tokio::task::spawn_blocking(move || secret.is(&given));
        checked.await.unwrap_or(false)
    }

    /// The session of a request.
    fn session<'h>(&self, headers: &'h HeaderMap) -> Option<&'h str> {
        let cookies = headers.get_all(COOKIE).iter();
        let mut values = cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .filter(|(name, _)| *name == self.cookie);
        let now = Instant::now();
        values.find_map(|(_, session)| self.sessions.has(session, now).then_some(session))
    }

    /// The header that gives a browser its new session.
    fn open(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let session = self.sessions.open(Instant::now());
        self.cookie(&session, LASTS, headers)
    }

    fn cookie(&self, value: &str, lasts: Duration, headers: &HeaderMap) -> Option<HeaderValue> {
        // A proxy says that the browser speaks TLS. Whoever lies about it only narrows the own cookie.
        let is_tls = headers
            .get("x-forwarded-proto")
            .is_some_and(|it| it == "https");
        let secure = if is_tls { "; Secure" } else { "" };
        let cookie = format!(
            "{}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
            self.cookie,
            lasts.as_secs()
        );
        let mut cookie = HeaderValue::try_from(cookie).ok()?;
        cookie.set_sensitive(true);
        Some(cookie)
    }
}

/// Where one signs in and out.
pub(super) fn routes(login: Arc<Login>) -> Router {
    Router::new()
        .route("/login", get(show).post(sign_in))
        .route("/logout", post(sign_out))
        .with_state(login)
}

/// The pages, for those who have a session.
pub(super) fn required(pages: Router, login: Arc<Login>) -> Router {
    pages.layer(from_fn_with_state(login, require_session))
}

async fn require_session(
    State(login): State<Arc<Login>>,
    mut request: Request,
    next: Next,
) -> Response {
    // The page of the login needs its style, and what is in the files is no secret.
    let is_asset = request.uri().path().starts_with("/assets/");
    if is_asset {
        return next.run(request).await;
    }
    if login.session(request.headers()).is_some() {
        request.extensions_mut().insert(CanSignOut);
        return next.run(request).await;
    }

    let path = request.uri().path_and_query();
    let wanted = path.map_or("/", PathAndQuery::as_str);
    let is_get = request.method() == Method::GET;
    let to = if is_get { wanted } else { "/" };
    let headers = request.headers();
    let is_from_elsewhere = headers
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site");
    if is_get && is_from_elsewhere {
        return on_to(headers, &address("/login", &[("to", to)]));
    }
    LoginPage::form(&login, headers, to).answer(StatusCode::UNAUTHORIZED)
}

#[derive(Deserialize)]
struct Asked {
    token: Option<String>,
    to: Option<String>,
}

async fn show(
    State(login): State<Arc<Login>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(asked): Query<Asked>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let to = asked.to.as_deref().map_or("/", inside);
    let Some(token) = asked.token else {
        return match login.session(&headers) {
            Some(_) => Redirect::to(to).into_response(),
            None => LoginPage::form(&login, &headers, to).answer(StatusCode::OK),
        };
    };

    // A browser that looks ahead, or a program that only looks whether a link is good, has not opened it.
    if method != Method::GET || headers.contains_key("sec-purpose") {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    if let Err(wait) = login.attempts.begin(peer.ip(), Instant::now()) {
        return too_many(&login, &headers, to, wait);
    }
    if login.use_link(&token) {
        login.attempts.succeeded(peer.ip());
        tracing::info!(%peer, "signed in to the dashboard by its link");
        let mut response = on_to(&headers, "/");
        let cookie = login.open(&headers).map(|cookie| (SET_COOKIE, cookie));
        response.headers_mut().extend(cookie);
        return response;
    }

    if login.session(&headers).is_some() {
        return on_to(&headers, "/");
    }
    let mut page = LoginPage::form(&login, &headers, to);
    page.failure = Some(match login.secret {
        Some(_) => "There is no such link.".to_owned(),
        None => {
            "This link does not work any more: it lets in one browser, within an hour.".to_owned()
        }
    });
    page.answer(StatusCode::UNAUTHORIZED)
}

#[derive(Deserialize)]
struct SignIn {
    secret: String,
    to: Option<String>,
}

async fn sign_in(
    State(login): State<Arc<Login>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Form(form): Form<SignIn>,
) -> Response {
    let to = form.to.as_deref().map_or("/", inside);
    if let Err(wait) = login.attempts.begin(peer.ip(), Instant::now()) {
        tracing::info!(%peer, "too many attempts to sign in to the dashboard");
        return too_many(&login, &headers, to, wait);
    }
    if login.is_secret(form.secret).await {
        login.attempts.succeeded(peer.ip());
        tracing::info!(%peer, "signed in to the dashboard");
        let cookie = login.open(&headers).map(|cookie| (SET_COOKIE, cookie));
        let mut response = Redirect::to(to).into_response();
        response.headers_mut().extend(cookie);
        return response;
    }

    tracing::info!(%peer, "a wrong secret for the dashboard");
    let mut page = LoginPage::form(&login, &headers, to);
    page.failure = page
        .label
        .map(|label| format!("This is not the {}.", label.to_lowercase()));
    page.answer(StatusCode::UNAUTHORIZED)
}

async fn sign_out(State(login): State<Arc<Login>>, headers: HeaderMap) -> Response {
    if let Some(session) = login.session(&headers) {
        login.sessions.close(session);
    }
    let gone = login.cookie("", Duration::ZERO, &headers);
    let mut response = Redirect::to("/login").into_response();
    response
        .headers_mut()
        .extend(gone.map(|cookie| (SET_COOKIE, cookie)));
    response
}

fn too_many(login: &Login, headers: &HeaderMap, to: &str, wait: Duration) -> Response {
    // Of a part of a second, too, there is something left.
    let seconds = wait.as_secs() + 1;
    let mut page = LoginPage::form(login, headers, to);
    page.failure = Some(format!("Too many attempts. Try again in {seconds} s."));
    let wait = [(RETRY_AFTER, HeaderValue::from(seconds))];
    (wait, page.answer(StatusCode::TOO_MANY_REQUESTS)).into_response()
}

/// A path of this dashboard. Anything else, such as an address of another site, is its overview.
fn inside(to: &str) -> &str {
    // Browsers read `/\` as `//`, after which a host stands, and leave out what is a control character.
    let is_path = to.starts_with('/') && !to.starts_with("//");
    let is_plain = to
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    let is_login = to.starts_with("/login") || to.starts_with("/logout");
    if is_path && is_plain && !is_login {
        to
    } else {
        "/"
    }
}

/// A page that goes on by itself, so that the next request is one of this site.
fn on_to(headers: &HeaderMap, next: &str) -> Response {
    let page = LoginPage {
        next: Some(next),
        ..LoginPage::empty(headers)
    };
    page.answer(StatusCode::OK)
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    style: String,
    theme: &'static str,
    failure: Option<String>,
    /// What is asked for; `None` if there is nothing that one could type.
    label: Option<&'static str>,
    /// Where to go after the login.
    to: &'a str,
    /// Where to go by itself.
    next: Option<&'a str>,
}

impl<'a> LoginPage<'a> {
    fn empty(headers: &HeaderMap) -> Self {
        Self {
            style: format!("/assets/{}", ASSETS.style.name),
            theme: theme(headers),
            failure: None,
            label: None,
            to: "/",
            next: None,
        }
    }

    fn form(login: &Login, headers: &HeaderMap, to: &'a str) -> Self {
        let label = login
            .secret
            .as_ref()
            .map(|secret| match secret.is_password() {
                true => "Password",
                false => "Token",
            });
        Self {
            label,
            to,
            ..Self::empty(headers)
        }
    }

    fn answer(&self, status: StatusCode) -> Response {
        // The address of this page may have a token, which is nobody else's business.
        let referrer = [(REFERRER_POLICY, HeaderValue::from_static("no-referrer"))];
        (status, referrer, render(self)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_places_of_the_dashboard_only() {
        for place in ["/", "/queues/a%2Fb?state=ready&x=1", "/dead"] {
            assert_eq!(inside(place), place);
        }
        for place in [
            "",
            "dead",
            "//evil.example",
            "/\\evil.example",
            "/\t/evil.example",
            "https://evil.example",
            "javascript:alert(1)",
            "/login?token=x",
            "/logout",
        ] {
            assert_eq!(inside(place), "/", "{place}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_lets_in_once_and_for_an_hour() {
        let (login, token) = Login::new(None, 1);
        let token = token.unwrap_or_default();
        assert_eq!(token.len(), 43);
        assert!(!login.use_link("") && !login.use_link(&token.to_lowercase()));
        assert!(login.use_link(&token));
        assert!(!login.use_link(&token));

        let (login, token) = Login::new(None, 1);
        tokio::time::advance(LINK_LASTS).await;
        assert!(!login.use_link(&token.unwrap_or_default()));
    }
}
