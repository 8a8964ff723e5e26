//! What is said on standard error while no server answers, and of a cluster without a majority.

use std::convert::Infallible;
use std::fmt::Display;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use quorate_client::{Client, ClusterStatus};

use super::output::Output;

/// No server has answered for so long: time to say what is waited for.
const LONG: Duration = Duration::from_secs(2);

/// Does some work, and says so if no server answers for long. `limit` is how long it is tried.
pub(crate) async fn patiently<T>(client: &Client, limit: impl Display, work: impl Future<Output = T>) -> T {
    let told = async {
        let mut told = false;
        loop {
            tokio::time::sleep(LONG).await;
            let none = client.no_server();
            if let Some(none) = none.as_ref().filter(|_| !told) {
                Output::note(format!("{none}; still trying, {limit} at most"));
            }
            told = none.is_some();
        }
    };
    match select(pin!(work), pin!(told)).await {
        Either::Left((done, _)) => done,
        Either::Right((never, _)) => {
            let never: Infallible = never;
            match never {}
        }
    }
}

/// What to say of a cluster that can commit nothing.
pub(crate) fn no_majority(status: &ClusterStatus) -> Option<String> {
    if status.has_majority() {
        return None;
    }
    let (alive, all) = (status.alive(), status.voters().len());
    Some(format!(
        "no majority: {alive} of {all} nodes alive, as the one that answered sees it, and {} are needed: nothing can be \
         written, and who is said to lead is who did so last",
        all / 2 + 1
    ))
}

#[cfg(test)]
mod tests {
    use quorate_client::{NodeId, NodeStatus};
    use quorate_proto::ids::ClusterId;

    use super::*;

    #[test]
    fn half_is_no_majority() {
        let status = |alive: &[bool]| {
            let node = |(id, alive): (u32, &bool)| NodeStatus {
                id: NodeId(id),
                identity: None,
                grpc: String::new(),
                http: String::new(),
                alive: *alive,
                leads: 0,
                replicas: 0,
                voter: false,
                draining: false,
                rack: String::new(),
                disk: None,
            };
            let nodes = (1..).zip(alive).map(node).collect();
            let cluster_id = ClusterId::from_wire(&[5; 16]).unwrap();
            no_majority(&ClusterStatus {
                cluster_id,
                nodes,
                under_replicated: 0,
                leaderless: 0,
                moves: Vec::new(),
                waiting: Vec::new(),
                as_of: 0,
                attention: Vec::new(),
            })
        };
        for fine in [&[true][..], &[true, true, false], &[true, true, true, false]] {
            assert_eq!(status(fine), None);
        }
        let said = status(&[true, false, false]).unwrap();
        assert!(
            said.starts_with("no majority: 1 of 3 nodes alive") && said.contains("2 are needed"),
            "{said}"
        );
        assert!(status(&[true, true, false, false]).unwrap().contains("3 are needed"));
    }
}
