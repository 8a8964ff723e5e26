//! Chance. Everything that is drawn in a run comes from one seed, through a stream of its own per purpose.

use std::time::Duration;

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

/// A stream of random draws, the same for the same seed on every machine.
#[derive(Debug)]
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// The stream of a seed for one purpose: what another purpose draws does not move it.
    pub fn named(seed: u64, purpose: &str) -> Self {
        let purpose = u64::from(crc32c::crc32c(purpose.as_bytes()));
        Self::new(seed ^ purpose.rotate_left(32) ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let wide = u128::from(self.bits()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of 128 bits fits 64")
    }

    /// A position in a list of `length` things.
    pub fn place(&mut self, length: usize) -> usize {
        let bound = u64::try_from(length).expect("a length fits 64 bits");
        usize::try_from(self.below(bound)).expect("below a length")
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True `per_mille` times of a thousand.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// A time from `low` to `high`, both included, each order of magnitude as likely as the next.
    pub fn time(&mut self, low: Duration, high: Duration) -> Duration {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        let (low, high) = (micros(low), micros(high));
        let doublings = u64::from(u64::BITS - (high / low).leading_zeros());
        let most = low.saturating_mul(1 << self.below(doublings + 1).min(63)).clamp(low, high);
        Duration::from_micros(self.between(low, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_their_bounds_and_repeat() {
        let (low, high) = (Duration::from_micros(100), Duration::from_millis(30));
        let draw = |seed| {
            let mut dice = Dice::named(seed, "test");
            (0..1000)
                .map(|_| {
                    let time = dice.time(low, high);
                    assert!((low..=high).contains(&time), "{time:?}");
                    assert!((3..=5).contains(&dice.between(3, 5)));
                    assert!(dice.below(7) < 7);
                    time
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert_eq!(Dice::new(1).below(0), 0);
    }
}
