//! The engine in memory, for tests and doctests.
