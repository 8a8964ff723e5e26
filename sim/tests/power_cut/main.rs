//! Cuts the power at every disk operation of scripted runs of the store, opens it again (and cuts again while it
//! opens), and compares what it holds with a model: nothing acknowledged is missing, nothing is invented, votes never
//! go back, and what was truncated never rises again.
#![expect(clippy::unwrap_used, reason = "a test's helper is a test")]

mod script;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use quorate_node::storage::{
    Body, CheckpointKind, Entry, HardVote, Head, Kind, Log, LogId, OpenError, RecoveryReport, Store,
    StoreConfig, StoreError,
};
use quorate_proto::ids::{
    GroupId, Identity, LogIndex, NodeId, Offset, ProducerEpoch, ProducerId, Sequence, Term, Timestamp,
};
use quorate_sim::dice::Dice;
use quorate_sim::env::disk::{DirtyPages, SimDisk};
use quorate_sim::env::{alone, clock};
use script::Step::{
    Append, Checkpoint, Committed, Flush, Install, Peer, Remove, Reopen, Rest, Trim, Truncate, Vote, Wait,
};
use script::{APPENDS, CHECKPOINTS, REWRITING, ROLLS, Step, TRUNCATIONS, VOTES, append, vote};

const NODE: NodeId = NodeId(1);

/// Small volumes, so that a few entries fill one.
fn config() -> StoreConfig {
    StoreConfig {
        volume_bytes_max: 6_000,
        recent_bytes_max: 2_000,
        volumes_open_max: 2,
        cache_bytes_max: 1 << 16,
        commit_bytes_max: 3_000,
        scrub_seconds: 0,
        copies_elsewhere: true,
        rewrite_below_percent: 50,
        rewrite_bytes_per_s: 1 << 30,
        disk_reserve_bytes: Some(0),
    }
}

/// What a group holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Group {
    entries: Vec<Entry>,
    purged: Option<LogId>,
    vote: Option<HardVote>,
}

type Model = BTreeMap<u64, Group>;

/// What was asked of the store, in order, and how much of it was acknowledged.
#[derive(Default)]
struct History {
    /// The model before any step, after the first, and so on.
    models: Vec<Model>,
    /// So many steps are acknowledged.
    acked: Arc<AtomicUsize>,
    /// All that was ever saved as committed.
    committed: BTreeMap<u64, BTreeSet<LogId>>,
    /// Peers in order, and how many of them are acknowledged.
    peers: Vec<u32>,
    peers_acked: usize,
    identity: Option<Identity>,
    removed: BTreeSet<u64>,
}

fn entry(group: u64, id: LogId, bytes: usize) -> Entry {
    let fill = u8::try_from((id.term.0 * 31 + id.index.0 * 7 + group) % 251).unwrap();
    let body = Bytes::from(vec![fill; bytes]);
    let head = Head {
        group: GroupId(group),
        index: id.index,
        term: id.term,
        kind: Kind::Batch,
        base_offset: Offset(id.index.0),
        records: 1,
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch(0),
        sequence: Sequence(0),
        max_timestamp: Timestamp(5),
        appended_at: Timestamp(6),
        body_bytes: u32::try_from(bytes).unwrap(),
        body_crc: crc32c::crc32c(&body),
    };
    Entry { head, body: Body::Here(body) }
}

/// What a checkpoint as of `id` holds: several pieces of it, or next to nothing.
fn checkpoint_of(id: LogId) -> Bytes {
    let bytes = if id.index.0.is_multiple_of(2) { 70_000 } else { 3 };
    Bytes::from(vec![u8::try_from((id.term.0 * 31 + id.index.0) % 251).unwrap(); bytes])
}

type Pending = Pin<Box<dyn Future<Output = Result<(), StoreError>>>>;

/// Waits until all that was issued is answered.
async fn flush(waiting: &mut Vec<(usize, Pending)>, acked: &AtomicUsize) -> Result<(), StoreError> {
    let mut result = Ok(());
    for (number, work) in waiting.drain(..) {
        match work.await {
            Ok(()) => {
                acked.fetch_max(number, Ordering::Relaxed);
            }
            Err(error) => result = Err(error),
        }
    }
    result
}

/// Issues `work` at once and keeps it until it is flushed.
async fn issue(
    waiting: &mut Vec<(usize, Pending)>,
    acked: &AtomicUsize,
    step: usize,
    work: impl Future<Output = Result<(), StoreError>> + 'static,
) -> Result<(), StoreError> {
    let mut work: Pending = Box::pin(work);
    if let std::task::Poll::Ready(result) = poll!(&mut work) {
        result?;
        acked.fetch_max(step, Ordering::Relaxed);
    } else {
        waiting.push((step, work));
    }
    Ok(())
}

impl History {
    fn new() -> Self {
        Self { models: vec![Model::new()], ..Self::default() }
    }

    fn acked(&self) -> usize {
        self.acked.load(Ordering::Relaxed)
    }

    /// Notes a step that is about to be issued; gives its number.
    fn change(&mut self, group: u64, change: impl FnOnce(&mut Group)) -> usize {
        let mut model = self.models.last().unwrap().clone();
        change(model.entry(group).or_default());
        self.models.push(model);
        self.models.len() - 1
    }

    /// Runs a script to its end or until the store fails.
    async fn run(&mut self, disk: &SimDisk, script: &[Step]) -> Result<(), String> {
        let mut store = open(disk).await.map_err(|error| error.to_string())?.0;
        let identity = store.facts().identity();
        assert_eq!(*self.identity.get_or_insert(identity), identity);
        let mut waiting = Vec::new();
        for step in script {
            self.take(&mut store, disk, *step, &mut waiting).await?;
        }
        store.close().await;
        Ok(())
    }

    async fn take(
        &mut self,
        store: &mut Store,
        disk: &SimDisk,
        step: Step,
        waiting: &mut Vec<(usize, Pending)>,
    ) -> Result<(), String> {
        let acked = self.acked.clone();
        let issued = match step {
            Append { group, term, count, bytes } => {
                let mut added = Vec::new();
                let number = self.change(group, |group_model| {
                    let last = group_model.entries.last().map(|entry| entry.head.log_id());
                    let next = last.or(group_model.purged).map_or(0, |last| last.index.0 + 1);
                    for index in next..next + count {
                        added.push(entry(group, LogId { term: Term(term), index: LogIndex(index) }, bytes));
                    }
                    group_model.entries.extend(added.clone());
                });
                let (tx, rx) = tokio::sync::oneshot::channel();
                let powered = disk.clone();
                let done = Box::new(move |result: Result<(), StoreError>| {
                    assert!(result.is_err() || powered.is_powered(), "acknowledged without power");
                    drop(tx.send(result));
                });
                let appended = store.log(GroupId(group)).append(added, done);
                let answer = async move { rx.await.unwrap() };
                match appended {
                    Ok(()) => issue(waiting, &acked, number, answer).await,
                    Err(error) => Err(error),
                }
            }
            Truncate { group, from } => {
                let number = self.change(group, |group| {
                    group.entries.retain(|entry| entry.head.index.0 < from);
                });
                let log = store.log(GroupId(group));
                let work = async move { log.truncate_suffix(LogIndex(from)).await };
                issue(waiting, &acked, number, work).await
            }
            Trim { group, through } => {
                let mut id = LogId::default();
                let number = self.change(group, |group| {
                    let at = |entry: &&Entry| entry.head.index.0 == through;
                    id = group.entries.iter().find(at).map(|entry| entry.head.log_id()).unwrap();
                    group.entries.retain(|entry| entry.head.index.0 > through);
                    group.purged = Some(id);
                });
                let log = store.log(GroupId(group));
                // A checkpoint waits for all before it, whose answers are taken only when they are polled.
                let mut ready = flush(waiting, &acked).await;
                if ready.is_ok() {
                    ready = log.save_checkpoint(CheckpointKind::Base, id, checkpoint_of(id)).await;
                }
                match ready {
                    Ok(()) => issue(waiting, &acked, number, async move { log.trim_prefix(id).await }).await,
                    Err(error) => Err(error),
                }
            }
            Checkpoint { group, at } => {
                let id = {
                    let model = &self.models.last().unwrap()[&group];
                    model.entries.iter().find(|entry| entry.head.index.0 == at).unwrap().head.log_id()
                };
                let log = store.log(GroupId(group));
                match flush(waiting, &acked).await {
                    Ok(()) => log.save_checkpoint(CheckpointKind::Recent, id, checkpoint_of(id)).await,
                    Err(error) => Err(error),
                }
            }
            Install { group, term, index } => {
                let id = LogId { term: Term(term), index: LogIndex(index) };
                let number = self.change(group, |group| {
                    group.entries.clear();
                    group.purged = Some(id);
                });
                let log = store.log(GroupId(group));
                let mut ready = flush(waiting, &acked).await;
                if ready.is_ok() {
                    ready = log.install_checkpoint(id, checkpoint_of(id)).await;
                }
                match ready {
                    Ok(()) => issue(waiting, &acked, number, async move { log.trim_prefix(id).await }).await,
                    Err(error) => Err(error),
                }
            }
            Vote { group, term, committed } => {
                let vote = HardVote { term: Term(term), node: 1 + term % 3, committed };
                let number = self.change(group, |group| group.vote = Some(vote));
                let log = store.log(GroupId(group));
                issue(waiting, &acked, number, async move { log.save_vote(vote).await }).await
            }
            Committed { group, index } => {
                let log = store.log(GroupId(group));
                let model = &self.models.last().unwrap()[&group];
                let id =
                    model.entries.iter().find(|entry| entry.head.index.0 == index).unwrap().head.log_id();
                self.committed.entry(group).or_default().insert(id);
                log.save_committed(Some(id));
                Ok(())
            }
            Remove { group } => {
                let number = self.change(group, |group| *group = Group::default());
                self.removed.insert(group);
                let store = store.clone();
                issue(waiting, &acked, number, async move { store.remove_group(GroupId(group)).await }).await
            }
            Peer { node } => {
                self.peers.push(node);
                let result = store.facts().remember_peer(NodeId(node), identity_of(node)).await;
                self.peers_acked += usize::from(result.is_ok());
                result
            }
            Flush | Rest | Wait | Reopen => {
                let result = flush(waiting, &acked).await;
                if matches!(step, Wait) {
                    clock::sleep(Duration::from_secs(5)).await;
                }
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                if matches!(step, Reopen) && result.is_ok() {
                    store.close().await;
                    *store = open(disk).await.map_err(|error| error.to_string())?.0;
                }
                result
            }
        };
        issued.map_err(|error| {
            assert!(!matches!(error, StoreError::Gap { .. } | StoreError::Body { .. }), "{error}");
            error.to_string()
        })
    }

    /// Checks that the store holds what some moment of the history says, none before step `least`; gives the moment.
    async fn check(&self, store: &Store, least: usize) -> usize {
        assert!(self.identity.is_none_or(|identity| store.facts().identity() == identity));
        for (number, node) in self.peers.iter().enumerate() {
            let found = store.facts().peer(NodeId(*node));
            assert!(found == Some(identity_of(*node)) || (found.is_none() && number >= self.peers_acked));
        }
        let mut found = Model::new();
        for group in store.groups() {
            found.insert(group.0, self.read(&store.log(group), least).await);
        }
        // Votes are compared apart: their second copy may be ahead of the rest.
        let without_votes = |model: &Model| {
            let mut model = model.clone();
            model.values_mut().for_each(|group| group.vote = None);
            model.retain(|_, group| *group != Group::default());
            model
        };
        let shape = without_votes(&found);
        let moment = (least..self.models.len()).find(|moment| without_votes(&self.models[*moment]) == shape);
        let Some(moment) = moment else {
            panic!("no moment from {least} on is like this: {shape:#?}\nbut\n{:#?}", &self.models[least..]);
        };
        for (group, known) in &found {
            let votes = self.models[moment..].iter().map(|model| model.get(group).and_then(|g| g.vote));
            let removed = self.removed.contains(group);
            assert!(
                removed || votes.clone().any(|vote| vote == known.vote),
                "vote of {group} at {moment}: {found:?}"
            );
        }
        for (group, model) in &self.models[least] {
            let vote = found.get(group).and_then(|group| group.vote);
            let low = self.models[least..].iter().any(|later| later.get(group).and_then(|g| g.vote) == vote);
            assert!(
                low || self.removed.contains(group),
                "the vote of {group} went back from {:?}",
                model.vote
            );
        }
        moment
    }

    async fn read(&self, log: &Log, least: usize) -> Group {
        let (state, group) = (log.state(), log.group());
        let mut entries = Vec::new();
        let mut next = LogIndex(0);
        loop {
            let more = log.entries(next..LogIndex(u64::MAX), 2_500).await.unwrap();
            let Some(last) = more.last() else { break };
            next = last.head.index.next();
            entries.extend(more);
        }
        let heads = entries.iter().map(|entry| entry.head).collect::<Vec<_>>();
        assert_eq!(log.heads(LogIndex(0)..LogIndex(u64::MAX), usize::MAX).await.unwrap(), heads);
        let mut starts = Vec::<LogId>::new();
        for head in &heads {
            if starts.last().is_none_or(|start| start.term != head.term) {
                starts.push(head.log_id());
            }
        }
        assert_eq!(log.term_starts(), starts);
        assert_eq!(state.last, heads.last().map(Head::log_id).or(state.purged));
        assert_eq!(log.last_durable(), state.last, "what was read at the start is durable");
        let base = log.checkpoint_at(CheckpointKind::Base);
        assert!(state.purged <= base, "{group} begins behind {:?}, and its base is {base:?}", state.purged);
        for kind in [CheckpointKind::Base, CheckpointKind::Recent] {
            let found = log.checkpoint(kind).await.unwrap();
            assert_eq!(found.as_ref().map(|checkpoint| checkpoint.at), log.checkpoint_at(kind));
            assert!(found.is_none_or(|checkpoint| checkpoint.body == checkpoint_of(checkpoint.at)));
        }
        if let Some(recent) = log.checkpoint_at(CheckpointKind::Recent) {
            assert!(state.purged == Some(recent) || heads.iter().any(|head| head.log_id() == recent));
        }
        if let Some(committed) = state.committed {
            assert!(self.committed[&group.0].contains(&committed), "{group} {committed:?} from step {least}");
        }
        Group { entries, purged: state.purged, vote: state.vote }
    }
}

fn identity_of(node: u32) -> Identity {
    Identity::from_random([u8::try_from(node).unwrap(); 16])
}

async fn open(disk: &SimDisk) -> Result<(Store, RecoveryReport), OpenError> {
    Store::open(&alone(disk, 1), config(), NODE).await
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(work)
}

/// Opens, compares, goes on, closes, opens and compares again.
async fn opens_and_goes_on(disk: &SimDisk, history: &History, least: usize) {
    let (store, _) = open(disk).await.unwrap_or_else(|error| panic!("{error}"));
    let moment = history.check(&store, least).await;
    let mut more = History {
        models: vec![history.models[moment].clone()],
        committed: history.committed.clone(),
        peers: history.peers.clone(),
        peers_acked: history.peers_acked,
        identity: history.identity,
        ..History::new()
    };
    for group in store.groups() {
        let vote = store.log(group).state().vote;
        more.models[0].entry(group.0).or_default().vote = vote;
    }
    let (mut store, mut waiting) = (store, Vec::new());
    for step in [append(1, 50, 2, 700), append(7, 50, 1, 10), vote(1, 60, true), Flush, Reopen] {
        more.take(&mut store, disk, step, &mut waiting).await.unwrap();
    }
    assert_eq!(more.check(&store, more.models.len() - 1).await, more.models.len() - 1);
    store.close().await;
}

/// How many disk operations a script takes when nothing goes wrong.
fn operations_of(script: &[Step]) -> u64 {
    block_on(async {
        let disk = SimDisk::new();
        let mut history = History::new();
        history.run(&disk, script).await.unwrap();
        assert_eq!(history.acked(), history.models.len() - 1, "all is acknowledged");
        let operations = disk.operations();
        opens_and_goes_on(&disk, &history, history.acked()).await;
        operations
    })
}

/// Cuts the power in place of each operation of a script; then cuts again in the middle of the next opening.
fn cut_everywhere(name: &str, script: &[Step]) {
    let operations = operations_of(script);
    let (mut runs, mut lost) = (0_u64, 0);
    for cut in 0..operations {
        block_on(async {
            let mut dice = Dice::named(cut, name);
            let disk = SimDisk::new();
            disk.cut_power_at(cut);
            let mut history = History::new();
            let outcome = history.run(&disk, script).await;
            lost += u64::from(outcome.is_err());
            let mut least = history.acked();
            disk.crash(&mut dice);
            // Cut again while opening: early, late, or not at all any more.
            for _ in 0..dice.below(4) {
                disk.cut_power_at(disk.operations() + dice.below(60));
                match open(&disk).await {
                    Ok((store, _)) => least = least.max(history.check(&store, least).await),
                    Err(
                        OpenError::Disk { .. }
                        | OpenError::MetaDamaged { .. }
                        | OpenError::MetaMissing { .. },
                    ) if !disk.is_powered() => {}
                    Err(error) => panic!("cut {cut}: {error}"),
                }
                disk.crash(&mut dice);
                runs += 1;
            }
            opens_and_goes_on(&disk, &history, least).await;
            runs += 1;
        });
    }
    assert!(runs > operations && lost > operations / 2, "{operations} operations, {runs} runs, {lost} cuts");
}

/// The process is killed in place of each operation, the page cache stays; after the next opening the power goes.
/// What that opening showed must be there: it counted.
fn kill_everywhere(name: &str, script: &[Step]) {
    for kill in 0..operations_of(script) {
        block_on(async {
            let mut dice = Dice::named(kill, name);
            let disk = SimDisk::new();
            disk.cut_power_at(kill);
            let mut history = History::new();
            drop(history.run(&disk, script).await);
            disk.kill();
            let (store, _) = open(&disk).await.unwrap_or_else(|error| panic!("{error}"));
            let shown = history.check(&store, history.acked()).await;
            disk.crash(&mut dice);
            drop(store);
            opens_and_goes_on(&disk, &history, shown).await;
        });
    }
}

/// Each sync of a script fails once. The process ends; the next one sees what the page cache kept. Then the power
/// goes: what the next one showed must be there all the same.
fn fail_every_sync(name: &str, script: &[Step], pages: DirtyPages) {
    for successes in 0.. {
        let failed = block_on(async {
            let mut dice = Dice::named(successes, name);
            let disk = SimDisk::new();
            disk.fail_sync_after(successes, pages);
            let mut history = History::new();
            let outcome = history.run(&disk, script).await;
            if outcome.is_ok() {
                return false;
            }
            if dice.chance(300) {
                disk.crash(&mut dice);
            } else {
                disk.kill();
            }
            let acked = history.acked();
            let opened = open(&disk).await;
            let (store, report) = opened.unwrap_or_else(|error| panic!("sync {successes}: {error}"));
            let shown = history.check(&store, acked).await;
            if report.failed_before && shown > 0 {
                assert!(report.leftovers > 0, "what was in doubt is given up");
            }
            disk.crash(&mut dice);
            drop(store);
            opens_and_goes_on(&disk, &history, shown).await;
            true
        });
        if !failed {
            assert!(successes > 10, "the script syncs");
            return;
        }
    }
}

#[test]
fn the_script_of_rewriting_rewrites() {
    let newest = |steps: &[Step]| {
        block_on(async {
            let disk = SimDisk::new();
            History::new().run(&disk, steps).await.unwrap();
            let is_there = |number: &u32| {
                let file = format!("volume-{number:08}.redb");
                disk.count(|name| name == file) > 0
            };
            (1..100).rev().find(is_there).unwrap()
        })
    };
    let wait = REWRITING.iter().position(|step| matches!(step, Wait)).unwrap();
    let mut steps = REWRITING[..wait].to_vec();
    steps.extend([Flush, Rest]);
    let before = newest(&steps);
    steps.push(Wait);
    assert!(newest(&steps) > before, "the new volume has a number above that of the next one to be written");
}

#[test]
fn rewriting_survives_a_cut_at_every_operation() {
    cut_everywhere("rewriting", REWRITING);
}

#[test]
fn checkpoints_survive_a_cut_at_every_operation() {
    cut_everywhere("checkpoints", CHECKPOINTS);
}

#[test]
fn appends_survive_a_cut_at_every_operation() {
    cut_everywhere("appends", APPENDS);
}

#[test]
fn truncations_survive_a_cut_at_every_operation() {
    cut_everywhere("truncations", TRUNCATIONS);
}

#[test]
fn votes_survive_a_cut_at_every_operation() {
    cut_everywhere("votes", VOTES);
}

#[test]
fn rolls_survive_a_cut_at_every_operation() {
    cut_everywhere("rolls", ROLLS);
}

#[test]
fn what_a_start_after_a_kill_showed_survives_a_cut() {
    kill_everywhere("kills", TRUNCATIONS);
    kill_everywhere("kills", ROLLS);
    kill_everywhere("kills", CHECKPOINTS);
    kill_everywhere("kills", REWRITING);
}

#[test]
fn a_failed_sync_is_survived_with_dropped_pages() {
    for script in [APPENDS, TRUNCATIONS, VOTES, ROLLS, CHECKPOINTS, REWRITING] {
        fail_every_sync("dropped", script, DirtyPages::Dropped);
    }
}

#[test]
fn a_failed_sync_is_survived_with_kept_pages() {
    for script in [TRUNCATIONS, ROLLS] {
        fail_every_sync("kept", script, DirtyPages::Kept);
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_acknowledged() {
    block_on(async {
        let disk = SimDisk::new();
        let (store, _) = open(&disk).await.unwrap();
        let log = store.log(GroupId(1));
        let (tx, mut answers) = tokio::sync::mpsc::channel(8);
        let append = |index: u64| {
            let tx = tx.clone();
            let entry = entry(1, LogId { term: Term(1), index: LogIndex(index) }, 100);
            log.append(vec![entry], Box::new(move |result| tx.try_send(result).unwrap()))
        };
        append(0).unwrap();
        assert!(answers.recv().await.unwrap().is_ok());
        assert!(store.failed().borrow().is_none());
        let mut failed = store.failed();
        disk.fail_sync_after(0, DirtyPages::Dropped);
        append(1).unwrap();
        append(2).unwrap();
        for _ in 0..2 {
            assert!(matches!(answers.recv().await.unwrap(), Err(StoreError::Unknown(_))));
        }
        failed.wait_for(Option::is_some).await.unwrap();
        assert!(matches!(append(3), Err(StoreError::Failed(_))));
        let vote = HardVote { term: Term(1), node: 1, committed: false };
        assert!(matches!(log.save_vote(vote).await, Err(StoreError::Failed(_))));
        assert!(matches!(log.truncate_suffix(LogIndex(0)).await, Err(StoreError::Failed(_))));
        assert!(matches!(
            store.facts().remember_peer(NodeId(2), identity_of(2)).await,
            Err(StoreError::Failed(_))
        ));
        store.close().await;
        disk.kill();
        let (store, report) = open(&disk).await.unwrap();
        assert!(report.failed_before);
        let entries = store.log(GroupId(1)).entries(LogIndex(0)..LogIndex(9), u64::MAX).await.unwrap();
        assert!((1..=3).contains(&entries.len()));
        store.close().await;
        let (_, report) = open(&disk).await.unwrap();
        assert!(!report.failed_before, "the mark is gone");
    });
}
