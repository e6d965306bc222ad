//! From what a person typed to one object: a full id, a full name, or the beginning of one id.
//!
//! Looked up in that order, as Docker does. A name that fits several objects is an error that lists them.

use std::fmt::Display;

use kawanan_api::{ApiError, ErrorCode, NodeId, ServiceId, TaskId, TokenId};

use crate::state::{ClusterState, Task};

/// Candidates named in an error.
const CANDIDATES_SHOWN_MAX: usize = 5;
/// Longest text that is compared with names.
const TYPED_BYTES_MAX: usize = 128;
/// Edits between a name and what was typed for it to be suggested.
const TYPO_EDITS_MAX: usize = 2;

/// # Errors
/// `not_found`, with the closest name if one is close, or `ambiguous` with the candidates.
pub fn resolve_node(state: &ClusterState, text: &str) -> Result<NodeId, ApiError> {
    let nodes: Vec<_> = state
        .nodes
        .values()
        .map(|n| (n.id, n.name.as_str()))
        .collect();
    resolve("node", text, &nodes, "kawan node ls")
}

/// Services that are being removed are found by their id only.
///
/// # Errors
/// `not_found`, with the closest name if one is close, or `ambiguous` with the candidates.
pub fn resolve_service(state: &ClusterState, text: &str) -> Result<ServiceId, ApiError> {
    let services: Vec<_> = (state.services.values())
        .map(|service| {
            let name = if service.removed_at.is_none() {
                service.spec().name.as_str()
            } else {
                ""
            };
            (service.id, name)
        })
        .collect();
    resolve("service", text, &services, "kawan service ls")
}

/// # Errors
/// `not_found` or `ambiguous`.
pub fn resolve_token(state: &ClusterState, text: &str) -> Result<TokenId, ApiError> {
    let tokens: Vec<_> = state.tokens.keys().map(|id| (*id, "")).collect();
    resolve("token", text, &tokens, "kawan token ls")
}

/// A task by its id, or by its seat: `web.3` is the newest task in slot 3 of `web`, `web.n2` the one of a global
/// service on node n2. Docker's longer form `web.3.<task id>` is understood as well.
///
/// # Errors
/// `not_found` or `ambiguous`.
pub fn resolve_task(state: &ClusterState, text: &str) -> Result<TaskId, ApiError> {
    if let Some(task) = task_in_seat(state, text) {
        return Ok(task);
    }
    let id_part = match text.rsplit_once('.') {
        Some((seat, id)) if task_in_seat(state, seat).is_some() => id,
        _ => text,
    };
    let tasks: Vec<_> = state.tasks.keys().map(|id| (*id, "")).collect();
    resolve("task", id_part, &tasks, "kawan service ps SERVICE")
}

fn task_in_seat(state: &ClusterState, text: &str) -> Option<TaskId> {
    let (service, seat) = text.rsplit_once('.')?;
    let service = state.service_named(service)?;
    let sits_there = |task: &Task| match task.slot {
        Some(slot) => slot.to_string() == seat,
        None => (state.nodes.get(&task.node)).is_some_and(|node| node.name == seat),
    };
    state
        .tasks_of(service.id)
        .filter(|task| sits_there(task))
        .max_by_key(|task| (task.is_live(), task.created_at, task.id))
        .map(|task| task.id)
}

fn resolve<I: Copy + Display>(
    kind: &str,
    text: &str,
    objects: &[(I, &str)],
    list_with: &str,
) -> Result<I, ApiError> {
    if text.is_empty() {
        return Err(ApiError::invalid(format!(
            "the name of a {kind} is missing"
        )));
    }
    let by_id = |(id, _): &&(I, &str)| id.to_string() == text;
    if let Some((id, _)) = objects.iter().find(by_id) {
        return Ok(*id);
    }
    let named: Vec<_> = objects.iter().filter(|(_, name)| *name == text).collect();
    let fitting = if named.is_empty() {
        let begins = |(id, _): &&(I, &str)| id.to_string().starts_with(text);
        objects.iter().filter(begins).collect()
    } else {
        named
    };
    match fitting.as_slice() {
        [(id, _)] => Ok(*id),
        [] => Err(not_found(kind, text, objects, list_with)),
        several => Err(ambiguous(kind, text, several)),
    }
}

fn not_found<I>(kind: &str, text: &str, objects: &[(I, &str)], list_with: &str) -> ApiError {
    let error = ApiError::not_found(format!(
        "no {kind} is called `{text}`, and no id of one begins so"
    ));
    match did_you_mean(text, objects.iter().map(|(_, name)| *name)) {
        Some(name) => error.with_hint(format!("did you mean `{name}`?")),
        None => error.with_hint(format!("`{list_with}` shows what there is")),
    }
}

fn ambiguous<I: Display>(kind: &str, text: &str, several: &[&(I, &str)]) -> ApiError {
    let mut candidates: Vec<String> = several
        .iter()
        .take(CANDIDATES_SHOWN_MAX)
        .map(|(id, name)| match *name {
            "" => id.to_string(),
            name => format!("{id} ({name})"),
        })
        .collect();
    if several.len() > CANDIDATES_SHOWN_MAX {
        candidates.push(format!("{} more", several.len() - CANDIDATES_SHOWN_MAX));
    }
    let count = several.len();
    ApiError::new(
        ErrorCode::Ambiguous,
        format!("`{text}` fits {count} {kind}s"),
    )
    .with_hint(format!("give more of the id: {}", candidates.join(", ")))
}

/// The name that was probably meant: one that begins with what was typed, or is at most two edits away.
pub fn did_you_mean<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > TYPED_BYTES_MAX {
        return None;
    }
    let text = text.to_ascii_lowercase();
    names
        .filter(|name| !name.is_empty())
        .filter_map(|name| {
            let lower = name.to_ascii_lowercase();
            let edits = if lower == text {
                0
            } else if text.len() >= 2 && lower.starts_with(&text) {
                1
            } else {
                edit_distance(&text, &lower)
            };
            let allowed = TYPO_EDITS_MAX.min(text.chars().count() / 2);
            (edits <= allowed).then_some((edits, name))
        })
        .min()
        .map(|(_, name)| name)
}

/// Insertions, deletions, replacements and swaps of neighbors between two words.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in table.iter_mut().enumerate() {
        row[0] = i;
    }
    table[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut edits = replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                edits = edits.min(table[i - 2][j - 2] + 1);
            }
            table[i][j] = edits;
        }
    }
    table[a.len()][b.len()]
}
