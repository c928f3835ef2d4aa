//! How events are written into messages and read from them.

pub(crate) mod codecs;
pub(crate) mod raw_json;
pub(crate) mod wire;
