//! What the test kit's `drain` says of events that nobody takes.

use ezq_core::ErrorKind;
use ezq_core::config::{Config, UnknownTypes};
use ezq_core::event::Event;
use ezq_core::handler::Handler;
use ezq_core::message::QueueName;
use ezq_core::testing::TestApp;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Paid {}

impl Event for Paid {
    const TYPE: &'static str = "order.paid";
}

#[derive(Serialize, Deserialize)]
struct Sent {}

impl Event for Sent {
    const TYPE: &'static str = "order.sent";
}

fn pay() -> Handler {
    Handler::on("pay", |_: Paid| async { Sent {} })
}

#[tokio::test(start_paused = true)]
async fn an_event_that_nobody_takes_is_an_error_of_drain() {
    for unknown in [UnknownTypes::default(), UnknownTypes::DeadLetter] {
        let configure = |config: &mut Config| config.unknown_types = unknown;
        let app = TestApp::new(|app| app.register(pay()).configure(configure)).unwrap();
        app.publish(&Sent {}).await.unwrap();
        app.publish(&Paid {}).await.unwrap();

        let error = app.drain().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoHandler);
        assert!(
            error
                .to_string()
                .contains("no handler here takes `order.sent`"),
            "{error}"
        );

        // The others were handled nevertheless.
        assert_eq!(app.published::<Sent>().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn drain_tells_of_its_own_queue_and_where_the_handler_is() {
    let [mail, shop] = ["mail", "shop"].map(|name| QueueName::new(name).unwrap());
    let app = TestApp::new(|app| {
        app.register(pay().queue("payments"))
            .configure(|config| config.unknown_types = UnknownTypes::DeadLetter)
    })
    .unwrap();
    app.publish(&Paid {}).queue(&mail).await.unwrap();
    app.publish(&Sent {}).queue(&shop).await.unwrap();

    let error = app.drain_queue(&mail).await.unwrap_err().to_string();
    assert!(
        error.contains("`order.paid`") && error.contains("payments"),
        "{error}"
    );
    assert!(!error.contains("order.sent"), "{error}");

    // What was told is not told again.
    app.drain_queue(&mail).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_returned_may_be_for_others_and_what_is_skipped_is_no_error() {
    let app = TestApp::new(|app| app.register(pay())).unwrap();
    app.publish(&Paid {}).await.unwrap();
    app.drain().await.unwrap();
    let Sent {} = app.assert_published::<Sent>();

    let skip = |config: &mut Config| config.unknown_types = UnknownTypes::Skip;
    let app = TestApp::new(|app| app.configure(skip)).unwrap();
    app.publish(&Sent {}).await.unwrap();
    app.drain().await.unwrap();
}
