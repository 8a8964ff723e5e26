//! Where the world may be unkind, and what is worth knowing to have happened: asked and told by node and client, in
//! the real program without any effect.
//!
//! A [`Point`] is a place at which something slow, rare or small but legal may happen; the simulator makes it happen.
//! A [`Mark`] is a place that a sweep of the simulator must have reached, or else it has tested less than it seems.
//! Neither stands where it would be met more than once a batch.

use std::fmt;

/// Decides what happens at points, and hears of marks.
pub trait Probe: Send + Sync {
    /// Whether to be unkind here and now.
    fn perturb(&self, point: Point) -> bool;

    /// This was reached.
    fn reached(&self, mark: Mark);
}

/// The real program's: never unkind, and not curious.
#[derive(Clone, Copy, Debug)]
pub struct Unprobed;

impl Probe for Unprobed {
    fn perturb(&self, _point: Point) -> bool {
        false
    }

    fn reached(&self, _mark: Mark) {}
}

/// An enum whose variants have names that are told to people.
macro_rules! named {
    ($(#[$of_all:meta])* $all:ident { $($(#[$of_one:meta])* $one:ident = $name:literal,)+ }) => {
        $(#[$of_all])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $all {
            $($(#[$of_one])* $one,)+
        }

        impl $all {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$one,)+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$one => $name,)+
                }
            }
        }

        impl fmt::Display for $all {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// Something that a slow, busy or unlucky world may do; every promise holds all the same.
    Point {
        /// The committer takes its time before it gathers, as on a busy machine.
        CommitLate = "commit-late",
        /// A commit stops gathering, as if nothing more were queued.
        CommitOfFew = "commit-of-few",
        /// What is on the disk is told late: a crash may come in between.
        SyncToldLate = "sync-told-late",
        /// The next volume is begun although this one is not full.
        RollEarly = "roll-early",
        /// The keeper comes late to seal a full volume.
        SealLate = "seal-late",
        /// The keeper comes late to make the next volume.
        PrepareLate = "prepare-late",
        /// The keeper comes late to remove a volume.
        RemoveLate = "remove-late",
        /// All synced entries leave the memory: they are read from the disk from then on.
        RecentForgotten = "recent-forgotten",
        /// No sealed volume is kept open.
        SealedVolumesClosed = "sealed-volumes-closed",
        /// A read of heads gives one, as it may.
        HeadsReadOne = "heads-read-one",
        /// A read of entries gives one, as it may.
        EntriesReadOne = "entries-read-one",
        /// The scrubber does not rest.
        ScrubHasty = "scrub-hasty",
        /// Entries asked of a peer, to mend what is damaged here, come late.
        RepairLate = "repair-late",
        /// A peer's word on what a replica may have lost is not heard: it is asked again.
        RejoinUnheard = "rejoin-unheard",
        /// A read from the disk takes long.
        ReadLate = "read-late",
        /// A truncation is slow to reach the disk.
        TruncateLate = "truncate-late",
        /// A vote is slow to reach the disk.
        VoteSavedLate = "vote-saved-late",
        /// What is committed in a partition is not noted; it is a hint only.
        CommittedNotNoted = "committed-not-noted",
        /// A checkpoint is slow to reach the disk.
        CheckpointLate = "checkpoint-late",
        /// The keeper comes late to go on with rewriting a volume.
        RewriteLate = "rewrite-late",
        /// A volume is rewritten although most of it is alive.
        RewriteEarly = "rewrite-early",
        /// A log is trimmed late after its base was raised.
        TrimLate = "trim-late",
        /// A replica makes a checkpoint before it is due.
        CheckpointEarly = "checkpoint-early",
        /// A leader does not hold its log for a replica that is slow.
        SlowReplicaNotWaitedFor = "slow-replica-not-waited-for",
        /// The sending of a checkpoint to a member ends in the middle.
        CatchUpInterrupted = "catch-up-interrupted",
        /// A piece of a checkpoint is sent late.
        CatchUpLate = "catch-up-late",
        /// A heartbeat does not say from where on the leader needs its log.
        TrimUntold = "trim-untold",
        /// Records are not looked at for being too old or too many.
        RetentionSkipped = "retention-skipped",
        /// A proposal is slow to be queued.
        ProposalLate = "proposal-late",
        /// A proposal is refused after it was queued, and those behind it are not: openraft does so to a leader that is
        /// not sure for a moment that it leads.
        ProposalNotAppended = "proposal-not-appended",
        /// What is committed is applied late.
        ApplyLate = "apply-late",
        /// That this node leads, or does not any more, is noticed late.
        RoleLate = "role-late",
        /// No majority answers a read barrier.
        BarrierFails = "barrier-fails",
        /// A survivor does not wait for its turn to stand.
        ElectionEarly = "election-early",
        /// A survivor stands late.
        ElectionLate = "election-late",
        /// A restarted member does not wait until its peers have been heard.
        ElectionUnheard = "election-unheard",
        /// A candidate's votes are not waited for: there is another election.
        CandidateImpatient = "candidate-impatient",
        /// A request for a vote gets no answer.
        VoteUnanswered = "vote-unanswered",
        /// A request for a pre-vote gets no answer.
        PreVoteUnanswered = "pre-vote-unanswered",
        /// A request for a vote is handled late.
        VoteHandledLate = "vote-handled-late",
        /// A vote is counted late.
        VoteCountedLate = "vote-counted-late",
        /// A follower's word that it has entries comes late.
        AppendAnsweredLate = "append-answered-late",
        /// Only one message of replication is in flight.
        AppendsOneAtATime = "appends-one-at-a-time",
        /// A session of replication ends, and the leader begins another.
        SessionEnded = "session-ended",
        /// A heartbeat is not sent.
        HeartbeatSkipped = "heartbeat-skipped",
        /// A heartbeat waits before it is handled.
        HeartbeatHandledLate = "heartbeat-handled-late",
        /// The answer to a heartbeat goes out later than that to what came after it.
        HeartbeatAnsweredLate = "heartbeat-answered-late",
        /// A node's beat to a peer is not sent.
        BeatSkipped = "beat-skipped",
        /// A beat says that the node leads nothing, as one from before an election.
        BeatWithoutLeads = "beat-without-leads",
        /// A follower forgets that a group is quiet: its leader does not know.
        QuietForgotten = "quiet-forgotten",
        /// Whoever is to take over leadership is not told: the leader that hands it over leads no more all the same.
        TransferUntold = "transfer-untold",
        /// A connection that was reset is taken for a proof of death, as if a refusal had followed.
        ResetTakenForDeath = "reset-taken-for-death",
        /// A hello's answer is not heard.
        HelloUnheard = "hello-unheard",
        /// A request is refused as by a node that does not lead.
        NotLeading = "not-leading",
        /// A batch is refused as by a disk that does not keep up.
        ProduceOverloaded = "produce-overloaded",
        /// A follower refuses entries as one whose disk is nearly full.
        AppendRefusedFull = "append-refused-full",
        /// A batch is refused as by a leader that has just been deposed.
        ProduceNotLeader = "produce-not-leader",
        /// A produce is answered almost at once, whatever became of it.
        ProduceCutShort = "produce-cut-short",
        /// A produce is answered late.
        ProduceAnsweredLate = "produce-answered-late",
        /// The batcher begins anew from applied state, as after a refusal.
        BatcherBeginsAnew = "batcher-begins-anew",
        /// No batch is proposed while another one is in flight.
        BatcherOneInFlight = "batcher-one-in-flight",
        /// A fetch is refused as by a node where too many wait.
        FetchOverloaded = "fetch-overloaded",
        /// A fetch does not wait for records.
        FetchCutShort = "fetch-cut-short",
        /// A fetch gives one batch.
        FetchOfOneBatch = "fetch-of-one-batch",
        /// A fetch is answered late.
        FetchAnsweredLate = "fetch-answered-late",
        /// Waiting fetches are not told of new records; the next ones, or their time, wakes them.
        FetchesNotWoken = "fetches-not-woken",
        /// All waiting fetches are woken, whether or not there is enough for them.
        FetchesWokenForNothing = "fetches-woken-for-nothing",
        /// New metadata are followed late.
        MetadataSeenLate = "metadata-seen-late",
        /// A replica starts late.
        ReplicaStartsLate = "replica-starts-late",
        /// A replica of a deleted topic goes late.
        ReplicaRemovedLate = "replica-removed-late",
        /// A command for the metadata group is not sent: it is tried again.
        CommandNotTried = "command-not-tried",
        /// The answer to a command is lost: it is sent again.
        CommandAnswerLost = "command-answer-lost",
        /// The rest of a block of producer ids is not used.
        ProducerIdsForgotten = "producer-ids-forgotten",
        /// No producer id is handed out.
        NoProducerId = "no-producer-id",
        /// An answer about topics names no leaders, as by a node that has heard of none.
        LeadersUntold = "leaders-untold",
        /// A node does not say what it knows of a topic.
        TopicNotTold = "topic-not-told",
        /// A producer must ask who leads.
        ProducerForgetsTheLeader = "producer-forgets-the-leader",
        /// A producer sends one new batch, and the next after an answer.
        BatchesSentOneAtATime = "batches-sent-one-at-a-time",
        /// A batch is sent before its time to wait for more records is over.
        LingerCutShort = "linger-cut-short",
        /// An answer to a produce is not waited for.
        ProduceGivenUp = "produce-given-up",
        /// A consumer must ask who leads.
        ConsumerForgetsTheLeader = "consumer-forgets-the-leader",
        /// A consumer asks another server who leads, though all is well.
        ConsumerLooksElsewhere = "consumer-looks-elsewhere",
        /// A consumer fetches no more until what it has is read.
        PrefetchShrunk = "prefetch-shrunk",
        /// A consumer asks for as little as there is.
        FetchTiny = "fetch-tiny",
        /// An answer to a fetch is not waited for.
        FetchGivenUp = "fetch-given-up",
        /// Another server than the last one is asked who leads.
        LookUpElsewhere = "look-up-elsewhere",
        /// A call goes over a new connection.
        ConnectionForgotten = "connection-forgotten",
        /// A server's word in passing of who leads is not taken over.
        HintIgnored = "hint-ignored",
        /// There is no pause before another try.
        BackoffCutShort = "backoff-cut-short",
        /// What the metadata group agreed on about members is followed late.
        MembersFollowedLate = "members-followed-late",
        /// A leader takes its time before the next change of its group's members.
        MembersChangedLate = "members-changed-late",
        /// A leader's word of who the members are is not sent; it comes again.
        MembersUntold = "members-untold",
    }
}

named! {
    /// Something that a sweep must have seen happen.
    Mark {
        /// A node became the leader of a group.
        ElectionWon = "election-won",
        /// A candidate did not win.
        ElectionLost = "election-lost",
        /// A leader learnt that it does not lead any more.
        LeaderDeposed = "leader-deposed",
        /// A pre-vote was refused.
        PreVoteRefused = "pre-vote-refused",
        /// A vote was refused.
        VoteRefused = "vote-refused",
        /// A vote was given to a peer.
        VoteGranted = "vote-granted",
        /// A peer's death was proven.
        PeerProvenDead = "peer-proven-dead",
        /// A peer whose death seemed proven was heard again: it had lived.
        TakenForDeadAndLived = "taken-for-dead-and-lived",
        /// A survivor took over from a leader whose death was proven.
        ElectionAfterAProvenDeath = "election-after-a-proven-death",
        /// A leader asked its followers to be quiet.
        QuietBegun = "quiet-begun",
        /// All of them agreed.
        QuietConfirmed = "quiet-confirmed",
        /// Leader and follower took different groups for quiet, and it was told whole.
        QuietToldAgain = "quiet-told-again",
        /// Something was proposed in a quiet group.
        WokenByProposal = "woken-by-proposal",
        /// In a quiet group a leader or a follower was not heard any more.
        WokenByLostContact = "woken-by-lost-contact",
        /// In a quiet group somebody asked its leader for a vote.
        WokenByAVoteRequest = "woken-by-a-vote-request",
        /// The leader of a quiet group handed it over.
        WokenByATransfer = "woken-by-a-transfer",
        /// A vote was refused in a quiet group because the node of its leader lives.
        VoteRefusedInAQuietGroup = "vote-refused-in-a-quiet-group",
        /// Leadership was handed to another node.
        Transferred = "transferred",
        /// An heir did not take over in time.
        TransferNotTaken = "transfer-not-taken",
        /// A node that was asked to stop handed over what it led.
        HandedOverAtStop = "handed-over-at-stop",
        /// Leadership was given back to the preferred leader.
        GivenBack = "given-back",
        /// A follower's log did not hold what a leader's entries follow.
        AppendConflicts = "append-conflicts",
        /// A leader heard from a follower that there is a newer one.
        OldLeaderRefused = "old-leader-refused",
        /// Entries came in a session of replication that had ended.
        AppendToAnEndedSession = "append-to-an-ended-session",
        /// A read barrier found no majority.
        BarrierWithoutAMajority = "barrier-without-a-majority",
        /// A peer came with another identity than it is known by.
        IdentityRefused = "identity-refused",
        /// A node that asked to take part was refused.
        HelloRefused = "hello-refused",
        /// Entries at the end of a log were removed.
        SuffixTruncated = "suffix-truncated",
        /// Some of the removed entries lay in an earlier volume.
        TruncationAcrossARoll = "truncation-across-a-roll",
        /// A commit began the next volume.
        VolumeRolled = "volume-rolled",
        /// A full volume was sealed.
        VolumeSealed = "volume-sealed",
        /// A volume without anything alive was removed.
        VolumeRemoved = "volume-removed",
        /// A sealed volume was read.
        SealedVolumeRead = "sealed-volume-read",
        /// A read failed because its entries had been removed meanwhile.
        ReadOfWhatWentAway = "read-of-what-went-away",
        /// The live entries of a volume were copied, and the volume went.
        VolumeRewritten = "volume-rewritten",
        /// A volume that was being rewritten died meanwhile.
        RewritingGivenUp = "rewriting-given-up",
        /// A read had to begin again because its volume had been rewritten.
        ReadOfARewrittenVolume = "read-of-a-rewritten-volume",
        /// The base of a group was saved.
        BaseSaved = "base-saved",
        /// A recent checkpoint of a group was saved.
        RecentCheckpointSaved = "recent-checkpoint-saved",
        /// A log was trimmed to its base.
        LogTrimmed = "log-trimmed",
        /// A follower trimmed what its own log start does not say yet.
        TrimmedByTheLeadersWord = "trimmed-by-the-leaders-word",
        /// A leader trimmed what a slow replica would have needed.
        SlowReplicaCutOff = "slow-replica-cut-off",
        /// A leader began to send its base to a member that lacks what lies before it.
        CatchUpBegun = "catch-up-begun",
        /// The sending of a base ended before it was installed.
        CatchUpBroken = "catch-up-broken",
        /// A base of a leader took the place of a member's own state.
        BaseInstalled = "base-installed",
        /// A base was installed where there were entries applied.
        BaseInstalledOverState = "base-installed-over-state",
        /// A store was opened whose log had not been trimmed to the base that it had from a peer.
        RestartInTheMiddleOfACatchUp = "restart-in-the-middle-of-a-catch-up",
        /// A group started from a base behind which its log begins.
        StartFromABase = "start-from-a-base",
        /// A group started from a recent checkpoint.
        StartFromARecentCheckpoint = "start-from-a-recent-checkpoint",
        /// The log start of a partition was raised.
        LogStartRaised = "log-start-raised",
        /// A reader asked for what lies before the log start.
        ReaderBelowTheLogStart = "reader-below-the-log-start",
        /// A reader waited, or read, while what it wanted was trimmed.
        TrimmedUnderAReader = "trimmed-under-a-reader",
        /// Records were deleted because somebody asked for it.
        RecordsDeleted = "records-deleted",
        /// A producer was forgotten because it was idle for long, or there were too many.
        ProducerForgotten = "producer-forgotten",
        /// A write or sync failed, and the store with it.
        WriteFailed = "write-failed",
        /// A store was made in an empty folder.
        FirstStart = "first-start",
        /// A store was opened that had not been closed.
        RestartAfterACrash = "restart-after-a-crash",
        /// A store was opened whose full volume had not been sealed.
        RestartInTheMiddleOfASealing = "restart-in-the-middle-of-a-sealing",
        /// A store was opened after a failed write or sync.
        RestartWithAMarker = "restart-with-a-marker",
        /// A store was opened that held a file under its temporary name.
        RestartWithAHalfMadeFile = "restart-with-a-half-made-file",
        /// A store was opened that held a volume that it does not list.
        RestartWithAnUnlistedVolume = "restart-with-an-unlisted-volume",
        /// A store was opened that had not begun to write.
        RestartWithAnEmptyActiveVolume = "restart-with-an-empty-active-volume",
        /// A store was opened whose next volume had not been made, or was lost.
        RestartWithoutANextVolume = "restart-without-a-next-volume",
        /// After a crash a vote was newer in the small database than in the volume.
        VoteNewerInMeta = "vote-newer-in-meta",
        /// After a crash a vote was newer in the volume than in the small database.
        VoteNewerInItsVolume = "vote-newer-in-its-volume",
        /// The small database was damaged or gone, and was made anew of what the volumes say.
        MetaRebuilt = "meta-rebuilt",
        /// A volume could not be read any more, or was gone, and held entries.
        VolumeFoundLost = "volume-found-lost",
        /// The newest commits may have been missing when a store was opened.
        TailFoundLost = "tail-found-lost",
        /// An entry was found of which nothing could be read.
        HeadFoundDamaged = "head-found-damaged",
        /// An entry was found whose body could not be read.
        BodyFoundDamaged = "body-found-damaged",
        /// The scrubber has read everything.
        AllScrubbed = "all-scrubbed",
        /// Entries that were damaged here were written once more, as a peer held them.
        RepairedFromPeer = "repaired-from-peer",
        /// An entry that was damaged here came from nobody who was asked.
        NoCopyFound = "no-copy-found",
        /// A replica that had lost the end of its log has caught up, and may vote again.
        TailLostRejoined = "tail-lost-rejoined",
        /// A vote was refused because this node's replica may have lost one, or the end of its log.
        VoteLostRefused = "vote-lost-refused",
        /// A leader knew that a replica had held more than it showed.
        RevertSeenByItsLeader = "revert-seen-by-its-leader",
        /// A leader that could not read all of its log handed over.
        DamagedLeaderHandsOver = "damaged-leader-hands-over",
        /// The end of a log that nobody had committed was given up, as it could not be read.
        DamagedTailGivenUp = "damaged-tail-given-up",
        /// A group was started again in a running process, because of what was found damaged.
        GroupRestartedForDamage = "group-restarted-for-damage",
        /// An entry was out of place when it was applied.
        EntryVoid = "entry-void",
        /// A batch that had been applied came again, and got the first answer.
        DuplicateOfApplied = "duplicate-of-applied",
        /// A batch that was in flight came again, and waits for the first one's answer.
        DuplicateInFlight = "duplicate-in-flight",
        /// A batch came again that an earlier leader had written.
        DuplicateAfterFailover = "duplicate-after-failover",
        /// A batch came again that is older than those remembered.
        DuplicateTooOld = "duplicate-too-old",
        /// A batch was refused because one before it is missing.
        SequenceGap = "sequence-gap",
        /// A batch was refused because the disk did not keep up.
        DiskDoesNotKeepUp = "disk-does-not-keep-up",
        /// A batch was refused because a disk was nearly full.
        ProduceRefusedFull = "refused-full",
        /// A node whose disk was nearly full handed a partition over to one with room.
        HandedOverFull = "handed-over-full",
        /// A follower whose disk was nearly full refused entries.
        FollowerFull = "follower-full",
        /// A disk that was nearly full had room again.
        DiskHasRoomAgain = "recovered-full",
        /// A batch was not proposed before its deadline.
        ProduceNotProposedInTime = "produce-not-proposed-in-time",
        /// A batch that was proposed had no answer at its deadline.
        ProducePastItsDeadline = "produce-past-its-deadline",
        /// A batch was committed when nobody waited for its answer any more.
        ProduceCommittedPastItsDeadline = "produce-committed-past-its-deadline",
        /// A proposal was refused after it had been queued.
        ProposalRefused = "proposal-refused",
        /// Nobody could say what became of a proposal.
        ProposalUnknown = "proposal-unknown",
        /// A leader was deposed while batches were in flight.
        LeaderDeposedWithAnUnackedTail = "leader-deposed-with-an-unacked-tail",
        /// A batch was committed after its leader was deposed, or in doubt.
        BatchAcceptedAfterItsLeader = "batch-accepted-after-its-leader",
        /// A replica was closed while batches were in flight.
        TopicDeletedWithProducesInFlight = "topic-deleted-with-produces-in-flight",
        /// A log was removed whose topic had been deleted before the node started.
        TopicDeletedWhileTheNodeWasDown = "topic-deleted-while-the-node-was-down",
        /// A replica of a deleted topic was removed.
        ReplicaRemoved = "replica-removed",
        /// A replica was removed because its partition is held by other nodes now.
        ReplicaMovedAway = "replica-moved-away",
        /// A node's disk was admitted to the cluster, the first of that node or another one.
        NodeAdmitted = "node-admitted",
        /// A node was removed from the cluster.
        NodeRemoved = "node-removed",
        /// A membership of a group was appended.
        MembersChanged = "members-changed",
        /// A leader ended a change of members that another one had begun.
        ChangeOfAnotherEnded = "change-of-another-ended",
        /// A leader that has no place among the new members let another one lead.
        LeaderMadeWay = "leader-made-way",
        /// A node that was removed, or replaced, noticed it.
        RemovalNoticed = "removal-noticed",
        /// A replica that ran went over to other settings of its topic.
        SettingsFollowed = "settings-followed",
        /// A produce reached a leader that had not applied an entry of its own.
        ProduceBeforeTheFirstOwnEntry = "produce-before-the-first-own-entry",
        /// A fetch reached a leader that had not applied an entry of its own.
        FetchBeforeTheFirstOwnEntry = "fetch-before-the-first-own-entry",
        /// A lookup of an offset reached a leader that had not applied an entry of its own.
        LookupBeforeTheFirstOwnEntry = "lookup-before-the-first-own-entry",
        /// A fetch waited for records when its node ceased to lead.
        FetchWaitingWhenTheLeaderChanged = "fetch-waiting-when-the-leader-changed",
        /// A request named an older epoch than the leader's.
        OldEpochFenced = "old-epoch-fenced",
        /// A command for the metadata group was sent to its leader.
        CommandForwarded = "command-forwarded",
        /// Nobody could say what became of a command.
        CommandUnknown = "command-unknown",
        /// A batch was sent to the same node again.
        ProducerRetried = "producer-retried",
        /// A batch was sent again, to another leader.
        ProducerRetriedAcrossTwoLeaders = "producer-retried-across-two-leaders",
        /// An answer to a produce was lost, or the connection.
        ProduceAnswerLost = "produce-answer-lost",
        /// A producer gave up a batch that was perhaps written.
        BatchPerhapsWritten = "batch-perhaps-written",
        /// A producer gave up a batch that was surely not written.
        BatchSurelyNotWritten = "batch-surely-not-written",
        /// A producer did not wait any more for a leader that had been replaced.
        SlowLeaderAbandoned = "slow-leader-abandoned",
        /// A producer found that its topic had been deleted.
        ProducerFoundTheTopicGone = "producer-found-the-topic-gone",
        /// A producer went over to what its topic had become: it had grown, or takes other sizes.
        ProducerFollowedTheTopic = "producer-followed-the-topic",
        /// A consumer of a whole topic began with a partition that had been added.
        ConsumerFoundANewPartition = "consumer-found-a-new-partition",
        /// A consumer found that its topic had been deleted.
        ConsumerFoundTheTopicGone = "consumer-found-the-topic-gone",
        /// A consumer did not wait any more for a leader that had been replaced.
        FetchAtAnOldLeaderAbandoned = "fetch-at-an-old-leader-abandoned",
        /// A server that refused said who leads.
        LeaderHintHeard = "leader-hint-heard",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_words_with_hyphens_and_differ() {
        let points = Point::ALL.iter().map(|point| point.name());
        let marks = Mark::ALL.iter().map(|mark| mark.name());
        let names = points.chain(marks).collect::<Vec<_>>();
        for name in &names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
        }
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }
}
