//! Environment variables that are `true` or `false`.

use std::ffi::OsStr;

use ezq_core::{Error, ErrorKind, Result};

/// What a variable says; `None` if it is unset or empty.
///
/// # Errors
/// [`ErrorKind::Configuration`] for any other value.
pub(crate) fn flag(name: &str) -> Result<Option<bool>> {
    read(name, std::env::var_os(name).as_deref())
}

fn read(name: &str, value: Option<&OsStr>) -> Result<Option<bool>> {
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let flag = value.to_str().and_then(|text| text.parse().ok());
    flag.map(Some).ok_or_else(|| {
        let text = format!("{name}: use `true` or `false`");
        Error::new(ErrorKind::Configuration, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_true_or_false_or_unset() {
        let of = |value: Option<&str>| read("EZQ_FLAG", value.map(OsStr::new));
        assert_eq!(of(Some("true")).unwrap(), Some(true));
        assert_eq!(of(Some("false")).unwrap(), Some(false));
        assert_eq!(of(Some("")).unwrap(), None);
        assert_eq!(of(None).unwrap(), None);

        for wrong in ["yes", "1", "TRUE", " true"] {
            let error = of(Some(wrong)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.to_string().starts_with("EZQ_FLAG: "), "{error}");
        }
    }
}
