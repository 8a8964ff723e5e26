//! The kinds of faults.

use crate::classes::Class;

/// A kind of fault: on or off in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One link between nodes is cut, one way or both.
    CutLink,
    /// The nodes fall apart in one of many shapes.
    Partition,
    /// Who leads with entries that nobody has answered for is cut off from the other nodes, not from clients.
    Strand,
    /// Frames between two nodes are held up for a while.
    Clog,
    /// The connections of two nodes are reset.
    Reset,
    /// A request between nodes is lost with its connection.
    LoseRequest,
    /// The reply to a request between nodes is lost with its connection.
    LoseReply,
    /// Connections between two nodes stand, and nothing passes them.
    HalfOpen,
    /// A link carries little.
    Narrow,
    /// By rate: packets are lost and sent again.
    Loss,
    /// By rate: frames are late, some very late.
    Tail,
    /// By rate: requests between nodes come a second time, later.
    Repetition,
    /// By rate: bits of entries are flipped on the way.
    Flip,
    /// A node's wall clock is stepped, and set right after a while.
    Step,
    /// A node's machine slept: both clocks leap.
    Leap,
    /// A node's clocks stand still for a while.
    Freeze,
    /// A node's wall clock is stepped to and fro.
    Strobe,
    /// All the time: clocks are too quick or too slow.
    Drift,
    /// At restarts: the wall clock is an hour behind.
    HourBack,
    /// A node's process takes no step for a while.
    Pause,
    /// A node waits for a processor at each step.
    Slow,
    /// A node is asked to stop.
    Stop,
    /// A node comes back with an empty disk, or another node's.
    Stranger,
    /// A process is killed.
    Kill,
    /// A machine loses power.
    PowerCut,
    /// A machine loses power at a disk operation.
    CutAtOperation,
    /// A node crashes again and again, soon after it starts.
    CrashLoop,
    /// All nodes crash at once.
    All,
    /// At restarts: the power goes while the node recovers.
    CutInRecovery,
    /// A disk is slow for a while.
    SlowDisk,
    /// One operation of a disk takes long.
    Stall,
    /// A sync fails.
    FailSync,
    /// A disk is nearly full for a while: entries must be refused before it is.
    DiskFull,
    /// A disk has no room any more for a write, and has it again after a while.
    Enospc,
    /// A client is cut off from nodes, though these hear each other.
    CutClient,
    /// A client's request is lost with its connection.
    LoseClientRequest,
    /// A client's request is done and its reply lost.
    LoseClientReply,
    /// A client's connections are reset.
    ResetClient,
    /// A client reads slowly.
    SlowReader,
    /// A client takes no step for a while.
    PauseClient,
    /// A client's wall clock is stepped, and set right after a while.
    StepClient,
    /// What a node leads is handed to another one, in whatever state that is.
    Transfer,
    /// All nodes are asked to stop, one after the other.
    Rolling,
    /// A node loses its disk for good, and is replaced.
    LoseDisk,
    /// A node is removed, and comes again as a new one.
    Leave,
    /// A partition moves to other nodes.
    Reassign,
    /// Sectors of a sealed volume rot.
    Rot,
    /// A node comes back without one of its sealed volumes, or with another one in its place.
    LoseVolume,
    /// A node comes back with its small database damaged or gone.
    LoseMeta,
    /// A node comes back with what it wrote last damaged, gone, or older than it was.
    LoseTail,
}

use Kind::*;

/// All kinds, each with its class and how common it is beside the others.
pub const ALL: [(Kind, Class, u64); 50] = [
    (CutLink, Class::Network, 6),
    (Partition, Class::Network, 6),
    (Strand, Class::Network, 5),
    (Clog, Class::Network, 4),
    (Reset, Class::Network, 4),
    (LoseRequest, Class::Network, 3),
    (LoseReply, Class::Network, 3),
    (HalfOpen, Class::Network, 2),
    (Narrow, Class::Network, 2),
    (Loss, Class::Network, 0),
    (Tail, Class::Network, 0),
    (Repetition, Class::Network, 0),
    (Flip, Class::Network, 0),
    (Step, Class::Clock, 3),
    (Leap, Class::Clock, 2),
    (Freeze, Class::Clock, 2),
    (Strobe, Class::Clock, 1),
    (Drift, Class::Clock, 0),
    (HourBack, Class::Clock, 0),
    (Pause, Class::Process, 5),
    (Slow, Class::Process, 2),
    (Stop, Class::Process, 2),
    (Stranger, Class::Process, 1),
    (Kill, Class::Crash, 5),
    (PowerCut, Class::Crash, 5),
    (CutAtOperation, Class::Crash, 8),
    (CrashLoop, Class::Crash, 2),
    (All, Class::Crash, 2),
    (CutInRecovery, Class::Crash, 0),
    (SlowDisk, Class::Disk, 2),
    (Stall, Class::Disk, 4),
    (FailSync, Class::Disk, 3),
    (DiskFull, Class::Disk, 3),
    (Enospc, Class::Disk, 2),
    (CutClient, Class::Client, 4),
    (LoseClientRequest, Class::Client, 3),
    (LoseClientReply, Class::Client, 5),
    (ResetClient, Class::Client, 3),
    (SlowReader, Class::Client, 1),
    (PauseClient, Class::Client, 2),
    (StepClient, Class::Client, 1),
    (Transfer, Class::Process, 4),
    (Rolling, Class::Process, 1),
    (LoseDisk, Class::Membership, 2),
    (Leave, Class::Membership, 2),
    (Reassign, Class::Membership, 3),
    (Rot, Class::Damage, 1),
    (LoseVolume, Class::Damage, 3),
    (LoseMeta, Class::Damage, 2),
    (LoseTail, Class::Damage, 2),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kind_is_there_once_and_each_class_has_some() {
        assert_eq!(ALL.iter().map(|(kind, ..)| kind).collect::<BTreeSet<_>>().len(), ALL.len());
        assert!(Class::ALL.iter().all(|class| ALL.iter().any(|(_, of, _)| of == class)));
    }
}
