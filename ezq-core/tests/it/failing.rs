//! An operator gives an event up: it moves to the dead letters, unless a worker has it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ezq_core::ErrorKind;
use ezq_core::admin::DeadLetterFilter;
use ezq_core::engine::{Engine, LeaseRequest};
use ezq_core::handler::{Backoff, Handler};
use ezq_core::message::{HandlerState, MessageId, ReasonKind};
use ezq_core::observe::NoticeKind;
use ezq_core::testing::TestApp;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
struct Paid {
    order: i64,
}

impl ezq_core::event::Event for Paid {
    const TYPE: &'static str = "paid";
}

type Runs = Arc<Mutex<Vec<&'static str>>>;

/// A handler that is done at once, and one that fails until it was tried twice.
fn handlers(runs: &Runs) -> [Handler; 2] {
    let one = Arc::clone(runs);
    let two = Arc::clone(runs);
    let book = Handler::on("book", move |_: Paid| {
        one.lock().unwrap().push("book");
        async {}
    });

    let mail = Handler::on("mail", move |_: Paid| {
        let mut runs = two.lock().unwrap();
        runs.push("mail");
        let is_first = runs.iter().filter(|name| **name == "mail").count() == 1;

        async move {
            if is_first {
                Err("no connection")
            } else {
                Ok(())
            }
        }
    });

    [
        book,
        mail.backoff(Backoff::constant(Duration::from_secs(3600))),
    ]
}

#[tokio::test(start_paused = true)]
async fn an_event_that_waits_for_a_retry_is_given_up_and_redriven_by_hand() {
    let runs = Runs::default();
    let [book, mail] = handlers(&runs);
    let app = TestApp::new(|app| app.register(book).register(mail)).unwrap();
    let paid = app.publish(&Paid { order: 7 }).await.unwrap();

    let handle = app.consumer().spawn();
    while app.stats(&paid.queue).await.unwrap().in_progress == 0 || runs.lock().unwrap().len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    handle.stop();
    handle.await.unwrap();

    let mut notices = app.notices();
    assert!(
        app.fail(&paid.queue, &paid.id, "a test order (Ada)")
            .await
            .unwrap()
    );

    let notice = notices.recv().await.unwrap();
    assert_eq!(notice.event_type.as_deref(), Some("paid"));

    let NoticeKind::DeadLettered { reason: told, .. } = &notice.kind else {
        panic!("{notice:?}")
    };
    assert_eq!(told.error, "a test order (Ada)");
    assert!(
        !app.fail(&paid.queue, &paid.id, "again").await.unwrap(),
        "it is gone"
    );

    let letters = app.dead_letters(&paid.queue).unwrap();
    let letter = letters
        .list(&DeadLetterFilter::all(), 10)
        .await
        .unwrap()
        .remove(0);

    let reason = letter.reason.clone().unwrap();
    assert_eq!((reason.kind, reason.attempts), (ReasonKind::Operator, 1));
    assert_eq!(reason.error, "a test order (Ada)");

    let marks = ezq_core::message::Progress::from_headers(&letter.headers);
    let book = marks.get(&"book".into()).unwrap();
    assert_eq!(book.state, HandlerState::Done);
    let mail = marks.get(&"mail".into()).unwrap();
    assert_eq!(mail.errors[0].error, "no connection");

    letters.redrive(&letter.id).await.unwrap();
    app.drain().await.unwrap();
    assert_eq!(
        *runs.lock().unwrap(),
        ["book", "mail", "mail"],
        "what was done stays done"
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_that_a_worker_has_is_left_to_it() {
    let app = TestApp::new(|app| app).unwrap();
    let paid = app.publish(&Paid { order: 7 }).await.unwrap();
    let unknown = MessageId::Number(paid.id.as_number().unwrap() + 1);
    assert!(!app.fail(&paid.queue, &unknown, "unknown").await.unwrap());

    let ttl = Duration::from_secs(10);
    let request = LeaseRequest::new(paid.queue.clone(), 1, ttl).keys(1);
    assert_eq!(
        app.engine().lease(request).await.unwrap().deliveries.len(),
        1
    );

    let error = app.fail(&paid.queue, &paid.id, "held").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LeaseLost);

    tokio::time::advance(ttl + Duration::from_millis(1)).await;
    assert!(
        app.fail(&paid.queue, &paid.id, "its worker crashed")
            .await
            .unwrap()
    );
}
