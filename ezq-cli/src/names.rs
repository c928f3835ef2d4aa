//! Names that do not exist, and the names that were probably meant.

use ezq::message::IntoQueueName;
use ezq::{Ezq, QueueName};

use crate::failure::Failure;

/// How much a name must look like another to be suggested, from 0 to 1.
const ALIKE: f64 = 0.7;

/// A queue that exists.
pub(crate) async fn queue(ezq: &Ezq, name: impl IntoQueueName) -> Result<QueueName, Failure> {
    let queue = name.into_queue_name()?;
    // All names: the error names the nearest one.
    let existing = ezq.queues().names().await?;
    if existing.contains(&queue) {
        return Ok(queue);
    }

    let known = existing.iter().map(QueueName::as_str);
    let text = missing("queue", queue.as_str(), known, "there is no");
    Err(Failure::not_found(text))
}

/// The sentence on a name that is missing.
pub(crate) fn missing<'a>(
    kind: &str,
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
    begin: &str,
) -> String {
    let nearest = known
        .into_iter()
        .map(|known| (strsim::normalized_damerau_levenshtein(name, known), known))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    match nearest {
        Some((_, nearest)) => format!("{begin} {kind} `{name}`: is it `{nearest}`?"),
        None => format!("{begin} {kind} `{name}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_and_no_far_one() {
        let known = ["orders", "order-mails", "invoices"];
        for (name, meant) in [
            ("ordres", Some("orders")),
            ("order", Some("orders")),
            ("order_mails", Some("order-mails")),
            ("payments", None),
            ("", None),
        ] {
            let text = missing("queue", name, known, "there is no");
            let suggested = meant.map(|meant| text.ends_with(&format!("is it `{meant}`?")));
            let is_right = suggested.unwrap_or(!text.contains("is it"));
            assert!(is_right, "{text}");
        }
    }
}
