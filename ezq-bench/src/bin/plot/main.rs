//! Draws what the benchmarks measured: `cargo run -p ezq-bench --bin plot -- FIGURES FOLDER [DOCUMENT]`.
//!
//! FIGURES holds the lines of `ezq-bench --json`; of several lines of one case the last counts. The
//! plots go to FOLDER, as SVG. In DOCUMENT what stands between the two marks is replaced by tables
//! of the same figures.

mod bars;
mod error;
mod figures;
mod lines;
mod svg;
mod tables;

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use crate::error::Result;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let result = match &words[..] {
        [figures, folder] => draw(figures, folder, None),
        [figures, folder, document] => draw(figures, folder, Some(document)),
        _ => Err("usage: plot FIGURES.jsonl FOLDER [DOCUMENT.md]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn draw(figures: &str, folder: &str, document: Option<&str>) -> Result<()> {
    let figures = figures::read(&fs::read_to_string(figures)?)?;
    fs::create_dir_all(folder)?;
    let mut plots = vec![("ratios".to_owned(), bars::ratios(&figures))];
    plots.extend(lines::growth(&figures));
    for (name, plot) in plots {
        if let Some(plot) = plot {
            fs::write(Path::new(folder).join(format!("{name}.svg")), plot)?;
        }
    }
    if let Some(document) = document {
        let text = tables::replaced(&fs::read_to_string(document)?, &figures)?;
        fs::write(document, text)?;
    }
    Ok(())
}
