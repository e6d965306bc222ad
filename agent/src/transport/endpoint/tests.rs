//! Tests of transport endpoint.

use super::*;
use crate::transport::fixture::{Loopback, NOW, clock_at};

fn credentials() -> Arc<Credentials> {
    Arc::new(Credentials::new(&Loopback::new().identity()).unwrap())
}

#[test]
fn no_session_is_ever_resumed_and_no_early_data_taken() {
    let server = server_tls(&credentials(), &clock_at(NOW)).unwrap();
    assert_eq!(server.send_tls13_tickets, 0);
    assert_eq!(server.max_early_data_size, 0);
    assert!(!server.ticketer.enabled());
    assert!(!server.session_storage.can_cache());
    assert!(!server.send_half_rtt_data);
    let client = client_tls(&credentials(), &clock_at(NOW)).unwrap();
    assert!(!client.enable_early_data);
    assert!(!client.enable_sni);
    // Nothing to resume from: the library offers no way to look, except printing.
    let resumption = format!("{:?}", client.resumption);
    assert!(
        resumption.contains("NoClientSessionStorage"),
        "{resumption}"
    );
}

#[test]
fn both_protocols_are_offered_and_members_dial_only_theirs() {
    let server = server_tls(&credentials(), &clock_at(NOW)).unwrap();
    assert_eq!(
        server.alpn_protocols,
        [b"kwn/1".to_vec(), b"kwn-join/1".to_vec()]
    );
    let client = client_tls(&credentials(), &clock_at(NOW)).unwrap();
    assert_eq!(client.alpn_protocols, [b"kwn/1".to_vec()]);
}

#[test]
fn strangers_may_open_one_stream_of_a_few_kilobytes() {
    let printed = format!("{:?}", stranger_transport());
    assert!(
        printed.contains("max_concurrent_bidi_streams: 1,"),
        "{printed}"
    );
    assert!(
        printed.contains("max_concurrent_uni_streams: 0,"),
        "{printed}"
    );
    assert!(printed.contains("receive_window: 32768,"), "{printed}");
    assert!(
        printed.contains("datagram_receive_buffer_size: None"),
        "{printed}"
    );
}

#[test]
fn log_streams_that_rest_leave_room_for_raft() {
    let logs = u64::from(limits::LOG_STREAMS_MAX) * u64::from(limits::STREAM_WINDOW);
    let left = u64::from(limits::CONNECTION_WINDOW) - logs;
    assert!(left >= 2 * u64::from(limits::STREAM_WINDOW), "{left}");
}

#[tokio::test]
async fn why_the_agent_cannot_listen_is_said_with_the_address() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let world = Loopback::new();
    let identity = world.identity();
    let credentials = Arc::new(Credentials::new(&identity).unwrap());
    let error = |listen| {
        open(listen, &identity, &credentials, &clock_at(NOW))
            .err()
            .unwrap()
    };
    let in_use = error(address);
    assert!(matches!(in_use, BindError::InUse(at) if at == address));
    assert!(
        in_use.to_string().contains(&address.port().to_string()),
        "{in_use}"
    );
    let elsewhere: SocketAddr = "192.0.2.1:7700".parse().unwrap();
    let no_address = error(elsewhere);
    assert!(matches!(no_address, BindError::NoSuchAddress(at) if at == elsewhere));
    assert!(no_address.to_string().contains("192.0.2.1"), "{no_address}");
}

#[test]
fn every_connection_id_is_a_new_one() {
    let ids: std::collections::BTreeSet<_> = (0..100)
        .map(|_| RandomConnectionIds.generate_cid().to_vec())
        .collect();
    assert_eq!(ids.len(), 100);
}
