//! Room for what was read and waits to be sent to one reader.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Fetches of one reader that look at the same time for what they will read. Of many small batches what they find is as
/// large as the answer, and has no room yet.
const LOOKS_MAX: usize = 16;

/// Bytes of records that may be read ahead of one reader that does not take them. A cheap clone.
///
/// Without a bound, a reader that asks a thousand times and takes nothing holds a thousand answers in memory. An answer
/// takes its room in one go and waits for nothing while it has it but the disk, so none waits for another for ever.
#[derive(Clone, Debug)]
pub struct AnswerRoom {
    free: Arc<Semaphore>,
    bytes_max: u32,
    looks: Arc<Semaphore>,
}

/// Whoever looks for what is to be read, with a turn to do so where the reader's room is bounded.
#[derive(Debug)]
pub(super) struct Looker<'a> {
    room: Option<&'a AnswerRoom>,
    turn: Option<SemaphorePermit<'a>>,
}

impl<'a> Looker<'a> {
    /// As soon as it has its turn. Safe to drop.
    pub(super) async fn begin(room: Option<&'a AnswerRoom>) -> Self {
        let turn = match room {
            Some(room) => Some(room.turn().await),
            None => None,
        };
        Self { room, turn }
    }

    /// Waits for something that may last, without its turn, which others have meanwhile. Safe to drop.
    pub(super) async fn wait<F: Future>(&mut self, what: F) -> F::Output {
        self.turn = None;
        let output = what.await;
        *self = Self::begin(self.room).await;
        output
    }
}

/// An answer's room; dropping it gives it back.
#[derive(Debug)]
pub struct AnswerHold {
    _permit: OwnedSemaphorePermit,
}

impl AnswerRoom {
    /// For `bytes_max` bytes, and for a single answer that is larger.
    pub fn new(bytes_max: u32) -> Self {
        let permits = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        let looks = Arc::new(Semaphore::new(LOOKS_MAX));
        Self { free: Arc::new(Semaphore::new(permits)), bytes_max, looks }
    }

    /// A turn to look for what is to be read, in the order of the calls. Whoever has it waits for the disk alone, and
    /// gives it back while something is mended. Safe to drop.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        self.looks.acquire().await.expect("the semaphore is never closed")
    }

    /// Takes room if it is free. An answer larger than all of it takes all: it goes alone.
    pub(super) fn try_take(&self, bytes: u64) -> Option<AnswerHold> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(self.permits(bytes)).ok()?;
        Some(AnswerHold { _permit: permit })
    }

    /// Takes room as soon as it is free, in the order of the calls. Safe to drop.
    pub(super) async fn take(&self, bytes: u64) -> AnswerHold {
        let permit = Arc::clone(&self.free).acquire_many_owned(self.permits(bytes)).await;
        AnswerHold { _permit: permit.expect("the semaphore is never closed") }
    }

    fn permits(&self, bytes: u64) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn so_many_look_at_once_and_give_their_turn_back() {
        let room = AnswerRoom::new(100);
        let mut looking: Vec<_> = (0..LOOKS_MAX).map(|_| room.turn().now_or_never().unwrap()).collect();
        let mut next = room.turn().boxed();
        assert!((&mut next).now_or_never().is_none());
        looking.pop();
        assert!(next.now_or_never().is_some());
    }

    #[test]
    fn room_is_bounded_and_a_large_answer_goes_alone() {
        let room = AnswerRoom::new(100);
        let first = room.try_take(70).unwrap();
        assert!(room.try_take(40).is_none());
        let second = room.try_take(30).unwrap();
        let mut large = room.take(1_000).boxed();
        assert!((&mut large).now_or_never().is_none());
        drop(first);
        assert!((&mut large).now_or_never().is_none(), "not beside another one");
        assert!(room.try_take(1).is_none(), "nobody overtakes it");
        drop(second);
        let large = large.now_or_never().unwrap();
        assert!(room.try_take(1).is_none());
        assert!(room.try_take(0).is_some(), "no records need no room");
        drop(large);
        assert!(room.try_take(100).is_some());
    }
}
