//! Writes the figures as tables into a document, in place of what stands between its two marks.

use serde_json::Value;

use crate::error::Result;
use crate::figures::{Figure, shown};

const BEGIN: &str = "<!-- figures: written by the program `plot` -->";
const END: &str = "<!-- end of figures -->";

/// A document's text with new tables.
pub(crate) fn replaced(document: &str, figures: &[Figure]) -> Result<String> {
    let missing = || format!("the document has no `{BEGIN}` before `{END}`");
    let (before, rest) = document.split_once(BEGIN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(END).ok_or_else(missing)?;
    let (points, cases): (Vec<&Figure>, Vec<&Figure>) =
        figures.iter().partition(|figure| figure.point().is_some());

    let tables = [machine(figures), table(&cases), growth(&points)];
    let trimmed: Vec<&str> = tables.iter().map(|table| table.trim_end()).collect();
    let text = trimmed.join("\n\n");
    Ok(format!("{before}{BEGIN}\n{}\n{END}{after}", text.trim()))
}

/// The machine on which the newest line was measured.
fn machine(figures: &[Figure]) -> String {
    let setting = |name: &str| {
        let value = figures.last().and_then(|figure| figure.settings.get(name));
        value.map_or_else(
            || "?".to_owned(),
            |value| value.to_string().trim_matches('"').to_owned(),
        )
    };
    format!(
        "Measured on {} cores ({}), PostgreSQL {}, PGMQ {}, `fsync` {}, `synchronous_commit` {}, ezq {}.",
        setting("cores"),
        setting("cpu"),
        setting("postgres"),
        setting("pgmq"),
        setting("fsync"),
        setting("synchronous_commit"),
        setting("ezq"),
    )
}

fn table(figures: &[&Figure]) -> String {
    if figures.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "| case | ezq | reference | unit | ratio | least to most | to reach | reached | events | repetitions |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );

    for figure in figures {
        let Figure {
            case,
            unit,
            ezq,
            min,
            max,
            repetitions,
            ..
        } = figure;
        let or_none = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), shown);
        let target = match (figure.at_least, figure.at_most) {
            (Some(least), _) => format!("at least {}", shown(least)),
            (None, Some(most)) => format!("at most {}", shown(most)),
            (None, None) => "reported".to_owned(),
        };
        let reached = match figure.reached {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "-",
        };
        let events = figure.settings.get("events").and_then(Value::as_f64);
        text += &format!(
            "| `{case}` | {} | {} | {unit} | {} | {} to {} | {target} | {reached} | {} | {repetitions} |\n",
            shown(*ezq),
            or_none(figure.reference),
            or_none(figure.ratio),
            shown(*min),
            shown(*max),
            or_none(events),
        );
    }
    text
}

fn growth(figures: &[&Figure]) -> String {
    if figures.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "| case | of what | how many | ezq | least to most | unit |\n|---|---|---|---|---|---|\n",
    );

    for figure in figures {
        let Some((name, value)) = figure.point() else {
            continue;
        };
        let Figure {
            case,
            unit,
            ezq,
            min,
            max,
            ..
        } = figure;
        text += &format!(
            "| `{case}` | {name} | {} | {} | {} to {} | {unit} |\n",
            shown(value),
            shown(*ezq),
            shown(*min),
            shown(*max),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::read;

    #[test]
    fn replaces_what_stands_between_the_marks_and_nothing_else() {
        let line = r#"{"case":"consume","unit":"events/s","ezq":70000.0,"reference":50000.0,
            "ratio":1.4,"repetitions":7,"min":1.3,"max":1.5,"at_least":1.1,"reached":true}"#;
        let figures = read(&line.replace('\n', "")).unwrap();
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let text = replaced(&document, &figures).unwrap();
        let row = "| `consume` | 70,000 | 50,000 | events/s | 1.40 | 1.30 to 1.50 | at least 1.10 | yes | - | 7 |";
        assert!(text.contains(row), "{text}");
        assert!(
            text.starts_with("before\n") && text.ends_with("\nafter\n") && !text.contains("old")
        );
        assert_eq!(replaced(&text, &figures).unwrap(), text);
        assert!(replaced("no marks", &figures).is_err());
    }
}
