//! Which faults a run has: each kind is on with one half, and then as strong as is drawn. What is left out matters as
//! much as what is there, for some faults hide others (swarm testing: Groce et al., ISSTA 2012).

use std::collections::BTreeSet;
use std::time::Duration;

use super::kinds::{ALL, Kind};
use crate::classes::{Class, Classes};
use crate::dice::Dice;
use crate::env::network::Profile;

/// How many of a thousand runs have no fault, or one kind alone.
const CALM_PER_MILLE: u64 = 150;

/// Which faults a run has, as drawn.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whether hardly anything is to go wrong.
    pub calm: bool,
    /// The longest time between two faults.
    pub pause_max: Duration,
    /// How long a node is down, or a link cut, at most.
    pub fault_max: Duration,
    /// What happens on all wires, beside their usual delays.
    pub(super) wires: Wires,
    /// How quick or slow clocks may be, in millionths.
    pub(super) drift_ppm: u64,
    /// How many of a thousand restarts come with a clock that is an hour behind.
    pub(super) hour_back_per_mille: u64,
    /// How many of a thousand starts lose power again within the first disk operations.
    pub(super) cut_in_recovery_per_mille: u64,
    /// Whether nodes fall while they start for the first time.
    pub(super) rough_start: bool,
    pub(super) kinds: BTreeSet<Kind>,
    /// The kinds that strike at moments, and how likely each is against the others.
    pub(super) weights: Vec<(Kind, u64)>,
}

/// Faults by rate.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wires {
    loss_per_mille: u64,
    slow_per_mille: u64,
    slow_max: Duration,
    again_per_mille: u64,
    again_max: Duration,
    flip_per_mille: u64,
}

impl Plan {
    /// Draws one, of the classes in `only`.
    pub fn draw(dice: &mut Dice, only: Classes) -> Self {
        let calm = dice.chance(CALM_PER_MILLE);
        let alone = dice.below(2 * u64::try_from(ALL.len()).unwrap_or(1));
        let mut kinds = BTreeSet::new();
        let mut weights = Vec::new();
        for (number, (kind, class, common)) in (0..).zip(ALL) {
            let on = dice.chance(500);
            let strength = 1 << dice.below(4);
            let on = if calm { number == alone } else { on };
            // What is left out changes nothing of what else is drawn.
            if on && only.contains(class) {
                kinds.insert(kind);
                if common > 0 {
                    weights.push((kind, common * strength));
                }
            }
        }
        let ms = Duration::from_millis;
        let has = |kind: Kind| kinds.contains(&kind);
        let per_mille = |dice: &mut Dice, most: u64| {
            let most = most >> dice.below(6);
            dice.between(1, most)
        };
        // In one run of twenty the slowest frames are very slow.
        let slowest = if dice.chance(50) { ms(30_000) } else { ms(2_000) };
        let tail = (per_mille(dice, 200), dice.time(ms(20), slowest));
        let loss = per_mille(dice, 300);
        let again = (per_mille(dice, 300), dice.time(ms(100), ms(60_000)));
        let flip = per_mille(dice, 20);
        let drift = if dice.chance(100) { 50_000 } else { dice.between(10, 500) };
        let wires = Wires {
            loss_per_mille: if has(Kind::Loss) { loss } else { 0 },
            slow_per_mille: if has(Kind::Tail) { tail.0 } else { 0 },
            slow_max: tail.1,
            again_per_mille: if has(Kind::Repetition) { again.0 } else { 0 },
            again_max: again.1,
            flip_per_mille: if has(Kind::Flip) { flip } else { 0 },
        };
        let crashes = ALL.iter().any(|(kind, class, _)| *class == Class::Crash && has(*kind));
        let rough_start = dice.chance(100) && crashes && !calm;
        Self {
            calm,
            rough_start,
            pause_max: dice.time(ms(200), ms(2_500)),
            fault_max: dice.time(ms(500), ms(10_000)),
            wires,
            drift_ppm: if has(Kind::Drift) { drift } else { 0 },
            hour_back_per_mille: if has(Kind::HourBack) { 200 } else { 0 },
            cut_in_recovery_per_mille: if has(Kind::CutInRecovery) { 300 } else { 0 },
            kinds,
            weights,
        }
    }

    /// A plan in which only these kinds strike.
    #[cfg(test)]
    pub(super) fn of(kinds: &[Kind]) -> Self {
        let mut plan = Self::draw(&mut Dice::new(0), Classes::default());
        plan.weights = kinds.iter().map(|kind| (*kind, 1)).collect();
        plan.kinds = kinds.iter().copied().collect();
        Self {
            calm: false,
            rough_start: false,
            wires: Wires::default(),
            drift_ppm: 0,
            hour_back_per_mille: 0,
            cut_in_recovery_per_mille: 0,
            ..plan
        }
    }

    /// Whether an operator is needed.
    pub fn has_operator(&self) -> bool {
        [Kind::LoseDisk, Kind::Leave, Kind::Reassign].iter().any(|kind| self.kinds.contains(kind))
    }

    /// The kinds that are on.
    pub fn kinds(&self) -> &BTreeSet<Kind> {
        &self.kinds
    }

    /// Which kind strikes next; `None` if none is to.
    pub(super) fn next(&self, dice: &mut Dice) -> Option<Kind> {
        let mut at = dice.below(self.weights.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in &self.weights {
            if at < *weight {
                return Some(*kind);
            }
            at -= weight;
        }
        None
    }
}

impl Wires {
    /// Whether anything differs from the usual.
    pub(super) fn are_bad(&self) -> bool {
        self.loss_per_mille + self.slow_per_mille + self.again_per_mille + self.flip_per_mille > 0
    }

    /// What is usual, and this beside.
    pub(super) fn over(&self, usual: Profile) -> Profile {
        let Self { loss_per_mille, again_per_mille, again_max, flip_per_mille, .. } = *self;
        let mut profile = Profile { loss_per_mille, again_per_mille, again_max, flip_per_mille, ..usual };
        if self.slow_per_mille > 0 {
            profile.slow_per_mille = self.slow_per_mille;
            profile.slow_max = self.slow_max;
        }
        profile
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_kinds_are_on_and_some_runs_are_calm() {
        let plans = (0..2_000).map(|seed| Plan::draw(&mut Dice::new(seed), Classes::default()));
        let (calm, wild) = plans.partition::<Vec<_>, _>(|plan| plan.calm);
        assert!((240..360).contains(&calm.len()), "{}", calm.len());
        assert!(calm.iter().all(|plan| plan.kinds.len() <= 1));
        assert!(
            calm.iter().any(|plan| plan.kinds.is_empty()) && calm.iter().any(|plan| !plan.kinds.is_empty())
        );
        let on = wild.iter().map(|plan| plan.kinds.len()).sum::<usize>();
        let all = wild.len() * ALL.len();
        assert!((all * 48 / 100..all * 52 / 100).contains(&on), "{on} of {all}");
        for (kind, ..) in ALL {
            assert!(wild.iter().any(|plan| plan.kinds.contains(&kind)), "{kind:?}");
        }
    }

    #[test]
    fn only_what_was_asked_for_strikes_and_nothing_else_changes() {
        for seed in 0..100 {
            let all = Plan::draw(&mut Dice::new(seed), Classes::default());
            let some = Plan::draw(&mut Dice::new(seed), [Class::Crash].into_iter().collect());
            assert!(some.kinds.is_subset(&all.kinds));
            assert_eq!((some.pause_max, some.fault_max, some.calm), (all.pause_max, all.fault_max, all.calm));
            let crash = |kind: &Kind| ALL.iter().any(|(of, class, _)| of == kind && *class == Class::Crash);
            assert!(some.kinds.iter().all(crash) && !some.wires.are_bad());
            let mut dice = Dice::new(seed);
            assert!((0..50).all(|_| some.next(&mut dice).is_none_or(|kind| crash(&kind))));
        }
    }
}
