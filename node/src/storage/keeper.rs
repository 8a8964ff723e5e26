//! What is done beside the commits, off their path: seals full volumes, makes the next one ahead of time, removes
//! those that hold nothing alive; when there is nothing else to do, those with little that is alive are rewritten.

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tracing::{info, warn};

use super::compact::{Compactor, Outcome};
use super::error::{DiskError, ReadError};
use super::facts::{Change, Seal, Witness};
use super::index::MemoryIndex;
use super::state::Shared;
use super::volume::{Owner, Volume, VolumeNumber, guarded_disk};
use crate::env::{Disk, FileName, Mark, Point, pool};

/// How long a step may be held back, where a [`Point`] does.
const LATE_MAX: Duration = Duration::from_millis(500);

/// Pause before a volume is made, or measured, again, where no file could be opened.
const TRY_AGAIN: Duration = Duration::from_millis(500);

enum Step {
    Seal(Arc<Volume>, Arc<MemoryIndex>),
    Prepare(VolumeNumber),
    Remove(Arc<Volume>),
}

/// What became of a step.
enum Taken {
    Did,
    /// Nothing, as no file could be opened.
    Later(DiskError),
    /// The store has failed.
    Failed,
}

/// Runs until the store is closed or has failed. A panic is a failure like the disk's, and then goes on.
pub(super) async fn run(shared: Arc<Shared>) {
    if let Err(panic) = AssertUnwindSafe(keep(&shared)).catch_unwind().await {
        shared.failure.raise(&DiskError::panicked("the keeper", &*panic));
        // The committer may wait for a volume, or for something to do: it answers what is queued.
        shared.kept.notify_one();
        shared.to_commit.notify_one();
        resume_unwind(panic);
    }
}

async fn keep(shared: &Arc<Shared>) {
    let mut compactor = Compactor::default();
    loop {
        let step = {
            let state = shared.state();
            if state.closing || state.failed {
                return;
            }
            drop(state);
            next(shared)
        };
        let Some(step) = step else {
            match compactor.step(shared).await {
                Outcome::Did => {}
                Outcome::NothingToDo => compactor.rest(shared).await,
                Outcome::Failed => {
                    shared.kept.notify_one();
                    shared.to_commit.notify_one();
                    return;
                }
            }
            continue;
        };
        let late = match &step {
            Step::Seal(..) => Point::SealLate,
            Step::Prepare(_) => Point::PrepareLate,
            Step::Remove(_) => Point::RemoveLate,
        };
        shared.env.dawdle(late, LATE_MAX).await;
        let worker = shared.clone();
        // The failure is raised where it happened: what is read or written after it must know of it.
        let taken = pool::run(&*shared.pool, move || {
            let taken = || match take(&worker, &step) {
                Ok(()) => Taken::Did,
                // What there is of a new volume counts for nothing, and is made anew; a full one is closed, and its file
                // is still to be read through.
                Err(error)
                    if matches!(step, Step::Prepare(_) | Step::Seal(..)) && error.is_out_of_files() =>
                {
                    Taken::Later(error)
                }
                Err(error) => {
                    worker.failure.raise(&error);
                    Taken::Failed
                }
            };
            worker.failure.catch("the keeper", taken)
        });
        let taken = taken.await.unwrap_or_else(|panic| resume_unwind(panic));
        let is_later = matches!(taken, Taken::Later(_));
        // Before the committer hears that something was done.
        let was_later = std::mem::replace(&mut shared.state().out_of_files, is_later);
        shared.kept.notify_one();
        match taken {
            Taken::Did => {}
            Taken::Later(error) => {
                if !was_later {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "next volume could not be made, or the last one not sealed; it is tried again"
                    );
                }
                shared.env.clock.sleep_until(shared.env.now() + TRY_AGAIN).await;
            }
            Taken::Failed => {
                shared.to_commit.notify_one();
                return;
            }
        }
    }
}

fn next(shared: &Shared) -> Option<Step> {
    let mut state = shared.state();
    if let Some(sealing) = &state.sealing {
        return Some(Step::Seal(sealing.volume.clone(), sealing.index.clone()));
    }
    if state.spare.is_none() {
        return Some(Step::Prepare(state.next_number()));
    }
    if state.look_for_dead {
        // The newest one, if others were rewritten into it, stays until there is a newer: should its file come back after
        // a power cut, it is known by its number for one that was removed.
        let newest = state.newest_number();
        let is_dead = |volume: &&Arc<Volume>| volume.number < newest && !state.is_alive(volume.number);
        let dead = state.sealed.values().find(is_dead).cloned();
        state.look_for_dead = dead.is_some();
        return dead.map(Step::Remove);
    }
    None
}

/// Takes one step. Blocks.
fn take(shared: &Shared, step: &Step) -> Result<(), DiskError> {
    match step {
        Step::Seal(volume, index) => {
            let seal = seal(volume, index)?;
            let witness = {
                let state = shared.state();
                Witness { commit: state.commit, volume: state.active.volume.number }
            };
            shared.meta.write(&[Change::Volume(volume.number, Some(seal)), Change::Witness(witness)])?;
            let mut state = shared.state();
            state.sealing = None;
            state.sealed.insert(volume.number, volume.clone());
            state.entries_went();
            shared.env.reached(Mark::VolumeSealed);
            shared.metrics.volumes_sealed.add(1);
            info!(volume = %volume.number, bytes = seal.bytes, entries = index.entries(), "volume was sealed");
        }
        Step::Prepare(number) => {
            let volume = Volume::create(&shared.disk, shared.owner, *number, shared.config.active_cache())?;
            shared.meta.write(&[Change::Volume(*number, None)])?;
            {
                let mut state = shared.state();
                state.spare = Some(Arc::new(volume));
                state.look_for_dead = true;
            }
            shared.room.to_look.notify_one();
        }
        Step::Remove(volume) => {
            shared.meta.write(&[Change::VolumeGone(volume.number)])?;
            {
                let mut state = shared.state();
                state.sealed.remove(&volume.number);
                state.open.retain(|number| *number != volume.number);
            }
            remove(shared, volume);
            shared.env.reached(Mark::VolumeRemoved);
            shared.metrics.volumes_removed.add(1);
            // There may be room again.
            shared.room.to_look.notify_one();
            info!(volume = %volume.number, "volume without live entries was removed");
        }
    }
    Ok(())
}

/// Writes the index into a full volume and closes it for good. Where no file could be opened to measure it, it is to be
/// called once more.
pub(super) fn seal(volume: &Volume, index: &MemoryIndex) -> Result<Seal, DiskError> {
    if volume.is_writer() {
        volume.write(|write| {
            let mut table = write.open_table(super::volume::INDEX)?;
            for (key, value) in index.encode() {
                table.insert(key, &value[..])?;
            }
            drop(table);
            Volume::write_sealed(write)
        })?;
        volume.close()?;
    }
    let (bytes, crc) = volume.measure()?;
    Ok(Seal { bytes, crc })
}

/// Takes away the file of a volume that is not listed any more. If that fails, the next start does it.
fn remove(shared: &Shared, volume: &Volume) {
    let removed = volume.close().and_then(|()| discard(&shared.disk, shared.owner, volume, volume.is_lost()));
    if let Err(error) = removed {
        warn!(volume = %volume.number, error = &error as &dyn std::error::Error, "volume could not be removed");
    }
}

/// Takes away the file of a volume. If it is not sure to be ours, one of another node is kept under another name: it may
/// be all that its owner has. Blocks.
pub(super) fn discard(
    disk: &Arc<dyn Disk>,
    owner: Owner,
    volume: &Volume,
    perhaps_foreign: bool,
) -> Result<(), DiskError> {
    if perhaps_foreign {
        let in_its_place = Volume::sealed(disk, volume.number, 0);
        let label = in_its_place.label();
        // It was read only: what its closing says does not matter.
        drop(in_its_place.close());
        match label {
            Ok(label) if label.owner != owner => {
                let aside = FileName::new(format!("foreign-{}", volume.file()));
                warn!(file = %volume.file(), kept_as = %aside, "file of another node is in the data folder");
                return guarded_disk("rename", volume.file(), || Ok(disk.publish(volume.file(), &aside)?));
            }
            // Whose it is was not seen.
            Err(ReadError::Disk(error)) if error.is_out_of_files() => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    guarded_disk("remove", volume.file(), || match disk.remove(volume.file()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => Ok(removed?),
    })
}
