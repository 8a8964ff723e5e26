//! Unkindness at the product's perturbation points, as drawn for the run, and its marks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quorate_proto::env::{Mark, Point, Probe};

use crate::dice::Dice;
use crate::marks::Marks;

/// How many points of a hundred are on in a run.
const ON: u64 = 25;
/// What a probability is counted in.
const MILLION: u64 = 1_000_000;
/// A point that is on strikes at least so often, in a million, and at most 2^[`DOUBLINGS`] times as often.
const RAREST: u64 = 1_000;
const DOUBLINGS: u64 = 8;

/// Which points are on in a run, and how often each strikes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Points {
    chances: Arc<[u64]>,
    /// The world is kind from now on.
    ended: Arc<AtomicBool>,
}

impl Points {
    /// Draws them.
    pub fn draw(dice: &mut Dice) -> Self {
        let chances = Point::ALL.iter().map(|_| {
            let (on, doublings) = (dice.below(100) < ON, dice.below(DOUBLINGS));
            let chance = dice.between(RAREST << doublings, RAREST << (doublings + 1)).min(MILLION / 5);
            if on { chance } else { 0 }
        });
        Self::of(chances.collect())
    }

    /// None of them: a kind world.
    pub fn none() -> Self {
        Self::of(Point::ALL.iter().map(|_| 0).collect())
    }

    fn of(chances: Arc<[u64]>) -> Self {
        Self { chances, ended: Arc::default() }
    }

    /// None strikes any more, in this run.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// What all probes of a run share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Probes {
    /// Where it is unkind.
    pub points: Points,
    /// What was reached.
    pub marks: Marks,
}

impl Probes {
    /// A probe for one life, with dice of its own.
    pub fn probe(&self, dice: Dice) -> Arc<dyn Probe> {
        Arc::new(SimProbe { points: self.points.clone(), dice: Mutex::new(dice), marks: self.marks.clone() })
    }
}

/// A node's or client's probe, for one life.
struct SimProbe {
    points: Points,
    dice: Mutex<Dice>,
    marks: Marks,
}

impl Probe for SimProbe {
    fn perturb(&self, point: Point) -> bool {
        // The enum has no gaps: its number is its place in `ALL`.
        let chance = self.points.chances[point as usize];
        chance > 0
            && !self.points.ended.load(Ordering::Relaxed)
            && self.dice.lock().unwrap_or_else(PoisonError::into_inner).below(MILLION) < chance
    }

    fn reached(&self, mark: Mark) {
        self.marks.reached(mark.name());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_points_is_on_and_strikes_by_its_chance() {
        let mut on = 0;
        for seed in 0..1_000 {
            let points = Points::draw(&mut Dice::new(seed));
            assert!(points.chances.iter().all(|chance| *chance == 0 || (RAREST..=200_000).contains(chance)));
            on += points.chances.iter().filter(|chance| **chance > 0).count();
        }
        let all = 1_000 * Point::ALL.len();
        assert!((all / 5..all * 3 / 10).contains(&on), "{on} of {all}");

        let mut chances = vec![0; Point::ALL.len()];
        chances[Point::BatcherBeginsAnew as usize] = 200_000;
        let probes = Probes { points: Points::of(chances.into()), marks: Marks::default() };
        let probe = probes.probe(Dice::new(7));
        let struck = (0..1_000).filter(|_| probe.perturb(Point::BatcherBeginsAnew)).count();
        assert!((150..250).contains(&struck), "{struck}");
        assert!((0..1_000).all(|_| !probe.perturb(Point::ProduceNotLeader)));
        probes.points.end();
        assert!((0..1_000).all(|_| !probe.perturb(Point::BatcherBeginsAnew)));
    }
}
