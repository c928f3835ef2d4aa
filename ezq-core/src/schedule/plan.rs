//! The schedules of an application, checked when it is built.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, Semaphore};

use super::stored::StoredEvent;
use super::when::When;
use super::{Missed, Schedule};
use crate::engine::{Outgoing, ScheduleRow, ScheduleStore};
use crate::error::{Error, ErrorKind, Result};
use crate::event::tick::Tick;
use crate::message::queue_name::QueueName;
use crate::publish::draft::Draft;
use crate::publish::options::PublishOptions;
use crate::publish::prepared::Prepared;
use crate::publish::publisher::Publisher;
use crate::publish::services::Services;

/// The longest name of a schedule, in bytes.
const NAME_LIMIT: usize = 255;

/// A schedule as it is given to a builder, not checked yet.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) schedule: Schedule,
    pub(crate) template: Result<Template>,
}

/// What a schedule publishes.
#[derive(Debug, Clone)]
pub(crate) enum Template {
    /// A [`Tick`] under a type name of its own.
    Tick(&'static str),
    Event(Draft),
}

/// A schedule that was checked.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) when: When,
    pub(crate) missed: Missed,
    /// Times, policy, event type and queue in one text. Two processes have the same schedule if their
    /// definitions are equal.
    pub(crate) definition: String,
    /// The end of the definition: event type and queue.
    target: String,
    pub(crate) queue: QueueName,
    pub(crate) event_type: String,
    /// What it publishes, for processes that do not have it in their code; `None` if they cannot.
    pub(crate) stored_event: Option<String>,
    /// Whether this process need not register the schedule: its definition is stored, or a newer one
    /// has replaced it.
    pub(crate) registered: AtomicBool,
    options: PublishOptions,
    template: Template,
}

impl Planned {
    /// Whether the stored schedule of this name belongs to something else: to another application, with
    /// another event type or queue. Two programs of one application may differ in its other parts.
    pub(crate) fn differs_from(&self, row: &ScheduleRow, application: &str) -> bool {
        row.application != application && !row.definition.ends_with(&self.target)
    }

    /// Whether it publishes the ticks of an `#[on_schedule]` function, which is their only handler.
    pub(crate) fn is_tick(&self) -> bool {
        matches!(self.template, Template::Tick(_))
    }

    /// The event of one tick.
    pub(crate) fn message(
        &self,
        publisher: &Publisher,
        due: DateTime<Utc>,
        previous: Option<DateTime<Utc>>,
    ) -> Result<Prepared> {
        let draft = match &self.template {
            Template::Tick(event_type) => Draft::tick(
                event_type,
                &Tick {
                    schedule: self.name.clone(),
                    due,
                    previous,
                },
            )?,
            Template::Event(draft) => draft.clone(),
        };

        let options = PublishOptions {
            time: Some(due),
            ..self.options.clone()
        };
        publisher.prepare(draft, &options)
    }
}

/// The schedules of an application, and what its consumers share to run them.
#[derive(Debug)]
pub(crate) struct Plans {
    pub(crate) planned: Vec<Planned>,
    /// Held by the consumer that runs the schedules. When it ends, another one takes over.
    pub(crate) timekeeper: Semaphore,
    /// Notified when a schedule was changed by hand, so that it is read again at once.
    pub(crate) nudge: Notify,
}

impl Plans {
    pub(crate) fn new(plans: Vec<Plan>, publisher: &Publisher) -> Result<Self> {
        let mut names = BTreeSet::new();
        let mut planned = Vec::with_capacity(plans.len());

        for plan in plans {
            let name = plan.name.clone();
            if !names.insert(name.clone()) {
                let why = format!("two schedules have the name `{name}`: rename one of them");
                return Err(Error::new(ErrorKind::Configuration, why));
            }
            // The name goes first, since a program may have many schedules.
            planned.push(check(plan, publisher).map_err(|error| {
                let why = format!("the schedule `{}`: {error}", name.escape_debug());
                Error::new(error.kind(), why).with_source(error)
            })?);
        }

        Ok(Self {
            planned,
            timekeeper: Semaphore::new(1),
            nudge: Notify::new(),
        })
    }

    /// Makes every schedule be registered again, because the table with their rows was dropped.
    pub(crate) fn forget(&self) {
        self.planned
            .iter()
            // Relaxed: registering once more than needed changes nothing.
            .for_each(|planned| planned.registered.store(false, Ordering::Relaxed));
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Planned> {
        self.planned.iter().find(|planned| planned.name == name)
    }
}

fn check(plan: Plan, publisher: &Publisher) -> Result<Planned> {
    let Plan {
        name,
        schedule,
        template,
    } = plan;
    if name.trim().is_empty() || name.contains(char::is_control) || name.len() > NAME_LIMIT {
        let why = format!(
            "its name must have 1 to {NAME_LIMIT} bytes, must not be blank, and must not have \
             control characters"
        );
        return Err(Error::new(ErrorKind::Configuration, why));
    }

    let when = When::new(&schedule)?;
    let queue = schedule.queue.as_deref().map(QueueName::new).transpose()?;
    let mut planned = Planned {
        name,
        when,
        missed: schedule.missed,
        definition: String::new(),
        target: String::new(),
        queue: publisher.services.default_queue.clone(),
        event_type: String::new(),
        stored_event: None,
        registered: AtomicBool::new(false),
        options: PublishOptions {
            queue,
            ..PublishOptions::default()
        },
        template: template?,
    };

    // An event that cannot be published is refused now, not at the first tick.
    let sample = planned.message(publisher, Utc::now(), Some(Utc::now()))?;
    let Outgoing { queue, .. } = &sample.outgoing;
    store(&publisher.services, queue)?;
    publisher.services.engines.default.check(&sample.outgoing)?;

    let missed = match planned.missed {
        Missed::FireOnce => "fire once",
        Missed::Skip => "skip",
    };
    planned.target = format!("`{}` to {queue}", sample.event_type);
    planned.queue = queue.clone();
    planned.event_type.clone_from(&sample.event_type);
    planned.stored_event = StoredEvent::of(&sample, planned.is_tick());
    planned.definition = format!("{}, missed: {missed}, {}", planned.when, planned.target);
    Ok(planned)
}

/// The engine's schedules. The engine must keep the queue too, because a tick advances its schedule and
/// publishes its event in one step.
fn store<'s>(services: &'s Services, queue: &QueueName) -> Result<&'s dyn ScheduleStore> {
    let engines = &services.engines;
    if engines.routes.contains_key(queue) {
        let why = format!(
            "its queue `{queue}` is routed to another engine: events and schedule are kept \
             together, so give it a queue of the application's own engine"
        );
        return Err(Error::new(ErrorKind::Unsupported, why));
    }

    engines.default.schedules().ok_or_else(|| {
        let name = engines.default.capabilities().name;
        let why = format!("the engine `{name}` does not support schedules");
        Error::new(ErrorKind::Unsupported, why)
    })
}
