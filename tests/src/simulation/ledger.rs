//! What must be true at every step of a simulated cluster, and the books that are kept to tell.
//!
//! Everything that nodes publish and clients are told passes through here: states, leaders, members, acknowledged
//! writes. The numbers (I1, I3, ...) are those of the invariants in `docs/testing.md`. Never looks into a node: it judges what
//! anybody outside could see.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kawanan_agent::log_store::MemberSets;
use kawanan_api::{ApiError, ErrorCode, RequestId, Revision, TaskId};
use kawanan_logic::state::{Outcome, Task};
use kawanan_logic::{ClusterState, Command, invariants};

use super::trace::Trace;

/// States kept to compare later ones with. Nodes are rarely further apart; their digests are compared for ever.
const STATES_KEPT: usize = 256;
/// Violations noted before the rest is only counted: the first ones tell the story.
const VIOLATIONS_KEPT: usize = 20;

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub at: Duration,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.3}s: {}", self.at.as_secs_f64(), self.what)
    }
}

/// A write that a client was told about.
#[derive(Debug, Clone)]
pub struct Told {
    pub request: RequestId,
    pub command: Command,
    pub outcome: Outcome,
}

/// The books of one run. Clones share them.
#[derive(Debug, Clone)]
pub struct Ledger {
    trace: Trace,
    books: Arc<Mutex<Books>>,
}

#[derive(Debug, Default)]
struct Books {
    violations: Vec<Violation>,
    states: BTreeMap<Revision, Arc<ClusterState>>,
    digests: BTreeMap<Revision, u64>,
    newest: Arc<ClusterState>,
    leaders: BTreeMap<u64, String>,
    told: Vec<Told>,
    /// Highest revision that any client was told: what is asked for from now on comes after it.
    acknowledged: Revision,
}

/// A request on its way: remembers what was acknowledged before it was asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    floor: Revision,
}

impl Ledger {
    pub fn new(trace: Trace) -> Self {
        Self {
            trace,
            books: Arc::default(),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a broken promise.
    pub fn violated(&self, what: impl Into<String>) {
        let what = what.into();
        self.trace.note("BROKEN", &what);
        let at = self.trace.elapsed();
        let mut books = self.books();
        if books.violations.len() < VIOLATIONS_KEPT {
            books.violations.push(Violation { at, what });
        }
    }

    pub fn violations(&self) -> Vec<Violation> {
        self.books().violations.clone()
    }

    pub fn is_clean(&self) -> bool {
        self.books().violations.is_empty()
    }

    /// The highest revision that any node published.
    pub fn newest(&self) -> Arc<ClusterState> {
        Arc::clone(&self.books().newest)
    }

    /// What a task is by the newest state.
    pub fn task(&self, task: TaskId) -> Option<Arc<Task>> {
        self.books().newest.tasks.get(&task).cloned()
    }

    /// A node published a state. I4: nodes agree about every revision. And each state obeys the rules of states.
    pub fn published(&self, node: &str, state: &Arc<ClusterState>) {
        let complaints = self.books().compare(node, state);
        for complaint in complaints {
            self.violated(complaint);
        }
    }

    /// I3: a term has one leader.
    pub fn leads(&self, node: &str, term: u64) {
        let other = {
            let mut books = self.books();
            let known = books.leaders.entry(term).or_insert_with(|| node.to_owned());
            (known != node).then(|| known.clone())
        };
        if let Some(other) = other {
            self.violated(format!("I3: both {other} and {node} lead in term {term}"));
        }
    }

    /// I5: there are 1, 3 or 5 voters, or a change between two such sets is under way.
    pub fn votes(&self, node: &str, members: &MemberSets) {
        let allowed = |count: usize| matches!(count, 1 | 3 | 5);
        let (voters, outgoing) = (members.voters.len(), members.outgoing.len());
        if !allowed(voters) || !(outgoing == 0 || allowed(outgoing)) {
            self.violated(format!(
                "I5: {node} counts {voters} voters (and {outgoing} outgoing ones)"
            ));
        }
    }

    /// A node's part in the log has ended. Only a disk that was made to fail may end it.
    pub fn failed(&self, node: &str, reason: &str) {
        let expected = [
            "input/output error",
            "the disk is full",
            "the machine crashed",
        ];
        if !expected.iter().any(|cause| reason.contains(cause)) {
            self.violated(format!(
                "{node} takes no part in the log any more: {reason}"
            ));
        }
    }

    /// A client is about to ask for something for the first time.
    pub fn asks(&self) -> Asked {
        Asked {
            floor: self.books().acknowledged,
        }
    }

    /// A client was told what became of its write. What is asked for after an answer comes after it in the log.
    pub fn told(&self, asked: Asked, told: Told) {
        let late = {
            let mut books = self.books();
            let mut late = None;
            if let Ok(revision) = told.outcome {
                if revision <= asked.floor {
                    late = Some((revision, told.request));
                }
                books.acknowledged = books.acknowledged.max(revision);
            }
            books.told.push(told);
            late
        };
        if let Some((revision, request)) = late {
            self.violated(format!(
                "I2: write {} took effect at revision {revision}, but was asked for after {} was acknowledged",
                request.short(),
                asked.floor
            ));
        }
    }

    /// I2: a consistent read saw a revision; it must be at least what was acknowledged before the read began.
    pub fn read(&self, asked: Asked, revision: Revision) {
        if revision < asked.floor {
            self.violated(format!(
                "I2: a consistent read answered {revision}, but {} was acknowledged before it began",
                asked.floor
            ));
        }
    }

    /// Writes that clients were told about and that took effect, in the order of the log.
    pub fn accepted(&self) -> Vec<Told> {
        let mut accepted: Vec<Told> = self.books().told.clone();
        accepted.retain(|told| told.outcome.is_ok());
        accepted.sort_by_key(|told| told.outcome.as_ref().ok().copied());
        accepted
    }

    /// I1: what clients were told is what the log says.
    pub fn check_acknowledged(&self, node: &str, state: &ClusterState) {
        let told = self.books().told.clone();
        for write in told {
            let recorded = state.requests.get(write.request);
            let matches = match (&write.outcome, recorded) {
                (Ok(_), recorded) => recorded == Some(&write.outcome),
                // A refusal may have been made before the log was asked.
                (Err(_), None) => true,
                (Err(_), Some(recorded)) => *recorded == write.outcome,
            };
            if !matches {
                self.violated(format!(
                    "I1: a client was told {:?} about write {} and {node} knows {recorded:?}",
                    write.outcome,
                    write.request.short()
                ));
            }
        }
    }
}

impl Books {
    fn compare(&mut self, node: &str, state: &Arc<ClusterState>) -> Vec<String> {
        let revision = state.revision;
        let mut complaints = Vec::new();
        let digest = *self.digests.entry(revision).or_insert(state.digest);
        if digest != state.digest {
            complaints.push(format!(
                "I4: at revision {revision} {node} has digest {:016x} and another node {digest:016x}",
                state.digest
            ));
        }
        match self.states.get(&revision) {
            Some(known) if known == state => {}
            Some(known) => complaints.push(format!(
                "I4: at revision {revision} {node} has another state than a node before it: {}",
                difference(known, state)
            )),
            None => {
                let broken = invariants::check(state);
                complaints.extend(
                    broken
                        .iter()
                        .map(|broken| format!("rules of states at revision {revision}: {broken}")),
                );
                self.states.insert(revision, Arc::clone(state));
                while self.states.len() > STATES_KEPT {
                    self.states.pop_first();
                }
            }
        }
        if revision > self.newest.revision {
            self.newest = Arc::clone(state);
        }
        complaints
    }
}

/// The parts in which two states differ, by name.
fn difference(one: &ClusterState, other: &ClusterState) -> String {
    let parts = [
        ("plan revision", one.plan_revision != other.plan_revision),
        ("cluster", one.cluster != other.cluster),
        ("nodes", one.nodes != other.nodes),
        ("services", one.services != other.services),
        ("tasks", one.tasks != other.tasks),
        ("tokens", one.tokens != other.tokens),
        ("requests", one.requests != other.requests),
    ];
    let names: Vec<&str> = parts
        .iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| *name)
        .collect();
    names.join(", ")
}

/// Whether asking again may bring another answer.
pub fn is_passing(error: &ApiError) -> bool {
    matches!(
        error.code,
        ErrorCode::NoLeader | ErrorCode::OutcomeUnknown | ErrorCode::Unavailable
    )
}

#[cfg(test)]
mod tests {
    use kawanan_api::{ClusterId, RaftId, Timestamp};
    use kawanan_logic::state::Cluster;

    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(Trace::starting_now())
    }

    fn state(revision: u64, digest: u64) -> Arc<ClusterState> {
        Arc::new(ClusterState {
            revision: Revision(revision),
            digest,
            ..ClusterState::default()
        })
    }

    fn complaints(ledger: &Ledger) -> Vec<String> {
        let violations = ledger.violations();
        violations
            .into_iter()
            .map(|violation| violation.what)
            .collect()
    }

    fn told(request: u128, outcome: Outcome) -> Told {
        let command = Command::RemoveService {
            id: kawanan_api::ServiceId::from_bits(1),
        };
        Told {
            request: RequestId::from_bits(request),
            command,
            outcome,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nodes_that_disagree_about_a_revision_are_noticed() {
        let ledger = ledger();
        ledger.published("n1", &state(3, 7));
        ledger.published("n2", &state(3, 7));
        assert!(ledger.is_clean());
        ledger.published("n3", &state(3, 8));
        assert!(complaints(&ledger)[0].starts_with("I4"), "{ledger:?}");

        let ledger = Ledger::new(Trace::starting_now());
        ledger.published("n1", &state(3, 7));
        let mut founded = ClusterState::clone(&state(3, 7));
        founded.cluster = Some(Cluster {
            id: ClusterId::from_bits(1),
            created_at: Timestamp::default(),
            authorities: Vec::new(),
        });
        ledger.published("n2", &Arc::new(founded));
        assert!(
            complaints(&ledger)[0].contains("cluster"),
            "same digest, other state"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn two_leaders_of_a_term_and_an_even_number_of_voters_are_noticed() {
        let ledger = ledger();
        ledger.leads("n1", 4);
        ledger.leads("n1", 4);
        ledger.leads("n2", 5);
        let members = |voters: u64, outgoing: u64| MemberSets {
            voters: (1..=voters).map(RaftId).collect(),
            outgoing: (1..=outgoing).map(RaftId).collect(),
            ..MemberSets::default()
        };
        ledger.votes("n1", &members(3, 0));
        ledger.votes("n1", &members(3, 1));
        assert!(ledger.is_clean());
        ledger.leads("n2", 4);
        ledger.votes("n1", &members(2, 0));
        assert!(complaints(&ledger)[0].starts_with("I3"));
        assert!(complaints(&ledger)[1].starts_with("I5"));
    }

    #[tokio::test(start_paused = true)]
    async fn lost_writes_and_writes_out_of_order_are_noticed() {
        let ledger = ledger();
        let first = ledger.asks();
        ledger.told(first, told(1, Ok(Revision(5))));
        let second = ledger.asks();
        ledger.read(second, Revision(5));
        assert!(ledger.is_clean());
        ledger.read(second, Revision(4));
        ledger.told(second, told(2, Ok(Revision(4))));
        assert_eq!(complaints(&ledger).len(), 2);
        ledger.check_acknowledged("n1", &state(9, 0));
        assert!(
            complaints(&ledger)[2].starts_with("I1"),
            "nothing of it is in the log"
        );
    }
}
