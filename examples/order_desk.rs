//! An order desk. It places an order and publishes its event in one transaction. Three queues carry
//! the order on: it is booked, charged at a bank that often does not answer, and confirmed by mail.
//! Orders that fail end in the dead letters, where they are read, corrected and redriven.
//!
//! ```sh
//! cargo run --example order_desk
//! ```

use ezq::admin::{DeadLetterFilter, EventStatus};
use ezq::consumer::ReportOfAll;
use ezq::handler::FailedAttempt;
use ezq::message::{ReasonKind, Retention};
use ezq::observe::{NoticeKind, NoticeStream};
use ezq::prelude::*;
use ezq::sqlx::{self, PgPool};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// An order was placed. The orders of one customer are handled in their order.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "order.placed", queue = "desk-orders", key = "customer")]
struct OrderPlaced {
    order: i64,
    customer: String,
    item: String,
}

/// An order is booked, and is to be charged.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "charge.due", queue = "desk-payments", key = "customer")]
struct ChargeDue {
    order: i64,
    customer: String,
    cents: i64,
}

/// An order is paid, and its customer is to be told.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "mail.due", queue = "desk-mail", key = "customer")]
struct MailDue {
    order: i64,
    customer: String,
}

/// Places an order: its row and its event are stored together, or neither is.
async fn place(ezq: &Ezq, order: i64, customer: &str, item: &str) -> Result<(), Box<dyn Error>> {
    let placed = OrderPlaced {
        order,
        customer: customer.to_owned(),
        item: item.to_owned(),
    };

    let mut tx = ezq.pool().begin().await?;
    sqlx::query("insert into order_desk_example.orders (id, customer, item) values ($1, $2, $3)")
        .bind(order)
        .bind(customer)
        .bind(item)
        .execute(&mut *tx)
        .await?;
    let published = ezq.publish(&placed).within(&mut tx).await?;
    tx.commit().await?;

    ezq.confirm(&published); // wakes the consumer at once
    Ok(())
}

#[on_event]
async fn book(event: OrderPlaced, mut tx: Tx) -> Result<ChargeDue, HandlerError> {
    let take =
        "update order_desk_example.stock set pieces = pieces - 1 where item = $1 returning cents";
    let cents: Option<i64> = sqlx::query_scalar(take)
        .bind(&event.item)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(cents) = cents else {
        // No retry helps: someone has to look at this order.
        return Err(HandlerError::fatal(format!("there is no {}", event.item)));
    };

    sqlx::query("update order_desk_example.orders set state = 'booked' where id = $1")
        .bind(event.order)
        .execute(&mut *tx)
        .await?;
    Ok(ChargeDue {
        order: event.order,
        customer: event.customer,
        cents,
    })
}

/// A payment is an effect outside of the database. So the bank gets the event's id with each call: if
/// a call is repeated, it charges the card once.
#[on_event(retry(max_attempts = 4, backoff = patience), timeout = "5s")]
async fn charge(
    event: ChargeDue,
    mut tx: Tx,
    context: Context,
    State(bank): State<Arc<Bank>>,
) -> Result<MailDue, BankError> {
    let card: String =
        sqlx::query_scalar("select card from order_desk_example.customers where name = $1")
            .bind(&event.customer)
            .fetch_one(&mut *tx)
            .await?;
    bank.charge(context.event_id(), &card, event.cents)?;

    sqlx::query("update order_desk_example.orders set state = 'paid' where id = $1")
        .bind(event.order)
        .execute(&mut *tx)
        .await?;
    Ok(MailDue {
        order: event.order,
        customer: event.customer,
    })
}

/// The pause after a failed payment: short while the bank is only busy.
fn patience(failed: &FailedAttempt<'_>) -> Duration {
    let is_busy = failed.error.source().is::<BankIsBusy>();
    let unit = if is_busy { 100 } else { 500 };
    Duration::from_millis(unit * u64::from(failed.number))
}

#[on_event]
async fn mail(event: MailDue, mut tx: Tx) -> sqlx::Result<()> {
    println!("to {}: your order {} is paid", event.customer, event.order);
    sqlx::query("insert into order_desk_example.mails (customer, order_id) values ($1, $2)")
        .bind(event.customer)
        .bind(event.order)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// A bank that is busy when it first hears of a payment, and when it hears of it again.
#[derive(Default)]
struct Bank {
    calls: Mutex<BTreeMap<String, u32>>,
    charged: Mutex<BTreeMap<String, i64>>,
}

impl Bank {
    fn charge(&self, payment: &str, card: &str, cents: i64) -> Result<(), BankError> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let call = calls.entry(payment.to_owned()).or_default();
        *call += 1;
        if *call <= 2 {
            return Err(BankError::Busy);
        }
        if card == "expired" {
            return Err(BankError::CardExpired);
        }

        let mut charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        charged.insert(payment.to_owned(), cents);
        Ok(())
    }

    fn income(&self) -> i64 {
        let charged = self.charged.lock().unwrap_or_else(PoisonError::into_inner);
        charged.values().sum()
    }
}

/// The bank asks for patience. It is an error of its own, so that the backoff can tell it from others.
#[derive(Debug)]
struct BankIsBusy;

impl fmt::Display for BankIsBusy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bank is busy")
    }
}

impl Error for BankIsBusy {}

enum BankError {
    Busy,
    CardExpired,
    Database(sqlx::Error),
}

impl From<sqlx::Error> for BankError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// What each error means for the event.
impl From<BankError> for HandlerError {
    fn from(error: BankError) -> Self {
        match error {
            BankError::Busy => HandlerError::retry(BankIsBusy),
            BankError::CardExpired => HandlerError::fatal("the card has expired"),
            BankError::Database(error) => HandlerError::retry(error),
        }
    }
}

async fn open(pool: &PgPool) -> sqlx::Result<()> {
    let tables = "
        drop schema if exists order_desk_example cascade;
        create schema order_desk_example;
        create table order_desk_example.orders (
            id bigint primary key, customer text, item text, state text default 'placed'
        );
        create table order_desk_example.stock (item text primary key, pieces bigint, cents bigint);
        create table order_desk_example.customers (name text primary key, card text);
        create table order_desk_example.mails (sent bigserial, customer text, order_id bigint);
        insert into order_desk_example.stock values ('lamp', 9, 4000), ('chair', 9, 7000);
        insert into order_desk_example.customers values
            ('ada', 'valid'), ('bob', 'valid'), ('cora', 'expired')";
    sqlx::raw_sql(tables).execute(pool).await?;
    Ok(())
}

/// Waits until as many mails are sent and as many events are dead letters.
async fn settled(mut notices: NoticeStream, mut mails: u32, mut letters: u32) {
    while mails > 0 || letters > 0 {
        let Some(notice) = notices.recv().await else {
            return;
        };
        match notice.kind {
            NoticeKind::Handled { .. } if notice.queue.as_str() == "desk-mail" => {
                mails = mails.saturating_sub(1);
            }
            NoticeKind::DeadLettered { .. } => letters = letters.saturating_sub(1),
            _ => {}
        }
    }
}

/// Reads the dead letters, corrects what is wrong, and has them handled once more. Returns the id of
/// the payment that was corrected.
async fn mend(ezq: &Ezq) -> Result<String, Box<dyn Error>> {
    // Nothing is wrong with this event, but with the card: a new card, and it may run again.
    let payments = ezq.dead_letters("desk-payments")?;
    let letters = payments.list(&DeadLetterFilter::all(), 10).await?;
    let [letter] = letters.as_slice() else {
        return Err(format!("one payment should have failed, not {}", letters.len()).into());
    };
    let due: ChargeDue = letter.event()?;
    let reason = letter.reason.as_ref().ok_or("a letter without a reason")?;
    println!("order {} died: {}", due.order, reason.error);
    assert_eq!(reason.kind, ReasonKind::Fatal);
    assert_eq!(reason.error, "the card has expired");
    assert_eq!(reason.attempts, 3);

    sqlx::query("update order_desk_example.customers set card = 'valid' where name = $1")
        .bind(&due.customer)
        .execute(ezq.pool())
        .await?;
    let moved = payments.redrive(&letter.id).await?;
    assert_eq!(moved.len(), 1);

    // Here the event itself is wrong. A corrected one is published, and the letter is discarded. The
    // dedupe key lets this be repeated if it is cut off between the two.
    let orders = ezq.dead_letters("desk-orders")?;
    for letter in orders.list(&DeadLetterFilter::all(), 10).await? {
        let wrong: OrderPlaced = letter.event()?;
        println!("order {} asks for a {}", wrong.order, wrong.item);
        let corrected = OrderPlaced {
            item: "lamp".to_owned(),
            ..wrong
        };
        let id = letter.event_id().ok_or("a letter without an event id")?;
        let key = format!("correction of {id}");
        ezq.publish(&corrected).dedupe_key(key).await?;
        orders.discard(&letter.id).await?;
    }

    Ok(letter.event_id().ok_or("a letter without an event id")?)
}

/// Runs one consumer for each of the three queues, until all is settled, or until one of them fails.
async fn run(ezq: &Ezq, settled: impl Future<Output = ()>) -> ezq::Result<ReportOfAll> {
    let mut consumers = ezq.consumer().spawn_all()?;
    tokio::select! {
        report = &mut consumers => report,
        () = settled => {
            consumers.stop(); // what runs may finish
            consumers.wait().await
        }
    }
}

async fn check(ezq: &Ezq, bank: &Bank) -> sqlx::Result<()> {
    let paid: i64 =
        sqlx::query_scalar("select count(*) from order_desk_example.orders where state = 'paid'")
            .fetch_one(ezq.pool())
            .await?;
    assert_eq!(paid, 5);
    assert_eq!(bank.income(), 3 * 4000 + 2 * 7000);

    let mailed =
        "select order_id from order_desk_example.mails where customer = 'ada' order by sent";
    let of_ada: Vec<i64> = sqlx::query_scalar(mailed).fetch_all(ezq.pool()).await?;
    assert_eq!(
        of_ada,
        [1, 2, 5],
        "the orders of one customer keep their order"
    );
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bank = Arc::new(Bank::default());
    let ezq = Ezq::builder()
        .app("order-desk")
        .state(bank.clone())
        .retention("desk-payments", Retention::ARCHIVE)
        .connect()
        .await?;
    open(ezq.pool()).await?;

    let done = settled(ezq.notices(), 3, 2);
    place(&ezq, 1, "ada", "lamp").await?;
    place(&ezq, 2, "ada", "chair").await?;
    place(&ezq, 3, "bob", "lmap").await?; // there is no such thing
    place(&ezq, 4, "cora", "chair").await?; // her card has expired
    place(&ezq, 5, "ada", "lamp").await?;

    let report = run(&ezq, done).await?;
    println!("{report}");
    assert_eq!(report.queues.len(), 3);
    assert_eq!(report.counts.dead_lettered, 2);
    // The bank was busy twice for each of the four payments.
    assert_eq!(report.counts.retried, 8);

    let done = settled(ezq.notices(), 2, 0);
    let payment = mend(&ezq).await?;
    println!("{}", run(&ezq, done).await?);
    check(&ezq, &bank).await?;

    let history = ezq.history(payment).await?;
    println!("{history}");
    assert_eq!(history.status(), Some(EventStatus::Handled));
    ezq.close().await;
    Ok(())
}
