//! The errors of a queue: equal ones on one line, with the way to their events.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use ezq::admin::ErrorGroup;

use crate::board::Board;
use crate::failure::Failure;
use crate::frame::{Frame, render};
use crate::screens::filter::FilterQuery;
use crate::screens::queues;
use crate::text;

#[derive(Template)]
#[template(path = "errors.html")]
struct Page {
    frame: Frame,
    name: String,
    path: String,
    is_known: bool,
    errors: Vec<ErrorRow>,
    left_out: usize,
    is_complete: bool,
}

struct ErrorRow {
    handler: String,
    error: String,
    dead: String,
    dead_href: String,
    /// Empty if there is nothing to redrive.
    redrive_href: String,
    retrying: String,
    retrying_href: String,
    /// Empty if there is nothing to try.
    retry_href: String,
    first: String,
    last: String,
}

pub(crate) async fn show(
    State(board): State<Board>,
    frame: Frame,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let path = frame.to(&format!("/queues/{}", text::encoded(queue.as_str())));
    // Once for all viewers: it looks at many events.
    let reading = board.errors.of(&queue).look().await;
    let frame = frame
        .about(&board, &queue)
        .page("/queues", format!("Errors of {queue}"));
    let frame = frame.live().figures(&reading);
    let errors = reading.value.as_deref();
    let groups = errors.map_or(&[][..], |errors| &errors.groups);

    let rows = groups.iter().map(|group| ErrorRow::of(&path, group));
    let page = Page {
        name: queue.to_string(),
        is_known: errors.is_some(),
        errors: rows.collect(),
        left_out: errors.map_or(0, |errors| errors.left_out),
        is_complete: errors.is_none_or(|errors| errors.is_complete),
        path,
        frame,
    };
    Ok(render(&page))
}

impl ErrorRow {
    fn of(path: &str, group: &ErrorGroup) -> Self {
        let handler = group.key.handler.as_ref();
        let handler = handler.map_or("", |name| name.as_str());
        let query = FilterQuery::of_group(group);

        Self {
            handler: handler.to_owned(),
            error: group.key.error.clone(),
            dead: text::number(group.dead),
            dead_href: query.conditions_at(&format!("{path}/dead")),
            redrive_href: match group.dead {
                0 => String::new(),
                _ => query.conditions_at(&format!("{path}/all/dead/redrive")),
            },
            retry_href: match group.retrying {
                0 => String::new(),
                _ => query.conditions_at(&format!("{path}/all/retrying/retry")),
            },
            retrying: text::number(group.retrying),
            retrying_href: query.in_state(&format!("{path}/messages"), "retrying"),
            first: text::time(group.first_at),
            last: text::time(group.last_at),
        }
    }
}
