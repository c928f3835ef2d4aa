//! The spans as a collector gets them: a real server of OTLP, in this process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::app::App;
use ezq_core::event::Event;
use ezq_core::handler::{Backoff, Batch, Handler, HandlerError};
use ezq_core::memory::MemoryEngine;
use ezq_otel::Otel;
use opentelemetry::baggage::BaggageExt;
use opentelemetry::trace::{FutureExt, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status};

#[derive(Serialize, Deserialize)]
struct Placed {
    order: u32,
}

impl Event for Placed {
    const TYPE: &'static str = "placed";
}

#[derive(Serialize, Deserialize)]
struct Charged {}

impl Event for Charged {
    const TYPE: &'static str = "charged";
    const QUEUE: Option<&'static str> = Some("charges");
}

/// A collector, which keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        self.0
            .lock()
            .unwrap()
            .extend(scopes.flat_map(|scope| scope.spans));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// An application whose spans go to a collector.
struct Traced {
    collector: Collector,
    provider: SdkTracerProvider,
    app: App,
}

impl Traced {
    async fn with(handlers: impl IntoIterator<Item = Handler>) -> Self {
        let collector = Collector::default();
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = listener.await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener));
        tokio::spawn(server);

        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(format!("http://{address}"))
            .build()
            .unwrap();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .build();

        let mut builder = App::builder()
            .without_discovered_handlers()
            .queue("orders")
            .configure(|config| config.retry.backoff = Backoff::constant(Duration::ZERO))
            .tracer(Otel::of(&provider));
        for handler in handlers {
            builder = builder.register(handler);
        }
        let app = builder.build(MemoryEngine::new()).unwrap();
        Self {
            collector,
            provider,
            app,
        }
    }

    /// Handles what is there, and returns what the collector got.
    async fn spans(&self) -> Spans {
        for queue in ["orders", "charges"] {
            self.app
                .consumer()
                .queue(queue)
                .until_idle()
                .run()
                .await
                .unwrap();
        }
        let provider = self.provider.clone();
        // It blocks until everything is exported.
        tokio::task::spawn_blocking(move || provider.force_flush())
            .await
            .unwrap()
            .unwrap();
        Spans(self.collector.0.lock().unwrap().clone())
    }
}

struct Spans(Vec<Span>);

impl Spans {
    fn named(&self, name: &str) -> Vec<&Span> {
        let mut found: Vec<&Span> = self.0.iter().filter(|span| span.name == name).collect();
        found.sort_by_key(|span| span.start_time_unix_nano);
        found
    }

    fn one(&self, name: &str) -> &Span {
        let found = self.named(name);
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found[0]
    }
}

fn attributes(span: &Span) -> BTreeMap<&str, String> {
    let pairs = span.attributes.iter().map(|pair| {
        let value = match pair.value.as_ref().unwrap().value.as_ref().unwrap() {
            Value::StringValue(text) => text.clone(),
            Value::IntValue(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        (pair.key.as_str(), value)
    });
    pairs.collect()
}

fn is_child(child: &Span, parent: &Span) -> bool {
    child.trace_id == parent.trace_id && child.parent_span_id == parent.span_id
}

fn links_to(span: &Span, other: &Span) -> bool {
    let mut links = span.links.iter();
    links.any(|link| link.trace_id == other.trace_id && link.span_id == other.span_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_leads_from_the_publisher_to_the_handler_and_what_it_returns() {
    async fn charge(_: Placed) -> Charged {
        Charged {}
    }
    async fn book(_: Charged) {}
    let traced = Traced::with([
        Handler::on("charge", charge),
        Handler::on("book", book).queue("charges"),
    ])
    .await;

    let tracer = traced.provider.tracer("test");
    let request = Context::new().with_span(tracer.start_with_context("request", &Context::new()));
    let publish = traced
        .app
        .publish(&Placed { order: 1 })
        .correlation_id("flow-7");
    publish
        .into_future()
        .with_context(request.clone())
        .await
        .unwrap();
    request.span().end();
    let spans = traced.spans().await;

    let publish = spans.one("publish orders");
    assert!(is_child(publish, spans.one("request")));
    assert_eq!(publish.kind(), SpanKind::Producer);
    let said = attributes(publish);
    assert_eq!(said["messaging.system"], "ezq");
    assert_eq!(said["messaging.operation.name"], "publish");
    assert_eq!(said["messaging.operation.type"], "send");
    assert_eq!(said["messaging.destination.name"], "orders");
    assert_eq!(said["messaging.message.id"], "1");

    let receive = spans.one("receive orders");
    assert_eq!(receive.kind(), SpanKind::Client);
    assert!(receive.parent_span_id.is_empty() && links_to(receive, publish));
    assert_eq!(attributes(receive)["messaging.batch.message_count"], "1");

    let process = spans.one("process orders");
    assert_eq!(process.kind(), SpanKind::Consumer);
    assert!(is_child(process, publish));
    let said = attributes(process);
    assert_eq!(said["messaging.operation.type"], "process");
    assert_eq!(said["messaging.message.conversation_id"], "flow-7");
    assert_eq!(said["ezq.handler"], "charge");
    assert_eq!(said["ezq.attempt"], "1");
    assert_eq!(said["cloudevents.event_type"], "placed");

    // What the handler returned goes on where the handler was.
    assert!(is_child(spans.one("process charges"), process));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_a_new_root_with_a_link_and_a_failure_is_an_error() {
    async fn fails_once(
        _: Placed,
        context: ezq_core::handler::Context,
    ) -> Result<(), HandlerError> {
        if context.attempt() == 1 {
            return Err(HandlerError::retry("not yet"));
        }
        Ok(())
    }
    let traced = Traced::with([Handler::on("fails_once", fails_once)]).await;
    traced.app.publish(&Placed { order: 1 }).await.unwrap();
    let spans = traced.spans().await;

    let publish = spans.one("publish orders");
    let runs = spans.named("process orders");
    let [first, second] = runs[..] else {
        panic!("{runs:?}")
    };
    assert!(is_child(first, publish));
    let status = first.status.as_ref().unwrap();
    assert_eq!(
        (status.code(), status.message.as_str()),
        (StatusCode::Error, "not yet")
    );
    assert_eq!(attributes(first)["error.type"], "retry");

    assert!(second.parent_span_id.is_empty() && second.trace_id != publish.trace_id);
    assert!(links_to(second, publish));
    assert_eq!(attributes(second)["ezq.attempt"], "2");
    assert_ne!(
        second.status.as_ref().map(|status| status.code()),
        Some(StatusCode::Error)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_a_root_with_a_link_to_each_of_its_events() {
    async fn all(events: Batch<Placed>) {
        drop(events);
    }
    let handler = Handler::on_batch("all", all).batch_wait(Duration::from_millis(200));
    let traced = Traced::with([handler]).await;
    for order in 0..2 {
        traced.app.publish(&Placed { order }).await.unwrap();
    }
    traced
        .app
        .publish_all(&[Placed { order: 2 }, Placed { order: 3 }])
        .await
        .unwrap();
    let spans = traced.spans().await;

    let process = spans.one("process orders");
    assert!(process.parent_span_id.is_empty());
    assert_eq!(attributes(process)["messaging.batch.message_count"], "4");
    let publishers = spans.named("publish orders");
    // One call has one span, whatever it publishes.
    assert_eq!(publishers.len(), 3);
    assert!(publishers.iter().all(|publish| links_to(process, publish)));
    assert_eq!(
        attributes(publishers[2])["messaging.batch.message_count"],
        "2"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn baggage_goes_along_and_a_context_of_the_publishers_own_is_kept() {
    let seen: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let keep = Arc::clone(&seen);
    let handler = Handler::on(
        "reads",
        move |_: Placed, context: ezq_core::handler::Context| {
            let tenant = Context::current()
                .baggage()
                .get("tenant")
                .map(ToString::to_string);
            keep.lock().unwrap().push(tenant);
            let result = if context.attempt() == 1 {
                Err("once more")
            } else {
                Ok(())
            };
            std::future::ready(result)
        },
    );
    let traced = Traced::with([handler]).await;

    let context = Context::new().with_baggage([KeyValue::new("tenant", "acme")]);
    let publish = traced.app.publish(&Placed { order: 1 });
    publish.into_future().with_context(context).await.unwrap();
    traced.spans().await;
    assert_eq!(
        *seen.lock().unwrap(),
        [Some("acme".to_owned()), Some("acme".to_owned())]
    );

    let own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let publish = traced
        .app
        .publish(&Placed { order: 2 })
        .header("traceparent", own)
        .header("tracestate", "vendor=7");
    publish.await.unwrap();
    let spans = traced.spans().await;
    let foreign: Vec<u8> = (0..16)
        .map(|at| u8::from_str_radix(&own[3 + 2 * at..5 + 2 * at], 16).unwrap())
        .collect();
    let runs = spans.named("process orders");
    assert!(
        runs.iter()
            .any(|span| span.trace_id == foreign && !span.parent_span_id.is_empty())
    );
    let states = runs.iter().filter(|span| span.trace_id == foreign);
    assert!(
        states.clone().count() > 0 && states.clone().all(|span| span.trace_state == "vendor=7")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cut_off_ends_its_span_as_an_error() {
    async fn slow(_: Placed) {
        std::future::pending::<()>().await;
    }
    let handler = Handler::on("slow", slow)
        .timeout(Some(Duration::from_millis(50)))
        .max_attempts(1);
    let traced = Traced::with([handler]).await;
    traced.app.publish(&Placed { order: 1 }).await.unwrap();
    let spans = traced.spans().await;
    assert_eq!(
        attributes(spans.one("process orders"))["error.type"],
        "cut_off"
    );
}
