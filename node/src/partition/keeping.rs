//! What a leader does so that its partition keeps what it must and no more: raises the log start through the log, by
//! retention or because somebody asked for it, and lets its log go up to there.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::PoisonError;
use std::time::Duration;

use quorate_proto::env::Moment;
use quorate_proto::ids::{LeaderEpoch, LogIndex, Offset, Term};
use tracing::{debug, info, warn};

use super::command::Command;
use super::replica::{Replica, Unled, ends};
use super::retention::{Due, Piece, counted_from, due, expired, goes};
use super::state::Behind;
use super::types::{DeleteBefore, DeleteError, Deleted, FetchError};
use crate::env::{Mark, Point};
use crate::metadata::Retention;
use crate::raft::{Pending, Proposal, ProposeError, Role};
use crate::storage::Kind;

/// How long the log start may take to be agreed on by retention; the next look proposes it again.
const AGREED: Duration = Duration::from_secs(5);

/// Least bytes that a leader holds for members that are slow: what is on its way to one that is not.
const HELD_BYTES_MIN: u64 = 8 << 20;

/// A batch of a run.
#[derive(Clone, Copy, Debug)]
struct Batch {
    index: LogIndex,
    /// Bytes of all batches before it.
    bytes_before: u64,
    piece: Piece,
}

/// What a look at a partition leaves for the next one.
#[derive(Clone, Debug, Default)]
pub(super) struct Looked {
    /// As a leader in this term: who leads anew knows nothing.
    term: Option<Term>,
    /// What was decided by, and when the oldest batch that is kept may go: before that, there is nothing to be read.
    due: Option<(Retention, Offset, Due)>,
    /// For a log start: the first entry behind it, and the bytes of all batches before that.
    first: Option<(Offset, LogIndex, u64)>,
    /// The first entry that is needed, and since when it is that one.
    stands: Option<(LogIndex, Moment)>,
    /// Bytes of all batches before the log.
    trimmed_bytes: Option<u64>,
    /// Up to where the log was to be trimmed and is not, each with the bytes of all batches before; the oldest first.
    held: VecDeque<(LogIndex, u64)>,
    /// The last trim was held for a replica.
    is_held: bool,
}

/// A base that is saved as more bytes than that costs more than what is trimmed with each MiB: then twice its bytes must
/// be dead. Smaller ones do not matter.
const LARGE_BASE_BYTES: u64 = 512 << 10;

/// How many looks are remembered that did not trim as far as they should: with more, what is held is counted too high.
const HELD_MAX: usize = 64;

impl Looked {
    /// The log was to be trimmed to `target`, and begins at `begins` now.
    fn trimmed(&mut self, target: (LogIndex, u64), begins: LogIndex) {
        if self.held.back() != Some(&target) && self.held.len() < HELD_MAX {
            self.held.push_back(target);
        }
        while let Some((first, bytes)) = self.held.front().copied()
            && first <= begins
        {
            self.held.pop_front();
            self.trimmed_bytes = Some(bytes);
        }
        if begins >= target.0 {
            self.trimmed_bytes = Some(target.1);
        }
        self.is_held = begins < target.0;
    }
}

impl Replica {
    /// How much is kept.
    fn retention(&self) -> Retention {
        self.topic_config().retention
    }

    /// Whether [`Replica::keep`] may have something to do: cheap, for all replicas are asked at each look.
    pub(super) fn may_keep_less(&self) -> bool {
        let Role::Leader { term, ready: true } = self.role() else { return false };
        let retention = self.retention();
        let (looked_in, due) = {
            let looked = self.shared.looked.lock().unwrap_or_else(PoisonError::into_inner);
            (looked.term, looked.due)
        };
        let (log_start, bytes) = {
            let state = self.shared.state.lock();
            (state.log_start, state.applied_bytes)
        };
        // Where something was deleted once, the log may have to be trimmed.
        if looked_in != Some(term) || log_start != Offset(0) {
            return true;
        }
        if retention.ms.is_none() && retention.bytes.is_none() {
            return false;
        }
        let now = self.shared.around.env.wall();
        due.is_none_or(|(by, at, due)| (by, at) != (retention, log_start) || due.is_now(now, bytes))
    }

    /// Raises the log start if retention says so, and trims the log; only what this node leads.
    pub(super) async fn keep(&self) {
        let Role::Leader { term, ready: true } = self.role() else { return };
        let env = &self.shared.around.env;
        if self.is_closed() || env.perturb(Point::RetentionSkipped) {
            return;
        }
        self.look(|looked| {
            if looked.term != Some(term) {
                *looked = Looked { term: Some(term), ..Looked::default() };
            }
        });
        match self.expired().await {
            Ok(None) => {}
            Ok(Some(offset)) => match self.set_log_start(term, offset).await {
                Ok(agreed) => match env.timeout(AGREED, agreed).await {
                    Ok(Ok(_)) => debug!(log_start = %self.log_start(), "log start was raised by retention"),
                    Ok(Err(error)) => debug!(%error, %offset, "log start was not raised"),
                    Err(elapsed) => debug!(error = %elapsed, %offset, "log start was not raised"),
                },
                Err(error) => debug!(%error, %offset, "log start was not raised"),
            },
            Err(error) => warn!(%error, "oldest entries could not be read for retention"),
        }
        if let Err(error) = self.trim().await {
            warn!(%error, "entries before the log start could not be read");
        }
    }

    async fn set_log_start(&self, term: Term, offset: Offset) -> Result<Pending, crate::raft::NotLeader> {
        let command = Command::SetLogStart { offset }.encode();
        // Never below what was appended before, whatever the clock says.
        let appended_at = self.shared.around.env.wall().max(self.shared.state.lock().appended_at);
        let proposal = Proposal::command(command, appended_at);
        self.shared.group.propose(term, proposal).await
    }

    /// Where the log start should be, if it is not there.
    async fn expired(&self) -> Result<Option<Offset>, FetchError> {
        let retention = self.retention();
        if retention.ms.is_none() && retention.bytes.is_none() {
            return Ok(None);
        }
        let now = self.shared.around.env.wall();
        let known = self.looked().due;
        let (log_start, bytes, coarse, run) = {
            let state = self.shared.state.lock();
            let (log_start, bytes) = (state.log_start, state.applied_bytes);
            if let Some((by, at, due)) = known
                && (by, at) == (retention, log_start)
                && !due.is_now(now, bytes)
            {
                return Ok(None);
            }
            let runs = state.index.runs(state.next_offset, bytes);
            let pieces =
                runs.map(|run| Piece { end: run.end, newest: run.newest, bytes_through: run.bytes_through });
            // By whole runs first, and then within the first one that is kept.
            let coarse = expired(pieces, bytes, retention, now);
            let kept = coarse.unwrap_or(log_start).max(log_start);
            (log_start, bytes, coarse, state.run_behind(kept))
        };
        let kept = coarse.unwrap_or(log_start).max(log_start);
        let is_left = run.is_some();
        let (mut fine, mut oldest) = (None, None);
        if let Some(run) = run {
            let stays = |batch: Batch| {
                if batch.piece.end <= kept {
                    return false;
                }
                if goes(&batch.piece, bytes, retention, now) {
                    fine = Some(batch.piece.end);
                    return false;
                }
                oldest = Some(batch.piece);
                true
            };
            if !self.walk(&run, log_start, stays).await? {
                // Something else has raised the log start: the next look begins there.
                return Ok(None);
            }
        }
        let start = coarse.max(fine).filter(|start| *start > log_start);
        let due = match oldest {
            Some(oldest) => Some(due(&oldest, retention)),
            // All of the run goes; the next one is looked at the next time.
            None if is_left => None,
            // Nothing is left: the next batch is looked at when it is there.
            None => Some(Due { at: None, bytes: Some(bytes + 1) }),
        };
        let at = start.unwrap_or(log_start);
        self.look(|looked| looked.due = due.map(|due| (retention, at, due)));
        Ok(start)
    }

    /// Shows the batches of a run, or those of them that lie at the log start or behind it, to `is_enough` until it says
    /// so. However long the run is, a few heads are held at a time. False if the log start is not `log_start` any more, or the
    /// log was trimmed under the walk.
    async fn walk(
        &self,
        run: &Behind,
        log_start: Offset,
        is_enough: impl FnMut(Batch) -> bool + Send,
    ) -> Result<bool, FetchError> {
        let Range { start, end } = run.range;
        let known = self.looked().first;
        let known = known.filter(|(at, first, _)| *at <= log_start && run.range.contains(first));
        if let Some((_, first, bytes_before)) = known {
            return self.walk_range(first..end, bytes_before, log_start, is_enough).await;
        }
        let purged = self.shared.group.log().state().purged;
        let begins = purged.map_or(start, |purged| start.max(purged.index.next()));
        if begins == start {
            return self.walk_range(start..end, run.bytes_before, log_start, is_enough).await;
        }
        // Its first entries are trimmed: what is left is counted from the end backwards.
        let mut left = 0;
        let count = |batch: Batch| {
            left = batch.piece.bytes_through;
            false
        };
        if !self.walk_range(begins..end, 0, log_start, count).await? {
            return Ok(false);
        }
        self.walk_range(begins..end, run.bytes_through.saturating_sub(left), log_start, is_enough).await
    }

    /// [`Replica::walk`] over some entries, of which `bytes_before` are the bytes of all batches before.
    async fn walk_range(
        &self,
        range: Range<LogIndex>,
        mut bytes_before: u64,
        log_start: Offset,
        mut is_enough: impl FnMut(Batch) -> bool + Send,
    ) -> Result<bool, FetchError> {
        let mut from = range.start;
        while from < range.end {
            let (mut heads, next) = self.log_heads(from..range.end).await?;
            if heads.first().is_none_or(|first| first.index != from) {
                // The bytes of what went would be missing from all that follows.
                return Ok(false);
            }
            from = next;
            {
                let state = self.shared.state.lock();
                if state.log_start != log_start {
                    // Which entries before it are void is not known any more.
                    return Ok(false);
                }
                heads.retain(|head| head.kind == Kind::Batch && !state.is_void(head.index));
            }
            for head in heads {
                let bytes_through = bytes_before + u64::from(head.body_bytes);
                let piece = Piece { end: ends(&head), newest: counted_from(&head), bytes_through };
                if is_enough(Batch { index: head.index, bytes_before, piece }) {
                    return Ok(true);
                }
                bytes_before = bytes_through;
            }
        }
        Ok(true)
    }

    /// Lets the log go up to the log start, once there is enough to go or it has not moved for a while. Holds it for
    /// members that are slow, within a bound.
    async fn trim(&self) -> Result<(), FetchError> {
        let before = self.looked();
        let Some((first, bytes_before)) = self.first_needed().await? else { return Ok(()) };
        let (live, base_bytes) = {
            let state = self.shared.state.lock();
            (state.applied_bytes.saturating_sub(bytes_before), state.saved_bytes())
        };
        let (config, now) = (&self.shared.around.config, self.shared.around.env.now());
        let trimmed = match before.trimmed_bytes {
            Some(known) => known,
            None => bytes_before.saturating_sub(self.batch_bytes_before(first).await?),
        };
        let stands = before.stands.filter(|(known, _)| *known == first).unwrap_or((first, now));
        self.look(|looked| {
            looked.trimmed_bytes = Some(trimmed);
            looked.stands = Some(stands);
        });
        let dead = bytes_before.saturating_sub(trimmed);
        // To trim is to save a base: not for each batch of a partition to which little comes.
        let rests = now.since(stands.1) >= Duration::from_millis(config.trim_rest_ms);
        if dead < worth_trimming(config.trim_bytes_min, base_bytes) && !rests {
            return Ok(());
        }
        let held_max = config.slow_replica_bytes_max.min(HELD_BYTES_MIN.max(live / 4));
        let group = &self.shared.group;
        // Whoever is behind by what came since the last look is not slow: only what was to go then goes without it.
        if before.is_held
            && dead > held_max
            && let Some((_, earlier, _)) = before.first
            && let Err(error) = group.trim(earlier.min(first), false).await
        {
            warn!(%error, "log was not trimmed");
            return Ok(());
        }
        match group.trim(first, true).await {
            Ok(begins) => {
                if begins < first {
                    debug!(%begins, %first, dead, "log is held for a slow replica");
                }
                self.look(|looked| looked.trimmed((first, bytes_before), begins));
            }
            Err(error) => warn!(%error, "log was not trimmed"),
        }
        Ok(())
    }

    /// Bytes of the batches that the log holds before an entry.
    async fn batch_bytes_before(&self, first: LogIndex) -> Result<u64, FetchError> {
        let purged = self.shared.group.log().state().purged;
        let mut from = purged.map_or(LogIndex(0), |purged| purged.index.next());
        let mut bytes = 0;
        while from < first {
            let (heads, next) = self.log_heads(from..first).await?;
            let batches = heads.iter().filter(|head| head.kind == Kind::Batch);
            bytes += batches.map(|head| u64::from(head.body_bytes)).sum::<u64>();
            from = next;
        }
        Ok(bytes)
    }

    /// The first entry that is needed for what lies at the log start and behind it, and the bytes of all batches before;
    /// `None` while nothing was ever deleted.
    async fn first_needed(&self) -> Result<Option<(LogIndex, u64)>, FetchError> {
        let known = self.looked().first;
        let (log_start, run) = {
            let state = self.shared.state.lock();
            if state.log_start == Offset(0) {
                return Ok(None);
            }
            if state.log_start >= state.next_offset {
                let all = (state.log_start, state.next_index, state.applied_bytes);
                drop(state);
                self.look(|looked| looked.first = Some(all));
                return Ok(Some((all.1, all.2)));
            }
            let first = known.filter(|(log_start, ..)| *log_start == state.log_start);
            if let Some((_, first, bytes_before)) = first {
                return Ok(Some((first, bytes_before)));
            }
            let run = state.run_behind(state.log_start);
            (state.log_start, run.expect("what lies at the log start is in the index"))
        };
        let mut first = None;
        let is_first = |batch: Batch| {
            let lies_behind = batch.piece.end > log_start;
            first = lies_behind.then_some((batch.index, batch.bytes_before));
            lies_behind
        };
        if !self.walk(&run, log_start, is_first).await? {
            return Ok(None);
        }
        // Without one the log was trimmed under us: another node leads, and this one has not applied its log start.
        let Some((index, bytes_before)) = first else { return Ok(None) };
        self.look(|looked| looked.first = Some((log_start, index, bytes_before)));
        Ok(Some((index, bytes_before)))
    }

    fn looked(&self) -> Looked {
        self.shared.looked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look(&self, change: impl FnOnce(&mut Looked)) {
        change(&mut self.shared.looked.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Deletes the records before an offset, for ever: raises the log start to it. Ready once that is agreed and applied
    /// here, or at `deadline` at the latest. Before the log start there is nothing to delete, and that is fine. Dropping
    /// the future abandons the answer, not the work.
    ///
    /// # Errors
    /// [`DeleteError::Unknown`]: perhaps done. All others: surely not done.
    pub async fn delete_records(
        &self,
        epoch: Option<LeaderEpoch>,
        before: DeleteBefore,
        deadline: Moment,
    ) -> Result<Deleted, DeleteError> {
        let env = &self.shared.around.env;
        let mut term = self.leading(epoch).map_err(Unled::delete)?;
        let must_ask = match before {
            DeleteBefore::Offset(offset) => offset > self.high_watermark(),
            DeleteBefore::HighWatermark => self.log_start() == self.high_watermark(),
        };
        if must_ask {
            // Somebody else leads by now, perhaps, and this one has not heard of it: then the offset is there, or there is
            // something to delete.
            self.confirm(epoch).await.map_err(DeleteError::from)?;
            term = self.leading(epoch).map_err(Unled::delete)?;
        }
        let offset = {
            let state = self.shared.state.lock();
            let (log_start, high_watermark) = (state.log_start, state.next_offset);
            let offset = match before {
                DeleteBefore::HighWatermark => high_watermark,
                DeleteBefore::Offset(offset) => offset,
            };
            if offset > high_watermark {
                return Err(DeleteError::OffsetOutOfRange { offset, log_start, high_watermark });
            }
            if offset <= log_start {
                return Ok(Deleted { log_start, epoch: term.epoch() });
            }
            offset
        };
        let not_leader = || DeleteError::NotLeader { leader: self.leadership() };
        let agreed = self.set_log_start(term, offset).await.map_err(|_| not_leader())?;
        match env.timeout(deadline.since(env.now()), agreed).await {
            Ok(Ok(_)) => {
                env.reached(Mark::RecordsDeleted);
                let log_start = self.log_start();
                info!(%log_start, "records were deleted");
                Ok(Deleted { log_start, epoch: term.epoch() })
            }
            Ok(Err(ProposeError::NotAppended { .. })) => Err(not_leader()),
            Ok(Err(ProposeError::Unknown)) | Err(_) => Err(DeleteError::Unknown),
        }
    }
}

/// From how many dead bytes on a log is trimmed, with a base of so many.
fn worth_trimming(trim_bytes_min: u64, base_bytes: u64) -> u64 {
    if base_bytes > LARGE_BASE_BYTES { trim_bytes_min.max(2 * base_bytes) } else { trim_bytes_min }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_base_is_not_saved_for_little() {
        assert_eq!(worth_trimming(1 << 20, 1_000), 1 << 20);
        assert_eq!(worth_trimming(0, LARGE_BASE_BYTES), 0, "small ones do not matter");
        assert_eq!(worth_trimming(1 << 20, 3 << 20), 6 << 20);
        assert_eq!(worth_trimming(64 << 20, 3 << 20), 64 << 20);
    }
}
