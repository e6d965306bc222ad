//! `/v1/services`.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use kawanan_api::spec::ServiceSpec;
use kawanan_api::views::{
    LogRequest, ScaleServices, ServiceDetail, ServiceView, TaskView, UpdateService, Written,
};
use kawanan_api::{ApiError, RequestId, ServiceId, ValidSpec};
use kawanan_logic::view::{resolve_service, with_kept_password};
use kawanan_logic::{ClusterState, Command};

use super::answer::{Answer, Body, Failure, Key, Query, ReadQuery};
use super::logs::{self, Wanted};
use super::{Api, progress};

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/services", get(list).post(create))
        .route(
            "/v1/services/{service}",
            get(show).put(update).delete(remove).post(act),
        )
        .route("/v1/services/{service}/tasks", get(tasks))
        .route("/v1/services/{service}/progress", get(show_progress))
        .route("/v1/services/{service}/logs", get(show_logs))
}

async fn list(State(api): State<Api>, Query(query): Query<ReadQuery>) -> Answer<Vec<ServiceView>> {
    let services = api
        .show(query.consistent, |_, view| Ok(view.services()))
        .await?;
    Ok(Json(services))
}

async fn show(
    State(api): State<Api>,
    Path(service): Path<String>,
    Query(query): Query<ReadQuery>,
) -> Answer<ServiceDetail> {
    let service = api
        .show(query.consistent, |state, view| {
            view.service(resolve_service(state, &service)?)
        })
        .await?;
    Ok(Json(service))
}

async fn tasks(
    State(api): State<Api>,
    Path(service): Path<String>,
    Query(query): Query<ReadQuery>,
) -> Answer<Vec<TaskView>> {
    let tasks = api
        .show(query.consistent, |state, view| {
            Ok(view.tasks_of(resolve_service(state, &service)?))
        })
        .await?;
    Ok(Json(tasks))
}

async fn create(
    State(api): State<Api>,
    key: Key,
    Body(spec): Body<ServiceSpec>,
) -> Result<Response, Failure> {
    let spec = ValidSpec::check(with_kept_password(spec, None)?)?.into_inner();
    let request = key.0.unwrap_or_else(|| api.draw_request_id());
    // The key is the id: a repetition, through whichever node, names the same service.
    let id = ServiceId::from_bits(request.bits());
    let name = spec.name.clone();
    let revision = api
        .submit(request, Command::CreateService { id, spec })
        .await?;
    let written = Written {
        id: id.to_string(),
        name,
        revision,
    };
    Ok((StatusCode::CREATED, Json(written)).into_response())
}

async fn update(
    State(api): State<Api>,
    Path(service): Path<String>,
    key: Key,
    Body(update): Body<UpdateService>,
) -> Answer<Written> {
    let state = api.state();
    let (id, name) = named(&state, &service)?;
    let stored = state
        .services
        .get(&id)
        .map(|service| service.spec().as_ref());
    let spec = ValidSpec::check(with_kept_password(update.spec, stored)?)?.into_inner();
    let command = Command::UpdateService {
        id,
        spec,
        if_revision: update.if_revision,
    };
    written(&api, key, id, name, command).await
}

async fn remove(State(api): State<Api>, Path(service): Path<String>, key: Key) -> Answer<Written> {
    let (id, name) = named(&api.state(), &service)?;
    written(&api, key, id, name, Command::RemoveService { id }).await
}

/// `POST /v1/services/scale`. Here and not a route of its own, so that a service may be called `scale`.
async fn act(
    State(api): State<Api>,
    Path(action): Path<String>,
    key: Key,
    Body(scale): Body<ScaleServices>,
) -> Answer<Vec<Written>> {
    if action != "scale" {
        let cause = format!(
            "nothing is called `{action}` that could be done to services; there is `scale`"
        );
        return Err(ApiError::not_found(cause).into());
    }
    let (services, replicas) = scaled(&api.state(), scale)?;
    let request = key.0.unwrap_or_else(|| api.draw_request_id());
    let revision = api
        .submit(request, Command::ScaleServices { replicas })
        .await?;
    let written = (services.into_iter())
        .map(|(id, name)| Written {
            id: id.to_string(),
            name,
            revision,
        })
        .collect();
    Ok(Json(written))
}

type Scaled = (Vec<(ServiceId, String)>, BTreeMap<ServiceId, u32>);

fn scaled(state: &ClusterState, scale: ScaleServices) -> Result<Scaled, ApiError> {
    let (mut services, mut replicas) = (Vec::new(), BTreeMap::new());
    for (text, wanted) in scale.replicas {
        let (id, name) = named(state, &text)?;
        if let Some(service) = state.services.get(&id) {
            check_scale(service.spec(), wanted)?;
        }
        if replicas.insert(id, wanted).is_some() {
            return Err(ApiError::invalid(format!("service {name} is named twice")));
        }
        services.push((id, name));
    }
    if services.is_empty() {
        return Err(ApiError::invalid("no service is named"));
    }
    Ok((services, replicas))
}

fn check_scale(spec: &ServiceSpec, replicas: u32) -> Result<(), ApiError> {
    if spec.replicas().is_none() {
        let cause = format!(
            "service {} is global: it runs once on every node",
            spec.name
        );
        return Err(ApiError::invalid(cause).with_hint("only replicated services can be scaled"));
    }
    let mut wanted = spec.clone();
    wanted.mode = kawanan_api::spec::Mode::Replicated { replicas };
    ValidSpec::check(wanted).map(|_| ())
}

async fn written(
    api: &Api,
    key: Key,
    id: ServiceId,
    name: String,
    command: Command,
) -> Answer<Written> {
    let request: RequestId = key.0.unwrap_or_else(|| api.draw_request_id());
    let revision = api.submit(request, command).await?;
    Ok(Json(Written {
        id: id.to_string(),
        name,
        revision,
    }))
}

async fn show_progress(
    State(api): State<Api>,
    Path(service): Path<String>,
) -> Result<Response, Failure> {
    let (id, _) = named(&api.state(), &service)?;
    progress::stream(&api, move |view| view.progress(id))
}

async fn show_logs(
    State(api): State<Api>,
    Path(service): Path<String>,
    Query(request): Query<LogRequest>,
) -> Result<Response, Failure> {
    let (id, _) = named(&api.state(), &service)?;
    logs::stream(&api, Wanted::Service(id), request)
}

fn named(state: &ClusterState, text: &str) -> Result<(ServiceId, String), ApiError> {
    let id = resolve_service(state, text)?;
    let name =
        (state.services.get(&id)).map_or_else(|| id.short(), |service| service.spec().name.clone());
    Ok((id, name))
}
