//! Fresh ids and jitter behind one trait, so that a simulated node draws them from its seed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub trait Random: Send + Sync + 'static {
    /// 128 bits nobody drew before: the stuff of ids.
    fn bits(&self) -> u128;

    /// A wait between zero and `longest`, for retries that must not march in step.
    fn up_to(&self, longest: Duration) -> Duration {
        let share = (self.bits() >> 96) as f64 / f64::from(u32::MAX);
        longest.mul_f64(share)
    }
}

/// From the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn bits(&self) -> u128 {
        rand::rng().random()
    }
}

/// From a seed: the same sequence every time.
#[derive(Debug)]
pub struct SeededRandom(Mutex<StdRng>);

impl SeededRandom {
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Random for SeededRandom {
    fn bits(&self) -> u128 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random()
    }
}

pub type SharedRandom = Arc<dyn Random>;
