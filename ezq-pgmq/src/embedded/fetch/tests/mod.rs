//! A server on this machine stands in for the index, with small archives.

mod cache;
mod fetching;
mod index;
mod processes;
mod refusals;
