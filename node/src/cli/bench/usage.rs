//! What the processor had to do: seconds of CPU of each node, as its metrics say, and of this process.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_client::{Client, NodeId};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::cli::http_get;
use crate::cli::output::{Output, rounded};

/// The counter's name on a node's page.
const CPU: &str = "process_cpu_seconds_total";
const MEMORY: &str = "process_resident_memory_bytes";

/// Who is asked.
pub(super) struct Meter {
    /// The nodes' HTTP listeners.
    nodes: Vec<(NodeId, String)>,
}

/// Seconds of CPU used so far.
pub(super) struct Reading {
    nodes: BTreeMap<NodeId, Option<NodeUse>>,
    client: Duration,
}

#[derive(Clone, Copy)]
struct NodeUse {
    cpu_s: f64,
    memory_bytes: f64,
}

/// Seconds of CPU between two readings.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct CpuSeconds {
    /// Of all nodes together; null if one of them could not be asked or was started anew.
    pub(super) nodes: Option<f64>,
    /// Of this process: all producers and consumers.
    pub(super) clients: f64,
    /// By the node's id.
    per_node: BTreeMap<u32, Option<f64>>,
    /// What each node's process holds in memory at the end, in 10^6 bytes.
    #[serde(skip)]
    pub(super) memory_mb: BTreeMap<u32, Option<f64>>,
}

impl CpuSeconds {
    /// For people: what each of so many records took.
    pub(super) fn each(&self, records: u64) -> String {
        let each = |seconds: f64| seconds * 1e6 / records.max(1) as f64;
        let nodes = match self.nodes {
            Some(nodes) => format!("{:.2} us of all nodes", each(nodes)),
            None => "unknown of the nodes".to_owned(),
        };
        format!("CPU a record: {nodes}, {:.2} us of the clients", each(self.clients))
    }
}

impl Meter {
    /// Finds the nodes. None if the cluster does not say who they are: then only this process is measured.
    pub(super) async fn find(client: &Client) -> Self {
        let nodes = match client.admin().cluster_status().await {
            Ok(status) => status.nodes.into_iter().map(|node| (node.id, node.http)).collect(),
            Err(error) => {
                Output::note(format!("the nodes' CPU is not measured: {error}"));
                Vec::new()
            }
        };
        Self { nodes }
    }

    pub(super) async fn read(&self) -> Reading {
        let asked = self.nodes.iter().map(async |(id, http)| (*id, ask(http).await));
        let nodes = join_all(asked).await.into_iter().collect();
        Reading { nodes, client: own() }
    }
}

impl Reading {
    /// What was used since an earlier reading.
    pub(super) fn since(&self, earlier: &Self) -> CpuSeconds {
        let per_node: BTreeMap<u32, Option<f64>> = self
            .nodes
            .iter()
            .map(|(id, now)| {
                let before = earlier.nodes.get(id).copied().flatten();
                let used = now.zip(before).map(|(now, before)| now.cpu_s - before.cpu_s);
                // A process that was started anew counts from 0.
                (id.0, used.filter(|used| *used >= 0.0).map(|used| rounded(used, 2)))
            })
            .collect();
        let nodes = per_node.values().copied().sum::<Option<f64>>().filter(|_| !per_node.is_empty());
        let memory = |used: &NodeUse| rounded(used.memory_bytes / 1e6, 1);
        CpuSeconds {
            nodes: nodes.map(|all| rounded(all, 2)),
            clients: rounded(self.client.saturating_sub(earlier.client).as_secs_f64(), 2),
            per_node,
            memory_mb: self.nodes.iter().map(|(id, now)| (id.0, now.as_ref().map(memory))).collect(),
        }
    }
}

async fn ask(http: &str) -> Option<NodeUse> {
    let answer = http_get::get(http, "/metrics").await.ok().filter(|answer| answer.is_ok)?;
    Some(NodeUse { cpu_s: sample(&answer.body, CPU)?, memory_bytes: sample(&answer.body, MEMORY)? })
}

/// The value of a metric without labels.
fn sample(page: &str, name: &str) -> Option<f64> {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.parse().ok()
}

/// What this process has used since it began.
fn own() -> Duration {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(used).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(nodes: &[(u32, Option<f64>)], client: u64) -> Reading {
        let usage = |cpu_s| NodeUse { cpu_s, memory_bytes: 3e6 };
        Reading {
            nodes: nodes.iter().map(|(id, cpu_s)| (NodeId(*id), cpu_s.map(usage))).collect(),
            client: Duration::from_secs(client),
        }
    }

    #[test]
    fn a_sample_is_found_by_its_whole_name() {
        let page = "# TYPE a counter\na_total 5\na_total_more 7\nb{x=\"y\"} 1\n";
        assert_eq!(sample(page, "a_total"), Some(5.0));
        assert_eq!((sample(page, "a"), sample(page, "b")), (None, None));
    }

    #[test]
    fn all_nodes_together_are_known_only_if_each_is() {
        let before = reading(&[(1, Some(1.0)), (2, Some(2.0))], 1);
        let used = reading(&[(1, Some(1.5)), (2, Some(4.0))], 3).since(&before);
        assert_eq!((used.nodes, used.clients), (Some(2.5), 2.0));
        assert_eq!(used.memory_mb, BTreeMap::from([(1, Some(3.0)), (2, Some(3.0))]));
        let silent = reading(&[(1, Some(1.5)), (2, None)], 3).since(&before);
        assert_eq!((silent.nodes, &silent.per_node), (None, &BTreeMap::from([(1, Some(0.5)), (2, None)])));
        let anew = reading(&[(1, Some(1.5)), (2, Some(0.1))], 3).since(&before);
        assert_eq!(anew.nodes, None);
        assert_eq!(reading(&[], 3).since(&before).nodes, None);
    }

    #[test]
    fn this_process_uses_its_processor() {
        assert!(own() > Duration::ZERO);
    }
}
