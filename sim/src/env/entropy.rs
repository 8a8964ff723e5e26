//! A node's randomness, from the run's seed.

use std::sync::{Mutex, PoisonError};

use quorate_node::env::Entropy;

use crate::dice::Dice;

/// Draws that repeat with the seed.
#[derive(Debug)]
pub struct SimEntropy(Mutex<Dice>);

impl SimEntropy {
    /// The randomness that `dice` give.
    pub fn new(dice: Dice) -> Self {
        Self(Mutex::new(dice))
    }
}

impl Entropy for SimEntropy {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).bits()
    }
}
