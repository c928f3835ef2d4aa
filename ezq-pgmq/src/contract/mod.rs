//! The contract of ezq-core's engines, as PGMQ keeps it: each method is a call on the right
//! connection, and one statement or two.

mod broadcasts;
mod dead_letters;
mod engine;
mod schedules;
