//! The integration tests, in one binary.

mod macros;
mod macros_ui;
