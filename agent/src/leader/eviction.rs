//! When the leader may declare a node down: slowly, and not when the sick one may be the leader itself.
//!
//! Kubernetes stops evicting when most of a zone looks unhealthy and limits the rate otherwise
//! (kubernetes.io, "Nodes", rate limits on eviction); the same rules, sized for 3 to 50 nodes.

use std::time::Duration;

use tokio::time::Instant;

/// A new leader gathers evidence of its own first. Gossip needs about a second to notice silence.
pub(super) const AFTER_ELECTION: Duration = Duration::from_secs(2);
/// Between one eviction and the next.
const BETWEEN: Duration = Duration::from_secs(5);

/// Why a confirmed-silent node is not declared down yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    JustElected,
    /// This node stood still a moment ago.
    DistrustsItself,
    /// Half of the nodes or more, and at least two, are silent: the network may be cut around us.
    TooManySilent {
        silent: usize,
        of: usize,
    },
    TooSoon,
}

#[derive(Debug)]
pub(super) struct EvictionGuard {
    elected: Instant,
    last: Option<Instant>,
}

impl EvictionGuard {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            elected: now,
            last: None,
        }
    }

    /// Whether one of `silent` nodes out of `members` may be declared down now.
    pub(super) fn check(
        &self,
        now: Instant,
        trusted: bool,
        silent: usize,
        members: usize,
    ) -> Result<(), Hold> {
        if !trusted {
            return Err(Hold::DistrustsItself);
        }
        if now.duration_since(self.elected) < AFTER_ELECTION {
            return Err(Hold::JustElected);
        }
        if silent >= 2 && silent * 2 >= members {
            return Err(Hold::TooManySilent {
                silent,
                of: members,
            });
        }
        if self
            .last
            .is_some_and(|last| now.duration_since(last) < BETWEEN)
        {
            return Err(Hold::TooSoon);
        }
        Ok(())
    }

    pub(super) fn evicted(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled() -> (EvictionGuard, Instant) {
        let start = Instant::now();
        (EvictionGuard::new(start), start + AFTER_ELECTION)
    }

    #[tokio::test]
    async fn one_of_three_may_go_but_not_two() {
        let (guard, now) = settled();
        assert_eq!(guard.check(now, true, 1, 3), Ok(()));
        assert_eq!(
            guard.check(now, true, 2, 3),
            Err(Hold::TooManySilent { silent: 2, of: 3 })
        );
        assert_eq!(guard.check(now, true, 2, 5), Ok(()));
        assert_eq!(
            guard.check(now, true, 3, 5),
            Err(Hold::TooManySilent { silent: 3, of: 5 })
        );
        assert_eq!(
            guard.check(now, true, 1, 2),
            Ok(()),
            "the only other node may be declared down"
        );
    }

    #[tokio::test]
    async fn evictions_keep_a_distance_and_wait_after_an_election() {
        let (mut guard, now) = settled();
        assert_eq!(
            guard.check(now - Duration::from_millis(1), true, 1, 3),
            Err(Hold::JustElected)
        );
        guard.evicted(now);
        assert_eq!(
            guard.check(now + Duration::from_secs(1), true, 1, 5),
            Err(Hold::TooSoon)
        );
        assert_eq!(guard.check(now + BETWEEN, true, 1, 5), Ok(()));
        assert_eq!(
            guard.check(now + BETWEEN, false, 1, 5),
            Err(Hold::DistrustsItself)
        );
    }
}
