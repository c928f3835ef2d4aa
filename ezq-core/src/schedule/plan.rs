//! An application's schedules, checked when it is built.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, Semaphore};

use super::when::When;
use super::{Missed, Schedule};
use crate::engine::{Outgoing, ScheduleRow, ScheduleStore};
use crate::error::{Error, ErrorKind, Result};
use crate::event::tick::Tick;
use crate::message::queue_name::QueueName;
use crate::publish::builder::PublishOptions;
use crate::publish::publisher::{Draft, Prepared, Publisher};
use crate::publish::services::Services;

/// The longest name of a schedule, in bytes.
const NAME_LIMIT: usize = 255;

/// A schedule as it is given to a builder.
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

/// A schedule, checked.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) when: When,
    pub(crate) missed: Missed,
    /// What two processes that have the same schedule agree on.
    pub(crate) definition: String,
    /// Its end: what is published, and where to.
    target: String,
    pub(crate) queue: QueueName,
    pub(crate) event_type: String,
    /// Set while the definition of this process stands or was overruled.
    pub(crate) registered: AtomicBool,
    options: PublishOptions,
    template: Template,
}

impl Planned {
    /// Whether a schedule of this name is another thing: another application's, which publishes
    /// something else, or elsewhere. Two programs of one application need not agree on its name.
    pub(crate) fn differs_from(&self, row: &ScheduleRow, application: &str) -> bool {
        row.application != application && !row.definition.ends_with(&self.target)
    }

    /// Whether it publishes the ticks of a function that is their only handler.
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

/// The schedules of an application, and what those who run them share.
#[derive(Debug)]
pub(crate) struct Plans {
    pub(crate) planned: Vec<Planned>,
    /// Of several consumers one runs the schedules; the next takes its turn when that ends.
    pub(crate) turn: Semaphore,
    /// Something was changed by hand.
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
            planned.push(check(plan, publisher).map_err(|error| {
                let why = format!("the schedule `{}`: {error}", name.escape_debug());
                Error::new(error.kind(), why).with_source(error)
            })?);
        }
        Ok(Self {
            planned,
            turn: Semaphore::new(1),
            nudge: Notify::new(),
        })
    }

    /// The rows are gone with their table: they are put in place anew.
    pub(crate) fn forget(&self) {
        self.planned
            .iter()
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
            "its name must have 1 to {NAME_LIMIT} bytes, something to read, and no control characters"
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
        registered: AtomicBool::new(false),
        options: PublishOptions {
            queue,
            ..PublishOptions::default()
        },
        template: template?,
    };
    // What cannot be published is refused now, not at the first tick.
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
    planned.definition = format!("{}, missed: {missed}, {}", planned.when, planned.target);
    Ok(planned)
}

/// The store that keeps schedules, which must keep the queue as well.
fn store<'s>(services: &'s Services, queue: &QueueName) -> Result<&'s dyn ScheduleStore> {
    let engines = &services.engines;
    if engines.routes.contains_key(queue) {
        let why = format!(
            "its queue `{queue}` is routed to another engine: events and schedule are kept together, \
             so give it a queue of the application's own engine"
        );
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    engines.default.schedules().ok_or_else(|| {
        let name = engines.default.capabilities().name;
        let why = format!("the engine `{name}` keeps no schedules");
        Error::new(ErrorKind::Unsupported, why)
    })
}
