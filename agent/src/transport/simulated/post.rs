//! The postman: hands over what is due, in the order in which it is due.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kawanan_api::NodeId;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::super::{Call, Channel, JoinCall, StreamCall, limits};
use super::Shared;
use super::world::{Parcel, Reply, World};

/// How often a frame that does not get through is tried again.
const FRAME_RETRY: Duration = Duration::from_millis(100);

/// Delivers until the runtime ends.
pub(super) async fn deliver(shared: Arc<Shared>) {
    loop {
        let due = shared.world().next_due();
        tokio::select! {
            biased;
            () = shared.posted.notified() => {}
            () = at(due) => {}
        }
        loop {
            let parcel = shared.world().take_due();
            let Some(parcel) = parcel else { break };
            hand_over(&shared, parcel);
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn hand_over(shared: &Arc<Shared>, parcel: Parcel) {
    match parcel {
        Parcel::Message {
            from,
            to,
            channel,
            message,
        } => hand_over_message(&mut shared.world(), from, to, channel, message),
        Parcel::Call {
            from,
            to,
            request,
            reply,
        } => hand_over_call(shared, (from, to), request, reply),
        Parcel::Open {
            from,
            to,
            request,
            reply,
        } => hand_over_opening(shared, (from, to), request, reply),
        Parcel::Join { to, request, reply } => hand_over_join(shared, to, request, reply),
        Parcel::Answer {
            from,
            to,
            answer,
            reply,
        } => hand_over_reply(&mut shared.world(), (from, to), answer, reply),
        Parcel::Opened {
            from,
            to,
            answer,
            reply,
        } => hand_over_reply(&mut shared.world(), (from, to), answer, reply),
    }
}

fn hand_over_message(
    world: &mut World,
    from: NodeId,
    to: NodeId,
    channel: Channel,
    message: Bytes,
) {
    world.arrived(from, to);
    let delivered = match world.port(to) {
        Some(port) if world.passes(from, to) && port.gate.admits(from) => {
            let queue = match channel {
                Channel::Raft | Channel::Snapshot => &port.intake.raft,
                Channel::Gossip => &port.intake.gossip,
            };
            Some(queue.try_send((from, message)).is_ok())
        }
        _ => None,
    };
    match delivered {
        Some(true) => world.traffic.delivered += 1,
        Some(false) => world.traffic.overrun += 1,
        None => world.traffic.lost += 1,
    }
}

/// Where a request ends up.
enum Door<T> {
    Handed,
    /// Nobody there, or nothing comes through: the caller hears nothing.
    Silent,
    Answered(Reply<T>),
}

fn knock<M, T>(
    world: &mut World,
    (from, to): (NodeId, NodeId),
    hand: impl FnOnce(&super::world::Port) -> Result<(), TrySendError<M>>,
) -> Door<T> {
    let door = match world.port(to) {
        Some(port) if world.passes(from, to) => {
            if !port.gate.admits(from) {
                Door::Answered(Reply::Refused)
            } else {
                match hand(port) {
                    Ok(()) => Door::Handed,
                    Err(_) => Door::Answered(Reply::Overloaded),
                }
            }
        }
        _ => Door::Silent,
    };
    match door {
        Door::Handed => world.traffic.delivered += 1,
        Door::Answered(_) => world.traffic.overrun += 1,
        Door::Silent => world.traffic.lost += 1,
    }
    door
}

fn hand_over_call(
    shared: &Arc<Shared>,
    (from, to): (NodeId, NodeId),
    request: Bytes,
    reply: oneshot::Sender<Reply<Bytes>>,
) {
    let (answer, answered) = oneshot::channel();
    let call = Call {
        from,
        request,
        answer,
    };
    let door = knock(&mut shared.world(), (from, to), |port| {
        port.intake.calls.try_send(call)
    });
    go_back(shared, (from, to), door, answered, reply);
}

fn hand_over_join(
    shared: &Arc<Shared>,
    to: NodeId,
    request: Bytes,
    reply: oneshot::Sender<Reply<Bytes>>,
) {
    let (answer, answered) = oneshot::channel();
    let call = JoinCall {
        from: ([127, 0, 0, 1], 9).into(),
        request,
        answer,
    };
    // From outside: only the member itself must be reachable.
    let door = knock(&mut shared.world(), (to, to), |port| {
        port.intake.joins.try_send(call)
    });
    go_back(shared, (to, to), door, answered, reply);
}

/// Takes the answer of `to` back to `from`, as soon as there is one.
fn go_back(
    shared: &Arc<Shared>,
    (from, to): (NodeId, NodeId),
    door: Door<Bytes>,
    answered: oneshot::Receiver<Bytes>,
    reply: oneshot::Sender<Reply<Bytes>>,
) {
    let life = shared.world().port(to).map(|port| port.life);
    let shared = Arc::clone(shared);
    let send_back = move |shared: &Arc<Shared>, answer: Reply<Bytes>| {
        let mut world = shared.world();
        // Only a peer that still lives says that it will not answer.
        if world.port(to).map(|port| port.life) != life {
            return;
        }
        world.traffic.sent += 1;
        if world.is_lost_by_chance() {
            world.traffic.lost += 1;
            return;
        }
        let due = world.due();
        drop(world);
        shared.post(
            Parcel::Answer {
                from: to,
                to: from,
                answer,
                reply,
            },
            due,
        );
    };
    match door {
        Door::Silent => {}
        Door::Answered(answer) => send_back(&shared, answer),
        Door::Handed => {
            tokio::spawn(async move {
                let answer = match answered.await {
                    Ok(answer) => Reply::Answer(answer),
                    Err(_) => Reply::Dropped,
                };
                send_back(&shared, answer);
            });
        }
    }
}

fn hand_over_reply<T>(
    world: &mut World,
    (from, to): (NodeId, NodeId),
    answer: Reply<T>,
    reply: oneshot::Sender<Reply<T>>,
) {
    // A caller that has given up in the meantime hears nothing, as it would not in reality.
    if world.passes(from, to) && reply.send(answer).is_ok() {
        world.traffic.delivered += 1;
    } else {
        world.traffic.lost += 1;
    }
}

fn hand_over_opening(
    shared: &Arc<Shared>,
    (from, to): (NodeId, NodeId),
    request: Bytes,
    reply: oneshot::Sender<Reply<mpsc::Receiver<Bytes>>>,
) {
    let (frames, queue) = mpsc::channel(limits::FRAMES);
    let call = StreamCall {
        from,
        request,
        frames,
    };
    let mut world = shared.world();
    let door = knock(&mut world, (from, to), |port| {
        port.intake.streams.try_send(call)
    });
    let answer = match door {
        Door::Silent => return,
        Door::Answered(answer) => answer,
        Door::Handed => {
            let (out, receiver) = mpsc::channel(limits::FRAMES);
            tokio::spawn(carry_frames(Arc::clone(shared), (to, from), queue, out));
            Reply::Answer(receiver)
        }
    };
    let due = world.due();
    drop(world);
    shared.post(
        Parcel::Opened {
            from: to,
            to: from,
            answer,
            reply,
        },
        due,
    );
}

/// Carries the frames of one stream until either end lets go, or nothing has come through for the idle timeout.
async fn carry_frames(
    shared: Arc<Shared>,
    (from, to): (NodeId, NodeId),
    mut queue: mpsc::Receiver<Bytes>,
    out: mpsc::Sender<Bytes>,
) {
    loop {
        let frame = tokio::select! {
            biased;
            () = out.closed() => return,
            frame = queue.recv() => frame,
        };
        let due = shared.world().due();
        sleep_until(due).await;
        if !wait_for_passage(&shared, from, to).await {
            return;
        }
        let Some(frame) = frame else { return };
        let mut next = Some(frame);
        while let Some(frame) = next {
            if out.send(frame).await.is_err() {
                return;
            }
            // What was said in the meantime is close behind.
            next = queue.try_recv().ok();
        }
    }
}

async fn wait_for_passage(shared: &Shared, from: NodeId, to: NodeId) -> bool {
    let give_up = Instant::now() + limits::IDLE_TIMEOUT;
    while !shared.world().passes(from, to) {
        if Instant::now() >= give_up {
            return false;
        }
        sleep(FRAME_RETRY).await;
    }
    true
}
