//! The buttons of a list that lead to what can be done to all of its events.

use ezq::admin::EventState;

use crate::screens::filter::FilterQuery;
use crate::verb::Verb;

/// A button that leads to a preview.
pub(crate) struct BulkLink {
    pub(crate) label: &'static str,
    pub(crate) href: String,
    pub(crate) is_danger: bool,
}

/// The buttons for what can be done to events in a state.
pub(crate) fn links(queue_path: &str, state: EventState, query: &FilterQuery) -> Vec<BulkLink> {
    let fitting = Verb::ALL.into_iter().filter(|verb| verb.fits(state));
    let links = fitting.map(|verb| BulkLink {
        label: verb.label(),
        href: query.conditions_at(&format!("{queue_path}/all/{state}/{}", verb.name())),
        is_danger: verb.is_danger(),
    });
    links.collect()
}
