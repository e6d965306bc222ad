//! The founding of the cluster, and which commands all of its nodes understand.

use std::sync::Arc;

use kawanan_api::{ApiError, ClusterId, ErrorCode, Revision, Timestamp};

use super::Applied;
use crate::command::{Command, FEATURE_LEVEL, NewNode};
use crate::state::{Cluster, ClusterState, NodeStatus};

impl ClusterState {
    pub(super) fn found(
        &mut self,
        index: Revision,
        at: Timestamp,
        cluster: ClusterId,
        authority: &[u8],
        node: &NewNode,
    ) -> Applied {
        if self.cluster.is_some() {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                "the cluster is founded already",
            ));
        }
        self.check_raft_id(node.id, node.raft_id)?;
        self.cluster = Some(Cluster {
            id: cluster,
            created_at: at,
            authorities: vec![authority.to_vec()],
        });
        self.nodes
            .insert(node.id, Arc::new(super::node::fresh(index, at, node)));
        Ok(())
    }

    /// The newest command that every node understands. Nodes that left do not count: they read the log no more.
    pub fn feature_level(&self) -> u32 {
        self.nodes
            .values()
            .filter(|node| node.status != NodeStatus::Left)
            .map(|node| node.facts.feature_level)
            .min()
            .unwrap_or(FEATURE_LEVEL)
    }
}

impl Command {
    /// The feature level that a node needs to understand this command.
    pub const fn needs_level(&self) -> u32 {
        match self {
            Self::Found { .. }
            | Self::CreateToken { .. }
            | Self::RevokeToken { .. }
            | Self::AdmitNode { .. }
            | Self::UpdateNode { .. }
            | Self::UpdateNodeFacts { .. }
            | Self::SetNodeStatus { .. }
            | Self::RemoveNode { .. }
            | Self::CreateService { .. }
            | Self::UpdateService { .. }
            | Self::ScaleServices { .. }
            | Self::RemoveService { .. }
            | Self::Plan { .. }
            | Self::ReportTasks { .. } => 1,
        }
    }
}

/// Whether a command may enter the log: every node that reads it must understand it. Asked before proposing, never
/// while applying.
///
/// # Errors
/// Names the node that holds the cluster back, and its version.
pub fn check_level(state: &ClusterState, command: &Command) -> Result<(), ApiError> {
    let (needed, common) = (command.needs_level(), state.feature_level());
    if needed <= common {
        return Ok(());
    }
    let oldest = state
        .nodes
        .values()
        .filter(|node| node.status != NodeStatus::Left)
        .min_by_key(|node| node.facts.feature_level);
    let holder = oldest.map_or_else(
        || "this version".to_owned(),
        |node| format!("node {} (agent {})", node.name, node.facts.agent_version),
    );
    Err(ApiError::new(
        ErrorCode::Refused,
        format!("{holder} does not understand this command yet"),
    )
    .with_hint("upgrade the agent on every node, or remove nodes that are gone for good"))
}
