//! A library of handlers for other applications, an application that takes it beside handlers of its
//! own, and the tests of both. In real life the module `billing` is a crate.
//!
//! ```sh
//! cargo run --example billing_library
//! cargo test --example billing_library
//! ```

use billing::{Invoiced, Meter, Usage};
use ezq::prelude::*;
use ezq::sqlx;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error;

/// The library: invoices for what customers use.
pub mod billing {
    use ezq::handler::{Backoff, Call, Extract, HandlerResult, Layer, Next, Provided};
    use ezq::prelude::*;
    use ezq::{Handler, Module, sqlx};
    use serde::{Deserialize, Serialize};
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// The queue from which the library's handlers take their events.
    pub const QUEUE: &str = "billing";

    /// The table that the library writes. An application creates it where it creates its own.
    pub const TABLES: &str = "
        create schema billing_example;
        create table billing_example.invoices (
            event_id text primary key, account text, cents bigint
        )";

    /// An account used something. Its name is in the header `account`.
    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "billing.usage", queue = "billing")]
    pub struct Usage {
        /// How much.
        pub units: i64,
    }

    /// An invoice was written. It goes to the queue of the application.
    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "billing.invoiced")]
    pub struct Invoiced {
        /// Whose.
        pub account: String,
        /// The sum.
        pub cents: i64,
    }

    /// An invoice was not paid in time.
    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "billing.overdue", queue = "billing")]
    pub struct Overdue {
        /// For how long.
        pub days: u32,
    }

    /// A customer is reminded of an invoice.
    #[derive(Event, Serialize, Deserialize)]
    #[event(type = "billing.reminder")]
    pub struct Reminder {
        /// Whose.
        pub account: String,
        /// Whether no other follows.
        pub is_last: bool,
    }

    /// The price of a unit, in cents, for each account.
    #[derive(Clone)]
    struct Prices(Arc<BTreeMap<String, i64>>);

    /// An extractor: the account that an event belongs to.
    #[derive(Clone)]
    pub struct Account {
        /// Its name.
        pub name: String,
        /// The price of a unit, in cents.
        pub price: i64,
    }

    impl Extract for Account {
        async fn extract(call: &Call) -> Result<Self, HandlerError> {
            let Some(name) = call.context().headers().text("account") else {
                return Err(HandlerError::fatal("the event has no header `account`"));
            };
            let State(prices) = State::<Prices>::extract(call).await?;
            let Some(price) = prices.0.get(name) else {
                return Err(HandlerError::fatal(format!("there is no account `{name}`")));
            };

            Ok(Self {
                name: name.to_owned(),
                price: *price,
            })
        }

        /// So an application without prices is refused at start.
        fn check(provided: &Provided<'_>) -> ezq::Result<()> {
            State::<Prices>::check(provided)
        }
    }

    /// What keeps the library from handling an event.
    #[derive(Debug)]
    pub enum BillingError {
        /// An account cannot use less than nothing.
        Negative(i64),
        /// A statement failed.
        Database(sqlx::Error),
    }

    impl From<sqlx::Error> for BillingError {
        fn from(error: sqlx::Error) -> Self {
            Self::Database(error)
        }
    }

    impl From<BillingError> for HandlerError {
        fn from(error: BillingError) -> Self {
            match error {
                BillingError::Negative(units) => HandlerError::fatal(format!("{units} units")),
                BillingError::Database(error) => HandlerError::retry(error),
            }
        }
    }

    /// A layer: counts the runs of the library's handlers, and those that failed.
    #[derive(Clone, Default)]
    pub struct Meter(Arc<(AtomicU64, AtomicU64)>);

    impl Meter {
        /// How many runs there were.
        pub fn runs(&self) -> u64 {
            self.0.0.load(Ordering::Relaxed)
        }

        /// How many of them failed.
        pub fn failures(&self) -> u64 {
            self.0.1.load(Ordering::Relaxed)
        }
    }

    impl Layer for Meter {
        async fn run(&self, call: Call, next: Next) -> HandlerResult {
            let result = next.run(call).await;
            self.0.0.fetch_add(1, Ordering::Relaxed);
            if result.is_err() {
                self.0.1.fetch_add(1, Ordering::Relaxed);
            }
            result
        }
    }

    pub(super) async fn invoice(
        event: Usage,
        account: Account,
        context: Context,
        mut tx: Tx,
    ) -> Result<Invoiced, BillingError> {
        if event.units < 0 {
            return Err(BillingError::Negative(event.units));
        }

        let cents = event.units * account.price;
        sqlx::query(
            "insert into billing_example.invoices (event_id, account, cents) values ($1, $2, $3)",
        )
        .bind(context.event_id())
        .bind(&account.name)
        .bind(cents)
        .execute(&mut *tx)
        .await?;
        Ok(Invoiced {
            account: account.name,
            cents,
        })
    }

    pub(super) async fn remind(event: Overdue, account: Account) -> Option<Reminder> {
        let is_due = event.days >= 14;
        is_due.then_some(Reminder {
            account: account.name,
            is_last: event.days >= 28,
        })
    }

    /// All that an application takes: `.module(billing::module(prices, meter))`.
    ///
    /// The handlers are registered by hand, not found at link time. So a program that links the
    /// library, and does not take the module, runs none of them.
    pub fn module(prices: BTreeMap<String, i64>, meter: Meter) -> Module {
        Module::new()
            .register(Handler::on("billing::invoice", invoice))
            .register(Handler::on("billing::remind", remind))
            .state(Prices(Arc::new(prices)))
            .layer(meter)
            .queue(QUEUE)
            .timeout(Some(Duration::from_secs(10)))
            .max_attempts(3)
            .backoff(Backoff::constant(Duration::from_millis(200)))
    }
}

/// The application's own event: something was sold.
#[derive(Event, Serialize, Deserialize)]
#[event(type = "shop.sold", queue = "billing-shop")]
struct Sold {
    customer: String,
    pieces: i64,
}

/// The application's handler that feeds the library.
#[on_event]
async fn meter_sale(event: Sold, publisher: Publisher) -> ezq::Result<()> {
    let usage = Usage {
        units: event.pieces,
    };
    publisher
        .publish(&usage)
        .header("account", event.customer)
        .await?;
    Ok(())
}

/// The application's handler of what the library publishes.
#[on_event]
async fn thank(event: Invoiced, mut tx: Tx) -> sqlx::Result<()> {
    println!("thank you, {}: {} cents", event.account, event.cents);
    sqlx::query("insert into billing_example.thanks values ($1)")
        .bind(event.account)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

fn prices() -> BTreeMap<String, i64> {
    BTreeMap::from([("ada".to_owned(), 300), ("bob".to_owned(), 250)])
}

/// A consumer that is idle stops, though another queue may fill its own later. So all of them run again
/// until none finds an event.
async fn run_to_the_end(ezq: &Ezq) -> ezq::Result<()> {
    loop {
        let report = ezq.consumer().until_idle().run_all().await?;
        println!("{report}");
        if report.counts.handled == 0 {
            return Ok(());
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let meter = Meter::default();
    let ezq = Ezq::builder()
        .app("shop")
        .queue("billing-shop")
        .module(billing::module(prices(), meter.clone()))
        .connect()
        .await?;
    let earlier = "drop schema if exists billing_example cascade";
    sqlx::raw_sql(earlier).execute(ezq.pool()).await?;
    sqlx::raw_sql(billing::TABLES).execute(ezq.pool()).await?;
    let own = "create table billing_example.thanks (account text)";
    sqlx::raw_sql(own).execute(ezq.pool()).await?;

    let sold = [("ada", 2), ("bob", 4), ("eve", 1)].map(|(customer, pieces)| Sold {
        customer: customer.to_owned(),
        pieces,
    });
    ezq.publish_all(&sold).await?;
    run_to_the_end(&ezq).await?;

    let written: i64 =
        sqlx::query_scalar("select sum(cents)::bigint from billing_example.invoices")
            .fetch_one(ezq.pool())
            .await?;
    assert_eq!(written, 2 * 300 + 4 * 250);
    let thanked: Vec<String> =
        sqlx::query_scalar("select account from billing_example.thanks order by account")
            .fetch_all(ezq.pool())
            .await?;
    assert_eq!(thanked, ["ada", "bob"]);

    // Nobody has an account `eve`. The library's layer saw its three runs, and that one failed.
    assert_eq!((meter.runs(), meter.failures()), (3, 1));
    let letters = ezq.dead_letters(billing::QUEUE)?;
    let discarded = letters
        .discard(ezq::admin::DeadLetterFilter::all().event_type("billing.usage"))
        .await?;
    assert_eq!(discarded.len(), 1);
    ezq.close().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::billing::{self, Account, Invoiced, Meter, Overdue, Reminder, Usage};
    use super::{Sold, meter_sale, prices};
    use ezq::message::ReasonKind;
    use ezq::sqlx;
    use ezq::testing::{TestApp, TestDatabase};
    use std::error::Error;

    type Checked = Result<(), Box<dyn Error>>;

    /// A handler is a function, and its extractors are values.
    #[tokio::test]
    async fn reminds_after_two_weeks() {
        let ada = Account {
            name: "ada".to_owned(),
            price: 300,
        };
        let early = billing::remind(Overdue { days: 13 }, ada.clone()).await;
        assert!(early.is_none());
        let late = billing::remind(Overdue { days: 30 }, ada).await;
        assert!(late.is_some_and(|reminder| reminder.is_last));
    }

    /// A handler without `Tx` needs no database.
    #[tokio::test]
    async fn a_sale_is_metered_on_its_customers_account() -> Checked {
        let app = TestApp::new(|app| app.handler::<meter_sale>())?;
        let sold = Sold {
            customer: "bob".to_owned(),
            pieces: 4,
        };
        app.publish(&sold).await?;
        app.drain().await?;

        assert_eq!(app.assert_published::<Usage>().units, 4);
        app.assert_no_dead_letters();
        Ok(())
    }

    #[ezq::test]
    async fn an_event_without_an_account_is_a_dead_letter(db: TestDatabase) -> Checked {
        let meter = Meter::default();
        let module = billing::module(prices(), meter.clone());
        let app = db.app(|app| app.module(module)).await?;
        app.publish(&Overdue { days: 20 }).await?;
        app.publish(&Overdue { days: 20 })
            .header("account", "bob")
            .await?;
        app.drain().await?;

        let reminder: Reminder = app.assert_published();
        assert_eq!(reminder.account, "bob");
        assert!(!reminder.is_last);
        let reason = app.assert_dead_lettered::<Overdue>().reason;
        assert_eq!(reason.ok_or("no reason")?.kind, ReasonKind::Fatal);
        assert_eq!((meter.runs(), meter.failures()), (2, 1));
        Ok(())
    }

    #[ezq::test]
    async fn usage_is_invoiced_in_one_transaction(db: TestDatabase) -> Checked {
        let module = billing::module(prices(), Meter::default());
        let app = db.app(|app| app.module(module)).await?;
        sqlx::raw_sql(billing::TABLES).execute(app.pool()).await?;
        app.publish(&Usage { units: 3 })
            .header("account", "ada")
            .await?;
        app.publish(&Usage { units: -1 })
            .header("account", "ada")
            .await?;
        app.drain().await?;

        let invoices: Vec<i64> = sqlx::query_scalar("select cents from billing_example.invoices")
            .fetch_all(app.pool())
            .await?;
        assert_eq!(invoices, [900]);
        assert_eq!(app.assert_published::<Invoiced>().cents, 900);
        let refused: Usage = app.assert_dead_lettered::<Usage>().event()?;
        assert_eq!(refused.units, -1);
        Ok(())
    }

    /// A statement that fails is retried, and then given up. `drain` does not wait for the pauses.
    #[ezq::test]
    async fn a_missing_table_is_tried_three_times(db: TestDatabase) -> Checked {
        let meter = Meter::default();
        let module = billing::module(prices(), meter.clone());
        let app = db.app(|app| app.module(module)).await?;
        app.publish(&Usage { units: 3 })
            .header("account", "ada")
            .await?;
        app.drain().await?;

        assert_eq!(meter.failures(), 3);
        let reason = app
            .assert_dead_lettered::<Usage>()
            .reason
            .ok_or("no reason")?;
        assert_eq!(reason.kind, ReasonKind::MaxAttempts);
        app.assert_not_published::<Invoiced>();
        Ok(())
    }
}
