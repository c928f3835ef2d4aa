//! How events are written into message bodies, and read from them.
//!
//! Begin at [`Codec`] to write a format of your own, and at [`WireFormat`] to choose between CloudEvents
//! and the flat form of Python ezq. [`RawJson`] writes bodies that are the payload and nothing else.
//! [`encode`] and [`decode`] write and read a body without an application.
//!
//! A codec writes a [`Body`]: JSON text, or bytes. It sees the body and the headers of one message. What
//! becomes of an event that cannot be read is
//! not its business. A codec is the user's code: a panic in it fails that one message.
//!
//! # Which codec reads a body
//!
//! - A body in a plain form (CloudEvents or the flat form) shows its form, so it can be read in any
//!   queue.
//! - Any other body has three headers beside it. `ezq-codec` names the codec that reads it, whatever
//!   codec its queue has by then. `ce-id` and `ce-type` are for code that inspects messages without
//!   reading bodies: histories, and dead letters by type.
//! - A body that names no codec and is in no plain form is read by its queue's codec.
//! - Control events are always written in a plain form.
//!
//! # Bytes
//!
//! Engines store JSON text: on PGMQ the body is a `jsonb` column. JSON text of a codec is stored as it
//! is. Bytes are stored as a JSON string of their base64 (RFC 4648, section 4), which is a third
//! longer, with the header `ezq-body: base64`. The codec sees neither.
//!
//! - Histories, dead letters, redrives and replays keep such a body and its header as they are, also in
//!   programs that do not have the codec.
//! - SQL reads the bytes with `decode(message #>> '{}', 'base64')`. Another program may store bytes in
//!   the same way, on one line and with padding, for the codec of the queue or for one that it names in
//!   `ezq-codec`.
//! - A message becomes a dead letter with the error if its header has another value, if its body is not
//!   base64, or if a codec for bytes gets JSON text.
//!
//! # Source files
//!
//! What is done with an event that cannot be read is decided in `dispatch/`.
//!
//! | to see | open |
//! |---|---|
//! | the trait `Codec` | this file |
//! | which codec writes and reads a message | `codecs.rs` |
//! | bytes and JSON text, and how bytes are stored | `body.rs` |
//! | CloudEvents, and the flat form of Python ezq | `wire/` |
//! | bodies that are the payload and nothing else | `raw_json.rs` |

mod body;
pub(crate) mod codecs;
pub(crate) mod raw_json;
pub(crate) mod wire;

pub use body::Body;
pub use raw_json::RawJson;
pub use wire::{MAX_NESTING, Origin, WireFormat, decode, encode, flat_origin};

use crate::event::envelope::Envelope;
use crate::message::headers::Headers;

/// Why a codec failed: any error.
pub type CodecError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A codec: it writes events as message bodies, and reads them back.
///
/// ```
/// use ezq_core::codec::{self, Body, Codec, CodecError, Origin, WireFormat};
/// use ezq_core::event::Envelope;
/// use ezq_core::message::headers::Headers;
///
/// /// CloudEvents that nobody can read in passing.
/// struct Masked(u8);
///
/// impl Codec for Masked {
///     fn name(&self) -> &str {
///         "masked"
///     }
///     fn encode(&self, event: &Envelope, _: &mut Headers) -> Result<Body<'static>, CodecError> {
///         let plain = codec::encode(event, WireFormat::CloudEvents)?;
///         let masked: Vec<u8> = plain.bytes().map(|byte| byte ^ self.0).collect();
///         Ok(Body::bytes(masked))
///     }
///     fn decode(&self, body: Body<'_>, origin: Origin<'_>) -> Result<Envelope, CodecError> {
///         let plain = body.as_bytes()?.iter().map(|byte| byte ^ self.0).collect();
///         Ok(codec::decode(&String::from_utf8(plain)?, origin)?)
///     }
/// }
/// ```
///
/// JSON text must be JSON, nested at most [`MAX_NESTING`] deep. Bytes may be anything, and the event's
/// data is nested no deeper. If a codec fails to write an event, publishing fails with [`ErrorKind::Encode`](crate::ErrorKind::Encode). If it fails to read a
/// message, the message becomes a dead letter, which keeps the error: leave secrets out of it. A panic
/// counts as a failure.
pub trait Codec: Send + Sync + 'static {
    /// The codec's name, by which queues and events choose it. Messages store it, so keep it as long as
    /// there are messages that the codec wrote.
    fn name(&self) -> &str;

    /// Writes an event. `headers` are those of the message, as the publisher set them. Headers that
    /// are set here are in [`Origin::headers`] when the message is read. Those that say how a body is
    /// read (`ezq-codec`, `ezq-body`, `ce-id`, `ce-type`) are ezq's own, and are set after this call.
    ///
    /// # Errors
    /// When the event cannot be written in this form.
    fn encode(&self, event: &Envelope, headers: &mut Headers) -> Result<Body<'static>, CodecError>;

    /// Reads a body that this codec wrote, or a body in the codec's queue that does not show its form
    /// and names no codec. Such a body may be of the form that the codec does not write:
    /// [`Body::as_json`] and [`Body::as_bytes`] then fail.
    ///
    /// # Errors
    /// When the body cannot be read.
    fn decode(&self, body: Body<'_>, origin: Origin<'_>) -> Result<Envelope, CodecError>;

    /// Checks the codec when the application is built. By default there is nothing to check.
    ///
    /// # Errors
    /// When the codec cannot work as it is set up.
    fn check(&self) -> Result<(), CodecError> {
        Ok(())
    }

    /// Whether a queue of this codec accepts only bodies that it wrote, and control events.
    ///
    /// Defaults to `false`: CloudEvents, the flat form, and bodies that name another codec are read
    /// there too. Return `true` if the codec must keep forged events out.
    fn is_exclusive(&self) -> bool {
        false
    }
}
