//! How events are written into message bodies, and read from them.
//!
//! A codec sees the body and the headers of one message. What is done with an event that cannot be
//! read is decided in `dispatch/`.
//!
//! | to see | open |
//! |---|---|
//! | the trait `Codec`, and which codec writes and reads a message | `codecs.rs` |
//! | CloudEvents, and the flat form of Python ezq | `wire.rs` |
//! | bodies that are the payload and nothing else | `raw_json.rs` |

pub(crate) mod codecs;
pub(crate) mod raw_json;
pub(crate) mod wire;
