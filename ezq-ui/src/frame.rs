//! What every page has around its content: where it is mounted, who looks, and what it has to say.

use askama::Template;
use axum::extract::{FromRequestParts, OriginalUri, Request};
use axum::http::header::COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Redirect, Response};
use ezq::QueueName;

use crate::assets::ASSETS;
use crate::board::Board;
use crate::failure::Failure;
use crate::notes;
use crate::rights::Viewer;
use crate::sample::Sample;
use crate::text;
use crate::watched::Reading;

/// The screens: the path of each, and its name.
const SCREENS: [(&str, &str); 12] = [
    ("/", "Overview"),
    ("/queues", "Queues"),
    ("/dead", "Dead letters"),
    ("/schedules", "Schedules"),
    ("/consumers", "Consumers"),
    ("/subscriptions", "Subscriptions"),
    ("/catalogue", "Catalogue"),
    ("/replays", "Replays"),
    ("/captures", "Captures"),
    ("/operations", "Operations"),
    ("/audit", "Audit"),
    ("/health", "Health"),
];

/// Why nobody may act where the policy lets them.
const READER: &str = "the role of this dashboard may look at the database and change nothing";

/// The frame of a page, for one who may look. It is taken from the request, so a handler that renders a
/// page has checked the access.
pub(crate) struct Frame {
    pub(crate) prefix: String,
    /// The address of this page, as the browser knows it.
    pub(crate) here: String,
    pub(crate) theme: &'static str,
    pub(crate) title: String,
    /// The path of the screen that the navigation marks.
    pub(crate) screen: &'static str,
    pub(crate) may_act: bool,
    /// Why buttons are grey; empty if none is.
    pub(crate) refusal: &'static str,
    pub(crate) can_sign_out: bool,
    /// Why the figures are not new.
    pub(crate) banner: Option<String>,
    /// What the action before has done.
    pub(crate) note: Option<String>,
    /// Whether the content is fetched again every few seconds.
    pub(crate) is_live: bool,
    /// When the figures were read.
    pub(crate) read_at: Option<String>,
}

/// An extension of requests that belong to a session of the dashboard's own server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CanSignOut;

pub(crate) struct NavItem {
    pub(crate) href: String,
    pub(crate) name: &'static str,
    pub(crate) is_here: bool,
}

impl Frame {
    /// Gives the page its title and the screen that it belongs to.
    pub(crate) fn page(mut self, screen: &'static str, title: impl Into<String>) -> Self {
        self.title = title.into();
        self.screen = screen;
        self
    }

    /// Lets the content be fetched again every few seconds.
    pub(crate) fn live(mut self) -> Self {
        self.is_live = true;
        self
    }

    /// Says how old the figures are, and why.
    pub(crate) fn figures<T>(mut self, reading: &Reading<T>) -> Self {
        self.read_at = reading.at.map(text::time);
        if let Some(failure) = &reading.failure {
            self.banner = Some(failure.clone());
        }
        self
    }

    /// The same of a sample, of which a part may be old.
    pub(crate) fn sampled(self, reading: &Reading<Sample>) -> Self {
        let mut frame = self.figures(reading);
        let sample = reading.value.as_deref();
        if let Some(trouble) = sample.and_then(|sample| sample.trouble.as_ref())
            && frame.banner.is_none()
        {
            frame.banner = Some(trouble.clone());
        }
        frame
    }

    /// Makes buttons grey where the database lets nobody change the events of the queue.
    pub(crate) fn about(self, board: &Board, queue: &QueueName) -> Self {
        let reading = board.sample.glance();
        let found = reading
            .value
            .as_deref()
            .and_then(|sample| sample.queue(queue));
        let is_read_only = found.is_some_and(|found| found.summary.is_read_only);
        match is_read_only && self.may_act {
            true => self.refused(READER),
            false => self,
        }
    }

    fn refused(mut self, why: &'static str) -> Self {
        self.may_act = false;
        self.refusal = why;
        self
    }

    /// The address of a path inside the dashboard.
    pub(crate) fn to(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    pub(crate) fn nav(&self) -> Vec<NavItem> {
        let items = SCREENS.iter().map(|(path, name)| NavItem {
            href: self.to(path),
            name,
            is_here: *path == self.screen,
        });
        items.collect()
    }

    pub(crate) fn style(&self) -> String {
        self.to(&format!("/assets/{}", ASSETS.style.name))
    }

    pub(crate) fn htmx(&self) -> String {
        self.to(&format!("/assets/{}", ASSETS.htmx.name))
    }

    pub(crate) fn script(&self) -> String {
        self.to(&format!("/assets/{}", ASSETS.script.name))
    }

    fn of(parts: &Parts) -> Self {
        Self {
            prefix: prefix(parts),
            here: notes::without(address(parts)),
            theme: theme(&parts.headers),
            title: String::new(),
            screen: "",
            may_act: false,
            refusal: "",
            can_sign_out: parts.extensions.get::<CanSignOut>().is_some(),
            banner: None,
            note: parts.uri.query().and_then(notes::of_query),
            is_live: false,
            read_at: None,
        }
    }
}

impl FromRequestParts<Board> for Frame {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, board: &Board) -> Result<Self, Failure> {
        let viewer = Viewer::from_request_parts(parts, board).await?;
        let mut frame = Self::of(parts);
        if !viewer.may_act {
            return Ok(frame.refused("you may look and change nothing"));
        }
        frame.may_act = true;
        match board.is_read_only().await {
            true => Ok(frame.refused(READER)),
            false => Ok(frame),
        }
    }
}

/// Where the dashboard is mounted: what the browser's path has before the path that the router sees.
pub(crate) struct Prefix(pub(crate) String);

impl<S: Sync> FromRequestParts<S> for Prefix {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(prefix(parts)))
    }
}

impl Prefix {
    /// Sends the browser to a place inside the dashboard, by GET.
    pub(crate) fn redirect(&self, path: &str) -> Response {
        Redirect::to(&format!("{}{path}", self.0)).into_response()
    }
}

fn address(parts: &Parts) -> &Uri {
    let original = parts.extensions.get::<OriginalUri>();
    original.map_or(&parts.uri, |original| &original.0)
}

fn prefix(parts: &Parts) -> String {
    let whole = address(parts).path();
    let inner = parts.uri.path();
    // The root of a router that is nested under `/ops` has the address `/ops` and sees `/`.
    let prefix = whole
        .strip_suffix(inner)
        .or((inner == "/").then_some(whole));
    prefix.unwrap_or_default().trim_end_matches('/').to_owned()
}

/// What the switch of the theme has stored; empty if the browser's preference counts.
pub(crate) fn theme(headers: &HeaderMap) -> &'static str {
    let cookies = headers.get_all(COOKIE).iter();
    let mut cookies = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'));
    match cookies.find_map(|cookie| cookie.trim().strip_prefix("ezq_theme=")) {
        Some("dark") => "dark",
        Some("light") => "light",
        _ => "",
    }
}

#[derive(Template)]
#[template(path = "failure.html")]
struct FailurePage {
    frame: Frame,
    text: String,
    suggestion: Option<(String, String)>,
}

/// Renders a page.
pub(crate) fn render(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            // Templates are compiled, so this is a bug, and whoever sees it can tell of it.
            let text = format!("The page could not be rendered: {error}");
            (axum::http::StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

/// Turns failures into pages.
pub(crate) async fn show_failures(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let mut frame = Frame::of(&parts);
    let mut response = next.run(Request::from_parts(parts, body)).await;
    // Other answers, of assets and redirects too, go out as they are.
    let Some(failure) = response.extensions_mut().remove::<Failure>() else {
        return response;
    };

    // In words of the reader's, not of HTTP.
    frame.title = match failure.status.as_u16() {
        403 => "Not allowed",
        404 => "Not found",
        400 | 409 | 501 => "That does not work",
        _ => "No answer from the database",
    }
    .to_owned();
    let suggestion = failure
        .suggestion
        .map(|(name, path)| (name, frame.to(&path)));
    let page = FailurePage {
        frame,
        text: failure.text,
        suggestion,
    };
    (failure.status, render(&page)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix_of(whole: &str, inner: &str) -> String {
        let mut request = Request::new(());
        *request.uri_mut() = inner.parse::<Uri>().unwrap_or_default();
        let whole = OriginalUri(whole.parse().unwrap_or_default());
        request.extensions_mut().insert(whole);
        prefix(&request.into_parts().0)
    }

    #[test]
    fn the_prefix_is_what_the_router_does_not_see() {
        assert_eq!(prefix_of("/ops/queues/a", "/queues/a"), "/ops");
        assert_eq!(prefix_of("/ops", "/"), "/ops");
        assert_eq!(prefix_of("/ops/", "/"), "/ops");
        assert_eq!(prefix_of("/queues", "/queues"), "");
        assert_eq!(prefix_of("/", "/"), "");
        assert_eq!(prefix_of("/a/b/queues?x=1", "/queues?x=1"), "/a/b");
    }

    #[test]
    fn only_the_two_themes_are_taken_from_a_cookie() {
        let theme_of = |cookie: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(COOKIE, axum::http::HeaderValue::from_static(cookie));
            theme(&headers)
        };
        assert_eq!(theme_of("a=b; ezq_theme=dark"), "dark");
        assert_eq!(theme_of("ezq_theme=\"><script>"), "");
    }
}
