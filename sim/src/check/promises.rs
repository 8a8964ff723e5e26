//! What is promised, by the names under which violations are told.

/// A promise.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// The oracle's id.
    pub id: &'static str,
    /// In one line.
    pub what: &'static str,
    /// The files in `sim/src/check/` that judge it.
    pub files: &'static [&'static str],
    /// Where it stands written.
    pub source: &'static str,
}

/// All of them, by id.
pub const ALL: &[Promise] = &[
    Promise {
        id: "O-01",
        what: "at most one leader per group and term, one vote per node and term",
        files: &["election.rs"],
        source: "Raft paper, section 5.2",
    },
    Promise {
        id: "O-02",
        what: "logs that agree on index and term agree up to there; what is cut stays cut",
        files: &["log_matching.rs"],
        source: "Raft paper, section 5.3",
    },
    Promise {
        id: "O-03",
        what: "a leader has all that was committed before its term, and never cuts its log",
        files: &["leader_completeness.rs"],
        source: "Raft paper, section 5.4",
    },
    Promise {
        id: "O-04",
        what: "replicas that applied the same entries came to the same state",
        files: &["state_machine.rs"],
        source: "Raft paper, section 5.4.3",
    },
    Promise {
        id: "O-05",
        what: "what is committed lies on the platters of a majority",
        files: &["platters.rs"],
        source: "Raft paper, section 5.3; acknowledged is durable on a majority",
    },
    Promise {
        id: "O-06",
        what: "what is committed stays",
        files: &["committed.rs"],
        source: "Raft paper, section 5.4.3",
    },
    Promise {
        id: "O-07",
        what: "terms, commits and what is applied never go back; no group is forgotten",
        files: &["never_back.rs"],
        source: "Raft paper, section 5.1",
    },
    Promise {
        id: "O-08",
        what: "trimmed <= checkpoint <= applied <= committed <= end of the log",
        files: &["bounds.rs"],
        source: "Raft paper, sections 5.3 and 7",
    },
    Promise {
        id: "O-09",
        what: "a vote is on disk before it is told",
        files: &["votes.rs"],
        source: "Raft paper, section 5.2",
    },
    Promise {
        id: "O-10",
        what: "members change one step at a time, and come to be those that are wanted",
        files: &["members.rs"],
        source: "Raft paper, section 6; Raft dissertation, section 4.1",
    },
    Promise {
        id: "O-11",
        what: "each acknowledged record stands at its offset, byte for byte",
        files: &["acked.rs"],
        source: "ARCHITECTURE.md, the promises",
    },
    Promise {
        id: "O-12",
        what: "what stands in a log was sent there, in the order sent, and not what surely failed",
        files: &["phantom.rs", "order.rs"],
        source: "the producer's documentation",
    },
    Promise {
        id: "O-13",
        what: "a retry is not a second record",
        files: &["once.rs"],
        source: "KIP-98, idempotent producers",
    },
    Promise {
        id: "O-14",
        what: "offsets are dense and rise; a log starts where retention or a deletion allows, and never falls back",
        files: &["dense.rs", "start.rs"],
        source: "offsets as consumers know them; retention.ms, retention.bytes and DeleteRecords as in Kafka",
    },
    Promise {
        id: "O-15",
        what: "the high watermark never goes back",
        files: &["watermark.rs"],
        source: "KIP-207; Raft paper, section 8",
    },
    Promise {
        id: "O-16",
        what: "a consumer is given what stands there, in order, without a gap",
        files: &["prefix.rs"],
        source: "the consumer's documentation",
    },
    Promise {
        id: "O-17",
        what: "nothing is read that can still vanish",
        files: &["uncommitted.rs"],
        source: "reads end at the high watermark",
    },
    Promise {
        id: "O-18",
        what: "leader epochs rise along a log, have one leader, and end where they are said to",
        files: &["epochs.rs"],
        source: "KIP-101, KIP-320",
    },
    Promise {
        id: "O-21",
        what: "what a disk has damaged comes back from the other replicas",
        files: &["complaints.rs"],
        source: "Alagappan et al., Protocol-Aware Recovery for Consensus-Based Storage, 2018",
    },
    Promise {
        id: "O-22",
        what: "wrong bytes are never served, nor sent to another replica",
        files: &["uncommitted.rs", "complaints.rs"],
        source: "batches and entries carry checksums",
    },
    Promise {
        id: "O-23",
        what: "a node with a disk that is not its own, or has lost its newest, does not take part in elections",
        files: &["complaints.rs", "readmitted.rs"],
        source: "a node is who its disk says it is; Protocol-Aware Recovery, section 3",
    },
    Promise {
        id: "O-24",
        what: "what no replica has any more is refused as damaged, neither invented nor passed over",
        files: &["complaints.rs"],
        source: "Protocol-Aware Recovery, section 3",
    },
    Promise {
        id: "O-25",
        what: "a recovery that is cut off comes to the same when it is done again; nodes start",
        files: &["recovery.rs", "complaints.rs"],
        source: "recovery is idempotent",
    },
    Promise {
        id: "O-26",
        what: "after a failed sync a process acknowledges nothing more",
        files: &["after_failure.rs"],
        source: "Rebello et al., Can Applications Recover from fsync Failures?, 2020",
    },
    Promise {
        id: "O-27",
        what: "once all is mended there are leaders, acks and answers within bounds",
        files: &["progress.rs", "answers.rs", "unread.rs", "awake.rs", "complaints.rs"],
        source: "Raft dissertation, section 9.6",
    },
    Promise {
        id: "O-28",
        what: "once all is mended and nobody writes, replicas are equal; checkpoints of one entry always are",
        files: &["replicas.rs", "convergence.rs", "complaints.rs"],
        source: "Raft paper, section 5.4.3",
    },
    Promise {
        id: "O-29",
        what: "nothing grows without a bound; what has expired goes",
        files: &["growth.rs", "start.rs"],
        source: "resources stay in proportion to what a node holds",
    },
    Promise {
        id: "lookup",
        what: "a lookup by time finds the first record of that time or later",
        files: &["lookup.rs"],
        source: "offsets for times as consumers know them",
    },
    Promise {
        id: "metadata",
        what: "a topic's id is its own for ever; a name that is taken is not given again; partitions are as many as were \
               asked for, and stay; settings are what was acknowledged last",
        files: &["topics.rs", "settings.rs"],
        source: "topics as clients know them",
    },
    Promise {
        id: "panic",
        what: "no task of a node or client panics",
        files: &["complaints.rs"],
        source: "a panic is a bug",
    },
];

/// The promise of that id.
pub fn of(id: &str) -> Option<&'static Promise> {
    ALL.iter().find(|promise| promise.id == id)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_promise_is_here_with_its_files() {
        let ids = ALL.iter().map(|promise| promise.id).collect::<BTreeSet<_>>();
        assert_eq!(ids.len(), ALL.len());
        for check in super::super::all() {
            assert!(check.id() == "at once" || of(check.id()).is_some(), "{} is not listed", check.id());
        }
        // Asked at run time: checkouts that share a target folder share this binary too.
        let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package lies");
        for file in ALL.iter().flat_map(|promise| promise.files) {
            assert!(Path::new(&here).join("src/check").join(file).exists(), "{file}");
        }
    }
}
