//! The suites that every sink and every source of a broker passes.
//!
//! | to see | open |
//! |---|---|
//! | what a test gives the suites | `harness.rs` |
//! | the rules of sinks | `sink_cases.rs`, with the steps they share in `sending.rs` |
//! | the rules of sources | `source_cases.rs`, with the steps they share in `reading.rs` |
//! | running a case | `case.rs` |

mod case;
mod harness;
mod reading;
mod sending;
mod sink_cases;
mod source_cases;

pub use case::{SinkCase, SourceCase, run_sink, run_source, sink_cases, source_cases};
pub use harness::{ServerStep, SinkHarness, SourceHarness};
