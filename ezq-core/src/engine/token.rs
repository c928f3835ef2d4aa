//! The token of a receipt: a few bytes that only their engine can read.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// What an engine writes into a [`Receipt`](super::Receipt) to tell one delivery of a message from
/// another: up to [`MAX_BYTES`](Self::MAX_BYTES) bytes of its own.
///
/// It is opaque outside its engine. It is kept inline, so that copying one allocates nothing. The
/// default is empty: a receipt with it settles nothing, because no engine hands it out.
///
/// ```
/// use ezq_core::engine::Token;
///
/// let counters = Token::from_words([3, -1]);
/// assert_eq!(counters.words(), Some([3, -1]));
/// assert_eq!(counters.words::<1>(), None);
///
/// let token = Token::from_bytes(b"\x00\xff")?;
/// assert_eq!(token.as_bytes(), [0, 255]);
/// assert_eq!(format!("{token:?}"), "Token(00ff)");
/// # Ok::<(), ezq_core::Error>(())
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Token {
    /// Zero from `len` on, so that equal tokens are equal fields.
    bytes: [u8; Self::MAX_BYTES],
    len: u8,
}

impl Token {
    /// The longest token, in bytes: four words, or a SHA-256.
    pub const MAX_BYTES: usize = 32;

    /// A token of these bytes.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidReceipt`] for more than [`MAX_BYTES`](Self::MAX_BYTES) bytes.
    pub fn from_bytes(token: &[u8]) -> Result<Self> {
        Self::holding(token).ok_or_else(|| {
            let text = format!(
                "a token has {} bytes, and a receipt keeps at most {}: use a hash of it",
                token.len(),
                Self::MAX_BYTES
            );
            Error::new(ErrorKind::InvalidReceipt, text)
        })
    }

    fn holding(token: &[u8]) -> Option<Self> {
        let len = u8::try_from(token.len()).ok()?;
        let mut bytes = [0; Self::MAX_BYTES];
        bytes.get_mut(..token.len())?.copy_from_slice(token);
        Some(Self { bytes, len })
    }

    /// A token of these numbers, each as eight bytes, the highest first. More than four numbers do
    /// not compile.
    #[must_use]
    pub fn from_words<const N: usize>(words: [i64; N]) -> Self {
        const { assert!(N <= Self::MAX_BYTES / 8, "a token has at most four words") };
        let mut token = Self::default();
        let (places, _) = token.bytes.as_chunks_mut();

        for (place, word) in places.iter_mut().zip(words) {
            *place = word.to_be_bytes();
            token.len += 8;
        }
        token
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or_default()
    }

    /// The numbers, if the token has exactly the bytes of so many. An engine that gets `None` did
    /// not make the receipt.
    #[must_use]
    pub fn words<const N: usize>(&self) -> Option<[i64; N]> {
        let (words, rest) = self.as_bytes().as_chunks();
        let words = <[[u8; 8]; N]>::try_from(words).ok()?;
        rest.is_empty().then(|| words.map(i64::from_be_bytes))
    }
}

/// The bytes in hexadecimal.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(")?;
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::Token;
    use crate::error::ErrorKind;

    #[test]
    fn keeps_its_bytes_up_to_the_longest_and_refuses_more() {
        let bytes: Vec<u8> = (1..=33).collect();
        for len in 0..=32 {
            let token = Token::from_bytes(&bytes[..len]).unwrap();
            assert_eq!(token.as_bytes(), &bytes[..len]);
        }

        let error = Token::from_bytes(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidReceipt);
    }

    #[test]
    fn reads_as_many_words_as_were_written_and_no_other_number() {
        let words = [1, i64::MIN, -1, i64::MAX];
        let token = Token::from_words(words);
        assert_eq!(token.words(), Some(words));
        assert_eq!(token.words::<3>(), None);
        assert_eq!(Token::from_words([7]).words(), Some([7]));

        assert_eq!(Token::from_words([]), Token::default());
        assert_eq!(Token::default().words(), Some([]));
        assert_eq!(Token::default().words::<1>(), None);
        assert_eq!(Token::from_bytes(&[0; 9]).unwrap().words::<1>(), None);
    }

    #[test]
    fn differs_where_only_the_length_does() {
        let short = Token::from_bytes(&[1]).unwrap();
        let long = Token::from_bytes(&[1, 0]).unwrap();
        assert_ne!(short, long);
        assert_ne!(Token::default(), Token::from_words([0]));
    }

    #[test]
    fn shows_its_bytes_in_hexadecimal() {
        let words = Token::from_words([1, -2]);
        let shown = "Token(0000000000000001fffffffffffffffe)";
        assert_eq!(format!("{words:?}"), shown);
        assert_eq!(format!("{:?}", Token::default()), "Token()");
    }
}
