//! Entries that a disk has damaged come from another replica, by index: what is committed is the same everywhere (log
//! matching, Raft §5.3). Before a group's Raft starts where heads are missing, in the background otherwise.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};
use quorate_proto::v1::{self, peer_reply, peer_request};

use super::fitness::Fitness;
use super::group::{Group, Role};
use super::log_store::needs_body;
use super::membership::{GroupConfig, config_of};
use super::node::Inner;
use super::peers::{Peers, Refusal, Who};
use super::types::{
    Malformed, entry_from_raft, entry_from_wire, entry_to_wire, log_id_to_raft, log_id_to_wire,
    membership_from_bytes,
};
use crate::env::transport::Lane;
use crate::env::{Mark, Moment, Point};
use crate::storage::{Damage, Entry, Kind, Log, LogId, StoreError};

/// At most so many entries are asked for at once.
const ENTRIES_MAX: u64 = 1_000;
/// How long a peer may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// How late an answer may be looked at, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_millis(500);
/// First pause after nobody had an entry; doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A leader that misses something for so long hands over, and one that cannot begins anew after as long again.
const LEADS_MAX: Duration = Duration::from_secs(1);
/// A base that nobody makes good for so long is a person's business.
const STANDS_STILL: Duration = Duration::from_secs(10);
/// That is said again so rarely.
const SAID_AGAIN: Duration = Duration::from_secs(3_600);
/// Heads read at once to find the newest membership in a log.
const HEADS_MAX: usize = 512;

/// What asking the peers for damaged entries has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mended {
    /// Some were written once more.
    Some,
    /// Another entry than the log's own is committed here: the log's own never was.
    OtherCommitted(LogIndex),
    /// No other member can read this one either.
    Gone(LogIndex),
    /// Nobody gave any, and one of them has trimmed its log past it: what was made of it comes with a base.
    Trimmed,
    /// Nobody gave any.
    None,
}

/// What is damaged, in the order of what is to be mended first: without a head the log ends for apply and for votes; what
/// nobody had when it was asked for comes last.
fn holes(damage: &Damage) -> Vec<Range<LogIndex>> {
    let mut bodies = damage.bodies.clone();
    damage.gone.ranges().iter().for_each(|gone| bodies.remove(gone.clone()));
    let all = [damage.heads.ranges(), bodies.ranges(), damage.gone.ranges()];
    all.concat()
}

/// Asks `peers` for damaged entries of a log from the start of `hole` on, one peer after the other, and writes what it
/// gets.
///
/// # Errors
/// The disk failed.
pub(super) async fn mend(
    plane: &Arc<Peers>,
    log: &Log,
    hole: &Range<LogIndex>,
    peers: &[NodeId],
    bytes_max: u64,
) -> Result<Mended, StoreError> {
    let end = hole.end.min(LogIndex(hole.start.0.saturating_add(ENTRIES_MAX)));
    let (mut in_vain, mut trimmed) = (0, false);
    for peer in peers {
        let asked = ask(plane, *peer, log.group(), hole.start, end, bytes_max).await;
        let entries = match asked {
            Ok((_, Given::Entries(entries))) => entries,
            Ok((_, Given::Damaged)) => {
                in_vain += 1;
                continue;
            }
            Ok((_, Given::Trimmed)) => {
                trimmed = true;
                continue;
            }
            Err(reason) => {
                tracing::debug!(group = %log.group(), %peer, reason, "peer gave no entries");
                continue;
            }
        };
        let Some(given) = entries.first().map(|entry| entry.head.log_id()) else { continue };
        let count = entries.len();
        log.repair(entries).await?;
        if !log.damage().holds(given.index) {
            plane.env().reached(Mark::RepairedFromPeer);
            tracing::info!(
                group = %log.group(), from = %given.index, entries = count, %peer,
                "damaged entries were written once more"
            );
            return Ok(Mended::Some);
        }
        let own = log.term_of(given.index);
        if own.is_some_and(|own| own != given.term) {
            return Ok(Mended::OtherCommitted(given.index));
        }
    }
    plane.env().reached(Mark::NoCopyFound);
    Ok(match (trimmed, in_vain == peers.len()) {
        (true, _) => Mended::Trimmed,
        (false, true) => Mended::Gone(hole.start),
        (false, false) => Mended::None,
    })
}

/// What a peer gives.
enum Given {
    Entries(Vec<Entry>),
    /// It cannot read the first one either.
    Damaged,
    /// Its log begins behind the first one.
    Trimmed,
}

/// Asks one peer for entries, and says who answered. What it gives was checked, begins with the first, and has no gaps.
async fn ask(
    plane: &Arc<Peers>,
    peer: NodeId,
    group: GroupId,
    from: LogIndex,
    end: LogIndex,
    bytes_max: u64,
) -> Result<(Who, Given), String> {
    let request = v1::FetchEntriesRequest { group: group.0, from: from.0, end: end.0, bytes_max };
    let body = peer_request::Body::FetchEntries(request);
    let asked =
        plane.ask(peer, Lane::Bulk, body, ANSWER_TIME_MAX).await.map_err(|error| error.to_string())?;
    plane.env().dawdle(Point::RepairLate, LATE_MAX).await;
    let (who, peer_reply::Body::FetchEntries(reply)) = asked else {
        return Err("it answered something else".to_owned());
    };
    if reply.damaged {
        return Ok((who, Given::Damaged));
    }
    if reply.trimmed {
        return Ok((who, Given::Trimmed));
    }
    let entries = entries_from_wire(group, from, end, reply);
    entries.map(|entries| (who, Given::Entries(entries))).map_err(|malformed| malformed.to_string())
}

fn entries_from_wire(
    group: GroupId,
    from: LogIndex,
    end: LogIndex,
    reply: v1::FetchEntriesReply,
) -> Result<Vec<Entry>, Malformed> {
    let mut entries = Vec::with_capacity(reply.entries.len());
    for (at, entry) in reply.entries.into_iter().enumerate() {
        let entry = entry_from_raft(group, entry_from_wire(group, at, entry)?);
        let expected = from.0.saturating_add(u64::try_from(at).expect("a place fits 64 bits"));
        if entry.head.index.0 != expected || entry.head.index >= end {
            return Err(Malformed::Entry { index: at, reason: "it was not asked for".to_owned() });
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Gives a peer entries that it cannot read, as far as this node knows them to be committed; whether or not the group
/// runs here.
pub(super) async fn serve(
    node: Arc<Inner>,
    request: v1::FetchEntriesRequest,
) -> Result<peer_reply::Body, Refusal> {
    let group = GroupId(request.group);
    let log = node.store().log(group);
    let keeps_nothing = || log.state().last.is_none() || log.damage().lost.any();
    if request.from == request.end && (keeps_nothing() || giving_up(&node).contains(&group)) {
        // Nobody may count on it who is to give up its own.
        let reply = v1::FetchEntriesReply { damaged: true, ..v1::FetchEntriesReply::default() };
        return Ok(peer_reply::Body::FetchEntries(reply));
    }
    let base_damaged = log.damage().base;
    let committed = committed_here(node.group(group).as_ref(), &log);
    let behind = committed.map_or(LogIndex(0), |committed| committed.index.next());
    let (from, end) = (LogIndex(request.from), LogIndex(request.end).min(behind));
    if log.state().purged.is_some_and(|purged| purged.index >= from) {
        let reply = v1::FetchEntriesReply { trimmed: true, base_damaged, ..v1::FetchEntriesReply::default() };
        return Ok(peer_reply::Body::FetchEntries(reply));
    }
    let mut entries = Vec::new();
    if from < end {
        let bytes_max = request.bytes_max.min(node.config().append_bytes_max);
        entries = match log.entries(from..end, bytes_max).await {
            Ok(entries) => entries,
            Err(_) if log.damage().holds(from) => {
                let reply = v1::FetchEntriesReply { damaged: true, ..v1::FetchEntriesReply::default() };
                return Ok(peer_reply::Body::FetchEntries(reply));
            }
            Err(error) => return Err(Refusal::new(ErrorCode::NotAvailable, error.to_string())),
        };
        if entries.first().is_none_or(|first| first.head.index != from) {
            // It was trimmed here meanwhile.
            entries.clear();
        }
    }
    let entries = entries.into_iter().map(entry_to_wire).collect::<Result<Vec<_>, _>>();
    let entries = entries.map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))?;
    let committed = committed.map(|committed| log_id_to_wire(&log_id_to_raft(committed)));
    Ok(peer_reply::Body::FetchEntries(v1::FetchEntriesReply {
        entries,
        committed,
        damaged: false,
        trimmed: false,
        base_damaged,
    }))
}

/// The last entry of a log that is known here to be committed.
pub(super) fn committed_here(group: Option<&Group>, log: &Log) -> Option<LogId> {
    let state = log.state();
    // A hint, but a true one: it may only be old.
    let noted = state.committed.filter(|committed| Some(*committed) <= state.last);
    noted.max(group.and_then(Group::applied))
}

/// Mends what is found damaged in a group's log, until the group ends. `resumed`: the members as of the entry up to which
/// a checkpoint goes, if it goes on from one.
pub(super) async fn run(
    node: Weak<Inner>,
    log: Log,
    members: Vec<NodeId>,
    resumed: Option<(LogId, GroupConfig)>,
) {
    let Some((plane, env, bytes_max)) = node
        .upgrade()
        .map(|node| (Arc::downgrade(&node.peers), node.env().clone(), node.config().append_bytes_max))
    else {
        return;
    };
    let mut changed = log.damage_changed();
    let mut pause = PAUSE_MIN;
    let mut leading = Leading::default();
    let mut complaint = Complaint::default();
    // Who was asked to lead in this node's place, of those who can.
    let mut tried = BTreeSet::new();
    // What could not be had is not in the way of the rest.
    let mut in_vain = 0;
    loop {
        changed.borrow_and_update();
        let damage = log.damage();
        if damage.base {
            let Some(peers) = plane.upgrade() else { return };
            let given_up = give_up(&node, &peers, &log, resumed.as_ref(), &members, &mut tried).await;
            drop(peers);
            match given_up {
                Ok(false) => {}
                // Whoever owns the group starts it again, or whoever watches the store ends the process.
                Ok(true) | Err(_) => return,
            }
            if complaint.is_due(env.now()) {
                tracing::error!(
                    group = %log.group(),
                    "this replica cannot read its base, and too few others hold the log for it to begin anew: it trims \
                     nothing any more; see that the other replicas are up, or give this one to another node with \
                     `quorate cluster reassign`; if it is the only one, copy its records to another topic"
                );
            }
        } else {
            complaint = Complaint::default();
        }
        if damage.entries() == 0 && !damage.base && !leading.hands_over(&node, &log) {
            leading = Leading::default();
            if changed.changed().await.is_err() {
                return;
            }
            continue;
        }
        if damage.entries() > 0 {
            let others = others(&node, &log, &members);
            let Some(peers) = plane.upgrade() else { return };
            let holes = holes(&damage);
            let hole = &holes[in_vain % holes.len()];
            let mut mended = mend(&peers, &log, hole, &others, bytes_max).await;
            if matches!(mended, Ok(Mended::Trimmed))
                && is_replayed(&log, hole.start).await
                && leads(running(&node, &log).as_ref()).is_none()
            {
                // It is never had again: neither applied nor trimmed over, only the base of another takes its place.
                match give_up(&node, &peers, &log, resumed.as_ref(), &members, &mut tried).await {
                    Ok(false) => {}
                    Ok(true) => return,
                    Err(error) => mended = Err(error),
                }
            }
            drop(peers);
            in_vain += 1;
            match mended {
                Ok(Mended::Some) => {
                    if log.damage().entries() == 0 {
                        tracing::info!(group = %log.group(), "log is whole again");
                    }
                    (pause, in_vain) = (PAUSE_MIN, 0);
                    continue;
                }
                Ok(Mended::OtherCommitted(index)) => {
                    // The leader of a later term truncates it.
                    tracing::debug!(group = %log.group(), %index, "damaged entry was never committed");
                }
                // Found out again by each start.
                Ok(Mended::Gone(index)) => {
                    log.note_gone(index);
                    pause = PAUSE_MIN;
                }
                // A batch's body goes with the next trimming here.
                Ok(Mended::Trimmed | Mended::None) => {
                    tracing::warn!(
                        group = %log.group(),
                        entries = damage.entries(),
                        "damaged entries could not be had from any peer yet"
                    );
                }
                // The store has failed: whoever watches it ends the process.
                Err(_) => return,
            }
        }
        leading.look(&node, &log, &damage, &mut tried, env.now()).await;
        env.sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether who applies or trims must read what is damaged of an entry.
async fn is_replayed(log: &Log, index: LogIndex) -> bool {
    if log.damage().heads.contains(index) {
        return true;
    }
    let found = log.heads(index..index.next(), 1).await.ok();
    let head = found.and_then(|heads| heads.first().copied()).filter(|head| head.index == index);
    head.is_some_and(|head| needs_body(head.kind))
}

fn giving_up(node: &Inner) -> MutexGuard<'_, BTreeSet<GroupId>> {
    node.giving_up.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This node is about to give up its log of a group. While two of them are, neither counts on the other: a majority keeps
/// what was acknowledged.
struct GivingUp {
    node: Weak<Inner>,
    group: GroupId,
}

impl GivingUp {
    fn begin(node: &Weak<Inner>, group: GroupId) -> Self {
        if let Some(node) = node.upgrade() {
            giving_up(&node).insert(group);
        }
        Self { node: node.clone(), group }
    }
}

impl Drop for GivingUp {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            giving_up(&node).remove(&self.group);
        }
    }
}

/// Whether a group can do without this replica's log, and take it in again: those who hold theirs are a majority of the
/// voters, and while the voters change, of both sets.
fn is_enough(config: &GroupConfig, whole: &BTreeSet<NodeId>) -> bool {
    let majority = |voters: &BTreeSet<NodeId>| voters.intersection(whole).count() > voters.len() / 2;
    !config.voters.is_empty() && config.voters.iter().all(majority)
}

/// The newest membership in the log of a group that has not started; `None` if it cannot be told.
async fn config_in(log: &Log, resumed: Option<&(LogId, GroupConfig)>) -> Option<GroupConfig> {
    let state = log.state();
    let behind = |id: Option<LogId>| id.map_or(LogIndex(0), |id| id.index.next());
    let mut from = behind(resumed.map(|(at, _)| *at)).max(behind(state.purged));
    let mut newest = None;
    while from < behind(state.last) {
        let heads = log.heads(from..behind(state.last), HEADS_MAX).await.ok()?;
        if heads.first()?.index != from {
            return None;
        }
        newest = heads.iter().rfind(|head| head.kind == Kind::Membership).copied().or(newest);
        from = heads.last()?.index.next();
    }
    let Some(newest) = newest else { return resumed.map(|(_, config)| config.clone()) };
    let body = log.bodies(&[newest]).await.ok()?.pop()?;
    membership_from_bytes(&body).ok().map(|membership| config_of(&membership))
}

/// A group that decides nothing without each of these, by the disks that they are known by; `None` for less than two, or
/// if one of them is not known.
fn each_of(plane: &Peers, others: &[NodeId]) -> Option<GroupConfig> {
    let disk = |other: &NodeId| Some((*other, plane.identities().known(*other)?));
    let disks = others.iter().map(disk).collect::<Option<BTreeMap<_, _>>>()?;
    let voters = others.iter().map(|other| BTreeSet::from([*other])).collect();
    (others.len() >= 2).then_some(GroupConfig { voters, disks })
}

/// Has a group begin anew whose base cannot be read, or that misses what only a base has any more, once enough others are
/// there to go on without it, and to take it in again; tells whether it does. Where its log does not tell who votes, all of
/// `members` must be there. One that leads hands over first.
///
/// # Errors
/// The disk failed.
async fn give_up(
    node: &Weak<Inner>,
    plane: &Arc<Peers>,
    log: &Log,
    resumed: Option<&(LogId, GroupConfig)>,
    members: &[NodeId],
    tried: &mut BTreeSet<NodeId>,
) -> Result<bool, StoreError> {
    if let Some(group) = running(node, log)
        && leads(Some(&group)).is_some()
    {
        hand_over(node, &group, &log.damage(), tried).await;
        return Ok(false);
    }
    let config = match running(node, log) {
        Some(group) => Some(group.seen_config().config),
        None => config_in(log, resumed).await.or_else(|| each_of(plane, &others(node, log, members))),
    };
    let Some(config) = config else { return Ok(false) };
    let begun = GivingUp::begin(node, log.group());
    let me = node.upgrade().map(|node| node.me).unwrap_or_default();
    let mut whole = BTreeSet::new();
    for peer in config.all_voters().into_iter().filter(|voter| *voter != me) {
        // Nothing is asked for: that it answers, and has lost nothing, is all. Another disk than the member's says nothing
        // of the member.
        let nothing = LogIndex(0);
        let answer = ask(plane, peer, log.group(), nothing, nothing, 0).await;
        if let Ok((who, Given::Entries(_) | Given::Trimmed)) = answer
            && config.disks.get(&peer) == Some(&who.identity)
        {
            whole.insert(peer);
        }
    }
    if leads(running(node, log).as_ref()).is_some() {
        return Ok(false);
    }
    if !is_enough(&config, &whole) {
        drop(begun);
        // Two who are about to do the same do not try again at the same time.
        plane.env().sleep(PAUSE_MIN * (me.0 % 8)).await;
        return Ok(false);
    }
    log.lose_base().await?;
    drop(begun);
    if let Some(node) = node.upgrade() {
        node.must_begin_anew(log.group());
    }
    Ok(true)
}

/// The group, if it runs. Not to be held for long: it would live as long as this task, which ends with it.
fn running(node: &Weak<Inner>, log: &Log) -> Option<Group> {
    node.upgrade()?.group(log.group())
}

/// Whoever may have what is missing here; whoever has become a member since the start too.
fn others(node: &Weak<Inner>, log: &Log, members: &[NodeId]) -> Vec<NodeId> {
    let mut others = members.to_vec();
    if let Some(group) = running(node, log) {
        others.extend(group.members().into_iter().map(|member| member.node));
        others.retain(|other| *other != group.0.me);
    } else if let Some(node) = node.upgrade() {
        others.retain(|other| *other != node.me);
    }
    others.sort_unstable();
    others.dedup();
    others
}

/// A leader that misses something of its log.
#[derive(Default)]
struct Leading {
    /// In which term, and since when.
    since: Option<(Term, Moment)>,
    /// openraft lets it propose nothing more in this term.
    handed_over: bool,
}

impl Leading {
    /// Whether it still leads in the term in which it has begun to hand over.
    fn hands_over(&self, node: &Weak<Inner>, log: &Log) -> bool {
        self.handed_over && self.since.map(|(term, _)| term) == leads(running(node, log).as_ref())
    }

    /// Hands over, and begins the group anew if nobody can take over what this node alone has, and cannot read.
    async fn look(
        &mut self,
        node: &Weak<Inner>,
        log: &Log,
        damage: &Damage,
        tried: &mut BTreeSet<NodeId>,
        now: Moment,
    ) {
        let Some(group) = running(node, log) else { return };
        let leads = leads(Some(&group)).filter(|_| self.handed_over || !Fitness::of(damage).stands);
        let Some(term) = leads else {
            *self = Self::default();
            return;
        };
        let since = match self.since {
            Some((known, since)) if known == term => since,
            Some(_) | None => now,
        };
        self.since = Some((term, since));
        let missing = now.since(since);
        if missing >= LEADS_MAX {
            self.handed_over |= hand_over(node, &group, damage, tried).await;
        }
        if missing >= LEADS_MAX * 2
            && is_beyond(damage, group.applied())
            && let Some(node) = node.upgrade()
        {
            node.must_begin_anew(log.group());
        }
    }
}

/// In which term this node leads.
fn leads(group: Option<&Group>) -> Option<Term> {
    match group?.role() {
        Role::Leader { term, .. } => Some(term),
        Role::Follower { .. } => None,
    }
}

/// Whether anything is damaged that lies behind the last applied entry.
fn is_beyond(damage: &Damage, applied: Option<LogId>) -> bool {
    let next = applied.map_or(LogIndex(0), |applied| applied.index.next());
    damage.touches(&(next..LogIndex(u64::MAX)))
}

/// Up to where another one must hold the log to get all the rest from here; `None` if from its start on.
fn needed(damage: &Damage, purged: Option<LogId>) -> Option<LogIndex> {
    let mut unread = damage.bodies.clone();
    // These are passed over.
    damage.gone.ranges().iter().for_each(|gone| unread.remove(gone.clone()));
    damage.heads.ranges().iter().for_each(|heads| unread.add(heads.clone()));
    let unread = unread.ranges().last().and_then(|hole| hole.end.0.checked_sub(1)).map(LogIndex);
    let base = purged.filter(|_| damage.base).map(|purged| purged.index);
    unread.max(base)
}

/// Whether a peer says that it has lost nothing of its log, nor its base: else the two would hand over to each other again
/// and again.
async fn has_base(plane: &Arc<Peers>, peer: NodeId, group: GroupId) -> bool {
    let request = v1::FetchEntriesRequest { group: group.0, ..v1::FetchEntriesRequest::default() };
    let body = peer_request::Body::FetchEntries(request);
    match plane.ask(peer, Lane::Bulk, body, ANSWER_TIME_MAX).await {
        Ok((_, peer_reply::Body::FetchEntries(reply))) => !reply.damaged && !reply.base_damaged,
        Ok(_) | Err(_) => false,
    }
}

/// Lets another voter lead that needs nothing of what cannot be read here: those who hold most first, and whoever did not
/// take over only after all others. Under load nobody holds all: what is on its way the transfer waits for. Tells whether
/// this node has given up its term: openraft lets it propose nothing more.
async fn hand_over(node: &Weak<Inner>, group: &Group, damage: &Damage, tried: &mut BTreeSet<NodeId>) -> bool {
    let (Some(node), Some(term)) = (node.upgrade(), leads(Some(group))) else { return false };
    let needed = needed(damage, group.log().state().purged);
    let held = |heir: &NodeId| group.matched_by(*heir).map(|matched| matched.index);
    let holds = |heir: &NodeId| *heir != group.0.me && held(heir).is_some() && held(heir) >= needed;
    let mut heirs: Vec<NodeId> = group.voters().into_iter().filter(holds).collect();
    if heirs.iter().all(|heir| tried.contains(heir)) {
        tried.clear();
    }
    heirs.retain(|heir| !tried.contains(heir));
    heirs.sort_by_key(|heir| Reverse(held(heir)));
    for to in heirs {
        tried.insert(to);
        if damage.base && !has_base(&node.peers, to, group.id()).await {
            continue;
        }
        group.0.env.reached(Mark::DamagedLeaderHandsOver);
        tracing::info!(group = %group.id(), %to, "leader that cannot read all of its log hands over");
        let handed = node.transfer(group, to).boxed().await;
        if let Err(error) = &handed {
            tracing::debug!(group = %group.id(), %error, "leadership was not handed over");
        }
        // Nothing was given up for one that is not there: the next one may be.
        if handed.is_ok() || leads(Some(group)) != Some(term) || group.has_given_up(term) {
            break;
        }
    }
    group.has_given_up(term)
}

/// When a person is told of a base that cannot be read: not while it is about to come from another replica, and then
/// rarely. Pure.
#[derive(Default)]
struct Complaint {
    /// Since when it is missing.
    since: Option<Moment>,
    /// When that was said last.
    said: Option<Moment>,
}

impl Complaint {
    fn is_due(&mut self, now: Moment) -> bool {
        let since = *self.since.get_or_insert(now);
        let due = match self.said {
            None => now.since(since) >= STANDS_STILL,
            Some(said) => now.since(said) >= SAID_AGAIN,
        };
        if due {
            self.said = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quorate_proto::ids::Timestamp;

    use super::*;
    use crate::raft::types::{Payload, Proposal};
    use crate::storage::Body;

    const GROUP: GroupId = GroupId(7);

    fn entry(index: u64) -> Entry {
        let mut entry = *Payload::new(Proposal::command(Bytes::from_static(b"command"), Timestamp(5))).0;
        (entry.head.group, entry.head.index, entry.head.term) = (GROUP, LogIndex(index), Term(2));
        entry
    }

    fn check(entries: Vec<Entry>) -> Result<usize, Malformed> {
        let entries = entries.into_iter().map(|entry| entry_to_wire(entry).unwrap()).collect();
        let reply = v1::FetchEntriesReply { entries, ..v1::FetchEntriesReply::default() };
        entries_from_wire(GROUP, LogIndex(4), LogIndex(6), reply).map(|entries| entries.len())
    }

    #[test]
    fn heads_come_first_and_what_nobody_had_comes_last() {
        let range = |start, end| LogIndex(start)..LogIndex(end);
        let mut damage = Damage::default();
        damage.bodies.add(range(3, 8));
        damage.gone.add(range(4, 5));
        damage.heads.add(range(20, 22));
        assert_eq!(holes(&damage), [range(20, 22), range(3, 4), range(5, 8), range(4, 5)]);
        assert!(is_beyond(&damage, None));
        let applied = |index| Some(LogId { term: Term(2), index: LogIndex(index) });
        assert!(is_beyond(&damage, applied(20)));
        assert!(!is_beyond(&damage, applied(21)), "what is applied is not needed to lead");
    }

    #[test]
    fn a_log_is_given_up_only_beside_a_majority_of_each_set_of_voters() {
        let set = |nodes: &[u32]| nodes.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let check = |voters: &[&[u32]], whole: &[u32]| {
            let voters = voters.iter().map(|nodes| set(nodes)).collect();
            is_enough(&GroupConfig { voters, ..GroupConfig::default() }, &set(whole))
        };
        assert!(check(&[&[1, 2, 3]], &[2, 3]));
        assert!(!check(&[&[1, 2, 3]], &[2]));
        assert!(!check(&[&[1, 2, 3]], &[2, 4, 5]), "who does not vote does not count");
        assert!(!check(&[&[1, 2]], &[2]), "of two, one is no majority");
        assert!(!check(&[&[1, 2, 3], &[1, 4, 5]], &[2, 3, 4]), "nothing is decided without both");
        assert!(check(&[&[1, 2, 3], &[1, 4, 5]], &[2, 3, 4, 5]));
        assert!(!check(&[], &[2, 3]) && !check(&[&[]], &[2, 3]), "nobody knows who votes");
    }

    #[test]
    fn an_heir_needs_nothing_of_what_cannot_be_read() {
        let range = |start, end| LogIndex(start)..LogIndex(end);
        let purged = Some(LogId { term: Term(2), index: LogIndex(4) });
        let mut damage = Damage::default();
        assert_eq!(needed(&damage, purged), None);
        damage.base = true;
        assert_eq!((needed(&damage, purged), needed(&damage, None)), (Some(LogIndex(4)), None));
        damage.bodies.add(range(6, 9));
        assert_eq!(needed(&damage, purged), Some(LogIndex(8)));
        damage.gone.add(range(7, 9));
        assert_eq!(needed(&damage, purged), Some(LogIndex(6)), "what nobody can read is passed over");
        damage.heads.add(range(11, 12));
        assert_eq!(needed(&damage, purged), Some(LogIndex(11)));
    }

    #[test]
    fn a_base_that_stays_away_is_complained_of_and_rarely_again() {
        let mut complaint = Complaint::default();
        let mut due = |after: Duration| complaint.is_due(Moment(Duration::from_secs(100) + after));
        let second = Duration::from_secs(1);
        assert!(!due(Duration::ZERO) && !due(STANDS_STILL - second), "it is about to come, perhaps");
        assert!(due(STANDS_STILL));
        assert!(!due(STANDS_STILL + second) && !due(STANDS_STILL + SAID_AGAIN - second));
        assert!(due(STANDS_STILL + SAID_AGAIN) && !due(STANDS_STILL + SAID_AGAIN + second));
    }

    #[test]
    fn only_what_was_asked_for_is_taken() {
        assert_eq!(check(Vec::new()), Ok(0));
        assert_eq!(check(vec![entry(4)]), Ok(1));
        assert_eq!(check(vec![entry(4), entry(5)]), Ok(2));
        for wrong in [vec![entry(5)], vec![entry(4), entry(4)], vec![entry(4), entry(5), entry(6)]] {
            assert!(check(wrong).is_err());
        }
        let mut other = entry(4);
        other.head.group = GroupId(8);
        assert!(check(vec![other]).is_err(), "another group's");
        let mut other = entry(4);
        other.body = Body::Here(Bytes::from_static(b"another"));
        assert!(check(vec![other]).is_err(), "another body");
    }
}
