//! What `bench produce` and `bench one` say at the end.

use serde::Serialize;

use super::args::{RunArgs, Settings};
use super::disk::Beside;
use super::load::{self, Figures, Load};
use super::times::times_table;
use crate::cli::Failure;
use crate::cli::output::Output;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    figures: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Beside>,
    settings: Settings,
}

/// Runs a load, the disk before it if that is asked for, and prints the figures.
pub(super) async fn measure(load: &Load, settings: Settings, run: &RunArgs) -> Result<(), Failure> {
    let disk = Beside::measure(run.disk.as_deref()).await?;
    let (figures, failure) = load::run(load).await?.figures(load);
    if let Some(remark) = figures.remark(load.rate) {
        Output::note(remark);
    }
    let report = Report { figures, disk, settings };
    let mut out = Output::new();
    if run.json {
        out.json(&report)?
    } else {
        out.line(text(&report))?
    }
    failure.map_or(Ok(()), Err)
}

fn text(report: &Report) -> String {
    let figures = &report.figures;
    let mut text = format!("{}\n{}", figures.summary(), times_table([("ack ms", &figures.ack_ms)]));
    if let Some(disk) = &report.disk {
        text += &format!("\n{}", disk.beside(figures.mb_per_s, report.settings.replicas));
    }
    text
}
