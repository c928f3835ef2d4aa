//! How many connections are open and in use, for the feature `metrics` of ezq-core. Without the
//! feature nothing here has a size or code.

#[cfg(feature = "metrics")]
pub(crate) use counted::{ConnectionMetrics, Counted};
#[cfg(not(feature = "metrics"))]
pub(crate) use uncounted::{ConnectionMetrics, Counted};

#[cfg(feature = "metrics")]
mod counted {
    use std::sync::OnceLock;

    use ezq_core::observe::metrics::names;
    use metrics::{Counter, Gauge, counter, gauge};

    /// The connections for one purpose.
    #[derive(Debug)]
    pub(crate) struct ConnectionMetrics {
        purpose: &'static str,
        handles: OnceLock<Handles>,
    }

    #[derive(Debug)]
    struct Handles {
        open: Gauge,
        busy: Gauge,
        failures: Counter,
    }

    impl ConnectionMetrics {
        pub(crate) fn new(purpose: &'static str) -> Self {
            Self {
                purpose,
                handles: OnceLock::new(),
            }
        }

        /// A connection was opened; it is until the guard is dropped.
        pub(crate) fn opened(&self) -> Counted {
            Counted::add(&self.handles().open)
        }

        /// A connection is in use until the guard is dropped.
        pub(crate) fn busy(&self) -> Counted {
            Counted::add(&self.handles().busy)
        }

        /// A connection could not be opened.
        pub(crate) fn failed(&self) {
            self.handles().failures.increment(1);
        }

        /// How many connections a pool has.
        pub(crate) fn sized(&self, count: u32) {
            self.handles().open.set(count);
        }

        fn handles(&self) -> &Handles {
            let purpose = self.purpose;
            self.handles.get_or_init(|| Handles {
                open: gauge!(names::CONNECTIONS_OPEN, "purpose" => purpose),
                busy: gauge!(names::CONNECTIONS_BUSY, "purpose" => purpose),
                failures: counter!(names::CONNECTION_FAILURES, "purpose" => purpose),
            })
        }
    }

    /// One of what a gauge counts.
    #[derive(Debug, Default)]
    pub(crate) struct Counted(Option<Gauge>);

    impl Counted {
        fn add(gauge: &Gauge) -> Self {
            gauge.increment(1);
            Self(Some(gauge.clone()))
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            if let Some(gauge) = &self.0 {
                gauge.decrement(1);
            }
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod uncounted {
    #[derive(Debug)]
    pub(crate) struct ConnectionMetrics;

    impl ConnectionMetrics {
        pub(crate) fn new(_: &'static str) -> Self {
            Self
        }

        pub(crate) fn opened(&self) -> Counted {
            Counted
        }

        pub(crate) fn busy(&self) -> Counted {
            Counted
        }

        pub(crate) fn failed(&self) {}

        pub(crate) fn sized(&self, _: u32) {}
    }

    #[derive(Debug, Default)]
    pub(crate) struct Counted;
}
