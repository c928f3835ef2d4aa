//! The shop of the demo: its events, its handlers, some of which are slow or fail, and its customers.

use std::time::Duration;

use ezq::message::Retention;
use ezq::prelude::*;
use ezq::{CancellationToken, Result};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, sleep};

/// So many orders there are when the demo begins, so that the first look already shows something.
const ORDERS_AT_FIRST: u64 = 120;
/// An order comes so often.
const BETWEEN_ORDERS: Duration = Duration::from_millis(300);

#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.placed", queue = "orders")]
struct OrderPlaced {
    order: u64,
    customer: String,
    cents: u64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "payment.wanted", queue = "payments")]
struct PaymentWanted {
    order: u64,
    cents: u64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.paid", queue = "shipping")]
struct OrderPaid {
    order: u64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "report.wanted", queue = "reports")]
struct ReportWanted {
    region: String,
}

/// Quick, and never fails.
#[on_event(name = "reserve", queue = "orders")]
async fn reserve(event: OrderPlaced) -> PaymentWanted {
    PaymentWanted {
        order: event.order,
        cents: event.cents,
    }
}

/// Some cards have expired, and the bank does not always answer.
#[on_event(name = "charge", queue = "payments", retry(max_attempts = 4))]
async fn charge(
    event: PaymentWanted,
    context: Context,
    publisher: Publisher,
) -> std::result::Result<(), HandlerError> {
    if event.order % 40 == 3 {
        return Err(HandlerError::fatal("the card has expired"));
    }
    // Of these orders the third attempt gets an answer; of the others none does.
    let is_refused_at_first = event.order.is_multiple_of(9) && context.attempt() < 3;
    let is_refused_for_ever = event.order % 60 == 7;
    if is_refused_at_first || is_refused_for_ever {
        return Err("the bank gave no answer within 2 s".into());
    }

    publisher
        .broadcast(&OrderPaid { order: event.order })
        .await?;
    Ok(())
}

/// Of another part of the shop, which has a queue of its own and subscribes to what it needs.
#[on_event(name = "ship", queue = "shipping")]
async fn ship(_: OrderPaid) {
    sleep(Duration::from_millis(80)).await;
}

/// Slow: one report at a time.
#[on_event(name = "render", queue = "reports", concurrency = 1)]
async fn render(_: ReportWanted) {
    sleep(Duration::from_secs(8)).await;
}

#[on_schedule(every = "15s", name = "carts.sweep", queue = "orders")]
async fn sweep_carts(_: Tick) {}

/// The application of the shop.
pub(super) async fn application(url: &str) -> Result<Ezq> {
    let report = ReportWanted {
        region: "north".to_owned(),
    };
    let an_hour = Duration::from_secs(60 * 60);
    Ezq::builder()
        .database_url(url)
        .app("demo-shop")
        .queue("orders")
        .without_discovered_handlers()
        .handler::<reserve>()
        .handler::<charge>()
        .handler::<ship>()
        .handler::<render>()
        .handler::<sweep_carts>()
        .schedule("reports.sales", Schedule::every("20s"), &report)
        // So that there is something to replay, and what is old goes.
        .retention("orders", Retention::archive_for(an_hour))
        .connect()
        .await
}

/// What there is when the demo begins.
pub(super) async fn open(ezq: &Ezq) -> Result<()> {
    let orders: Vec<OrderPlaced> = (1..=ORDERS_AT_FIRST).map(order).collect();
    ezq.publish_all(&orders).await?;

    let regions = ["north", "east", "south", "west"].map(str::to_owned);
    let reports: Vec<ReportWanted> = regions.map(|region| ReportWanted { region }).into();
    ezq.publish_all(&reports).await?;
    Ok(())
}

/// Customers order until the demo stops.
pub(super) async fn customers(ezq: Ezq, stop: CancellationToken) {
    let mut next = interval(BETWEEN_ORDERS);
    next.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in ORDERS_AT_FIRST + 1.. {
        tokio::select! {
            _ = next.tick() => {}
            () = stop.cancelled() => return,
        }
        // A database that is away comes back, or the demo ends.
        if let Err(error) = ezq.publish(&order(number)).await {
            tracing::info!(%error, "an order of the demo is lost");
        }
    }
}

fn order(number: u64) -> OrderPlaced {
    let customer = match number % 4 {
        0 => "ada",
        1 => "grace",
        2 => "linus",
        _ => "margaret",
    };
    OrderPlaced {
        order: number,
        customer: customer.to_owned(),
        cents: 500 + number * 37 % 4_000,
    }
}
