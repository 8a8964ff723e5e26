//! Reading a group's log: recent entries from memory, the others from the volumes that its spans name.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::ids::{GroupId, LogIndex};

use super::damage::Part;
use super::entry::{Body, Corrupt, Entry, Head};
use super::error::{Fault, ReadError};
use super::index;
use super::state::{Shared, State, bytes_of};
use super::stream::Place;
use super::transcript::Reader;
use super::volume::Volume;
use crate::env::{Mark, Point, pool};

/// Where a run of entries lies on the disk.
pub(super) struct Piece {
    volume: Arc<Volume>,
    range: Range<LogIndex>,
    /// Their places, if the volume's index is in memory.
    places: Option<Vec<Place>>,
}

impl Piece {
    /// Its entries, each alone.
    fn each(&self) -> impl Iterator<Item = Self> {
        let indexes = (self.range.start.0..self.range.end.0).map(LogIndex);
        indexes.enumerate().map(move |(at, index)| Self {
            volume: self.volume.clone(),
            range: index..index.next(),
            places: self.places.as_ref().map(|places| vec![places[at]]),
        })
    }
}

/// What is wanted of each entry, and when it is enough.
#[derive(Clone, Copy)]
struct Wanted {
    bodies: bool,
    count_max: usize,
    bytes_max: u64,
}

/// Why a read gave nothing.
enum Missed {
    /// Its volume was rewritten meanwhile: it is to be begun anew.
    Moved,
    /// All of it could be read when it was looked at once more: it is to be begun anew, not forever.
    Passed(ReadError),
    Failed(ReadError),
}

/// At most so many entries are looked up for one read from disk: a reader comes again for more.
const PLACES_MAX: u64 = 10_000;

/// So often a read is begun anew that failed over nothing that is damaged.
const PASSED_MAX: u32 = 3;

/// At most so many entries are looked at for one step of the scrubber.
const SCRUB_PLACES: usize = 1_000;

/// What a read from disk may take at most, where a [`Point`] makes it slow.
const LATE_MAX: Duration = Duration::from_millis(100);

impl Shared {
    /// Heads of the part of a range that the log holds, at most `count_max`.
    pub(super) async fn heads(
        self: &Arc<Self>,
        group: GroupId,
        range: Range<LogIndex>,
        count_max: usize,
    ) -> Result<Vec<Head>, ReadError> {
        let mut passed = 0;
        loop {
            match self.try_heads(group, range.clone(), count_max).await {
                Ok(heads) => return Ok(heads),
                Err(missed) => self.begin_anew(missed, &mut passed)?,
            }
        }
    }

    async fn try_heads(
        self: &Arc<Self>,
        group: GroupId,
        range: Range<LogIndex>,
        count_max: usize,
    ) -> Result<Vec<Head>, Missed> {
        let count_max = if self.env.perturb(Point::HeadsReadOne) { count_max.min(1) } else { count_max };
        let wanted = Wanted { bodies: false, count_max, bytes_max: u64::MAX };
        let (pieces, memory) = {
            let state = self.state();
            let Some(visible) = state.visible.get(&group) else { return Ok(Vec::new()) };
            let range = clip(&visible.hard.range(), &range);
            let border = visible.memory_start().clamp(range.start, range.end);
            let (pieces, whole) = state.pieces(group, range.start..border, count_max);
            let left =
                count_max.saturating_sub(usize::try_from(border.0 - range.start.0).unwrap_or(usize::MAX));
            let left = if whole { left } else { 0 };
            (pieces, visible.heads_in_memory(border..range.end).take(left).collect::<Vec<_>>())
        };
        if pieces.is_empty() {
            return Ok(memory);
        }
        let (found, complete) = self.from_disk(group, pieces, wanted).await?;
        let mut heads = found.into_iter().map(|entry| entry.head).collect::<Vec<_>>();
        if complete {
            heads.extend(memory);
        }
        Ok(heads)
    }

    /// Entries with bodies of the part of a range that the log holds, the first and what `bytes_max` allows.
    pub(super) async fn entries(
        self: &Arc<Self>,
        group: GroupId,
        range: Range<LogIndex>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, ReadError> {
        let mut passed = 0;
        loop {
            match self.try_entries(group, range.clone(), bytes_max).await {
                Ok(entries) => return Ok(entries),
                Err(missed) => self.begin_anew(missed, &mut passed)?,
            }
        }
    }

    async fn try_entries(
        self: &Arc<Self>,
        group: GroupId,
        range: Range<LogIndex>,
        bytes_max: u64,
    ) -> Result<Vec<Entry>, Missed> {
        let bytes_max = if self.env.perturb(Point::EntriesReadOne) { 0 } else { bytes_max };
        let wanted = Wanted { bodies: true, count_max: usize::MAX, bytes_max };
        let (pieces, memory) = {
            let state = self.state();
            let Some(visible) = state.visible.get(&group) else { return Ok(Vec::new()) };
            let range = clip(&visible.hard.range(), &range);
            let border = visible.memory_start().clamp(range.start, range.end);
            let (pieces, whole) = state.pieces(group, range.start..border, wanted.count_max);
            let end = if whole { range.end } else { border };
            (pieces, visible.entries_in_memory(border..end, bytes_max, border == range.start))
        };
        if pieces.is_empty() {
            self.metrics.cache_hits.add_count(memory.len());
            return Ok(memory);
        }
        let (mut entries, complete) = self.from_disk(group, pieces, wanted).await?;
        self.metrics.cache_misses.add_count(entries.len());
        if complete {
            let mut left = bytes_max.saturating_sub(entries.iter().map(|entry| bytes_of(&entry.head)).sum());
            for entry in memory {
                let takes = bytes_of(&entry.head);
                if takes > left {
                    break;
                }
                left -= takes;
                self.metrics.cache_hits.add(1);
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// The bodies of these very entries.
    pub(super) async fn bodies(
        self: &Arc<Self>,
        group: GroupId,
        heads: &[Head],
    ) -> Result<Vec<Bytes>, ReadError> {
        let mut passed = 0;
        loop {
            match self.try_bodies(group, heads).await {
                Ok(bodies) => return Ok(bodies),
                Err(missed) => self.begin_anew(missed, &mut passed)?,
            }
        }
    }

    async fn try_bodies(self: &Arc<Self>, group: GroupId, heads: &[Head]) -> Result<Vec<Bytes>, Missed> {
        let missing = |head: &Head| Missed::Failed(ReadError::Missing { group, index: head.index });
        let mut bodies = Vec::with_capacity(heads.len());
        let mut jobs = Vec::new();
        {
            let state = self.state();
            for (at, head) in heads.iter().enumerate() {
                let visible = state.visible.get(&group).ok_or_else(|| missing(head))?;
                if let Some(body) = visible.body_in_memory(head) {
                    bodies.push(body);
                    continue;
                }
                if !visible.hard.range().contains(&head.index) || head.index >= visible.memory_start() {
                    return Err(missing(head));
                }
                bodies.push(Bytes::new());
                jobs.push((at, *head, state.pieces(group, head.index..head.index.next(), 1).0));
            }
        }
        self.metrics.cache_hits.add_count(heads.len() - jobs.len());
        self.metrics.cache_misses.add_count(jobs.len());
        if jobs.is_empty() {
            return Ok(bodies);
        }
        self.env.dawdle(Point::ReadLate, LATE_MAX).await;
        let shared = self.clone();
        pool::run(&*self.pool, move || {
            let mut jobs = jobs.into_iter().peekable();
            while let Some((_, first, pieces)) = jobs.peek() {
                let first = first.index;
                let Some(volume) = pieces.first().map(|piece| piece.volume.clone()) else { break };
                let same =
                    |pieces: &[Piece]| pieces.first().is_some_and(|p| p.volume.number == volume.number);
                let mut here = Vec::new();
                while let Some(job) = jobs.next_if(|(_, _, pieces)| same(pieces)) {
                    here.push(job);
                }
                let read = shared.use_volume(group, &volume, |read| {
                    let mut reader = Reader::new(read)?;
                    for (at, wanted, pieces) in &here {
                        let piece = pieces.first().expect("there is one for each body");
                        let places = match &piece.places {
                            Some(places) => places.clone(),
                            None => index::find(read, group, piece.range.clone())?,
                        };
                        let (head, place) = reader.head(places[0])?;
                        if head != *wanted {
                            let place = format!("group {group}, index {}", wanted.index);
                            return Err(Fault::corrupt("head", place, Corrupt::Misplaced));
                        }
                        bodies[*at] = reader.body(&head, place)?;
                    }
                    Ok(())
                });
                read.map_err(|error| {
                    let mut whole = true;
                    for piece in here.iter().flat_map(|(_, _, pieces)| pieces) {
                        whole &= shared.examine(group, piece);
                    }
                    shared.judge(group, first, &volume, error, whole)
                })?;
            }
            Ok(bodies)
        })
        .await
    }

    /// Reads pieces in their order until it is enough. Tells whether that was all of them.
    async fn from_disk(
        self: &Arc<Self>,
        group: GroupId,
        pieces: Vec<Piece>,
        wanted: Wanted,
    ) -> Result<(Vec<Entry>, bool), Missed> {
        self.env.dawdle(Point::ReadLate, LATE_MAX).await;
        let shared = self.clone();
        pool::run(&*self.pool, move || {
            let mut found = Vec::new();
            let mut bytes = 0;
            for piece in &pieces {
                let all = shared.use_volume(group, &piece.volume, |read| {
                    read_piece(read, group, piece, wanted, &mut bytes, &mut found)
                });
                match all {
                    Ok(true) => {}
                    Ok(false) => return Ok((found, false)),
                    Err(error) => {
                        let whole = shared.examine(group, piece);
                        // What lies before the damage is whole.
                        if !found.is_empty() {
                            return Ok((found, false));
                        }
                        return Err(shared.judge(group, piece.range.start, &piece.volume, error, whole));
                    }
                }
            }
            Ok((found, true))
        })
        .await
    }

    /// A read that failed because its volume went away, as it was dead, found nothing damaged; nor did one in a store
    /// that has failed: a volume whose closing failed cannot be opened any more. Nor did one of what was `whole` when it
    /// was examined: somebody else's read had failed before, after which redb refuses all others until the file is
    /// opened anew, or the medium gave it back the second time.
    fn judge(
        &self,
        group: GroupId,
        index: LogIndex,
        volume: &Volume,
        error: ReadError,
        whole: bool,
    ) -> Missed {
        if let Some(refusal) = self.failure.refusal() {
            return Missed::Failed(ReadError::Failed(refusal));
        }
        let state = self.state();
        let held = state.visible.get(&group).is_some_and(|visible| visible.hard.range().contains(&index));
        if held {
            return match state.has_volume(volume.number) {
                true if whole => Missed::Passed(error),
                true => Missed::Failed(error),
                false => Missed::Moved,
            };
        }
        self.env.reached(Mark::ReadOfWhatWentAway);
        Missed::Failed(ReadError::Missing { group, index })
    }

    /// For a read that gave nothing: whether it is to be begun anew, and if not, why it failed.
    fn begin_anew(&self, missed: Missed, passed: &mut u32) -> Result<(), ReadError> {
        match missed {
            Missed::Moved => self.env.reached(Mark::ReadOfARewrittenVolume),
            Missed::Passed(_) if *passed < PASSED_MAX => *passed += 1,
            Missed::Passed(error) | Missed::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Finds out which entries of a piece cannot be read, and notes them; tells whether all can. Blocks.
    fn examine(&self, group: GroupId, piece: &Piece) -> bool {
        let (mut news, mut first, mut whole) = (0_u64, None, true);
        for (index, part, error) in self.unreadable(group, piece) {
            whole = false;
            if !error.is_damage() || !self.state().note_damage(group, index, part, piece.volume.number) {
                continue;
            }
            self.env.reached(match part {
                Part::Head => Mark::HeadFoundDamaged,
                Part::Body => Mark::BodyFoundDamaged,
            });
            news += 1;
            first.get_or_insert((index, error));
        }
        if let Some((index, error)) = first {
            tracing::error!(
                %group,
                %index,
                entries = news,
                error = &error as &dyn std::error::Error,
                "damaged entries were found"
            );
            self.metrics.damaged_entries.add(news);
            self.damaged.send_modify(|version| *version += 1);
        }
        piece.volume.forget_pages();
        whole
    }

    /// The entries of a piece that cannot be read, and why: each is looked at alone, as one that makes redb panic says
    /// nothing of the others. None if the store has failed. Blocks.
    fn unreadable(&self, group: GroupId, piece: &Piece) -> Vec<(LogIndex, Part, ReadError)> {
        let mut found = Vec::new();
        for one in piece.each() {
            let read =
                |bodies| self.use_volume(group, &one.volume, |read| read_one(read, group, &one, bodies));
            if let Err(error) = read(true) {
                let is_out_of_files = error.is_out_of_files();
                let part = if !is_out_of_files && read(false).is_ok() { Part::Body } else { Part::Head };
                found.push((one.range.start, part, error));
                if is_out_of_files {
                    // The others would say the same.
                    break;
                }
            }
            if self.failure.refusal().is_some() {
                return Vec::new();
            }
        }
        found
    }

    /// Notes whatever cannot be read among the next entries of a group from `from` on, at most so many bytes of bodies
    /// and [`SCRUB_PLACES`] entries; tells where it stopped, which is at `from` if no file could be opened, and how many
    /// bytes it read. For the scrubber. Blocks.
    pub(super) fn scrub_some(
        &self,
        group: GroupId,
        from: LogIndex,
        bytes_max: u64,
    ) -> Option<(LogIndex, u64)> {
        let piece = {
            let state = self.state();
            let durable = state.durable.get(&group)?;
            let visible = state.visible.get(&group)?;
            // What is in memory comes from the disk later, and is read then.
            let synced = clip(&durable.hard.range(), &(from..visible.memory_start()));
            let range = clip(&visible.hard.range(), &synced);
            if range.start >= range.end {
                return None;
            }
            state.pieces(group, range, SCRUB_PLACES).0.into_iter().next()?
        };
        let wanted = Wanted { bodies: true, count_max: usize::MAX, bytes_max };
        let (mut bytes, mut found) = (0, Vec::new());
        let read = self.use_volume(group, &piece.volume, |read| {
            read_piece(read, group, &piece, wanted, &mut bytes, &mut found)
        });
        let bytes = found.iter().map(|entry| bytes_of(&entry.head)).sum::<u64>();
        if read.is_ok() {
            let last = found.last().map_or(piece.range.end, |entry| entry.head.index.next());
            return Some((last, bytes));
        }
        if read.is_err_and(|error| error.is_out_of_files()) {
            return Some((from, 0));
        }
        self.examine(group, &piece);
        Some((piece.range.end, bytes))
    }

    /// Reads in a volume, and keeps the number of open ones within its bound.
    fn use_volume<T>(
        &self,
        group: GroupId,
        volume: &Volume,
        work: impl FnOnce(&redb::ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, ReadError> {
        let result = volume.read(work);
        let mut close = Vec::new();
        {
            let mut state = self.state();
            if state.sealed.contains_key(&volume.number) {
                self.env.reached(Mark::SealedVolumeRead);
                state.open.retain(|number| *number != volume.number);
                state.open.push_back(volume.number);
                let max = if self.env.perturb(Point::SealedVolumesClosed) {
                    0
                } else {
                    self.config.volumes_open_max
                };
                let max = usize::try_from(max).expect("this program runs on 64 bits");
                while state.open.len() > max {
                    let number = state.open.pop_front();
                    close.extend(number.and_then(|number| state.sealed.get(&number).cloned()));
                }
                if matches!(result, Err(ReadError::Disk(_))) {
                    // redb refuses all reads after one has failed: the next one opens the file anew.
                    close.extend(state.sealed.get(&volume.number).cloned());
                }
            }
        }
        for volume in close {
            if let Err(error) = volume.close() {
                tracing::warn!(%group, volume = %volume.number, error = &error as &dyn std::error::Error,
                    "a sealed volume was not closed cleanly");
            }
        }
        result
    }
}

impl State {
    /// The entries of a group as the disk holds them, from `from` on, at most `count_max`: each whole, or what of it
    /// cannot be read. Empty behind the last one. Blocks.
    pub(super) fn look(&self, group: GroupId, from: LogIndex, count_max: usize) -> Vec<Looked> {
        let Some(durable) = self.durable.get(&group) else { return Vec::new() };
        let range = clip(&durable.hard.range(), &(from..LogIndex(u64::MAX)));
        let mut looked = Vec::new();
        for piece in self.pieces(group, range, count_max).0 {
            for one in piece.each() {
                let read = |bodies| one.volume.read(|read| read_one(read, group, &one, bodies));
                looked.push(match read(true) {
                    Ok(entry) => Looked::Whole(entry),
                    Err(error) => {
                        // redb refuses all reads after one has failed: the next one opens the file anew.
                        drop(one.volume.close());
                        let part = if read(false).is_ok() { Part::Body } else { Part::Head };
                        Looked::Damaged { index: one.range.start, part, error }
                    }
                });
            }
        }
        looked
    }

    /// Where a range lies on the disk, and whether that is all of it: at most `count_max` entries are.
    fn pieces(&self, group: GroupId, range: Range<LogIndex>, count_max: usize) -> (Vec<Piece>, bool) {
        let count_max = u64::try_from(count_max).unwrap_or(u64::MAX).min(PLACES_MAX);
        let end = range.end.min(LogIndex(range.start.0.saturating_add(count_max)));
        let whole = end == range.end;
        let range = range.start..end;
        if range.start >= range.end {
            return (Vec::new(), whole);
        }
        let durable = self.durable.get(&group).expect("what is not in memory is durable");
        let first = durable.spans.partition_point(|span| span.range.end <= range.start);
        let spans = durable.spans[first..].iter().take_while(|span| span.range.start < range.end);
        let pieces = spans
            .map(|span| {
                let range = clip(&span.range, &range);
                let (volume, places) = if span.volume == self.active.volume.number {
                    (&self.active.volume, Some(self.active.index.places(group, range.clone())))
                } else if let Some(sealing) = self.sealing.as_ref().filter(|s| s.volume.number == span.volume)
                {
                    (&sealing.volume, Some(sealing.index.places(group, range.clone())))
                } else {
                    (self.sealed.get(&span.volume).expect("a volume with a live span is kept"), None)
                };
                Piece { volume: volume.clone(), range, places }
            })
            .collect();
        (pieces, whole)
    }
}

/// An entry on the disk.
pub(super) enum Looked {
    Whole(Entry),
    Damaged { index: LogIndex, part: Part, error: ReadError },
}

/// Reads the one entry of a piece.
fn read_one(read: &redb::ReadTransaction, group: GroupId, one: &Piece, bodies: bool) -> Result<Entry, Fault> {
    let wanted = Wanted { bodies, count_max: 1, bytes_max: u64::MAX };
    let (mut bytes, mut found) = (0, Vec::new());
    read_piece(read, group, one, wanted, &mut bytes, &mut found)?;
    found.pop().ok_or_else(|| {
        Fault::corrupt("index", format!("group {group}, index {}", one.range.start), Corrupt::Short)
    })
}

/// The part of a range that lies within another one; empty at its start or end if none does.
fn clip(within: &Range<LogIndex>, range: &Range<LogIndex>) -> Range<LogIndex> {
    let start = range.start.clamp(within.start, within.end);
    start..range.end.clamp(start, within.end)
}

/// Reads one piece; tells whether all of it was.
fn read_piece(
    read: &redb::ReadTransaction,
    group: GroupId,
    piece: &Piece,
    wanted: Wanted,
    bytes: &mut u64,
    found: &mut Vec<Entry>,
) -> Result<bool, Fault> {
    let mut reader = Reader::new(read)?;
    let mut next = piece.range.start;
    while next < piece.range.end {
        let looked_up;
        let places = match &piece.places {
            Some(places) => places,
            None => {
                looked_up = index::find(read, group, next..piece.range.end)?;
                &looked_up
            }
        };
        for place in places {
            if found.len() >= wanted.count_max {
                return Ok(false);
            }
            let (head, body) = reader.head(*place)?;
            if head.group != group || head.index != next {
                let place = format!("group {group}, index {next}");
                return Err(Fault::corrupt("head", place, Corrupt::Misplaced));
            }
            *bytes = bytes.saturating_add(bytes_of(&head));
            if *bytes > wanted.bytes_max && !found.is_empty() {
                return Ok(false);
            }
            let body = if wanted.bodies { Body::Here(reader.body(&head, body)?) } else { Body::Absent };
            found.push(Entry { head, body });
            next = next.next();
        }
    }
    Ok(true)
}
