//! What arrives: takes the streams of a connection apart and puts the messages into [`Inbound`]'s queues.
//!
//! Asks the [`Gate`] again at every stream, and at every message of Raft's long one. A peer that sends what it may not
//! loses the stream; one that is no member any more loses the connection.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use kawanan_api::NodeId;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::peer_link::PeerLink;
use super::stream_kind::{
    FrameError, StreamKind, assembly_budget, read_kind, read_message, write_message,
};
use super::{Call, Gate, Inbound, JoinCall, StreamCall, codes, limits};

/// The sending ends of [`Inbound`].
pub(super) struct Intake {
    gate: Arc<dyn Gate>,
    pub(super) raft: mpsc::Sender<(NodeId, Bytes)>,
    pub(super) gossip: mpsc::Sender<(NodeId, Bytes)>,
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) streams: mpsc::Sender<StreamCall>,
    pub(super) joins: mpsc::Sender<JoinCall>,
}

pub(super) fn intake(gate: Arc<dyn Gate>) -> (Arc<Intake>, Inbound) {
    let (raft, raft_receiver) = mpsc::channel(limits::INBOUND_RAFT);
    let (gossip, gossip_receiver) = mpsc::channel(limits::INBOUND_GOSSIP);
    let (calls, calls_receiver) = mpsc::channel(limits::INBOUND_CALLS);
    let (streams, streams_receiver) = mpsc::channel(limits::INBOUND_STREAMS);
    let (joins, joins_receiver) = mpsc::channel(limits::JOINS_MAX);
    let intake = Arc::new(Intake {
        gate,
        raft,
        gossip,
        calls,
        streams,
        joins,
    });
    let inbound = Inbound {
        raft: raft_receiver,
        gossip: gossip_receiver,
        calls: calls_receiver,
        streams: streams_receiver,
        joins: joins_receiver,
    };
    (intake, inbound)
}

/// One connection of a member.
struct Member {
    intake: Arc<Intake>,
    connection: Connection,
    link: Arc<PeerLink>,
    budget: Semaphore,
    /// One snapshot at a time: it may be large.
    snapshots: Semaphore,
}

/// Reads a member's streams until its connection ends.
pub(super) async fn member(intake: Arc<Intake>, connection: Connection, link: Arc<PeerLink>) {
    let member = Arc::new(Member {
        intake,
        connection: connection.clone(),
        link,
        budget: assembly_budget(),
        snapshots: Semaphore::new(1),
    });
    loop {
        // Ends when the connection does.
        tokio::select! {
            biased;
            stream = connection.accept_uni() => match stream {
                Ok(stream) => { tokio::spawn(Arc::clone(&member).one_way(stream)); }
                Err(_) => return,
            },
            stream = connection.accept_bi() => match stream {
                Ok((send, receive)) => { tokio::spawn(Arc::clone(&member).two_way(send, receive)); }
                Err(_) => return,
            },
        }
    }
}

impl Member {
    fn peer(&self) -> NodeId {
        self.link.peer()
    }

    /// Whether the peer may still talk to us; closes the connection if not.
    fn admitted(&self) -> bool {
        self.link.touch();
        let admitted = self.intake.gate.admits(self.peer());
        if !admitted {
            tracing::info!(peer = %self.peer(), "cut off a node that is no member any more");
            self.connection.close(codes::NOT_ADMITTED, b"not a member");
        }
        admitted
    }

    async fn one_way(self: Arc<Self>, mut stream: RecvStream) {
        let outcome = self.read_one_way(&mut stream).await;
        self.settle(&mut stream, outcome);
    }

    async fn read_one_way(&self, stream: &mut RecvStream) -> Result<(), FrameError> {
        if !self.admitted() {
            return Ok(());
        }
        let kind = in_time(limits::MESSAGE_DEADLINE, read_kind(stream)).await?;
        match kind {
            Some(StreamKind::Raft) => self.raft(stream).await,
            Some(StreamKind::Gossip) => {
                let message = self.only_message(stream, StreamKind::Gossip).await?;
                // Full: gossip may be lost, and newer gossip says more.
                if self.intake.gossip.try_send((self.peer(), message)).is_err() {
                    tracing::debug!(peer = %self.peer(), "gossip dropped: nobody reads it fast enough");
                }
                Ok(())
            }
            Some(StreamKind::Snapshot) => self.snapshot(stream).await,
            _ => self.stop(stream, codes::UNKNOWN_KIND),
        }
    }

    async fn raft(&self, stream: &mut RecvStream) -> Result<(), FrameError> {
        let (_turn, superseded) = self.link.raft_turn().await;
        tokio::select! {
            biased;
            outcome = self.raft_messages(stream) => outcome,
            () = superseded => Ok(()),
        }
    }

    async fn raft_messages(&self, stream: &mut RecvStream) -> Result<(), FrameError> {
        let limit = StreamKind::Raft.message_bytes_max();
        while let Some(message) = read_message(stream, limit, &self.budget).await? {
            if !self.admitted() || self.intake.raft.send((self.peer(), message)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn snapshot(&self, stream: &mut RecvStream) -> Result<(), FrameError> {
        let _alone = self
            .snapshots
            .acquire()
            .await
            .map_err(|_| FrameError::Closed)?;
        let limit = StreamKind::Snapshot.message_bytes_max();
        let reading = read_message(stream, limit, &self.budget);
        let message = in_time(limits::SNAPSHOT_DEADLINE, reading)
            .await?
            .ok_or(FrameError::CutOff)?;
        if self.intake.raft.send((self.peer(), message)).await.is_err() {
            tracing::debug!("a snapshot arrived while the agent stops");
        }
        Ok(())
    }

    async fn only_message(
        &self,
        stream: &mut RecvStream,
        kind: StreamKind,
    ) -> Result<Bytes, FrameError> {
        let reading = read_message(stream, kind.message_bytes_max(), &self.budget);
        in_time(limits::MESSAGE_DEADLINE, reading)
            .await?
            .ok_or(FrameError::CutOff)
    }

    async fn two_way(self: Arc<Self>, mut send: SendStream, mut receive: RecvStream) {
        let outcome = self.answer(&mut send, &mut receive).await;
        if let Err(code) = outcome
            && (send.reset(code).is_err() || receive.stop(code).is_err())
        {
            tracing::trace!("a stream was closed by the peer before its end");
        }
    }

    /// Carries one request in and its answer out. An error is the code to reset the stream with.
    async fn answer(&self, send: &mut SendStream, receive: &mut RecvStream) -> Result<(), VarInt> {
        if !self.admitted() {
            return Err(codes::REFUSED);
        }
        let broken = |err: FrameError| match err {
            FrameError::TooLarge { .. } => codes::TOO_LARGE,
            _ => codes::ABANDONED,
        };
        let kind = in_time(limits::MESSAGE_DEADLINE, read_kind(receive))
            .await
            .map_err(broken)?;
        let Some(kind @ (StreamKind::Call | StreamKind::Logs)) = kind else {
            return Err(codes::UNKNOWN_KIND);
        };
        send.set_priority(kind.priority())
            .map_err(|_| codes::ABANDONED)?;
        let request = self.only_message(receive, kind).await.map_err(broken)?;
        if kind == StreamKind::Call {
            self.answer_call(send, request).await
        } else {
            self.answer_with_frames(send, request).await
        }
    }

    async fn answer_call(&self, send: &mut SendStream, request: Bytes) -> Result<(), VarInt> {
        let (answer, answered) = oneshot::channel();
        let call = Call {
            from: self.peer(),
            request,
            answer,
        };
        self.intake
            .calls
            .send_timeout(call, limits::QUEUE_DEADLINE)
            .await
            .map_err(|_| codes::OVERLOADED)?;
        let answer = tokio::select! {
            biased;
            answer = timeout(limits::ANSWER_DEADLINE, answered) => match answer {
                Ok(Ok(answer)) => answer,
                _ => return Err(codes::UNANSWERED),
            },
            // The caller went away; whoever works on the answer may finish.
            _ = send.stopped() => return Ok(()),
        };
        if answer.len() > StreamKind::Call.message_bytes_max() {
            // Not "too large": the caller would take that for "not carried out".
            tracing::error!(size = answer.len(), "an answer is too large to be sent");
            return Err(codes::UNANSWERED);
        }
        write_last(send, &answer).await
    }

    async fn answer_with_frames(
        &self,
        send: &mut SendStream,
        request: Bytes,
    ) -> Result<(), VarInt> {
        let (frames, mut queue) = mpsc::channel(limits::FRAMES);
        let call = StreamCall {
            from: self.peer(),
            request,
            frames,
        };
        self.intake
            .streams
            .send_timeout(call, limits::QUEUE_DEADLINE)
            .await
            .map_err(|_| codes::OVERLOADED)?;
        // An empty message: the request was taken.
        let taken = write_message(send, &Bytes::new()).await;
        taken.map_err(|_| codes::ABANDONED)?;
        let gone = send.stopped();
        tokio::pin!(gone);
        loop {
            let frame: Option<Bytes> = tokio::select! {
                biased;
                _ = &mut gone => return Ok(()),
                frame = queue.recv() => frame,
            };
            let Some(frame) = frame else { break };
            if frame.len() > StreamKind::Logs.message_bytes_max() {
                return Err(codes::TOO_LARGE);
            }
            // A reader that rests holds this up; one that is gone ends it.
            if write_message(send, &frame).await.is_err() {
                return Ok(());
            }
            self.link.touch();
        }
        send.finish().map_err(|_| codes::ABANDONED)
    }

    fn stop(&self, stream: &mut RecvStream, code: VarInt) -> Result<(), FrameError> {
        tracing::debug!(peer = %self.peer(), %code, "ended a stream of a peer");
        stream.stop(code).map_err(|_| FrameError::Closed)
    }

    fn settle(&self, stream: &mut RecvStream, outcome: Result<(), FrameError>) {
        match outcome {
            Ok(()) | Err(FrameError::Gone(_) | FrameError::Reset(_) | FrameError::Closed) => {}
            Err(err) => {
                tracing::warn!(peer = %self.peer(), %err, "ended a stream of a peer");
                let code = match err {
                    FrameError::TooLarge { .. } => codes::TOO_LARGE,
                    _ => codes::ABANDONED,
                };
                if stream.stop(code).is_err() {
                    tracing::trace!("the stream was closed already");
                }
            }
        }
    }
}

/// Serves one joiner: one request, one answer, tight limits.
pub(super) async fn joiner(intake: Arc<Intake>, connection: Connection) {
    let outcome = answer_joiner(&intake, &connection).await;
    if let Err(code) = outcome {
        connection.close(code, b"");
        return;
    }
    // The joiner closes when it has read the answer.
    let gone = timeout(limits::JOIN_REQUEST_DEADLINE, connection.closed()).await;
    if gone.is_err() {
        connection.close(codes::JOIN_OVER, b"");
    }
}

async fn answer_joiner(intake: &Intake, connection: &Connection) -> Result<(), VarInt> {
    let reading = async {
        let (send, mut receive) = connection.accept_bi().await?;
        match read_kind(&mut receive).await? {
            Some(StreamKind::Join) => {}
            _ => return Err(FrameError::Closed),
        }
        let budget = Semaphore::new(0);
        let request = read_message(&mut receive, limits::JOIN_REQUEST_BYTES, &budget)
            .await?
            .ok_or(FrameError::CutOff)?;
        Ok((send, request))
    };
    let (mut send, request) = in_time(limits::JOIN_REQUEST_DEADLINE, reading)
        .await
        .map_err(|_| codes::JOIN_OVER)?;
    let (answer, answered) = oneshot::channel();
    let from: SocketAddr = connection.remote_address();
    let call = JoinCall {
        from,
        request,
        answer,
    };
    intake.joins.try_send(call).map_err(|_| codes::BUSY)?;
    // Not "busy": the joiner would take that for "not carried out".
    let answer = timeout(limits::JOIN_ANSWER_DEADLINE, answered)
        .await
        .map_err(|_| codes::UNANSWERED)?
        .map_err(|_| codes::UNANSWERED)?;
    write_last(&mut send, &answer).await
}

async fn write_last(send: &mut SendStream, message: &Bytes) -> Result<(), VarInt> {
    timeout(limits::MESSAGE_DEADLINE, write_message(send, message))
        .await
        .map_err(|_| codes::ABANDONED)?
        .map_err(|_| codes::ABANDONED)?;
    send.finish().map_err(|_| codes::ABANDONED)
}

/// A read that takes too long counts as cut off.
async fn in_time<T>(
    deadline: std::time::Duration,
    reading: impl Future<Output = Result<T, FrameError>>,
) -> Result<T, FrameError> {
    timeout(deadline, reading)
        .await
        .unwrap_or(Err(FrameError::CutOff))
}
