//! Requests that the client would not make.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

/// Status and body of the answer to a request as text.
async fn ask(served: &Served, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
    let mut stream = UnixStream::connect(&served.path).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        serde_json::from_str(body).unwrap_or(serde_json::Value::Null),
    )
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_named() {
    let served = served(1).await;
    for (method, path, body, status, named) in [
        ("GET", "/v1/nothing", "", 404, "/v1/nothing"),
        ("POST", "/v1/nodes", "", 400, "POST"),
        ("POST", "/v1/services", "{", 400, "EOF"),
        (
            "POST",
            "/v1/services",
            r#"{"name":"web","container":{"image":"x"},"replica":3}"#,
            400,
            "`replica`",
        ),
        (
            "POST",
            "/v1/services",
            r#"{"name":"web"}"#,
            400,
            "`container`",
        ),
        (
            "POST",
            "/v1/services",
            r#"{"name":"we b","container":{"image":"x"}}"#,
            400,
            "`we b`",
        ),
        (
            "POST",
            "/v1/services/restart",
            r#"{"replicas":{}}"#,
            404,
            "`restart`",
        ),
        (
            "POST",
            "/v1/services/scale",
            r#"{"replicas":{"web":1}}"#,
            404,
            "`web`",
        ),
        ("GET", "/v1/services?consistant=true", "", 400, "consistant"),
        ("GET", "/v1/services/web", "", 404, "`web`"),
        ("GET", "/v1/services/web/logs?tail=x", "", 400, "tail"),
        (
            "PATCH",
            "/v1/nodes/n1",
            r#"{"availability":"off"}"#,
            400,
            "`off`",
        ),
        ("DELETE", "/v1/nodes/n1", "", 409, "only one"),
    ] {
        let (got, error) = ask(&served, method, path, body).await;
        assert_eq!(got, status, "{method} {path}: {error}");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(named), "{method} {path}: {message}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let served = served(1).await;
    let body = format!("\"{}\"", "x".repeat(super::super::BODY_BYTES_MAX));
    let (status, error) = ask(&served, "POST", "/v1/services", &body).await;
    assert_eq!(status, 400);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("larger than 1 MiB"),
        "{error}"
    );
}

#[tokio::test]
async fn a_key_is_an_id_or_refused() {
    let served = served(1).await;
    let mut stream = UnixStream::connect(&served.path).await.unwrap();
    let request = "DELETE /v1/nodes/n1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\nidempotency-key: 1\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("Idempotency-Key"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_is_closed() {
    let served = served(1).await;
    served.life.abort();
    let mut stream = UnixStream::connect(&served.path).await.unwrap();
    stream
        .write_all(b"GET /v1/version HTTP/1.1\r\n")
        .await
        .unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest));
    assert!(
        closed.await.is_ok(),
        "half a request does not hold a connection"
    );
}
