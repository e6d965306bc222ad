//! `/v1/nodes`.

use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use kawanan_api::NodeId;
use kawanan_api::spec::check_label_key;
use kawanan_api::views::{Availability, NodeDetail, NodePatch, NodeView, TaskView, Written};
use kawanan_logic::Command;
use kawanan_logic::state;
use kawanan_logic::view::resolve_node;
use serde::Deserialize;

use super::answer::{Answer, Body, Failure, Key, Query, ReadQuery};
use super::{Api, progress};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/nodes", get(list))
        .route("/v1/nodes/{node}", get(show).patch(update).delete(remove))
        .route("/v1/nodes/{node}/tasks", get(tasks))
        .route("/v1/nodes/{node}/progress", get(drain_progress))
}

async fn list(State(api): State<Api>, Query(query): Query<ReadQuery>) -> Answer<Vec<NodeView>> {
    let nodes = api
        .show(query.consistent, |_, view| Ok(view.nodes()))
        .await?;
    Ok(Json(nodes))
}

async fn show(
    State(api): State<Api>,
    Path(node): Path<String>,
    Query(query): Query<ReadQuery>,
) -> Answer<NodeDetail> {
    let node = api
        .show(query.consistent, |state, view| {
            view.node(resolve(&api, state, &node)?)
        })
        .await?;
    Ok(Json(node))
}

async fn tasks(
    State(api): State<Api>,
    Path(node): Path<String>,
    Query(query): Query<ReadQuery>,
) -> Answer<Vec<TaskView>> {
    let tasks = api
        .show(query.consistent, |state, view| {
            Ok(view.tasks_on(resolve(&api, state, &node)?))
        })
        .await?;
    Ok(Json(tasks))
}

async fn update(
    State(api): State<Api>,
    Path(node): Path<String>,
    key: Key,
    Body(patch): Body<NodePatch>,
) -> Answer<Written> {
    for label in patch.set_labels.keys() {
        check_label_key(label)?;
    }
    let (id, name) = named(&api, &node)?;
    let command = Command::UpdateNode {
        id,
        availability: patch.availability.map(|availability| match availability {
            Availability::Active => state::Availability::Active,
            Availability::Pause => state::Availability::Pause,
            Availability::Drain => state::Availability::Drain,
        }),
        set_labels: patch.set_labels,
        remove_labels: patch.remove_labels,
    };
    written(&api, key, id, name, command).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RemoveQuery {
    force: bool,
}

async fn remove(
    State(api): State<Api>,
    Path(node): Path<String>,
    Query(query): Query<RemoveQuery>,
    key: Key,
) -> Answer<Written> {
    let (id, name) = named(&api, &node)?;
    let command = Command::RemoveNode {
        id,
        force: query.force,
    };
    written(&api, key, id, name, command).await
}

async fn written(
    api: &Api,
    key: Key,
    id: NodeId,
    name: String,
    command: Command,
) -> Answer<Written> {
    let request = key.0.unwrap_or_else(|| api.draw_request_id());
    let revision = api.submit(request, command).await?;
    Ok(Json(Written {
        id: id.to_string(),
        name,
        revision,
    }))
}

async fn drain_progress(
    State(api): State<Api>,
    Path(node): Path<String>,
) -> Result<Response, Failure> {
    let (id, _) = named(&api, &node)?;
    progress::stream(&api, move |view| view.drain(id))
}

fn named(api: &Api, node: &str) -> Result<(NodeId, String), Failure> {
    let state = api.state();
    let id = resolve(api, &state, node)?;
    let name = (state.nodes.get(&id)).map_or_else(|| id.short(), |node| node.name.clone());
    Ok((id, name))
}

/// `self` is the node that answers, as for docker.
fn resolve(
    api: &Api,
    state: &kawanan_logic::ClusterState,
    text: &str,
) -> Result<NodeId, kawanan_api::ApiError> {
    match resolve_node(state, text) {
        Err(_) if text == "self" => Ok(api.backend.standing().this_node),
        other => other,
    }
}
