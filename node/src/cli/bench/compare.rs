//! `quorate bench compare`: the figures of two runs beside each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use comfy_table::CellAlignment;
use serde::Serialize;
use serde_json::Value;

use crate::cli::output::{Output, plain_table, rounded};
use crate::cli::{Failure, unasked_servers};

/// What `quorate bench compare` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  quorate bench produce --json >before.json\n  quorate bench produce --json >after.json\n  quorate bench compare before.json after.json",
    arg = unasked_servers()
)]
pub(crate) struct BenchCompareArgs {
    /// What a benchmark has printed with --json.
    before: PathBuf,
    /// Likewise, of another run of the same benchmark.
    after: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// What was asked for, where the runs differ in that: they may not be comparable.
    settings: Vec<Differing>,
    figures: Vec<Figure>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Differing {
    name: String,
    before: Value,
    after: Value,
}

#[derive(Debug, PartialEq, Serialize)]
struct Figure {
    name: String,
    before: f64,
    after: f64,
    /// After by before; null where that was 0.
    ratio: Option<f64>,
}

/// Reads, compares and prints.
pub(crate) fn run(args: &BenchCompareArgs) -> Result<(), Failure> {
    let report = compare(&read(&args.before)?, &read(&args.after)?);
    if report.figures.is_empty() {
        return Err(Failure::work(format!(
            "{} and {} have no figure in common: they are of different benchmarks",
            args.before.display(),
            args.after.display()
        )));
    }
    let mut out = Output::new();
    if args.json { out.json(&report) } else { out.line(text(&report)) }
}

/// All that is in a document, by its path.
fn read(path: &Path) -> Result<BTreeMap<String, Value>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::work(format!("cannot read {}: {error}", path.display())))?;
    let document: Value = serde_json::from_str(&text).map_err(|error| {
        Failure::work(format!("{} is not what `quorate bench .. --json` prints: {error}", path.display()))
    })?;
    let mut leaves = BTreeMap::new();
    flatten("", document, &mut leaves);
    Ok(leaves)
}

fn flatten(path: &str, value: Value, leaves: &mut BTreeMap<String, Value>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => {
            fields.into_iter().for_each(|(name, value)| flatten(&below(&name), value, leaves))
        }
        Value::Array(items) => {
            items
                .into_iter()
                .enumerate()
                .for_each(|(at, value)| flatten(&below(&at.to_string()), value, leaves));
        }
        leaf @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
            leaves.insert(path.to_owned(), leaf);
        }
    }
}

fn compare(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Report {
    let mut report = Report { settings: Vec::new(), figures: Vec::new() };
    for (name, before) in before {
        let Some(after) = after.get(name) else { continue };
        if name.split('.').any(|part| part == "settings") {
            if before != after {
                let (before, after) = (before.clone(), after.clone());
                report.settings.push(Differing { name: name.clone(), before, after });
            }
        } else if let (Some(before), Some(after)) = (before.as_f64(), after.as_f64()) {
            let ratio = (before != 0.0).then(|| rounded(after / before, 3));
            report.figures.push(Figure { name: name.clone(), before, after, ratio });
        }
    }
    report
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for differing in &report.settings {
        text += &format!("{}: {} before, {} after\n", differing.name, differing.before, differing.after);
    }
    let mut table = plain_table(["", "before", "after", "ratio"]);
    for figure in &report.figures {
        let ratio = figure.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
        table.add_row([figure.name.clone(), figure.before.to_string(), figure.after.to_string(), ratio]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    text + &table.to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn leaves(document: Value) -> BTreeMap<String, Value> {
        let mut leaves = BTreeMap::new();
        flatten("", document, &mut leaves);
        leaves
    }

    #[test]
    fn figures_that_both_have_are_compared_and_settings_that_differ_are_said() {
        let before = leaves(json!({
            "records_per_s": 100.0, "ack_ms": {"p50": 2.0, "p99": 0}, "readers": [{"count": 1}], "gone": 1,
            "settings": {"linger_ms": 5, "topic": "t"}
        }));
        let after = leaves(json!({
            "records_per_s": 250.0, "ack_ms": {"p50": 1.0, "p99": 3}, "readers": [{"count": 1}], "new": 1,
            "settings": {"linger_ms": 0, "topic": "t"}
        }));
        let report = compare(&before, &after);
        let figures: Vec<_> =
            report.figures.iter().map(|figure| (figure.name.as_str(), figure.ratio)).collect();
        assert_eq!(
            figures,
            [
                ("ack_ms.p50", Some(0.5)),
                ("ack_ms.p99", None),
                ("readers.0.count", Some(1.0)),
                ("records_per_s", Some(2.5))
            ]
        );
        let linger = Differing { name: "settings.linger_ms".to_owned(), before: json!(5), after: json!(0) };
        assert_eq!(report.settings, [linger]);
        assert!(text(&report).starts_with("settings.linger_ms: 5 before, 0 after\n"));
    }
}
