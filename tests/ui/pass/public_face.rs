//! Everything the macros accept, under lints as strict as a crate may set them.
#![forbid(unsafe_code)]
#![deny(
    warnings,
    missing_copy_implementations,
    missing_debug_implementations,
    missing_docs,
    rust_2018_idioms,
    single_use_lifetimes,
    trivial_casts,
    unnameable_types,
    unreachable_pub,
    unused_lifetimes,
    unused_qualifications,
    unused_results
)]

/// Events.
pub mod events {
    use ezq::prelude::*;
    use serde::{Deserialize, Serialize};

    /// Named after itself.
    #[derive(Clone, Copy, Debug, Event, Serialize, Deserialize)]
    pub struct Started;

    /// With all that can be said of it.
    #[derive(Clone, Copy, Debug, Event, Serialize, Deserialize)]
    #[event(type = "order.paid", version = 3, queue = "orders", key = "customer.id")]
    #[event(alias = "OrderPaid", alias = "order_paid")]
    pub struct OrderPaid {
        /// Who paid.
        pub customer: Customer,
    }

    /// A part of an event.
    #[derive(Clone, Copy, Debug, Serialize, Deserialize)]
    pub struct Customer {
        /// Which one.
        pub id: i64,
    }

    /// Keyed by a field that may be absent.
    #[derive(Debug, Event, Serialize, Deserialize)]
    #[event(key = account)]
    pub struct Moved {
        /// Which account.
        pub account: Option<String>,
    }

    /// A tuple, keyed by its first field.
    #[derive(Clone, Copy, Debug, Event, Serialize, Deserialize)]
    #[event(key = "0")]
    pub struct Counted(pub u64);

    /// An enum may be an event.
    #[derive(Clone, Copy, Debug, Event, Serialize, Deserialize)]
    pub enum Weather {
        /// Dry.
        Sun,
        /// Wet.
        Rain {
            /// How much.
            millimetres: u16,
        },
    }

    /// One of several.
    #[derive(Clone, Copy, Debug, EventSet)]
    pub enum Any {
        /// It started.
        Started(Started),
        /// It was paid.
        Paid(OrderPaid),
    }
}

/// Handlers.
pub mod handlers {
    use super::events::{Any, Counted, Moved, OrderPaid, Started, Weather};
    use ezq::handler::FailedAttempt;
    use ezq::prelude::*;
    use std::time::Duration;

    /// Takes the event alone, and waits for nothing.
    #[on_event]
    pub async fn log_started(_event: Started) {}

    #[on_event()]
    async fn destructures(OrderPaid { customer }: OrderPaid) {
        println!("{}", customer.id);
    }

    #[on_event(
        name = "orders.count",
        order = -1,
        timeout = "1500ms",
        retry(max_attempts = 8, backoff = "linear", initial = "2s", max = "10m"),
    )]
    pub(crate) async fn extracts(
        mut event: Moved,
        context: Context,
        State(plans): State<u32>,
        publisher: Publisher,
    ) -> Result<(), std::io::Error> {
        event.account = None;
        std::future::ready(()).await;
        drop((event, context, plans, publisher));
        Ok(())
    }

    #[on_event(timeout = "none", retry(backoff = "constant", initial = "1d"))]
    async fn returns_an_event(Counted(count): Counted) -> Counted {
        Counted(count)
    }

    fn patient(failed: &FailedAttempt<'_>) -> Duration {
        Duration::from_secs(5) * failed.number
    }

    fn steps(step: Duration) -> impl Fn(&FailedAttempt<'_>) -> Duration {
        move |failed| step * failed.number
    }

    #[on_event(retry(max_attempts = 3, backoff = patient))]
    async fn returns_events(_event: Any) -> Result<(Vec<Counted>, Option<Started>), HandlerError> {
        Ok((Vec::new(), Some(Started)))
    }

    #[on_event]
    async fn takes_anything(_event: AnyEvent, _: Context) {}

    /// Is deprecated, and no use of it is reported.
    #[on_event]
    #[deprecated]
    pub async fn still_deprecated(_event: Weather) {}

    #[on_event]
    #[cfg(any())]
    async fn not_compiled(_event: NoSuchEvent) {}

    /// At nine on Mondays.
    #[on_schedule(
        "0 9 * * MON",
        tz = "Europe/Paris",
        missed = "fire_once",
        name = "reports.weekly",
        queue = "reports",
        timeout = "5m",
        retry(max_attempts = 2, backoff = steps(Duration::from_secs(7))),
        concurrency = 1,
    )]
    pub(crate) async fn weekly(
        mut tick: Tick,
        State(plans): State<u32>,
        mut tx: Tx,
    ) -> Result<Counted, std::io::Error> {
        tick.previous = None;
        let _ = (&mut *tx, plans);
        Ok(Counted(1))
    }

    #[on_schedule("*/10 * * * * *")]
    async fn takes_no_tick(_context: Context) {}

    #[on_schedule(every = "1h")]
    async fn r#loop() {}

    #[on_event]
    async fn r#move(_event: Moved) {}

    /// Holds a handler.
    pub fn body() {
        #[on_event]
        async fn inside_a_body(_event: Moved) {}
    }

    macro_rules! handlers {
        ($($name:ident($event:ty) = $pinned:literal),*) => {
            $(
                #[on_event(name = $pinned)]
                async fn $name(_event: $event) {}
            )*
        };
    }
    handlers!(first(Started) = "handlers.first", second(Moved) = "handlers.second");
}

fn main() {
    handlers::body();
}
