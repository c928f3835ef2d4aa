//! Dead letters: where there are some, those of a queue by filter, and what is done to selected ones.

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use ezq::admin::{EventRef, EventState, PageCursor};

use crate::board::Board;
use crate::failure::Failure;
use crate::frame::{Frame, Prefix, render};
use crate::notes::Done;
use crate::rights::Operator;
use crate::screens::filter::{Chip, FilterQuery};
use crate::screens::links::{BulkLink, links};
use crate::screens::message::message_id;
use crate::screens::messages::{MessageRow, PAGE};
use crate::screens::operations::OperationView;
use crate::screens::queues::{self, QueueRow};
use crate::text;
use crate::verb::Verb;

#[derive(Template)]
#[template(path = "dead_queues.html")]
struct QueuesPage {
    frame: Frame,
    is_known: bool,
    queues: Vec<QueueRow>,
}

#[derive(Template)]
#[template(path = "dead_letters.html")]
struct Page {
    frame: Frame,
    name: String,
    queue_href: String,
    path: String,
    query: FilterQuery,
    chips: Vec<Chip>,
    rows: Vec<MessageRow>,
    next: Option<String>,
    is_first: bool,
    operations: Vec<OperationView>,
    is_running: bool,
    bulk: Vec<BulkLink>,
}

pub(crate) async fn overview(State(board): State<Board>, frame: Frame) -> Response {
    let reading = board.sample.look().await;
    let frame = frame.page("/dead", "Dead letters").live().sampled(&reading);
    let mut queues = QueueRow::all(&frame, reading.value.as_deref());
    queues.retain(|queue| queue.has_dead);

    render(&QueuesPage {
        is_known: reading.value.is_some(),
        queues,
        frame,
    })
}

pub(crate) async fn show(
    State(board): State<Board>,
    frame: Frame,
    Path(name): Path<String>,
    Query(query): Query<FilterQuery>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let filter = query.filter()?;
    let events = board.ezq.events(&queue)?;
    let mut page = events.page(EventState::Dead).filter(filter).limit(PAGE);
    if !query.after.is_empty() {
        page = page.after(PageCursor::new(&query.after));
    }
    let found = board.ask(page).await?;

    let frame = frame
        .about(&board, &queue)
        .page("/dead", format!("Dead letters of {queue}"));
    let queue_href = frame.to(&format!("/queues/{}", text::encoded(queue.as_str())));

    let path = format!("{queue_href}/dead");
    let rows = found.events.iter();
    // Without the operations the dead letters are shown all the same.
    let reading = board.operations.look().await;
    let all = reading.value.as_deref().map_or(&[][..], Vec::as_slice);
    let operations = OperationView::of_queue(&frame, &board, all, &queue);
    // Only the progress is refreshed: a list in which somebody selects must stay as it is.
    let is_running = operations.iter().any(|one| one.can_stop);

    Ok(render(&Page {
        name: queue.to_string(),
        chips: query.chips(&path),
        rows: rows
            .map(|event| MessageRow::of(&queue_href, event))
            .collect(),
        next: found.next.map(|next| query.next(&path, next.as_str())),
        is_first: query.after.is_empty(),
        operations,
        is_running,
        bulk: links(&queue_href, EventState::Dead, &query),
        queue_href,
        path,
        query,
        frame,
    }))
}

/// The fields of a form, which may have several of one name.
type Fields = Vec<(String, String)>;

pub(crate) async fn selected(
    State(board): State<Board>,
    Operator { by }: Operator,
    prefix: Prefix,
    Path((name, action)): Path<(String, String)>,
    Form(fields): Form<Fields>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let verb = Verb::of(&action).filter(|verb| matches!(verb, Verb::Redrive | Verb::Discard));
    let verb = verb.ok_or_else(|| Failure::missing("There is no such action."))?;
    let ids = fields.iter().filter(|(name, _)| name == "id");
    let ids: Vec<_> = ids.map(|(_, id)| message_id(id)).collect();
    if ids.is_empty() {
        return Err(Failure::wrong("No dead letter was selected."));
    }

    // How many there still were: somebody else may have acted on some of them.
    let mut count = 0;
    for id in ids {
        let events = board.ezq.events(&queue)?;
        let act = match verb {
            Verb::Redrive => events.redrive(&id),
            _ => events.discard(EventRef::Dead(id)),
        };
        match board.ask(act.by(&by)).await {
            Ok(is_done) => count += usize::from(is_done),
            Err(failure) => return Err(failure.after(count, "dead letter")),
        }
    }
    board.change();
    let done = match verb {
        Verb::Redrive => Done::Redriven,
        _ => Done::Discarded,
    };

    let path = format!("/queues/{}/dead", text::encoded(queue.as_str()));
    Ok(prefix.redirect(&done.at(&path, count)))
}
