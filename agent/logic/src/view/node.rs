//! Rows of `node ls`, and what `node inspect` and a drain show.

use kawanan_api::spec::ResourceAmounts;
use kawanan_api::views::{self, DrainEvent, NodeDetail, NodeStatus, NodeView};
use kawanan_api::{ApiError, NodeId};

use super::View;
use crate::state::{self, Node};

impl View<'_> {
    /// All listed nodes, by name.
    pub fn nodes(&self) -> Vec<NodeView> {
        let mut nodes: Vec<_> = self
            .state
            .nodes
            .values()
            .map(|node| self.node_row(node))
            .collect();
        nodes.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        nodes
    }

    /// # Errors
    /// `not_found` when no such node is listed.
    pub fn node(&self, id: NodeId) -> Result<NodeDetail, ApiError> {
        let node = self.known_node(id)?;
        Ok(NodeDetail {
            node: self.node_row(node),
            status_at: node.status_at,
            os: node.facts.platform.os.clone(),
            arch: node.facts.platform.arch.clone(),
            raft_id: node.raft_id,
            feature_level: node.facts.feature_level,
            revision: node.revision,
            task_list: self.tasks_on(id),
        })
    }

    /// What a drain of the node still waits for.
    ///
    /// # Errors
    /// `not_found` when no such node is listed.
    pub fn drain(&self, id: NodeId) -> Result<DrainEvent, ApiError> {
        let node = self.known_node(id)?;
        let still_there = |task: &&std::sync::Arc<state::Task>| !task.state.is_final();
        let mut remaining: Vec<_> = (self.state.tasks_on(id))
            .filter(still_there)
            .map(|task| self.task_row(task))
            .collect();
        remaining
            .sort_by(|a, b| (&a.service_name, a.slot, a.id).cmp(&(&b.service_name, b.slot, b.id)));
        let waiting = (self.state.tasks_on(id))
            .filter(|task| task.is_live())
            .filter_map(|task| {
                let pending = self.pending(task.service, task.seat())?;
                let name = self.task_row(task).name;
                (pending.keeps == Some(task.id))
                    .then(|| format!("{name}: {}", self.waits(&pending.why)))
            })
            .collect();
        Ok(DrainEvent {
            at: self.outlook.now,
            applied: self.state.revision,
            node: self.node_row(node),
            remaining,
            waiting,
            leaderless: self.outlook.leader.is_none(),
        })
    }

    fn known_node(&self, id: NodeId) -> Result<&Node, ApiError> {
        (self.state.nodes.get(&id))
            .map(AsRef::as_ref)
            .ok_or_else(|| ApiError::not_found(format!("node {id} is no member of the cluster")))
    }

    fn node_row(&self, node: &Node) -> NodeView {
        let mut reserved = ResourceAmounts::default();
        let mut running = 0;
        for task in self
            .state
            .tasks_on(node.id)
            .filter(|task| !task.state.is_final())
        {
            if let Some(spec) = self.state.spec_of(task) {
                reserved.cpus.0 += spec.resources.reservations.cpus.0;
                reserved.memory.0 += spec.resources.reservations.memory.0;
            }
            running += u32::from(task.state == state::TaskState::Running);
        }
        NodeView {
            id: node.id,
            name: node.name.clone(),
            status: self.status_of(node),
            availability: match node.availability {
                state::Availability::Active => views::Availability::Active,
                state::Availability::Pause => views::Availability::Pause,
                state::Availability::Drain => views::Availability::Drain,
            },
            leader: self.outlook.leader == Some(node.id),
            voter: self.outlook.voters.contains(&node.id),
            address: node.facts.address.to_string(),
            version: node.facts.agent_version.clone(),
            engine_version: node.facts.engine_version.clone(),
            labels: node.labels.clone(),
            capacity: node.facts.capacity.into(),
            reserved: reserved.into(),
            tasks: running,
            joined_at: node.joined_at,
            is_self: self.outlook.this_node == Some(node.id),
        }
    }

    pub(super) fn status_of(&self, node: &Node) -> NodeStatus {
        match node.status {
            state::NodeStatus::Ready if self.outlook.suspects.contains(&node.id) => {
                NodeStatus::Suspect
            }
            state::NodeStatus::Ready => NodeStatus::Ready,
            state::NodeStatus::Down => NodeStatus::Down,
            state::NodeStatus::Left => NodeStatus::Left,
        }
    }
}
