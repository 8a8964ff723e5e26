//! What is done to the disk of a node, and when it is whole again.
//!
//! The atlas of what may be damaged is small: one node at a time, until all of it has been mended. So of everything
//! that was acknowledged a majority of disks less one holds a good copy, and what is damaged must come back from there
//! without anybody's help. Damage that nothing on the disk can show is not done: redb takes a spoilt newest root for a
//! commit that was torn, and goes back to the one before.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use quorate_node::env::{Disk, FileName};
use quorate_node::storage::{Body, DamageCounts, Kind};
use quorate_node::wiring::Node;
use quorate_proto::ids::{LogIndex, NodeId};
use redb::{Builder, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition};

use super::Cluster;
use crate::dice::Dice;
use crate::env::clock;
use crate::env::disk::{FileImage, SectorHarm, SimDisk};
use crate::observe::Aside;
use crate::trace::Event;

/// What is done to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Sectors of a sealed volume rot. A node may run meanwhile.
    Rot,
    /// A sealed volume is gone, cut, or another one's.
    Volume,
    /// `meta.redb` is gone, cut, or rots.
    Meta,
    /// The volume that was written last is gone, cut, rots, or is an older copy.
    Tail,
}

/// As disks count them.
const SECTOR_BYTES: usize = 512;

/// What came of harm to one sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Struck {
    /// There is no such sector, or it holds what it held.
    Nothing,
    /// Nothing on the disk can show it, and so it was not done.
    Hidden,
    /// It was done.
    Harmed,
}

/// What damage comes to for a process that opens the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The newest of each group is there.
    Kept,
    /// The newest of a group is lost, and the disk shows it.
    Lost,
    /// It does not start.
    Refused,
    /// Something is lost, and nothing on the disk can show it.
    Hidden,
}

impl Cluster {
    /// The node whose disk was damaged and that is not whole again, if there is one.
    pub fn damaged(&mut self) -> Option<NodeId> {
        if let Some(node) = self.damaged
            && self.is_whole(node)
        {
            self.note(Event::Fault(format!("the disk of node{node} is whole again")));
            self.observer.disk_whole(node);
            self.machine(node).newest_harmed.store(false, Ordering::Relaxed);
            self.damaged = None;
        }
        self.damaged
    }

    /// Whether a node runs and misses nothing.
    fn is_whole(&self, node: NodeId) -> bool {
        let Some(running) = self.running(node) else { return false };
        let (counts, store) = (running.store().damage_counts(), running.store());
        let mended = counts.damaged_entries == 0 && counts.groups_behind == 0 && !store.forgot_any();
        let harmless = !self.is_stranger(node) && self.machine(node).disk.harmed() == 0;
        mended && harmless && knows_its_groups(&running, node)
    }

    /// The files of a node's disk as they are now: to come back with later, in place of newer ones.
    pub fn images(&self, node: NodeId) -> Vec<(FileName, FileImage)> {
        let disk = &self.machine(node).disk;
        let names = disk.volumes();
        names.into_iter().filter_map(|name| Some((name.clone(), disk.image(&name)?))).collect()
    }

    /// Whether a node's own disk is in its place, and holds volumes to which nothing is written any more.
    pub fn has_sealed(&self, node: NodeId) -> bool {
        !self.is_stranger(node) && !sealed(&self.machine(node).disk).is_empty()
    }

    /// Damages the disk of a node, which must be down unless it is [`Harm::Rot`]. `older` is what may come back. `false`
    /// if nothing was done: there is nothing to damage, another node's disk is not whole, or nobody could tell.
    pub fn damage(
        &mut self,
        node: NodeId,
        harm: Harm,
        older: &[(FileName, FileImage)],
        dice: &mut Dice,
    ) -> bool {
        if self.damaged().is_some_and(|damaged| damaged != node) || self.is_stranger(node) {
            return false;
        }
        if harm != Harm::Rot && self.is_up(node) {
            return false;
        }
        let draw = dice.bits();
        let disk = self.machine(node).disk.clone();
        let sealed = sealed(&disk);
        // First on a copy: what it comes to decides what is promised of this node from now on.
        let (before, trial) = (disk.copy_as_seen(), disk.copy_as_seen());
        let Some(said) = strike(&trial, harm, &sealed, older, &mut Dice::new(draw)) else { return false };
        let lost = match (harm, self.comes_to(node, &before, &trial)) {
            // A disk that has lost what it wrote last may go by a sealed volume: that is not taken from it too.
            (_, Outcome::Hidden) | (Harm::Rot, Outcome::Lost) => return false,
            // A process may run meanwhile, and knows its newest.
            (_, Outcome::Kept) | (Harm::Rot, _) => false,
            (_, Outcome::Lost | Outcome::Refused) => true,
        };
        self.struck(node, harm, &disk, &sealed, older, draw, &said, lost)
    }

    /// Harms one sector of a file on the disk of a node that is down and whole.
    pub fn harm_sector(&mut self, node: NodeId, name: &FileName, number: usize, harm: SectorHarm) -> Struck {
        let disk = self.machine(node).disk.clone();
        let (before, trial) = (disk.copy_as_seen(), disk.copy_as_seen());
        if !trial.harm_sector(name, number, harm) {
            return Struck::Nothing;
        }
        let lost = match self.comes_to(node, &before, &trial) {
            Outcome::Hidden => return Struck::Hidden,
            Outcome::Kept => false,
            Outcome::Lost | Outcome::Refused => true,
        };
        let held = disk.copy_as_seen();
        if !disk.harm_sector(name, number, harm) {
            return Struck::Nothing;
        }
        self.note(Event::Fault(format!("sector {number} of {name} on the disk of node{node} is harmed")));
        self.tally.count("rotten sectors");
        self.damaged = Some(node);
        self.machine(node).newest_harmed.store(true, Ordering::Relaxed);
        self.observer.newest_harmed(node);
        if lost {
            self.observer.disk_damaged(node, held);
        }
        Struck::Harmed
    }

    /// What a node that runs knows to be damaged, and whether it may have forgotten groups.
    pub fn damage_known(&self, node: NodeId) -> Option<(DamageCounts, bool)> {
        let running = self.running(node)?;
        Some((running.store().damage_counts(), running.store().forgot_any()))
    }

    /// What becomes of the newest that a node's disk held with that damage.
    fn comes_to(&self, node: NodeId, before: &SimDisk, after: &SimDisk) -> Outcome {
        let storage = self.config(node, None).storage;
        let (newest, found) = (rows(before), rows(after));
        let went_back = found.iter().any(|(name, rows)| newest.get(name).is_some_and(|newest| newest > rows));
        let Ok(was) = Aside::recover(before, &storage, node) else { return Outcome::Kept };
        // Whoever starts it sees that it does not start.
        let Ok(is) = Aside::recover(after, &storage, node) else { return Outcome::Refused };
        let mut lost = false;
        for (group, held) in was.groups() {
            let now = is.groups().get(&group).cloned().unwrap_or_default();
            let shorter = now.last < held.last || now.vote != held.vote;
            let baseless = is.has_lost_base(group);
            if baseless && !was.groups().keys().all(|group| is.has_lost(*group)) {
                // meta.redb went back by itself: the others of this node go on voting, which the checks do not know.
                return Outcome::Hidden;
            }
            let other = shorter || now.starts != held.starts;
            lost |= other || baseless;
            // A trimming or truncation that came undone as well: the log is longer then, and no replica knows of it.
            if other && !is.has_lost(group) && went_back {
                return Outcome::Hidden;
            }
        }
        if lost { Outcome::Lost } else { Outcome::Kept }
    }

    #[expect(clippy::too_many_arguments, reason = "what was tried on a copy is done again")]
    fn struck(
        &mut self,
        node: NodeId,
        harm: Harm,
        disk: &SimDisk,
        sealed: &[FileName],
        older: &[(FileName, FileImage)],
        draw: u64,
        said: &str,
        lost: bool,
    ) -> bool {
        let held = disk.copy_as_seen();
        if strike(disk, harm, sealed, older, &mut Dice::new(draw)).is_none() {
            return false;
        }
        self.note(Event::Fault(format!("the disk of node{node}: {said}")));
        self.tally.count(match harm {
            Harm::Rot => "rotten sectors",
            Harm::Volume => "volume lost",
            Harm::Meta => "meta.redb lost",
            Harm::Tail => "newest volume lost",
        });
        self.damaged = Some(node);
        if matches!(harm, Harm::Tail | Harm::Meta) {
            self.machine(node).newest_harmed.store(true, Ordering::Relaxed);
            self.observer.newest_harmed(node);
        }
        if lost {
            self.observer.disk_damaged(node, held);
        }
        true
    }

    /// The first batches of a topic's first partition as a node's log has them: by these bytes they can be found on a disk.
    pub async fn bodies(&self, node: NodeId, topic: &str) -> Vec<Bytes> {
        let Some(running) = self.running(node) else { return Vec::new() };
        let group = {
            let stage = running.stage();
            let Ok(parts) = stage.borrow().clone() else { return Vec::new() };
            let metadata = parts.controller.current();
            let named = metadata.topics.values().find(|known| known.name.as_str() == topic);
            named.and_then(|named| named.partitions.first().map(|first| first.group))
        };
        let Some(group) = group else { return Vec::new() };
        let all = LogIndex(0)..LogIndex(u64::MAX);
        let entries = running.store().log(group).entries(all, 1 << 20).await.unwrap_or_default();
        let batches = entries.into_iter().filter(|entry| entry.head.kind == Kind::Batch);
        batches
            .filter_map(|entry| match entry.body {
                Body::Here(body) => Some(body),
                Body::Absent => None,
            })
            .collect()
    }

    /// Flips a bit of these bytes wherever they lie on a node's platters; how many times. Beyond what the atlas allows:
    /// for those who want to see what comes of it.
    pub fn flip_wherever(&self, node: NodeId, bytes: &[u8]) -> u64 {
        let disk = &self.machine(node).disk;
        let mut flipped = 0;
        for (name, at) in disk.find(bytes) {
            let harm = SectorHarm::Flip { bit: at % SECTOR_BYTES * 8 };
            flipped += u64::from(disk.harm_sector(&name, at / SECTOR_BYTES, harm));
        }
        self.note(Event::Fault(format!("a body on the disk of node{node} is damaged {flipped} times")));
        if flipped > 0 {
            self.observer.disk_spoilt(node);
        }
        flipped
    }

    /// Gives back what rotten sectors held, as a medium does at times: what was found meanwhile is mended by others.
    pub fn heal_disk(&self, node: NodeId) {
        if self.machine(node).disk.heal() > 0 {
            self.note(Event::Fault(format!("rotten sectors of node{node} can be read again")));
            self.observer.disk_healed(node, self.is_up(node));
        }
    }

    /// Waits until nothing is damaged any more, which nobody helps with.
    pub async fn until_whole(&mut self, patience: Duration) {
        let deadline = clock::now() + patience;
        for node in self.nodes() {
            self.heal_disk(node);
        }
        while let Some(node) = self.damaged() {
            if clock::now() > deadline {
                let running = self.running(node);
                let counts = running.as_ref().map(|running| running.store().damage_counts());
                let knows = running.is_some_and(|running| knows_its_groups(&running, node));
                let what = format!(
                    "what a disk has damaged comes back from the others: that of node {node} is not whole {patience:?} \
                     after everything else was mended: {counts:?}, and it {} what it had",
                    if knows { "knows" } else { "does not know" }
                );
                self.history.complain("O-21", what);
                self.damaged = None;
                return;
            }
            clock::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Whether a node that forgot groups has begun to ask the others about each of those that it is to hold. Until then its
/// disk does not note them as lost, and it takes no part in them.
fn knows_its_groups(running: &Node, node: NodeId) -> bool {
    let stage = running.stage();
    let Ok(parts) = stage.borrow().clone() else { return false };
    let metadata = parts.controller.current();
    let partitions = metadata.topics.values().flat_map(|topic| &topic.partitions);
    let mut held = partitions.filter(|it| it.replicas.contains(&node) || it.disks.contains_key(&node));
    parts.controller.is_up_to_date() && held.all(|it| !running.store().may_have_forgotten(it.group))
}

/// Does it; says what was done. The same dice do the same to the same disk.
fn strike(
    disk: &SimDisk,
    harm: Harm,
    sealed: &[FileName],
    older: &[(FileName, FileImage)],
    dice: &mut Dice,
) -> Option<String> {
    let volumes = disk.volumes();
    match harm {
        Harm::Rot => {
            let name = sealed.get(dice.place(sealed.len().max(1)))?;
            let count = 1 << dice.below(5);
            rot(disk, name, count, dice)
        }
        Harm::Volume => {
            let name = sealed.get(dice.place(sealed.len().max(1)))?;
            let other = &volumes[dice.place(volumes.len())];
            lose(disk, name, Some(other), dice)
        }
        Harm::Meta => {
            let name = FileName::new("meta.redb");
            if dice.chance(500) { rot(disk, &name, 8, dice) } else { lose(disk, &name, None, dice) }
        }
        Harm::Tail => {
            // The last one may be the next one, which holds nothing yet.
            let newest = volumes.len().checked_sub(1 + dice.place(2))?;
            let name = volumes.get(newest)?;
            let before = older.iter().find(|(of, _)| of == name);
            match (dice.below(3), before) {
                (0, Some((_, image))) => {
                    disk.put_image(name, Some(image));
                    Some(format!("{name} is an older copy of itself"))
                }
                (1, _) => {
                    let count = 1 << dice.below(4);
                    rot(disk, name, count, dice)
                }
                _ => lose(disk, name, None, dice),
            }
        }
    }
}

/// Sectors of a file rot.
fn rot(disk: &SimDisk, name: &FileName, count: u64, dice: &mut Dice) -> Option<String> {
    let used = disk.sectors_in_use(name);
    let mut said = Vec::new();
    for _ in 0..count {
        let number = *used.get(dice.place(used.len().max(1)))?;
        let harm = match dice.below(4) {
            0 => SectorHarm::Flip { bit: dice.place(4_096) },
            1 => SectorHarm::Zero,
            2 => SectorHarm::Misplaced { from: used[dice.place(used.len())] },
            _ => SectorHarm::Unreadable,
        };
        if disk.harm_sector(name, number, harm) {
            said.push(format!("{number} ({harm:?})"));
        }
    }
    (!said.is_empty()).then(|| format!("sectors of {name} are damaged: {}", said.join(", ")))
}

/// A file is gone, cut, or has another one's content.
fn lose(disk: &SimDisk, name: &FileName, other: Option<&FileName>, dice: &mut Dice) -> Option<String> {
    let image = disk.image(name)?;
    match (dice.below(3), other.filter(|other| *other != name)) {
        (0, _) => {
            disk.put_image(name, None);
            Some(format!("{name} is gone"))
        }
        (1, Some(other)) => {
            disk.put_image(name, Some(&disk.image(other)?));
            Some(format!("{name} is a copy of {other}"))
        }
        _ => {
            let bytes = dice.place(image.bytes().max(1));
            disk.put_image(name, Some(&image.cut(bytes)));
            Some(format!("{name} is cut to {bytes} bytes"))
        }
    }
}

/// How much redb itself finds in each volume that it opens: less after damage means that it went back, or that the file
/// is an older one.
fn rows(disk: &SimDisk) -> BTreeMap<FileName, u64> {
    let copy = disk.copy_as_seen();
    let rows = |name: FileName| {
        let rows = look_into(&copy, &name, |read| {
            const STREAM: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("stream");
            let table = read.open_table(STREAM).ok()?;
            Some(table.last().ok()?.map_or(0, |(key, _)| u64::from(key.value()) + 1))
        });
        Some((name, rows?))
    };
    copy.volumes().into_iter().filter_map(rows).collect()
}

/// Reads in a file. One that was closed cleanly is opened for reading only: else redb writes when it closes it, and what
/// it does with damaged pages then may end the process. Of any other it has looked at all pages once it is open.
fn look_into<T>(
    disk: &SimDisk,
    name: &FileName,
    work: impl FnOnce(&ReadTransaction) -> Option<T>,
) -> Option<T> {
    let open = || Some(Boxed(disk.open(name, false).ok()?));
    let look = AssertUnwindSafe(|| match Builder::new().open_read_only_with_backend(open()?) {
        Ok(db) => work(&db.begin_read().ok()?),
        Err(DatabaseError::RepairAborted) => {
            let db = Builder::new().create_with_backend(open()?).ok()?;
            work(&db.begin_read().ok()?)
        }
        Err(_) => None,
    });
    catch_unwind(look).ok().flatten()
}

/// The volumes to which nothing is written any more. Neither their numbers nor what they say of themselves tell: others
/// are rewritten into later numbers than that of the one that is written to, and one that is just being sealed may be
/// taken for torn. So it goes by what `meta.redb` has noted once such a file was closed.
fn sealed(disk: &SimDisk) -> Vec<FileName> {
    const VOLUMES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("volumes");
    const SEALED: u8 = 1;
    // As a loss of power would leave it: what is noted there is not to come undone.
    let copy = disk.copy_of_platters();
    let lengths = look_into(&copy, &FileName::new("meta.redb"), |read| {
        let table = read.open_table(VOLUMES).ok()?;
        let mut lengths = BTreeMap::new();
        for row in table.iter().ok()? {
            let (number, state) = row.ok()?;
            if let Some((&SEALED, rest)) = state.value().split_first()
                && let Some(bytes) = rest.first_chunk()
            {
                let name = FileName::new(format!("volume-{:08}.redb", number.value()));
                lengths.insert(name, u64::from_le_bytes(*bytes));
            }
        }
        Some(lengths)
    });
    let lengths = lengths.unwrap_or_default();
    // One that was given up is listed with another length than it has.
    let is_as_noted = |name: &FileName| {
        let length = disk.image(name).and_then(|image| u64::try_from(image.bytes()).ok());
        length.is_some() && length.as_ref() == lengths.get(name)
    };
    disk.volumes().into_iter().filter(is_as_noted).collect()
}

/// redb takes no boxed backend.
#[derive(Debug)]
struct Boxed(Box<dyn redb::StorageBackend>);

impl redb::StorageBackend for Boxed {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }
}
