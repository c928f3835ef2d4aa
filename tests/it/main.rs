//! The integration tests, in one binary.

mod macros_ui;
