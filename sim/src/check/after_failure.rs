//! O-26, after a failed sync or write the process acknowledges nothing more as durable: the page cache may show what
//! the disk lacks, and a later sync that succeeds proves nothing (Rebello et al., "Can Applications Recover
//! from fsync Failures?").

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_node::storage::{HardVote, LogId};
use quorate_proto::ids::{GroupId, NodeId, Term};

use super::words::{self, told};
use super::{Found, Judge};
use crate::observe::Sight;

const ID: &str = "O-26";

/// What a process had when its sync failed.
struct Failure {
    at: Duration,
    /// What of each group was durable.
    durable: BTreeMap<GroupId, Option<LogId>>,
    /// The newest vote of each group that may have been.
    votes: BTreeMap<GroupId, HardVote>,
}

#[derive(Default)]
pub(super) struct AfterFailure {
    failed: BTreeMap<NodeId, Failure>,
}

impl Judge for AfterFailure {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::SyncFailed { node, durable, votes } => {
                let failure = || Failure { at, durable: durable.clone(), votes: votes.clone() };
                self.failed.entry(*node).or_insert_with(failure);
            }
            Sight::Ended { node } | Sight::Opened { node, .. } => {
                self.failed.remove(node);
            }
            Sight::Matched { node, group, through, .. } => {
                self.holds(at, *node, *group, Some(*through), "says that it holds", found);
            }
            Sight::DurableAfterFailure { node, group, through } => {
                self.holds(at, *node, *group, *through, "counts as durable", found);
            }
            Sight::Granted { node, group, term, .. } => {
                self.votes(at, *node, *group, *term, "gave its vote in", found);
            }
            Sight::Leads { node, group, term } => {
                self.votes(at, *node, *group, *term, "leads, by its own vote, in", found);
            }
            _ => {}
        }
    }
}

impl AfterFailure {
    fn holds(
        &self,
        at: Duration,
        node: NodeId,
        group: GroupId,
        through: Option<LogId>,
        how: &str,
        found: &mut Found,
    ) {
        let Some(Failure { at: when, durable, .. }) = self.failed.get(&node) else { return };
        let durable = durable.get(&group).copied().flatten();
        if durable.map(|durable| durable.index) < through.map(|through| through.index) {
            let what = format!(
                "after a failed sync nothing is acknowledged: a sync of node {node} failed at {when:?}, with {} of \
                 group {group} durable, and the same process {how} {}",
                told(durable),
                told(through)
            );
            found.tell(ID, at, what);
        }
    }

    fn votes(&self, at: Duration, node: NodeId, group: GroupId, term: Term, how: &str, found: &mut Found) {
        let Some(Failure { at: when, votes, .. }) = self.failed.get(&node) else { return };
        let vote = votes.get(&group);
        if vote.is_none_or(|vote| vote.term < term) {
            let what = format!(
                "after a failed sync nothing is acknowledged: a sync of node {node} failed at {when:?}, with {} in \
                 group {group}, and the same process {how} term {term}",
                words::vote(vote.copied())
            );
            found.tell(ID, at, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    #[test]
    fn an_ack_of_what_came_after_the_failure_is_seen() {
        assert_eq!(broken("log 1 from 0: 1 1\nfailed 1 durable 0/1\nmatched 1 t1 1/1"), ["O-26"]);
        assert_eq!(broken("log 1 from 0: 1 1\nfailed 1\nmatched 1 t1 1/1"), ["O-26"], "a new group");
        let leader = "log 1 from 0: 1 1\nfailed 1 durable 0/1\ndurable 1 1/1";
        assert_eq!(broken(leader), ["O-26"], "what a leader counts for itself");
    }

    #[test]
    fn a_vote_that_came_after_the_failure_is_seen() {
        assert_eq!(broken("failed 1 vote 3/2\ngranted 1 t4 to 2"), ["O-26"]);
        assert_eq!(broken("failed 1\ngranted 1 t4 to 2"), ["O-26"]);
        assert_eq!(broken("failed 1 vote 3/1\nleads 1 t4"), ["O-26"], "its own");
        assert!(broken("failed 1 vote 4/2\ngranted 1 t4 to 2").is_empty(), "it was kept before");
        assert!(broken("failed 1 vote 4/1 leads\nleads 1 t4").is_empty());
        assert!(broken("failed 1 vote 3/2\nend 1\nopen 1 vote 4/2:\ngranted 1 t4 to 2").is_empty());
    }

    #[test]
    fn what_was_durable_before_may_be_told_late() {
        assert!(broken("log 1 from 0: 1 1\nfailed 1 durable 1/1\nmatched 1 t1 1/1").is_empty());
        assert!(
            broken("log 1 from 0: 1 1\nfailed 1 durable 0/1\nend 1\nopen 1: 1 1\nmatched 1 t1 1/1")
                .is_empty()
        );
        assert!(
            broken("log 1 from 0: 1 1\nfailed 1 durable 0/1\nmatched 2 t1 1/1").is_empty(),
            "another node"
        );
    }
}
