//! Acting on all events that match a filter: first what that would be, then the operation.

use askama::Template;
use axum::Form;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use ezq::admin::{EventPage, EventState, Operation, Preview};
use ezq::{ErrorKind, QueueName};
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::board::Board;
use crate::failure::{Failure, LIMIT};
use crate::frame::{Frame, Prefix, render};
use crate::notes::Done;
use crate::rights::Operator;
use crate::screens::filter::{FilterQuery, says};
use crate::screens::message::message_id;
use crate::screens::messages::MessageRow;
use crate::screens::queues;
use crate::text;
use crate::verb::{Verb, noun, plural};

/// So many of the events are shown.
const SHOWN: usize = 5;

#[derive(Template)]
#[template(path = "bulk.html")]
struct Page {
    frame: Frame,
    name: String,
    queue_href: String,
    /// Where this is ordered.
    here: String,
    /// The list that leads here.
    list: String,
    verb: Verb,
    query: FilterQuery,
    filter: String,
    what: String,
    /// `None` if counting takes longer than a page waits.
    count: Option<Counted>,
    is_empty: bool,
    targets: Vec<String>,
    rows: Vec<MessageRow>,
}

struct Counted {
    text: String,
    is_empty: bool,
    last: String,
}

impl Counted {
    fn of(state: EventState, preview: &Preview) -> Self {
        Self {
            text: noun(state, preview.count),
            is_empty: preview.count == 0,
            last: preview
                .last
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        }
    }
}

/// What an address says: the queue, the state of the events, and what is done to them.
struct Place {
    queue: QueueName,
    state: EventState,
    verb: Verb,
}

impl Place {
    async fn find(board: &Board, path: &(String, String, String)) -> Result<Self, Failure> {
        let (name, state, verb) = path;
        let queue = queues::find(board, name).await?;
        let state: EventState = state.parse()?;
        let verb = Verb::of(verb).filter(|verb| verb.fits(state));
        let verb =
            verb.ok_or_else(|| Failure::missing("There is no such action for these events."))?;
        Ok(Self { queue, state, verb })
    }
}

/// What it would be done to. This changes nothing.
pub(crate) async fn preview(
    State(board): State<Board>,
    frame: Frame,
    Path(path): Path<(String, String, String)>,
    Query(query): Query<FilterQuery>,
) -> Result<Response, Failure> {
    let Place { queue, state, verb } = Place::find(&board, &path).await?;
    // Exact from here on: “the last hour” must not go on while somebody looks.
    let query = query.fixed()?;
    let filter = query.filter()?;
    let events = board.ezq.events(&queue)?;

    // Which action it would be does not matter for the count.
    let would = events.all(state).filter(filter.clone()).discard();
    let count = match timeout(LIMIT, would.preview()).await {
        Ok(Ok(preview)) => Some(Counted::of(state, &preview)),
        Ok(Err(error)) if error.kind() != ErrorKind::Transient => return Err(error.into()),
        // It takes longer than a page waits, or than the store counts.
        _ => None,
    };
    let first = events.page(state).filter(filter.clone()).limit(SHOWN);
    let first = match (&count, board.ask(first).await) {
        (_, Ok(first)) => first,
        // A page looks at few events. If that takes too long as well, the database is away.
        (None, Err(failure)) => return Err(failure),
        // The examples are no reason to show nothing.
        (Some(_), Err(_)) => EventPage::default(),
    };

    let what = plural(state);
    let frame = frame.about(&board, &queue).page(
        match state {
            EventState::Dead => "/dead",
            _ => "/queues",
        },
        format!("{} {what} of {queue}?", verb.label()),
    );
    let queue_href = frame.to(&format!("/queues/{}", text::encoded(queue.as_str())));
    let rows = first.events.iter();
    let page = Page {
        targets: match verb {
            Verb::Move => queues::others(&board, &queue).await,
            _ => Vec::new(),
        },
        name: queue.to_string(),
        here: format!("{queue_href}/all/{state}/{}", verb.name()),
        list: list(&queue_href, state, &query),
        filter: says(&filter),
        what,
        is_empty: count.as_ref().is_some_and(|count| count.is_empty),
        count,
        rows: rows
            .map(|event| MessageRow::of(&queue_href, event))
            .collect(),
        queue_href,
        verb,
        query,
        frame,
    };
    Ok(render(&page))
}

fn list(queue_path: &str, state: EventState, query: &FilterQuery) -> String {
    match state {
        EventState::Dead => query.conditions_at(&format!("{queue_path}/dead")),
        _ => query.in_state(&format!("{queue_path}/messages"), &state.to_string()),
    }
}

/// An order, as the form of a preview sends it.
#[derive(Debug, Deserialize)]
pub(crate) struct OrderForm {
    #[serde(flatten)]
    filter: FilterQuery,
    /// The newest event when the preview was made.
    #[serde(default)]
    last: String,
    /// `yes` of one who has seen that the events were not counted.
    #[serde(default)]
    uncounted: String,
    /// The queue to move to.
    #[serde(default)]
    to: String,
    #[serde(default)]
    reason: String,
}

/// Stores the operation, and begins with it.
pub(crate) async fn start(
    State(board): State<Board>,
    Operator { by }: Operator,
    prefix: Prefix,
    Path(path): Path<(String, String, String)>,
    Form(form): Form<OrderForm>,
) -> Result<Response, Failure> {
    let place = Place::find(&board, &path).await?;
    // Without a preview nobody has seen what this would change.
    if form.last.is_empty() && form.uncounted != "yes" {
        return Err(Failure::wrong(
            "Look at the preview first: what it shows is what is changed.",
        ));
    }
    let to = match place.verb {
        Verb::Move => queues::find(&board, &form.to).await?,
        _ => place.queue.clone(),
    };
    // Read here, so that a wrong time is told to whoever wrote it.
    form.filter.filter()?;

    // In a task: the store counts before it begins, which may take longer than a page waits, and a
    // browser that goes away must leave no operation without somebody who takes its steps.
    let (tell, told) = oneshot::channel();
    let task = board.clone();
    tokio::spawn(async move {
        let stored = store(&task, &place, &form, (&to, &by)).await;
        if let Ok(operation) = &stored {
            task.drive(operation.id.clone(), by);
        }
        // Nobody waits any more if the page has given up.
        let _ = tell.send(stored);
    });
    let path = match timeout(LIMIT, told).await {
        Ok(Ok(stored)) => format!("/operations/{}", text::encoded(&stored?.id)),
        Ok(Err(_)) => return Err(Failure::wrong("The operation could not be stored.")),
        Err(_) => "/operations".to_owned(),
    };
    Ok(prefix.redirect(&Done::Begun.at(&path, 0)))
}

async fn store(
    board: &Board,
    place: &Place,
    form: &OrderForm,
    (to, by): (&QueueName, &str),
) -> Result<Operation, Failure> {
    let mut events = board.ezq.events(&place.queue)?.all(place.state);
    events = events.filter(form.filter.filter()?);
    if !form.last.is_empty() {
        // What has come since was in no preview.
        events = events.previewed(&Preview::new(0, Some(message_id(&form.last))));
    }
    let mut order = place.verb.order(events, to).by(by);
    if !form.reason.trim().is_empty() {
        order = order.reason(form.reason.trim());
    }
    Ok(order.start().await?)
}
