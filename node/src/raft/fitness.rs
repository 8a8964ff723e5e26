//! What a replica may do that has lost something of its log, or that its log does not name. All that keeps it from
//! voting, standing and following stands here.
//!
//! | lost | votes | stands, leads | follows |
//! | --- | --- | --- | --- |
//! | nothing | yes | yes | yes |
//! | bodies | yes: its log's end is what it was | no, and hands over: it cannot replicate; unless nobody has them | yes |
//! | heads | no: what it cannot read is mended or given up first | no | once it has them again |
//! | the end of its log | no | no | whom a majority follows, told that its log is shorter (`rejoin`) |
//! | its vote | no | no | the same, and no leader of an earlier term: it may have voted against that one |
//! | nothing, but by its log another disk is this node's | yes | no: it would count itself in that disk's place | yes |
//!
//! The last of these is a replica on a disk that took another one's place, before it has heard that it is a member. Who
//! asks it for its vote, or counts what it holds, checks which disk answers; a leader does not ask itself.
//!
//! The loss of an end or of a vote is over once it holds, committed, what that leader's log ended with after the two had
//! met: then it knows all that it may have acknowledged. Who may be followed needs no check here: before openraft
//! starts, the replica has made durable that it follows the leader that took it in, and so openraft refuses all earlier
//! ones.

use crate::storage::Damage;

/// What is told to whoever asks such a replica for its vote.
pub(super) const MESSAGE: &str =
    "this replica has lost something of its log, and neither votes nor leads before it has it again";

/// What is told to whoever hands leadership over to a replica that its log does not name.
pub(super) const UNNAMED: &str =
    "this replica's log names another disk as this node's: it leads once it has heard that it is a member";

/// What a replica may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fitness {
    /// Give its vote, or a pre-vote.
    pub(super) votes: bool,
    /// Stand for election, and lead.
    pub(super) stands: bool,
}

impl Fitness {
    pub(super) fn of(damage: &Damage) -> Self {
        let votes = !damage.lost.any() && damage.heads.is_empty();
        // What nobody can read, nobody else would replicate better.
        Self { votes, stands: votes && damage.bodies == damage.gone }
    }

    /// The same for a replica whose log names another disk as this node's.
    pub(super) fn unnamed(self) -> Self {
        Self { stands: false, ..self }
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::LogIndex;

    use super::*;
    use crate::storage::Lost;

    #[test]
    fn who_lost_a_body_votes_and_who_lost_more_does_not() {
        let check = |change: fn(&mut Damage), votes, stands| {
            let mut damage = Damage::default();
            change(&mut damage);
            assert_eq!(Fitness::of(&damage), Fitness { votes, stands }, "{damage:?}");
        };
        check(|_| {}, true, true);
        check(|damage| damage.bodies.add(LogIndex(3)..LogIndex(4)), true, false);
        let gone = |damage: &mut Damage| {
            damage.bodies.add(LogIndex(3)..LogIndex(4));
            damage.gone.add(LogIndex(3)..LogIndex(4));
        };
        check(gone, true, true);
        check(|damage| damage.heads.add(LogIndex(3)..LogIndex(4)), false, false);
        check(|damage| damage.lost = Lost { tail: true, vote: false }, false, false);
        check(|damage| damage.lost = Lost { tail: false, vote: true }, false, false);
    }
}
