//! Finding what `jsonb` cannot store before it is sent. A refused statement in a caller's
//! transaction would fail the whole transaction.

use ezq_core::engine::Dedupe;
use ezq_core::{Error, ErrorKind};

use crate::error;
use crate::message::encoding::Encoding;

/// Checks a JSON text against the `jsonb` of a database with this encoding.
pub(crate) fn check(json: &str, encoding: Encoding) -> Result<(), Error> {
    if json.contains('\0') {
        return Err(refused("it holds a NUL character"));
    }

    if let Some(c) = encoding.lacks(json) {
        return Err(lacks(&c.escape_debug().to_string()));
    }

    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(step) = bytes
        .get(at..)
        .and_then(|rest| rest.iter().position(|b| *b == b'\\'))
    {
        at += step;
        match unit(bytes, at) {
            // Another escape: the backslash and what it escapes.
            None => at += 2,
            Some(0) => return Err(refused("it holds `\\u0000`")),
            Some(unit) if encoding.lacks_escaped(unit) => {
                return Err(lacks(&format!("\\u{unit:04x}")));
            }
            Some(0xD800..=0xDBFF) => {
                if !matches!(unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) {
                    return Err(refused("it holds half a surrogate pair"));
                }
                // Both halves of a surrogate pair.
                at += 12;
            }
            Some(0xDC00..=0xDFFF) => return Err(refused("it holds half a surrogate pair")),
            Some(_) => at += 6,
        }
    }

    Ok(())
}

/// Checks that a database with this encoding can store a dedupe key and its event's id.
pub(crate) fn check_dedupe(dedupe: &Dedupe, encoding: Encoding) -> Result<(), Error> {
    for text in [dedupe.key(), dedupe.event_id()] {
        if let Some(c) = encoding.lacks(text) {
            return Err(lacks(&c.escape_debug().to_string()));
        }
    }
    Ok(())
}

// The UTF-16 unit of an escape `\uXXXX` that begins at this byte.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let escape = bytes.get(at..at + 6)?;
    let digits = escape.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The error for a message whose content the store refuses.
pub(crate) fn refused(why: &str) -> Error {
    let text = format!("the store cannot keep the message: {why}");
    Error::new(ErrorKind::InvalidEvent, text)
}

/// The error for a message whose content the server refused: `what` is not JSON to `jsonb`, unless
/// the server blames its encoding.
pub(crate) fn refused_with(failure: sqlx::Error, what: &str) -> Error {
    let why = if error::is_untranslatable(&failure) {
        "the database's encoding lacks a character of it: use a database with the encoding \
         UTF8"
            .to_owned()
    } else {
        format!("Postgres does not take {what} as JSON")
    };
    refused(&why).with_source(failure)
}

fn lacks(what: &str) -> Error {
    refused(&format!(
        "the database's encoding lacks `{what}`: use a database with the encoding UTF8"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_jsonb_refuses() {
        for bad in [
            r#""\u0000""#,
            r#""a\\\u0000""#,
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800A""#,
            "\"\0\"",
        ] {
            let error = check(bad, Encoding::Utf8).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{bad}");
        }
    }

    #[test]
    fn lets_pass_what_jsonb_takes() {
        for good in [
            r#""\\u0000""#,
            r#""\ud83d\ude00""#,
            r#""\u00e4\n\\""#,
            "{}",
            "",
            r#""\u12""#,
        ] {
            check(good, Encoding::Utf8).unwrap();
        }
    }

    #[test]
    fn refuses_what_the_encoding_lacks() {
        use Encoding::{Latin1, Other, SqlAscii};
        let refused = [
            (Latin1, r#""→""#),
            (Latin1, r#""\u2192""#),
            (SqlAscii, r#""\u00fc""#),
        ];
        for (encoding, bad) in refused {
            let error = check(bad, encoding).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{encoding:?}: {bad}");
        }
        for (encoding, good) in [
            (Latin1, r#""ü\u00fc""#),
            (SqlAscii, r#""→\u0041""#),
            (Other, "→"),
        ] {
            check(good, encoding).unwrap();
        }
    }
}
