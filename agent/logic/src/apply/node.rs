//! Machines: admitted, steered by operators, judged by the leader, removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kawanan_api::{ApiError, ErrorCode, NodeId, RaftId, Revision, Timestamp, TokenId};

use super::Applied;
use crate::command::NewNode;
use crate::state::{Availability, ClusterState, Node, NodeFacts, NodeStatus};

/// A node as it is after its first join.
pub(super) fn fresh(index: Revision, at: Timestamp, new: &NewNode) -> Node {
    Node {
        id: new.id,
        raft_id: new.raft_id,
        name: new.name.clone(),
        labels: new.labels.clone(),
        availability: Availability::Active,
        status: NodeStatus::Ready,
        status_at: at,
        joined_at: at,
        facts: new.facts.clone(),
        revision: index,
    }
}

fn unknown(id: NodeId) -> ApiError {
    ApiError::not_found(format!("no node has the id {id}"))
        .with_hint("list the nodes with `kawan node ls`")
}

impl ClusterState {
    /// A machine that joins again under the same key keeps its place: labels and availability that operators set
    /// stay, and so do its tasks. Labels that it brings are added where none of that name is set.
    pub(super) fn admit_node(
        &mut self,
        index: Revision,
        at: Timestamp,
        token: TokenId,
        secret_hash: [u8; 32],
        new: &NewNode,
    ) -> Applied {
        self.check_token(at, token, secret_hash)?;
        self.check_raft_id(new.id, new.raft_id)?;
        let mut node = fresh(index, at, new);
        if let Some(known) = self.nodes.get(&new.id) {
            node.labels.extend(known.labels.clone());
            node.availability = known.availability;
            node.joined_at = known.joined_at;
        }
        self.nodes.insert(new.id, Arc::new(node));
        self.use_token(token);
        Ok(())
    }

    /// Raft ids are never 0 and never shared: two machines under one could vote twice.
    pub(super) fn check_raft_id(&self, id: NodeId, raft_id: RaftId) -> Applied {
        if raft_id.0 == 0 {
            return Err(ApiError::invalid("0 is not a raft id"));
        }
        let holder = self
            .nodes
            .values()
            .find(|node| node.id != id && node.raft_id == raft_id);
        holder.map_or(Ok(()), |holder| {
            Err(ApiError::new(
                ErrorCode::Conflict,
                format!("node {} has the raft id {raft_id} already", holder.name),
            )
            .with_hint("is this data directory a copy of that node's? start with an empty one"))
        })
    }

    pub(super) fn update_node(
        &mut self,
        index: Revision,
        id: NodeId,
        availability: Option<Availability>,
        set_labels: &BTreeMap<String, String>,
        remove_labels: &BTreeSet<String>,
    ) -> Applied {
        let node = self.nodes.get_mut(&id).ok_or_else(|| unknown(id))?;
        let mut changed = Node::clone(node);
        changed.availability = availability.unwrap_or(node.availability);
        changed.labels.retain(|key, _| !remove_labels.contains(key));
        changed.labels.extend(set_labels.clone());
        if changed != **node {
            changed.revision = index;
            *node = Arc::new(changed);
        }
        Ok(())
    }

    pub(super) fn update_node_facts(
        &mut self,
        id: NodeId,
        raft_id: RaftId,
        facts: &NodeFacts,
    ) -> Applied {
        self.check_raft_id(id, raft_id)?;
        let node = self.nodes.get_mut(&id).ok_or_else(|| unknown(id))?;
        if node.raft_id != raft_id || node.facts != *facts {
            let node = Arc::make_mut(node);
            node.raft_id = raft_id;
            node.facts = facts.clone();
        }
        Ok(())
    }

    /// A node that left stays left, whatever gossip says later: it comes back by joining.
    pub(super) fn set_node_status(
        &mut self,
        at: Timestamp,
        id: NodeId,
        status: NodeStatus,
    ) -> Applied {
        let node = self.nodes.get_mut(&id).ok_or_else(|| unknown(id))?;
        if node.status == status {
            return Ok(());
        }
        if node.status == NodeStatus::Left {
            return Err(ApiError::new(
                ErrorCode::Refused,
                format!("node {} has left the cluster", node.name),
            )
            .with_hint("it comes back with `agent join` and a token"));
        }
        let node = Arc::make_mut(node);
        node.status = status;
        node.status_at = at;
        Ok(())
    }

    pub(super) fn remove_node(&mut self, id: NodeId, force: bool) -> Applied {
        let node = self.nodes.get(&id).ok_or_else(|| unknown(id))?;
        if self.nodes.len() == 1 {
            return Err(ApiError::new(
                ErrorCode::Refused,
                format!("node {} is the only one of the cluster", node.name),
            )
            .with_hint("to end the cluster, stop the agent and delete its data directory"));
        }
        if node.is_ready() && !force {
            return Err(
                ApiError::new(ErrorCode::Refused, format!("node {} is ready", node.name))
                    .with_hint("drain it and run `agent leave` there, or use --force"),
            );
        }
        self.nodes.remove(&id);
        let lost: Vec<_> = self.tasks_on(id).map(|task| task.id).collect();
        self.delete_tasks(lost);
        Ok(())
    }
}
