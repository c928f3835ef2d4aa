//! Certificates of a test's own, for the tests of all brokers: `openssl` makes them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// What must be in a certificate of this machine, and of a client.
const SERVER: &str = "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n";
const CLIENT: &str = "extendedKeyUsage=clientAuth\n";

/// A folder with the files `<name>.pem` and `<name>.key` of:
///
/// - `authority`, which signed the next two;
/// - `server`, for the name `localhost` and no other;
/// - `client`;
/// - `stranger`, another authority, which signed nothing.
pub(crate) struct Certificates(PathBuf);

impl Certificates {
    /// `None`, with a line on stderr, if the machine has no `openssl`.
    pub(crate) fn make(test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if Command::new("openssl").arg("version").output().is_err() {
            let demanded = std::env::var_os("REQUIRE_ALL_TESTS").is_some();
            assert!(!demanded, "{test} needs openssl");
            eprintln!("SKIPPED {test}: openssl is missing (Debian: openssl)");
            return None;
        }

        let process = std::process::id();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("ezq-certificates-{process}-{count}"));
        std::fs::create_dir_all(&folder).unwrap();
        let made = Self(folder);
        made.authority("authority");
        made.authority("stranger");
        made.sign("server", SERVER);
        made.sign("client", CLIENT);
        Some(made)
    }

    /// A file, such as `authority.pem`.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        let path = self.0.join(file);
        assert!(path.exists(), "{}", path.display());
        path
    }

    fn authority(&self, name: &str) {
        openssl(
            &self.0,
            &format!("req -x509 -days 2 {} -out {name}.pem", key(name)),
        );
    }

    fn sign(&self, name: &str, extensions: &str) {
        std::fs::write(self.0.join(format!("{name}.cnf")), extensions).unwrap();
        openssl(&self.0, &format!("req {} -out {name}.csr", key(name)));
        openssl(
            &self.0,
            &format!(
                "x509 -req -days 2 -in {name}.csr -CA authority.pem -CAkey authority.key \
                 -CAcreateserial -extfile {name}.cnf -out {name}.pem"
            ),
        );
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The options for a new key without a passphrase.
fn key(name: &str) -> String {
    format!(
        "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -subj /CN={name}"
    )
}

fn openssl(folder: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(folder);
    let done = command.output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "openssl {arguments}: {said}");
}
