//! Every limit of the transport, with its reason.

use std::time::Duration;

/// Silence after which a packet is sent to keep the path open. Firewalls forget UDP flows after 30 s at the earliest
/// (RFC 9308); four of these fit into the idle timeout.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Silence after which a connection counts as lost. Long enough for three lost keep-alives and the pause of a virtual
/// machine's migration, short enough that a vanished peer does not hold streams for long. Nobody decides by it who is
/// dead: gossip does, much faster.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// What a handshake may take, address validation included.
pub(super) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// What one attempt to reach a peer may take. An answer takes one round trip, three when packets are lost.
pub(super) const DIAL_DEADLINE: Duration = Duration::from_secs(3);
/// The first wait between attempts to reach a peer, doubled up to the longest, halved at random.
pub(super) const BACK_OFF_FIRST: Duration = Duration::from_millis(50);
pub(super) const BACK_OFF_LONGEST: Duration = Duration::from_secs(2);
/// A connection that ends sooner than this was no success: the back-off goes on.
pub(super) const CONNECTION_LIFE_MIN: Duration = Duration::from_secs(1);

/// Handshakes of unknown parties in progress at once; more are refused. Each costs about 30 KiB and a signature.
pub(super) const HANDSHAKES_MAX: usize = 64;
/// Handshakes in progress from which on strangers must first show that they receive at their address.
pub(super) const HANDSHAKES_BEFORE_RETRY: usize = 8;
/// First packets waiting for their turn, and the bytes that they may hold.
pub(super) const INCOMING_MAX: usize = 128;
pub(super) const INCOMING_BYTES: u64 = 16 << 10;
pub(super) const INCOMING_BYTES_TOTAL: u64 = 1 << 20;

/// Bytes that one stream may have on its way: 128 KiB carry 4 MB/s at 30 ms.
pub(super) const STREAM_WINDOW: u32 = 128 << 10;
/// The same for a whole connection. More than all log streams together may hold while their readers rest, so that
/// Raft always finds room.
pub(super) const CONNECTION_WINDOW: u32 = 8 << 20;
/// What a connection may send before it has shown a member's certificate: one join request.
pub(super) const STRANGER_WINDOW: u32 = 32 << 10;
/// Two-way streams that a member may have open: calls and logs.
pub(super) const CALLS_MAX: u32 = 64;
pub(super) const LOG_STREAMS_MAX: u32 = 48;
/// One-way streams that a member may have open: Raft's, a snapshot, gossip.
pub(super) const ONE_WAY_STREAMS_MAX: u32 = 32;
/// Bytes of unfinished messages that one peer may make this node hold, beyond the small ones.
pub(super) const ASSEMBLY_BYTES: usize = 16 << 20;
/// Messages up to this size are not counted above: the streams' number bounds them.
pub(super) const SMALL_MESSAGE_BYTES: usize = 64 << 10;

/// What a whole message may take from its first byte to its last.
pub(super) const MESSAGE_DEADLINE: Duration = Duration::from_secs(30);
/// The same for a snapshot.
pub(super) const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(300);
/// What this node may take to answer a call before it gives the stream up; callers have shorter deadlines.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// How long a call waits for room in the queue of calls.
pub(super) const QUEUE_DEADLINE: Duration = Duration::from_secs(1);

/// Messages waiting for one peer. Raft sends about 256 unacknowledged appends at most.
pub(super) const RAFT_QUEUE: usize = 512;
pub(super) const RAFT_QUEUE_BYTES: usize = 16 << 20;
pub(super) const GOSSIP_QUEUE: usize = 32;
pub(super) const GOSSIP_QUEUE_BYTES: usize = 1 << 20;
pub(super) const SNAPSHOT_QUEUE: usize = 2;
pub(super) const SNAPSHOT_QUEUE_BYTES: usize = 256 << 20;
/// A message that waited longer than this for a connection is thrown away: its sender has said something newer.
pub(super) const MESSAGE_AGE_MAX: Duration = Duration::from_secs(2);
/// The same for a snapshot, which is dear.
pub(super) const SNAPSHOT_AGE_MAX: Duration = Duration::from_secs(30);

/// What arrived and nobody has read yet.
pub(super) const INBOUND_RAFT: usize = 512;
pub(super) const INBOUND_GOSSIP: usize = 256;
pub(super) const INBOUND_CALLS: usize = 128;
pub(super) const INBOUND_STREAMS: usize = 64;
/// Frames of one log stream that nobody has read yet.
pub(super) const FRAMES: usize = 16;

/// Two nodes that dial each other at once keep one connection. A connection that arrives within this time after the
/// other one was made, plus the way there and back, was dialed at the same time.
pub(super) const SAME_TIME: Duration = Duration::from_secs(1);
/// A connection that was replaced is closed after this time: calls on it may end.
pub(super) const RETIRED_LIFE: Duration = Duration::from_secs(10);
/// How long the end of Raft's old stream may take before the new one starts.
pub(super) const RAFT_SWITCH_DEADLINE: Duration = Duration::from_millis(200);
/// How often the owner of a connection looks at it.
pub(super) const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// A connection on which nothing was said for this many looks, 5 minutes, is closed.
pub(super) const IDLE_LOOKS: u32 = 150;
/// A connection on which packets were sent, but none came back for this many looks, gets a rival: a peer that was
/// restarted cannot always tell that the old one is dead, and the idle timeout is long.
pub(super) const SILENT_LOOKS: u32 = 2;
/// Packets that may go out after the last one came in without asking for an answer: acknowledgements.
pub(super) const UNANSWERED_PACKETS: u64 = 2;

/// Joiners at once, what they may send, and how fast.
pub(super) const JOINS_MAX: usize = 8;
pub(super) const JOIN_REQUEST_BYTES: usize = 16 << 10;
pub(super) const JOIN_REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// What the answer may take: the cluster commits the admission first.
pub(super) const JOIN_ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// The answer carries certificates and the addresses of all members.
pub(super) const JOIN_ANSWER_BYTES: usize = 256 << 10;

/// What messages that are already enqueued may take to leave when the agent stops.
pub(super) const FLUSH_DEADLINE: Duration = Duration::from_millis(500);
/// What the goodbyes may take after that.
pub(super) const GOODBYE_DEADLINE: Duration = Duration::from_secs(1);
