//! The account that the server runs under. Postgres refuses root, so root switches to another.

use std::os::unix::fs::MetadataExt;

use ezq_core::{Error, ErrorKind, Result};

/// A line of the passwd file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// The account to switch to; `None` to stay with the current one.
    pub(super) fn for_server() -> Result<Option<Self>> {
        // The owner of this process's entry in /proc, or of a new file, is the effective uid.
        if effective_uid() != Some(0) {
            return Ok(None);
        }

        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let account = ["postgres", "nobody"]
            .iter()
            .find_map(|name| find(&passwd, name));
        if account.is_none() {
            let text = "Postgres does not run as root and /etc/passwd has no `postgres` or \
                        `nobody`: run as another user";
            return Err(Error::new(ErrorKind::Configuration, text));
        }
        Ok(account)
    }
}

pub(super) fn effective_uid() -> Option<u32> {
    if let Ok(meta) = std::fs::metadata("/proc/self") {
        return Some(meta.uid());
    }
    let probe = std::env::temp_dir().join(format!("ezq-uid-{}", std::process::id()));
    let uid = std::fs::File::create(&probe)
        .and_then(|file| file.metadata())
        .map(|meta| meta.uid());
    let _ = std::fs::remove_file(&probe);
    uid.ok()
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Account { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_an_account_by_its_whole_name() {
        let passwd = "root:x:0:0:r:/root:/bin/sh\npostgresx:x:7:7::/:\npostgres:x:101:104::/:\n";
        let expected = Account { uid: 101, gid: 104 };
        assert_eq!(find(passwd, "postgres"), Some(expected));
        assert_eq!(find(passwd, "nobody"), None);
    }
}
