//! The filter of a list of events, as it stands in the address of a page.

use chrono::{DateTime, SecondsFormat, Utc};
use ezq::admin::EventFilter;
use serde::Deserialize;

use crate::failure::Failure;
use crate::text;

/// The parameters of an address; an empty one is no condition.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default)]
pub(crate) struct FilterQuery {
    pub(crate) state: String,
    #[serde(rename = "type")]
    pub(crate) event_type: String,
    pub(crate) key: String,
    pub(crate) handler: String,
    pub(crate) error: String,
    pub(crate) since: String,
    pub(crate) until: String,
    pub(crate) after: String,
}

/// One condition of a filter, which can be taken away.
pub(crate) struct Chip {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    /// The address of the page without it.
    pub(crate) href: String,
}

impl FilterQuery {
    /// The conditions, with their names in an address.
    pub(crate) fn conditions(&self) -> [(&'static str, &str); 6] {
        [
            ("type", &self.event_type),
            ("key", &self.key),
            ("handler", &self.handler),
            ("error", &self.error),
            ("since", &self.since),
            ("until", &self.until),
        ]
    }

    /// The address of the first page with these conditions.
    pub(crate) fn address(&self, path: &str) -> String {
        let mut query = vec![("state", self.state.as_str())];
        query.extend(self.conditions());
        text::address(path, &query)
    }

    /// The address of the page behind a place.
    pub(crate) fn next(&self, path: &str, after: &str) -> String {
        let mut query = vec![("state", self.state.as_str())];
        query.extend(self.conditions());
        query.push(("after", after));
        text::address(path, &query)
    }

    /// The address of the same list in another state.
    pub(crate) fn in_state(&self, path: &str, state: &str) -> String {
        let mut query = vec![("state", state)];
        query.extend(self.conditions());
        text::address(path, &query)
    }

    pub(crate) fn chips(&self, path: &str) -> Vec<Chip> {
        let given = self.conditions();
        let mut chips = Vec::new();
        for (name, value) in given.iter().filter(|(_, value)| !value.is_empty()) {
            let mut query = vec![("state", self.state.as_str())];
            query.extend(given.iter().filter(|(other, _)| other != name));
            chips.push(Chip {
                name,
                value: (*value).to_owned(),
                href: text::address(path, &query),
            });
        }
        chips
    }

    /// The same conditions with exact times, met by nothing that was stored at `now` or later. What comes
    /// while somebody looks at a preview is not of it.
    pub(crate) fn fixed(&self, now: DateTime<Utc>) -> Result<Self, Failure> {
        let exact = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
        let since = match self.since.is_empty() {
            true => String::new(),
            false => exact(moment(&self.since)?),
        };
        let until = match self.until.is_empty() {
            true => now,
            false => moment(&self.until)?.min(now),
        };

        Ok(Self {
            since,
            until: exact(until),
            ..self.clone()
        })
    }

    /// The conditions for people: `type order.paid, handler mail`.
    pub(crate) fn says(&self) -> String {
        let conditions = self.conditions();
        let given = conditions.iter().filter(|(_, value)| !value.is_empty());
        let texts: Vec<String> = given
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        match texts.is_empty() {
            true => "all".to_owned(),
            false => texts.join(", "),
        }
    }

    pub(crate) fn filter(&self) -> Result<EventFilter, Failure> {
        let mut filter = EventFilter::all();
        if !self.event_type.is_empty() {
            filter = filter.event_type(&self.event_type);
        }
        if !self.key.is_empty() {
            filter = filter.key(&self.key);
        }
        if !self.handler.is_empty() {
            filter = filter.handler(&self.handler);
        }
        if !self.error.is_empty() {
            filter = filter.error(&self.error);
        }
        if !self.since.is_empty() {
            filter = filter.stored_after(moment(&self.since)?);
        }
        if !self.until.is_empty() {
            filter = filter.stored_before(moment(&self.until)?);
        }
        Ok(filter)
    }
}

/// A time: an exact one, or how long ago, as `15m`.
fn moment(text: &str) -> Result<DateTime<Utc>, Failure> {
    let text = text.trim();
    if let Ok(time) = text.parse::<DateTime<Utc>>() {
        return Ok(time);
    }
    ago(text).ok_or_else(|| {
        Failure::wrong(format!(
            "“{text}” is no time. Write how long ago, such as 15m, 2h or 3d, or a time such as \
             2026-01-31T09:00:00Z."
        ))
    })
}

fn ago(text: &str) -> Option<DateTime<Utc>> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    let number: i64 = text.strip_suffix(unit)?.parse().ok()?;
    let length = chrono::TimeDelta::try_seconds(number.checked_mul(seconds)?)?;
    Utc::now().checked_sub_signed(length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_chip_leads_to_the_page_without_it() {
        let query = FilterQuery {
            state: "dead".to_owned(),
            event_type: "a&b".to_owned(),
            error: "%<'>".to_owned(),
            ..FilterQuery::default()
        };
        let chips = query.chips("/m");
        assert_eq!(chips[0].href, "/m?state=dead&error=%25%3C%27%3E");
        assert_eq!(chips[1].href, "/m?state=dead&type=a%26b");
        assert_eq!(query.says(), "type a&b, error %<'>");
    }

    #[test]
    fn a_time_is_exact_or_ago_and_nothing_else() {
        assert_eq!(
            moment("2026-01-31T09:00:00Z").unwrap().timestamp(),
            1_769_850_000
        );
        let ago = Utc::now() - moment("15m").unwrap();
        assert!((895..=900).contains(&ago.num_seconds()));
        for wrong in ["yesterday", "m", "-", "99999999999999999d", "5ä"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
