//! What a node tells of itself: the log, and the recorder behind `/metrics`.

use std::fmt;
use std::str::FromStr;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("{other:?} is no log format: text or json")),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Below what is asked for, unless it is asked for by name: openraft warns of each heartbeat to a dead peer, ten times
/// a second and group. What follows from it is in our own events.
const QUIET: &str = "openraft=error";

fn read_filter(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|error| format!("log filter {filter:?}: {error}"))
}

/// Checks a filter in the style of `RUST_LOG`.
///
/// # Errors
/// It cannot be read.
pub fn check_filter(filter: &str) -> Result<(), String> {
    read_filter(filter).map(drop)
}

/// Sends the log to standard error. `filter` is in the style of `RUST_LOG`: `info,quorate_node::raft=debug`.
///
/// # Errors
/// The filter cannot be read, or a log was set up before.
pub fn init_log(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter = read_filter(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let set = match format {
        LogFormat::Text => {
            let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_ansi(colour).with_target(false).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| error.to_string())
}

/// Installs the recorder of metrics for this process. The handle renders them.
///
/// # Errors
/// One was installed before.
pub fn init_metrics() -> Result<PrometheusHandle, String> {
    // From 50 microseconds to 10 seconds: syncs, acks and elections all lie within.
    let seconds = [
        0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
        2.5, 10.0,
    ];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| error.to_string())
}
