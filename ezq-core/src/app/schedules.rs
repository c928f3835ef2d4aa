//! What an application and its builder have to do with schedules.

use crate::admin::schedules::Schedules;
use crate::app::{App, AppBuilder};
use crate::error::Result;
use crate::event::Event;
use crate::publish::publisher::Draft;
use crate::schedule::Schedule;
use crate::schedule::{Plan, Template};

impl App {
    /// The schedules that the application's engine keeps: what they do next, and changing it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) when it keeps none.
    pub fn schedules(&self) -> Result<Schedules<'_>> {
        Schedules::of(&self.inner)
    }
}

impl AppBuilder {
    /// Publishes an event at the times of a schedule, while a consumer of the application runs in any
    /// process: one firing for each tick, however many run. The event is the same each time but for
    /// its id and `time`, which is when the tick was due.
    ///
    /// The name is a durable key in the engine's database: two applications that share it give their
    /// schedules different names. Where another one runs a schedule of that name for another event or
    /// queue, a consumer does not start, with [`ErrorKind::Configuration`](crate::ErrorKind). Of two
    /// versions of an application the one whose process began
    /// last decides about times, policy, event type and queue; once no process of it was seen for two
    /// minutes, the others' definition takes its place.
    pub fn schedule<E: Event>(mut self, name: &str, schedule: Schedule, event: &E) -> Self {
        let template = Draft::of(event).map(Template::Event);
        self.schedules.push(Plan {
            name: name.to_owned(),
            schedule,
            template,
        });
        self
    }
}
