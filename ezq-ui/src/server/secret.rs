//! What one has to know to get in: a token, or a password of which only a hash is kept.
//!
//! Neither is kept as text: a token as its digest, which is enough because nobody can guess a token.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::error::{ServerError, ServerErrorKind};

/// Shorter tokens can be guessed: 16 random characters of 64 kinds are 96 bits.
const SHORTEST_TOKEN: usize = 16;
/// As NIST SP 800-63B has it for what people choose.
const SHORTEST_PASSWORD: usize = 8;
/// More than a secret has. A device that never ends is not read for ever.
const LARGEST_FILE: u64 = 4 * 1024;

/// What one has to know to get into a [`Server`](super::Server).
#[derive(Clone)]
pub struct Secret(Kind);

#[derive(Clone)]
enum Kind {
    Token(Digest),
    Password(Box<PasswordHash>),
}

impl Secret {
    /// A random text, such as the output of `openssl rand -base64 32`.
    ///
    /// # Errors
    /// [`ServerErrorKind::SecretWeak`] if it is shorter than 16 characters.
    pub fn token(token: &str) -> Result<Self, ServerError> {
        let token = token.trim();
        if token.chars().count() < SHORTEST_TOKEN {
            let text = format!(
                "a token needs {SHORTEST_TOKEN} characters or more, so that nobody guesses it: \
                 `openssl rand -base64 32` prints one"
            );
            return Err(ServerError::new(ServerErrorKind::SecretWeak, text));
        }
        Ok(Self(Kind::Token(Digest::of(token))))
    }

    /// The token in a file that other users of the machine cannot read.
    ///
    /// # Errors
    /// - [`ServerErrorKind::FileUnreadable`] if the file cannot be read as text.
    /// - [`ServerErrorKind::FileOpenToOthers`] if other users of the machine can read or write it.
    /// - [`ServerErrorKind::SecretWeak`] if the token is shorter than 16 characters.
    pub fn token_file(path: impl AsRef<Path>) -> Result<Self, ServerError> {
        Self::token(&read(path.as_ref())?)
    }

    /// The password whose Argon2 hash is in a file, as [`hash_password`](Self::hash_password) makes it.
    ///
    /// # Errors
    /// - [`ServerErrorKind::FileUnreadable`] if the file cannot be read as text.
    /// - [`ServerErrorKind::FileOpenToOthers`] if other users of the machine can read or write it.
    /// - [`ServerErrorKind::PasswordInvalid`] if it does not hold such a hash.
    pub fn password_file(path: impl AsRef<Path>) -> Result<Self, ServerError> {
        let text = read(path.as_ref())?;
        let hash = PasswordHash::new(text.trim()).ok();
        let known = hash.filter(|hash| {
            Algorithm::try_from(hash.algorithm.as_str()).is_ok()
                && hash.hash.is_some()
                && hash.salt.is_some()
        });
        match known {
            Some(hash) => Ok(Self(Kind::Password(Box::new(hash)))),
            // The text is not repeated: it may be the password.
            None => Err(ServerError::new(
                ServerErrorKind::PasswordInvalid,
                format!(
                    "{} does not hold an Argon2 hash, which begins with `$argon2id$`: \
                     `ezq ui --hash-password` makes one of a password",
                    path.as_ref().display()
                ),
            )),
        }
    }

    /// The hash of a password, for a file of [`password_file`](Self::password_file).
    ///
    /// # Errors
    /// [`ServerErrorKind::SecretWeak`] if the password is shorter than 8 characters.
    pub fn hash_password(password: &str) -> Result<String, ServerError> {
        if password.chars().count() < SHORTEST_PASSWORD {
            let text = format!("a password needs {SHORTEST_PASSWORD} characters or more");
            return Err(ServerError::new(ServerErrorKind::SecretWeak, text));
        }

        let mut salt = [0; 16];
        rand::rng().fill_bytes(&mut salt);
        let hashed = Argon2::default().hash_password_with_salt(password.as_bytes(), &salt);
        let hash: PasswordHash = hashed.map_err(|error| {
            let text = format!("the password cannot be hashed: {error}");
            ServerError::new(ServerErrorKind::PasswordInvalid, text)
        })?;
        Ok(hash.to_string())
    }

    /// Whether this is the secret. With a password it takes a tenth of a second of one core.
    pub(super) fn is(&self, given: &str) -> bool {
        match &self.0 {
            Kind::Token(token) => token.is_of(given.trim()),
            Kind::Password(hash) => Argon2::default()
                .verify_password(given.as_bytes(), &**hash)
                .is_ok(),
        }
    }

    pub(super) fn is_password(&self) -> bool {
        matches!(self.0, Kind::Password(_))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

/// What is kept of a random text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    pub(super) fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Whether it is that of a text, in a time that does not depend on how much of it fits.
    pub(super) fn is_of(&self, text: &str) -> bool {
        self.0.ct_eq(&Self::of(text).0).into()
    }
}

/// 32 random bytes, as text that stands in addresses and cookies as it is.
pub(super) fn random() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn read(path: &Path) -> Result<String, ServerError> {
    let unreadable = |error| ServerError::file(path, error);
    let file = File::open(path).map_err(unreadable)?;
    // Of the open file, so that nobody exchanges it in between.
    if is_open_to_others(&file).map_err(unreadable)? {
        let shown = path.display();
        let text = format!("other users of this machine can read or write {shown}: `chmod 600` it");
        return Err(ServerError::new(ServerErrorKind::FileOpenToOthers, text));
    }

    let mut text = String::new();
    file.take(LARGEST_FILE)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Ok(text)
}

/// Whether more than the owner can write a file, or more than owner and group can read it. A group that
/// may read is how Kubernetes hands secrets to programs that are not root.
#[cfg(unix)]
fn is_open_to_others(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(file.metadata()?.permissions().mode() & 0o037 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &File) -> io::Result<bool> {
    Ok(false)
}
