//! A codec of your own that encrypts: `cargo run --example encrypting`.
//!
//! It is for events that those who can read the database must not read. The body in the queue is sealed,
//! and a body that was tampered with is not handled. The type and the id of an event stay readable beside
//! the body, for those who operate the queue. The example needs no database: without `DATABASE_URL` it
//! starts one.

use chacha20poly1305::aead::{Aead, AeadCore, KeyInit, OsRng};
use chacha20poly1305::{ChaCha20Poly1305, Key};
use ezq::admin::DeadLetterFilter;
use ezq::codec::{self, Body, Codec, CodecError, Origin, WireFormat};
use ezq::message::headers::Headers;
use ezq::prelude::*;
use ezq::{Envelope, QueueName};
use serde::{Deserialize, Serialize};

const NONCE: usize = 12;

/// ChaCha20-Poly1305 over CloudEvents. The body is a nonce and the sealed event.
struct Sealed(ChaCha20Poly1305);

impl Codec for Sealed {
    fn name(&self) -> &str {
        "sealed"
    }

    fn encode(&self, event: &Envelope, _: &mut Headers) -> Result<Body<'static>, CodecError> {
        let plain = codec::encode(event, WireFormat::CloudEvents)?;
        let mut body = ChaCha20Poly1305::generate_nonce(&mut OsRng).to_vec();
        let sealed = self
            .0
            .encrypt(body[..].into(), plain.as_bytes())
            .map_err(|_| "too long")?;

        body.extend(sealed);
        Ok(Body::bytes(body))
    }

    fn decode(&self, body: Body<'_>, origin: Origin<'_>) -> Result<Envelope, CodecError> {
        let body = body.as_bytes()?;
        let (nonce, sealed) = body.split_at_checked(NONCE).ok_or("too short")?;
        let plain = self
            .0
            .decrypt(nonce.into(), sealed)
            .map_err(|_| "the seal is broken")?;
        Ok(codec::decode(std::str::from_utf8(&plain)?, origin)?)
    }

    // Only sealed bodies are read, so that write access to the queue is not enough to forge an event.
    fn is_exclusive(&self) -> bool {
        true
    }
}

#[derive(Event, Serialize, Deserialize)]
#[event(type = "patient.diagnosed")]
struct Diagnosed {
    patient: i64,
    diagnosis: String,
}

#[on_event]
async fn file(event: Diagnosed) {
    println!("patient {} has {}", event.patient, event.diagnosis);
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // A real key comes from a secret store.
    let key: Key = ChaCha20Poly1305::generate_key(&mut OsRng);
    let queue = QueueName::new("ezq_example_encrypting")?;
    let ezq = Ezq::builder()
        .configure(|config| config.queue = queue.clone())
        .codec(Sealed(ChaCha20Poly1305::new(&key)))
        .queue_codec(&queue, "sealed")
        .connect()
        .await?;

    let diagnosed = Diagnosed {
        patient: 7,
        diagnosis: "a cold".into(),
    };
    let published = ezq.publish(&diagnosed).await?;
    let read = format!("SELECT message #>> '{{}}' FROM pgmq.q_{queue} WHERE msg_id = $1");
    let stored: String = ezq::sqlx::query_scalar(ezq::sqlx::AssertSqlSafe(read))
        .bind(published.id.as_number())
        .fetch_one(ezq.pool())
        .await?;
    println!(
        "in the table: {}... ({} characters)",
        &stored[..16],
        stored.len()
    );
    assert!(!stored.contains("cold"));

    // The same body with one character changed, and one that was never sealed. The header says which
    // of them is bytes.
    let first = if stored.starts_with('A') { "B" } else { "A" };
    let changed = format!("\"{first}{}\"", &stored[1..]);
    let unsealed =
        r#"{"specversion":"1.0","id":"1","source":"x","type":"patient.diagnosed","data":{}}"#;
    for (body, headers) in [
        (changed.as_str(), r#"{"ezq-body":"base64"}"#),
        (unsealed, "{}"),
    ] {
        ezq::sqlx::query("SELECT pgmq.send($1, $2::text::jsonb, $3::text::jsonb)")
            .bind(queue.as_str())
            .bind(body)
            .bind(headers)
            .execute(ezq.pool())
            .await?;
    }

    ezq.publish(&End::default()).await?;
    println!("{}", ezq.consumer().run().await?);

    for letter in ezq
        .dead_letters(&queue)?
        .list(&DeadLetterFilter::all(), 10)
        .await?
    {
        println!(
            "not handled: {}",
            letter.reason.map(|reason| reason.error).unwrap_or_default()
        );
        ezq.dead_letters(&queue)?.discard(&letter.id).await?;
    }
    Ok(())
}
