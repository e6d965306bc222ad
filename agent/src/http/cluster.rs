//! `/v1/version`, `/v1/cluster`.

use axum::Json;
use axum::extract::State;
use kawanan_api::views::{ClusterView, VersionView};
use serde::Deserialize;

use super::Api;
use super::answer::{Answer, Query, ReadQuery};

pub(super) async fn version(State(api): State<Api>) -> Json<VersionView> {
    let standing = api.backend.standing();
    Json(VersionView {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        api: 1,
        node: standing.this_node,
        node_name: standing.this_node_name,
    })
}

pub(super) async fn show(
    State(api): State<Api>,
    Query(query): Query<ReadQuery>,
) -> Answer<ClusterView> {
    let standing = api.backend.standing();
    let mut cluster = api
        .show(query.consistent, |_, view| {
            Ok(view.cluster(standing.this_node))
        })
        .await?;
    cluster.this_node_name = standing.this_node_name;
    Ok(Json(cluster))
}

/// How this node leaves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Leave {
    /// It is the only node: there is nobody to say goodbye to.
    #[serde(default)]
    last: bool,
}

/// Takes leave of the cluster; the agent ends after its answer.
pub(super) async fn leave(State(api): State<Api>, Query(leave): Query<Leave>) -> Answer<()> {
    api.backend.leave(leave.last).await?;
    Ok(Json(()))
}
