//! The names of test databases.

/// Test databases begin with this, so that a person sees what they are.
pub(super) const PREFIX: &str = "ezq_test_";
/// How much of a test's own name is in that of its database. Postgres allows 63 bytes in all.
const SHOWN: usize = 36;

/// The name of a test's database: the end of the test's name, which a person recognises, and a hash of
/// the whole.
pub(super) fn name_of(test: &str) -> String {
    let function = test.rsplit("::").next().unwrap_or_default();
    let shown: String = function
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '_'
            }
        })
        .take(SHOWN)
        .collect();
    format!("{PREFIX}{shown}_{:016x}", hash(test))
}

/// FNV-1a of 64 bits: the same in every process and every release.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_shows_the_name_of_its_test_and_has_a_name_of_its_own() {
        let name = name_of("/home/ada/shop shop::tests::pays");
        assert!(name.starts_with("ezq_test_pays_"), "{name}");
        assert_ne!(name, name_of("/home/ada/mail mail::tests::pays"));

        let long = name_of(&format!("shop::{}", "Ä".repeat(200)));
        assert!(long.len() <= 63, "{long}");
    }
}
