//! Requests to a dashboard, and the events that it shows.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use ezq::handler::Handler;
use ezq::message::Retention;
use ezq::testing::{TestDatabase, TestEzq};
use ezq::{AnyEvent, Envelope, Ezq, HandlerError};
use ezq_ui::{Access, Dashboard};
use tower::ServiceExt as _;

/// What a request was answered with.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

pub(crate) fn operators() -> Access {
    Access::actions(|_| Some("ada".to_owned()))
}

/// A dashboard under a prefix.
pub(crate) fn mounted(ezq: &Ezq, access: Access) -> Router {
    let dashboard = Dashboard::new(ezq.clone(), access);
    Router::new().nest("/ops", dashboard.router())
}

pub(crate) async fn get(router: &Router, path: &str) -> Answer {
    send(router, Request::get(path).body(Body::empty()).unwrap()).await
}

/// Sends a form as a page of the dashboard does.
pub(crate) async fn post(router: &Router, path: &str, form: &str) -> Answer {
    let request = Request::post(path)
        .header("sec-fetch-site", "same-origin")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()));
    send(router, request.unwrap()).await
}

pub(crate) async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        status: parts.status,
        headers: parts.headers,
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

pub(crate) async fn application(database: &TestDatabase) -> Ezq {
    let builder = database.builder().without_discovered_handlers();
    builder.connect().await.unwrap()
}

/// Publishes an event with this data.
pub(crate) async fn publish(ezq: &Ezq, queue: &str, event_type: &str, data: &str) -> String {
    let event = Envelope::builder(event_type, "/shop").json(data).unwrap();
    let event = event.build().unwrap();
    let id = event.id().to_owned();
    ezq.publish_envelope(event).queue(queue).await.unwrap();
    id
}

/// Makes so many dead letters of the queue `orders`, all with this data.
pub(crate) async fn bury(database: &TestDatabase, count: usize, data: &str) {
    let app: TestEzq = database
        .app(|app| {
            app.queue("orders")
                .retention("orders", Retention::Delete)
                .register(Handler::on("mail", refuse))
        })
        .await
        .unwrap();
    for _ in 0..count {
        publish(&app, "orders", "order.paid", data).await;
    }
    app.drain_queue("orders").await.unwrap();
    app.close().await;
}

async fn refuse(_: AnyEvent) -> Result<(), HandlerError> {
    Err(HandlerError::fatal("no such <account> of 100% 'ada'"))
}

/// How many dead letters the queue `orders` has.
pub(crate) async fn dead(ezq: &Ezq) -> u64 {
    ezq.queues().get("orders").await.unwrap().dead.value
}
