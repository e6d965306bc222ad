//! Tests of http logs.

use kawanan_api::client::LineStream;
use kawanan_api::views::{LogEvent, LogRequest};
use kawanan_api::{TaskId, Timestamp};

use super::*;

async fn two_tasks(served: &Served) -> (TaskId, TaskId) {
    served
        .client
        .create_service(&spec("web", "nginx", 2))
        .await
        .unwrap();
    converged(served, "web").await;
    let tasks = served.client.service_tasks("web").await.unwrap();
    (tasks[0].id, tasks[1].id)
}

/// Lines as `task text`, warnings as they are; up to `count`, or to the end.
async fn read(stream: &mut LineStream<LogEvent>, count: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let reading = async {
        while lines.len() < count {
            match stream.next().await.unwrap() {
                Some(LogEvent::Line {
                    task_name, text, ..
                }) => lines.push(format!("{task_name} {text}")),
                Some(LogEvent::Warning { message }) => lines.push(message),
                Some(LogEvent::Idle) => {}
                None => break,
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading)
        .await
        .expect("the lines come");
    lines
}

const ALL: usize = usize::MAX;

#[tokio::test]
async fn lines_of_all_tasks_come_in_the_order_of_time() {
    let served = served(2).await;
    let (one, two) = two_tasks(&served).await;
    served
        .fake
        .set_logs(one, &[(10, "a"), (30, "c"), (50, "e")]);
    served.fake.set_logs(two, &[(20, "b"), (40, "d")]);
    let mut stream = served
        .client
        .service_logs("web", &LogRequest::default())
        .await
        .unwrap();
    assert_eq!(
        read(&mut stream, ALL).await,
        ["web.1 a", "web.2 b", "web.1 c", "web.2 d", "web.1 e"]
    );
    let tail = LogRequest {
        tail: Some(2),
        ..LogRequest::default()
    };
    let mut stream = served.client.service_logs("web", &tail).await.unwrap();
    assert_eq!(read(&mut stream, ALL).await, ["web.2 d", "web.1 e"]);
    let since = LogRequest {
        since: Some(Timestamp::from_millis(40)),
        ..LogRequest::default()
    };
    let mut stream = served.client.service_logs("web", &since).await.unwrap();
    assert_eq!(read(&mut stream, ALL).await, ["web.2 d", "web.1 e"]);
    let mut stream = served
        .client
        .task_logs("web.2", &LogRequest::default())
        .await
        .unwrap();
    assert_eq!(read(&mut stream, ALL).await, ["web.2 b", "web.2 d"]);
}

#[tokio::test]
async fn a_node_that_cannot_be_asked_is_a_warning() {
    let served = served(2).await;
    let (one, two) = two_tasks(&served).await;
    served.fake.set_logs(one, &[(10, "a")]);
    let node = served.fake.now().tasks[&two].node;
    served.fake.set_unreachable(node);
    let mut stream = served
        .client
        .service_logs("web", &LogRequest::default())
        .await
        .unwrap();
    let lines = read(&mut stream, ALL).await;
    assert_eq!(lines[0], "web.1 a");
    assert!(lines[1].starts_with("lines of web.2 on n"), "{}", lines[1]);
    assert!(
        lines[1].ends_with("the node cannot be reached"),
        "{}",
        lines[1]
    );
}

#[tokio::test]
async fn following_goes_on_after_what_was_there_and_repeats_nothing() {
    let served = served(2).await;
    let (one, two) = two_tasks(&served).await;
    served
        .fake
        .set_logs(one, &[(10, "a"), (30, "c"), (30, "d")]);
    served.fake.set_logs(two, &[(20, "b")]);
    let follow = LogRequest {
        follow: true,
        tail: Some(3),
        since: None,
    };
    let mut stream = served.client.service_logs("web", &follow).await.unwrap();
    assert_eq!(
        read(&mut stream, 3).await,
        ["web.2 b", "web.1 c", "web.1 d"]
    );
    eventually("both are followed", || {
        served.fake.is_followed(one) && served.fake.is_followed(two)
    })
    .await;
    // Written in the wrong order, within the window.
    assert!(served.fake.write_log(one, 70, "g").await);
    assert!(served.fake.write_log(two, 60, "f").await);
    assert_eq!(read(&mut stream, 2).await, ["web.2 f", "web.1 g"]);
}

#[tokio::test]
async fn a_follower_that_loses_its_connection_goes_on_where_it_was() {
    let served = served(1).await;
    let (one, two) = two_tasks(&served).await;
    served.fake.set_logs(two, &[]);
    served.fake.set_logs(one, &[(10, "a"), (10, "b")]);
    let follow = LogRequest {
        follow: true,
        ..LogRequest::default()
    };
    let mut stream = served.client.service_logs("web", &follow).await.unwrap();
    assert_eq!(read(&mut stream, 2).await, ["web.1 a", "web.1 b"]);
    eventually("it is followed", || served.fake.is_followed(one)).await;
    served
        .fake
        .set_logs(one, &[(10, "a"), (10, "b"), (10, "c"), (20, "d")]);
    served.fake.cut_logs(one);
    assert_eq!(read(&mut stream, 2).await, ["web.1 c", "web.1 d"]);
}

#[tokio::test]
async fn following_takes_up_new_tasks_and_ends_with_the_service() {
    let served = served(1).await;
    served
        .client
        .create_service(&spec("web", "nginx", 1))
        .await
        .unwrap();
    converged(&served, "web").await;
    let follow = LogRequest {
        follow: true,
        ..LogRequest::default()
    };
    let mut stream = served.client.service_logs("web", &follow).await.unwrap();
    let scale = kawanan_api::views::ScaleServices {
        replicas: [("web".to_owned(), 2)].into(),
    };
    served.client.scale(&scale).await.unwrap();
    converged(&served, "web").await;
    let new = served.client.service_tasks("web").await.unwrap()[1].id;
    eventually("the new task is followed", || served.fake.is_followed(new)).await;
    assert!(served.fake.write_log(new, 5, "hello").await);
    assert_eq!(read(&mut stream, 1).await, ["web.2 hello"]);
    served.client.remove_service("web").await.unwrap();
    eventually("the tasks are gone", || served.fake.now().tasks.is_empty()).await;
    served.fake.cut_all_logs();
    assert_eq!(read(&mut stream, ALL).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_tail_beyond_the_limit_is_refused() {
    let served = served(1).await;
    two_tasks(&served).await;
    let request = LogRequest {
        tail: Some(kawanan_api::views::TAIL_MAX + 1),
        ..LogRequest::default()
    };
    let error = served
        .client
        .service_logs("web", &request)
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("10000 lines"), "{error}");
}
