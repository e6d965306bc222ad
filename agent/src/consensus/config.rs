//! The settings of a node, those of raft-rs included: its defaults are unsafe, so every one that matters is set here.

use std::time::Duration;

use kawanan_api::{NodeId, RaftId};
use raft::{Config, ReadOnlyOption};

/// One step of Raft's clock.
pub const TICK: Duration = Duration::from_millis(50);
/// Ticks between a leader's heartbeats: 150 ms, three of them within the shortest election timeout.
const HEARTBEAT_TICKS: usize = 3;
/// Ticks without a word from the leader before a voter doubts it. Also how long a leader may miss its majority.
pub(super) const ELECTION_TICKS: usize = 10;
/// Entry bytes in one message; a larger entry travels alone.
pub const MESSAGE_ENTRY_BYTES_MAX: u64 = 1 << 20;
/// Proposed and not yet committed on a leader; more is refused.
const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Messages sent to one follower ahead of its answers.
const INFLIGHT_MESSAGES_MAX: usize = 64;
/// Committed entries taken into one batch: applying stays in steps short enough for heartbeats.
const COMMITTED_BYTES_PER_BATCH: u64 = 4 << 20;

/// The range from which a voter draws its election timeout, in ticks, the end not included.
///
/// Simulated nodes each get a range with a single value, because raft-rs draws from a generator that cannot be seeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElectionTicks {
    pub min: usize,
    pub end: usize,
}

impl ElectionTicks {
    /// Always the same timeout.
    pub const fn fixed(ticks: usize) -> Self {
        Self {
            min: ticks,
            end: ticks + 1,
        }
    }
}

impl Default for ElectionTicks {
    /// 0.5 s to 1 s, so a leader is replaced 0.55 s to 1.2 s after its death.
    fn default() -> Self {
        Self {
            min: ELECTION_TICKS,
            end: 2 * ELECTION_TICKS,
        }
    }
}

/// How one node takes part in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsensusConfig {
    pub node: NodeId,
    /// The identity of the data directory: a wiped directory brings another one.
    pub raft_id: RaftId,
    pub election: ElectionTicks,
    /// A checkpoint is written after so many applied entries.
    pub checkpoint_entries: u64,
    /// Or after so many bytes of them.
    pub checkpoint_bytes: usize,
    /// Entries kept before a checkpoint, for followers that are a little behind.
    pub kept_entries: u64,
    /// Or fewer, when they are more bytes than this.
    pub kept_bytes: usize,
}

impl ConsensusConfig {
    pub fn new(node: NodeId, raft_id: RaftId) -> Self {
        Self {
            node,
            raft_id,
            election: ElectionTicks::default(),
            checkpoint_entries: 1_000,
            checkpoint_bytes: 8 << 20,
            kept_entries: 500,
            kept_bytes: 4 << 20,
        }
    }

    /// The settings of raft-rs for a node that has applied everything up to `applied`.
    pub(super) fn raft(&self, applied: u64) -> Config {
        Config {
            id: self.raft_id.0,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            min_election_tick: self.election.min.max(ELECTION_TICKS),
            max_election_tick: self.election.end.max(ELECTION_TICKS + 1),
            applied,
            max_size_per_msg: MESSAGE_ENTRY_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            skip_bcast_commit: false,
            batch_append: true,
            priority: 0,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_BATCH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_that_keep_raft_safe_are_what_they_must_be() {
        let config = ConsensusConfig::new(NodeId::from_bits(1), RaftId(7)).raft(5);
        config.validate().unwrap();
        assert_eq!(config.id, 7);
        assert_eq!(config.applied, 5);
        assert!(config.check_quorum, "an isolated leader must step down");
        assert!(config.pre_vote, "a returning node must not raise the term");
        assert!(matches!(config.read_only_option, ReadOnlyOption::Safe));
        assert!(config.batch_append);
        assert!(!config.skip_bcast_commit);
        assert_eq!(config.max_size_per_msg, 1 << 20);
        assert_eq!(config.max_uncommitted_size, 64 << 20);
        assert_eq!(config.max_inflight_msgs, 64);
        assert_eq!((config.heartbeat_tick, config.election_tick), (3, 10));
        assert_eq!(
            (config.min_election_tick, config.max_election_tick),
            (10, 20)
        );
        assert_eq!(TICK, Duration::from_millis(50));
    }

    #[test]
    fn a_simulated_node_always_waits_equally_long() {
        let mut config = ConsensusConfig::new(NodeId::from_bits(1), RaftId(7));
        config.election = ElectionTicks::fixed(13);
        let raft = config.raft(0);
        raft.validate().unwrap();
        assert_eq!((raft.min_election_tick, raft.max_election_tick), (13, 14));
    }
}
