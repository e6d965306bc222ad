//! Tests of http nodes.

use kawanan_api::ErrorCode;
use kawanan_api::views::{Availability, NodePatch, NodeStatus};
use kawanan_logic::Command;
use kawanan_logic::state;

use super::*;

fn drain() -> NodePatch {
    NodePatch {
        availability: Some(Availability::Drain),
        ..NodePatch::default()
    }
}

#[tokio::test]
async fn nodes_show_who_they_are_and_what_they_carry() {
    let served = served(4).await;
    let mut web = spec("web", "nginx", 4);
    web.resources.reservations.memory.0 = 1 << 30;
    served.client.create_service(&web).await.unwrap();
    converged(&served, "web").await;
    served.fake.suspect(served.fake.node(2));
    let nodes = served.client.nodes().await.unwrap();
    let shown: Vec<_> = nodes
        .iter()
        .map(|node| {
            (
                node.name.as_str(),
                node.status,
                node.leader,
                node.voter,
                node.is_self,
                node.tasks,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("n1", NodeStatus::Ready, true, true, true, 1),
            ("n2", NodeStatus::Ready, false, true, false, 1),
            ("n3", NodeStatus::Suspect, false, true, false, 1),
            ("n4", NodeStatus::Ready, false, false, false, 1),
        ]
    );
    assert_eq!(nodes[0].reserved.memory, 1 << 30);
    assert_eq!(nodes[0].capacity.cpus, 2.0);
    let detail = served.client.node("self").await.unwrap();
    assert_eq!(detail.node.name, "n1");
    assert_eq!(detail.task_list.len(), 1);
}

#[tokio::test]
async fn labels_and_availability_change_and_bad_labels_do_not() {
    let served = served(1).await;
    let mut patch = NodePatch::default();
    patch.set_labels.insert("disk".to_owned(), "ssd".to_owned());
    served.client.patch_node("n1", &patch).await.unwrap();
    assert_eq!(
        served.client.node("n1").await.unwrap().node.labels["disk"],
        "ssd"
    );
    let mut bad = NodePatch::default();
    bad.set_labels.insert("a b".to_owned(), String::new());
    assert_eq!(
        api_error(served.client.patch_node("n1", &bad).await).code,
        ErrorCode::Invalid
    );
}

#[tokio::test]
async fn a_drain_tells_what_is_left_until_nothing_is() {
    let served = served(2).await;
    served
        .client
        .create_service(&spec("web", "nginx", 4))
        .await
        .unwrap();
    converged(&served, "web").await;
    served.client.patch_node("n2", &drain()).await.unwrap();
    let mut progress = served.client.node_progress("n2").await.unwrap();
    let emptied = async {
        loop {
            let event = progress.next().await.unwrap().unwrap();
            assert_eq!(event.node.availability, Availability::Drain);
            if event.remaining.is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, emptied)
        .await
        .expect("the node becomes free");
    assert_eq!(converged(&served, "web").await.running, 4);
}

#[tokio::test]
async fn a_drain_that_has_no_other_place_says_which_tasks_stay_and_why() {
    let served = served(2).await;
    let mut pinned = spec("pinned", "nginx", 1);
    pinned
        .placement
        .constraints
        .push("node.name==n2".parse().unwrap());
    served.client.create_service(&pinned).await.unwrap();
    converged(&served, "pinned").await;
    served.client.patch_node("n2", &drain()).await.unwrap();
    let mut progress = served.client.node_progress("n2").await.unwrap();
    let event = progress.next().await.unwrap().unwrap();
    assert_eq!(event.remaining.len(), 1);
    assert_eq!(event.waiting.len(), 1);
    assert!(
        event.waiting[0].starts_with("pinned.1: "),
        "{}",
        event.waiting[0]
    );
}

#[tokio::test]
async fn a_node_that_is_up_is_removed_only_by_force() {
    let served = served(2).await;
    let refused = api_error(served.client.remove_node("n2", false).await);
    assert_eq!(refused.code, ErrorCode::Refused);
    let id = served.fake.node(1);
    let status = state::NodeStatus::Down;
    served
        .fake
        .apply(Command::SetNodeStatus { id, status })
        .unwrap();
    served.client.remove_node("n2", false).await.unwrap();
    assert_eq!(served.client.nodes().await.unwrap().len(), 1);
    let only = api_error(served.client.remove_node("n1", true).await);
    assert_eq!(only.code, ErrorCode::Refused);
}
