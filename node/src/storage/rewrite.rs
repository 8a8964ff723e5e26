//! After a failed write or sync: what the page cache shows of the files that were open then may not lie on the disk,
//! and a later sync would not tell. So each is copied as it looks, byte by byte, before redb opens it: opening mends
//! a file in place, and would put a synced head upon pages that are not there. Then the volumes' live content goes
//! into a new, synced one before anything counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_proto::ids::{GroupId, LogIndex};
use redb::WriteTransaction;
use tracing::info;

use super::config::StoreConfig;
use super::entry::{Body, Entry};
use super::error::{DiskError, Fault, ReadError};
use super::facts::{Change, Meta, MetaContent};
use super::hard::{Durable, Span};
use super::index::MemoryIndex;
use super::state::{Active, bytes_of};
use super::stream::Item;
use super::transcript::{Line, Reader, Tail, put};
use super::volume::{Owner, Volume, VolumeNumber, guarded_disk};
use crate::env::{Disk, FileName};

/// Entries copied at a time.
const COPY_BYTES: u64 = 4 << 20;

/// Of a file copied as it looks, so much at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// What there is.
pub(super) struct In<'a> {
    /// The volumes that were open, and where their entries lie; the active one last.
    pub(super) doubtful: Vec<(Arc<Volume>, MemoryIndex)>,
    /// Volumes made ahead, the next one or what an earlier try left: without content, and given up.
    pub(super) spares: Vec<Arc<Volume>>,
    pub(super) durable: &'a mut BTreeMap<GroupId, Durable>,
    /// The last commit of the active volume.
    pub(super) commit: u64,
}

/// Puts a synced copy of a file, as it looks, in its place. The file itself is read only. Blocks.
///
/// # Errors
/// Whatever the disk says; the file is still there then.
pub(super) fn copy_anew(disk: &Arc<dyn Disk>, file: &FileName) -> Result<(), DiskError> {
    guarded_disk("copy", file, || {
        let temporary = FileName::new(format!("{file}.tmp"));
        let (old, new) = (disk.open(file, false)?, disk.open(&temporary, true)?);
        let length = old.len()?;
        new.set_len(length)?;
        let mut chunk = Vec::new();
        let mut offset = 0;
        while offset < length {
            let bytes = (length - offset).min(CHUNK_BYTES);
            chunk.resize(usize::try_from(bytes).expect("a chunk fits"), 0);
            old.read(offset, &mut chunk)?;
            // What redb has made longer ahead of its writing takes no space in the copy either: the disk may be full.
            if chunk.iter().any(|byte| *byte != 0) {
                new.write(offset, &chunk)?;
            }
            offset += bytes;
        }
        new.sync_data()?;
        new.close()?;
        old.close()?;
        drop((old, new));
        Ok(disk.publish(&temporary, file)?)
    })
}

/// Writes the live content of the doubtful volumes into a new one, which is the active one from then on, and gives
/// the old ones up. Blocks.
pub(super) fn rewrite(
    disk: &Arc<dyn Disk>,
    config: &StoreConfig,
    owner: Owner,
    meta: &Meta,
    content: &mut MetaContent,
    old: In<'_>,
) -> Result<Active, ReadError> {
    let number = content.volumes.keys().next_back().copied().unwrap_or(VolumeNumber(0)).next();
    // Before anything else: left in front of a volume that has begun, one without content is taken for an older copy,
    // and the folder does not open any more.
    for volume in &old.spares {
        give_up(disk, meta, content, volume)?;
    }
    let new = Volume::create(disk, owner, number, config.active_cache())?;
    meta.write(&[Change::Volume(number, None)])?;
    content.volumes.insert(number, None);
    let numbers = old.doubtful.iter().map(|(volume, _)| volume.number).collect::<BTreeSet<_>>();
    let mut moved = Vec::new();
    for (group, durable) in old.durable.iter_mut() {
        let first = durable.spans.iter().position(|span| numbers.contains(&span.volume));
        if let Some(first) = first {
            let spans = durable.spans[first..].to_vec();
            durable.truncate(spans[0].range.start);
            moved.push((*group, spans));
        }
    }
    let mut active =
        Active { volume: Arc::new(new), index: MemoryIndex::default(), tail: Tail::default(), begun: false };
    if old.commit > 0 {
        let volume = active.volume.clone();
        let mut trouble = None;
        let written = volume.write(|write| {
            let copied = copy(write, &mut active, old.durable, &old.doubtful, &moved, old.commit + 1);
            copied.map_err(|error| {
                trouble = Some(error);
                Fault::Other("the old volume could not be read".to_owned())
            })
        });
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        written?;
        active.begun = true;
    }
    for (volume, _) in &old.doubtful {
        give_up(disk, meta, content, volume)?;
    }
    info!(volume = %number, entries = active.index.entries(), "what was in doubt was written anew");
    Ok(active)
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

fn copy(
    write: &WriteTransaction,
    active: &mut Active,
    durable: &mut BTreeMap<GroupId, Durable>,
    doubtful: &[(Arc<Volume>, MemoryIndex)],
    moved: &[(GroupId, Vec<Span>)],
    commit: u64,
) -> Result<(), ReadError> {
    let file = active.volume.file().clone();
    let into_error = |fault: Fault| fault.into_read_error("write", &file);
    let base = durable
        .iter()
        .map(|(group, state)| Line::Fact(Item::State { group: *group, state: state.clone() }))
        .collect::<Vec<_>>();
    put(write, &mut active.tail, commit, &base).map_err(into_error)?;
    for (group, spans) in moved {
        for span in spans {
            let mut next = span.range.start;
            while next < span.range.end {
                let entries = read(doubtful, *group, span, next)?;
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
    Ok(())
}

/// Reads some entries of a span from `from` on, at least one.
fn read(
    doubtful: &[(Arc<Volume>, MemoryIndex)],
    group: GroupId,
    span: &Span,
    from: LogIndex,
) -> Result<Vec<Entry>, ReadError> {
    let (volume, index) = doubtful
        .iter()
        .find(|(volume, _)| volume.number == span.volume)
        .expect("a doubtful span lies in a doubtful volume");
    volume.read(|read| {
        let mut reader = Reader::new(read)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for place in index.places(group, from..span.range.end) {
            let (head, body) = reader.head(*place)?;
            bytes += bytes_of(&head);
            if bytes > COPY_BYTES && !entries.is_empty() {
                break;
            }
            entries.push(Entry { head, body: Body::Here(reader.body(&head, body)?) });
        }
        Ok(entries)
    })
}
