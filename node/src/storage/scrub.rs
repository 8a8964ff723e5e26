//! Reads all entries and bases again, in time, at low priority: what a disk has damaged is found while another replica has it.
//!
//! A round begins anew after a restart: how far the last one came is not worth a write, as a node that restarts more
//! often than once a round reads what it serves anyway.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use quorate_proto::ids::{GroupId, LogIndex};

use super::state::Shared;
use crate::env::{Mark, Point, pool};

/// Bytes read at a time: a reader in front of the disk waits for that long at most.
const STEP_BYTES: u64 = 1 << 20;

/// After a step the scrubber rests so many times as long as the step took.
const RESTS: u32 = 19;

/// The longest rest between two steps, so that a round of little is spread too.
const REST_MAX: Duration = Duration::from_secs(600);

/// Pause before something is read again for which no file could be opened.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// Runs until the store is closed or has failed.
pub(super) async fn run(shared: Arc<Shared>) {
    let round = Duration::from_secs(shared.config.scrub_seconds.into());
    loop {
        let began = shared.env.now();
        let Some(bytes) = read_all(&shared, round).await else { return };
        {
            let mut state = shared.state();
            state.scrubs += 1;
        }
        shared.metrics.scrub_rounds.add(1);
        tracing::info!(
            bytes,
            elapsed_ms = u64::try_from(shared.env.now().since(began).as_millis()).unwrap_or(u64::MAX),
            "all that is stored was read again"
        );
        let hasty = shared.env.perturb(Point::ScrubHasty);
        let rest = if hasty { Duration::ZERO } else { round.saturating_sub(shared.env.now().since(began)) };
        // An empty disk is read in no time.
        if !sleep(&shared, rest.max(Duration::from_secs(1))).await {
            return;
        }
    }
}

/// One round; how many bytes were read. `None` once the store is closed or has failed.
async fn read_all(shared: &Arc<Shared>, round: Duration) -> Option<u64> {
    let total = stored(shared).max(1);
    let mut all = 0_u64;
    let mut group = Some(GroupId(0));
    while let Some(from) = group {
        let next = shared.state().durable.range(from..).next().map(|(group, _)| *group);
        let Some(next) = next else { break };
        let worker = shared.clone();
        pool::run(&*shared.pool, move || worker.examine_base(next)).await;
        let mut index = LogIndex(0);
        loop {
            if shared.failure.refusal().is_some() || shared.state().closing {
                return None;
            }
            let (worker, began) = (shared.clone(), shared.env.now());
            let step = pool::run(&*shared.pool, move || worker.scrub_some(next, index, STEP_BYTES)).await;
            let Some((reached, bytes)) = step else { break };
            if reached == index {
                if !sleep(shared, TRY_AGAIN).await {
                    return None;
                }
                continue;
            }
            index = reached;
            all += bytes;
            shared.metrics.scrub_bytes.add(bytes);
            let rest = rest_after(shared.env.now().since(began), bytes, total, round);
            let hasty = shared.env.perturb(Point::ScrubHasty);
            if !hasty && !sleep(shared, rest).await {
                return None;
            }
        }
        group = next.0.checked_add(1).map(GroupId);
    }
    shared.env.reached(Mark::AllScrubbed);
    Some(all)
}

/// How long to rest after a step that took `took` for `bytes` of `total`: its part of the round, and at least what keeps
/// the disk free.
fn rest_after(took: Duration, bytes: u64, total: u64, round: Duration) -> Duration {
    let millis = u128::from(u64::try_from(round.as_millis()).unwrap_or(u64::MAX));
    let part = millis * u128::from(bytes.min(total)) / u128::from(total);
    let part = Duration::from_millis(u64::try_from(part).unwrap_or(u64::MAX));
    part.min(REST_MAX).max(took.saturating_mul(RESTS))
}

/// Bytes that all groups' logs hold, by what their volumes weigh: entries are of many sizes.
fn stored(shared: &Shared) -> u64 {
    let volumes = shared.state().sealed.len() + 1;
    u64::try_from(volumes).expect("a count fits 64 bits").saturating_mul(shared.config.volume_bytes_max)
}

/// Sleeps; `false` if the store is closed meanwhile.
async fn sleep(shared: &Shared, time: Duration) -> bool {
    let told = std::pin::pin!(shared.to_scrub.notified());
    select(told, shared.env.sleep(time)).await;
    !shared.state().closing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_spread_over_its_time_and_leaves_the_disk_free() {
        let (hour, ms) = (Duration::from_secs(3_600), Duration::from_millis);
        assert_eq!(rest_after(ms(1), 1, 100, ms(100_000)), ms(1_000), "its part of the time");
        assert_eq!(rest_after(ms(100), 1, 1_000_000, hour), ms(1_900), "nineteen times as long as it took");
        assert_eq!(rest_after(ms(1), 100, 100, 24 * hour), REST_MAX, "a step is never far from the next");
        assert_eq!(rest_after(ms(0), 0, 1, hour), ms(0));
        assert_eq!(rest_after(ms(1), 500, 100, ms(1_000)), ms(1_000), "more than was thought");
    }
}
