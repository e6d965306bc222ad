//! The cluster at a glance, and what is wrong with it.

use kawanan_api::views::{ClusterView, NodeStatus};
use kawanan_api::{NodeId, Revision};

use super::View;

impl View<'_> {
    /// `this_node` is the node that answers, which on a fresh agent the state does not know yet.
    pub fn cluster(&self, this_node: NodeId) -> ClusterView {
        let nodes = self.nodes();
        let services = self.services();
        let is_ready = |node: NodeId| {
            nodes
                .iter()
                .any(|n| n.id == node && n.status == NodeStatus::Ready)
        };
        let voters_ready = self
            .outlook
            .voters
            .iter()
            .filter(|voter| is_ready(**voter))
            .count();
        let quorum = self.outlook.voters.len() / 2 + 1;
        let problems = self.problems();
        ClusterView {
            id: self.state.cluster.as_ref().map(|cluster| cluster.id),
            created_at: self
                .state
                .cluster
                .as_ref()
                .map(|cluster| cluster.created_at),
            this_node,
            this_node_name: self.node_name(this_node),
            leader: self.outlook.leader,
            leader_name: self.outlook.leader.map(|leader| self.node_name(leader)),
            nodes: count(nodes.len()),
            nodes_ready: count(
                nodes
                    .iter()
                    .filter(|node| node.status == NodeStatus::Ready)
                    .count(),
            ),
            voters: count(self.outlook.voters.len()),
            voters_ready: count(voters_ready),
            losses_tolerated: count(voters_ready.saturating_sub(quorum)),
            services: count(services.len()),
            tasks_running: nodes.iter().map(|node| node.tasks).sum(),
            healthy: problems.is_empty(),
            problems,
            revision: Revision(self.state.revision.0),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.state.cluster.is_none() {
            problems.push("this agent belongs to no cluster yet".to_owned());
        }
        if self.outlook.leader.is_none() {
            problems.push(
                "no node is leader: nothing can be changed until a majority of the voters is back"
                    .to_owned(),
            );
        }
        for node in self.nodes() {
            match node.status {
                NodeStatus::Ready if node.engine_version.is_empty() => {
                    problems.push(format!(
                        "node {}: its container engine does not answer",
                        node.name
                    ));
                }
                NodeStatus::Suspect => problems.push(format!("node {} is not heard of", node.name)),
                NodeStatus::Down => problems.push(format!("node {} is down", node.name)),
                NodeStatus::Ready | NodeStatus::Left => {}
            }
        }
        for service in self.services() {
            let Ok(progress) = self.progress(service.id) else {
                continue;
            };
            if let Some(reason) = &progress.rollout.reason {
                problems.push(format!(
                    "service {}: its update is paused: {reason}",
                    progress.name
                ));
            } else if progress.running + progress.complete < progress.wanted {
                let (running, wanted) = (progress.running, progress.wanted);
                problems.push(format!(
                    "service {}: {running} of {wanted} tasks run",
                    progress.name
                ));
            }
        }
        problems
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
