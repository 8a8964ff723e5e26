//! Fetches that wait for records below the high watermark: woken when entries are applied, never when appended. And how
//! many requests wait for a majority's word on it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// Who waits, by how many bytes must have been applied since the start: a run of entries wakes only those that it
/// gives enough.
#[derive(Debug, Default)]
struct Waiters {
    /// Batch bytes applied since the replica's start.
    applied_bytes: u64,
    waiting: BTreeMap<(u64, u64), oneshot::Sender<()>>,
    /// How many wait for a majority's word.
    asking: usize,
    next_id: u64,
    closed: bool,
}

/// The fetches that wait on one replica. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Watermark {
    waiters: Arc<Mutex<Waiters>>,
    waiters_max: usize,
}

/// As many wait as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// A fetch that waits; dropping it gives its place free.
#[derive(Debug)]
pub(super) struct Wait {
    key: (u64, u64),
    waiters: Arc<Mutex<Waiters>>,
    woken: oneshot::Receiver<()>,
}

/// A place among those who wait for a majority's word; dropping it gives the place free.
#[derive(Debug)]
pub(super) struct Place(Arc<Mutex<Waiters>>);

impl Watermark {
    pub(super) fn new(waiters_max: usize) -> Self {
        Self { waiters: Arc::default(), waiters_max }
    }

    /// Waits until `applied_bytes` reaches the given number, or [`Watermark::wake_all`].
    pub(super) fn wait(&self, applied_bytes: u64) -> Result<Wait, TooMany> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if waiters.waiting.len() >= self.waiters_max {
            return Err(TooMany);
        }
        let (tx, woken) = oneshot::channel();
        let key = (applied_bytes, waiters.next_id);
        waiters.next_id += 1;
        // Otherwise `tx` is dropped here, which is a wake-up as well.
        if !waiters.closed && applied_bytes > waiters.applied_bytes {
            waiters.waiting.insert(key, tx);
        }
        Ok(Wait { key, waiters: Arc::clone(&self.waiters), woken })
    }

    /// Takes a place among those who wait for a majority's word. As many may as wait for records; they are counted for
    /// themselves, or readers that wait for long would keep lookups out.
    pub(super) fn place(&self) -> Result<Place, TooMany> {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        if waiters.asking >= self.waiters_max {
            return Err(TooMany);
        }
        waiters.asking += 1;
        Ok(Place(Arc::clone(&self.waiters)))
    }

    /// So many batch bytes were applied since the start: wakes those who waited for no more.
    pub(super) fn advance(&self, applied_bytes: u64) {
        // Dropping a sender wakes who waits on it.
        let woken = {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            waiters.applied_bytes = applied_bytes;
            if waiters.waiting.first_key_value().is_none_or(|((at, _), _)| *at > applied_bytes) {
                return;
            }
            let still = waiters.waiting.split_off(&(applied_bytes + 1, 0));
            std::mem::replace(&mut waiters.waiting, still)
        };
        drop(woken);
    }

    /// Wakes all: what they wait for may not come here any more.
    pub(super) fn wake_all(&self) {
        let woken = std::mem::take(&mut self.waiters.lock().unwrap_or_else(PoisonError::into_inner).waiting);
        drop(woken);
    }

    /// Wakes all, now and from now on.
    pub(super) fn close(&self) {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.wake_all();
    }
}

impl Wait {
    /// Ready once woken.
    pub(super) async fn woken(&mut self) {
        // Whether by a word or by the sender's end.
        drop((&mut self.woken).await);
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&self.key);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).asking -= 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_woken(wait: &mut Wait) -> bool {
        wait.woken().now_or_never().is_some()
    }

    #[test]
    fn places_are_counted_for_themselves() {
        let watermark = Watermark::new(1);
        let _wait = watermark.wait(5).unwrap();
        let place = watermark.place().unwrap();
        assert_eq!(watermark.place().err(), Some(TooMany));
        drop(place);
        assert!(watermark.place().is_ok());
    }

    #[test]
    fn wakes_those_who_have_enough() {
        let watermark = Watermark::new(3);
        let mut one = watermark.wait(1).unwrap();
        let mut ten = watermark.wait(10).unwrap();
        assert!(!is_woken(&mut one) && !is_woken(&mut ten));
        watermark.advance(9);
        assert!(is_woken(&mut one) && !is_woken(&mut ten));
        watermark.advance(10);
        assert!(is_woken(&mut ten));
        assert!(is_woken(&mut watermark.wait(10).unwrap()), "has been reached");
    }

    #[test]
    fn a_place_is_free_again_when_dropped() {
        let watermark = Watermark::new(1);
        let wait = watermark.wait(5).unwrap();
        assert_eq!(watermark.wait(5).err(), Some(TooMany));
        drop(wait);
        let mut wait = watermark.wait(5).unwrap();
        watermark.wake_all();
        assert!(is_woken(&mut wait));
        drop(wait);
        watermark.close();
        assert!(is_woken(&mut watermark.wait(5).unwrap()));
    }
}
