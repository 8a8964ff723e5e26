//! `quorate-sim exhaust`.

use std::process::ExitCode;

use clap::Args;
use quorate_proto::ids::NodeId;
use quorate_sim::classes::no_such;
use quorate_sim::exhaust::{ALL, OPERATIONS_MAX, Point, Script, exhaust, play};
use quorate_sim::run::Options;
use quorate_sim::trace::Show;

/// The points that are tried.
#[derive(Debug, Args)]
pub(crate) struct Exhaust {
    /// Only this one; all if not given.
    #[arg(long, value_name = "NAME", value_parser = script)]
    scenario: Option<Script>,
    /// Every so many points only.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// How many run at a time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    jobs: u32,
    /// Only one point: the power goes at an operation of this node's disk.
    #[arg(long, value_name = "ID", requires_all = ["scenario", "operation"])]
    node: Option<u32>,
    /// Which of its operations, from 0.
    #[arg(long, value_name = "N", requires = "node")]
    operation: Option<u64>,
    /// The power of all nodes goes with it.
    #[arg(long, requires = "operation")]
    all_nodes: bool,
    /// Shows what happens at that one point; given twice, every message too.
    #[arg(short, long, requires = "operation", action = clap::ArgAction::Count)]
    verbose: u8,
    /// Prints one JSON document and nothing else.
    #[arg(long, conflicts_with = "node")]
    json: bool,
}

fn script(name: &str) -> Result<Script, String> {
    let names = ALL.map(|script| script.name);
    let found = ALL.into_iter().find(|script| script.name == name);
    found.ok_or_else(|| no_such("scenario", name, &names))
}

pub(crate) fn run(asked: &Exhaust) -> anyhow::Result<ExitCode> {
    if let (Some(script), Some(node), Some(operation)) = (&asked.scenario, asked.node, asked.operation) {
        let point = Point { node: NodeId(node), operation, all: asked.all_nodes };
        return Ok(one(script, point, asked.verbose));
    }
    let scripts = ALL.into_iter().filter(|script| asked.scenario.is_none_or(|only| only.name == script.name));
    let mut outcomes = Vec::new();
    let mut clean = true;
    for script in scripts {
        let outcome = exhaust(&script, asked.every, asked.jobs);
        clean &= outcome.violations.is_empty() && outcome.struck == outcome.points;
        if !asked.json {
            println!(
                "{}: {} disk operations (at most {OPERATIONS_MAX}), the power cut at {} points, {} times more while \
                 nodes started again; {} violations; {:.1} s",
                outcome.script,
                outcome.operations,
                outcome.struck,
                outcome.again,
                outcome.violations.len(),
                std::time::Duration::from_millis(u64::try_from(outcome.elapsed_ms).unwrap_or(u64::MAX))
                    .as_secs_f64(),
            );
            if outcome.struck < outcome.points {
                println!("  the power was not cut at {} points", outcome.points - outcome.struck);
            }
            for violation in &outcome.violations {
                println!("  BROKEN {violation}");
            }
        }
        outcomes.push(outcome);
    }
    if asked.json {
        println!("{}", serde_json::to_string(&outcomes)?);
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(crate::BROKEN) })
}

fn one(script: &Script, point: Point, verbose: u8) -> ExitCode {
    let show = match verbose {
        0 => Show::Nothing,
        1 => Show::Story,
        _ => Show::Everything,
    };
    let (report, counts) = play(script, Some(point), Options { show, ..Options::default() });
    println!("the power was cut {} times; trace {:016x}", counts.cuts, report.trace_hash);
    for violation in &report.violations {
        println!("BROKEN {} at {:.3} s: {}", violation.promise, violation.at.as_secs_f64(), violation.what);
    }
    if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(crate::BROKEN) }
}
