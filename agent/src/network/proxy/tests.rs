use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

/// A server that says its name to everybody who connects.
async fn server(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                client.write_all(name.as_bytes()).await.unwrap();
                let mut rest = Vec::new();
                client.read_to_end(&mut rest).await.unwrap();
            });
        }
    });
    address
}

async fn ask(port: u16) -> String {
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    answer
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn proxy() -> (Proxy, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Proxy::new(ProxyFiles::new(dir.path())), dir)
}

fn tcp(port: u16) -> PortKey {
    PortKey {
        port,
        protocol: Protocol::Tcp,
    }
}

#[tokio::test]
async fn connections_take_turns_and_skip_a_container_that_refuses() {
    let (mut proxy, _dir) = proxy();
    let dead = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let port = free_port();
    let table: PortTable = [(tcp(port), vec![server("a").await, dead, server("b").await])].into();
    assert!(proxy.apply(&table).is_empty());
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(ask(port).await);
    }
    assert!(
        answers.iter().all(|answer| answer == "a" || answer == "b"),
        "{answers:?}"
    );
    assert!(answers.contains(&"a".to_owned()) && answers.contains(&"b".to_owned()));
}

#[tokio::test]
async fn a_container_taken_out_keeps_its_open_connection_and_gets_no_new_one() {
    let (mut proxy, _dir) = proxy();
    let (old, new, port) = (server("old").await, server("new").await, free_port());
    proxy.apply(&[(tcp(port), vec![old])].into());
    let mut open = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut greeting = [0; 3];
    open.read_exact(&mut greeting).await.unwrap();
    proxy.apply(&[(tcp(port), vec![new])].into());
    for _ in 0..4 {
        assert_eq!(ask(port).await, "new");
    }
    open.write_all(b"still here").await.unwrap();
    open.shutdown().await.unwrap();
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_port_of_another_program_is_reported_and_the_others_are_served() {
    let (mut proxy, _dir) = proxy();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    let free = free_port();
    let backend = server("x").await;
    let failed =
        proxy.apply(&[(tcp(taken_port), vec![backend]), (tcp(free), vec![backend])].into());
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].key, tcp(taken_port));
    assert_eq!(failed[0].cause, "another process listens on it");
    assert_eq!(ask(free).await, "x");
}

#[tokio::test]
async fn datagrams_find_their_way_there_and_back() {
    let (mut proxy, _dir) = proxy();
    let echo = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let backend = echo.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = [0; 100];
        while let Ok((size, from)) = echo.recv_from(&mut datagram).await {
            echo.send_to(&datagram[..size], from).await.unwrap();
        }
    });
    let port = free_port();
    assert!(
        proxy
            .apply(
                &[(
                    PortKey {
                        port,
                        protocol: Protocol::Udp
                    },
                    vec![backend]
                )]
                .into()
            )
            .is_empty()
    );
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(("127.0.0.1", port)).await.unwrap();
    client.send(b"hello").await.unwrap();
    let mut answer = [0; 100];
    let size = timeout(Duration::from_secs(5), client.recv(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer[..size], b"hello");
}

#[tokio::test]
async fn a_table_is_kept_for_the_next_start() {
    let (proxy, dir) = proxy();
    let table: PortTable = [(tcp(8080), vec!["172.17.0.2:80".parse().unwrap()])].into();
    proxy.keep_table(&Order::of(&table));
    assert_eq!(last_table(&ProxyFiles::new(dir.path())), table);
}
