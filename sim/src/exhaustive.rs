//! `quorate-sim exhaust`.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;
use quorate_proto::ids::NodeId;
use quorate_sim::classes::no_such;
use quorate_sim::exhaust::blocks::{self, Sweep};
use quorate_sim::exhaust::{ALL, Outcome, Point, Script, at_point, exhaust, operations};
use quorate_sim::trace::Show;

use crate::output::Output;
use crate::show::count;
use crate::{BROKEN, CLEAN, FAILED, INTERRUPTED, interrupt, refuse, show_logs};

/// The points that are tried.
#[derive(Debug, Args)]
pub(crate) struct Exhaust {
    /// Only this one; all if not given.
    #[arg(long, value_name = "NAME", value_parser = script)]
    scenario: Option<Script>,
    /// Every so many points only [default: 1; of --single-fault 61].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    every: Option<u32>,
    /// Instead of power cuts: one block of one node's disk is harmed in one of five ways, each in turn.
    #[arg(long, conflicts_with_all = ["scenario", "node", "operation", "all_nodes"])]
    single_fault: bool,
    /// Only one case of --single-fault, by its number.
    #[arg(long, value_name = "N", requires = "single_fault", conflicts_with_all = ["every", "jobs", "json"])]
    case: Option<usize>,
    /// How many run at a time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    jobs: u32,
    /// Only one point: the power goes at an operation of this node's disk.
    #[arg(long, value_name = "ID", requires_all = ["scenario", "operation"], conflicts_with_all = ["every", "jobs"])]
    node: Option<u32>,
    /// Which of its operations, from 0.
    #[arg(long, value_name = "N", requires = "node")]
    operation: Option<u64>,
    /// The power of all nodes goes with it.
    #[arg(long, requires = "operation")]
    all_nodes: bool,
    /// Shows what happens at that one point, or in that one case; given twice, every message too.
    #[arg(short, long, conflicts_with_all = ["every", "jobs"], action = clap::ArgAction::Count)]
    verbose: u8,
    /// Prints one JSON document and nothing else.
    #[arg(long)]
    json: bool,
}

fn script(name: &str) -> Result<Script, String> {
    let names = ALL.map(|script| script.name);
    let found = ALL.into_iter().find(|script| script.name == name);
    found.ok_or_else(|| no_such("scenario", name, &names))
}

pub(crate) fn run(asked: &Exhaust) -> anyhow::Result<ExitCode> {
    if let (Some(script), Some(node), Some(operation)) = (&asked.scenario, asked.node, asked.operation) {
        return one(asked, script, Point { node: NodeId(node), operation, all: asked.all_nodes });
    }
    if asked.verbose > 0 && asked.case.is_none() {
        return Ok(refuse("--verbose shows one point, or one case: say which"));
    }
    if asked.single_fault {
        return single_fault(asked);
    }
    interrupt::listen()?;
    let scripts = ALL.into_iter().filter(|script| asked.scenario.is_none_or(|only| only.name == script.name));
    let mut output = Output::default();
    let mut outcomes = Vec::new();
    for script in scripts {
        let outcome = exhaust(&script, asked.every.unwrap_or(1), asked.jobs, Some(&interrupt::CAME));
        if !asked.json {
            output.print(&told_of(&outcome));
        }
        outcomes.push(outcome);
        if interrupt::CAME.load(Ordering::Relaxed) {
            break;
        }
    }
    if asked.json {
        output.print(&(serde_json::to_string(&outcomes)? + "\n"));
    }
    let status = status(&outcomes);
    let interrupted = interrupt::CAME.load(Ordering::Relaxed);
    Ok(output.exit(if status == CLEAN && interrupted { INTERRUPTED } else { status }))
}

fn single_fault(asked: &Exhaust) -> anyhow::Result<ExitCode> {
    let mut output = Output::default();
    if let Some(number) = asked.case {
        if asked.verbose > 0 {
            show_logs(asked.verbose)?;
        }
        let Some((told, broken)) = blocks::one(number, show_of(asked.verbose)) else {
            let there = blocks::cases().len();
            return Ok(refuse(format_args!("there is no case {number}: there are {there}, from 0 on")));
        };
        output.print(&told);
        return Ok(output.exit(if broken { BROKEN } else { CLEAN }));
    }
    interrupt::listen()?;
    let sweep = blocks::sweep(asked.every.unwrap_or(blocks::EVERY), asked.jobs, Some(&interrupt::CAME));
    output.print(&if asked.json { serde_json::to_string(&sweep)? + "\n" } else { told_of_blocks(&sweep) });
    let interrupted = interrupt::CAME.load(Ordering::Relaxed);
    Ok(output.exit(if !sweep.violations.is_empty() {
        BROKEN
    } else if interrupted {
        INTERRUPTED
    } else {
        CLEAN
    }))
}

fn told_of_blocks(sweep: &Sweep) -> String {
    let mut told = format!(
        "single fault: {} of {} tried: {} mended, {} harmless, {} hidden from everybody, {} held that already; {}; {:.1} s\n",
        count(sweep.tried, "case"),
        sweep.cases,
        sweep.mended,
        sweep.harmless,
        sweep.hidden,
        sweep.nothing,
        count(u64::try_from(sweep.violations.len()).unwrap_or(u64::MAX), "violation"),
        Duration::from_millis(u64::try_from(sweep.elapsed_ms).unwrap_or(u64::MAX)).as_secs_f64(),
    );
    for violation in &sweep.violations {
        told += &format!("  BROKEN {violation}\n");
    }
    told
}

fn show_of(verbose: u8) -> Show {
    match verbose {
        0 => Show::Nothing,
        1 => Show::Story,
        _ => Show::Everything,
    }
}

fn status(outcomes: &[Outcome]) -> u8 {
    if outcomes.iter().any(|outcome| !outcome.violations.is_empty()) {
        BROKEN
    } else if outcomes.iter().any(|outcome| outcome.struck < outcome.points) {
        FAILED
    } else {
        CLEAN
    }
}

fn told_of(outcome: &Outcome) -> String {
    let mut told = format!(
        "{}: {} (at most {}), the power cut at {}, {} more while nodes started again; {}; {:.1} s\n",
        outcome.script,
        count(outcome.operations, "disk operation"),
        outcome.operations_max,
        count(outcome.struck, "point"),
        count(outcome.again, "time"),
        count(u64::try_from(outcome.violations.len()).unwrap_or(u64::MAX), "violation"),
        Duration::from_millis(u64::try_from(outcome.elapsed_ms).unwrap_or(u64::MAX)).as_secs_f64(),
    );
    if outcome.struck < outcome.points {
        told += &format!("  the power was not cut at {}\n", count(outcome.points - outcome.struck, "point"));
    }
    for violation in &outcome.violations {
        told += &format!("  BROKEN {violation}\n");
    }
    told
}

fn one(asked: &Exhaust, script: &Script, point: Point) -> anyhow::Result<ExitCode> {
    let operations = operations(script);
    let nodes = operations.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match operations.get(&point.node) {
        None => {
            let name = script.name;
            return Ok(refuse(format_args!("{name} has no node {}: there are nodes {nodes}", point.node)));
        }
        Some(there) if point.operation >= *there => {
            return Ok(refuse(format_args!(
                "in {} the disk of node {} has {there} operations, from 0 to {}, and none with number {}",
                script.name,
                point.node,
                there.saturating_sub(1),
                point.operation
            )));
        }
        Some(_) => {}
    }
    let show = show_of(asked.verbose);
    if asked.verbose > 0 {
        show_logs(asked.verbose)?;
    }
    let (outcome, told) = at_point(script, point, show);
    let mut output = Output::default();
    output.print(&if asked.json { serde_json::to_string(&[&outcome])? + "\n" } else { told });
    Ok(output.exit(status(&[outcome])))
}
