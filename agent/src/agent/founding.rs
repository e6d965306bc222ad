//! The first entry of a new cluster's log.
//!
//! `agent init` only writes the identity; the log is founded when the agent first runs. A crash in between costs
//! nothing: the next run finds an empty log and the founder's record, and does the same again.

use std::collections::BTreeMap;
use std::time::Duration;

use kawanan_api::RequestId;
use kawanan_logic::command::NewNode;
use kawanan_logic::state::NodeFacts;
use kawanan_logic::{Command, Entry};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::clock::SharedClock;
use crate::consensus::ClusterLog;
use crate::identity::Identity;
use crate::random::SharedRandom;

/// Pause between attempts; the founder is the only voter, so it leads within a second.
const PAUSE: Duration = Duration::from_millis(20);

/// Proposes the founding entry as soon as this node leads a log that has none. Returns when the cluster exists.
pub(super) async fn found(
    log: ClusterLog,
    identity: Identity,
    labels: BTreeMap<String, String>,
    facts: NodeFacts,
    clock: SharedClock,
    random: SharedRandom,
) {
    let Some(authority) = identity.authorities.first().cloned() else {
        warn!("this node's identity names no authority; the cluster cannot be founded");
        return;
    };
    let node = NewNode {
        id: identity.node,
        raft_id: identity.raft,
        name: identity.name,
        labels,
        facts,
    };
    let command = Command::Found {
        cluster: identity.cluster,
        authority,
        node,
    };
    let request = RequestId::from_bits(random.bits());
    while log.state().borrow().cluster.is_none() {
        if log.status().borrow().is_leader() {
            let entry = Entry {
                request,
                at: clock.now(),
                command: command.clone(),
            };
            match log.propose(&entry).await {
                Ok(Ok(_)) => info!(cluster = %identity.cluster, "cluster founded"),
                Ok(Err(refusal)) => warn!(%refusal, "the founding of the cluster was refused"),
                Err(err) => warn!(%err, "the cluster is not founded yet"),
            }
        }
        sleep(PAUSE).await;
    }
}
