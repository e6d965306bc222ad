//! Whole nodes in one thread and virtual time, over a network and disks that fail on demand.

mod bench;
mod bus;
mod cluster;
mod crashes;
mod membership;
mod replication;
mod toy;

use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};

use super::wire;

fn bytes_of(message: Message) -> Bytes {
    wire::encode(message).unwrap().remove(0).bytes
}

/// A heartbeat of `from`, which claims to lead in `term`.
fn wire_heartbeat(from: u64, to: u64, term: u64) -> Bytes {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgHeartbeat);
    (message.from, message.to, message.term) = (from, to, term);
    bytes_of(message)
}

/// Entries of `from` that replace what the log has after `index`.
fn wire_append(from: u64, to: u64, term: u64, index: u64) -> Bytes {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.from, message.to, message.term) = (from, to, term);
    message.index = index;
    message.log_term = 2;
    let mut entry = Entry::default();
    (entry.index, entry.term) = (index + 1, term);
    message.set_entries(vec![entry].into());
    bytes_of(message)
}
