//! Three applications whose processes broadcast to each other.

use ezq::prelude::*;
use ezq::{Envelope, EzqBuilder, Handler};
use serde::{Deserialize, Serialize};

use crate::child::{Process, Role, Words, say};

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "order.created", key = "order")]
pub(super) struct OrderCreated {
    pub(super) order: i64,
    pub(super) total: i64,
}

/// Another application's view of the same event: it needs less of it.
#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "order.created")]
struct Ordered {
    order: i64,
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "order.paid", alias = "OrderPaid")]
pub(super) struct OrderPaid {
    pub(super) order: i64,
}

#[derive(Debug, Event, Serialize, Deserialize)]
#[event(type = "user.created")]
pub(super) struct UserCreated {
    pub(super) user: i64,
}

/// A process that belongs to one application.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Member {
    app: String,
    /// Subscribes and ends, or goes on to handle.
    stays: bool,
}

pub(super) fn builder(url: &str, app: &str) -> EzqBuilder {
    Ezq::builder()
        .database_url(url)
        .without_discovered_handlers()
        .app(app)
}

/// The three applications: their queues and handlers.
pub(super) fn parts(builder: EzqBuilder, app: &str) -> (EzqBuilder, Vec<&'static str>) {
    match app {
        "shop" => {
            let created = Handler::on("created", |_: OrderCreated| async {});
            let paid = Handler::on("paid", |event: OrderPaid, context: Context| async move {
                say(&format!(
                    "paid {} from {}",
                    event.order,
                    context.envelope().source()
                ));
            });
            (builder.register(created).register(paid), vec!["shop"])
        }
        "mail" => {
            let confirm = |event: Ordered, publisher: Publisher| async move {
                say(&format!("confirmed {}", event.order));
                // A type of the shop's, which this application does not have.
                let paid = Envelope::builder("order.paid", "mail")
                    .json(&format!(r#"{{"order":{}}}"#, event.order))?
                    .build()?;
                let sent = publisher.broadcast_envelope(paid).await?;
                assert_eq!(sent.copies.len(), 1, "{sent:?}");
                Ok::<_, HandlerError>(())
            };

            let welcome = Handler::on("welcome", |_: UserCreated| async {}).queue("welcome");
            let builder = builder
                .register(Handler::on("confirm", confirm))
                .register(welcome);
            (builder, vec!["mail", "welcome"])
        }
        _ => (
            builder.register(Handler::on("audit", |_: AnyEvent| async {})),
            vec!["audit"],
        ),
    }
}

pub(crate) async fn take_part(member: Member, words: Words) {
    let url = std::env::var("DATABASE_URL").unwrap();
    let (builder, queues) = parts(builder(&url, &member.app), &member.app);
    say("up");
    words.wait().await;
    let ezq = builder.connect().await.unwrap();

    for queue in &queues {
        ezq.consumer()
            .queue(*queue)
            .subscribe()
            .until_idle()
            .run()
            .await
            .unwrap();
    }

    say("subscribed");
    if member.stays {
        let handle = ezq.consumer().queue(queues[0]).stop_on_signals().spawn();
        say(&format!("report {}", handle.await.unwrap()));
    }
}

pub(super) fn member(url: &str, app: &str, stays: bool) -> Process {
    Process::start(
        url,
        &Role::Member(Member {
            app: app.to_owned(),
            stays,
        }),
    )
}
