//! The macros, each with an example of its use. They are documented here, because the crate
//! `ezq-macros` cannot run examples that need `ezq`.

/// Makes a serde type an event.
///
/// ```
/// use ezq::Event;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[event(type = "order.paid", version = 2, key = "customer_id", alias = "OrderPaid")]
/// struct OrderPaid {
///     order_id: i64,
///     customer_id: i64,
/// }
/// assert_eq!(OrderPaid::TYPE, "order.paid");
/// ```
#[doc(inline)]
pub use ezq_macros::Event;
/// Makes an enum of events a type that one handler can take.
///
/// ```
/// use ezq::prelude::*;
/// use serde::{Deserialize, Serialize};
///
/// # #[derive(Serialize, Deserialize)]
/// #[derive(Event)]
/// struct Opened { id: i64 }
/// # #[derive(Serialize, Deserialize)]
/// #[derive(Event)]
/// struct Closed { id: i64 }
///
/// #[derive(EventSet)]
/// enum Account {
///     Opened(Opened),
///     Closed(Closed),
/// }
///
/// #[on_event]
/// async fn count(event: Account) {
///     match event {
///         Account::Opened(opened) => println!("{} opened", opened.id),
///         Account::Closed(closed) => println!("{} closed", closed.id),
///     }
/// }
/// ```
#[doc(inline)]
pub use ezq_macros::EventSet;
/// Makes an async function a handler.
///
/// ```
/// use ezq::prelude::*;
/// use ezq::testing::TestApp;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// struct OrderPaid { order_id: i64 }
///
/// #[derive(Event, Serialize, Deserialize)]
/// struct ReceiptSent { order_id: i64 }
///
/// #[derive(Clone)]
/// struct Mailer;
///
/// #[on_event(retry(max_attempts = 8, initial = "2s", max = "10m"), timeout = "1m")]
/// async fn send_receipt(
///     event: OrderPaid,
///     State(_mailer): State<Mailer>,
/// ) -> Result<ReceiptSent, std::io::Error> {
///     Ok(ReceiptSent { order_id: event.order_id }) // published with the acknowledgement
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq::Result<()> {
/// let app = TestApp::new(|app| app.handler::<send_receipt>().state(Mailer))?;
/// app.publish(&OrderPaid { order_id: 7 }).await?;
/// app.drain().await?;
/// assert_eq!(app.assert_published::<ReceiptSent>().order_id, 7);
/// # Ok(()) }
/// ```
#[doc(inline)]
pub use ezq_macros::on_event;
/// Makes an async function run at the times of a schedule, once for each tick, however many processes
/// run.
///
/// ```
/// use ezq::prelude::*;
/// use ezq::testing::TestApp;
///
/// #[on_schedule("0 9 * * MON", tz = "Europe/Paris", missed = "skip", name = "weekly")]
/// async fn weekly_report(tick: Tick, State(recipients): State<Vec<String>>) {
///     println!("to {recipients:?}: what happened from {:?} to {}", tick.previous, tick.due);
/// }
///
/// #[on_schedule(every = "30s", name = "sweep")]
/// async fn sweep() -> Result<(), std::io::Error> {
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> ezq::Result<()> {
/// let app = TestApp::new(|app| {
///     app.handler::<weekly_report>().handler::<sweep>().state(vec!["ada".to_owned()])
/// })?;
/// app.schedules()?.run_now("weekly").await?;
/// assert_eq!(app.drain().await?.counts.handled, 1);
/// # Ok(()) }
/// ```
#[doc(inline)]
pub use ezq_macros::on_schedule;

/// Makes an async function a test with a database of its own.
///
/// ```
/// use ezq::prelude::*;
/// use ezq::testing::TestDatabase;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Event, Serialize, Deserialize)]
/// struct OrderPaid { order_id: i64 }
///
/// #[derive(Event, Serialize, Deserialize)]
/// struct ReceiptSent { order_id: i64 }
///
/// #[on_event]
/// async fn send_receipt(event: OrderPaid) -> ReceiptSent {
///     ReceiptSent { order_id: event.order_id }
/// }
///
/// #[ezq::test]
/// async fn a_payment_sends_a_receipt(db: TestDatabase) -> ezq::Result<()> {
///     let app = db.app(|app| app.handler::<send_receipt>()).await?;
///     app.publish(&OrderPaid { order_id: 7 }).await?;
///     app.drain().await?;
///     assert_eq!(app.assert_published::<ReceiptSent>().order_id, 7);
///     Ok(())
/// }
/// ```
#[doc(inline)]
pub use ezq_macros::test;
