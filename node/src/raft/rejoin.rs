//! What a replica must know before its Raft starts. A disk does not know by itself what it has lost: an older copy of
//! the active volume looks whole. So a replica asks the other members, and its leader says what it had.
//!
//! A replica that may have lost something waits for a leader's grant: the leader expects from then on that this log is
//! shorter than it was, and tells how far its own went after a majority had confirmed that it leads. Until the replica
//! holds that, committed, it neither votes nor stands. A crash at any point of this begins it again: what is lost stays
//! noted until then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};
use quorate_proto::v1::{self, peer_reply, peer_request};
use tokio::sync::watch;

use super::group::{Group, Role};
use super::node::Inner;
use super::peers::{AskError, Peers, Refusal, Who};
use super::repair::{self, Mended};
use super::types::{
    log_id_from_raft, log_id_option_from_wire, log_id_to_raft, log_id_to_wire, node_to_raft, vote_from_store,
    vote_from_wire, vote_to_store, vote_to_wire,
};
use crate::env::transport::Lane;
use crate::env::{Env, Mark, Point};
use crate::storage::{Damage, HardVote, Holes, Log, LogId, LogState, Lost, StoreError};

/// How long a start waits for what it must know, before it is given up and tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before the members are asked again.
const RETRY: Duration = Duration::from_millis(100);
/// Whoever did not answer in time is not asked again so soon by replicas that miss nothing.
const SILENT: Duration = Duration::from_secs(2);
/// How long a leader may take to have its majority confirm it.
const CONFIRM_TIME_MAX: Duration = Duration::from_millis(500);

/// What one member says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    /// The newest vote that it has given.
    vote: Option<HardVote>,
    /// What a leader says.
    grant: Option<Grant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grant {
    last: LogId,
    committed: Option<LogId>,
    matched: Option<LogId>,
}

/// What follows from the members' words.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing is known to be lost: it starts as it is.
    Whole,
    /// Its leader knows that it held more.
    Reverted(LogId),
    /// From here on it cannot read its log, and nobody has committed that.
    GiveUp(LogIndex),
    /// It starts under this vote, and is whole once it holds what it must, committed.
    TakenIn { vote: HardVote, until: Until },
    /// Not yet.
    Wait(&'static str),
}

/// With what a replica that has lost something is whole again: it holds, committed, all up to this index, or an entry of a
/// later term than this one. What it acknowledged before is there in both cases: the leader that took it in had it, and
/// nobody comes to lead later who has less, as this replica does not vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Until {
    /// What the leader's log ended with.
    pub(super) index: LogIndex,
    /// The leader's term: its end may never be committed if another one follows.
    pub(super) term: Term,
}

impl Until {
    fn is_reached(self, applied: LogId) -> bool {
        applied.index >= self.index || applied.term > self.term
    }
}

/// Why a replica cannot start.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unready {
    /// Nobody else has what it may have lost.
    #[error("it has lost something of its log, and no other replica of it exists")]
    NoOther,
    /// It is tried again.
    #[error("it has lost something of its log, and {0}")]
    NotYet(&'static str),
    /// The disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Waits until a group may start; `members` are all that it has, or may have. If something is lost: with what it is whole again. May
/// be dropped, and then begins anew.
///
/// # Errors
/// By variant.
pub(super) async fn pass(node: &Arc<Inner>, log: &Log, members: &[NodeId]) -> Result<Option<Until>, Unready> {
    let env = node.env().clone();
    let peers = members.iter().copied().filter(|member| *member != node.me).collect::<Vec<_>>();
    let until = env.now() + PATIENCE;
    loop {
        let mut damage = log.damage();
        if damage.base {
            // All of it comes from a peer.
            damage.heads = Holes::default();
        }
        let unfit = damage.lost.any() || !damage.heads.is_empty();
        if peers.is_empty() {
            if !unfit {
                return Ok(None);
            }
            return Err(Unready::NoOther);
        }
        let (mut mended, mut trimmed) = (false, false);
        for hole in damage.heads.ranges() {
            match repair::mend(&node.peers, log, hole, &peers, node.config().append_bytes_max).await? {
                Mended::Some => mended = true,
                Mended::OtherCommitted(index) if is_known_committed(log, index) => {
                    tracing::error!(
                        group = %log.group(),
                        %index,
                        "another entry is committed elsewhere than here: nothing of the log is given up"
                    );
                }
                Mended::OtherCommitted(index) => {
                    // It and all behind it was never committed: another leader's entries stand there.
                    env.reached(Mark::DamagedTailGivenUp);
                    log.truncate_suffix(index).await?;
                    mended = true;
                    break;
                }
                Mended::Trimmed => trimmed = true,
                Mended::Gone(_) | Mended::None => {}
            }
        }
        if mended {
            if node.is_stopping() {
                return Err(Unready::NotYet("this node is stopping"));
            }
            continue;
        }
        if trimmed {
            tracing::warn!(group = %log.group(), "log is given up: the others have trimmed what cannot be read");
            log.lose_base().await?;
            continue;
        }
        let words = ask(node, log, &damage, &peers).await;
        let why = match judge(&damage, &log.state(), &peers, &words) {
            Verdict::Whole => return Ok(None),
            Verdict::Reverted(matched) => {
                env.reached(Mark::RevertSeenByItsLeader);
                tracing::error!(
                    group = %log.group(),
                    held = %matched.index,
                    last = log.state().last.map_or(0, |last| last.index.0),
                    "log is shorter than its leader knows it"
                );
                log.set_lost(damage.lost.and(Lost { tail: true, vote: false })).await?;
                continue;
            }
            Verdict::GiveUp(from) if is_known_committed(log, from) => {
                "its leader does not know what was known here to be committed"
            }
            Verdict::GiveUp(from) => {
                env.reached(Mark::DamagedTailGivenUp);
                tracing::warn!(group = %log.group(), %from, "end of a log was given up: it cannot be read, and is not committed");
                // First: what was acknowledged here is gone with it.
                log.set_lost(damage.lost.and(Lost { tail: true, vote: false })).await?;
                log.truncate_suffix(from).await?;
                continue;
            }
            Verdict::TakenIn { vote, until } => {
                if damage.base {
                    log.begin_anew().await?;
                }
                log.save_vote(vote).await?;
                tracing::info!(group = %log.group(), until = %until.index, "replica that lost something was taken in");
                return Ok(Some(until));
            }
            Verdict::Wait(why) => why,
        };
        if env.now() >= until || node.is_stopping() {
            return Err(Unready::NotYet(why));
        }
        env.sleep(RETRY).await;
    }
}

/// Whether this node itself has noted that an entry is committed: such a one is never given up.
fn is_known_committed(log: &Log, index: LogIndex) -> bool {
    repair::committed_here(None, log).is_some_and(|committed| committed.index >= index)
}

/// Asks all members at once. Whoever may have lost something waits for each; others for the leader, or for all.
async fn ask(node: &Arc<Inner>, log: &Log, damage: &Damage, peers: &[NodeId]) -> BTreeMap<NodeId, Word> {
    let unfit = damage.lost.any() || !damage.heads.is_empty();
    let request = v1::RejoinRequest {
        group: log.group().0,
        last_log_id: log.state().last.map(|last| log_id_to_wire(&log_id_to_raft(last))),
        tail_lost: damage.lost.any(),
        confirm: unfit,
    };
    let wait = Duration::from_millis(node.config().election_timeout_ms_min);
    let wait = if unfit { wait + CONFIRM_TIME_MAX } else { wait };
    // Many groups start, some one after the other: whoever is silent is not waited for by each.
    let asked = peers.iter().filter(|peer| unfit || !node.was_silent(**peer, SILENT));
    let asked = asked.map(|peer| ask_one(&node.peers, *peer, request, wait));
    let mut asked = asked.collect::<FuturesUnordered<_>>();
    let mut words = BTreeMap::new();
    while let Some((peer, said)) = asked.next().await {
        let word = match said {
            Said::Word(word) => word,
            Said::Nothing => continue,
            Said::Late => {
                node.note_silent(peer);
                continue;
            }
        };
        words.insert(peer, word);
        if word.grant.is_some() && !unfit {
            break;
        }
    }
    words
}

/// What became of asking a member.
enum Said {
    Word(Word),
    /// It refused, or nobody was there.
    Nothing,
    /// It did not answer in time.
    Late,
}

async fn ask_one(
    plane: &Arc<Peers>,
    peer: NodeId,
    request: v1::RejoinRequest,
    wait: Duration,
) -> (NodeId, Said) {
    let asked = plane.ask(peer, Lane::Urgent, peer_request::Body::Rejoin(request), wait).await;
    let said = match asked {
        Ok(_) if plane.env().perturb(Point::RejoinUnheard) => Said::Nothing,
        Ok((_, peer_reply::Body::Rejoin(reply))) => word_from_wire(reply).map_or(Said::Nothing, Said::Word),
        Ok(_) => Said::Nothing,
        Err(AskError::Late(_)) => Said::Late,
        Err(error) => {
            tracing::debug!(%peer, %error, "member did not say what a replica had");
            Said::Nothing
        }
    };
    (peer, said)
}

/// `None` if it is none that we would have said.
fn word_from_wire(reply: v1::RejoinReply) -> Option<Word> {
    let vote = match &reply.vote {
        Some(vote) => Some(vote_to_store(&vote_from_wire(Some(vote)).ok()?)),
        None => None,
    };
    let id =
        |id: Option<&v1::LogId>| log_id_option_from_wire(id).ok().map(|id| id.as_ref().map(log_id_from_raft));
    let grant = match &reply.grant {
        Some(grant) => Some(Grant {
            last: id(grant.last_log_id.as_ref())??,
            committed: id(grant.committed.as_ref())?,
            matched: id(grant.matched.as_ref())?,
        }),
        None => None,
    };
    Some(Word { vote, grant })
}

/// What follows from what the members said.
fn judge(damage: &Damage, state: &LogState, peers: &[NodeId], words: &BTreeMap<NodeId, Word>) -> Verdict {
    let leads = |(peer, word): (&NodeId, &Word)| Some((word.grant?, word.vote?, *peer));
    let by_term = |(_, vote, _): &(Grant, HardVote, NodeId)| vote.term;
    let leader = words.iter().filter_map(leads).max_by_key(by_term);
    let Some((grant, vote, _)) = leader else {
        return if damage.lost.any() || !damage.heads.is_empty() {
            Verdict::Wait("no leader has said yet what it had")
        } else {
            Verdict::Whole
        };
    };
    if let Some(hole) = damage.heads.first() {
        // Before it had a majority confirm it, a leader may not know what is committed; then it does.
        return if grant.committed.is_none_or(|committed| committed.index < hole) {
            Verdict::GiveUp(hole)
        } else {
            Verdict::Wait("no member that answers can read what is damaged here")
        };
    }
    if !damage.lost.any() {
        return match grant.matched {
            Some(matched) if Some(matched) > state.last => Verdict::Reverted(matched),
            Some(_) | None => Verdict::Whole,
        };
    }
    if damage.lost.vote {
        if words.len() < peers.len() {
            return Verdict::Wait("not every member has said yet for whom it voted");
        }
        // It may have voted for anybody in any term that is known to anybody, and not in a later one.
        let settled = |word: &Word| {
            word.vote.is_none_or(|other| {
                other.term < vote.term || (other.term == vote.term && other.node == vote.node)
            })
        };
        if !words.values().all(settled) {
            return Verdict::Wait("the members are electing a leader");
        }
    }
    let until = Until { index: grant.last.index, term: vote.term };
    // Its own is not taken back.
    let vote = state.vote.map_or(vote, |own| own.max(vote));
    Verdict::TakenIn { vote, until }
}

/// Tells a replica that starts what it had, and takes it in if this node leads and it has lost something.
pub(super) async fn answer(
    node: Arc<Inner>,
    who: Who,
    request: v1::RejoinRequest,
) -> Result<peer_reply::Body, Refusal> {
    let id = GroupId(request.group);
    let log = node.store().log(id);
    if log.damage().lost.vote || node.store().may_have_forgotten(id) {
        let message = "this node may have lost its own vote in the group";
        return Err(Refusal::new(ErrorCode::NotAvailable, message));
    }
    let group = node.group(id);
    let grant = match &group {
        Some(group) => grant(group, who, &request).await,
        None => None,
    };
    // Read last: it is what this node has promised by now. What is saved may be newer than what the group shows.
    let votes = [group.as_ref().map(Group::hard_vote), log.state().vote];
    let vote = votes.into_iter().flatten().reduce(HardVote::max);
    // Whoever has promised itself to another one meanwhile grants nothing more.
    let leads = |vote: HardVote| vote.committed && vote.node == node_to_raft(node.me);
    let grant = grant.filter(|_| vote.is_some_and(leads));
    let vote = vote.map(|vote| vote_to_wire(&vote_from_store(vote)));
    Ok(peer_reply::Body::Rejoin(v1::RejoinReply { vote, grant }))
}

/// `None` if this node does not lead, or nobody confirms that it does.
async fn grant(group: &Group, to: Who, request: &v1::RejoinRequest) -> Option<v1::Grant> {
    let Role::Leader { .. } = group.role() else { return None };
    let vote = group.vote();
    // What another disk under that node id had says nothing of this one.
    let is_member = group.seen_config().config.disks.get(&to.node) == Some(&to.identity);
    let matched = if is_member { group.matched_by(to.node) } else { None };
    if request.tail_lost {
        if !is_member {
            return None;
        }
        // Before that replica's Raft starts: afterwards it is without effect. It stands for one conflict, and the peers'
        // plane hands openraft no old one after that.
        let target = node_to_raft(to.node);
        let allowed = group.0.raft.trigger();
        let allowed = group.0.scope.enter(allowed.allow_next_revert(&target, true)).boxed().await;
        if !matches!(allowed, Ok(Ok(()))) {
            return None;
        }
    }
    if request.confirm {
        group.read_barrier(CONFIRM_TIME_MAX).await.ok()?;
    }
    let committed = repair::committed_here(Some(group), group.log());
    let last = group.log().state().last?;
    if group.vote() != vote || !vote.committed {
        return None;
    }
    let wire = |id: LogId| log_id_to_wire(&log_id_to_raft(id));
    Some(v1::Grant {
        last_log_id: Some(wire(last)),
        committed: committed.map(wire),
        matched: matched.map(wire),
    })
}

/// Notes that a replica has caught up, once it has.
pub(super) async fn regain(env: Env, log: Log, until: Until, mut applied: watch::Receiver<Option<LogId>>) {
    let reached = |last: &Option<LogId>| last.is_some_and(|last| until.is_reached(last));
    if applied.wait_for(reached).await.is_err() {
        return;
    }
    // A failed store ends the process.
    if log.synced().await.is_err() || log.set_lost(Lost::default()).await.is_err() {
        return;
    }
    env.reached(Mark::TailLostRejoined);
    tracing::info!(group = %log.group(), until = %until.index, "replica has caught up, and votes again");
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn id(term: u64, index: u64) -> LogId {
        LogId { term: Term(term), index: LogIndex(index) }
    }

    fn vote(term: u64, node: u64, committed: bool) -> HardVote {
        HardVote { term: Term(term), node, committed }
    }

    fn follows(term: u64, node: u64) -> Word {
        Word { vote: Some(vote(term, node, true)), grant: None }
    }

    fn leads(term: u64, node: u64, last: u64, committed: u64, matched: Option<u64>) -> Word {
        let grant = Grant {
            last: id(term, last),
            committed: Some(id(term, committed)),
            matched: matched.map(|index| id(term, index)),
        };
        Word { vote: Some(vote(term, node, true)), grant: Some(grant) }
    }

    /// A replica of node 3 that holds up to index 9 of term 4 and has voted for node 1 there; its peers are 1 and 2.
    fn check(damage: &Damage, words: &[(NodeId, Word)]) -> Verdict {
        let state = LogState { vote: Some(vote(4, 1, true)), last: Some(id(4, 9)), ..LogState::default() };
        judge(damage, &state, &[A, B], &words.iter().copied().collect())
    }

    fn lost(tail: bool, vote: bool) -> Damage {
        Damage { lost: Lost { tail, vote }, ..Damage::default() }
    }

    fn hole(index: u64) -> Damage {
        let mut damage = Damage::default();
        damage.heads.add(LogIndex(index)..LogIndex(index + 1));
        damage
    }

    #[test]
    fn a_whole_replica_starts_unless_its_leader_knows_better() {
        let whole = Damage::default();
        assert_eq!(check(&whole, &[]), Verdict::Whole);
        assert_eq!(check(&whole, &[(A, leads(4, 1, 9, 9, Some(9))), (B, follows(4, 1))]), Verdict::Whole);
        assert_eq!(check(&whole, &[(A, leads(4, 1, 9, 9, None))]), Verdict::Whole);
        assert_eq!(check(&whole, &[(A, leads(4, 1, 12, 12, Some(12)))]), Verdict::Reverted(id(4, 12)));
    }

    #[test]
    fn a_lost_tail_waits_for_a_leader_and_its_newest_one_counts() {
        let damage = lost(true, false);
        assert!(matches!(check(&damage, &[(B, follows(4, 1))]), Verdict::Wait(_)));
        let until = |vote, last: LogId| Verdict::TakenIn {
            vote,
            until: Until { index: last.index, term: last.term },
        };
        assert_eq!(
            check(&damage, &[(A, leads(5, 1, 12, 11, Some(12)))]),
            until(vote(5, 1, true), id(5, 12)),
            "one word is enough"
        );
        assert_eq!(
            check(&damage, &[(A, leads(5, 1, 12, 11, None)), (B, leads(6, 2, 10, 10, None))]),
            until(vote(6, 2, true), id(6, 10))
        );
        assert_eq!(
            check(&damage, &[(A, leads(3, 1, 12, 11, None))]),
            until(vote(4, 1, true), id(3, 12)),
            "its own vote is not taken back"
        );
    }

    #[test]
    fn a_lost_vote_waits_for_all_and_for_the_end_of_elections() {
        let damage = lost(true, true);
        let leader = (A, leads(5, 1, 12, 11, None));
        assert!(matches!(check(&damage, &[leader]), Verdict::Wait(_)), "the other may stand with its vote");
        let stands = Word { vote: Some(vote(6, 2, false)), grant: None };
        assert!(matches!(check(&damage, &[leader, (B, stands)]), Verdict::Wait(_)));
        let stands = Word { vote: Some(vote(5, 2, false)), grant: None };
        assert!(matches!(check(&damage, &[leader, (B, stands)]), Verdict::Wait(_)));
        let until = Until { index: LogIndex(12), term: Term(5) };
        let taken_in = Verdict::TakenIn { vote: vote(5, 1, true), until };
        assert_eq!(check(&damage, &[leader, (B, follows(5, 1))]), taken_in);
        assert_eq!(check(&damage, &[leader, (B, follows(4, 2))]), taken_in);
        assert_eq!(check(&damage, &[leader, (B, Word { vote: None, grant: None })]), taken_in);
    }

    #[test]
    fn whoever_holds_the_leaders_end_or_a_later_leaders_entry_is_whole() {
        let until = Until { index: LogIndex(12), term: Term(5) };
        assert!(!until.is_reached(id(5, 11)));
        assert!(until.is_reached(id(5, 12)));
        assert!(until.is_reached(id(6, 9)), "the leader's end was never committed");
    }

    #[test]
    fn what_nobody_committed_is_given_up_and_what_somebody_did_is_waited_for() {
        assert!(matches!(check(&hole(8), &[(B, follows(4, 1))]), Verdict::Wait(_)), "nobody knows");
        let leader = |committed| (A, leads(4, 1, 9, committed, Some(9)));
        assert_eq!(check(&hole(8), &[leader(7)]), Verdict::GiveUp(LogIndex(8)));
        assert!(matches!(check(&hole(8), &[leader(8)]), Verdict::Wait(_)));
    }

    #[test]
    fn words_that_nobody_says_are_not_heard() {
        assert_eq!(word_from_wire(v1::RejoinReply::default()), Some(Word { vote: None, grant: None }));
        let bad = v1::RaftVote { term: u64::MAX, node: 1, committed: true };
        assert_eq!(word_from_wire(v1::RejoinReply { vote: Some(bad), grant: None }), None);
        let empty = v1::RejoinReply { vote: None, grant: Some(v1::Grant::default()) };
        assert_eq!(word_from_wire(empty), None, "a leader has a log");
    }
}
