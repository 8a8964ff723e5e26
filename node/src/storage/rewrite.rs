//! After a failed write or sync: what the page cache shows of the files that were open then may not lie on the disk,
//! and a later sync would not tell. So each is copied as it looks, byte by byte, before redb opens it: opening mends
//! a file in place, and would put a synced head upon pages that are not there. Then the volumes' live content goes
//! into a new, synced one before anything counts. The same is done with an active volume that is found damaged, as far
//! as it can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_proto::ids::{GroupId, LogIndex};
use redb::{StorageBackend, WriteTransaction};
use tracing::info;

use super::config::StoreConfig;
use super::damage::Lost;
use super::entry::{Body, Corrupt, Entry};
use super::error::{DiskError, Fault, ReadError, is_medium};
use super::facts::{Change, Meta, MetaContent};
use super::hard::{Durable, Span};
use super::index::MemoryIndex;
use super::state::{Active, bytes_of};
use super::stream::Item;
use super::transcript::{Line, Reader, Tail, put};
use super::unread::Unread;
use super::volume::{Owner, Volume, VolumeNumber, guarded_disk};
use crate::env::{Disk, FileName};

/// Entries copied at a time.
const COPY_BYTES: u64 = 4 << 20;

/// Of a file copied as it looks, so much at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// Of a chunk that cannot be read as a whole, so much at a time.
const PAGE_BYTES: usize = 4_096;

/// What there is.
pub(super) struct In<'a> {
    /// The volumes that were open, and where their entries lie; the active one last.
    pub(super) doubtful: Vec<(Arc<Volume>, MemoryIndex)>,
    /// Volumes made ahead, the next one or what an earlier try left: without content, and given up.
    pub(super) spares: Vec<Arc<Volume>>,
    pub(super) durable: &'a mut BTreeMap<GroupId, Durable>,
    /// The last commit of the active volume.
    pub(super) commit: u64,
    /// The newest volume that was found lost, which may not be listed.
    pub(super) newest_lost: Option<VolumeNumber>,
}

/// Puts a synced copy of a volume, as it looks, in its place. The file itself is read only. What the medium does not
/// give back is zero in the copy, which nothing tells from what redb may take for torn: so it is noted in `unread`, and
/// durable there before the copy is in its place. Blocks.
///
/// # Errors
/// Whatever else the disk says; the file is still there then.
pub(super) fn copy_anew(
    disk: &Arc<dyn Disk>,
    number: VolumeNumber,
    unread: &mut Unread,
) -> Result<(), DiskError> {
    let file = number.file();
    guarded_disk("copy", &file, || {
        let temporary = FileName::new(format!("{file}.tmp"));
        let unreadable = copy_to(disk, &file, &temporary)?;
        if unreadable > 0 {
            unread.note(disk, number, unreadable)?;
        }
        Ok(disk.publish(&temporary, &file)?)
    })
}

/// Puts a synced copy of a file in its place if the medium gives back all of it. Any other stays, and is to be made
/// anew of something else: redb would take a copy with zeroes in its newest commit for the commit before, and say nothing.
/// How many bytes could not be read. Blocks.
///
/// # Errors
/// Whatever else the disk says; the file is still there then.
pub(super) fn copy_if_whole(disk: &Arc<dyn Disk>, file: &FileName) -> Result<u64, DiskError> {
    guarded_disk("copy", file, || {
        let temporary = FileName::new(format!("{file}.tmp"));
        let unreadable = copy_to(disk, file, &temporary)?;
        if unreadable > 0 {
            disk.remove(&temporary)?;
        } else {
            disk.publish(&temporary, file)?;
        }
        Ok(unreadable)
    })
}

/// Copies a file into a new one, and syncs that: how many bytes could not be read.
fn copy_to(disk: &Arc<dyn Disk>, file: &FileName, copy: &FileName) -> Result<u64, Fault> {
    let (old, new) = (disk.open(file, false)?, disk.open(copy, true)?);
    let length = old.len()?;
    new.set_len(length)?;
    let mut chunk = Vec::new();
    let (mut offset, mut unreadable) = (0, 0);
    while offset < length {
        let bytes = (length - offset).min(CHUNK_BYTES);
        chunk.resize(usize::try_from(bytes).expect("a chunk fits"), 0);
        match old.read(offset, &mut chunk) {
            Ok(()) => {}
            Err(error) if is_medium(&error) => unreadable += read_around(&*old, offset, &mut chunk)?,
            Err(error) => return Err(error.into()),
        }
        // What redb has made longer ahead of its writing takes no space in the copy either: the disk may be full.
        if chunk.iter().any(|byte| *byte != 0) {
            new.write(offset, &chunk)?;
        }
        offset += bytes;
    }
    new.sync_data()?;
    new.close()?;
    old.close()?;
    Ok(unreadable)
}

/// Reads a chunk page by page, with zeroes for those that cannot be read: how many bytes that is.
fn read_around(file: &dyn StorageBackend, offset: u64, chunk: &mut [u8]) -> Result<u64, Fault> {
    let mut unreadable = 0;
    for (at, page) in (0_u64..).zip(chunk.chunks_mut(PAGE_BYTES)) {
        let page_bytes = u64::try_from(PAGE_BYTES).expect("small");
        match file.read(offset + at * page_bytes, page) {
            Ok(()) => {}
            Err(error) if is_medium(&error) => {
                page.fill(0);
                unreadable += u64::try_from(page.len()).expect("small");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(unreadable)
}

/// What of a group's log lies in doubtful volumes.
struct Moved {
    group: GroupId,
    /// Amid it: entries that were written once more. They keep their place in the log.
    inner: Vec<Span>,
    /// Its end, which is written as it was at first.
    tail: Vec<Span>,
}

/// Writes the live content of the doubtful volumes into a new one, which is the active one from then on, and gives
/// the old ones up. A log ends before the first entry of its end that cannot be read: which ones do. That is noted
/// before the old volumes go. Blocks.
pub(super) fn rewrite(
    disk: &Arc<dyn Disk>,
    config: &StoreConfig,
    owner: Owner,
    meta: &Meta,
    content: &mut MetaContent,
    old: In<'_>,
) -> Result<(Active, BTreeSet<GroupId>), ReadError> {
    let newest = content.volumes.keys().next_back().copied().max(old.newest_lost);
    let number = newest.unwrap_or(VolumeNumber(0)).next();
    // Before anything else: left in front of a volume that has begun, one without content is taken for an older copy.
    for volume in &old.spares {
        give_up(disk, meta, content, volume)?;
    }
    let new = Volume::create(disk, owner, number, config.active_cache())?;
    meta.write(&[Change::Volume(number, None)])?;
    content.volumes.insert(number, None);
    let numbers = old.doubtful.iter().map(|(volume, _)| volume.number).collect::<BTreeSet<_>>();
    let mut moved = Vec::new();
    for (group, durable) in old.durable.iter_mut() {
        let kept = durable.spans.iter().rposition(|span| !numbers.contains(&span.volume));
        let tail = durable.spans.split_off(kept.map_or(0, |last| last + 1));
        if let Some(first) = tail.first() {
            durable.truncate(first.range.start);
        }
        let mut inner = Vec::new();
        for span in durable.spans.iter_mut().filter(|span| numbers.contains(&span.volume)) {
            inner.push(span.clone());
            span.volume = number;
        }
        if !inner.is_empty() || !tail.is_empty() {
            moved.push(Moved { group: *group, inner, tail });
        }
    }
    let mut active =
        Active { volume: Arc::new(new), index: MemoryIndex::default(), tail: Tail::default(), begun: false };
    let mut cut = BTreeSet::new();
    if old.commit > 0 {
        let volume = active.volume.clone();
        let mut trouble = None;
        let written = volume.write(|write| {
            let copied = copy(write, &mut active, old.durable, &old.doubtful, &moved, old.commit + 1);
            let noted = copied.and_then(|cut| {
                let changes = lose(content, &cut);
                if !changes.is_empty() {
                    meta.write(&changes)?;
                }
                Ok(cut)
            });
            noted.map_err(|error| {
                trouble = Some(error);
                Fault::Other("the old volume could not be read".to_owned())
            })
        });
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        cut = written?;
        active.begun = true;
    }
    for (volume, _) in &old.doubtful {
        give_up(disk, meta, content, volume)?;
    }
    info!(
        volume = %number,
        entries = active.index.entries(),
        groups_cut = cut.len(),
        "what was in doubt was written anew"
    );
    Ok((active, cut))
}

/// Notes that these groups' logs may have gone on; what is to be written for it.
fn lose(content: &mut MetaContent, groups: &BTreeSet<GroupId>) -> Vec<Change> {
    let mut changes = Vec::new();
    for group in groups {
        let lost = content.lost.entry(*group).or_default();
        *lost = lost.and(Lost { tail: true, vote: false });
        changes.push(Change::Lost(*group, *lost));
    }
    changes
}

/// Takes a volume off the list, and then its file away.
fn give_up(
    disk: &Arc<dyn Disk>,
    meta: &Meta,
    content: &mut MetaContent,
    volume: &Volume,
) -> Result<(), DiskError> {
    meta.write(&[Change::VolumeGone(volume.number)])?;
    content.volumes.remove(&volume.number);
    // What this says does not matter any more.
    drop(volume.close());
    guarded_disk("remove", volume.file(), || Ok(disk.remove(volume.file())?))
}

/// Copies what was moved; gives the groups whose end could not be read.
fn copy(
    write: &WriteTransaction,
    active: &mut Active,
    durable: &mut BTreeMap<GroupId, Durable>,
    doubtful: &[(Arc<Volume>, MemoryIndex)],
    moved: &[Moved],
    commit: u64,
) -> Result<BTreeSet<GroupId>, ReadError> {
    let file = active.volume.file().clone();
    let into_error = |fault: Fault| fault.into_read_error("write", &file);
    let base = durable
        .iter()
        .map(|(group, state)| Line::Fact(Item::State { group: *group, state: state.clone() }))
        .collect::<Vec<_>>();
    put(write, &mut active.tail, commit, &base).map_err(into_error)?;
    let mut cut = BTreeSet::new();
    for Moved { group, inner, tail } in moved {
        for span in inner {
            let mut next = span.range.start;
            while next < span.range.end {
                let Some(entries) = read(doubtful, *group, span, next)? else {
                    // It stays a hole.
                    next = next.next();
                    continue;
                };
                let lines = entries.iter().map(Line::Again).collect::<Vec<_>>();
                let places = put(write, &mut active.tail, commit, &lines).map_err(into_error)?;
                for (entry, place) in entries.iter().zip(places) {
                    active.index.insert_again(*group, entry.head.index, place);
                    next = entry.head.index.next();
                }
            }
        }
        'end: for span in tail {
            let mut next = span.range.start;
            while next < span.range.end {
                let Some(entries) = read(doubtful, *group, span, next)? else {
                    cut.insert(*group);
                    break 'end;
                };
                let lines = entries.iter().map(Line::Entry).collect::<Vec<_>>();
                let places = put(write, &mut active.tail, commit, &lines).map_err(into_error)?;
                for (entry, place) in entries.iter().zip(places) {
                    let durable = durable.get_mut(group).expect("a group with spans is known");
                    let follows = durable.append(*group, entry.head.log_id(), active.volume.number);
                    follows.expect("the spans of a group follow each other");
                    active.index.insert(*group, entry.head.index, place);
                    next = next.next();
                }
            }
        }
    }
    Ok(cut)
}

/// Reads some entries of a span from `from` on, at least one; `None` if that one is damaged.
fn read(
    doubtful: &[(Arc<Volume>, MemoryIndex)],
    group: GroupId,
    span: &Span,
    from: LogIndex,
) -> Result<Option<Vec<Entry>>, ReadError> {
    let (volume, index) = doubtful
        .iter()
        .find(|(volume, _)| volume.number == span.volume)
        .expect("a doubtful span lies in a doubtful volume");
    let mut entries = Vec::new();
    let read = volume.read(|read| {
        let mut reader = Reader::new(read)?;
        let mut bytes = 0;
        for (at, place) in (from.0..).zip(index.places(group, from..span.range.end)) {
            let (head, body) = reader.head(place)?;
            if head.group != group || head.index.0 != at {
                let place = format!("group {group}, index {at}");
                return Err(Fault::corrupt("head", place, Corrupt::Misplaced));
            }
            bytes += bytes_of(&head);
            if bytes > COPY_BYTES && !entries.is_empty() {
                break;
            }
            entries.push(Entry { head, body: Body::Here(reader.body(&head, body)?) });
        }
        Ok(())
    });
    match read {
        Err(error) if !error.is_damage() => Err(error),
        Ok(()) | Err(_) if !entries.is_empty() => Ok(Some(entries)),
        Ok(()) => unreachable!("a span is not empty"),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::env::os::OsDisk;

    /// A file whose second page cannot be read.
    #[derive(Debug)]
    struct Rotten;

    impl StorageBackend for Rotten {
        fn len(&self) -> io::Result<u64> {
            unreachable!("not asked")
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            if offset == 4_096 {
                return Err(io::Error::from_raw_os_error(5));
            }
            out.fill(7);
            Ok(())
        }

        fn set_len(&self, _: u64) -> io::Result<()> {
            unreachable!("nothing is written")
        }

        fn sync_data(&self) -> io::Result<()> {
            unreachable!("nothing is written")
        }

        fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
            unreachable!("nothing is written")
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a file is made and looked at from outside")]
    fn a_copy_is_what_can_be_read() {
        let mut pages = vec![1; 3 * PAGE_BYTES];
        assert_eq!(read_around(&Rotten, 0, &mut pages).unwrap(), 4_096);
        let expected = [[7_u8; PAGE_BYTES], [0; PAGE_BYTES], [7; PAGE_BYTES]].concat();
        assert!(pages == expected, "zeroes for what cannot");
        let (folder, number) = (tempfile::tempdir().unwrap(), VolumeNumber(1));
        let path = folder.path().join(number.file().as_str());
        std::fs::write(&path, &pages).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::open(folder.path()).unwrap());
        let mut unread = Unread::default();
        copy_anew(&disk, number, &mut unread).unwrap();
        assert!(unread.is_empty(), "zeroes are what nobody has written to");
        assert_eq!(copy_if_whole(&disk, &number.file()).unwrap(), 0);
        assert_eq!(disk.list().unwrap(), [number.file()]);
        assert!(std::fs::read(&path).unwrap() == expected, "byte by byte");
    }
}
