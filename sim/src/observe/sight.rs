//! What can be seen of nodes from outside: what their disks hold, what they say to each other, what they know.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use quorate_node::metadata::Metadata;
use quorate_node::raft::GroupConfig;
use quorate_node::storage::{HardVote, LogId};
use quorate_proto::ids::{GroupId, Identity, LogIndex, NodeId, Offset, Term};

/// Something that was seen of a node. Told only where it is news.
#[derive(Clone, Debug)]
pub enum Sight {
    /// A process has opened its disk, and holds what it found there.
    Opened {
        /// Which node.
        node: NodeId,
        /// The disk's: another one is another disk.
        identity: Identity,
        /// Of each group on the disk.
        groups: BTreeMap<GroupId, OnDisk>,
    },
    /// A process has ended.
    Ended {
        /// Which node's.
        node: NodeId,
    },
    /// A node's disk was erased, replaced, or set back: whatever it promised is void.
    DiskLost {
        /// Which node's.
        node: NodeId,
    },
    /// The newest entries or votes on a node's disk were damaged while it was down. Unlike a lost disk, it may come back
    /// under its old identity.
    Damaged {
        /// Which node's.
        node: NodeId,
    },
    /// Before any process had opened it, a damaged disk held again all that it had held: nothing is lost.
    GivenBack {
        /// Which node's.
        node: NodeId,
    },
    /// A process is about to say what it has found on its disk. The newest there was damaged, and could be read all the
    /// same by the process before; now the disk says that it has lost the end of a group's log.
    TailLost {
        /// Whose.
        node: NodeId,
        /// Of which group.
        group: GroupId,
    },
    /// A process has opened a disk whose newest was damaged, and the disk says that of this group nothing is lost.
    TailKept {
        /// Whose.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// What it found of it.
        on_disk: OnDisk,
    },
    /// A replica was stopped, and is started again while its process runs on.
    Restarted {
        /// Whose.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// Whether it has given up its log, as it lacks what that begins with: others hold all of it.
        emptied: bool,
    },
    /// A replica's log was cut or has grown.
    Log {
        /// Whose.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// Entries from here on are not what they were.
        from: LogIndex,
        /// What stands there now.
        lines: Vec<Line>,
    },
    /// The beginning of a replica's log is gone: trimmed, or a checkpoint took the place of the whole log.
    Trimmed {
        /// Whose.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// The last entry that is gone.
        through: LogId,
    },
    /// A replica has another checkpoint than before.
    Checkpoint {
        /// Whose.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// The last entry that is in it.
        at: LogId,
        /// A hash of its content.
        digest: u64,
    },
    /// A replica, whenever anything of it has changed.
    Replica {
        /// Whose.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// What it knows.
        replica: Replica,
    },
    /// A node has removed all that it knew of a group.
    Removed {
        /// Which node.
        node: NodeId,
        /// Which group.
        group: GroupId,
        /// Whether the metadata applied there still assign the group to some node.
        assigned: bool,
    },
    /// A node asks for votes.
    Stands {
        /// Which node.
        node: NodeId,
        /// In which group.
        group: GroupId,
        /// In which term.
        term: Term,
    },
    /// A node speaks as a leader.
    Leads {
        /// Which node.
        node: NodeId,
        /// In which group.
        group: GroupId,
        /// In which term.
        term: Term,
    },
    /// A leader sends entries.
    Sent {
        /// Who sends.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// The entry before them.
        prev: Option<LogId>,
        /// They.
        lines: Vec<Line>,
    },
    /// What platters hold of a log, read whole.
    OnPlatter {
        /// Of which node.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// The last entry that was trimmed.
        after: Option<LogId>,
        /// All entries behind it.
        lines: Vec<Line>,
    },
    /// A node says that it has given its vote.
    Granted {
        /// Who says so.
        node: NodeId,
        /// In which group.
        group: GroupId,
        /// In which term.
        term: Term,
        /// To whom.
        candidate: NodeId,
    },
    /// A node says to a leader that it holds its log that far, on its disk.
    Matched {
        /// Who says so.
        node: NodeId,
        /// In which group.
        group: GroupId,
        /// In the leader's term.
        term: Term,
        /// How far.
        through: LogId,
    },
    /// What a replica has made of the entries applied so far.
    Applied {
        /// Whose.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// The index behind the last entry applied.
        next: LogIndex,
        /// A hash of all that it made of them.
        digest: u64,
        /// The offsets that can be read, as it has it: from the log start to the high watermark.
        readable: Range<Offset>,
    },
    /// What wall clocks have shown.
    Wall {
        /// The earliest time that any node was told since such a sight, the last one or one before it, in ms.
        oldest: i64,
        /// The latest time that any node of the run was told, in ms.
        newest: i64,
    },
    /// Clients have written for a while with everything whole: what was to be trimmed by now is.
    Settled {
        /// What the wall clock shows that is furthest behind, in ms.
        oldest: i64,
        /// Since when everything is whole.
        whole_for: Duration,
    },
    /// What a node's copy of the metadata is.
    Metadata {
        /// Whose.
        node: NodeId,
        /// As of this entry.
        applied: LogIndex,
        /// The copy.
        metadata: Arc<Metadata>,
    },
    /// Who the members of a group are, by the newest membership in a replica's log.
    Config {
        /// Whose view.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// Where the membership lies in its log.
        at: LogId,
        /// The members.
        config: GroupConfig,
    },
    /// What platters hold, as a process would find them after a power cut at this moment.
    Platters {
        /// Of some nodes, or of all.
        nodes: BTreeMap<NodeId, BTreeMap<GroupId, OnDisk>>,
    },
    /// Recovering a disk, cutting the power in the middle and recovering again gave something else than recovering
    /// it once.
    RecoveredTwice {
        /// Whose disk.
        node: NodeId,
        /// After one recovery.
        once: BTreeMap<GroupId, OnDisk>,
        /// After two.
        twice: BTreeMap<GroupId, OnDisk>,
    },
    /// A sync or write of this process has failed.
    SyncFailed {
        /// Whose.
        node: NodeId,
        /// What of each group's log its store held to be durable at that moment.
        durable: BTreeMap<GroupId, Option<LogId>>,
        /// The newest vote of each group that it had been asked to keep.
        votes: BTreeMap<GroupId, HardVote>,
    },
    /// A process of which a sync or write had failed holds more of a log to be durable than before.
    DurableAfterFailure {
        /// Whose.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// How far, in its own eyes: what its group's leader counts for itself.
        through: Option<LogId>,
    },
    /// Everything that was broken works again, among these nodes: the rest may stay broken.
    Healed {
        /// Who must make progress from now on.
        core: Vec<NodeId>,
        /// The longest election time-out.
        election_timeout: Duration,
    },
    /// Nobody writes any more, and everything had the time to arrive.
    Quiet,
    /// What a node uses.
    Usage {
        /// Which node.
        node: NodeId,
        /// How much.
        usage: Usage,
    },
}

/// An entry, as far as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its position.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// A hash of its head, which covers its body's checksum; `None` if only its term was seen.
    pub digest: Option<u64>,
}

/// What a disk holds of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OnDisk {
    /// The vote.
    pub vote: Option<HardVote>,
    /// The last entry that was trimmed.
    pub purged: Option<LogId>,
    /// The last entry in the checkpoint from which the log goes on.
    pub checkpoint: Option<LogId>,
    /// The last entry of the log; `purged` if it holds none.
    pub last: Option<LogId>,
    /// The first entry that the log holds of each term.
    pub starts: Vec<LogId>,
}

/// What a replica knows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replica {
    /// The newest term that it has heard of.
    pub term: Term,
    /// Whom it has voted for in it; 0 for nobody.
    pub voted_for: u64,
    /// Whether it leads in that term.
    pub leads: bool,
    /// The last entry that was trimmed.
    pub purged: Option<LogId>,
    /// The last entry in the checkpoint from which its log goes on.
    pub checkpoint: Option<LogId>,
    /// The last entry that it has applied in this life.
    pub applied: Option<LogId>,
    /// The last entry that it knows to be committed.
    pub committed: Option<LogId>,
    /// The last entry of its log.
    pub last: Option<LogId>,
}

/// What a node uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tasks that run.
    pub tasks: u64,
    /// Files that are open.
    pub files: u64,
    /// Bytes on its disk.
    pub disk_bytes: u64,
    /// Volumes on its disk.
    pub volumes: u64,
    /// Volumes that hold something alive, or are there to be written.
    pub volumes_alive: u64,
    /// Groups on its disk.
    pub groups: u64,
    /// Entries that their logs hold: what was trimmed takes no room.
    pub entries: u64,
}

/// The term of an entry of a log, by the first entry of each term and by its last one.
pub(super) fn term_at(starts: &[LogId], last: Option<LogId>, index: LogIndex) -> Option<Term> {
    if last.is_none_or(|last| index > last.index) {
        return None;
    }
    let after = starts.partition_point(|start| start.index <= index);
    Some(starts[after.checked_sub(1)?].term)
}

impl OnDisk {
    /// Whether the log has that entry, or had it and trimmed it.
    pub fn holds(&self, id: LogId) -> bool {
        match self.purged {
            Some(purged) if id.index < purged.index => true,
            Some(purged) if id.index == purged.index => id.term == purged.term,
            Some(_) | None => self.term_at(id.index) == Some(id.term),
        }
    }

    /// The term of an entry that the log holds.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        term_at(&self.starts, self.last, index)
    }

    /// The entries that it holds, as far as their terms say.
    pub fn lines(&self) -> impl Iterator<Item = Line> + use<'_> {
        let end = self.last.filter(|_| !self.starts.is_empty()).map_or(0, |last| last.index.0 + 1);
        self.starts.iter().enumerate().flat_map(move |(at, start)| {
            let until = self.starts.get(at + 1).map_or(end, |next| next.index.0);
            (start.index.0..until).map(|index| Line {
                index: LogIndex(index),
                term: start.term,
                digest: None,
            })
        })
    }
}
