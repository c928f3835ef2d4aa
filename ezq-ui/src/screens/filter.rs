//! The filter of a list of events, as it stands in the address of a page.

use chrono::{DateTime, SecondsFormat, Utc};
use ezq::admin::{ErrorGroup, EventFilter, FailureKey};
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
    /// The events of one group of errors: its key, as JSON.
    pub(crate) failure: String,
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
    pub(crate) fn conditions(&self) -> [(&'static str, &str); 7] {
        [
            ("type", &self.event_type),
            ("key", &self.key),
            ("handler", &self.handler),
            ("error", &self.error),
            ("failure", &self.failure),
            ("since", &self.since),
            ("until", &self.until),
        ]
    }

    /// The events of a group of errors.
    pub(crate) fn of_group(group: &ErrorGroup) -> Self {
        // A key is plain data: writing it as JSON cannot fail.
        let failure = serde_json::to_string(&group.key).unwrap_or_default();
        Self {
            failure,
            ..Self::default()
        }
    }

    /// An address with these conditions, whose path says the state.
    pub(crate) fn conditions_at(&self, path: &str) -> String {
        text::address(path, &self.conditions())
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
                value: match *name {
                    "failure" => {
                        key(value).map_or_else(|_| (*value).to_owned(), |key| key.to_string())
                    }
                    _ => (*value).to_owned(),
                },
                href: text::address(path, &query),
            });
        }
        chips
    }

    /// The same conditions with exact times: what is said to be ago moves on while somebody looks.
    pub(crate) fn fixed(&self) -> Result<Self, Failure> {
        let exact = |text: &String| match text.is_empty() {
            true => Ok(String::new()),
            false => moment(text).map(exact),
        };
        Ok(Self {
            since: exact(&self.since)?,
            until: exact(&self.until)?,
            ..self.clone()
        })
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
        if !self.failure.is_empty() {
            filter = filter.failure(key(&self.failure)?);
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

/// A filter for people: `type order.paid, handler mail`.
pub(crate) fn says(filter: &EventFilter) -> String {
    let conditions = [
        ("type", filter.event_type.clone()),
        ("key", filter.key.clone()),
        ("handler", filter.handler.as_ref().map(ToString::to_string)),
        ("error", filter.error.clone()),
        ("failure", filter.failure.as_ref().map(ToString::to_string)),
        ("since", filter.stored_after.map(exact)),
        ("until", filter.stored_before.map(exact)),
    ];
    let given = conditions
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} {}", value?)));
    let texts: Vec<String> = given.collect();
    match texts.is_empty() {
        true => "all".to_owned(),
        false => text::visible(&texts.join(", ")).into_owned(),
    }
}

/// A time as it stands in an address.
pub(crate) fn exact(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// The key of a group of errors, as an address has it.
fn key(text: &str) -> Result<FailureKey, Failure> {
    serde_json::from_str(text).map_err(|_| {
        Failure::wrong("The address names no group of errors. Follow a link of the page of errors.")
    })
}

/// A time: an exact one, or how long ago, as `15m`.
pub(crate) fn moment(text: &str) -> Result<DateTime<Utc>, Failure> {
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
        let said = says(&query.filter().unwrap());
        assert_eq!(said, "type a&b, error %<'>");
    }

    #[test]
    fn a_group_of_errors_stands_in_an_address() {
        let key = FailureKey::new(Some("mail".into()), "no 'user' 17 & more");
        let query = FilterQuery {
            failure: serde_json::to_string(&key).unwrap(),
            ..FilterQuery::default()
        };
        let filter = query.filter().unwrap();
        assert_eq!(filter.failure.as_ref(), Some(&key));
        assert_eq!(says(&filter), "failure mail: no # # & more");
        assert_eq!(query.chips("/m")[0].value, "mail: no # # & more");
        let wrong = FilterQuery {
            failure: "{}".to_owned(),
            ..FilterQuery::default()
        };
        assert!(wrong.filter().is_err());
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
