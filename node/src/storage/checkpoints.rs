//! Checkpoints: what a group's owner made of its log up to an entry, so that the log before it may go, and a restart
//! need not begin at the log's start. They lie in `meta.redb`; what is in them only the owner knows.
//!
//! A group has two. The *base* is as of the entry behind which the log may begin: the log is never trimmed past it,
//! and what is read for a start, or for a member that fell behind, begins there. The *recent* one only makes a restart
//! shorter, and counts for nothing if the log does not hold its entry.
//!
//! A checkpoint that this node made of its own log never becomes durable before that log ([`Log::save_checkpoint`]). One
//! that came from a peer ([`Log::install_checkpoint`]) lies ahead of the log that it is to replace: it is durable
//! first, and then the log is trimmed to it. After a crash in between the next start finds a log that ends before its
//! checkpoint, knows by a flag that this one came from a peer, and trims.
//!
//! | key of table `checkpoints` | value, each with its CRC-32C behind it |
//! | --- | --- |
//! | group (u64), kind (u8: 0 base, 1 recent), 0 (u32) | term, index (u64s), came from a peer (u8), length (u64) and CRC-32C (u32) of the body |
//! | group, kind, 1, 2, 3, ... | the body in pieces of at most 64,000 bytes |

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_proto::ids::{GroupId, LogIndex, Term};
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable as _, TableDefinition, TableError, WriteTransaction,
};

use super::entry::{Corrupt, LogId, array, check_crc};
use super::error::{DiskError, Fault, ReadError, StoreError};
use super::hard::Hard;
use super::state::Shared;
use super::store::Log;
use super::volume::{checked, unchecked};
use crate::env::{Mark, Point, pool};

const CHECKPOINTS: TableDefinition<'_, (u64, u8, u32), &[u8]> = TableDefinition::new("checkpoints");

/// Longest piece of a body. redb rounds a value up to a power of two of pages.
const PIECE_BYTES: usize = 64_000;

/// How long a checkpoint may be held back, where a [`Point`] does.
const LATE_MAX: Duration = Duration::from_millis(300);

/// Which of a group's checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckpointKind {
    /// As of the entry behind which the log may begin.
    Base,
    /// As of a later one.
    Recent,
}

impl CheckpointKind {
    const ALL: [Self; 2] = [Self::Base, Self::Recent];

    fn to_byte(self) -> u8 {
        match self {
            Self::Base => 0,
            Self::Recent => 1,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_byte() == byte)
    }
}

/// The last entry of each checkpoint that is durable and counts.
pub(super) type Checkpoints = BTreeMap<(GroupId, CheckpointKind), LogId>;

/// What a group's owner made of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last entry that is in it.
    pub at: LogId,
    /// As the owner gave it.
    pub body: Bytes,
}

/// What stands before a checkpoint's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CheckpointHead {
    pub(super) at: LogId,
    /// It came from a peer: the log may end before it.
    pub(super) installed: bool,
    bytes: u64,
    crc: u32,
}

impl CheckpointHead {
    const BYTES: usize = 29;

    fn of(at: LogId, installed: bool, body: &[u8]) -> Self {
        let bytes = u64::try_from(body.len()).expect("a length fits 64 bits");
        Self { at, installed, bytes, crc: crc32c::crc32c(body) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::BYTES);
        out.extend(self.at.term.0.to_le_bytes());
        out.extend(self.at.index.0.to_le_bytes());
        out.push(u8::from(self.installed));
        out.extend(self.bytes.to_le_bytes());
        out.extend(self.crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        if bytes.len() != Self::BYTES {
            return Err(Corrupt::Short);
        }
        Ok(Self {
            at: LogId {
                term: Term(u64::from_le_bytes(array(bytes))),
                index: LogIndex(u64::from_le_bytes(array(&bytes[8..]))),
            },
            installed: match bytes[16] {
                0 => false,
                1 => true,
                _ => return Err(Corrupt::Unknown("flag")),
            },
            bytes: u64::from_le_bytes(array(&bytes[17..])),
            crc: u32::from_le_bytes(array(&bytes[25..])),
        })
    }
}

type Table = ReadOnlyTable<(u64, u8, u32), &'static [u8]>;

/// `None` in a folder of before there were checkpoints.
fn open(read: &ReadTransaction) -> Result<Option<Table>, Fault> {
    match read.open_table(CHECKPOINTS) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn corrupt_at(group: u64, corrupt: Corrupt) -> Fault {
    Fault::corrupt("checkpoint", format!("group {group}"), corrupt)
}

/// What stands before each checkpoint's body.
pub(super) fn heads(
    read: &ReadTransaction,
) -> Result<BTreeMap<(GroupId, CheckpointKind), CheckpointHead>, Fault> {
    let mut found = BTreeMap::new();
    let Some(table) = open(read)? else { return Ok(found) };
    let mut from = (0_u64, 0_u8, 0_u32);
    while let Some(row) = table.range(from..)?.next() {
        let (key, value) = row?;
        let (group, byte, piece) = key.value();
        let at = |corrupt| corrupt_at(group, corrupt);
        let kind = CheckpointKind::from_byte(byte).ok_or_else(|| at(Corrupt::Unknown("kind")))?;
        if piece != 0 {
            return Err(at(Corrupt::Misplaced));
        }
        let head = unchecked(value.value()).and_then(CheckpointHead::decode).map_err(at)?;
        found.insert((GroupId(group), kind), head);
        // Past the body, which is not read.
        from = (group, byte + 1, 0);
    }
    Ok(found)
}

pub(super) fn load(
    read: &ReadTransaction,
    group: GroupId,
    kind: CheckpointKind,
) -> Result<Option<Checkpoint>, Fault> {
    let at = |corrupt| corrupt_at(group.0, corrupt);
    let Some(table) = open(read)? else { return Ok(None) };
    let Some(value) = table.get((group.0, kind.to_byte(), 0_u32))? else { return Ok(None) };
    let head = unchecked(value.value()).and_then(CheckpointHead::decode).map_err(at)?;
    let mut body = BytesMut::new();
    for row in table.range((group.0, kind.to_byte(), 1_u32)..=(group.0, kind.to_byte(), u32::MAX))? {
        let (_, piece) = row?;
        body.extend_from_slice(unchecked(piece.value()).map_err(at)?);
    }
    if u64::try_from(body.len()) != Ok(head.bytes) {
        return Err(at(Corrupt::Short));
    }
    check_crc(&body, head.crc).map_err(at)?;
    Ok(Some(Checkpoint { at: head.at, body: body.freeze() }))
}

fn put(
    write: &WriteTransaction,
    group: GroupId,
    kind: CheckpointKind,
    head: &CheckpointHead,
    body: &[u8],
) -> Result<(), Fault> {
    clear(write, group, kind)?;
    let mut table = write.open_table(CHECKPOINTS)?;
    table.insert((group.0, kind.to_byte(), 0_u32), &checked(&head.encode())[..])?;
    for (number, piece) in (1_u32..).zip(body.chunks(PIECE_BYTES)) {
        table.insert((group.0, kind.to_byte(), number), &checked(piece)[..])?;
    }
    Ok(())
}

/// Takes a checkpoint away, if there is one.
pub(super) fn clear(write: &WriteTransaction, group: GroupId, kind: CheckpointKind) -> Result<(), Fault> {
    let mut table = write.open_table(CHECKPOINTS)?;
    let mut keys = Vec::new();
    for row in table.range((group.0, kind.to_byte(), 0_u32)..=(group.0, kind.to_byte(), u32::MAX))? {
        keys.push(row?.0.value());
    }
    for key in keys {
        table.remove(key)?;
    }
    Ok(())
}

/// What a checkpoint is worth beside its group's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// It counts.
    Counts,
    /// It came from a peer, and a crash came before the log was trimmed to it.
    LogToBeTrimmed,
    /// It counts for nothing, and nothing is lost with it.
    Nothing,
    /// The log has lost entries that this node has acknowledged, or is another one.
    DoesNotFit,
}

/// Judges a checkpoint by the log that the disk holds.
pub(super) fn judge(log: Option<&Hard>, kind: CheckpointKind, head: &CheckpointHead) -> Worth {
    // What is left of a group that was removed.
    let Some(log) = log else { return Worth::Nothing };
    if holds(log, head.at) {
        return Worth::Counts;
    }
    match kind {
        // The log has lost its tail, or begins behind it.
        CheckpointKind::Recent => Worth::Nothing,
        CheckpointKind::Base => match log.last {
            Some(last) if last.index >= head.at.index => Worth::DoesNotFit,
            Some(_) | None if head.installed => Worth::LogToBeTrimmed,
            None => Worth::Nothing,
            Some(_) => Worth::DoesNotFit,
        },
    }
}

/// Whether the log holds that entry, or begins behind it.
fn holds(log: &Hard, at: LogId) -> bool {
    log.purged == Some(at) || log.term_at(at.index) == Some(at.term)
}

impl Shared {
    /// Writes a checkpoint, unless a newer one is there. Blocks.
    fn write_checkpoint(
        &self,
        group: GroupId,
        kind: CheckpointKind,
        head: &CheckpointHead,
        body: &[u8],
    ) -> Result<(), StoreError> {
        if let Some(refusal) = self.failure.refusal() {
            return Err(refusal);
        }
        {
            let state = self.state();
            let log = state.durable.get(&group).map(|durable| &durable.hard);
            if !head.installed && log.is_none_or(|log| !holds(log, head.at)) {
                return Err(StoreError::NotHeld { group, index: head.at.index });
            }
            let known = state.checkpoints.get(&(group, kind));
            if known.is_some_and(|known| known.index >= head.at.index) {
                return Ok(());
            }
        }
        self.meta
            .transact(|write| put(write, group, kind, head, body))
            .map_err(|error| self.failed(error))?;
        if let Some(unknown) = self.failure.unknown() {
            return Err(unknown);
        }
        let mut state = self.state();
        state.checkpoints.insert((group, kind), head.at);
        if kind == CheckpointKind::Base
            && let Some(damage) = state.damage.get_mut(&group)
        {
            damage.base = false;
        }
        Ok(())
    }

    /// Takes a group's checkpoints away: its log has gone. Blocks.
    fn clear_checkpoints(&self, group: GroupId) -> Result<(), StoreError> {
        if let Some(refusal) = self.failure.refusal() {
            return Err(refusal);
        }
        // Looked for here: one may have been on its way to the disk when its log went.
        if !self.state().checkpoints.keys().any(|(of, _)| *of == group) {
            return Ok(());
        }
        let cleared = self
            .meta
            .transact(|write| CheckpointKind::ALL.into_iter().try_for_each(|kind| clear(write, group, kind)));
        cleared.map_err(|error| self.failed(error))?;
        if let Some(unknown) = self.failure.unknown() {
            return Err(unknown);
        }
        self.state().checkpoints.retain(|(of, _), _| *of != group);
        Ok(())
    }

    /// Reads a group's base, if it has one, and notes it if it is damaged. Blocks.
    pub(super) fn examine_base(&self, group: GroupId) {
        let read = self.meta.read(|read| load(read, group, CheckpointKind::Base));
        if let Err(error) = read {
            self.judge_base(group, &error);
        }
    }

    /// A base could not be read: notes whether it is damaged.
    fn judge_base(&self, group: GroupId, error: &ReadError) {
        if !error.is_damage() || self.failure.refusal().is_some() {
            return;
        }
        {
            let mut state = self.state();
            // Whoever closes the store closes the file too.
            if state.closing || std::mem::replace(&mut state.damage.entry(group).or_default().base, true) {
                return;
            }
        }
        tracing::error!(%group, error = error as &dyn std::error::Error, "base of a group is damaged");
        self.damaged.send_modify(|version| *version += 1);
    }

    fn failed(&self, error: DiskError) -> StoreError {
        self.failure.raise(&error);
        StoreError::Unknown(error)
    }

    /// Runs blocking work that writes `meta.redb`: what it compares and what it writes are one step, also when whoever
    /// asked has gone. Waits for its turn here and not on a thread, which commits may need.
    async fn in_meta(
        self: &Arc<Self>,
        what: &'static str,
        work: impl FnOnce(&Self) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let turn = self.checkpointing.clone().lock_owned().await;
        let shared = self.clone();
        let done = pool::run(&*self.pool, move || {
            let _turn = turn;
            shared.failure.catch(what, || work(&shared))
        })
        .await;
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Takes a removed group's checkpoints away. Durable on return.
    pub(super) async fn forget_checkpoints(self: &Arc<Self>, group: GroupId) -> Result<(), StoreError> {
        self.in_meta("the removal of checkpoints", move |shared| shared.clear_checkpoints(group)).await
    }
}

impl Log {
    /// The last entry that is in a checkpoint; durable.
    pub fn checkpoint_at(&self, kind: CheckpointKind) -> Option<LogId> {
        self.shared.state().checkpoints.get(&(self.group, kind)).copied()
    }

    /// A checkpoint, if there is one.
    ///
    /// # Errors
    /// The disk failed, or holds something else than what was written.
    pub async fn checkpoint(&self, kind: CheckpointKind) -> Result<Option<Checkpoint>, ReadError> {
        if let Some(refusal) = self.shared.failure.refusal() {
            return Err(ReadError::Failed(refusal));
        }
        let (meta, group) = (self.shared.meta.clone(), self.group);
        let found = pool::run(&*self.shared.pool, move || meta.read(|read| load(read, group, kind))).await;
        if let Err(error) = &found
            && kind == CheckpointKind::Base
        {
            self.shared.judge_base(group, error);
        }
        found
    }

    /// Saves what the owner made of the log up to `at`, inclusive, which the log must hold. Durable on return, and never
    /// before the log up to `at` is. In place of an older one; a newer one stays.
    ///
    /// # Errors
    /// [`StoreError::NotHeld`]: the log does not hold that entry, or does not begin behind it. Else the disk failed or
    /// the store is closed.
    pub async fn save_checkpoint(
        &self,
        kind: CheckpointKind,
        at: LogId,
        body: Bytes,
    ) -> Result<(), StoreError> {
        self.synced().await?;
        self.write(kind, CheckpointHead::of(at, false, &body), body).await
    }

    /// Saves a base that came from a peer. Durable on return, and then the log must be trimmed to it
    /// ([`Log::trim_prefix`]), as the next start would. Nothing is kept in the log that does not follow from it: whatever
    /// lies at its index and is not its entry must have been truncated before.
    ///
    /// # Errors
    /// The disk failed or the store is closed.
    pub async fn install_checkpoint(&self, at: LogId, body: Bytes) -> Result<(), StoreError> {
        self.synced().await?;
        self.write(CheckpointKind::Base, CheckpointHead::of(at, true, &body), body).await
    }

    async fn write(&self, kind: CheckpointKind, head: CheckpointHead, body: Bytes) -> Result<(), StoreError> {
        self.shared.env.dawdle(Point::CheckpointLate, LATE_MAX).await;
        let group = self.group;
        let written = self
            .shared
            .in_meta("a checkpoint", move |shared| shared.write_checkpoint(group, kind, &head, &body));
        written.await?;
        self.shared.env.reached(match kind {
            CheckpointKind::Base => Mark::BaseSaved,
            CheckpointKind::Recent => Mark::RecentCheckpointSaved,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term: Term(term), index: LogIndex(index) }
    }

    #[test]
    fn a_head_comes_back_as_it_was() {
        for installed in [false, true] {
            let head = CheckpointHead::of(id(3, 9), installed, b"state");
            assert_eq!(CheckpointHead::decode(&head.encode()), Ok(head));
            assert_eq!(CheckpointHead::decode(&head.encode()[1..]), Err(Corrupt::Short));
        }
    }

    #[test]
    fn a_checkpoint_is_judged_by_its_log() {
        use Worth::{Counts, DoesNotFit, LogToBeTrimmed, Nothing};
        let group = GroupId(1);
        let log = |purged: Option<LogId>, entries: &[LogId]| {
            let mut hard = Hard::default();
            if let Some(purged) = purged {
                hard.purge(purged);
                hard.last = Some(purged);
            }
            entries.iter().for_each(|entry| hard.append(group, *entry).expect("entries follow each other"));
            hard
        };
        let check = |log: Option<&Hard>, at: LogId, installed: bool| {
            let head = CheckpointHead::of(at, installed, b"");
            CheckpointKind::ALL.map(|kind| judge(log, kind, &head))
        };
        let whole = log(Some(id(1, 4)), &[id(1, 5), id(2, 6), id(2, 7)]);
        assert_eq!(check(None, id(1, 4), false), [Nothing, Nothing], "its group was removed");
        assert_eq!(check(Some(&whole), id(1, 4), false), [Counts, Counts], "the log begins behind it");
        assert_eq!(check(Some(&whole), id(2, 7), false), [Counts, Counts]);
        assert_eq!(check(Some(&whole), id(1, 6), false), [DoesNotFit, Nothing], "another entry is there");
        assert_eq!(check(Some(&whole), id(1, 3), false), [DoesNotFit, Nothing], "the log begins later");
        assert_eq!(check(Some(&whole), id(2, 8), false), [DoesNotFit, Nothing], "the log lost its tail");
        assert_eq!(check(Some(&whole), id(2, 8), true), [LogToBeTrimmed, Nothing]);
        let empty = log(None, &[]);
        assert_eq!(check(Some(&empty), id(2, 8), true), [LogToBeTrimmed, Nothing]);
        assert_eq!(check(Some(&empty), id(2, 8), false), [Nothing, Nothing], "a vote is left of it");
        let trimmed = log(Some(id(2, 8)), &[]);
        assert_eq!(check(Some(&trimmed), id(2, 8), true), [Counts, Counts]);
    }
}
