//! Statements that stand whole in files, where they can be reviewed.

use std::path::Path;

/// Compares a rendered statement with the file under review, whose path begins in `src`.
#[track_caller]
pub(crate) fn assert_rendered(file: &str, statement: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
    let rendered = format!("{}\n", statement.trim_end());
    if std::env::var_os("EZQ_RENEW_SQL").is_some() {
        std::fs::write(&file, &rendered).unwrap();
    }

    let reviewed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        rendered == reviewed,
        "the statement differs from {}: renew the file with `EZQ_RENEW_SQL=1 cargo test -p \
         ezq-pgmq rendered`, and review the change",
        file.display()
    );
}
