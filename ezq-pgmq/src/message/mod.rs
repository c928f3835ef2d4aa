//! A message as a queue's table keeps it: its receipt, its headers, and the text that the database
//! can hold.

pub(crate) mod encoding;
pub(crate) mod headers;
pub(crate) mod receipts;
pub(crate) mod storable;
