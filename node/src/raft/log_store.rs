//! openraft's log over [`storage::Log`](crate::storage::Log): the Raft log is the partition's log, kept once.
//!
//! Who reads what: apply (`entries_stream`) and restart (`try_get_log_entries`) get batches without their bodies;
//! replication (`limited_get_log_entries`) gets whole entries, as many as fit the bytes of a message, and a batch that
//! no replica can read without its body, to be passed over. An entry without its body never goes back into a log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds, RangeInclusive};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use quorate_proto::ids::LogIndex;
use tokio::sync::watch;

use super::rate::Rate;
use super::types::{
    Config, RaftEntryOf, RaftLogId, RaftVote, entry_from_raft, entry_to_raft, log_id_from_raft,
    log_id_to_raft, vote_from_store, vote_to_store,
};
use crate::env::{Env, Moment};
use crate::storage::{Body, Entry, Head, Kind, Log, LogId, ReadError};

/// Heads read at once for apply and restart.
const HEADS_MAX: usize = 512;

/// How long a start waits for something that is damaged to be mended, before it is given up and tried again.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// What is damaged is read again at least so often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where a group is in its life, for whoever waits for its log to be mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// openraft reads what there is.
    Starting,
    /// It runs: a reader waits as long as it takes.
    Running,
    /// It ends: nobody waits any more.
    Ending,
}

/// One group's log, as openraft sees it. What the disk has damaged is waited for: another replica has it.
#[derive(Clone)]
pub(super) struct LogStore {
    log: Log,
    /// Bounds what one message of replication carries, in bytes of bodies.
    append_bytes_max: u64,
    env: Env,
    /// For entries that have left the memory.
    rate: Arc<Rate>,
    phase: watch::Receiver<Phase>,
}

impl LogStore {
    pub(super) fn new(
        log: Log,
        append_bytes_max: u64,
        env: Env,
        rate: Arc<Rate>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self { log, append_bytes_max, env, rate, phase }
    }

    /// The same log for one who does without what is damaged, for now: nothing is waited for.
    pub(super) fn impatient(&self) -> Self {
        let (_, phase) = watch::channel(Phase::Ending);
        Self { phase, ..self.clone() }
    }

    /// Whether openraft has read what it needs to start.
    pub(super) fn has_started(&self) -> bool {
        *self.phase.borrow() != Phase::Starting
    }

    /// Entries of the range for apply: bodies only of those that apply looks into. At most [`HEADS_MAX`].
    async fn heads(&self, range: Range<LogIndex>) -> io::Result<Vec<RaftEntryOf>> {
        let end = range.end.min(LogIndex(range.start.0.saturating_add(HEADS_MAX as u64)));
        let (began, mut changed) = (self.env.now(), self.log.damage_changed());
        let (heads, bodies) = loop {
            changed.borrow_and_update();
            let error = match self.heads_once(range.clone()).await {
                Ok(read) => break read,
                Err(error) => error,
            };
            if !self.mended(&(range.start..end), &error, &mut changed, began).await {
                return Err(io::Error::other(error));
            }
        };
        let mut bodies = bodies.into_iter();
        let entry = |head: crate::storage::Head| {
            let body = match needs_body(head.kind) {
                true => Body::Here(bodies.next().ok_or_else(|| io::Error::other("a body was not given"))?),
                false => Body::Absent,
            };
            entry_to_raft(Entry { head, body }).map_err(io::Error::other)
        };
        heads.into_iter().map(entry).collect()
    }

    /// Heads, and the bodies of those that need one.
    async fn heads_once(&self, range: Range<LogIndex>) -> Result<(Vec<Head>, Vec<Bytes>), ReadError> {
        let heads = self.log.heads(range, HEADS_MAX).await?;
        let whole: Vec<_> = heads.iter().filter(|head| needs_body(head.kind)).copied().collect();
        let bodies = match whole.is_empty() {
            true => Vec::new(),
            false => self.log.bodies(&whole).await?,
        };
        Ok((heads, bodies))
    }

    /// Whether to read a range again that could not be read, because of what is damaged in it, or as no file could be
    /// opened: waits for a while until it may have been mended. `changed` was marked as seen before the read.
    async fn mended(
        &self,
        range: &Range<LogIndex>,
        error: &ReadError,
        changed: &mut watch::Receiver<u64>,
        began: Moment,
    ) -> bool {
        let mut phase = self.phase.clone();
        let waits = match *phase.borrow_and_update() {
            Phase::Starting => self.env.now().since(began) < START_PATIENCE,
            Phase::Running => true,
            Phase::Ending => false,
        };
        if !waits {
            return false;
        }
        let again = async {
            if self.log.may_be_mended(range, changed, LOOK_AGAIN).await {
                return true;
            }
            if error.is_out_of_files() {
                self.env.sleep(LOOK_AGAIN).await;
            }
            error.is_out_of_files()
        };
        tokio::select! {
            biased;
            told = phase.changed() => told.is_ok(),
            again = again => again,
        }
    }

    /// A batch that no replica can read, without its body: others hold it too, and what lies behind it is replicated all
    /// the same.
    async fn without_body(&self, only: &Range<LogIndex>) -> Option<RaftEntryOf> {
        if !self.log.damage().is_gone_in(only) {
            return None;
        }
        let head = self.log.heads(only.clone(), 1).await.ok()?.into_iter().next()?;
        if head.index != only.start || head.kind != Kind::Batch {
            return None;
        }
        entry_to_raft(Entry { head, body: Body::Absent }).ok()
    }

    /// The part of `range` that the log holds.
    fn held(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let state = self.log.state();
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let past = state.last.map_or(0, |last| last.index.next().0);
        // None: all that there was is trimmed.
        let first = self.log.term_starts().first().map_or(past, |first| first.index.0);
        start.max(first)..end.min(past)
    }

    /// The entries of a range that the log holds, for apply and replay: bodies only of those that apply looks into.
    pub(super) fn stream(
        &self,
        range: Range<u64>,
    ) -> impl Stream<Item = io::Result<RaftEntryOf>> + Send + use<> {
        let chunks = stream::try_unfold((self.clone(), range), |(store, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let entries = store.heads(LogIndex(range.start)..LogIndex(range.end)).await?;
            // The log holds the range, so there is a next one; and apply must never pass over an entry.
            let expected = range.start..range.start.saturating_add(entries.len() as u64);
            if entries.is_empty() || !entries.iter().map(|entry| entry.log_id.index).eq(expected.clone()) {
                let found = entries.first().map(|entry| entry.log_id.index);
                let message = format!(
                    "entries are missing from {range:?}: {} found, the first {found:?}",
                    entries.len()
                );
                return Err(io::Error::other(message));
            }
            Ok(Some((entries, (store, expected.end..range.end))))
        });
        chunks.flat_map(|chunk| {
            let (entries, error) = match chunk {
                Ok(entries) => (entries, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            stream::iter(entries.into_iter().map(Ok).chain(error))
        })
    }
}

/// Whether apply looks into the body of such an entry.
pub(super) fn needs_body(kind: Kind) -> bool {
    match kind {
        Kind::Membership | Kind::Command => true,
        // A blank's body is empty.
        Kind::Blank | Kind::Batch => false,
    }
}

impl RaftLogReader<Config> for LogStore {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<RaftEntryOf>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let held = self.held(&range);
        let mut entries = Vec::new();
        let mut stream = std::pin::pin!(self.stream(held));
        while let Some(entry) = stream.next().await {
            entries.push(entry?);
        }
        Ok(entries)
    }

    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = io::Result<RaftEntryOf>> + OptionalSend
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Box::pin(self.stream(self.held(&range)))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntryOf>> {
        let range = LogIndex(start)..LogIndex(end);
        let is_old = range.start < self.log.memory_start();
        let (began, mut changed) = (self.env.now(), self.log.damage_changed());
        let entries = loop {
            changed.borrow_and_update();
            let error = match self.log.entries(range.clone(), self.append_bytes_max).await {
                Ok(entries) => break entries,
                Err(error) => error,
            };
            // Only the first one can fail: what lies before the damage is given.
            let first = range.start..range.start.next();
            if let Some(entry) = self.without_body(&first).await {
                return Ok(vec![entry]);
            }
            if !self.mended(&first, &error, &mut changed, began).await {
                return Err(io::Error::other(error));
            }
        };
        if entries.first().is_none_or(|first| first.head.index.0 != start) {
            // Trimmed meanwhile: nothing may be sent in its place. Nothing at all is taken for a heartbeat.
            return Ok(Vec::new());
        }
        if is_old {
            let bytes: u64 = entries.iter().map(|entry| u64::from(entry.head.body_bytes)).sum();
            self.rate.take(&self.env, bytes).await;
        }
        entries.into_iter().map(|entry| entry_to_raft(entry).map_err(io::Error::other)).collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        Ok(self.log.state().vote.map(vote_from_store))
    }

    /// The *last* entry of each term, whatever the trait's own words say (they are of an older version): from the
    /// table of terms, as the default probes the log.
    async fn get_key_log_ids(&mut self, range: RangeInclusive<RaftLogId>) -> io::Result<Vec<RaftLogId>> {
        let (first, last) = (log_id_from_raft(range.start()), log_id_from_raft(range.end()));
        Ok(last_of_each_term(&self.log.term_starts(), first, last).into_iter().map(log_id_to_raft).collect())
    }
}

/// The last entry of each term in `first..=last`, given the first of each.
fn last_of_each_term(starts: &[LogId], first: LogId, last: LogId) -> Vec<LogId> {
    let ends =
        starts.windows(2).map(|pair| LogId { term: pair[0].term, index: LogIndex(pair[1].index.0 - 1) });
    let mut ids: Vec<_> = ends.filter(|end| first.index <= end.index && end.index < last.index).collect();
    ids.push(last);
    ids
}

impl RaftLogStorage<Config> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Config>> {
        let state = self.log.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(log_id_to_raft),
            last_log_id: state.last.map(log_id_to_raft),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        self.log.save_vote(vote_to_store(vote)).await.map_err(io::Error::other)
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        self.log.save_committed(committed.as_ref().map(log_id_from_raft));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        // It rode along with a transaction, so it never says more than the log beside it; yet what it says is only
        // a hint, and a log that lost its tail must not be replayed past its end.
        let state = self.log.state();
        Ok(state.committed.filter(|committed| Some(*committed) <= state.last).map(log_id_to_raft))
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Config>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntryOf> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let group = self.log.group();
        let entries: Vec<Entry> = entries.into_iter().map(|entry| entry_from_raft(group, entry)).collect();
        if let Some(entry) = entries.iter().find(|entry| entry.body == Body::Absent) {
            let error =
                format!("entry {} of group {group} was to be appended without its body", entry.head.index);
            return Err(io::Error::other(error));
        }
        let done =
            Box::new(move |synced: Result<(), _>| flushed.io_completed(synced.map_err(io::Error::other)));
        self.log.append(entries, done).map_err(io::Error::other)
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        let state = self.log.state();
        let first = state.purged.map_or(LogIndex(0), |purged| purged.index.next());
        let from = last.map_or(first, |last| LogIndex(last.index).next());
        self.log.truncate_suffix(from).await.map_err(io::Error::other)
    }

    async fn purge(&mut self, through: RaftLogId) -> io::Result<()> {
        self.log.trim_prefix(log_id_from_raft(&through)).await.map_err(io::Error::other)?;
        tracing::info!(group = %self.log.group(), through = through.index, "log was trimmed");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use quorate_proto::ids::{GroupId, Term, Timestamp};

    use super::super::alone::Alone;
    use super::super::types::{Payload, Proposal};
    use super::*;
    use crate::storage::StoreConfig;

    /// openraft ends where a read fails.
    #[tokio::test]
    async fn what_no_file_could_be_opened_for_is_read_later() {
        const GROUP: GroupId = GroupId(7);
        let config = StoreConfig {
            volume_bytes_max: 20_000,
            recent_bytes_max: 1_000,
            scrub_seconds: 0,
            ..StoreConfig::default()
        };
        let alone = Alone::start_stored(config).await;
        let log = alone.store.log(GROUP);
        for index in 0..30 {
            let mut entry = *Payload::new(Proposal::command(Bytes::from(vec![7; 2_000]), Timestamp(5))).0;
            (entry.head.group, entry.head.index, entry.head.term) = (GROUP, LogIndex(index), Term(1));
            log.append(vec![entry], Box::new(|_| {})).unwrap();
            log.synced().await.unwrap();
        }
        // Within a second or so the keeper has looked at those that are full, and they are closed.
        alone.env.sleep(Duration::from_secs(2)).await;
        alone.gate.refuse_openings(u32::MAX);
        let first = LogIndex(0)..LogIndex(1);
        assert!(log.heads(first.clone(), 1).await.is_err_and(|error| error.is_out_of_files()));
        // To the end: else nobody would wait any more.
        let (_phase, running) = watch::channel(Phase::Running);
        let rate = Arc::new(Rate::new(u64::MAX));
        let entries = LogStore::new(log.clone(), 1 << 20, alone.env.clone(), rate, running);
        let mut read = Box::pin(entries.heads(first));
        for _ in 0..20 {
            assert!((&mut read).now_or_never().is_none());
            alone.env.sleep(Duration::from_millis(10)).await;
        }
        alone.gate.refuse_openings(0);
        assert_eq!(read.await.unwrap().len(), 1);
        alone.raft.stop().await;
        alone.store.close().await;
    }
}
