//! `/v1/tasks`.

use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use kawanan_api::ApiError;
use kawanan_api::views::{LogRequest, TaskView};
use kawanan_logic::view::resolve_task;

use super::Api;
use super::answer::{Answer, Failure, Query, ReadQuery};
use super::logs::{self, Wanted};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/tasks", get(list))
        .route("/v1/tasks/{task}", get(show))
        .route("/v1/tasks/{task}/logs", get(show_logs))
}

async fn list(State(api): State<Api>, Query(query): Query<ReadQuery>) -> Answer<Vec<TaskView>> {
    let tasks = api
        .show(query.consistent, |_, view| Ok(view.tasks()))
        .await?;
    Ok(Json(tasks))
}

async fn show(
    State(api): State<Api>,
    Path(task): Path<String>,
    Query(query): Query<ReadQuery>,
) -> Answer<TaskView> {
    let task = api
        .show(query.consistent, |state, view| {
            let id = resolve_task(state, &task)?;
            (view.task(id)).ok_or_else(|| ApiError::not_found(format!("task {id} does not exist")))
        })
        .await?;
    Ok(Json(task))
}

async fn show_logs(
    State(api): State<Api>,
    Path(task): Path<String>,
    Query(request): Query<LogRequest>,
) -> Result<Response, Failure> {
    let id = resolve_task(&api.state(), &task)?;
    logs::stream(&api, Wanted::Task(id), request)
}
