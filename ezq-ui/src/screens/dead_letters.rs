//! Dead letters: where there are some, those of a queue by filter, and what is done to them.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use chrono::Utc;
use ezq::QueueName;
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use crate::board::Board;
use crate::failure::{Failure, LIMIT};
use crate::frame::{Frame, Prefix, render};
use crate::notes::Done;
use crate::rights::Operator;
use crate::runs::{Action, Run, act, dead_page};
use crate::screens::filter::{Chip, FilterQuery};
use crate::screens::message::message_id;
use crate::screens::messages::{MessageRow, PAGE};
use crate::screens::queues::{self, QueueRow};
use crate::text;

/// The largest page, for counting.
const COUNTED: usize = 1_000;

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
    runs: Vec<RunView>,
    is_running: bool,
    redrive_all: String,
    discard_all: String,
}

struct RunView {
    title: String,
    state: String,
    by: String,
    began: String,
    found: u64,
    done: u64,
    is_running: bool,
}

#[derive(Template)]
#[template(path = "dead_preview.html")]
struct Preview {
    frame: Frame,
    name: String,
    path: String,
    action: Action,
    query: FilterQuery,
    filter: String,
    count: String,
    is_exact: bool,
    is_empty: bool,
    rows: Vec<MessageRow>,
}

pub(crate) async fn overview(State(board): State<Board>, frame: Frame) -> Response {
    let reading = board.sample.look().await;
    let frame = frame.page("/dead", "Dead letters").live().figures(&reading);
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
    let after = (!query.after.is_empty()).then_some(query.after.as_str());
    let found = board
        .ask(dead_page(&board.ezq, &queue, &filter, PAGE, after))
        .await?;

    let frame = frame.page("/dead", format!("Dead letters of {queue}"));
    let queue_href = frame.to(&format!("/queues/{}", text::encoded(queue.as_str())));

    let path = format!("{queue_href}/dead");
    let rows = found.events.iter();
    let runs: Vec<RunView> = board
        .runs
        .of(&queue)
        .iter()
        .map(|run| RunView::of(run))
        .collect();
    // Only the progress is refreshed: a list in which somebody selects must stay as it is.
    let is_running = runs.iter().any(|run| run.is_running);
    let bulk = format!("{path}/all/");

    Ok(render(&Page {
        name: queue.to_string(),
        chips: query.chips(&path),
        rows: rows
            .map(|event| MessageRow::of(&queue_href, event))
            .collect(),
        next: found.next.map(|next| query.next(&path, next.as_str())),
        is_first: query.after.is_empty(),
        runs,
        is_running,
        redrive_all: query.address(&format!("{bulk}redrive")),
        discard_all: query.address(&format!("{bulk}discard")),
        queue_href,
        path,
        query,
        frame,
    }))
}

impl RunView {
    fn of(run: &Run) -> Self {
        let end = run.end.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match &*end {
            None => "running".to_owned(),
            Some(None) => "done".to_owned(),
            Some(Some(failure)) => format!("ended early: {failure}"),
        };

        Self {
            title: format!("{} {}", run.action.name(), run.filter),
            state,
            by: run.by.clone(),
            began: text::relative(run.began, Utc::now()),
            found: run.found.load(Ordering::Relaxed),
            done: run.done.load(Ordering::Relaxed),
            is_running: end.is_none(),
        }
    }
}

/// What an action on all that match would do.
pub(crate) async fn preview(
    State(board): State<Board>,
    frame: Frame,
    Path((name, action)): Path<(String, String)>,
    Query(query): Query<FilterQuery>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let action = Action::of(&action).ok_or_else(|| Failure::missing("There is no such action."))?;
    // By the clock of the database, which says when a letter died.
    let now = board.ask(board.ezq.queues().get(&queue)).await?.at;
    let query = query.fixed(now)?;
    let found = count(&board, &queue, &query).await?;

    let frame = frame.page(
        "/dead",
        format!("{} dead letters of {queue}?", capital(action)),
    );
    let queue_href = frame.to(&format!("/queues/{}", text::encoded(queue.as_str())));

    Ok(render(&Preview {
        name: queue.to_string(),
        path: format!("{queue_href}/dead"),
        action,
        filter: query.says(),
        count: text::counted(found.count, "dead letter"),
        is_exact: found.is_exact,
        is_empty: found.count == 0,
        rows: found
            .first
            .iter()
            .map(|event| MessageRow::of(&queue_href, event))
            .collect(),
        query,
        frame,
    }))
}

fn capital(action: Action) -> &'static str {
    match action {
        Action::Redrive => "Redrive",
        Action::Discard => "Discard",
    }
}

/// The dead letters that match, counted as far as the time suffices.
struct Counted {
    count: u64,
    is_exact: bool,
    /// Some of them, to look at.
    first: Vec<ezq::admin::EventCopy>,
}

async fn count(board: &Board, queue: &QueueName, query: &FilterQuery) -> Result<Counted, Failure> {
    let filter = query.filter()?;
    let end = Instant::now() + LIMIT;
    let first = dead_page(&board.ezq, queue, &filter, COUNTED, None);
    let mut page = board.ask(first).await?;
    let mut counted = Counted {
        count: page.events.len() as u64,
        is_exact: true,
        first: page.events.iter().take(5).cloned().collect(),
    };

    while let Some(next) = page.next {
        let following = dead_page(&board.ezq, queue, &filter, COUNTED, Some(next.as_str()));
        // All pages together have the time of one question.
        let Ok(answer) = timeout(end.saturating_duration_since(Instant::now()), following).await
        else {
            counted.is_exact = false;
            break;
        };
        page = answer?;
        counted.count += page.events.len() as u64;
    }
    Ok(counted)
}

/// The fields of a form, which may have several of one name.
type Fields = Vec<(String, String)>;

pub(crate) async fn selected(
    State(board): State<Board>,
    _: Operator,
    prefix: Prefix,
    Path((name, action)): Path<(String, String)>,
    Form(fields): Form<Fields>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let action = Action::of(&action).ok_or_else(|| Failure::missing("There is no such action."))?;
    let ids = fields.iter().filter(|(name, _)| name == "id");
    let ids: Vec<_> = ids.map(|(_, id)| message_id(id)).collect();
    if ids.is_empty() {
        return Err(Failure::wrong("No dead letter was selected."));
    }

    // How many there still were: somebody else may have acted on some of them.
    let count = board.ask(act(&board.ezq, &queue, action, ids)).await?;
    board.sample.change();
    let done = match action {
        Action::Redrive => Done::Redriven,
        Action::Discard => Done::Discarded,
    };

    let path = format!("/queues/{}/dead", text::encoded(queue.as_str()));
    Ok(prefix.redirect(&done.at(&path, count)))
}

/// The filter of an action on all that match, as its preview has fixed it.
#[derive(Debug, Deserialize)]
pub(crate) struct AllForm {
    #[serde(flatten)]
    filter: FilterQuery,
}

pub(crate) async fn all(
    State(board): State<Board>,
    Operator { by }: Operator,
    prefix: Prefix,
    Path((name, action)): Path<(String, String)>,
    Form(form): Form<AllForm>,
) -> Result<Response, Failure> {
    let queue = queues::find(&board, &name).await?;
    let action = Action::of(&action).ok_or_else(|| Failure::missing("There is no such action."))?;
    // Without the time of a preview nobody has seen what this would change.
    if form.filter.until.is_empty() {
        return Err(Failure::wrong(
            "Look at the preview first: what it shows is what is changed.",
        ));
    }
    let filter = form.filter.filter()?;
    let run = Run {
        action,
        queue: queue.clone(),
        by,
        filter: form.filter.says(),
        began: Utc::now(),
        found: 0.into(),
        done: 0.into(),
        end: Mutex::new(None),
    };

    let after = board.clone();
    board.runs.begin(board.ezq.clone(), run, filter, move || {
        after.sample.change()
    });

    let path = format!("/queues/{}/dead", text::encoded(queue.as_str()));
    let place = form.filter.address(&path);
    Ok(prefix.redirect(&Done::Begun.at(&place, 0)))
}
